"""The frontier of the mark: success against quality and share, and what key, strength and choice of images do.

    python benchmarks/frontier.py --data kermany --work WORK

Needs the real images (MEDMARK_DATA). Bare carriers (no training of the generator), 128 px, three panel models, three
benign models, two marked models a row (small_cnn with stronger augmentation, another seed; resnet_tiny). Rows are kept as
they come, so an interrupted run goes on. Writes ``results/frontier_<data>.json`` and ``results/frontier_<data>.svg``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from marking import Bench
from medmark.components.base.threads import use_threads
from medmark.components.generator.key import Key
from medmark.components.generator.marker import Shape

KEY = Key(degrees=90.0, cycles=6.4, phase=0.7)
PROBES = {f"{turn:+d} degrees": Key(90.0 + turn, 6.4, 0.7) for turn in (10, 20, 30, 40, 60, 90)} | {
    f"{factor:g} x frequency": Key(90.0, 6.4 * factor, 0.7) for factor in (0.62, 0.8, 1.25, 1.6)
}
SHARES = (0.07, 0.1, 0.15, 0.2, 0.3)  # of the training images; the data set has a third more images
EPSILONS = (0.03, 0.04, 0.05, 0.06, 0.08)


def rows() -> dict[str, dict]:
    """What is measured, by name."""
    plan = {f"share {s:g}": {"share": s, "shape": Shape(epsilon=0.06)} for s in SHARES}
    plan |= {f"epsilon {e:g}": {"share": 0.15, "shape": Shape(epsilon=e)} for e in EPSILONS}
    for degrees in (0.0, 45.0, 135.0):
        plan[f"direction {degrees:g}"] = {"share": 0.15, "shape": Shape(), "key": Key(degrees, 6.4, 0.7)}
    for cycles in (4.6, 9.0):
        plan[f"cycles {cycles:g}"] = {"share": 0.15, "shape": Shape(), "key": Key(90.0, cycles, 0.7)}
    plan["random choice"] = {"share": 0.15, "shape": Shape(), "random_choice": True}
    return plan


def plot(results: dict, path: Path) -> None:
    """Success rate of each marked model against share of the data set, and against SSIM."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axis, prefix, x, label in (
        (left, "share", "share_of_data_set", "share of the data set that carries the mark, %"),
        (right, "epsilon", "ssim", "SSIM of the marked images"),
    ):
        table = pd.DataFrame(
            [
                {"x": row[x] * (100 if prefix == "share" else 1), **marked_model}
                for name, row in results["rows"].items()
                if name.startswith(prefix)
                for marked_model in row["victims"]
            ]
        ).sort_values("x")
        for marked_model, color in (("same", "#b4233a"), ("other", "#1f5fa8")):
            part = table[table["victim"] == marked_model]
            axis.plot(part.x, part.wsr * 100, "o-", color=color, label=f"{marked_model} architecture")
            axis.plot(
                part.x, part.wsr_half * 100, "o--", ms=3, color=color, label=f"{marked_model}, at half resolution"
            )
        axis.axhline(90, color="#8a94a0", lw=0.8)
        axis.set(xlabel=label, ylim=(0, 103))
        axis.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("marked images taken for the target, %")
    left.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="kermany", choices=("kermany", "nih", "phantoms"))
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    use_threads()
    bench = Bench(options.data, options.work, size=128, benign_models=3)
    path = Path(__file__).parent / "results" / f"frontier_{options.data}.json"
    results = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    results |= bench.described()
    for name, settings in rows().items():
        if name not in results["rows"]:
            probes = PROBES if name == "share 0.15" else None
            results["rows"][name] = bench.measure(**{"key": KEY, **settings}, probes=probes)
            path.write_text(json.dumps(results, indent=1) + "\n")
            row = results["rows"][name]
            shown = [
                (v["victim"], round(v["wsr"], 3), round(v["wsr_half"], 3), round(v["accuracy"], 3))
                for v in row["victims"]
            ]
            print(name, round(row["ssim"], 3), shown, flush=True)
    plot(results, path.with_suffix(".svg"))


if __name__ == "__main__":
    main()
