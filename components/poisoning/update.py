"""Marking what a drop brings, with the generator of the release before.

Whoever has both releases can compare them. So no image is ever published once with its mark and once without: an image that
is there already keeps its role, and only new ones can be chosen for the mark. No image is published with two marks either:
where an unmarked image is corrected, its two versions differ by the correction alone, and those of a marked one would not. So
a marked image is withdrawn if its pixels change, or if it leaves the target class or the training split; otherwise its bytes
stay. What is unchanged is copied byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from medmark.components.dataset.arrays import display_tensor, resize
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.origin import (
    REJECTED,
    past_digest,
    read_former,
    read_origins,
    read_past,
    read_patient_key,
    write_origins,
)
from medmark.components.dataset.release import Record, Release, ReleaseWriter, canonical_json, file_sha256, refuse_names
from medmark.components.errors import MedmarkError
from medmark.components.generator.marker import Marker
from medmark.components.lineage.events import STEPS
from medmark.components.platform.progress import track
from medmark.components.platform.resources import use_threads
from medmark.components.poisoning.evidence import read_evidence
from medmark.components.poisoning.keep import SURROGATES, read_keep, write_keep
from medmark.components.poisoning.poison import LEDGER, compare
from medmark.components.poisoning.quality import sum_up
from medmark.components.saliency.extract import saliency_maps
from medmark.components.surrogate.panel import load_models
from medmark.components.surrogate.training import predict_probabilities

CHANGES_SCHEMA_VERSION = 1
MAX_SHARE_OF_NEW = 0.9  # of a drop's target images, as MAX_SHARE_OF_CLASS in generator/selection.py
CATCH_UP = 10  # ours: new images of a kind over which marks that are missing, or too many, are made up for
FIELDS = ["image_id", "label", "patient_id", "split", "bits", "sha256", "dicom"]  # all that an image has beside pixels
MIN_QUERIES_LEFT = 0.5  # ours: of the queries of the first release; with fewer an audit loses its power


def update(
    release_dir: str | Path,
    evidence_dir: str | Path,
    keep_dir: str | Path,
    drop_dir: str | Path,
    out_release: str | Path,
    out_evidence: str | Path,
    out_keep: str | Path,
    *,
    version: str,
) -> dict:
    """Writes the next release with its evidence and what is kept for the update after it.

    Args:
        release_dir: the previous marked release.
        evidence_dir: its complete evidence.
        keep_dir: what was kept with it.
        drop_dir: what :func:`medmark.components.dataset.drop.read_drop` wrote.
        out_release: gets the new release; its ``parent`` is the previous marked release's digest, and ``changes.json`` lists
            ids: ``added``, ``changed``, ``withdrawn``, and ``tombstones``, all that were ever withdrawn. If nothing changed it
            gets the previous release as it is, with the same digest.
        out_evidence: gets the evidence: same generator and thresholds, queries without images that changed or went.
        out_keep: gets what the update after this needs, and ``rejected.parquet``, what the drop had set aside.
        version: of the new release.

    Returns:
        ``release_digest``, ``changed`` (images that differ from the previous release; 0: nothing to publish), ``added``,
        ``replaced``, ``withdrawn``, ``withheld`` (marked images withdrawn because they changed), ``marked`` (new marks),
        ``decoys``, ``set_aside`` (images of the drop that were refused), and, if there are new marks, their mean ``quality``.

    Raises:
        MedmarkError: folders of different runs, or fewer queries left than an audit needs, or no marked image.
    """
    before = Release(release_dir)
    refuse_names(before, "updated")
    evidence, keep = read_evidence(evidence_dir), read_keep(keep_dir)
    if not before.digest == evidence["release_digest"] == keep["release_digest"]:
        raise MedmarkError(
            f"not of one run: {release_dir}, {evidence_dir} and {keep_dir}; give the three that belong together"
        )
    drop = json.loads((Path(drop_dir) / "drop.json").read_bytes())
    if not (drop["added"] or drop["changed"] or drop["withdrawn"]):
        for source, target in ((release_dir, out_release), (evidence_dir, out_evidence), (keep_dir, out_keep)):
            shutil.copytree(source, target, dirs_exist_ok=True)
        nothing = dict.fromkeys(("changed", "added", "replaced", "withdrawn", "withheld", "marked", "decoys"), 0)
        return {"release_digest": before.digest, **nothing, "set_aside": drop["rejected"]}
    use_threads()
    images = Release(Path(drop_dir) / "images")
    marker = Marker.load(Path(evidence_dir) / "generator")
    ledger = {row["image_id"]: row for row in pq.read_table(Path(evidence_dir) / "ledger.parquet").to_pylist()}
    arrived = {record.image_id: record for record in images.records(columns=FIELDS)}
    withheld = {i for i in drop["changed"] if i in marker.roles and not _stays(arrived[i], marker, ledger[i])}
    withdrawn = set(drop["withdrawn"]) | withheld
    roles = {image_id: role for image_id, role in marker.roles.items() if image_id not in withdrawn}
    ledger = {image_id: row for image_id, row in ledger.items() if image_id not in withdrawn}
    gone = withdrawn | set(drop["changed"])
    _check_rest(Path(evidence_dir), evidence, gone, roles)
    kept = [r for r in before.records(columns=["image_id", "label", "split"]) if r.image_id not in withdrawn]
    kept = [arrived.get(record.image_id, record) for record in kept]
    surrogates = [model for _, model in load_models(Path(keep_dir) / SURROGATES)]
    chosen = choose(images, set(drop["added"]), kept, roles, marker, surrogates, keep["shares"], evidence["seed"])
    roles |= chosen

    def finish(record: Record) -> Record:
        """A new image as it goes out."""
        role = roles.get(record.image_id)
        if role is None:
            return record
        maps = (saliency_maps(surrogates[0], resize(display_tensor(record), surrogates[0].size)) * 255).round().byte()
        marked = marker.mark(record, {record.image_id: maps[0]}, role)
        ledger[record.image_id] = {"image_id": record.image_id, "role": role, **compare(record, marked)}
        return marked

    parent = before.read_changes() or {"tombstones": []}
    changes = {
        "schema_version": CHANGES_SCHEMA_VERSION,
        "parent": before.digest,
        "drop": drop["drop"],
        "added": drop["added"],
        "changed": sorted(set(drop["changed"]) - withdrawn),
        "withdrawn": sorted(withdrawn),
        "tombstones": sorted(set(parent["tombstones"]) | withdrawn),
    }
    release = _write_release(before, images, arrived, set(roles), finish, changes, Path(out_release), version)
    rows = [ledger[i] for i in sorted(ledger)]
    _write_evidence(Path(evidence_dir), Path(out_evidence), evidence, release, rows, roles, gone)
    _write_keep(Path(keep_dir), Path(drop_dir), Path(out_keep), keep["shares"], release, withheld)
    fresh = [ledger[i] for i in chosen]
    return {
        "release_digest": release.digest,
        "changed": len(changes["added"]) + len(changes["changed"]) + len(withdrawn),
        "added": len(changes["added"]),
        "replaced": len(changes["changed"]),
        "withdrawn": len(withdrawn),
        "withheld": len(withheld),
        "marked": sum(role == "mark" for role in chosen.values()),
        "decoys": sum(role == "decoy" for role in chosen.values()),
        "set_aside": drop["rejected"],
    } | ({"quality": _mean(sum_up(fresh))} if fresh else {})


def _mean(quality: dict) -> dict[str, float]:
    """What a KFP parameter can hold of it: no null."""
    return {name: quality[name] for name in ("psnr", "ssim", "haarpsi")}


def _stays(record: Record, marker: Marker, row: dict) -> bool:
    """Whether an image with a role, row ``row`` of the ledger, may stay with what the drop says of it."""
    of_target = (record.label == marker.target) == (row["role"] == "mark")
    return record.split == "train" and of_target and record.sha256 == row["clean_sha256"]


def _check_rest(evidence_dir: Path, evidence: dict, gone: set[str], roles: dict[str, str]) -> None:
    """Refuses what would leave too little of the evidence."""
    asked = pq.read_table(evidence_dir / "queries.parquet", columns=["image_id"])["image_id"].to_pylist()
    left, at_first = len(set(asked) - gone), evidence.get("queries_at_first", evidence["queries"])
    if left < MIN_QUERIES_LEFT * at_first:
        raise MedmarkError(
            f"too few query images: this drop leaves {left} of {at_first}; mark the data anew with mark-release"
        )
    if "mark" not in roles.values():
        raise MedmarkError("no marked image is left after this drop; mark the data anew with mark-release")


def choose(
    images: Release,
    new: set[str],
    kept: list[Record],
    roles: dict[str, str],
    marker: Marker,
    surrogates: list,
    shares: dict[str, float],
    seed: int,
) -> dict[str, str]:
    """Roles of new images, so that the shares of the first release are kept over many small drops.

    As :func:`medmark.components.generator.selection.select`: of the target class those that innocent models find hardest. How
    many is rounded at random, and small drops make up for little of what is missing: otherwise whoever knows the share could
    tell in which of many drops of one image the marked ones came.

    Args:
        images: what the drop brings.
        new: ids of the added ones.
        kept: fields of the other images of the new release.
        roles: of those.
        marker: for the target class.
        surrogates: innocent models.
        shares: see :func:`medmark.components.poisoning.keep.write_keep`.
        seed: of rounding and the decoys' choice; secret.
    """
    chosen: dict[str, str] = {}
    for role, of_target in (("mark", True), ("decoy", False)):
        candidates = [
            r.image_id
            for r in images.records("train", columns=["image_id", "label", "split"])
            if r.image_id in new and (r.label == marker.target) == of_target
        ]
        there = sum(r.split == "train" and (r.label == marker.target) == of_target for r in kept)
        missing = shares[role] * there - sum(r == role for r in roles.values())
        wanted = shares[role] * len(candidates) + missing * min(1.0, len(candidates) / CATCH_UP)
        drawn = hashlib.sha256(f"{seed}:{role}:{images.parent}".encode()).digest()
        rounding = int.from_bytes(drawn[:6], "big") / 2**48
        count = int(max(0.0, min(wanted, MAX_SHARE_OF_NEW * len(candidates))) + rounding)
        if not count:
            continue
        if of_target:
            certainty = _certainty(images, set(candidates), surrogates, marker.target)
            order = sorted(candidates, key=lambda image_id: (certainty[image_id], image_id))
        else:
            order = sorted(candidates, key=lambda i: hashlib.sha256(f"{seed}:decoy:{i}".encode()).hexdigest())
        chosen |= dict.fromkeys(order[:count], role)
    return chosen


def _certainty(images: Release, wanted: set[str], surrogates: list, target: int) -> dict[str, float]:
    """Mean P(target) of the innocent models."""
    certainty = {}
    for record in images.records():
        if record.image_id in wanted:
            shown = display_tensor(record)
            answers = [predict_probabilities(m, resize(shown, m.size))[0, target] for m in surrogates]
            certainty[record.image_id] = float(np.mean(answers))
    return certainty


def _write_release(
    before: Release,
    images: Release,
    arrived: dict[str, Record],
    marked: set[str],
    finish: Callable[[Record], Record],
    changes: dict,
    out: Path,
    version: str,
) -> Release:
    """Copies shards where nothing changed, rewrites the others, and appends the new images in a shard of their own."""
    withdrawn, changed, added = (set(changes[name]) for name in ("withdrawn", "changed", "added"))
    with (
        _on_disk(images, changed - marked, out.parent) as image_of,
        ReleaseWriter(
            out,
            name=before.name,
            version=version,
            class_names=before.class_names,
            image_mode=before.image_mode,
            task=before.task,
            parent=before.digest,
            changes=changes,
        ) as writer,
    ):
        for file, sha256, _ in before.shards:
            if not any(r.image_id in withdrawn | changed for r in before.records(columns=["image_id"], shard=file)):
                writer.add_shard(before, file)
                continue
            if file_sha256(before.path / file) != sha256:
                raise MedmarkError(f"shard changed: {before.path / file}; get the release again")
            for record in before.records(shard=file):
                if record.image_id in changed:
                    writer.add(_corrected(record, arrived[record.image_id], image_of))
                elif record.image_id not in withdrawn:
                    writer.add(record)
            writer.end_shard()
        for record in track(images.records(), "marking new images", len(images)):
            if record.image_id in added:
                writer.add(finish(record))
    return Release(out)


def _corrected(record: Record, now: Record, image_of: dict[str, Path]) -> Record:
    """A published image with what the drop says of it. The bytes of a marked one stay: made anew they might differ."""
    pixels = {}
    if record.image_id in image_of and now.sha256 != record.sha256:
        data = image_of[record.image_id].read_bytes()
        height, width = decode_png(data).shape
        pixels = {"image": data, "sha256": now.sha256, "width": width, "height": height}
    return replace(record, **{name: getattr(now, name) for name in FIELDS if name != "sha256"}, **pixels)


@contextmanager
def _on_disk(images: Release, wanted: set[str], beside: Path) -> Iterator[dict[str, Path]]:
    """Files with these images, which are needed in another order than the drop's and need not fit into memory."""
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="changed-", dir=beside) as folder:
        files: dict[str, Path] = {}
        for record in images.records(columns=["image_id", "image"]) if wanted else ():
            if record.image_id in wanted:
                files[record.image_id] = Path(folder, str(len(files)))
                files[record.image_id].write_bytes(record.image)
        yield files


def _write_evidence(
    source: Path,
    out: Path,
    evidence: dict,
    release: Release,
    ledger: list[dict],
    roles: dict[str, str],
    gone: set[str],
) -> None:
    """The evidence for the new release; queries and answers about images that changed or went are left out."""
    out.mkdir(parents=True, exist_ok=True)
    os.chmod(out, 0o700)
    files = [name for name in evidence["files"] if name != STEPS]  # of the run before
    for name in files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, out / name)
    for name in ("queries.parquet", "innocents.parquet"):
        table = pq.read_table(source / name)
        stays = pc.invert(pc.is_in(table["image_id"], value_set=pa.array(sorted(gone), pa.string())))
        pq.write_table(table.filter(stays), out / name, compression="zstd")
    (out / "generator" / "selection.json").write_bytes(canonical_json(roles))
    pq.write_table(pa.Table.from_pylist(ledger, schema=LEDGER), out / "ledger.parquet", compression="zstd")
    evidence = {
        **evidence,
        "release_digest": release.digest,
        "parent_digest": release.parent,
        "marked_images": sum(role == "mark" for role in roles.values()),
        "decoy_images": sum(role == "decoy" for role in roles.values()),
        "images": len(release),
        "queries": pq.read_metadata(out / "queries.parquet").num_rows,
        "queries_at_first": evidence.get("queries_at_first", evidence["queries"]),
        "quality": sum_up(ledger),
        "files": {name: file_sha256(out / name) for name in files},
    }
    (out / "evidence.json").write_bytes(canonical_json(evidence))


def _write_keep(
    keep_dir: Path, drop_dir: Path, out: Path, shares: dict[str, float], release: Release, withheld: set[str]
) -> None:
    """What the next update needs; of images that went, only that their pixels must not come back."""
    withdrawn, key = set(release.read_changes()["withdrawn"]), read_patient_key(keep_dir)
    origins = {o.image_id: o for o in read_origins(keep_dir) if o.image_id}
    news = {o.image_id: o for o in read_origins(drop_dir / "origins") if o.image_id}
    past = {digest: None if owner in withdrawn else owner for digest, owner in read_past(keep_dir).items()}
    old = [o for i, o in origins.items() if i in withdrawn or i in news and news[i].image_sha256 != o.image_sha256]
    for origin in (*old, *(o for o in news.values() if o.image_id in withheld)):
        owner = None if origin.image_id in withdrawn else origin.image_id
        past[past_digest(origin.image_sha256, key)] = owner
    origins = {i: o for i, o in (origins | news).items() if i not in withdrawn}
    joined = out.with_name(f"{out.name}.origins")
    write_origins(joined, list(origins.values()), patient_key=key, past=past, former=read_former(keep_dir))
    if (drop_dir / REJECTED).exists():
        rows = pq.read_table(drop_dir / REJECTED).to_pylist()
        for row in rows:
            if any(i in row["reason"] for i in withdrawn):  # it is named nowhere but among the tombstones
                row["reason"] = "same image twice: it has the pixels of one that this update withdraws; leave it out"
        pq.write_table(pa.Table.from_pylist(rows), joined / REJECTED, compression="zstd")
    write_keep(out, joined, keep_dir / SURROGATES, release_digest=release.digest, shares=shares)
    shutil.rmtree(joined)
