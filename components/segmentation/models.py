"""Several segmenters without a mark in one folder."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from medmark.components.base.digests import file_sha256
from medmark.components.dataset.arrays import MaskArrays, load_masks
from medmark.components.dataset.release import Release
from medmark.components.segmentation.networks import Segmenter, load_segmenter, save_segmenter
from medmark.components.segmentation.training import SegmenterConfig, train_segmenter
from medmark.components.surrogate.models import read_models, train_side_by_side


class LoadedSegmenter(NamedTuple):
    """A segmenter that was read back.

    Attributes:
        entry: its entry in ``models.json``: ``name``, ``config``, ``file``, ``history`` and so on.
        model: the segmenter.
    """

    entry: dict[str, Any]
    model: Segmenter


def train_segmenters(
    release_dir: str | Path, out_dir: str | Path, *, configs: list[SegmenterConfig], workers: int | None = None
) -> dict[str, Any]:
    """Trains each segmenter, without a mark, on a release's training split and writes ``models.json``.

    Args:
        release_dir: release for segmentation.
        out_dir, configs, workers: see :func:`medmark.components.surrogate.models.train_side_by_side`.

    Returns:
        The content of ``models.json``: ``release_digest`` and ``models``, each with name, file, architecture, seed, history, seconds,
        sha256 and config.
    """
    return train_side_by_side(release_dir, out_dir, configs, _train_one, workers=workers, what="training segmenters")


def _train_one(release_dir: Path, out: Path, config: SegmenterConfig) -> dict[str, Any]:
    release = Release(release_dir)
    train = _load_training(release_dir, release.digest, config.size)
    # the digest in the name: a checkpoint from another release is never resumed
    checkpoint = out / f"{config.name}.{release.digest[:12]}.checkpoint"
    trained = train_segmenter(train, config, checkpoint=checkpoint)
    path = out / f"{config.name}.safetensors"
    save_segmenter(trained.model, path)
    return {
        "name": config.name,
        "file": path.name,
        "architecture": config.architecture,
        "seed": config.seed,
        "history": trained.history,
        "seconds": round(trained.seconds, 2),
        "sha256": file_sha256(path),
        "config": asdict(config),
    }


@lru_cache(maxsize=1)
def _load_training(release_dir: Path, digest: str, size: int) -> MaskArrays:
    return load_masks(Release(release_dir), split="train", size=size)


def load_segmenters(directory: str | Path) -> list[LoadedSegmenter]:
    """Reads the segmenters of a folder back, in the order of ``models.json``.

    Raises:
        MedmarkError: the folder has no models, or a file is not the one that was recorded.
    """
    return [LoadedSegmenter(entry, load_segmenter(path)) for entry, path in read_models(directory)]
