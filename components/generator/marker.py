"""Marks: a keyed carrier, shaped to each image by the U-Net, confined by saliency, smooth by construction.

``delta = epsilon * gate(S) * (0.65 * carrier + freedom * tanh(U(x, S, carrier, role)))`` on a coarse grid, up-sampled. The carrier is a
plane wave whose direction and frequency are the key, with a phase of its own in each image. Why a carrier (measured on 966 chest x-rays, 128 px;
benchmarks/results/frontier_kermany.json): a classifier trained from scratch picks up an oriented texture from a hundred
images; it survives halving the image, because nothing in it is finer than the grid; and models that never saw it do not
react, because it was not made from their gradients.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import reason_of
from medmark.components.dataset.arrays import display_tensor, resize
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.display import stored_delta
from medmark.components.dataset.release import Record, with_pixels
from medmark.components.generator.hiding import cosine_interpolation, enlarge, hide
from medmark.components.generator.key import Key, draw_decoy_key, in_image
from medmark.components.generator.network import ConditionalUNet
from medmark.components.saliency.extract import stack_saliency
from medmark.components.surrogate.networks import read_metadata, read_tensors
from safetensors.torch import save_file
from torch.nn import functional as F

SELECTION = "selection.json"
QUERIED = 1.5  # how much stronger queries are marked than training images; ours: nobody looks at them for beauty
AMPLITUDE = 0.65  # of a carrier of standard deviation 1: its peaks are 0.92. A bounded wave, as by tanh, has overtones


@dataclass(frozen=True)
class Shape:
    """How marks are made.

    Attributes:
        size: side at which the generator sees images, pixels; a multiple of 8.
        epsilon: largest change by a wave of 6.7 cycles, as a share of the display's range; coarser ones are stronger and finer ones
            fainter, see :attr:`medmark.components.generator.key.Key.strength`.
        floor: gate at saliency 0; 1 ignores saliency.
        grid: side of the grid on which the perturbation is made, at most ``size``.
        freedom: largest correction by the U-Net, as a share of the carrier's amplitude. Below 1 it cannot cancel the
            carrier; left free it did (measured: success rate 7 % instead of 99 %, benchmarks/results/learned.json).
    """

    size: int = 128
    epsilon: float = 0.06
    floor: float = 0.3
    grid: int = 32
    freedom: float = 0.5


def carrier(key: Key, side: int) -> torch.Tensor:
    """The wave with standard deviation 1, (1, 1, side, side), sampled at pixel centres."""
    return carriers([key], side)


def carriers(keys: Sequence[Key], side: int) -> torch.Tensor:
    """The waves of several keys, (N, 1, side, side); see :func:`carrier`."""
    axis = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    angle = torch.tensor([math.radians(key.degrees) for key in keys])[:, None, None]
    cycles, phase = (
        torch.tensor(values)[:, None, None] for values in zip(*((k.cycles, k.phase) for k in keys), strict=True)
    )
    along = axis[None, None, :] * angle.cos() + axis[None, :, None] * angle.sin()
    return (math.sqrt(2) * torch.sin(2 * math.pi * cycles * along + phase))[:, None]


class Marker:
    """A generator ready for use.

    Args:
        network: the U-Net.
        key: of the carrier.
        shape: see :class:`Shape`.
        target: index of the target class.
        roles: ``mark`` or ``decoy`` by id of the training images to change.
        release_digest: of the clean release it was trained for.
        seed: of its keys; decoys draw theirs from it, and every image its phase.
        one_phase: whether all images have the key's phase and full direction, as before medmark drew keys from a table; such marks
            have the strength ``epsilon`` whatever their frequency.
    """

    def __init__(
        self,
        network: ConditionalUNet,
        key: Key,
        shape: Shape,
        *,
        target: int,
        roles: dict[str, str],
        release_digest: str,
        seed: int,
        one_phase: bool = False,
    ):
        self.one_phase = one_phase
        self.network, self.key, self.shape = network, key, shape
        self.target, self.roles, self.release_digest, self.seed = target, roles, release_digest, seed

    def coarse(self, images: torch.Tensor, saliency: torch.Tensor, role: str, key: Key | None = None) -> torch.Tensor:
        """The perturbation on the grid.

        Args:
            images: (B, 1, S, S) float32 in [0, 1].
            saliency: (B, 1, 32, 32) in [0, 1].
            role: ``mark`` for training images, ``query`` for test images, ``decoy`` for the bare carrier.
            key: another key than the marker's own.

        Returns:
            (B, 1, grid, grid), at most ``(1 + freedom) * epsilon`` times the key's strength; half as much again for queries.
        """
        shape, grid, key = self.shape, self.shape.grid, key or self.key
        wave = carrier(key, grid).to(images.device)
        if role == "decoy":
            correction: torch.Tensor | float = 0.0
        else:
            half = shape.size // 2
            seen = resize(images, half)
            given = torch.cat(
                [
                    (seen - 0.5) / 0.25,
                    F.interpolate(saliency, size=(half, half), mode="bilinear", align_corners=False) * 2 - 1,
                    carrier(key, half).to(images.device).expand_as(seen),
                    torch.full_like(seen, 1.0 if role == "mark" else -1.0),
                ],
                dim=1,
            )
            correction = resize(torch.tanh(self.network(given)), grid)  # (B, 1, grid, grid)
        gate = shape.floor + (1 - shape.floor) * F.interpolate(
            saliency, size=(grid, grid), mode="bilinear", align_corners=False
        )
        strength = shape.epsilon
        if not self.one_phase:
            strength *= key.strength * (QUERIED if role == "query" else 1.0)
        return strength * gate * (AMPLITUDE * wave + shape.freedom * correction)

    def delta(self, images: torch.Tensor, saliency: torch.Tensor, role: str, key: Key | None = None) -> torch.Tensor:
        """The perturbation at the images' size, (B, 1, S, S); arguments as of :meth:`coarse`.

        Bounded as there, up to the overshoot of up-sampling.
        """
        coarse = self.coarse(images, saliency, role, key)
        rows, columns = (
            torch.from_numpy(cosine_interpolation(side, self.shape.grid)).to(coarse) for side in images.shape[-2:]
        )
        return rows @ coarse @ columns.T

    def apply(self, images: torch.Tensor, saliency: torch.Tensor, role: str) -> torch.Tensor:
        """Marked images, (B, 1, S, S) in [0, 1]."""
        return (images + self.delta(images, saliency, role)).clamp(0, 1)

    def wave(self, image_id: str, role: str, *, variant: int = 0) -> Key:
        """The wave of one image.

        Args:
            image_id: of the image.
            role: see :meth:`coarse`.
            variant: 0 for the wave that is published; each other number gives another one, drawn in the same way.
        """
        name = f"{image_id}:{variant}" if variant else image_id  # no id has a colon
        key = draw_decoy_key(self.seed, name) if role == "decoy" else self.key
        return key if self.one_phase else in_image(key, self.seed, name)

    @torch.no_grad()
    def mark(self, record: Record, saliency: dict[str, torch.Tensor], role: str) -> Record | None:
        """One record with the mark at its own resolution and depth; None if it cannot be hidden in this image.

        The perturbation is made at the generator's size and up-sampled; see :mod:`medmark.components.generator.hiding` for what
        of it must not show.
        """
        pixels = decode_png(record.image)
        small = resize(display_tensor(record), self.shape.size)
        key = self.wave(record.image_id, role)
        coarse = self.coarse(small, stack_saliency(saliency, [record.image_id]), role, key)[0, 0].double().numpy()
        change = stored_delta(enlarge(coarse, pixels.shape), pixels, record.bits, record.display)
        marked = hide(pixels, change)
        return None if marked is None else with_pixels(record, marked)

    def save(self, directory: str | Path) -> None:
        """Writes ``generator.safetensors``, ``generator.json`` and ``selection.json``."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        header = {
            "key": asdict(self.key),
            "shape": asdict(self.shape),
            "target": self.target,
            "release_digest": self.release_digest,
            "seed": self.seed,
            "one_phase": self.one_phase,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        save_file(
            tensors, str(directory / "generator.safetensors"), metadata={"medmark": json.dumps(header, sort_keys=True)}
        )
        (directory / "generator.json").write_bytes(canonical_json(header))
        write_roles(directory, self.roles)

    @classmethod
    def load(cls, directory: str | Path) -> Marker:
        """Reads a generator.

        Raises:
            MedmarkError: missing or damaged.
        """
        directory = Path(directory)
        path = directory / "generator.safetensors"
        header = read_metadata(path)
        try:
            network = ConditionalUNet()
            network.load_state_dict(read_tensors(path))
            roles = json.loads((directory / SELECTION).read_bytes())
            if not set(roles.values()) <= {"mark", "decoy"}:
                raise ValueError("unknown role")
            return cls(
                network.eval().requires_grad_(False),
                Key(**header["key"]),
                Shape(**header["shape"]),
                target=int(header["target"]),
                roles=roles,
                release_digest=str(header["release_digest"]),
                seed=int(header["seed"]),
                one_phase=bool(header.get("one_phase", True)),
            )
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = reason_of(error)
            raise MedmarkError(f"damaged generator: {directory} ({reason}); restore it or train it again") from error


def write_roles(directory: Path, roles: dict[str, str]) -> None:
    """Writes ``selection.json`` beside a generator: ``mark`` or ``decoy`` by id of the training images that are changed."""
    (directory / SELECTION).write_bytes(canonical_json(roles))
