"""A chain of real releases, tiny: raw drop, clean release, a first marked one, and updates of it."""

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from commitment_case import copy_evidence
from medmark.components.base.digests import canonical_json
from medmark.components.dataset.codecs import encode_png
from medmark.components.dataset.origin import Origin, drop_digest, write_origins
from medmark.components.dataset.release import Record, Release
from medmark.components.dataset.release_writer import ReleaseWriter
from medmark.components.lineage.commitment import commit
from medmark.components.lineage.events import artifact_digest, public_record, step_event, write_steps
from medmark.components.lineage.record import sign_lineage

SEED, PATIENT_KEY = 987654321987654321, "secret-patients"
PARAMETERS = {"epsilon": 0.07123, "target": "secret-target", "folder": "/srv/private/drop"}
CLASSES = ["normal", "pneumonia"]


@dataclass
class Chain:
    """What :func:`make_chain` made.

    Attributes:
        root: has a folder a release, named by its digest; all of it public.
        releases: those folders, the first marked release first.
        raw, sources, clean: of the first release; private.
        private: folders with evidence and ``record.json`` of each release.
    """

    root: Path
    releases: list[Path]
    raw: Path
    sources: Path
    clean: Path
    private: list[Path]

    @property
    def head(self) -> Path:
        return self.releases[-1]


def make_chain(folder: Path, key, length: int, *, timestamp_url: str | None = None, **options) -> Chain:
    """Releases of three images and more: each update adds an image, changes one, and withdraws one if it is an even one."""
    rng = np.random.default_rng(0)
    records = {f"image-{i}": record(rng, f"image-{i}", i) for i in range(4)}
    clean = folder / "clean"
    write_release(clean, records, version="0", parent=None)
    raw, origins = folder / "raw", []
    for i, one in enumerate(records.values()):
        name = f"{CLASSES[one.label]}/p{i}_film {i}.png"
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(one.image + bytes([i]))  # raw files are not the encoded images
        origins.append(Origin(one.image_id, name, hashlib.sha256((raw / name).read_bytes()).hexdigest(), one.sha256))
    write_origins(folder / "keep", origins, patient_key=PATIENT_KEY)
    chain = Chain(folder / "releases", [], raw, folder / "keep" / "sources.parquet", clean, [])
    records["image-0"] = changed(records["image-0"], rng)
    made, drop, tombstones = folder / "made", drop_digest(origins, PATIENT_KEY), []
    write_release(made, records, version="1", parent=Release(clean).digest)
    steps = [
        event(
            "ingest",
            {"source": drop},
            {"release": artifact_digest(clean), "origins": artifact_digest(raw)},
            len(origins),
        ),
        event("poison", {"release": artifact_digest(clean)}, {"marked": artifact_digest(made)}),
    ]
    publish(chain, made, steps, key, timestamp_url, **options)
    for number in range(2, length + 1):
        new = f"image-{number + 10}"
        ids = sorted(records)
        altered = ids[number % len(ids)]
        gone = [next(i for i in ids if i != altered)] if number % 2 == 0 else []
        tombstones = sorted({*tombstones, *gone})
        records = {i: one for i, one in records.items() if i not in gone}
        records[altered] = changed(records[altered], rng)
        records[new] = record(rng, new, number)
        parent = Release(chain.head).digest
        drop = hashlib.sha256(f"drop {number}".encode()).hexdigest()
        changes = {
            "schema_version": 1,
            "parent": parent,
            "drop": drop,
            "added": [new],
            "changed": [altered],
            "withdrawn": gone,
            "tombstones": tombstones,
        }
        write_release(made, records, version=str(number), parent=parent, changes=changes)
        inside = hashlib.sha256(f"images of drop {number}".encode()).hexdigest()
        steps = [
            event("update", {"images": inside, "previous": parent}, {"marked": artifact_digest(made)}),
            event("read drop", {"source": drop, "previous": parent}, {"images": inside}, 1),
        ]
        publish(chain, made, steps, key, timestamp_url, **options)
    return chain


def record(rng, image_id: str, number: int) -> Record:
    data = encode_png(rng.integers(0, 256, (16, 16), dtype=np.uint8))
    return Record(
        image_id=image_id,
        image=data,
        encoding="png",
        label=number % 2,
        patient_id=f"patient-{number}",
        split=("train", "test")[number % 2],
        width=16,
        height=16,
        bits=8,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def changed(one: Record, rng) -> Record:
    data = encode_png(rng.integers(0, 256, (16, 16), dtype=np.uint8))
    return replace(one, image=data, sha256=hashlib.sha256(data).hexdigest())


def write_release(folder: Path, records: dict[str, Record], **header) -> None:
    with ReleaseWriter(folder, name="chain", class_names=CLASSES, **header) as writer:
        for number, one in enumerate(records.values()):
            writer.add(one)
            if number == 1 and header["version"] == "1":
                writer.end_shard()


def event(name: str, inputs: dict, outputs: dict, files: int | None = None) -> dict:
    return step_event(name, inputs=inputs, outputs=outputs, parameters=PARAMETERS, seed=SEED, source_files=files)


def publish(chain: Chain, made: Path, steps: list[dict], key, timestamp_url, *, committed=True, now=None) -> None:
    """Commits, signs, and puts the release into the root under its digest."""
    release = Release(made)
    private = chain.root.parent / f"private-{len(chain.releases) + 1}"
    private.mkdir()
    evidence = copy_evidence(private / "evidence", release_digest=release.digest)
    record = public_record(made, write_steps(evidence, steps), verdict="owned")
    (private / "record.json").write_bytes(canonical_json(record))
    if committed:
        commit(made, evidence, key, private / "commitment.json", timestamp_url=timestamp_url, now=now)
    sign_lineage(
        made,
        private / "record.json",
        key,
        commitment=private / "commitment.json" if committed else None,
        parent=chain.releases[-1] if chain.releases else None,
        now=now,
    )
    chain.root.mkdir(exist_ok=True)
    chain.releases.append(Path(shutil.move(made, chain.root / release.digest)))
    chain.private.append(private)
