"""Run every attack at every strength against models trained on a marked release: what is left of mark and verdict, at what price?"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from medmark.components.base.atomic import write_atomic
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import ImageArrays, load_arrays
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.release import Release
from medmark.components.evidence.answers import Answers, read_benign
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.key_answers import KeyAnswers, read_benign_waves
from medmark.components.evidence.ledger import read_ledger
from medmark.components.evidence.queries import QuerySet, query_ids, read_queries, read_query_rows
from medmark.components.generator.key import draw_key
from medmark.components.robustness.attacks import ATTACKS, Adversary, Attack, Process
from medmark.components.robustness.data_attacks import joined
from medmark.components.robustness.detection import detect
from medmark.components.robustness.figures import stress_curves
from medmark.components.robustness.traces import traces
from medmark.components.surrogate.models import load_models, train_models
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import TrainConfig, accuracy, predict_probabilities, train_classifier
from medmark.components.verification.exact_tests import KnownImages, ask_about_images
from medmark.components.verification.interrogation import Suspect, interrogate
from medmark.components.verification.judgement import judge
from medmark.components.verification.key_test import IMAGES, ask_waves, key_test
from medmark.components.verification.verdict import Thresholds

LOOKED_AT = 200  # images of a kind that are searched for traces; arbitrary


def stress(
    release_dir: str | Path,
    evidence_dir: str | Path,
    out_dir: str | Path,
    *,
    marked_models: list[TrainConfig],
    attacks: tuple[Attack, ...] = ATTACKS,
    other_release_dir: str | Path | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Trains marked models on a marked release, attacks them, and asks what is left of the mark.

    A stopped run goes on where it stopped: every row is kept in ``rows.jsonl``, every marked model in ``victims/``.

    Args:
        release_dir: the marked release.
        evidence_dir: its private evidence; models are judged only if it is complete, as a finished mark-release leaves it.
        out_dir: gets ``stress.json``, ``stress.csv`` and ``stress.svg``. The first also says what of the mark can be seen:
            ``detection``, with the suspect model, and ``traces``, in the images alone.
        marked_models: how adversaries train; all of one size.
        attacks: which.
        other_release_dir: clean images that an adversary has beside the release's validation split, with the same classes.
        seed: of all that attacks draw.

    Returns:
        A row for each marked model, attack and strength: attack, kind, strength, marked model; ``wsr`` and ``clean_rate``, the shares
        of marked and of equally processed clean query images that the attacked model takes for the target; ``delta_p``,
        the mean delta-P of the target's probability between them; ``accuracy`` on the test split, processed as the
        adversary's model is asked; ``accuracy_before``; ``verdict``, what the check of a release would say of the attacked model, and
        ``lacks``, the proofs that fail, or, if none does, that are missing (the key is asked for if no other proof fails); seconds. The first row
        of each marked model is no attack at all.

    Raises:
        MedmarkError: evidence of another release, marked models of different sizes, other classes, or an ``out_dir`` with
            rows of another run.
    """
    use_threads()
    given, inputs = prepare(release_dir, evidence_dir, marked_models, other_release_dir, seed)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    rows = read_rows(out / "rows.jsonl", inputs)
    train_models(given.release.path, out / "victims", configs=marked_models)
    adversaries = [
        Adversary(
            TrainConfig(**entry["config"]),
            model,
            given.train,
            given.val,
            given.clean,
            given.pool,
            given.queries.target,
            seed,
        )
        for entry, model in load_models(out / "victims")
    ]
    table = attack_all(adversaries, attacks, given, out / "rows.jsonl", rows)
    queries, target = given.queries, given.queries.target
    result = {
        **inputs,
        "target_class": given.release.class_names[target],
        "queries": len(queries),
        "clean_images": len(given.clean),
        "rows": table.to_dict("records"),
        "detection": detections(out, adversaries, evidence_dir, queries, given.test),
        "traces": {
            "queries": traces(*query_pixels(evidence_dir)),
            "training": traces(*training_pixels(given.release, evidence_dir, target)),
        },
    }
    (out / "stress.json").write_bytes(canonical_json(result))
    table.to_csv(out / "stress.csv", index=False)
    (out / "stress.svg").write_bytes(stress_curves(table, attacks))
    return table


@dataclass(frozen=True)
class StressData:
    """What adversaries and owner have.

    Attributes:
        release: the marked release.
        train, val, test: its images.
        clean: images without the mark: the validation images, and those of another release if there is one.
        pool: those, and the training images of the other classes than the target.
        queries: what models are asked.
        judging: what models are judged by; None: the evidence is incomplete.
    """

    release: Release
    train: ImageArrays
    val: ImageArrays
    test: ImageArrays
    clean: ImageArrays
    pool: ImageArrays
    queries: QuerySet
    judging: Judging | None


@dataclass(frozen=True)
class Judging:
    """What complete evidence holds to judge a model.

    Attributes:
        benign: benign models' answers to the queries.
        waves: their answers to waves; none in evidence of before marks had a key.
        thresholds: fixed when the release was checked.
        seed: of the mark.
        about_images: asks a model what it knows of the published images.
    """

    benign: list[Answers]
    waves: list[KeyAnswers]
    thresholds: Thresholds
    seed: int
    about_images: Callable[[Suspect], KnownImages | None]

    @classmethod
    def read(cls, folder: str | Path, size: int) -> Judging | None:
        """Reads evidence for models of this size; None if it is incomplete."""
        evidence = read_evidence(folder)
        if "thresholds" not in evidence:
            return None
        seed = evidence["seed"]
        return cls(
            list(read_benign(folder, query_ids(folder)).values()),
            read_benign_waves(folder),
            Thresholds(**evidence["thresholds"]),
            seed,
            partial(ask_about_images, evidence_dir=folder, evidence=evidence, size=size),
        )

    def verdict(self, suspect: Suspect, answers: Answers, queries: QuerySet) -> dict[str, str]:
        """Judges a model by its answers to the queries, and by what it is asked besides; see :func:`stress`."""
        images = self.about_images(suspect)
        decision = judge("", answers, self.benign, self.thresholds, images=images).decision
        worth = not decision.failed or (images is not None and images.worth_the_key)
        if worth and self.waves:
            asked = ask_waves(suspect, queries.clean[:IMAGES], queries.target)
            key = key_test(asked, self.waves, draw_key(self.seed))
            decision = judge("", answers, self.benign, self.thresholds, key, images).decision
        state = {"not_owned": "fails", "inconclusive": "missing", "owned": None}[decision.verdict]
        lacks = [proof.name for proof in decision.proofs if proof.state == state]
        return {"verdict": decision.verdict, "lacks": ", ".join(lacks) or "nothing"}


def prepare(
    release_dir: str | Path,
    evidence_dir: str | Path,
    marked_models: list[TrainConfig],
    other_release_dir: str | Path | None,
    seed: int,
) -> tuple[StressData, dict[str, Any]]:
    """Reads what a stress test needs; see :func:`stress`.

    Returns:
        The images and queries, and what tells this stress test from others, as JSON.
    """
    release, evidence = Release(release_dir), read_evidence(evidence_dir)
    if evidence["release_digest"] != release.digest:
        raise MedmarkError(f"evidence of another release: {evidence_dir}; use the evidence made with {release.path}")
    sizes = {config.size for config in marked_models}
    if len(sizes) != 1:
        raise MedmarkError(f"marked models of sizes {sorted(sizes)}; name at least one, and one size for all")
    size = sizes.pop()
    target = release.class_index(evidence["target_class"])
    train, val, test = (load_arrays(release, split=split, size=size) for split in ("train", "val", "test"))
    clean, other_digest = val, None
    if other_release_dir is not None:
        other = Release(other_release_dir)
        if other.class_names != release.class_names:
            raise MedmarkError(
                f"classes {other.class_names} of {other.path} are not {release.class_names}; ingest alike"
            )
        clean, other_digest = joined(val, load_arrays(other, size=size)), other.digest
    pool = joined(clean, train.subset(np.flatnonzero((train.labels != target).numpy())))
    queries = read_queries(evidence_dir, size=size, target=target)
    inputs = {
        "release_digest": release.digest,
        "other_release_digest": other_digest,
        "seed": seed,
        "victims": {config.name: asdict(config) for config in marked_models},
    }
    return StressData(release, train, val, test, clean, pool, queries, Judging.read(evidence_dir, size)), inputs


def attack_all(
    adversaries: list[Adversary], attacks: tuple[Attack, ...], given: StressData, path: Path, rows: list[dict[str, Any]]
) -> pd.DataFrame:
    """Runs each attack at each strength against each marked model, after a row without any attack.

    Args:
        adversaries: with their marked models.
        attacks: which.
        given: queries and test images, and what models are judged by.
        path: gets a row as soon as it is measured.
        rows: of an earlier attempt, which are not measured again.
    """
    before = {adversary.config.name: accuracy(adversary.marked_model, given.test) for adversary in adversaries}
    plan: list[tuple[Adversary, Attack | None, float]] = [(adversary, None, 0.0) for adversary in adversaries]
    plan += [(adversary, attack, float(x)) for attack in attacks for adversary in adversaries for x in attack.strengths]
    measured = {row_key(row): row for row in rows}
    wanted = []
    for adversary, attack, strength in track(plan, "attacking"):
        name, kind = (attack.name, attack.kind) if attack else ("none", "none")
        key = (adversary.config.name, kind, name, strength)
        wanted.append(key)
        if key in measured:
            continue
        started = time.monotonic()
        row = {"attack": name, "kind": kind, "strength": strength, "victim": adversary.config.name}
        row |= attacked(adversary, attack, strength, given)
        row |= {"accuracy_before": before[adversary.config.name], "seconds": round(time.monotonic() - started, 2)}
        append(path, row)
        measured[key] = row
    return pd.DataFrame([measured[key] for key in wanted])


def attacked(adversary: Adversary, attack: Attack | None, strength: float, given: StressData) -> dict[str, Any]:
    """Measures what is left of the mark after one attack at one strength, or after none; see :func:`stress`."""
    if attack is None:
        return ask(adversary.marked_model, given)
    made = attack.run(adversary, strength)
    if isinstance(made, Classifier):
        return ask(made, given)
    if isinstance(made, ImageArrays):
        return ask(trained(adversary, made, adversary.val), given)
    model = adversary.marked_model
    if attack.kind == "pipeline":
        train, val = (replace(part, images=made(part.images)) for part in (adversary.train, adversary.val))
        model = trained(adversary, train, val)
    return ask(model, given, made)


def trained(adversary: Adversary, train: ImageArrays, val: ImageArrays) -> Classifier:
    return train_classifier(train, val, adversary.config, num_classes=adversary.marked_model.num_classes).model


def ask(model: Classifier, given: StressData, process: Process = lambda images: images) -> dict[str, Any]:
    """Measures what the mark does to a model that processes all images before it sees them, and how good the model is; judges it."""

    def suspect(images: torch.Tensor) -> np.ndarray:
        return predict_probabilities(model, process(images))

    answers = interrogate(suspect, given.queries)
    judged = {"verdict": "not judged", "lacks": "complete evidence"}
    return {
        "wsr": float(answers.is_marked.mean()),
        "clean_rate": float(answers.is_clean.mean()),
        "delta_p": float((answers.p_marked - answers.p_clean).mean()),
        "accuracy": accuracy(model, replace(given.test, images=process(given.test.images))),
        **(given.judging.verdict(suspect, answers, given.queries) if given.judging else judged),
    }


def detections(
    out: Path, adversaries: list[Adversary], evidence_dir: str | Path, queries: QuerySet, test: ImageArrays
) -> dict[str, dict]:
    """Runs :func:`medmark.components.robustness.detection.detect` for each marked model, and keeps it in ``detection.json``.

    The benign model is trained as the marked model is, on the release without the marked images.
    """
    path = out / "detection.json"
    if path.exists():
        return json.loads(path.read_bytes())
    ledger = read_ledger(evidence_dir, ["image_id", "role"])
    marked = {row["image_id"] for row in ledger if row["role"] == "mark"}
    genuine = test.images[test.labels == queries.target]
    found = {}
    for adversary in track(adversaries, "looking for the mark"):
        unmarked = [i for i, image_id in enumerate(adversary.train.image_ids) if image_id not in marked]
        benign = trained(adversary, adversary.train.subset(np.array(unmarked, dtype=int)), adversary.val)
        found[adversary.config.name] = detect(
            adversary.marked_model, benign, adversary.train, marked, queries, genuine, adversary.seed
        )
    write_atomic(path, canonical_json(found))
    return found


def query_pixels(evidence_dir: str | Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Reads the stored values of the query images, with the mark and without it."""
    rows = read_query_rows(evidence_dir, ["marked", "clean"])
    return [decode_png(row["marked"]) for row in rows], [decode_png(row["clean"]) for row in rows]


def training_pixels(
    release: Release, evidence_dir: str | Path, target: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Reads stored values of the target's training images with the mark and without it, at most :data:`LOOKED_AT` of each.

    They are other images, and the mark goes to those that benign models find hard: that may show in a statistic, too.
    """
    ledger = read_ledger(evidence_dir, ["image_id", "role"])
    marked = {row["image_id"] for row in ledger if row["role"] == "mark"}
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for record in release.records("train"):
        kind = found[record.image_id not in marked]
        if record.label == target and len(kind) < LOOKED_AT:
            kind.append(decode_png(record.image))
    return found


def row_key(row: dict[str, Any]) -> tuple[str, str, str, float]:
    return row["victim"], row["kind"], row["attack"], row["strength"]


def append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as stream:
        stream.write(json.dumps(row, allow_nan=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_rows(path: Path, inputs: dict[str, Any]) -> list[dict[str, Any]]:
    """Reads the rows of a run that was stopped, or begins the file. A line that was cut short is dropped.

    Raises:
        MedmarkError: the rows are of another run, or not rows.
    """
    if not path.exists():
        append(path, inputs)
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    try:
        first, *rows = [json.loads(line) for line in whole.splitlines()]
        [(row_key(row), row["verdict"]) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise MedmarkError(f"damaged rows: {path} ({error!r}); remove the folder and start anew") from error
    if first != inputs:
        raise MedmarkError(
            f"rows of another run: {path}; choose another folder, or the same release, marked models and seed"
        )
    if whole != text:
        path.write_text(whole)
    return rows
