"""The three scenarios that a mark must pass before its release goes out.

Malicious: a model trained on the release is recognised. Independent model: models trained without the mark are not
accused. Independent trigger: the adversary's model is not set off by another generator's mark.
"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.evidence.answers import Answers
from medmark.components.evidence.queries import QuerySet
from medmark.components.verification.audit import AuditResult, Suspect, interrogate, judge
from medmark.components.verification.processing import PROCESSINGS
from medmark.components.verification.verdict import Thresholds


def verify(
    marked_models: dict[str, Suspect], benign_models: dict[str, Suspect], queries: QuerySet, thresholds: Thresholds
) -> tuple[dict, pd.DataFrame]:
    """Runs the scenarios.

    Each benign model is audited as a suspect, calibrated on all the others (leave one out).

    Args:
        marked_models: models trained on the release, by name.
        benign_models: models trained without the mark, by name; at least two.
        queries: see :class:`medmark.components.evidence.queries.QuerySet`.
        thresholds: fixed beforehand.

    Returns:
        The statistical part of ``verdict.json``: ``verdict`` (``owned`` only if every marked model is, no benign model is
        accused and no control mark fires; ``not_owned`` if a marked model gets away; else ``inconclusive``), ``reasons``
        against it, ``malicious`` (the weakest marked model), ``victims``, ``independent_models``, ``independent_trigger``,
        ``robustness``, ``thresholds``; and a table of every answer: role (``victim`` or ``innocent``), model, image_id
        and the columns of :class:`medmark.components.evidence.answers.Answers`.

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
    everyone = list(asked.values())
    owned = [judge(name, answers, everyone, thresholds) for name, answers in caught.items()]
    cleared = leave_one_out(asked, thresholds)
    weakest = min(owned, key=lambda result: result.effect.delta_p)
    accused = [result.name for result in cleared if is_accused(result)]
    fired = [result.name for result in owned if result.control and result.control.t_p_value < thresholds.alpha]
    reasons = [f"{r.name}: {s}" for r in owned for s in (*r.decision.failed, *r.decision.missing)]
    reasons += [f"{name}: benign model accused" for name in accused]
    reasons += [f"{name}: set off by another generator's mark" for name in fired]
    if any(result.decision.verdict == "not_owned" for result in owned):
        verdict = "not_owned"
    elif accused or any(result.decision.verdict != "owned" for result in owned):
        verdict = "inconclusive"
    else:
        verdict = "owned"
    controls = [result.control.delta_p for result in owned if result.control]
    report = {
        "verdict": verdict,
        "reasons": reasons,
        "malicious": summary(weakest),
        "victims": [summary(result) for result in owned],
        "independent_models": {
            "count": len(cleared),
            "accused": len(accused),
            "max_delta_p": max(result.effect.delta_p for result in cleared),
            "models": [summary(result) for result in cleared],
        },
        "independent_trigger": {
            "accused": len(fired),
            "delta_p": max(controls) if controls else None,
        },
        "robustness": robustness(marked_models, benign_models, queries, thresholds),
        "thresholds": vars(thresholds).copy(),
    }
    rows = [table("victim", name, queries, answers) for name, answers in caught.items()]
    rows += [table("innocent", name, queries, answers) for name, answers in asked.items()]
    return report, pd.concat(rows, ignore_index=True)


def leave_one_out(asked: dict[str, Answers], thresholds: Thresholds) -> list[AuditResult]:
    """Audits each benign model as a suspect, compared with all the others."""
    return [
        judge(name, answers, [other for n, other in asked.items() if n != name], thresholds)
        for name, answers in asked.items()
    ]


def is_accused(result: AuditResult) -> bool:
    """Whether a benign model would be called an adversary, were enough benign models and a control at hand.

    Stricter for us than the verdict: proofs that are merely missing do not protect the benign here.
    """
    return not result.decision.failed


def summary(result: AuditResult) -> dict:
    """One audit as JSON."""
    return {
        "name": result.name,
        "verdict": result.decision.verdict,
        "wsr": result.labels.wsr,
        "clean_rate": result.labels.clean_rate,
        "delta_p": result.effect.delta_p,
        "delta_p_ci95": list(result.effect.delta_p_ci95),
        "t_p_value": result.effect.t_p_value,
        "wilcoxon_p_value": result.effect.wilcoxon_p_value,
        "bound_p_value": result.effect.bound_p_value,
        "label_only_p_value": result.labels.p_value,
        "conformal_p_value": result.conformal_p_value,
        "conformal_resolution": result.conformal_resolution,
        "control_delta_p": result.control.delta_p if result.control else None,
        "control_t_p_value": result.control.t_p_value if result.control else None,
        "contrast_delta_p": result.contrast.delta_p if result.contrast else None,
        "contrast_t_p_value": result.contrast.t_p_value if result.contrast else None,
        "contrast_bound_p_value": result.contrast.bound_p_value if result.contrast else None,
        "queries": result.effect.n,
        "passed": result.decision.passed,
        "failed": result.decision.failed,
        "missing": result.decision.missing,
    }


def robustness(
    marked_models: dict[str, Suspect], benign_models: dict[str, Suspect], queries: QuerySet, thresholds: Thresholds
) -> list[dict]:
    """Every model audited again on images processed alike.

    Returns:
        A row for every model, kind and strength: target rates of marked and clean images, ``delta_p`` between them, and
        ``accused``: whether all tests pass, for a marked model or, leave one out, for a benign model.
    """
    rows = []
    steps = [(kind, process, x) for kind, (process, strengths) in PROCESSINGS.items() for x in strengths]
    for kind, process, strength in track(steps, "resizing and JPEG curves"):
        processed = replace(
            queries,
            clean=process(queries.clean, strength),
            marked=process(queries.marked, strength),
            control=None if queries.control is None else process(queries.control, strength),
        )
        # without the control's proofs a benign model is accused sooner: stricter for us, and a third cheaper
        unguarded = replace(processed, control=None)
        asked = {name: interrogate(model, unguarded) for name, model in benign_models.items()}
        caught = {name: interrogate(model, processed) for name, model in marked_models.items()}
        everyone = list(asked.values())
        results = [("victim", judge(name, answers, everyone, thresholds)) for name, answers in caught.items()]
        results += [("innocent", result) for result in leave_one_out(asked, thresholds)]
        rows += [
            {
                "processing": kind,
                "strength": strength,
                "role": role,
                "model": result.name,
                "wsr": result.labels.wsr,
                "clean_rate": result.labels.clean_rate,
                "delta_p": result.effect.delta_p,
                "accused": is_accused(result),
            }
            for role, result in results
        ]
    return rows


def table(role: str, model: str, queries: QuerySet, answers: Answers) -> pd.DataFrame:
    """Answers of one model, a row an image."""
    return pd.DataFrame({"role": role, "model": model, "image_id": queries.image_ids, **vars(answers)})
