"""Decide: list every proof, and say which verdict follows.

Both procedures end here: :func:`decide` when all queries were asked, as in the check of a release, and
:func:`decide_stopped` when questioning stopped early, as in an audit. Reports and terminal only format the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from medmark.components.base.errors import MedmarkError
from medmark.components.verification.statistics import MIN_PAIRS

# delta-P of the weakest adversary that is let go with chance alpha at most. Ours: marks are meant to give 0.8, but the fixed
# verdict with 100 queries recognises four in five adversaries with 0.38 too. At 0.5 a third of those would be let go, for 10
# instead of 13 queries with most benign suspects and 17 instead of 31 with those close to tau (``guilty`` in
# benchmarks/results/sequential_savings.json).
GUILTY = 0.4

# what each e-value of an audit is evidence for; "labels" is said of answers alone
CLAIMS = {
    "effect": "the mark raises the target's probability by more than {tau:g}",
    "contrast": "it does so by more than {tau:g} beyond the control mark",
    "labels": "it flips answers to the target more often than in benign models",
}

Verdict = Literal["owned", "not_owned", "inconclusive"]
State = Literal["holds", "fails", "missing", "not shown"]


@dataclass(frozen=True)
class Thresholds:
    """What is fixed before any suspect is asked.

    Attributes:
        alpha: level of the effect tests (t, signed-rank, bound, label-only); ours, stricter than the usual 0.05.
        tau: delta-P that a benign model may show; 0.2 as in published dataset-verification tests.
        conformal_alpha: level of the rank among benign models; 0.05 needs at least 19 of them.
        key_alpha: level of the key's rank among all keys; ours. 0.01 needs the 18 best of 1,800. A model that answers to the mark is
            accused, too, if all exact tests together reach this level.
        images_alpha: level at which the exact tests together suffice alone; ours, stricter because nothing else is asked for.
        min_queries: fewer queries leave the verdict open; ours. At 30 an adversary with delta-P 0.66 is recognised in 94 % of
            cases and one with 0.47 in 20 %; 100 queries recognise the latter in 99 %
            (measured: benchmarks/results/verification_error_rates.json).

    Raises:
        MedmarkError: a level outside (0, 0.5), tau outside [0, 1), or fewer queries than any test can use.
    """

    alpha: float = 0.01
    tau: float = 0.2
    conformal_alpha: float = 0.05
    min_queries: int = 30
    key_alpha: float = 0.01
    images_alpha: float = 0.001

    def __post_init__(self) -> None:
        levels = (self.alpha, self.conformal_alpha, self.key_alpha, self.images_alpha)
        if not all(0 < level < 0.5 for level in levels) or not 0 <= self.tau < 1 or self.min_queries < MIN_PAIRS:
            raise MedmarkError(
                f"thresholds {vars(self)} would not protect benign models; alpha, conformal_alpha, key_alpha and"
                f" images_alpha must be in (0, 0.5), tau in [0, 1), min_queries at least {MIN_PAIRS}"
            )


@dataclass(frozen=True)
class Proof:
    """One proof against a model.

    Attributes:
        name: of the proof.
        value: what was found, as text; empty if the p-value says it all.
        p_value: of the test; None if there is none.
        needed: what the p-value, or else the value, must be.
        state: ``holds``, ``fails``, ``missing`` if it could not be had, or ``not shown`` of a proof that speaks against nobody.
        meaning: what it means, in a sentence for people who do not test hypotheses.
        reason: all of it in one line, as ``verdict.json`` and ``audit.json`` list it.
    """

    name: str
    value: str
    p_value: float | None
    needed: str
    state: State
    meaning: str
    reason: str


@dataclass(frozen=True)
class Decision:
    """The proofs about one model, and what follows from them.

    Attributes:
        proofs: by the mark, in the order in which they are shown.
        together: by all exact tests; it suffices alone, and says nothing if it does not hold. None: not asked about published images.
    """

    proofs: tuple[Proof, ...]
    together: Proof | None = None

    @property
    def verdict(self) -> Verdict:
        """``owned`` if the exact tests together suffice, or if all proofs by the mark hold; else ``not_owned`` as soon as one fails, and
        ``inconclusive`` if one is missing."""
        return "not_owned" if self.failed else "inconclusive" if self.missing else "owned"

    @property
    def by_exact_tests(self) -> bool:
        """Whether the exact tests together suffice, so that no other proof is needed."""
        return self.together is not None and self.together.state == "holds"

    @property
    def passed(self) -> list[str]:
        """Reasons of the proofs that hold."""
        return ([self.together.reason] if self.together and self.by_exact_tests else []) + self._reasons("holds")

    @property
    def failed(self) -> list[str]:
        """Reasons of the proofs that fail; none if they are not needed."""
        return [] if self.by_exact_tests else self._reasons("fails")

    @property
    def missing(self) -> list[str]:
        """Reasons of the proofs that could not be had; none if they are not needed."""
        return [] if self.by_exact_tests else self._reasons("missing")

    @property
    def not_needed(self) -> list[str]:
        """Reasons of the proofs by the mark that do not hold and are not needed."""
        return [*self._reasons("fails"), *self._reasons("missing")] if self.by_exact_tests else []

    def fails(self, name: str) -> bool:
        """Whether the proof of this name fails."""
        return any(proof.name == name and proof.state == "fails" for proof in self.proofs)

    def _reasons(self, state: State) -> list[str]:
        return [proof.reason for proof in self.proofs if proof.state == state]


@dataclass(frozen=True)
class Measured:
    """The numbers that decide about one model that was asked all queries.

    Attributes:
        queries: images that it was asked about.
        t_p_value, wilcoxon_p_value, bound_p_value: of the mark's effect, see
            :class:`medmark.components.verification.statistics.Effect`.
        label_only_p_value: of the changed answers, see :class:`medmark.components.verification.statistics.LabelOnly`.
        conformal_p_value, conformal_resolution: of the rank among benign models.
        worst_benign: largest delta-P among these, -1 to 1.
        control_delta_p, control_t_p_value: effect of the control mark on the same images; None without one.
        contrast_delta_p, contrast_t_p_value, contrast_bound_p_value: effect of the mark beyond that of the control mark;
            None without one.
        key_p_value: of the key's rank, see :mod:`medmark.components.verification.key_test`; None if it was not asked for.
        together_p_value: of all exact tests together, see :mod:`medmark.components.verification.exact_tests`; None if it was not asked about
            published images.
    """

    queries: int
    t_p_value: float
    wilcoxon_p_value: float
    bound_p_value: float
    label_only_p_value: float
    conformal_p_value: float
    conformal_resolution: float
    worst_benign: float
    control_delta_p: float | None
    control_t_p_value: float | None
    contrast_delta_p: float | None
    contrast_t_p_value: float | None
    contrast_bound_p_value: float | None
    key_p_value: float | None
    together_p_value: float | None = None

    @classmethod
    def of(cls, model: dict[str, Any], *, worst_benign: float) -> Measured:
        """Takes the numbers of a model's entry in ``verdict.json``.

        Args:
            model: see :func:`medmark.components.verification.judgement.summary`.
            worst_benign: largest delta-P among the benign models it was compared with.
        """
        names = set(cls.__dataclass_fields__) - {"worst_benign", "together_p_value"}
        # verdicts of before there were variants have none, and at first it was of these alone
        together = model.get("together_p_value", model.get("images_p_value"))
        return cls(worst_benign=worst_benign, together_p_value=together, **{name: model[name] for name in names})


def decide(measured: Measured, thresholds: Thresholds) -> Decision:
    """Decides about one model that was asked all queries.

    A proof is missing with too few queries, with too few benign models for the level asked, if the mark itself sets off a
    benign model, and without a control generator.

    Args:
        measured: the numbers.
        thresholds: fixed beforehand.
    """
    few = measured.queries < thresholds.min_queries
    return Decision(
        (
            *([_too_few_queries(measured.queries, thresholds.min_queries)] if few else []),
            *_effect_proofs(measured, thresholds),
            *_benign_proofs(measured, thresholds),
            *_control_proofs(measured, thresholds),
            _key_proof(measured.key_p_value, measured.together_p_value, thresholds),
        ),
        _together_proof(measured.together_p_value, thresholds),
    )


def _tested(name: str, p: float, needed: str, holds: bool, meaning: str, *, value: str = "", said: str = "") -> Proof:
    """Makes a proof by a p-value; ``said`` is the value as its reason has it."""
    found = f"{said or value}, p = {p:.2g}" if said or value else f"p = {p:.2g}"
    state: State = "holds" if holds else "fails"
    return Proof(name, value, p, needed, state, meaning, f"{name}: {found} (needs {needed})")


def _too_few_queries(queries: int, needed: int) -> Proof:
    meaning = "With few images a test misses many models that were trained on the release."
    reason = f"{queries} queries, {needed} were asked for"
    return Proof("enough images", f"{queries}", None, f"{needed}", "missing", meaning, reason)


def _effect_proofs(measured: Measured, thresholds: Thresholds) -> list[Proof]:
    """Tests by four tests whether the mark moves the model."""
    alpha, tau = thresholds.alpha, thresholds.tau

    def below(name: str, p: float, meaning: str, said: str = "") -> Proof:
        return _tested(name, p, f"< {alpha:g}", p < alpha, meaning, said=said)

    return [
        below("t-test", measured.t_p_value,
              f"Chance of such a delta-P on these images if the true delta-P were no more than {tau:g}.",
              said=f"lift beyond {tau:g}"),
        below("signed-rank test", measured.wilcoxon_p_value,
              "The same by another test (Wilcoxon's), which a few extreme images cannot sway."),
        below("bound for any shape", measured.bound_p_value,
              "The same by a bound that holds however the images' reactions are spread; the two tests above can be fooled"
              " by odd shapes."),
        below("label-only test", measured.label_only_p_value,
              "The same when the model gives only its answer and no probability: chance of so many changed answers in a"
              " model that changes them as often as benign models may."),
    ]  # fmt: skip


def _benign_proofs(measured: Measured, thresholds: Thresholds) -> list[Proof]:
    """Tests whether the model stands out from benign models, and whether the mark leaves these alone."""
    level, resolution, tau = thresholds.conformal_alpha, measured.conformal_resolution, thresholds.tau
    proofs = []
    if resolution > level:
        proofs.append(_too_few_benign(round(1 / resolution) - 1, level))
    if measured.worst_benign > tau:
        # tau is what a benign model may show; with a mark that moves one further, the effect tests prove nothing
        proofs.append(_benign_beyond_tau(measured.worst_benign, tau, ": this mark is no evidence"))
    # with too few benign models the suspect must still stand above every one of them
    p, limit = measured.conformal_p_value, max(level, resolution)
    meaning = (
        "Chance that a model made like the benign ones would react at least as strongly; with so many of them it can be"
        f" shown to be {resolution:.3f} at the lowest."
    )
    reason = f"rank among benign models: p = {p:.2g} (needs <= {level:g})"
    state: State = "holds" if p <= limit else "fails"
    proofs.append(Proof("rank among benign models", "", p, f"<= {limit:.2g}", state, meaning, reason))
    return proofs


def _too_few_benign(count: int, level: float) -> Proof:
    needed = round(1 / level) - 1
    meaning = f"Among few benign models no rank is rare enough: {needed} show a chance of {level:g}."
    reason = f"{count} benign models, {needed} are needed for level {level:g}"
    return Proof("enough benign models", f"{count}", None, f"{needed}", "missing", meaning, reason)


def _benign_beyond_tau(worst: float, tau: float, consequence: str = "") -> Proof:
    meaning = "If the mark moves a model that never saw it, a reaction to the mark proves nothing."
    reason = f"a benign model shows a delta-P of {worst:.2f}, beyond {tau:g}{consequence}"
    return Proof("benign models left alone", f"{worst:.2f}", None, f"<= {tau:g}", "missing", meaning, reason)


def _control_proofs(measured: Measured, thresholds: Thresholds) -> list[Proof]:
    """Tests whether it is this mark and no other."""
    alpha, tau = thresholds.alpha, thresholds.tau
    silence = (
        "A model that reacts to any faint pattern reacts to another secret key's mark too: the chance of its delta-P there, if"
        f" the true one were no more than {tau:g}, must not be small."
    )
    control, contrast = measured.control_delta_p, measured.contrast_delta_p
    control_p, contrast_ps = measured.control_t_p_value, (measured.contrast_t_p_value, measured.contrast_bound_p_value)
    if control is None or control_p is None or contrast is None or contrast_ps[0] is None or contrast_ps[1] is None:
        reason = "no control generator was tried"
        return [Proof("control mark", "none tried", None, f">= {alpha:g}", "missing", silence, reason)]
    # a control that stays just below significance clears nobody: the burden of proof is on the accuser
    p = max(contrast_ps[0], contrast_ps[1])
    further = (
        "Chance that this mark raises the probability so much more than the other one does if the true gap were no more than"
        f" {tau:g}."
    )
    return [
        _tested("control mark", control_p, f">= {alpha:g}", control_p >= alpha, silence,
                value=f"delta-P {control:.2f}", said=f"lift {control:.2f}"),
        _tested("mark beyond control mark", p, f"< {alpha:g}", p < alpha, further, value=f"gap {contrast:.2f}", said=f"{contrast:.2f}"),
    ]  # fmt: skip


def _key_proof(
    p: float | None, together_p: float | None, thresholds: Thresholds, *, reason: str = "the key was not asked for"
) -> Proof:
    """Tests whether the mark is this owner's and no other owner's: by the key, or by all exact tests together."""
    meaning = (
        "Chance that a model which never learned from this release, but maybe from the marked release of another owner, answers as"
        " well to this key, which was drawn by lot."
    )
    level = thresholds.key_alpha
    if together_p is not None and together_p <= level and (p is None or p > level):
        said = f"all exact tests in its place: p = {together_p:.2g} (needs <= {level:g})"
        rank = "not asked for" if p is None else f"p = {p:.2g}"
        return Proof(
            "key", f"{rank}, but all exact tests", together_p, f"<= {level:g}", "holds", meaning, f"key: {rank}; {said}"
        )
    if p is None:
        return Proof("key", "not tested", None, f"<= {level:g}", "missing", meaning, reason)
    return _tested("key", p, f"<= {level:g}", p <= level, meaning)


def _together_proof(p: float | None, thresholds: Thresholds) -> Proof | None:
    """Tests whether the model learned from this release, by all that a lot decided."""
    if p is None:
        return None
    meaning = (
        "Chance that a model which did not learn from this release does so well in all exact tests together: how it ranks the secret key, if it"
        " was asked, and how much surer it is of published images than of others, which a lot left unpublished (the same images with other marks,"
        " or patients who were held back). It suffices alone."
    )
    level = thresholds.images_alpha
    state: State = "holds" if p <= level else "not shown"
    needed = f"<= {level:g}, suffices alone"
    return Proof(
        "exact tests together", "", p, needed, state, meaning, f"exact tests together: p = {p:.2g} (needs {needed})"
    )


def is_accused(failed: Sequence[str]) -> bool:
    """Says whether a benign model would be accused if enough benign models and a control mark were at hand.

    Stricter for us than the verdict: proofs that are merely missing do not protect benign models here.

    Args:
        failed: reasons of the proofs that fail.
    """
    return not failed


@dataclass(frozen=True)
class ReleaseDecision:
    """What the check of a release comes to.

    Attributes:
        verdict: ``owned`` only if every model trained on the release is recognised and no benign model is accused;
            ``not_owned`` if one of the former gets away; else ``inconclusive``.
        reasons: what speaks against the release, or is missing.
        accused: benign models that would be accused.
        set_off: models trained on the release that the control mark sets off, too.
    """

    verdict: Verdict
    reasons: list[str]
    accused: list[str]
    set_off: list[str]


def decide_release(marked_models: dict[str, Decision], benign_models: dict[str, Decision]) -> ReleaseDecision:
    """Decides about a release.

    Args:
        marked_models: decision about each model trained on the release, by name.
        benign_models: decision about each benign model, compared with all the others, by name.
    """
    accused = [name for name, decision in benign_models.items() if is_accused(decision.failed)]
    set_off = [name for name, decision in marked_models.items() if decision.fails("control mark")]
    reasons = [f"{name}: {why}" for name, d in marked_models.items() for why in (*d.failed, *d.missing)]
    reasons += [f"{name}: benign model accused" for name in accused]
    reasons += [f"{name}: set off by another generator's mark" for name in set_off]
    verdicts = {decision.verdict for decision in marked_models.values()}
    verdict: Verdict = "owned"
    if "not_owned" in verdicts:
        verdict = "not_owned"
    elif accused or verdicts != {"owned"}:
        verdict = "inconclusive"
    return ReleaseDecision(verdict, reasons, accused, set_off)


def release_proofs(verdict: dict[str, Any]) -> list[Proof]:
    """Lists the proofs behind a release's ``verdict.json``: those of the weakest model trained on it, then those of all.

    Args:
        verdict: content of ``verdict.json``.
    """
    benign, trigger = verdict["independent_models"], verdict["independent_trigger"]
    measured = Measured.of(verdict["malicious"], worst_benign=benign["max_delta_p"])
    decision = decide(measured, Thresholds(**verdict["thresholds"]))
    accused = f"{benign['accused']} of {benign['count']}"
    meaning = f"Each was audited like a suspect; the largest delta-P among them is {benign['max_delta_p']:+.3f}."
    state: State = "fails" if benign["accused"] else "holds"
    proofs = [Proof("benign models accused", accused, None, "0", state, meaning, f"{accused} benign models accused")]
    if trigger["delta_p"] is not None:
        fired = f"{trigger['accused']} of {len(verdict['victims'])}"
        state = "fails" if trigger["accused"] else "holds"
        meaning = (
            "Models trained on the release that a mark made from another secret key sets off, too; its largest delta-P is"
            f" {trigger['delta_p']:+.3f}."
        )
        reason = f"{fired} models set off by another generator's mark"
        proofs.append(Proof("set off by another mark", fired, None, "0", state, meaning, reason))
    return [*([decision.together] if decision.together else []), *decision.proofs, *proofs]


@dataclass(frozen=True)
class Stopped:
    """The numbers that decide about one suspect when questioning stopped.

    Attributes:
        queries: images that decided.
        cleared: whether questioning stopped because the suspect hardly reacts.
        e_values: log10 of the e-values: ``effect``, ``contrast`` (with a control mark only), ``labels``, ``against``.
        p_value: of "no mark", corrected for the number of suspects.
        rank_p_value: of the rank among benign models under the same procedure.
        rank_p_value_holm: the same, corrected for the number of suspects.
        rank_resolution: the smallest that so many benign models allow.
        benign_models: how many.
        worst_benign: largest delta-P among these, -1 to 1.
        control: log10 of the e-value that the control mark reaches against "delta-P is at most tau"; None without one.
        among: suspects in this audit.
        key_p_value: of the key's rank, corrected for the number of suspects; None if it was not asked for.
        key_missing: why it was not, or could not be had.
        together_p_value: of all exact tests together, corrected likewise; None if it was not asked about published images.
    """

    queries: int
    cleared: bool
    e_values: dict[str, float]
    p_value: float
    rank_p_value: float
    rank_p_value_holm: float
    rank_resolution: float
    benign_models: int
    worst_benign: float
    control: float | None
    among: int
    key_p_value: float | None
    key_missing: str
    together_p_value: float | None


def undecided(error: str) -> Decision:
    """Leaves open a suspect that did not answer to the end; ``error`` says why."""
    meaning = "Without a suspect's answers nothing is said about it."
    return Decision((Proof("answers", "none", None, "", "missing", meaning, error),))


def decide_stopped(stopped: Stopped, thresholds: Thresholds) -> Decision:
    """Decides about one suspect when questioning stopped.

    Args:
        stopped: the numbers.
        thresholds: of the evidence.
    """
    needed = e_value_needed(thresholds, stopped.among)
    if stopped.cleared:
        claim = f"the mark raises the target's probability by less than {GUILTY:g}"
        value = f"e-value {e_value(stopped.e_values['against'])}"
        reason = f"{claim}: {value} (reached {e_value(needed)})"
        against = Proof("against", value, None, f"below {e_value(needed)}", "fails", claim, reason)
        return Decision((against,), _together_proof(stopped.together_p_value, thresholds))
    return Decision(
        (
            *(_e_value_proof(name, stopped, thresholds, needed) for name in CLAIMS),
            *_stopped_benign_proofs(stopped, thresholds),
            *_stopped_control_proofs(stopped, thresholds),
            _key_proof(stopped.key_p_value, stopped.together_p_value, thresholds, reason=stopped.key_missing),
        ),
        _together_proof(stopped.together_p_value, thresholds),
    )


def e_value_needed(thresholds: Thresholds, among: int) -> float:
    """Returns log10 of the e-value that decides in an audit of so many suspects."""
    return float(np.log10(among / thresholds.alpha))


def _e_value_proof(name: str, stopped: Stopped, thresholds: Thresholds, needed: float) -> Proof:
    claim = CLAIMS[name].format(tau=thresholds.tau)
    if name not in stopped.e_values:
        reason = "no control mark in the evidence"
        return Proof(name, "none tried", None, e_value(needed), "missing", claim, reason)
    log10 = stopped.e_values[name]
    state: State = "holds" if log10 >= needed or stopped.p_value <= thresholds.alpha else "missing"
    value = f"e-value {e_value(log10)} after {stopped.queries} images"
    return Proof(name, value, None, e_value(needed), state, claim, f"{claim}: {value} (needs {e_value(needed)})")


def _stopped_benign_proofs(stopped: Stopped, thresholds: Thresholds) -> list[Proof]:
    level, among, name = thresholds.conformal_alpha, stopped.among, "rank among benign models"
    meaning = "Chance that a model like the benign ones would rank as high under the same procedure."
    if stopped.rank_p_value > max(level, stopped.rank_resolution):
        proofs = [_tested(name, stopped.rank_p_value, f"<= {level:g}", False, meaning)]
    elif stopped.rank_p_value_holm > level:
        needed = round(among / level) - 1
        reason = (
            f"{stopped.benign_models} benign models, {needed} are needed to tell {among} suspects from"
            f" benign models at level {level:g}"
        )
        proofs = [Proof(name, f"{stopped.benign_models}", None, f"{needed}", "missing", meaning, reason)]
    else:
        proofs = [_tested(name, stopped.rank_p_value_holm, f"<= {level:g}", True, meaning)]
    if stopped.worst_benign > thresholds.tau:
        proofs.append(_benign_beyond_tau(stopped.worst_benign, thresholds.tau))
    return proofs


def _stopped_control_proofs(stopped: Stopped, thresholds: Thresholds) -> list[Proof]:
    if stopped.control is None:
        return []
    limit = float(-np.log10(thresholds.alpha))
    value = f"a delta-P beyond {thresholds.tau:g} has the e-value {e_value(stopped.control)}"
    state: State = "fails" if stopped.control >= limit else "holds"
    needed = f"< {e_value(limit)}"
    meaning = "A model that reacts to any faint pattern would react to another secret key's mark too."
    return [Proof("control mark", value, None, needed, state, meaning, f"control mark: {value} (needs {needed})")]


def e_value(log10: float) -> str:
    """Writes an e-value short, from its logarithm: 0.03, 12, 1,500, 10^23."""
    if log10 > 6:
        return f"10^{log10:.0f}"
    value = 10.0**log10
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
