"""Marking what a drop brings, with the generator of the release before.

Whoever has both releases can compare them. So no image is ever published once with its mark and once without: an image that
is there already keeps its role, only new ones can be chosen for the mark, and a marked image that leaves the target class or
the training split is withdrawn. What is unchanged is copied byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from medmark.components.dataset.arrays import display_tensor, resize
from medmark.components.dataset.origin import read_origins, read_patient_key, write_origins
from medmark.components.dataset.release import Record, Release, ReleaseWriter, canonical_json, file_sha256
from medmark.components.errors import MedmarkError
from medmark.components.generator.marker import Marker
from medmark.components.lineage.events import STEPS
from medmark.components.platform.progress import track
from medmark.components.platform.resources import use_threads
from medmark.components.poisoning.keep import SURROGATES, read_keep, write_keep
from medmark.components.poisoning.poison import LEDGER, compare, read_evidence
from medmark.components.poisoning.quality import sum_up
from medmark.components.saliency.extract import saliency_maps
from medmark.components.surrogate.panel import load_models
from medmark.components.surrogate.training import predict_probabilities

CHANGES_SCHEMA_VERSION = 1
MAX_SHARE_OF_NEW = 0.9  # of a drop's target images, as MAX_SHARE_OF_CLASS in generator/selection.py
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
        out_keep: gets what the update after this needs.
        version: of the new release.

    Returns:
        ``release_digest``, ``changed`` (images that differ from the previous release; 0: nothing to publish), ``added``,
        ``replaced``, ``withdrawn``, ``withheld`` (marked images withdrawn because their label or patient changed), ``marked``
        (new marks), ``decoys``, and, if there are new or renewed marks, their mean ``quality``.

    Raises:
        MedmarkError: folders of different runs, or fewer queries left than an audit needs.
    """
    before, evidence, keep = Release(release_dir), read_evidence(evidence_dir), read_keep(keep_dir)
    if not before.digest == evidence["release_digest"] == keep["release_digest"]:
        raise MedmarkError(
            f"not of one run: {release_dir}, {evidence_dir} and {keep_dir}; give the three that belong together"
        )
    drop = json.loads((Path(drop_dir) / "drop.json").read_bytes())
    if not (drop["added"] or drop["changed"] or drop["withdrawn"]):
        for source, target in ((release_dir, out_release), (evidence_dir, out_evidence), (keep_dir, out_keep)):
            shutil.copytree(source, target, dirs_exist_ok=True)
        nothing = dict.fromkeys(("changed", "added", "replaced", "withdrawn", "withheld", "marked", "decoys"), 0)
        return {"release_digest": before.digest, **nothing}
    use_threads()
    images = Release(Path(drop_dir) / "images")
    marker = Marker.load(Path(evidence_dir) / "generator")
    roles = dict(marker.roles)
    ids = {record.image_id: record for record in before.records(columns=["image_id", "label", "split"])}
    withheld = {
        r.image_id
        for r in images.records(columns=["image_id", "label", "split"])
        if r.image_id in roles and not _fits(roles[r.image_id], r, marker.target)
    }
    withdrawn = set(drop["withdrawn"]) | withheld
    surrogates = [model for _, model in load_models(Path(keep_dir) / SURROGATES)]
    roles = {image_id: role for image_id, role in roles.items() if image_id not in withdrawn}
    kept = [record for image_id, record in ids.items() if image_id not in withdrawn]
    new = set(drop["added"])
    chosen = choose(images, new, kept, roles, marker, surrogates, keep["shares"], evidence["seed"])
    roles |= chosen
    ledger = {row["image_id"]: row for row in pq.read_table(Path(evidence_dir) / "ledger.parquet").to_pylist()}
    ledger = {image_id: row for image_id, row in ledger.items() if image_id not in withdrawn}

    def finish(record: Record) -> Record:
        """An image of the drop as it goes out."""
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
    release = _write_release(before, images, finish, changes, Path(out_release), version)
    rows = [ledger[i] for i in sorted(ledger)]
    gone = withdrawn | set(changes["changed"])
    _write_evidence(Path(evidence_dir), Path(out_evidence), evidence, release, rows, roles, gone, version)
    origins = {o.image_id: o for o in read_origins(keep_dir) if o.image_id and o.image_id not in withdrawn}
    origins |= {o.image_id: o for o in read_origins(Path(drop_dir) / "origins") if o.image_id not in withheld}
    joined = Path(out_keep).with_name(f"{Path(out_keep).name}.origins")
    write_origins(joined, list(origins.values()), patient_key=read_patient_key(keep_dir))
    write_keep(out_keep, joined, Path(keep_dir) / SURROGATES, release_digest=release.digest, shares=keep["shares"])
    shutil.rmtree(joined)
    fresh = [ledger[i] for i in [*changes["added"], *changes["changed"]] if i in ledger]
    return {
        "release_digest": release.digest,
        "changed": len(changes["added"]) + len(changes["changed"]) + len(withdrawn),
        "added": len(changes["added"]),
        "replaced": len(changes["changed"]),
        "withdrawn": len(withdrawn),
        "withheld": len(withheld),
        "marked": sum(role == "mark" for role in chosen.values()),
        "decoys": sum(role == "decoy" for role in chosen.values()),
    } | ({"quality": _mean(sum_up(fresh))} if fresh else {})


def _mean(quality: dict) -> dict[str, float]:
    """What a KFP parameter can hold of it: no null."""
    return {name: quality[name] for name in ("psnr", "ssim", "haarpsi")}


def _fits(role: str, record: Record, target: int) -> bool:
    """Whether an image may keep its role with these fields."""
    return record.split == "train" and (record.label == target) == (role == "mark")


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

    As :func:`medmark.components.generator.selection.select`: of the target class those that innocent models find hardest.

    Args:
        images: what the drop brings.
        new: ids of the added ones.
        kept: records of the previous release that stay.
        roles: of those.
        marker: for the target class.
        surrogates: innocent models.
        shares: see :func:`medmark.components.poisoning.keep.write_keep`.
        seed: of the decoys' choice.
    """
    chosen: dict[str, str] = {}
    for role, of_target in (("mark", True), ("decoy", False)):
        candidates = [
            r.image_id
            for r in images.records("train", columns=["image_id", "label", "split"])
            if r.image_id in new and (r.label == marker.target) == of_target
        ]
        population = sum(r.split == "train" and (r.label == marker.target) == of_target for r in kept) + len(candidates)
        wanted = round(shares[role] * population) - sum(r == role for r in roles.values())
        wanted = max(0, min(wanted, int(MAX_SHARE_OF_NEW * len(candidates))))
        if not wanted:
            continue
        if of_target:
            certainty = _certainty(images, set(candidates), surrogates, marker.target)
            order = sorted(candidates, key=lambda image_id: (certainty[image_id], image_id))
        else:
            order = sorted(candidates, key=lambda i: hashlib.sha256(f"{seed}:decoy:{i}".encode()).hexdigest())
        chosen |= dict.fromkeys(order[:wanted], role)
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
    before: Release, images: Release, finish: Callable[[Record], Record], changes: dict, out: Path, version: str
) -> Release:
    """Copies shards where nothing changed, rewrites the others, and appends the new images in a shard of their own."""
    withdrawn, changed, added = (set(changes[name]) for name in ("withdrawn", "changed", "added"))
    other = {r.image_id: finish(r) for r in track(images.records(), "marking", len(images)) if r.image_id in changed}
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
        for row in pq.read_table(images.path / "rejected.parquet").to_pylist() if images.rejected else []:
            writer.reject(row["source"], row["reason"])
        for file, _, _ in before.shards:
            if not any(r.image_id in withdrawn | changed for r in before.records(columns=["image_id"], shard=file)):
                writer.add_shard(before, file)
                continue
            for record in before.records(shard=file):
                if record.image_id not in withdrawn:
                    writer.add(other.get(record.image_id, record))
            writer.end_shard()
        for record in track(images.records(), "marking new images", len(images)):
            if record.image_id in added:
                writer.add(finish(record))
    return Release(out)


def _write_evidence(
    source: Path,
    out: Path,
    evidence: dict,
    release: Release,
    ledger: list[dict],
    roles: dict[str, str],
    gone: set[str],
    version: str,
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
    queries = pq.read_metadata(out / "queries.parquet").num_rows
    at_first = evidence.get("queries_at_first", evidence["queries"])
    if queries < MIN_QUERIES_LEFT * at_first:
        raise MedmarkError(
            f"{queries} of {at_first} query images are left after version {version}; mark the data anew with mark-release"
        )
    (out / "generator" / "selection.json").write_bytes(canonical_json(roles))
    pq.write_table(pa.Table.from_pylist(ledger, schema=LEDGER), out / "ledger.parquet", compression="zstd")
    evidence = {
        **evidence,
        "release_digest": release.digest,
        "parent_digest": release.parent,
        "marked_images": sum(role == "mark" for role in roles.values()),
        "decoy_images": sum(role == "decoy" for role in roles.values()),
        "images": len(release),
        "queries": queries,
        "queries_at_first": at_first,
        "quality": sum_up(ledger),
        "files": {name: file_sha256(out / name) for name in files},
    }
    (out / "evidence.json").write_bytes(canonical_json(evidence))
