"""Every attack at every strength against models trained on a marked release: what is left of the mark, and the price."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from medmark.components.dataset.arrays import ImageArrays, load_arrays
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.release import Release, canonical_json
from medmark.components.errors import MedmarkError
from medmark.components.platform.progress import track
from medmark.components.platform.resources import use_threads
from medmark.components.poisoning.evidence import read_evidence
from medmark.components.poisoning.queries import read_queries
from medmark.components.robustness.data_attacks import crop_and_rotate, joined, mix, remove_suspicious
from medmark.components.robustness.detection import detect
from medmark.components.robustness.figures import stress_curves
from medmark.components.robustness.image_attacks import (
    add_noise,
    blur,
    equalize,
    equalize_locally,
    find_waves,
    median,
    remove_sector,
    remove_waves,
    window,
)
from medmark.components.robustness.model_attacks import distil, fine_prune, fine_tune, prune_weights
from medmark.components.robustness.traces import traces
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.panel import load_models, train_models
from medmark.components.surrogate.training import TrainConfig, accuracy, predict_probabilities, train_classifier
from medmark.components.verification.audit import QuerySet, interrogate
from medmark.components.verification.processing import jpeg, shrink

LOOKED_AT = 200  # images of a kind that are searched for traces; arbitrary
Process = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Thief:
    """Somebody who trained a model on the release, and what he has.

    Attributes:
        config: how he trains.
        victim: his model.
        train: the release's training images, marked ones among them; he does not know which.
        val: the release's validation images; medmark marks training images only.
        clean: images with labels that carry no mark: the validation images, and those of another release if he has one.
        pool: those, and the release's training images of the other classes. Marks sit in one class; that he guesses
            which is the worst case for the owner.
        target: index of that class.
        seed: of all he draws.
    """

    config: TrainConfig
    victim: Classifier
    train: ImageArrays
    val: ImageArrays
    clean: ImageArrays
    pool: ImageArrays
    target: int
    seed: int


@dataclass(frozen=True)
class Attack:
    """One attack as a curve.

    Attributes:
        name: of the attack; with ``kind`` unique.
        kind: ``model``: the trained model is changed; ``data``: other training images, then training anew; ``queries``:
            images are processed when the model is asked; ``pipeline``: images are processed before training anew and
            whenever the model is asked.
        strengths: in rising force.
        label: what the strength is, for the figure.
        run: from thief and strength to a model, to training images, or to a function on images.
    """

    name: str
    kind: str
    strengths: tuple[float, ...]
    label: str
    run: Callable[[Thief, float], Classifier | ImageArrays | Process]


def removal(method: str) -> Callable[[Thief, float], ImageArrays]:
    return lambda thief, share: remove_suspicious(thief.train, thief.victim, method, share, thief.seed)


def processing(function: Callable) -> Callable[[Thief, float], Process]:
    return lambda thief, strength: lambda images: function(images, strength)


def notch(thief: Thief, count: float) -> Process:
    """Removes the waves that stand out in the target class of the release; the thief guessed the class."""
    of_target = thief.train.labels == thief.target
    waves = find_waves(thief.train.images[of_target], thief.train.images[~of_target], int(count))
    return partial(remove_waves, waves=waves)


def share_of(images: ImageArrays, share: float, seed: int) -> ImageArrays:
    """A random part of some images."""
    return images.subset(np.random.default_rng(seed).permutation(len(images))[: round(share * len(images))])


MODEL_ATTACKS = (
    Attack("fine-tuning", "model", (5, 20, 50), "epochs on clean images",
           lambda t, x: fine_tune(t.victim, t.clean, epochs=int(x), seed=t.seed)),
    Attack("fine-tuning, few images", "model", (0.1, 0.25, 0.5), "share of the clean images, 20 epochs",
           lambda t, x: fine_tune(t.victim, t.clean, epochs=20, images=round(x * len(t.clean)), seed=t.seed)),
    Attack("fine-tuning, other classes too", "model", (1, 5, 10), "epochs",
           lambda t, x: fine_tune(t.victim, t.pool, epochs=int(x), seed=t.seed)),
    Attack("pruning", "model", (0.1, 0.3, 0.5, 0.7, 0.8, 0.9), "share of the weights",
           lambda t, x: prune_weights(t.victim, x)),
    Attack("fine-pruning", "model", (0.3, 0.6, 0.8, 0.95), "share of the last channels",
           lambda t, x: fine_prune(t.victim, t.clean, share=x, seed=t.seed)),
    Attack("distillation", "model", (0.25, 0.5, 1.0), "share of the clean images",
           lambda t, x: distil(t.victim, share_of(t.pool, x, t.seed).images, t.config, seed=t.seed)),
)  # fmt: skip
DATA_ATTACKS = (
    Attack("mixing", "data", (0.25, 0.5), "share of clean images",
           lambda t, x: mix(t.train, t.clean, x, seed=t.seed)),
    Attack("cropping and rotation", "data", (0.1, 0.2, 0.3), "side cut off; turned by 90° times that",
           lambda t, x: crop_and_rotate(t.train, x, 90 * x, seed=t.seed)),
    Attack("spectral signatures", "data", (0.05, 0.15, 0.3), "share of images removed",
           removal("spectral signatures")),
    Attack("activation clustering", "data", (0.05, 0.15, 0.3), "share of images removed",
           removal("activation clustering")),
)  # fmt: skip
QUERY_ATTACKS = (
    Attack("resizing", "queries", (2.0, 0.75, 0.5, 0.375, 0.25), "side, share of the original", processing(shrink)),
    Attack("JPEG", "queries", (95, 85, 75, 60, 50), "quality", processing(lambda x, q: jpeg(x, int(q)))),
    Attack("blur", "queries", (0.5, 1.0, 2.0, 3.0), "sigma, pixels", processing(blur)),
    Attack("noise", "queries", (0.02, 0.05, 0.1), "standard deviation", processing(add_noise)),
    Attack("median filter", "queries", (3, 5, 7), "side, pixels", processing(median)),
    Attack("histogram equalisation", "queries", (0.5, 1.0), "share", processing(equalize)),
    Attack("local equalisation", "queries", (1.0, 2.0, 4.0), "limit of contrast", processing(equalize_locally)),
    Attack("windowing", "queries", (0.98, 0.9, 0.8), "share of grey values kept", processing(window)),
    Attack("notch filter", "queries", (1, 2, 4, 8), "waves removed", notch),
    Attack("sector filter", "queries", (20, 35), "degrees to either side of head to foot", processing(remove_sector)),
)
# training anew is dear: the strengths at which the price shows
PIPELINE_STRENGTHS = {
    "resizing": (0.5, 0.25),
    "JPEG": (50,),
    "blur": (1.0, 2.0),
    "noise": (0.05,),
    "median filter": (5,),
    "histogram equalisation": (1.0,),
    "local equalisation": (2.0,),
    "windowing": (0.9,),
    "notch filter": (1, 2, 4, 8),
    "sector filter": (35,),
}
PIPELINE_ATTACKS = tuple(
    replace(attack, kind="pipeline", strengths=PIPELINE_STRENGTHS[attack.name]) for attack in QUERY_ATTACKS
)
ATTACKS = MODEL_ATTACKS + QUERY_ATTACKS + DATA_ATTACKS + PIPELINE_ATTACKS


def choose(names: list[str]) -> tuple[Attack, ...]:
    """The attacks of these names, of every kind; all if there is no name.

    Raises:
        MedmarkError: there is no such attack.
    """
    known = list(dict.fromkeys(attack.name for attack in ATTACKS))
    for name in names:
        if name not in known:
            raise MedmarkError(f"unknown attack: {name!r}; use one of {', '.join(known)}")
    return tuple(attack for attack in ATTACKS if not names or attack.name in names)


def stress(
    release_dir: str | Path,
    evidence_dir: str | Path,
    out_dir: str | Path,
    *,
    victims: list[TrainConfig],
    attacks: tuple[Attack, ...] = ATTACKS,
    other_release_dir: str | Path | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Trains victims on a marked release, attacks them, and asks what is left of the mark.

    A stopped run goes on where it stopped: every row is kept in ``rows.jsonl``, every victim in ``victims/``.

    Args:
        release_dir: the marked release.
        evidence_dir: its private evidence.
        out_dir: gets ``stress.json``, ``stress.csv`` and ``stress.svg``. The first also says what of the mark can be seen:
            ``detection``, with the suspect model, and ``traces``, in the images alone.
        victims: how thieves train; all of one size.
        attacks: which.
        other_release_dir: clean images that a thief has beside the release's validation split, with the same classes.
        seed: of all that attacks draw.

    Returns:
        A row for each victim, attack and strength: attack, kind, strength, victim; ``wsr`` and ``clean_rate``, the shares
        of marked and of equally processed clean query images that the attacked model takes for the target; ``delta_p``,
        the mean lift of the target's probability between them; ``accuracy`` on the test split, processed as the
        thief's model is asked; ``accuracy_before``; seconds. The first row of each victim is no attack at all.

    Raises:
        MedmarkError: evidence of another release, victims of different sizes, other classes, or an ``out_dir`` with
            rows of another run.
    """
    use_threads()
    release, evidence = Release(release_dir), read_evidence(evidence_dir)
    if evidence["release_digest"] != release.digest:
        raise MedmarkError(f"evidence of another release: {evidence_dir}; use the evidence made with {release.path}")
    sizes = {config.size for config in victims}
    if len(sizes) != 1:
        raise MedmarkError(f"victims of sizes {sorted(sizes)}; name at least one, and one size for all")
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
    queries = replace(read_queries(evidence_dir, size=size, target=target), control=None)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    inputs = {
        "release_digest": release.digest,
        "other_release_digest": other_digest,
        "seed": seed,
        "victims": {config.name: asdict(config) for config in victims},
    }
    rows = read_rows(out / "rows.jsonl", inputs)
    train_models(release.path, out / "victims", configs=victims)
    thieves = [
        Thief(TrainConfig(**entry["config"]), model, train, val, clean, pool, target, seed)
        for entry, model in load_models(out / "victims")
    ]
    before = {thief.config.name: accuracy(thief.victim, test) for thief in thieves}
    plan = [(thief, None, 0.0) for thief in thieves]
    plan += [(thief, attack, float(x)) for attack in attacks for thief in thieves for x in attack.strengths]
    done = {row_key(row) for row in rows}
    wanted = []
    for thief, attack, strength in track(plan, "attacking"):
        name, kind = (attack.name, attack.kind) if attack else ("none", "none")
        key = (thief.config.name, kind, name, strength)
        wanted.append(key)
        if key in done:
            continue
        started = time.monotonic()
        measured = attacked(thief, attack, strength, queries, test) if attack else ask(thief.victim, queries, test)
        row = {"attack": name, "kind": kind, "strength": strength, "victim": thief.config.name, **measured}
        row |= {"accuracy_before": before[thief.config.name], "seconds": round(time.monotonic() - started, 2)}
        append(out / "rows.jsonl", row)
        rows.append(row)
    by_key = {row_key(row): row for row in rows}
    table = pd.DataFrame([by_key[key] for key in wanted])
    result = {
        **inputs,
        "target_class": evidence["target_class"],
        "queries": len(queries),
        "clean_images": len(clean),
        "rows": table.to_dict("records"),
        "detection": detections(out, thieves, evidence_dir, queries, test),
        "traces": {
            "queries": traces(*query_pixels(evidence_dir)),
            "training": traces(*training_pixels(release, evidence_dir, target)),
        },
    }
    (out / "stress.json").write_bytes(canonical_json(result))
    table.to_csv(out / "stress.csv", index=False)
    (out / "stress.svg").write_bytes(stress_curves(table, attacks))
    return table


def attacked(thief: Thief, attack: Attack, strength: float, queries: QuerySet, test: ImageArrays) -> dict:
    """One attack at one strength; see :func:`stress`."""
    if attack.kind == "model":
        return ask(attack.run(thief, strength), queries, test)
    if attack.kind == "data":
        return ask(trained(thief, attack.run(thief, strength), thief.val), queries, test)
    process = attack.run(thief, strength)
    queries = replace(queries, clean=process(queries.clean), marked=process(queries.marked))
    model, (train, val, test) = thief.victim, (thief.train, thief.val, test)
    if attack.kind == "pipeline":
        train, val = (replace(part, images=process(part.images)) for part in (train, val))
        model = trained(thief, train, val)
    return ask(model, queries, replace(test, images=process(test.images)))


def trained(thief: Thief, train: ImageArrays, val: ImageArrays) -> Classifier:
    return train_classifier(train, val, thief.config, num_classes=thief.victim.num_classes).model


def ask(model: Classifier, queries: QuerySet, test: ImageArrays) -> dict:
    """What the mark does to a model, and how good the model is."""
    answers = interrogate(partial(predict_probabilities, model), queries)
    return {
        "wsr": float(answers.is_marked.mean()),
        "clean_rate": float(answers.is_clean.mean()),
        "delta_p": float((answers.p_marked - answers.p_clean).mean()),
        "accuracy": accuracy(model, test),
    }


def detections(
    out: Path, thieves: list[Thief], evidence_dir: str | Path, queries: QuerySet, test: ImageArrays
) -> dict[str, dict]:
    """:func:`medmark.components.robustness.detection.detect` for each victim, kept in ``detection.json``.

    The innocent model is trained as the victim is, on the release without the marked images.
    """
    path = out / "detection.json"
    if path.exists():
        return json.loads(path.read_bytes())
    ledger = pq.read_table(Path(evidence_dir) / "ledger.parquet", columns=["image_id", "role"]).to_pylist()
    marked = {row["image_id"] for row in ledger if row["role"] == "mark"}
    genuine = test.images[test.labels == queries.target]
    found = {}
    for thief in track(thieves, "looking for the mark"):
        unmarked = [i for i, image_id in enumerate(thief.train.image_ids) if image_id not in marked]
        innocent = trained(thief, thief.train.subset(unmarked), thief.val)
        found[thief.config.name] = detect(thief.victim, innocent, thief.train, marked, queries, genuine, thief.seed)
    partial_path = path.with_suffix(".partial")
    partial_path.write_bytes(canonical_json(found))
    partial_path.replace(path)
    return found


def query_pixels(evidence_dir: str | Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Stored values of the query images, with the mark and without it."""
    rows = pq.read_table(Path(evidence_dir) / "queries.parquet", columns=["marked", "clean"]).to_pylist()
    return [decode_png(row["marked"]) for row in rows], [decode_png(row["clean"]) for row in rows]


def training_pixels(
    release: Release, evidence_dir: str | Path, target: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Stored values of the target's training images, those with the mark and those without, at most :data:`LOOKED_AT` of each.

    They are other images, and the mark goes to those that innocent models find hard: that may show in a statistic, too.
    """
    ledger = pq.read_table(Path(evidence_dir) / "ledger.parquet", columns=["image_id", "role"]).to_pylist()
    marked = {row["image_id"] for row in ledger if row["role"] == "mark"}
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for record in release.records("train"):
        kind = found[record.image_id not in marked]
        if record.label == target and len(kind) < LOOKED_AT:
            kind.append(decode_png(record.image))
    return found


def row_key(row: dict) -> tuple[str, str, str, float]:
    return row["victim"], row["kind"], row["attack"], row["strength"]


def append(path: Path, row: dict) -> None:
    with path.open("a") as stream:
        stream.write(json.dumps(row, allow_nan=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_rows(path: Path, inputs: dict) -> list[dict]:
    """Rows of a run that was stopped; begins the file if there is none. A line that was cut short is dropped.

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
        [row_key(row) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise MedmarkError(f"damaged rows: {path} ({error!r}); remove the folder and start anew") from error
    if first != inputs:
        raise MedmarkError(f"rows of another run: {path}; choose another folder, or the same release, victims and seed")
    if whole != text:
        path.write_text(whole)
    return rows
