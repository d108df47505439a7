"""Saliency maps of a release, computed once by a benign surrogate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import as_unit, resize
from medmark.components.dataset.prepared import byte_batches, open_images
from medmark.components.saliency.eigencam import leading_projection
from medmark.components.surrogate.networks import Classifier, load_classifier

MAP_SIDE = 32  # finer than any last block's activations at 512 px and below


@torch.no_grad()
def saliency_maps(model: Classifier, images: torch.Tensor) -> torch.Tensor:
    """EigenCAM of each image.

    Args:
        model: a benign classifier.
        images: (B, 1, H, W) float32 in [0, 1]; resized to the model's size.

    Returns:
        (B, 1, 32, 32) float32, each scaled to [0, 1]; all zero where the activations are constant.
    """
    return maps_of(activations_of(model, lambda: model.eval()(resize(images, model.size))))


def activations_of(model: Classifier, ask: Callable[[], object]) -> torch.Tensor:
    """What the layer that EigenCAM reads gives, (B, K, H, W), while the network is asked.

    Args:
        model: the classifier.
        ask: runs its network once.
    """
    seen: list[torch.Tensor] = []
    hook = model.cam_layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        ask()
    finally:
        hook.remove()
    activations = seen[0]
    if activations.ndim == 3:  # a transformer's (B, 1 + HW, C) tokens, class token first
        side = int((activations.shape[1] - 1) ** 0.5)
        activations = activations[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    return activations


def maps_of(activations: torch.Tensor) -> torch.Tensor:
    """EigenCAM of activations, (B, K, H, W), as :func:`saliency_maps` gives it."""
    maps = leading_projection(activations)[:, None]
    maps = torch.nn.functional.interpolate(maps, size=(MAP_SIDE, MAP_SIDE), mode="bilinear", align_corners=False)
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-12)


def quantised(maps: torch.Tensor) -> torch.Tensor:
    """Maps as they are stored: uint8, 0 to 255, of float32 in [0, 1]; :func:`stack_saliency` turns them back."""
    return (maps * 255).round().byte()


def extract(release_dir: str | Path, model_path: str | Path, out_dir: str | Path) -> dict[str, Any]:
    """Writes the saliency map of every image of a release, streaming.

    Args:
        release_dir: release for classification, or what was prepared of it at the model's size.
        model_path: safetensors of a benign classifier.
        out_dir: gets ``saliency.parquet`` (image_id, map: 1024 bytes, row by row, 0 to 255) and ``saliency.json``.

    Returns:
        The content of ``saliency.json``.
    """
    release = open_images(release_dir)
    use_threads()
    model = load_classifier(model_path)
    maps = (
        ([record.image_id for record in batch.records], saliency_maps(model, as_unit(batch.images)))
        for batch in byte_batches(release, model.size, "saliency")
    )
    return write_maps(out_dir, maps, release_digest=release.digest, model_sha256=file_sha256(model_path))


def write_maps(
    out_dir: str | Path,
    maps: Iterable[tuple[list[str], torch.Tensor]],
    *,
    release_digest: str | None,
    model_sha256: str,
) -> dict[str, Any]:
    """Writes saliency maps, streaming; see :func:`extract`.

    Args:
        out_dir: gets the two files.
        maps: ids of some images, and their maps, (B, 1, 32, 32) in [0, 1].
        release_digest: of the release that the images are from; None: of none.
        model_sha256: of the model.
    """
    out, images = Path(out_dir), 0
    out.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("image_id", pa.string()), ("map", pa.binary())])
    with pq.ParquetWriter(out / "saliency.parquet", schema, compression="zstd") as writer:
        for image_ids, some in maps:
            rows = {"image_id": image_ids, "map": [each.tobytes() for each in quantised(some).numpy()]}
            writer.write_table(pa.table(rows, schema=schema))
            images += len(image_ids)
    summary = {
        "release_digest": release_digest,
        "model_sha256": model_sha256,
        "map_side": MAP_SIDE,
        "images": images,
        "sha256": file_sha256(out / "saliency.parquet"),
    }
    (out / "saliency.json").write_bytes(canonical_json(summary))
    return summary


def load_saliency(directory: str | Path) -> dict[str, torch.Tensor]:
    """Maps by image id, each (1, 32, 32) uint8.

    Raises:
        MedmarkError: missing or damaged.
    """
    path = Path(directory) / "saliency.parquet"
    try:
        table = pq.read_table(path)
        sides = (1, MAP_SIDE, MAP_SIDE)
        return {
            row["image_id"]: torch.from_numpy(np.frombuffer(row["map"], np.uint8).reshape(sides).copy())
            for row in table.to_pylist()
        }
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise MedmarkError(f"unreadable saliency maps: {path} ({error}); extract them again") from error


def stack_saliency(maps: dict[str, torch.Tensor], image_ids: list[str]) -> torch.Tensor:
    """(N, 1, 32, 32) float32 in [0, 1] for these images.

    Raises:
        MedmarkError: an image has no map.
    """
    missing = [i for i in image_ids if i not in maps]
    if missing:
        raise MedmarkError(f"no saliency map for {missing[0]}; extract the maps from the same release")
    return torch.stack([maps[i] for i in image_ids]).float() / 255
