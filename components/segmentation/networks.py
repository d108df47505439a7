"""Segmenters: images in [0, 1] to one logit of the foreground a pixel.

All but ``vit_mask`` are MONAI's networks, ``unet`` without the normalisation of its last upscaling. Weights are random, or the user's own;
medmark brings none along. An installed package adds a network of its own by an entry point of the group ``medmark.segmenters``: a function
that takes channels and side and gives a module, (B, C, S, S) -> logits (B, 1, S, S).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.base.text import reason_of
from medmark.components.surrogate.networks import MAX_SIZE, read_metadata, read_tensors
from safetensors.torch import save_file
from torch import nn

Make = Callable[[int, int], nn.Module]  # channels and side to a network
WIDTHS = (16, 32, 64, 128)  # of the U-Nets' levels; ours, for the CPU
ENTRY_POINTS = "medmark.segmenters"
LAST = "model.2.0"  # the U-Net's upscaling to one channel
PATCH = 8  # pixels a side of what vit_mask takes as one token


class Segmenter(nn.Module):
    """A network with its normalisation: [0, 1] is mapped to [-2, 2].

    (B, C, S, S) float32 -> logits (B, 1, S, S).

    Attributes:
        network: the network proper.
        architecture: name in :data:`ARCHITECTURES`.
        channels: C, 1 or 3.
        size: S, side of the images that it was built for.
    """

    def __init__(self, network: nn.Module, architecture: str, channels: int, size: int):
        super().__init__()
        self.network, self.architecture, self.channels, self.size = network, architecture, channels, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network((x - 0.5) / 0.25)


class Probabilities(nn.Module):
    """A segmenter that answers with probabilities, as it is handed out: (B, C, S, S) -> (B, 1, S, S) in [0, 1]."""

    def __init__(self, segmenter: Segmenter):
        super().__init__()
        self.segmenter = segmenter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.segmenter(x))


class ViTMask(nn.Module):
    """A vision transformer's encoder with the neck and the transposed convolutions of SAM's mask decoder (Kirillov et al., ICCV 2023),
    without prompts; ours in size.

    (B, C, S, S) -> (B, 1, S, S).
    """

    def __init__(self, channels: int, size: int, width: int = 128):
        super().__init__()
        from monai.networks.nets.vit import ViT

        self.encoder = ViT(in_channels=channels, img_size=(size, size), patch_size=(PATCH, PATCH), hidden_size=width,
                           mlp_dim=2 * width, num_layers=4, num_heads=4, spatial_dims=2)  # fmt: skip
        self.neck = nn.Sequential(
            nn.Conv2d(width, width, 1), nn.GroupNorm(1, width), nn.Conv2d(width, width, 3, padding=1), nn.GELU()
        )
        self.up = nn.Sequential(
            *(nn.ConvTranspose2d(width, width // 2, 2, 2), nn.GroupNorm(1, width // 2), nn.GELU()),
            *(nn.ConvTranspose2d(width // 2, width // 4, 2, 2), nn.GELU()),
            *(nn.ConvTranspose2d(width // 4, width // 8, 2, 2), nn.GELU(), nn.Conv2d(width // 8, 1, 3, padding=1)),
        )
        self.side = size // PATCH

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.encoder(x)[0]
        return self.up(self.neck(tokens.transpose(1, 2).unflatten(2, (self.side, self.side))))


def _unet(channels: int, size: int) -> nn.Module:
    """MONAI's U-Net without the normalisation and activation of its last upscaling, which has one channel: with them the mark is learnt
    late or not at all where little of an image is foreground. Seen in short trainings; no benchmark.
    """
    network = _normalised_unet(channels, size)
    network.get_submodule(LAST).adn = nn.Identity()
    return network


def _normalised_unet(channels: int, size: int) -> nn.Module:
    """MONAI's U-Net as it is, for weights that have all of its tensors; medmark, too, wrote such ones."""
    from monai.networks.nets.unet import UNet

    return UNet(2, channels, 1, WIDTHS, (2, 2, 2), num_res_units=2, norm="batch")


def _attention_unet(channels: int, size: int) -> nn.Module:
    from monai.networks.nets.attentionunet import AttentionUnet

    return AttentionUnet(2, channels, 1, WIDTHS, (2, 2, 2))


def _segresnet(channels: int, size: int) -> nn.Module:
    from monai.networks.nets.segresnet import SegResNet

    return SegResNet(spatial_dims=2, init_filters=8, in_channels=channels, out_channels=1)


def _unetr(channels: int, size: int) -> nn.Module:
    from monai.networks.nets.unetr import UNETR

    return UNETR(channels, 1, (size, size), feature_size=16, hidden_size=192, mlp_dim=384, num_heads=4, spatial_dims=2)


def _swin_unetr(channels: int, size: int) -> nn.Module:
    from monai.networks.nets.swin_unetr import SwinUNETR

    return SwinUNETR(channels, 1, feature_size=12, spatial_dims=2, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))


ARCHITECTURES: dict[str, Make] = {
    "unet": _unet,
    "attention_unet": _attention_unet,
    "segresnet": _segresnet,
    "unetr": _unetr,
    "swin_unetr": _swin_unetr,
    "vit_mask": ViTMask,
}


def architecture_names() -> list[str]:
    """Names of the architectures that there are: medmark's, and those that installed packages bring along."""
    return sorted({*ARCHITECTURES, *(entry.name for entry in entry_points(group=ENTRY_POINTS))})


def _make(architecture: str) -> Make:
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture]
    # only what was installed on purpose: the name may come from a file
    for entry in entry_points(group=ENTRY_POINTS, name=architecture):
        return entry.load()
    raise MedmarkError(f"unknown architecture: {architecture!r}; use one of {', '.join(architecture_names())}")


def build_segmenter(
    architecture: str, *, channels: int, size: int, seed: int, weights: str | Path | None = None
) -> Segmenter:
    """Makes a segmenter with random weights, or with weights that the user supplies.

    Args:
        architecture: one of :func:`architecture_names`.
        channels: of the images, 1 or 3.
        size: side of the square input, pixels; a multiple of 32.
        seed: of the random weights.
        weights: safetensors file with all tensors of ``Segmenter.network``, or what :func:`save_segmenter` wrote.

    Raises:
        MedmarkError: unknown architecture, a size that it cannot take, or weights of another network.
    """
    make = _make(architecture)
    if channels not in (1, 3) or not 32 <= size <= MAX_SIZE or size % 32:
        raise MedmarkError(
            f"{channels} channels of {size} px do not fit a segmenter; use 1 or 3, and a multiple of 32 up to {MAX_SIZE}"
        )
    tensors = None if weights is None else read_tensors(weights)
    if make is _unet and tensors is not None and f"{LAST}.adn.N.weight" in tensors:
        make = _normalised_unet
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make(channels, size)
    if tensors is not None:
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise MedmarkError(
                f"weights do not fit {architecture} for {channels} channels of {size} px: {weights} ({reason_of(error)}); name"
                " the architecture, channels and size that they were trained with"
            ) from error
    return Segmenter(network, architecture, channels, size)


def save_segmenter(model: Segmenter, path: str | Path) -> None:
    """Writes weights and what is needed to build the network again, as safetensors."""
    header = {"segmenter": model.architecture, "channels": model.channels, "size": model.size}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.network.state_dict().items()}
    save_file(tensors, str(path), metadata={"medmark": json.dumps(header, sort_keys=True)})


def load_segmenter(path: str | Path) -> Segmenter:
    """Reads a segmenter, ready for evaluation, without gradients.

    Raises:
        MedmarkError: the file is not a segmenter's.
    """
    header = read_metadata(path)
    try:
        architecture, channels, size = str(header["segmenter"]), int(header["channels"]), int(header["size"])
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise MedmarkError(f"no segmenter: {path} ({error!r}); get the file again") from error
    model = build_segmenter(architecture, channels=channels, size=size, seed=0, weights=path)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def predict_maps(model: nn.Module, images: torch.Tensor, batch_size: int = 32) -> torch.Tensor:
    """Asks a segmenter about images.

    Args:
        model: logits out.
        images: (N, C, S, S) float32 in [0, 1].
        batch_size: images at once.

    Returns:
        (N, S, S) float32 probabilities of the foreground, on the CPU.
    """
    model.eval()
    where = next(model.parameters()).device
    parts = [torch.sigmoid(model(batch.to(where)).float())[:, 0].cpu() for batch in images.split(batch_size)]
    return torch.cat(parts)


def masks_of(maps: torch.Tensor) -> torch.Tensor:
    """The masks that maps are thresholded to, at 0.5: (N, S, S) bool."""
    return maps >= 0.5
