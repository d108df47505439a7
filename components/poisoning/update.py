"""Marking what a drop brings, with the generator of the release before.

Both releases are public and can be compared. So no image is ever published once with its mark and once without: an image that
is there already keeps its role, and only new ones can be chosen for the mark. What becomes of a corrected image does not depend
on whether it is marked: if only its label, patient or split changes, its bytes stay; if its pixels do, the two versions differ
by the correction alone, and if that is not local the image is withdrawn (see
:mod:`medmark.components.poisoning.correction`). What is unchanged is copied byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import display_tensor, resize
from medmark.components.dataset.drop import CHANGES
from medmark.components.dataset.origin import (
    REJECTED,
    past_digest,
    read_former,
    read_held_back,
    read_origins,
    read_past,
    read_patient_key,
    write_origins,
)
from medmark.components.dataset.release import CHANGES_SCHEMA_VERSION, Record, Release, refuse_names
from medmark.components.dataset.release_writer import ReleaseWriter
from medmark.components.evidence.answers import BENIGN
from medmark.components.evidence.evidence import copy_evidence, read_evidence, write_evidence
from medmark.components.evidence.held_back import HELD_BACK
from medmark.components.evidence.keep import SURROGATES, Original, read_keep, read_originals, write_keep
from medmark.components.evidence.ledger import read_ledger, write_ledger
from medmark.components.evidence.queries import QUERIES, query_ids
from medmark.components.evidence.variants import VARIANTS
from medmark.components.generator.marker import Marker, write_roles
from medmark.components.poisoning.choice import choose
from medmark.components.poisoning.correction import Corrections, correct_images
from medmark.components.poisoning.poison import mark_within_bounds
from medmark.components.poisoning.quality import SHOWN, sum_up
from medmark.components.saliency.extract import quantised, saliency_maps
from medmark.components.surrogate.models import load_models
from medmark.components.surrogate.networks import Classifier

Row = dict[str, Any]  # of the ledger
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
) -> dict[str, Any]:
    """Writes the next release with its evidence and what is kept for the update after it.

    Args:
        release_dir: the previous marked release.
        evidence_dir: its complete evidence.
        keep_dir: what was kept with it.
        drop_dir: what :func:`medmark.components.dataset.drop.read_drop` wrote.
        out_release: gets the new release; its ``parent`` is the previous marked release's digest, and ``changes.json`` lists
            ids: ``added``, ``changed``, ``withdrawn``, and ``tombstones``, all that were ever withdrawn. If nothing changed it
            gets the previous release as it is, with the same digest.
        out_evidence: gets the evidence: same generator and thresholds, queries and variants without images that changed or went.
        out_keep: gets what the update after this needs, and ``rejected.parquet``, what the drop had set aside.
        version: of the new release.

    Returns:
        ``release_digest``, ``changed`` (images that differ from the previous release, and those of patients held back that differ or go; 0: nothing to
        publish), ``added``,
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
    if not any(drop[kind] for kind in CHANGES):
        for source, target in ((release_dir, out_release), (evidence_dir, out_evidence), (keep_dir, out_keep)):
            shutil.copytree(source, target, dirs_exist_ok=True)
        nothing = dict.fromkeys(("changed", "added", "replaced", "withdrawn", "withheld", "marked", "decoys"), 0)
        return {"release_digest": before.digest, **nothing, "set_aside": drop["rejected"]}
    use_threads()
    images = Release(Path(drop_dir) / "images")
    marker = Marker.load(Path(evidence_dir) / "generator")
    ledger = {row["image_id"]: row for row in read_ledger(evidence_dir)}
    arrived = {record.image_id: record for record in images.records(columns=FIELDS)}
    changed = set(drop["changed"])
    beside = Path(out_release).parent
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="corrected-", dir=beside) as folder:
        corrections = correct_images(before, images, arrived, changed, ledger, Path(keep_dir), Path(folder))
        withdrawn = set(drop["withdrawn"]) | corrections.withheld
        roles = {image_id: role for image_id, role in marker.roles.items() if image_id not in withdrawn}
        ledger = {i: row for i, row in (ledger | corrections.rows).items() if i not in withdrawn}
        gone = withdrawn | changed
        # alike whether an image was published or not: what is left must differ by the lot alone
        pixels = {o.image_id: o.image_sha256 for o in read_origins(keep_dir)}
        never = {*drop["held_back_changed"], *drop["held_back_withdrawn"]}
        other_pixels = {one for one in changed if arrived[one].sha256 != pixels[one]}
        held_back = read_held_back(keep_dir)
        held_back = {one: held_back[one] for one in held_back if one not in drop["held_back_withdrawn"]}
        _check_rest(Path(evidence_dir), evidence, gone, roles)
        there = [r for r in before.records(columns=["image_id", "label", "split"]) if r.image_id not in withdrawn]
        there = [arrived.get(record.image_id, record) for record in there]
        surrogates = [model for _, model in load_models(Path(keep_dir) / SURROGATES)]
        chosen = choose(images, set(drop["added"]), there, roles, marker, surrogates, keep["shares"], evidence["seed"])

        def finish(record: Record) -> Record:
            """A new image as it goes out."""
            made = _marked(record, chosen.get(record.image_id), marker, surrogates[0])
            if made is None:
                return record
            ledger[record.image_id] = made[1]
            return made[0]

        changes = _changes(before, drop, withdrawn)
        release = _write_release(before, images, arrived, corrections, finish, changes, Path(out_release), version)
        chosen = {image_id: role for image_id, role in chosen.items() if image_id in ledger}
        roles |= chosen
        rows = [ledger[i] for i in sorted(ledger)]
        gone_of = {QUERIES: gone, BENIGN: gone, VARIANTS: gone, HELD_BACK: withdrawn | other_pixels | never}
        evidence["held_back_patients"] = len(set(held_back.values()))
        _write_evidence(Path(evidence_dir), Path(out_evidence), evidence, release, rows, roles, gone_of)
        _write_keep(
            Path(keep_dir),
            Path(drop_dir),
            Path(out_keep),
            keep["shares"],
            release,
            withdrawn | set(drop["held_back_withdrawn"]),
            corrections,
            set(ledger),
            held_back,
        )
    return _summary(release, changes, drop, corrections, chosen, [ledger[i] for i in chosen])


def _marked(record: Record, role: str | None, marker: Marker, surrogate: Classifier) -> tuple[Record, Row] | None:
    """A new image with its mark, and its row of the ledger; None if it gets no mark or cannot carry it."""
    if role is None:
        return None
    seen = resize(display_tensor(record), surrogate.size)
    maps = {record.image_id: quantised(saliency_maps(surrogate, seen))[0]}
    return mark_within_bounds(marker, record, maps, role)


def _changes(before: Release, drop: dict[str, Any], withdrawn: set[str]) -> dict[str, Any]:
    """The content of ``changes.json``."""
    parent = before.read_changes() or {"tombstones": []}
    return {
        "schema_version": CHANGES_SCHEMA_VERSION,
        "parent": before.digest,
        "drop": drop["drop"],
        "added": drop["added"],
        "changed": sorted(set(drop["changed"]) - withdrawn),
        "withdrawn": sorted(withdrawn),
        "tombstones": sorted(set(parent["tombstones"]) | withdrawn),
    }


def _summary(
    release: Release,
    changes: dict[str, Any],
    drop: dict[str, Any],
    corrections: Corrections,
    chosen: dict[str, str],
    new_rows: list[Row],
) -> dict[str, Any]:
    """What :func:`update` returns."""
    added, replaced, withdrawn = (len(changes[name]) for name in ("added", "changed", "withdrawn"))
    summary = {
        "release_digest": release.digest,
        "changed": added + replaced + withdrawn + len(drop["held_back_changed"]) + len(drop["held_back_withdrawn"]),
        "added": added,
        "replaced": replaced,
        "withdrawn": withdrawn,
        "withheld": len(corrections.withheld),
        "marked": sum(role == "mark" for role in chosen.values()),
        "decoys": sum(role == "decoy" for role in chosen.values()),
        "set_aside": drop["rejected"],
    }
    if new_rows:
        quality = sum_up(new_rows)
        summary["quality"] = {name: quality[name] for name in SHOWN}  # a KFP parameter can hold no null
    return summary


def _check_rest(evidence_dir: Path, evidence: dict[str, Any], gone: set[str], roles: dict[str, str]) -> None:
    """Refuses what would leave too little of the evidence."""
    left, at_first = len(set(query_ids(evidence_dir)) - gone), evidence.get("queries_at_first", evidence["queries"])
    if left < MIN_QUERIES_LEFT * at_first:
        raise MedmarkError(
            f"too few query images: this drop leaves {left} of {at_first}; mark the data anew with mark-release"
        )
    if "mark" not in roles.values():
        raise MedmarkError("no marked image is left after this drop; mark the data anew with mark-release")


def _write_release(
    before: Release,
    images: Release,
    arrived: dict[str, Record],
    corrections: Corrections,
    finish: Callable[[Record], Record],
    changes: dict[str, Any],
    out: Path,
    version: str,
) -> Release:
    """Copies shards where nothing changed, rewrites the others, and appends the new images in a shard of their own."""
    withdrawn, changed, added = (set(changes[name]) for name in ("withdrawn", "changed", "added"))
    with ReleaseWriter.child(out, before, version=version, changes=changes) as writer:
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


def _write_evidence(
    source: Path,
    out: Path,
    evidence: dict[str, Any],
    release: Release,
    ledger: list[Row],
    roles: dict[str, str],
    gone_of: dict[str, set[str]],
) -> None:
    """The evidence for the new release; queries and answers about images that changed or went are left out, by file."""
    files = copy_evidence(source, out, evidence)
    for name in gone_of.keys() & set(files):
        gone, table = gone_of[name], pq.read_table(source / name)
        stays = pc.invert(pc.is_in(table["image_id"], value_set=pa.array(sorted(gone), pa.string())))
        pq.write_table(table.filter(stays), out / name, compression="zstd")
    write_roles(out / "generator", roles)
    write_ledger(out, ledger)
    new = {
        "release_digest": release.digest,
        "parent_digest": release.parent,
        "marked_images": sum(role == "mark" for role in roles.values()),
        "decoy_images": sum(role == "decoy" for role in roles.values()),
        "images": len(release),
        "queries": pq.read_metadata(out / QUERIES).num_rows,
        "queries_at_first": evidence.get("queries_at_first", evidence["queries"]),
        "quality": sum_up(ledger),
        "files": {name: file_sha256(out / name) for name in files},
    }
    write_evidence(out, evidence | new)


def _write_keep(
    keep_dir: Path,
    drop_dir: Path,
    out: Path,
    shares: dict[str, float],
    release: Release,
    withdrawn: set[str],
    corrections: Corrections,
    marked: set[str],
    held_back: dict[str, str],
) -> None:
    """What the next update needs; of images that went, only that their pixels must not come back."""
    key = read_patient_key(keep_dir)
    origins = {o.image_id: o for o in read_origins(keep_dir) if o.image_id}
    news = {o.image_id: o for o in read_origins(drop_dir / "origins") if o.image_id}
    past = {digest: None if owner in withdrawn else owner for digest, owner in read_past(keep_dir).items()}
    old = [o for i, o in origins.items() if i in withdrawn or i in news and news[i].image_sha256 != o.image_sha256]
    for origin in (*old, *(o for o in news.values() if o.image_id in corrections.withheld)):
        if origin.image_sha256 is not None:  # not of a source's CSV
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
    write_keep(
        out,
        joined,
        keep_dir / SURROGATES,
        originals=originals,
        release_digest=release.digest,
        shares=shares,
        held_back=held_back,
    )
    shutil.rmtree(joined)


def _next_originals(
    keep_dir: Path, drop_dir: Path, corrections: Corrections, marked: set[str]
) -> Iterable[Original] | None:
    """Marked images without their mark: those whose pixels the drop brings as it does, the others as they were."""
    known = read_originals(keep_dir)
    if known is None:
        return None
    images = Release(drop_dir / "images")
    there = {original.image_id for original in read_originals(keep_dir) or ()}
    brought = {r.image_id for r in images.records(columns=["image_id"])}
    news = marked & brought & (set(corrections.files) | (marked - there))

    def made(record: Record) -> Original:
        firsts = (path.read_bytes() for path in corrections.firsts.get(record.image_id, ()))
        return Original(record.image_id, record.image, *firsts)

    fresh = (made(r) for r in images.records(columns=IMAGES) if r.image_id in news)
    return chain((original for original in known if original.image_id in marked - news), fresh)
