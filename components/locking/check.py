"""Checking a locked release before it goes out: the step that writes ``verdict.json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import ImageArrays, colour_tensor, resize
from medmark.components.dataset.release import Release
from medmark.components.locking.answers import CENTRE, CLEAN, LOCKED, RANDOM, Answers, Shown
from medmark.components.locking.attacks import ATTACKS, undo
from medmark.components.locking.evidence import read_lock_evidence
from medmark.components.locking.lesion_segmenter import compare_dice, load_lesion_segmenter, read_stated
from medmark.components.locking.lesions import find_lesions
from medmark.components.locking.lock import read_logos
from medmark.components.locking.locks import Lock, read_locks
from medmark.components.locking.pairs import box_on_grid, read_pairs
from medmark.components.locking.removal import Seen, train_remover
from medmark.components.locking.safety import Safety
from medmark.components.locking.seal import release_key
from medmark.components.locking.search import SearchConfig
from medmark.components.locking.verdict import LIMITS, LockThresholds, lock_proofs
from medmark.components.robustness.model_attacks import fine_tune
from medmark.components.surrogate.models import TrainedModel, load_models

TOGETHER = 32  # images that are looked at together; arbitrary
FINE_TUNED = (1, 5, 10)  # passes over the locked training images
FINE_TUNING, REMOVAL = "fine-tuning on locked images, passes", "removal network, training steps"


@dataclass(frozen=True)
class CheckOptions:
    """How a locked release is checked.

    Attributes:
        mark_key: secret that it was locked with, 64 hex digits.
        seed: of controls, tampering and training; secret, as that of the searches.
        search: that it was locked with.
        thresholds: fixed beforehand.
        removal_steps: batches that the removal network is trained with.
    """

    mark_key: str = field(repr=False)
    seed: int = field(repr=False)
    search: SearchConfig
    thresholds: LockThresholds
    removal_steps: int


def check_locks(
    clean_dir: str | Path,
    locked_dir: str | Path,
    evidence_dir: str | Path,
    models_dir: str | Path,
    unseen_dir: str | Path,
    segmenter_dir: str | Path,
    out_dir: str | Path,
    options: CheckOptions,
    *,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Measures what classifiers still see, tries to get past the locks, opens every one, and writes ``verdict.json``.

    Accuracies are shares of the test images that a classifier had right before they were locked. Beside them stand two controls: the same
    logo of the same size and opacity at a random place that is free of lesions, and in the centre, lesions or not.

    Args:
        clean_dir: release that was locked.
        locked_dir: the locked release.
        evidence_dir: its private evidence.
        models_dir: the classifiers that it was locked against.
        unseen_dir: classifiers that took no part, trained on the clean release.
        segmenter_dir: the segmenter of lesions that it was locked with.
        out_dir: gets ``verdict.json``.
        options: see :class:`CheckOptions`.
        seconds: of the steps before this one, by name.

    Returns:
        The content of ``verdict.json``.

    Raises:
        MedmarkError: things that do not belong together, or no locked image in the test split.
    """
    use_threads()
    clean, locked, evidence = Release(clean_dir), Release(locked_dir), read_lock_evidence(evidence_dir)
    if evidence["release_digest"] != locked.digest or evidence["clean_digest"] != clean.digest:
        raise MedmarkError(f"evidence of another release: {evidence_dir}; use the evidence made with {locked_dir}")
    models, unseen = load_models(models_dir), load_models(unseen_dir)
    segmenter = load_lesion_segmenter(segmenter_dir)
    locks, logos = read_locks(Path(evidence_dir)), read_logos(evidence_dir)
    rng = np.random.default_rng(options.seed)
    safety = Safety(clean.image_mode, release_key(options.mark_key, clean.digest))
    asked = [trained.model for trained in (*models, *unseen)]
    answers = Answers(asked, logos, clean.image_mode, options.search, rng)
    pairs = track(read_pairs(clean, locked, locks), "checking locks", len(locked))
    while chunk := list(islice(pairs, TOGETHER)):
        known = [(pair, find_lesions(pair.clean, clean.image_mode, models[0].model, segmenter)) for pair in chunk]
        for pair, lesions in known:
            safety.add(pair, lesions)
        answers.add([(pair, lesions) for pair, lesions in known if pair.clean.split == "test"])
    if not answers.labels:
        raise MedmarkError(f"no locked image in the test split: {locked_dir}; lock more images")
    kinds, stated = _Kinds(len(models)), read_stated(segmenter_dir)
    measured: dict[str, Any] = {
        **safety.found(rng),
        "accuracy": {
            name: {shown: kinds.of(answers.accuracy(shown))[name] for shown in (LOCKED, RANDOM, CENTRE)}
            for name in ("white_box", "black_box")
        },
    }
    measured["lesions"] |= {
        "segmenter": {name: stated[name] for name in ("likely", "chosen_on", "held_out", "dice", "boxed", "covered")}
    }
    decision = lock_proofs(measured, options.thresholds)
    train = _locked_images(locked, locks, answers.size)
    attacks = [
        *_processed(answers, kinds),
        *_fine_tuned(answers, kinds, train, options.seed),
        _removed(answers, kinds, train, options),
    ]
    verdict: dict[str, Any] = {
        "verdict": decision.verdict,
        "reasons": decision.reasons,
        "proofs": [asdict(proof) for proof in decision.proofs],
        **measured,
        "segmenter": compare_dice(segmenter, answers.attacked, clean),
        "models": _by_model(answers, models, unseen),
        "attacks": attacks,
        "strongest_attack": max(attacks, key=lambda row: sum(share or 0.0 for share in row[LOCKED].values())),
        "test_images": answers.images,
        "attacked_images": len(answers.labels),
        "left_out": len(clean) - len(locked),
        "limits": LIMITS,
        "thresholds": asdict(options.thresholds),
        "release_digest": locked.digest,
        "clean_digest": clean.digest,
        "certificates_root": evidence["certificates_root"],
        "dataset": {
            "name": locked.name,
            "version": locked.version,
            "images": len(locked),
            "counts": locked.counts,
            "class_names": locked.class_names,
            "image_mode": locked.image_mode,
        },
        "code_version": version("medmark"),
        "seconds": seconds,
    }
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    (out / "verdict.json").write_bytes(canonical_json(verdict))
    return verdict


@dataclass(frozen=True)
class _Kinds:
    """Which classifiers the locks were made against: the first ``seen``."""

    seen: int

    def of(self, accuracies: Sequence[float | None]) -> dict[str, float | None]:
        """Means over the classifiers of each kind; None where none had anything right."""
        parts = {"white_box": accuracies[: self.seen], "black_box": accuracies[self.seen :]}
        known = {name: [a for a in part if a is not None] for name, part in parts.items()}
        return {name: float(np.mean(part)) if part else None for name, part in known.items()}


@dataclass(frozen=True)
class _Locked:
    """Locked training images as an adversary has them, with their labels and the places of their logos."""

    arrays: ImageArrays
    seen: Seen


def _locked_images(locked: Release, locks: Sequence[Lock], size: int) -> _Locked:
    known = {lock.image_id: lock for lock in locks}
    records = [(record, known[record.image_id]) for record in locked.records("train")]
    images = torch.cat([resize(colour_tensor(record, locked.image_mode), size) for record, _ in records])
    arrays = ImageArrays(
        images,
        torch.tensor([record.label for record, _ in records]),
        [record.image_id for record, _ in records],
        [record.patient_id for record, _ in records],
    )
    return _Locked(
        arrays, Seen(images, [box_on_grid(lock, record.width, record.height, size) for record, lock in records])
    )


def _by_model(answers: Answers, models: list[TrainedModel], unseen: list[TrainedModel]) -> list[dict[str, Any]]:
    shares = {shown: answers.accuracy(shown) for shown in (LOCKED, RANDOM, CENTRE)}
    return [
        {
            "name": trained.entry["name"],
            "architecture": trained.entry["architecture"],
            "kind": "white_box" if number < len(models) else "black_box",
            "test_accuracy": trained.entry["test_accuracy"],
            "had_right": answers.had_right()[number],
            **{shown: share[number] for shown, share in shares.items()},
        }
        for number, trained in enumerate((*models, *unseen))
    ]


def _processed(answers: Answers, kinds: _Kinds) -> Iterator[dict[str, Any]]:
    for attack, (process, strengths) in ATTACKS.items():
        for strength in strengths:
            names: dict[str, Shown] = {LOCKED: (attack, strength, LOCKED)}
            if process is not undo:
                names[CLEAN] = (attack, strength, CLEAN)
            yield _row(attack, strength, {name: kinds.of(answers.accuracy(shown)) for name, shown in names.items()})


def _fine_tuned(answers: Answers, kinds: _Kinds, train: _Locked, seed: int) -> Iterator[dict[str, Any]]:
    """The first classifier of each kind goes on learning from the locked training images."""
    first = [number for number in (0, kinds.seen) if number < len(answers.models)]
    for passes in FINE_TUNED:
        right = {}
        for number in first:
            tuned = fine_tune(answers.models[number], train.arrays, epochs=passes, seed=seed % 2**31)
            right[number] = answers.shown_to(tuned)
        yield _row(
            FINE_TUNING,
            passes,
            {
                name: kinds.of(
                    [answers.share(right[n][name], n) if n in right else None for n in range(len(answers.models))]
                )
                for name in (LOCKED, CLEAN)
            },
        )


def _removed(answers: Answers, kinds: _Kinds, train: _Locked, options: CheckOptions) -> dict[str, Any]:
    remover = train_remover(
        train.seen,
        list(answers.logos.values()),
        scales=options.search.scales,
        steps=options.removal_steps,
        seed=options.seed % 2**31,
    )
    repaired = remover(Seen(torch.stack(answers.locked), answers.boxes))
    found = [answers.share(right, n) for n, right in enumerate(answers.right(repaired, np.array(answers.labels)))]
    return _row(REMOVAL, options.removal_steps, {LOCKED: kinds.of(found)})


def _row(attack: str, strength: float, found: dict[str, dict[str, float | None]]) -> dict[str, Any]:
    return {"attack": attack, "strength": strength, **found}
