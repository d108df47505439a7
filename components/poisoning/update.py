"""Marking what a drop brings, with the generator of the release before.

Whoever has both releases can compare them. So no image is ever published once with its mark and once without: an image that
is there already keeps its role, and only new ones can be chosen for the mark. What becomes of a corrected image does not depend
on whether it is marked: if only its label, patient or split changes, its bytes stay; if its pixels do, the two versions differ
by the correction alone, and if that is not local the image is withdrawn (see
:mod:`medmark.components.poisoning.correction`). What is unchanged is copied byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import display_tensor, resize, with_pixels
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
from medmark.components.dataset.release import Record, Release, refuse_names
from medmark.components.dataset.release_writer import ReleaseWriter
from medmark.components.evidence.evidence import STEPS, read_evidence
from medmark.components.evidence.keep import SURROGATES, Original, read_keep, read_originals, write_keep
from medmark.components.generator.marker import Marker
from medmark.components.poisoning.correction import corrected
from medmark.components.poisoning.poison import LEDGER, mark_within_bounds
from medmark.components.poisoning.quality import compare, sum_up
from medmark.components.saliency.extract import saliency_maps
from medmark.components.surrogate.models import load_models
from medmark.components.surrogate.training import predict_probabilities

CHANGES_SCHEMA_VERSION = 1
MAX_SHARE_OF_NEW = 0.9  # of a drop's target images, as MAX_SHARE_OF_CLASS in generator/selection.py
CATCH_UP = 10  # ours: new images of a kind over which marks that are missing, or too many, are made up for
IMAGES = ["image_id", "image"]
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
        ``replaced``, ``withdrawn``, ``withheld`` (images withdrawn because most of their pixels changed), ``marked`` (new marks),
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
    changed = set(drop["changed"])
    beside = Path(out_release).parent
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="corrected-", dir=beside) as folder:
        corrections = _corrections(before, images, arrived, changed, ledger, Path(keep_dir), Path(folder))
        withdrawn = set(drop["withdrawn"]) | corrections.withheld
        roles = {image_id: role for image_id, role in marker.roles.items() if image_id not in withdrawn}
        ledger = {i: row for i, row in (ledger | corrections.rows).items() if i not in withdrawn}
        gone = withdrawn | changed
        _check_rest(Path(evidence_dir), evidence, gone, roles)
        kept = [r for r in before.records(columns=["image_id", "label", "split"]) if r.image_id not in withdrawn]
        kept = [arrived.get(record.image_id, record) for record in kept]
        surrogates = [model for _, model in load_models(Path(keep_dir) / SURROGATES)]
        chosen = choose(images, set(drop["added"]), kept, roles, marker, surrogates, keep["shares"], evidence["seed"])

        def finish(record: Record) -> Record:
            """A new image as it goes out."""
            if record.image_id not in chosen:
                return record
            seen = resize(display_tensor(record), surrogates[0].size)
            maps = {record.image_id: (saliency_maps(surrogates[0], seen) * 255).round().byte()[0]}
            made = mark_within_bounds(marker, record, maps, chosen[record.image_id])
            if made is None:
                return record
            ledger[record.image_id] = made[1]
            return made[0]

        parent = before.read_changes() or {"tombstones": []}
        changes = {
            "schema_version": CHANGES_SCHEMA_VERSION,
            "parent": before.digest,
            "drop": drop["drop"],
            "added": drop["added"],
            "changed": sorted(changed - withdrawn),
            "withdrawn": sorted(withdrawn),
            "tombstones": sorted(set(parent["tombstones"]) | withdrawn),
        }
        release = _write_release(before, images, arrived, corrections, finish, changes, Path(out_release), version)
        chosen = {image_id: role for image_id, role in chosen.items() if image_id in ledger}
        roles |= chosen
        rows = [ledger[i] for i in sorted(ledger)]
        _write_evidence(Path(evidence_dir), Path(out_evidence), evidence, release, rows, roles, gone)
        _write_keep(Path(keep_dir), Path(drop_dir), Path(out_keep), keep["shares"], release, corrections, set(ledger))
    fresh = [ledger[i] for i in chosen]
    return {
        "release_digest": release.digest,
        "changed": len(changes["added"]) + len(changes["changed"]) + len(withdrawn),
        "added": len(changes["added"]),
        "replaced": len(changes["changed"]),
        "withdrawn": len(withdrawn),
        "withheld": len(corrections.withheld),
        "marked": sum(role == "mark" for role in chosen.values()),
        "decoys": sum(role == "decoy" for role in chosen.values()),
        "set_aside": drop["rejected"],
    } | ({"quality": _mean(sum_up(fresh))} if fresh else {})


def _mean(quality: dict) -> dict[str, float]:
    """What a KFP parameter can hold of it: no null."""
    return {name: quality[name] for name in ("psnr", "ssim", "haarpsi")}


@dataclass
class _Corrections:
    """Images whose pixels a drop changes.

    Attributes:
        files: the next published version by id, as encoded.
        rows: of the ledger, of marked ones.
        firsts: of marked ones: ``first`` and ``first_published`` of :class:`medmark.components.evidence.keep.Original`.
        withheld: ids of those whose correction cannot be published.
    """

    files: dict[str, Path] = field(default_factory=dict)
    rows: dict[str, dict] = field(default_factory=dict)
    firsts: dict[str, tuple[Path, Path]] = field(default_factory=dict)
    withheld: set[str] = field(default_factory=set)


def _corrections(
    before: Release,
    images: Release,
    arrived: dict[str, Record],
    changed: set[str],
    ledger: dict[str, dict],
    keep_dir: Path,
    folder: Path,
) -> _Corrections:
    """Corrected versions of published images, see :mod:`medmark.components.poisoning.correction`; on disk, since they need not
    fit into memory."""
    clean = {r.image_id: r.sha256 for r in before.records(columns=["image_id", "sha256"]) if r.image_id in changed}
    clean |= {i: row["clean_sha256"] for i, row in ledger.items() if i in changed}
    touched = {image_id for image_id in changed if arrived[image_id].sha256 != clean[image_id]}
    originals = read_originals(keep_dir)
    if originals is None:  # of a keep by an earlier medmark: what marked images were is not known, so none is corrected
        return _Corrections(withheld=touched)
    found = _Corrections()
    now = {r.image_id: _on_disk(folder, r.image) for r in images.records(columns=IMAGES) if r.image_id in touched}
    wanted = touched & set(ledger)
    was = {
        o.image_id: [_on_disk(folder, image) for image in (o.image, o.first, o.first_published)]
        for o in (originals if wanted else ())
        if o.image_id in wanted
    }
    if missing := wanted - set(was):
        raise MedmarkError(f"no original of the marked image {min(missing)}: {keep_dir}; restore it from a backup")
    for file, _, _ in before.shards:
        if not any(r.image_id in touched for r in before.records(columns=["image_id"], shard=file)):
            continue
        for record in before.records(shard=file):
            name = record.image_id
            if name not in touched:
                continue
            image = now[name].read_bytes()
            kept = [path and path.read_bytes() for path in was.get(name, ())] or [record.image, None, None]
            first = kept[1:] if kept[1] else [kept[0], record.image]
            pixels = corrected(*(decode_png(version) for version in (record.image, kept[0], image, *first)))
            if pixels is None:
                found.withheld.add(name)
                continue
            unmarked = replace(arrived[name], image=image)
            made = with_pixels(unmarked, pixels)
            found.files[name] = _on_disk(folder, made.image)
            if name in ledger:
                found.rows[name] = ledger[name] | compare(unmarked, made)
                found.firsts[name] = tuple(_on_disk(folder, version) for version in first)
    return found


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

    As :func:`medmark.components.generator.selection.select`: of the target class those that benign models find hardest. How
    many is rounded at random, and small drops make up for little of what is missing: otherwise whoever knows the share could
    tell in which of many drops of one image the marked ones came.

    Args:
        images: what the drop brings.
        new: ids of the added ones.
        kept: fields of the other images of the new release.
        roles: of those.
        marker: for the target class.
        surrogates: benign models.
        shares: see :func:`medmark.components.evidence.keep.write_keep`.
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
    """Mean P(target) of the benign models."""
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
    corrections: _Corrections,
    finish: Callable[[Record], Record],
    changes: dict,
    out: Path,
    version: str,
) -> Release:
    """Copies shards where nothing changed, rewrites the others, and appends the new images in a shard of their own."""
    withdrawn, changed, added = (set(changes[name]) for name in ("withdrawn", "changed", "added"))
    with ReleaseWriter(
        out,
        name=before.name,
        version=version,
        class_names=before.class_names,
        image_mode=before.image_mode,
        task=before.task,
        parent=before.digest,
        changes=changes,
    ) as writer:
        for file, sha256, _ in before.shards:
            if not any(r.image_id in withdrawn | changed for r in before.records(columns=["image_id"], shard=file)):
                writer.add_shard(before, file)
                continue
            if file_sha256(before.path / file) != sha256:
                raise MedmarkError(f"shard changed: {before.path / file}; get the release again")
            for record in before.records(shard=file):
                if record.image_id in changed:
                    writer.add(_next(record, arrived[record.image_id], corrections.files.get(record.image_id)))
                elif record.image_id not in withdrawn:
                    writer.add(record)
            writer.end_shard()
        for record in track(images.records(), "marking new images", len(images)):
            if record.image_id in added:
                writer.add(finish(record))
    return Release(out)


def _next(record: Record, now: Record, file: Path | None) -> Record:
    """A published image with what the drop says of it; its bytes stay if its pixels do."""
    image = record.image if file is None else file.read_bytes()
    stated = {name: getattr(now, name) for name in FIELDS if name != "sha256"}
    return replace(record, **stated, image=image, sha256=hashlib.sha256(image).hexdigest())


def _on_disk(folder: Path, image: bytes | None) -> Path | None:
    """A file with the image, in a folder that holds nothing else; images need not fit into memory together."""
    if image is None:
        return None
    path = folder / str(len(os.listdir(folder)))
    path.write_bytes(image)
    return path


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
    keep_dir: Path,
    drop_dir: Path,
    out: Path,
    shares: dict[str, float],
    release: Release,
    corrections: _Corrections,
    marked: set[str],
) -> None:
    """What the next update needs; of images that went, only that their pixels must not come back."""
    withdrawn, key = set(release.read_changes()["withdrawn"]), read_patient_key(keep_dir)
    origins = {o.image_id: o for o in read_origins(keep_dir) if o.image_id}
    news = {o.image_id: o for o in read_origins(drop_dir / "origins") if o.image_id}
    past = {digest: None if owner in withdrawn else owner for digest, owner in read_past(keep_dir).items()}
    old = [o for i, o in origins.items() if i in withdrawn or i in news and news[i].image_sha256 != o.image_sha256]
    for origin in (*old, *(o for o in news.values() if o.image_id in corrections.withheld)):
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
    originals = _next_originals(keep_dir, drop_dir, corrections, marked)
    write_keep(out, joined, keep_dir / SURROGATES, originals=originals, release_digest=release.digest, shares=shares)
    shutil.rmtree(joined)


def _next_originals(
    keep_dir: Path, drop_dir: Path, corrections: _Corrections, marked: set[str]
) -> Iterator[Original] | None:
    """Marked images without their mark: those whose pixels the drop brings as it does, the others as they were."""
    known = read_originals(keep_dir)
    if known is None:
        return None
    images = Release(drop_dir / "images")
    there = {original.image_id for original in read_originals(keep_dir)}
    brought = {r.image_id for r in images.records(columns=["image_id"])}
    news = marked & brought & (set(corrections.files) | (marked - there))

    def made(record: Record) -> Original:
        firsts = (path.read_bytes() for path in corrections.firsts.get(record.image_id, ()))
        return Original(record.image_id, record.image, *firsts)

    fresh = (made(r) for r in images.records(columns=IMAGES) if r.image_id in news)
    return chain((original for original in known if original.image_id in marked - news), fresh)
