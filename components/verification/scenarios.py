"""Run the three scenarios that a mark must pass before its release goes out.

Malicious: a model trained on the release is recognised. Independent model: models trained without the mark are not
accused. Independent trigger: the adversary's model is not set off by another generator's mark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pandas as pd
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.evidence.answers import Answers
from medmark.components.evidence.key_answers import KeyAnswers
from medmark.components.evidence.queries import QuerySet
from medmark.components.generator.key import Key
from medmark.components.verification.exact_tests import KnownImages
from medmark.components.verification.interrogation import Suspect, interrogate
from medmark.components.verification.jpeg_and_resize_curves import jpeg_and_resize_curves
from medmark.components.verification.judgement import Judgement, judge, leave_one_out, summary
from medmark.components.verification.key_test import IMAGES, ask_waves, key_test
from medmark.components.verification.verdict import Thresholds, decide_release

# ours: the last ones, those trained as the marked models are included. The key's p-value is exact with any, and each is asked 2,730 questions
ASKED_FOR_KEY = 6


class Checked(NamedTuple):
    """What the scenarios gave.

    Attributes:
        report: the statistical part of ``verdict.json``.
        answers: a row for each model and image.
        waves: benign models' answers to waves, by model.
    """

    report: dict[str, Any]
    answers: pd.DataFrame
    waves: dict[str, KeyAnswers]


def verify(
    marked_models: Mapping[str, Suspect],
    benign_models: Mapping[str, Suspect],
    queries: QuerySet,
    thresholds: Thresholds,
    key: Key,
    about_images: Callable[[Suspect], KnownImages | None] | None = None,
) -> Checked:
    """Runs the scenarios.

    Each benign model is audited as a suspect, calibrated on all the others (leave one out).

    Args:
        marked_models: models trained on the release, by name.
        benign_models: models trained without the mark, by name; at least two.
        queries: see :class:`medmark.components.evidence.queries.QuerySet`.
        thresholds: fixed beforehand.
        key: of the mark.
        about_images: asks a model what it knows of the published images, see
            :func:`medmark.components.verification.exact_tests.ask_about_images`; None: nothing is asked.

    Returns:
        The statistical part of ``verdict.json``: ``verdict`` and ``reasons`` against it (see
        :class:`medmark.components.verification.verdict.ReleaseDecision`), ``malicious`` (the weakest marked model), ``victims``, ``independent_models``, ``independent_trigger``,
        ``robustness``, ``thresholds``; and a table of every answer: role (``victim`` or ``innocent``), model, image_id
        and the columns of :class:`medmark.components.evidence.answers.Answers`; and answers to waves.

    Raises:
        MedmarkError: no marked model, or fewer than two benign models.
    """
    if not marked_models or len(benign_models) < 2:
        raise MedmarkError(
            f"{len(marked_models)} models trained on the release and {len(benign_models)} benign ones; at least 1 and 2 are"
            " needed to check a mark"
        )
    asked = {name: interrogate(model, queries) for name, model in track(benign_models.items(), "asking benign models")}
    caught = {name: interrogate(model, queries) for name, model in track(marked_models.items(), "asking marked models")}
    few = track(list(benign_models.items())[-ASKED_FOR_KEY:], "asking benign models for the key")
    clean = queries.clean[:IMAGES]
    waves = {name: ask_waves(model, clean, queries.target) for name, model in few}
    keys = {
        name: key_test(ask_waves(model, clean, queries.target), list(waves.values()), key)
        for name, model in marked_models.items()
    }
    benign = list(asked.values())
    known = {name: about_images(model) for name, model in marked_models.items()} if about_images else {}
    found = [judge(name, answers, benign, thresholds, keys[name], known.get(name)) for name, answers in caught.items()]
    cleared = leave_one_out(asked, thresholds)
    decision = decide_release({r.name: r.decision for r in found}, {r.name: r.decision for r in cleared})
    controls = [r.measured.control_delta_p for r in found if r.measured.control_delta_p is not None]
    report = {
        "verdict": decision.verdict,
        "reasons": decision.reasons,
        "malicious": summary(min(found, key=_strength)),
        "victims": [summary(result) for result in found],
        "independent_models": {
            "count": len(cleared),
            "accused": len(decision.accused),
            "max_delta_p": max(result.effect.delta_p for result in cleared),
            "models": [summary(result) for result in cleared],
        },
        "independent_trigger": {
            "accused": len(decision.set_off),
            "delta_p": max(controls) if controls else None,
        },
        "robustness": jpeg_and_resize_curves(marked_models, benign_models, queries, thresholds),
        "thresholds": vars(thresholds).copy(),
    }
    rows = [table("victim", name, queries, answers) for name, answers in caught.items()]
    rows += [table("innocent", name, queries, answers) for name, answers in asked.items()]
    return Checked(report, pd.concat(rows, ignore_index=True), waves)


def _strength(result: Judgement) -> tuple[int, float]:
    """Puts the model first that is recognised least."""
    return ("not_owned", "inconclusive", "owned").index(result.decision.verdict), result.effect.delta_p


def table(role: str, model: str, queries: QuerySet, answers: Answers) -> pd.DataFrame:
    """Makes a table of one model's answers, with a row for each image."""
    return pd.DataFrame({"role": role, "model": model, "image_id": queries.image_ids, **vars(answers)})
