"""A finished run of tiny images and untrained networks, and drops for it: what an update needs, made in a second."""

import csv
import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.dataset.drop import read_drop
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.release import Release
from medmark.components.evidence.keep import keep_for_updates
from medmark.components.evidence.queries import read_queries
from medmark.components.generator.key import draw_key
from medmark.components.generator.marker import Marker, Shape
from medmark.components.generator.network import ConditionalUNet
from medmark.components.poisoning.poison import poison
from medmark.components.poisoning.update import update
from medmark.components.saliency.extract import extract
from medmark.components.surrogate.networks import build, save_classifier
from medmark.components.surrogate.training import TrainConfig, predict_probabilities
from medmark.components.verification.interrogation import interrogate
from medmark.components.verification.key_test import ask_waves
from medmark.components.verification.scenarios import table
from medmark.components.verification.sealing import seal_evidence
from medmark.components.verification.verdict import Thresholds
from PIL import Image

SIDE, CLASSES, SEED, KEY = 32, ["normal", "pneumonia"], 2**40 + 7, "c0ffee" * 8
MARKED, DECOYS = 0.4, 0.2  # of the training images of the target class, normal, and of the other


def pixels(number: int, side: int = SIDE) -> np.ndarray:
    """Image ``number``: smooth, with some grain; each is another."""
    rng = np.random.default_rng((7, number))
    coarse = Image.fromarray(rng.integers(60, 190, (4, 4)).astype(np.uint8)).resize((side, side), Image.BICUBIC)
    return np.asarray(coarse) + rng.integers(0, 8, (side, side)).astype(np.uint8)


def write_table(
    folder: Path, rows: list[tuple[str, str, str, np.ndarray]], withdrawn: dict[str, list[str]] | None = None
) -> Path:
    """A drop as a CSV with images: path, label, patient and pixels of each; returns the CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, _, _, image in rows:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    with open(folder / "labels.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("path", "label", "patient_id"), *((p, c, who) for p, c, who, _ in rows)])
    for column, values in (withdrawn or {}).items():
        (folder / "withdrawn.csv").write_text("\n".join([column, *values]) + "\n")
    return folder / "labels.csv"


def first_rows(count: int) -> list[tuple[str, str, str, np.ndarray]]:
    """Half of each class; every third patient has two images."""
    return [
        (f"scans/i{n:03d}.png", CLASSES[n % 2], f"patient-{n % 2}-{n // 2 * 3 // 4}", pixels(n)) for n in range(count)
    ]


def write_models(folder: Path, release: Release, names: list[str]) -> Path:
    """Untrained classifiers as train_models leaves them."""
    folder.mkdir(parents=True)
    entries = []
    for seed, name in enumerate(names):
        path = folder / f"{name}.safetensors"
        save_classifier(build("small_cnn", num_classes=2, size=SIDE, seed=seed), path)
        config = TrainConfig(name=name, size=SIDE, epochs=1, seed=seed)
        entry = {"name": name, "file": path.name, "architecture": "small_cnn", "seed": seed, "test_accuracy": 0.5}
        entries.append({**entry, "history": [], "seconds": 0.0, "sha256": file_sha256(path), "config": vars(config)})
    (folder / "models.json").write_bytes(canonical_json({"release_digest": release.digest, "models": entries}))
    return folder


def make_run(folder: Path, source: Path | None = None, *, count: int = 80, hold_back: float = 0.0, **options) -> Path:
    """``release/``, ``evidence/`` and ``keep/`` of a first marking.

    Args:
        folder: to make; also gets ``raw/`` and ``clean/``.
        source: what is ingested, with ``options``; a CSV with ``count`` images when None.
        hold_back: see ``poison``.
    """
    if source is None:
        source = write_table(folder / "raw", first_rows(count))
        options = {"label_column": "label", "patient_key": KEY, **options}
    clean = ingest(source, folder / "clean", private=folder / "origins", name="tiny", seed=3, **options)
    models = write_models(folder / "models", clean, ["surrogate-00"])
    extract(clean.path, models / "surrogate-00.safetensors", folder / "maps")
    training = sorted((r.label, r.image_id) for r in clean.records("train", columns=["image_id", "label", "split"]))
    roles = {}
    for label, role, share in ((0, "mark", MARKED), (1, "decoy", DECOYS)):
        ids = [image_id for of, image_id in training if of == label]
        roles |= dict.fromkeys(ids[: round(share * len(ids))], role)
    for index, name in enumerate(("generator", "control")):
        torch.manual_seed(index)
        network, shape = ConditionalUNet().eval(), Shape(size=SIDE, grid=16)
        key = draw_key(SEED, index)
        Marker(network, key, shape, target=0, roles=roles, release_digest=clean.digest, seed=SEED).save(folder / name)
    places = [folder / name for name in ("generator", "control", "maps", "release", "bare")]
    poison(clean.path, *places, version="1", queries=100, surrogates_dir=models, hold_back=hold_back)
    queries = read_queries(folder / "bare", size=SIDE, target=0)
    benign_models = {f"benign-{n:02d}": build("small_cnn", num_classes=2, size=SIDE, seed=50 + n) for n in range(20)}
    scores = [
        table("innocent", name, queries, interrogate(partial(predict_probabilities, model.eval()), queries))
        for name, model in benign_models.items()
    ]
    waves = {  # few images: they take long, and these models answer nothing in particular
        name: ask_waves(partial(predict_probabilities, model), queries.clean[:2], 0)
        for name, model in list(benign_models.items())[:2]
    }
    seal_evidence(folder / "bare", folder / "evidence", pd.concat(scores), Thresholds(), waves=waves)
    keep_for_updates(
        folder / "clean", folder / "release", folder / "evidence", folder / "origins", models, folder / "keep"
    )
    return folder


def next_run(run: Path, source: Path, out: Path, *, version: str = "2", **options) -> dict:
    """Reads a drop and makes the next release, without checking the mark; returns what changed."""
    if source.suffix == ".csv":
        options = {"label_column": "label", **options}
    read_drop(source, run / "release", run / "keep", out / "drop", **options)
    before, after = ([folder / name for name in ("release", "evidence", "keep")] for folder in (run, out))
    return update(*before, out / "drop", *after, version=version)


def records(run: Path) -> dict:
    return {record.image_id: record for record in Release(run / "release").records()}


def roles(run: Path) -> dict[str, str]:
    return json.loads((run / "evidence" / "generator" / "selection.json").read_bytes())


def clean_digests(run: Path) -> dict[str, str]:
    """SHA-256 of each image as encoded without a mark."""
    import pyarrow.parquet as pq

    rows = pq.read_table(run / "keep" / "sources.parquet").to_pylist()
    return {row["image_id"]: row["image_sha256"] for row in rows if row["image_id"]}


def published(run: Path) -> str:
    """SHA-256 over the names and bytes of all files of the release."""
    files = sorted(path for path in (run / "release").rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()
