"""Locking a release: a logo on every image, where it makes classifiers fail, and what it hides, sealed."""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.private_files import private_folder, write_private
from medmark.components.base.progress import track
from medmark.components.base.threads import device, mixed_precision, use_threads
from medmark.components.dataset.arrays import colour_tensor, resize
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.release import Record, Release, refuse_names, refuse_task, with_pixels
from medmark.components.dataset.release_writer import ReleaseWriter
from medmark.components.evidence.evidence import EVIDENCE_SCHEMA_VERSION, write_evidence
from medmark.components.lineage.keys import locking_public
from medmark.components.locking.certificate import certificates_root
from medmark.components.locking.evidence import KIND, read_lock_evidence
from medmark.components.locking.lesion_segmenter import load_lesion_segmenter
from medmark.components.locking.lesions import Lesions, LesionSegmenter, find_lesions
from medmark.components.locking.locks import LOCKS, Lock, write_locks
from medmark.components.locking.logo import Logo, put, read_logo
from medmark.components.locking.seal import grant, pack, release_key, seal
from medmark.components.locking.search import Found, Placement, Places, SearchConfig, search
from medmark.components.surrogate.models import load_models
from medmark.components.surrogate.networks import Classifier

GRANTS, LOGO = "grants.json", "logo-{}.png"
LOGO_FILE = re.compile(r"logo-\d+\.png")
TOGETHER = 64  # images that are searched together; arbitrary
FINALISTS = 3  # candidates that are tried on the image as it will be stored


@dataclass(frozen=True)
class LockOptions:
    """What a release is locked with.

    Attributes:
        version: of the locked release.
        logos: one or more of one shape, to choose from.
        search: see :class:`medmark.components.locking.search.SearchConfig`.
        mark_key: secret, 64 hex digits; the key of the locks follows from it, so do not keep it.
        seed: of the searches; secret, so that nobody can repeat them.
        recipients: text of ``locking.pub`` by name: who may unlock, the owner first.
    """

    version: str
    logos: tuple[Logo, ...]
    search: SearchConfig
    mark_key: str = field(repr=False)
    seed: int = field(repr=False)
    recipients: Mapping[str, str]


def lock_release(
    release_dir: str | Path,
    models_dir: str | Path,
    out_dir: str | Path,
    evidence_dir: str | Path,
    options: LockOptions,
    *,
    segmenter_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Locks every image of a release.

    An image on which the logo has no place beside the lesions is left out of the locked release: it could only go out as it was.
    Masks of lesions are sealed, because they would help whoever analyses the images; labels stay.

    Args:
        release_dir: release for classification.
        models_dir: the classifiers that are to fail, all of one size.
        out_dir: gets the locked release, a child of the first; public.
        evidence_dir: gets ``locks.parquet``, ``grants.json``, the logos and ``evidence.json``; private.
        options: see :class:`LockOptions`.
        segmenter_dir: what :func:`medmark.components.locking.lesion_segmenter.train_lesion_segmenter` wrote, to find lesions where
            there is no mask; without it, or if it trained none, they are guessed from where the first classifier looks.

    Returns:
        ``locked``, ``left_out`` (images), ``evaluations`` (candidates) and ``release_digest``.

    Raises:
        MedmarkError: the release is for segmentation or its ids hold file names, classifiers that are not of one size and for such
            images, logos of several shapes, no recipient or a key that is none, or no image can be locked.
    """
    use_threads()
    release = Release(release_dir)
    refuse_names(release, "locked")
    refuse_task(release, "classification")
    models = [trained.model.to(device()) for trained in load_models(models_dir)]
    wanted = (3 if release.image_mode == "RGB" else 1, len(release.class_names))
    if len({m.size for m in models}) != 1 or {(m.channels, m.num_classes) for m in models} != {wanted}:
        raise MedmarkError(f"classifiers that do not fit: {models_dir}; train them on {release_dir}, all with one size")
    if len({logo.pixels.shape for logo in options.logos}) != 1:
        raise MedmarkError("no logo, or logos of several shapes; give one or more of one shape")
    keys = {name: locking_public(pem.encode(), f"key of {name}") for name, pem in options.recipients.items()}
    if not keys:
        raise MedmarkError("nobody could unlock this release; give the owner's locking.pub")
    segmenter = load_lesion_segmenter(segmenter_dir) if segmenter_dir is not None else None
    key, evidence = release_key(options.mark_key, release.digest), private_folder(evidence_dir)
    locks: list[Lock] = []
    counts = {"left_out": 0, "evaluations": 0}
    with ReleaseWriter.child(out_dir, release, version=options.version, lesions=False) as writer:
        for image in lock_images(release, models, options, segmenter):
            counts["evaluations"] += image.found.evaluations
            if image.at is None or image.made is None:
                counts["left_out"] += 1
                continue
            writer.add(replace(image.made, mask=None, mask_sha256=None))
            locks.append(_lock(image.record, image.made, image.lesions, image.at, release.image_mode, key))
        if not locks:
            raise MedmarkError(f"no image can be locked: {release_dir}; lesions leave no place, use a smaller logo")
    locked = Release(out_dir)
    write_locks(evidence, locks)
    grants = [grant(key, locked.digest, public).to_json() | {"name": name} for name, public in keys.items()]
    write_private(evidence / GRANTS, canonical_json(grants))
    logos = {LOGO.format(number): logo.png() for number, logo in enumerate(options.logos)}
    for name, png in logos.items():
        write_private(evidence / name, png)
    write_evidence(
        evidence,
        {
            "schema_version": EVIDENCE_SCHEMA_VERSION,
            "kind": KIND,
            "release_digest": locked.digest,
            "clean_digest": release.digest,
            "certificates_root": certificates_root(locks),
            "files": {name: file_sha256(evidence / name) for name in (LOCKS, GRANTS, *logos)},
        },
    )
    return {"locked": len(locks), **counts, "release_digest": locked.digest}


def read_logos(evidence_dir: str | Path) -> dict[str, Logo]:
    """Reads the logos of a locked release from its evidence, by digest."""
    names = [name for name in read_lock_evidence(evidence_dir)["files"] if LOGO_FILE.fullmatch(name)]
    return {logo.digest: logo for logo in (read_logo(Path(evidence_dir) / name) for name in sorted(names))}


@dataclass(frozen=True)
class LockedImage:
    """An image and its logo.

    Attributes:
        record: as it was.
        lesions: where they are.
        found: by the search.
        at: place of the logo; None if there is none.
        made: the image with the logo; None likewise.
    """

    record: Record
    lesions: Lesions
    found: Found
    at: Placement | None
    made: Record | None


def lock_images(
    release: Release,
    models: list[Classifier],
    options: LockOptions,
    segmenter: LesionSegmenter | None,
    split: str | None = None,
) -> Iterator[LockedImage]:
    """Finds the place of the logo on every image, in their order.

    Args:
        release: for classification.
        models: the classifiers that are to fail, of one size.
        options: see :class:`LockOptions`.
        segmenter: see :func:`medmark.components.locking.lesions.find_lesions`.
        split: train, val or test; all when None.
    """
    config, size = options.search, models[0].size
    records = iter(track(release.records(split), "locking", len(release)))
    while chunk := list(islice(records, TOGETHER)):
        known = [find_lesions(record, release.image_mode, models[0], segmenter) for record in chunk]
        images = torch.cat([resize(colour_tensor(record, release.image_mode), size) for record in chunk])
        labels = torch.tensor([record.label for record in chunk])
        places = [
            Places(shape, lesions.forbidden(shape, config.margin), options.logos, size, config)
            for record, lesions in zip(chunk, known, strict=True)
            for shape in [(record.height, record.width)]
        ]

        def score(index: np.ndarray, batch: torch.Tensor, labels: torch.Tensor = labels) -> np.ndarray:
            with mixed_precision(device()):  # finalists are asked about again without
                return true_class(models, batch, labels[index])

        seeds = [_seed(options.seed, record.image_id) for record in chunk]
        for record, lesions, place, found in zip(
            chunk, known, places, search(images, places, score, config, seeds), strict=True
        ):
            placements = list(dict.fromkeys(place.placement(genes) for genes in found.genes[: 4 * FINALISTS]))[
                :FINALISTS
            ]
            best = _best(record, release, models, placements)
            yield LockedImage(record, lesions, found, *(best or (None, None)))


def _best(
    record: Record, release: Release, models: list[Classifier], placements: list[Placement]
) -> tuple[Placement, Record] | None:
    """Takes the placement that works best on the image as it will be stored, at its own resolution."""
    if not placements:
        return None
    pixels = decode_png(record.image, mode=release.image_mode)
    stored = [
        with_pixels(record, put(pixels, record.bits, record.display, at.logo, box=at.box, alpha=at.alpha))
        for at in placements
    ]
    shown = torch.cat([resize(colour_tensor(made, release.image_mode), models[0].size) for made in stored])
    best = int(true_class(models, shown, torch.full((len(placements),), record.label)).argmin())
    return placements[best], stored[best]


@torch.no_grad()
def true_class(models: list[Classifier], images: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """The ensemble's objective: the mean over classifiers of the probability of the true class.

    Args:
        models: K classifiers.
        images: (N, C, S, S) float32 in [0, 1].
        labels: (N,) int64.

    Returns:
        (N,) float64.
    """
    rows, where = torch.arange(len(labels)), next(models[0].parameters()).device
    shown = images.to(where).contiguous(memory_format=torch.channels_last)
    return (
        torch.stack([model(shown).float().softmax(1).cpu()[rows, labels] for model in models]).double().mean(0).numpy()
    )


def _seed(seed: int, image_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{image_id}".encode()).digest()[:8], "big")


def _lock(record: Record, made: Record, lesions: Lesions, at: Placement, mode: str, key: bytes) -> Lock:
    x, y, width, height = at.box
    lock = Lock(
        record.image_id,
        made.sha256,
        at.logo.digest,
        x,
        y,
        width,
        height,
        at.alpha,
        at.scale,
        lesions.source,
        record.mask is not None,
        secrets.token_bytes(32),
        b"",
    )
    hidden = decode_png(record.image, mode=mode)[y : y + height, x : x + width]
    content = pack(record.sha256, {"hidden": zlib.compress(hidden.tobytes()), "mask": record.mask})
    return replace(lock, sealed=seal(key, record.image_id, content, lock.bound))
