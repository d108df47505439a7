"""Complete evidence with made-up images, and suspects that react to its mark as much as a test wants."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import encode_png
from medmark.components.evidence.evidence import EVIDENCE_SCHEMA_VERSION
from medmark.components.evidence.key_answers import CYCLES, DEGREES, KeyAnswers
from medmark.components.evidence.queries import read_queries, write_query_rows
from medmark.components.generator.key import Key
from medmark.components.suspects.contract import Contract
from medmark.components.verification.interrogation import interrogate
from medmark.components.verification.key_test import IMAGES, ask_waves
from medmark.components.verification.scenarios import ASKED_FOR_KEY, table
from medmark.components.verification.sealing import seal_evidence
from medmark.components.verification.verdict import Thresholds

SIDE, COUNT, CLASSES = 16, 60, ["normal", "pneumonia"]
SEED = 1590  # draws a key of 4 cycles at 89 degrees, which is all but that of the stripes
STRIPES = np.where(np.arange(SIDE) % 4 < 2, 1.0, -1.0)[:, None] * np.ones(SIDE)


@dataclass
class Model:
    """A two-class suspect whose P(normal) grows with the stripes it sees, along (the mark) and across (the control).

    As a network does, it answers to stripes wherever they begin.
    """

    name: str
    reaction: float = 0.0
    to_control: float = 0.0
    label_only: bool = False
    fails_after: int = 10**9
    size: int = SIDE
    batch_size: int = 8
    answered: int = 0
    model: str = "cd" * 32
    description: dict | None = None

    @property
    def contract(self) -> Contract:
        """All of it."""
        answers = "labels" if self.label_only else "probabilities"
        return Contract(size=self.size, channels=1, answers=answers, input="x", output="y", classes=tuple(CLASSES))

    @property
    def identity(self) -> str:
        """Without what changes while it is asked."""
        return hashlib.sha256(f"{self.name} {self.label_only}".encode()).hexdigest()

    def close(self) -> None:
        """Nothing runs for it."""

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        if self.answered + len(images) > self.fails_after:
            raise MedmarkError(f"{self.name} went away; try again later")
        self.answered += len(images)
        shown = images[:, 0].double().numpy() - 0.5
        along, across = (seen(shown, pattern) for pattern in (STRIPES, STRIPES.T))
        logit = -3 + self.reaction * along + self.to_control * across + 8 * shown.mean(axis=(1, 2))
        p = 1 / (1 + np.exp(-logit))
        rows = np.stack([p, 1 - p], axis=1)
        return np.eye(2)[rows.argmax(axis=1)] if self.label_only else rows


def seen(shown: np.ndarray, stripes: np.ndarray) -> np.ndarray:
    """How much of the stripes there is in images, (N,): 1 in one that is marked with them."""
    shifted = np.roll(stripes, 1, axis=(0, 1))
    return np.hypot(*((shown * pattern).mean(axis=(1, 2)) / 0.1 for pattern in (stripes, shifted)))


def knows(key: Key, width: float = 1.0) -> KeyAnswers:
    """What a network answers to waves that learned a key, by a formula other than the test's."""
    octaves = np.log2(np.array(CYCLES) / key.cycles)[:, None] / (0.25 * width)
    asked = np.array(DEGREES)
    turns = (
        (side - key.degrees)[None] / (15 * width) for side in (asked, -asked, 180 - asked)
    )  # a wave and its mirror images
    log_odds = 6 * np.sqrt(sum((1 + octaves**2 + turn**2) ** -2.0 for turn in turns))
    return KeyAnswers(log_odds, log_odds / 6)


def write_evidence(folder: Path, *, benign_models: list[Model] | None = None) -> Path:
    """Complete evidence; 20 benign models that hardly react, unless others are given."""
    rng = np.random.default_rng(0)
    clean = np.stack([0.5 + 0.05 * rng.normal(size=(SIDE, SIDE)) + 0.05 * rng.normal() for _ in range(COUNT)])
    models = benign_models or [Model(f"benign-{i:02d}", reaction=0.02 * i - 0.1) for i in range(20)]
    return write_evidence_of(
        folder, clean=clean, marked=clean + 0.1 * STRIPES, control=clean + 0.1 * STRIPES.T, benign_models=models
    )


def write_evidence_of(
    folder: Path,
    *,
    clean: np.ndarray,
    marked: np.ndarray,
    control: np.ndarray,
    benign_models: list,
    target: int = 0,
    seed: int = SEED,
) -> Path:
    """Complete evidence with these query images, (N, S, S) in [0, 1], and the answers of named benign models."""
    bare = folder / "bare"
    (bare / "generator").mkdir(parents=True)
    rows = []
    for number, shown in enumerate(zip(clean, marked, control, strict=True)):
        images = (encode_png((x.clip(0, 1) * 255).round().astype(np.uint8)) for x in shown)
        stored = dict(zip(("clean", "marked", "control"), images, strict=True))
        rows.append({"image_id": f"image-{number:02d}", "label": 1 - target, "bits": 8, "dicom": None, **stored})
    write_query_rows(bare, rows)
    evidence = {
        "schema_version": EVIDENCE_SCHEMA_VERSION,
        "seed": seed,
        "release_digest": "ab" * 32,
        "class_names": CLASSES,
        "target_class": CLASSES[target],
        "files": {"queries.parquet": file_sha256(bare / "queries.parquet")},
    }
    (bare / "evidence.json").write_bytes(canonical_json(evidence))
    queries = read_queries(bare, size=clean.shape[-1], target=target)
    scores = pd.concat([table("innocent", m.name, queries, interrogate(m, queries)) for m in benign_models])
    waves = {m.name: ask_waves(m, queries.clean[:IMAGES], target) for m in benign_models[:ASKED_FOR_KEY]}
    seal_evidence(bare, folder / "evidence", scores, Thresholds(), waves=waves)
    return folder / "evidence"
