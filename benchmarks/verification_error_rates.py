"""How often the verdict accuses a benign model, and how often it recognises an adversary, by simulation.

    python benchmarks/verification_error_rates.py [--audits 1000] [--out benchmarks/results/verification_error_rates.json]

Five minutes on one core. Writes ``benchmarks/results/verification_error_rates.json``:

- ``false_accusations``: share of ``owned`` among simulated benign suspects, for each way in which benign models may
  behave (:data:`medmark.components.verification.power.NULLS`), with an upper 95 % Clopper-Pearson bound. Where benign
  models themselves go beyond tau, the verdict is ``inconclusive``; that share is what would be accusations without this
  safeguard.
- ``power``: share of ``owned`` among adversaries, by effect and number of queries.
- ``effect_tests``: how often each effect test alone rejects at the edge of its null hypothesis. The signed-rank test is
  about the median, so that skewed reactions fool it, and the t-test is too sure with few images: no single one is proof.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

from medmark.components.base.progress import track
from medmark.components.verification.power import NULLS, simulate_audits, simulate_effect_tests
from medmark.components.verification.statistics import upper_rate
from medmark.components.verification.verdict import Thresholds

RESULT = Path(__file__).parent / "results" / "verification_error_rates.json"
SEED = 20
BENIGN = 20
NULL_QUERIES = (30, 100)
POWER_QUERIES = (30, 50, 100, 150)
DELTA_PS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=1000, help="simulated audits for each row")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write")
    arguments = parser.parse_args()
    audits, started = arguments.audits, time.monotonic()

    false_accusations = []
    for null, queries in track([(null, n) for null in NULLS for n in NULL_QUERIES], "benign suspects"):
        rates = simulate_audits(
            audits, suspect_delta_p=None, null=null, queries=queries, benign_models=BENIGN, seed=SEED + queries
        )
        bound = upper_rate(round(rates["owned"] * audits), audits, 0.95)
        false_accusations.append({"null": null, "queries": queries, **rates, "owned_upper95": bound})

    power = []
    for delta_p, queries in track([(delta_p, n) for delta_p in DELTA_PS for n in POWER_QUERIES], "thieves"):
        rates = simulate_audits(
            max(1, audits // 5),
            suspect_delta_p=delta_p,
            null="no reaction",
            queries=queries,
            benign_models=BENIGN,
            seed=SEED,
        )
        power.append({"lift": delta_p, "queries": queries, **rates})

    shapes = [(shape, n) for shape in ("normal", "few images", "skewed") for n in NULL_QUERIES]
    effect_tests = [
        {"shape": shape, "queries": n, **simulate_effect_tests(10 * audits, shape=shape, queries=n, seed=SEED)}
        for shape, n in track(shapes, "effect tests alone")
    ]

    result = {
        "name": "verification_error_rates",
        "seed": SEED,
        "audits": audits,
        "power_audits": max(1, audits // 5),
        "effect_test_repeats": 10 * audits,
        "innocents": BENIGN,
        "thresholds": vars(Thresholds()),
        "false_accusations": false_accusations,
        "power": power,
        "effect_tests": effect_tests,
        "machine": f"{platform.machine()}, one core",
        "versions": {name: version(name) for name in ("numpy", "scipy")},
        "seconds": round(time.monotonic() - started),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    worst = max(false_accusations, key=lambda row: row["owned"])
    print(f"worst false-accusation rate {worst['owned']:.4f} ({worst['null']}, {worst['queries']} queries)")


if __name__ == "__main__":
    main()
