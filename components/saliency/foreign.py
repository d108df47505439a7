"""EigenCAM of a model that somebody else trained, on images that are a release or just files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import as_unit, resize
from medmark.components.dataset.codecs import decode_file
from medmark.components.dataset.display import to_unit
from medmark.components.dataset.folders import read_files
from medmark.components.dataset.prepared import BATCH, byte_batches, is_prepared, open_images
from medmark.components.saliency.extract import activations_of, maps_of, write_maps
from medmark.components.surrogate.networks import is_medmarks, load_classifier, load_foreign


class Normalisation(NamedTuple):
    """How a model wants its images: x in [0, 1] is given as ``(x * scale - mean) / std``."""

    scale: float = 1.0
    mean: float = 0.0
    std: float = 1.0


class Activations(Protocol):
    """A model as a function: (N, C, S, S) float32 in [0, 1] -> (N, K, H, W), the activations that EigenCAM reads.

    Attributes:
        size: S, pixels.
        model: SHA-256 of its files.
    """

    size: int
    model: str

    def __call__(self, images: torch.Tensor) -> torch.Tensor: ...


class Network:
    """The :class:`Activations` of a network that is known by name.

    Args:
        path: safetensors, of medmark or of another library.
        channels: of the images that it is asked about, 1 or 3; one is repeated for a network that takes three.
        architecture: name in :data:`medmark.components.surrogate.networks.ARCHITECTURES`; medmark's own files say it themselves.
        size: side of the images that it was trained on, pixels; medmark's own files say it, and take the place of all that follows.
        normalisation: that it was trained with.

    Raises:
        MedmarkError: the weights are of another network, or it takes grey images and these are in colour.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        channels: int,
        architecture: str = "",
        size: int | None = None,
        normalisation: Normalisation = Normalisation(),  # noqa: B008  # it cannot change
    ):
        if is_medmarks(path):
            self._network = load_classifier(path)
            self._ask: Callable[[torch.Tensor], object] = self._network
        else:
            if not architecture or size is None:
                raise MedmarkError(
                    f"weights of an unknown network: {path}; give its architecture and the size of its images, or export it to ONNX"
                )
            self._network = load_foreign(path, architecture, size)
            scale, mean, std = normalisation
            self._ask = lambda images: self._network.network((images * scale - mean) / std)
        if self._network.channels not in (channels, 3):
            raise MedmarkError(f"{path} takes grey images, and these are in colour; give grey ones")
        self._repeated = self._network.channels // channels
        self.size, self.model = self._network.size, file_sha256(path)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return activations_of(self._network, lambda: self._ask(images.repeat(1, self._repeated, 1, 1)))


class Images:
    """Images to explain.

    Args:
        path: a release for classification, what was prepared of one, or a folder with image files at any depth.

    Attributes:
        channels: C, 3 in colour. A folder is in colour if its first image is.
        digest: of the release; None for a folder.

    Raises:
        MedmarkError: there is no image, or one that cannot be read.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._files: list[tuple[str, Path]] | None = None
        if is_prepared(path) or (self._path / "release.json").is_file():
            self._release = open_images(path)
            self.digest: str | None = self._release.digest
            self._mode = self._release.image_mode
        else:
            self.digest, self._files = None, read_files(self._path)
            try:
                decode_file(self._files[0][1])
                self._mode = "L"
            except MedmarkError:
                decode_file(self._files[0][1], mode="RGB")
                self._mode = "RGB"
        self.channels = 3 if self._mode == "RGB" else 1

    def batches(self, size: int) -> Iterator[tuple[list[str], torch.Tensor]]:
        """Yields ids, for a file its name in the folder, and (N, C, S, S) float32 in [0, 1], squashed to a square.

        Args:
            size: S, pixels.
        """
        if self._files is None:
            for batch in byte_batches(self._release, size, "saliency"):
                yield [record.image_id for record in batch.records], as_unit(batch.images)
            return
        for first in track(range(0, len(self._files), BATCH), "saliency"):
            some = self._files[first : first + BATCH]
            yield [name for name, _ in some], torch.cat([self._decoded(path, size) for _, path in some])

    def _decoded(self, path: Path, size: int) -> torch.Tensor:
        image = decode_file(path, mode=self._mode)
        if self._mode == "RGB":
            shown = torch.from_numpy(image.pixels).permute(2, 0, 1).float() / 255
        else:
            shown = torch.from_numpy(np.ascontiguousarray(to_unit(image.pixels, image.bits, image.dicom)))[None]
        return resize(shown[None], size)


def explain(images: Images, model: Activations, out_dir: str | Path) -> dict[str, Any]:
    """Writes the EigenCAM map of every image, streaming.

    Args:
        images: what to explain.
        model: whose answers are explained.
        out_dir: gets ``saliency.parquet`` and ``saliency.json``, see :func:`medmark.components.saliency.extract.extract`.

    Returns:
        The content of ``saliency.json``; ``release_digest`` is None for images of no release.
    """
    use_threads()
    maps = ((image_ids, maps_of(model(shown))) for image_ids, shown in images.batches(model.size))
    return write_maps(out_dir, maps, release_digest=images.digest, model_sha256=model.model)
