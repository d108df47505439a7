"""How many queries a suspect is asked when questioning stops as soon as the evidence suffices, by simulation.

    python benchmarks/sequential_savings.py [--audits 1000] [--out benchmarks/results/sequential_savings.json]

Five to ten minutes on one core. Writes ``benchmarks/results/sequential_savings.json``:

- ``thieves``: for each strength, queries used of 100 at most (median and 90th percentile, undecided ones count as 100),
  share of each state, share ``owned`` after all proofs, and the same for the verdict and the t-test with 100 queries.
  ``t_test_queries``: with how few a fixed t-test alone would have 95 % power, if the strength were known beforehand;
  neither the t-test's level at so few queries nor any other proof is considered there.
- ``innocents``: the same for every way in which benign models may behave
  (:data:`medmark.components.verification.power.NULLS`). ``suffices`` are those that the e-values alone would accuse, with
  an upper 95 % Clopper-Pearson bound: of models that differ wildly, some really go beyond tau, and the rank and the panel
  protect them. ``owned`` are those that are accused after all proofs, with the same bound.
- ``edge``: how often an e-value ever reaches 1 / alpha within 1,000 queries when the mean is exactly that of the null
  hypothesis, for differences of several shapes; ``peeking`` is a t-test that is looked at after every query.
- ``rank``: how often a suspect exactly like the benign models ranks at level 0.05: of whole procedures
  (``rank_stopped``), and of the mean delta-P at the suspect's time of stopping (``lift_at_stop``), which is not valid.
- ``strategies``: queries that the effect alone needs, for ways of betting.
- ``guilty``: adversaries let go, and queries used with benign suspects, by delta-P that is taken for guilty.

``owned`` is the verdict of :func:`medmark.components.verification.audit.weigh`, as ``medmark audit`` gives it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from marking import machine
from medmark.components.base.progress import track
from medmark.components.evidence.answers import Answers
from medmark.components.verification.audit import weigh
from medmark.components.verification.judgement import judge
from medmark.components.verification.power import NULLS, Null, simulate_answers, skewed_answers
from medmark.components.verification.questioning import Questioned
from medmark.components.verification.sequential import first, log_wealth, rank_stopped, sequential_test
from medmark.components.verification.statistics import MIN_PAIRS, conformal_p_value, upper_rate
from medmark.components.verification.verdict import GUILTY, Thresholds
from scipy import stats

RESULT = Path(__file__).parent / "results" / "sequential_savings.json"
SEED = 30
BENIGN = 20
QUERIES = 100  # of the fixed test
FIXED = Thresholds()
SUSPECT = SimpleNamespace(name="suspect", identity="", size=1, label_only=False)
NEEDED = -np.log(FIXED.alpha)
DELTA_PS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.85)  # of simulate_answers, whose images move by 0.9 at most
SURE = (0.9, 0.95)
EDGE_QUERIES = 1000


def sure_adversary(rng: np.random.Generator, difficulty: np.ndarray, delta: float) -> Answers:
    """An adversary that is all but certain: P(target) goes from about 0.01 to about 0.98 for most images."""
    answers = simulate_answers(rng, difficulty - 3, 0.0, 0.0, 0.0)
    reacts = rng.random(len(difficulty)) < delta / 0.97
    answers.p_marked = np.where(reacts, 1 - rng.uniform(0, 0.04, len(difficulty)), answers.p_marked)
    answers.is_marked = answers.p_marked > 0.5
    return answers


def benign_suspect(rng: np.random.Generator, difficulty: np.ndarray, shape: Null, delta_p: float) -> Answers:
    """As in simulate_audits: like the panel, or an outsider."""
    if shape.skewed:
        return skewed_answers(rng, len(difficulty), shape.outsider)
    if shape.outsider is not None:
        return simulate_answers(rng, difficulty, shape.outsider, shape.flips, shape.control)
    return simulate_answers(rng, difficulty, delta_p, shape.flips, 0.0)


def audit(rng: np.random.Generator, shape: Null, draw: Callable | None) -> dict:
    """One audit, sequential and with all queries.

    Args:
        rng: randomness.
        shape: of the benign models.
        draw: adversary from randomness and difficulty; None draws a benign suspect.
    """

    def delta_p() -> float:
        return shape.delta_p + shape.spread * (rng.standard_t(2) if shape.heavy else rng.normal())

    difficulty = rng.normal(-3, 1.5, QUERIES)
    panel = [simulate_answers(rng, difficulty, delta_p(), shape.flips, 0.0) for _ in range(BENIGN)]
    suspect = draw(rng, difficulty) if draw else benign_suspect(rng, difficulty, shape, delta_p())
    worst = max(other.flips for other in panel)
    result = sequential_test(suspect, null_rate=upper_rate(worst, QUERIES), thresholds=FIXED)
    asked = Questioned(SUSPECT, first(suspect, result.queries), result, result.queries, None)
    (weighed,) = weigh([asked], panel, FIXED)
    fixed = judge("suspect", suspect, panel, FIXED)
    return {
        "state": result.state,
        "queries": result.queries,
        "rank": weighed["rank_p_value"],
        "owned": weighed["verdict"] == "owned",
        "fixed_owned": fixed.decision.verdict == "owned",
        "t_test_100": fixed.effect.t_p_value < FIXED.alpha,
        "difference": suspect.p_marked - suspect.p_clean,
    }


def row(audits: list[dict]) -> dict:
    """Shares and queries over audits."""
    queries = np.array([a["queries"] for a in audits])
    states = {state: float(np.mean([a["state"] == state for a in audits])) for state in ("suffices", "against")}
    shares = {name: float(np.mean([a[name] for a in audits])) for name in ("owned", "fixed_owned", "t_test_100")}
    return {
        "delta_p": float(np.mean([a["difference"].mean() for a in audits])),
        "queries_median": float(np.median(queries)),
        "queries_p90": float(np.percentile(queries, 90)),
        **states,
        "running": float(np.mean([a["state"] == "running" for a in audits])),
        **shares,
        "rank_at_level": float(np.mean([a["rank"] <= FIXED.conformal_alpha for a in audits])),
    }


def t_rejects(values: np.ndarray, null: float) -> np.ndarray:
    """(R, N) whether a t-test of the first n values rejects "mean <= null", for each n from MIN_PAIRS on."""
    n = np.arange(1, values.shape[1] + 1)
    mean = values.cumsum(axis=1) / n
    variance = np.maximum((values**2).cumsum(axis=1) / n - mean**2, 1e-12)
    t = (mean - null)[:, MIN_PAIRS - 1 :] / np.sqrt(variance / (n - 1).clip(1))[:, MIN_PAIRS - 1 :]
    return t > stats.t.isf(FIXED.alpha, n[MIN_PAIRS - 1 :] - 1)


def t_test_queries(values: np.ndarray) -> int | None:
    """Smallest fixed number of queries with which 95 % of the t-tests reject."""
    enough = np.flatnonzero(t_rejects(values, FIXED.tau).mean(axis=0) >= 0.95)
    return int(enough[0]) + MIN_PAIRS if len(enough) else None


def crossed(log_e: np.ndarray) -> np.ndarray:
    """(R,) first n of at least MIN_PAIRS with e >= 1 / alpha, infinite if there is none."""
    hit = log_e[:, MIN_PAIRS - 1 :] >= NEEDED
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + MIN_PAIRS, np.inf)


SHAPES = {
    "normal": lambda rng, size, mean: np.clip(rng.normal(mean, 0.1, size), -1, 1),
    "few images": lambda rng, size, mean: 0.9 * (rng.random(size) < mean / 0.9),
    "skewed": lambda rng, size, mean: np.where(rng.random(size) < 0.1, -0.9, (mean + 0.09) / 0.9),
    "very skewed": lambda rng, size, mean: np.where(rng.random(size) < 0.02, -1.0, (mean + 0.02) / 0.98),
    "-1 or 1": lambda rng, size, mean: np.where(rng.random(size) < (1 + mean) / 2, 1.0, -1.0),
    "labels": lambda rng, size, mean: rng.choice([-1.0, 0.0, 1.0], size, p=[0.05, 0.9 - mean, 0.05 + mean]),
}


def edge(repeats: int) -> list[dict]:
    """Crossing rates when the mean is the null's, for both directions."""
    rows, batches = [], max(1, repeats // 500)
    for name, draw in SHAPES.items():
        for process, mean, sign in (("effect", FIXED.tau, 1), ("against", GUILTY, -1)):
            rng = np.random.default_rng(SEED)
            ever, peeked, at_100 = 0, 0, 0
            for _ in range(batches):
                values = sign * draw(rng, (500, EDGE_QUERIES), mean)
                ever += int(np.isfinite(crossed(log_wealth(values, sign * mean))).sum())
                rejects = t_rejects(values, sign * mean)
                peeked += int(rejects.any(axis=1).sum())
                at_100 += int(rejects[:, QUERIES - MIN_PAIRS].sum())
            n = batches * 500
            rates = {"ever": ever / n, "ever_upper95": upper_rate(ever, n, 0.95)}
            rows.append(
                {"shape": name, "process": process, **rates, "peeking": peeked / n, "t_test_100": at_100 / n, "n": n}
            )
    return rows


def rank(repeats: int) -> list[dict]:
    """Rates of ranks at their level for a suspect like the panel; ``lift`` and ``spread`` are of all models."""
    rows = []
    for delta_p, spread in ((0.2, 0.0), (0.3, 0.0), (0.25, 0.15)):
        rng = np.random.default_rng(SEED)
        low = np.zeros(2)
        for _ in range(repeats):
            difficulty = rng.normal(-3, 1.5, QUERIES)
            delta_ps = rng.normal(delta_p, spread, BENIGN)
            suspect, *panel = (simulate_answers(rng, difficulty, x, 0.0, 0.0) for x in delta_ps)
            stopped = first(suspect, sequential_test(suspect, null_rate=0.05, thresholds=FIXED).queries)
            used = [first(other, len(stopped.p_clean)) for other in panel]
            means = [(other.p_marked - other.p_clean).mean() for other in (stopped, *used)]
            ranks = rank_stopped(stopped, panel, thresholds=FIXED)[0], conformal_p_value(means[0], means[1:])[0]
            low += np.array(ranks) <= FIXED.conformal_alpha
        rates = dict(zip(("rank_stopped", "lift_at_stop"), (low / repeats).tolist(), strict=True))
        rows.append({"lift": delta_p, "spread": spread, **rates, "n": repeats})
    return rows


def agrapa(values: np.ndarray, null: float) -> np.ndarray:
    """log e of approximate growth-rate-adaptive bets (Waudby-Smith and Ramdas 2024), up to 0.95 of the largest bet."""
    x, m, n = (values + 1) / 2, (null + 1) / 2, np.arange(1, values.shape[1] + 1)
    mean = (0.5 + x.cumsum(axis=1)) / (n + 1)
    variance = (0.25 + ((x - mean) ** 2).cumsum(axis=1)) / (n + 1)
    before = np.full((len(x), 1), 0.5), np.full((len(x), 1), 0.25)
    mean, variance = (np.hstack([p, s[:, :-1]]) for p, s in zip(before, (mean, variance), strict=True))
    bets = np.clip((mean - m) / (variance + (mean - m) ** 2), 0, 0.95 / m)
    return np.log1p(bets * (x - m)).cumsum(axis=1)


def newton(values: np.ndarray, null: float) -> np.ndarray:
    """log e of bets by online Newton steps (Cutkosky and Orabona 2018), up to half of the largest bet."""
    gains = (values - null) / (1 + null)
    bet, curvature, log_e = np.zeros(len(values)), np.ones(len(values)), np.zeros_like(values)
    for i, gain in enumerate(gains.T):
        log_e[:, i] = np.log1p(bet * gain)
        slope = -gain / (1 + bet * gain)
        curvature += slope**2
        bet = np.clip(bet - 2 / (2 - np.log(3)) * slope / curvature, 0, 0.5)
    return log_e.cumsum(axis=1)


STRATEGIES = {"mixture": log_wealth, "aGRAPA": agrapa, "online Newton step": newton}


def by_guilty(who: str, differences: np.ndarray) -> list[dict]:
    """Share let go, and queries used, by the effect alone, for raises that could be taken for guilty."""
    effect = crossed(log_wealth(differences, FIXED.tau))
    rows = []
    for guilty in (0.4, 0.5, 0.6):
        against = crossed(log_wealth(-differences, -guilty))
        let_go = float(np.mean((against <= effect) & np.isfinite(against)))
        queries = float(np.median(np.minimum(effect, against).clip(max=QUERIES)))
        rows.append(
            {
                "suspect": who,
                "delta_p": float(differences.mean()),
                "guilty": guilty,
                "let_go": let_go,
                "queries_median": queries,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=1000, help="simulated audits for each row")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write")
    arguments = parser.parse_args()
    audits, started = arguments.audits, time.monotonic()

    def adversary_of(delta_p: float) -> Callable:
        return lambda rng, difficulty: simulate_answers(rng, difficulty, delta_p, 0.0, 0.0)

    def sure_of(delta: float) -> Callable:
        return lambda rng, difficulty: sure_adversary(rng, difficulty, delta)

    adversaries, strategies, guilty = [], [], []
    for draw in track([*map(adversary_of, DELTA_PS), *map(sure_of, SURE)], "thieves"):
        rng = np.random.default_rng(SEED)
        asked = [audit(rng, NULLS["no reaction"], draw) for _ in range(audits)]
        differences = np.stack([a["difference"] for a in asked])
        adversaries.append({**row(asked), "t_test_queries": t_test_queries(differences)})
        delta_p = adversaries[-1]["delta_p"]
        for name, strategy in STRATEGIES.items():
            queries = crossed(strategy(differences, FIXED.tau))
            median, p90 = np.percentile(queries.clip(max=QUERIES), [50, 90])
            reached = float(np.isfinite(queries).mean())
            strategies.append(
                {"delta_p": delta_p, "name": name, "queries_median": median, "queries_p90": p90, "reached": reached}
            )
        guilty += by_guilty("thief", differences)

    benign_models = []
    for name, shape in track(NULLS.items(), "benign suspects"):
        rng = np.random.default_rng(SEED)
        asked = [audit(rng, shape, None) for _ in range(audits)]
        accused = [sum(a["state"] == "suffices" for a in asked), sum(a["owned"] for a in asked)]
        upper = [upper_rate(k, audits, 0.95) for k in accused]
        benign_models.append({"null": name, **row(asked), "suffices_upper95": upper[0], "owned_upper95": upper[1]})
        guilty += by_guilty(name, np.stack([a["difference"] for a in asked]))

    target = [r["delta_p"] for r in adversaries if r["queries_median"] <= QUERIES / 3]
    result = {
        "name": "sequential_savings",
        "seed": SEED,
        "audits": audits,
        "innocents_of_panel": BENIGN,
        "queries": QUERIES,
        "thresholds": vars(FIXED),
        "guilty_lift": GUILTY,
        "three_times_fewer_from_delta_p": min(target, default=None),
        "thieves": adversaries,
        "innocents": benign_models,
        "edge": edge(10 * audits),
        "rank": rank(4 * audits),
        "strategies": strategies,
        "guilty": guilty,
        "machine": machine(),
        "versions": {name: version(name) for name in ("numpy", "scipy")},
        "seconds": round(time.monotonic() - started),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    worst = max(benign_models, key=lambda r: r["owned"])
    print(f"three times fewer queries from delta-P {result['three_times_fewer_from_delta_p']:.2f} on")
    print(f"worst false-accusation rate {worst['owned']:.4f} ({worst['null']})")


if __name__ == "__main__":
    main()
