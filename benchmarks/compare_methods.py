"""The field in one table: methods of marking a data set on the same images, budget, adversaries, benign models and tests.

    python benchmarks/compare_methods.py --data kermany --work WORK

Needs the real images (MEDMARK_DATA), except for phantoms. 128 px, 10 % of the training images marked, three surrogates,
twenty benign models of three architectures (two of them trained as the adversaries are), two adversaries a row (small_cnn with
stronger augmentation, another seed; resnet_tiny). Models are trained once in WORK and rows are kept as they come, so an
interrupted run goes on. Writes ``results/compare_methods_<data>.json`` and ``.svg``, and the part of
``docs/compare_methods.md`` between the markers of the data set.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from marking import machine, release_of
from medmark.components.base.atomic import write_atomic
from medmark.components.base.errors import MedmarkError
from medmark.components.baselines.compare import compare, prepare
from medmark.components.baselines.methods import METHODS
from medmark.components.dataset.phantoms import TARGET_CLASS
from medmark.components.dataset.release import Release
from medmark.components.profiles import PROFILES, Profile

HERE = Path(__file__).parent
PROFILE = replace(PROFILES["standard"], marked_share=0.1, other_architecture="resnet_tiny", other_epochs=12)
ATTACKS = {"half": "half resolution", "jpeg_75": "JPEG 75", "fine_tuned": "fine-tuned", "pruned_50": "pruned 50 %"}


def run(data: str, work: Path, path: Path, profile: Profile) -> dict:
    """Fills in the rows that ``path`` lacks and returns all.

    Raises:
        MedmarkError: ``path`` holds rows of other images or parameters.
    """
    release = release_of(data, work, PROFILE.phantoms)
    made_from = {
        "data": data,
        "seed": 0,
        "release_digest": Release(release).digest,
        "profile": asdict(profile),
    }
    results = json.loads(path.read_text()) if path.exists() else {**made_from, "rows": {}}
    if {name: results.get(name) for name in made_from} != made_from:
        raise MedmarkError(
            f"rows of another comparison: {path}; move it away, or use the images and profile it is from"
        )
    field = None
    for name, method in METHODS.items():
        if name not in results["rows"]:
            field = field or prepare(release, work, profile, seed=0)
            results["rows"][name] = compare(method, field)
            results["rows"] = {n: results["rows"][n] for n in METHODS if n in results["rows"]}
            results |= {"counts": Release(release).counts, "queries": len(field.asked), "machine": machine()}
            write_atomic(path, (json.dumps(results, indent=1) + "\n").encode())
            print(method.title, *line(results["rows"][name])[1:], sep=" | ", flush=True)
    return results


HEADER = [
    "method",
    "labels kept",
    "marked",
    "WSR",
    "delta-P: weakest, mean",
    "verdict on the adversaries",
    "benign models accused",
    "by the t-test alone",
    "largest benign delta-P",
    "accuracy lost",
    "SSIM",
    "HaarPSI",
    *(f"WSR, {name}" for name in ATTACKS.values()),
]


def weakest(rates: list[dict]) -> str:
    """Of the adversary that answers least to the mark: ``WSR / rate on clean images``."""
    worst = min(rates, key=lambda rate: rate["wsr"])
    return f"{worst['wsr']:.0%} / {worst['clean_rate']:.0%}"


def line(row: dict) -> list[str]:
    """One row of the table."""
    marked_models, benign_models = row["victims"], row["innocents"]
    delta_ps = [v["delta_p"] for v in marked_models]
    return [
        row["title"],
        "yes" if row["clean_label"] else "no",
        f"{row['share']:.1%}",
        weakest(marked_models),
        f"{min(delta_ps):.2f}, {sum(delta_ps) / len(delta_ps):.2f}",
        ", ".join(v["verdict"] for v in marked_models),
        f"{benign_models['accused']} of {benign_models['count']}",
        f"{benign_models['accused_by_t_test_alone']} of {benign_models['count']}",
        f"{benign_models['largest_lift']:.2f}",
        f"{100 * max(v['accuracy_lost'] for v in marked_models):+.1f} points",
        f"{row['quality']['ssim']:.3f}",
        f"{row['quality']['haarpsi']:.3f}",
        *(weakest([v["attacks"][attack] for v in marked_models]) for attack in ATTACKS),
    ]


def table(results: dict) -> str:
    """All rows as Markdown."""
    lines = [HEADER, ["---"] * len(HEADER), *(line(row) for row in results["rows"].values())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write_section(results: dict, path: Path) -> None:
    """Replaces what stands between ``<!-- data -->`` and ``<!-- /data -->``."""
    start, end = f"<!-- {results['data']} -->", f"<!-- /{results['data']} -->"
    text = path.read_text()
    if start not in text or end not in text:
        raise MedmarkError(f"no place for {results['data']} in {path}; add the lines {start} and {end}")
    before, rest = text.split(start, 1)
    path.write_text(f"{before}{start}\n{table(results)}\n{end}{rest.split(end, 1)[1]}")


def plot(results: dict, path: Path) -> None:
    """WSR of the weakest marked model against SSIM, and against the benign models that the t-test alone accuses."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
    spots: list[dict[tuple[float, float], list[str]]] = [{}, {}]
    for number, row in enumerate(results["rows"].values(), start=1):
        benign_models = row["innocents"]
        wsr = 100 * min(marked_model["wsr"] for marked_model in row["victims"])
        accused = 100 * benign_models["accused_by_t_test_alone"] / benign_models["count"]
        color = "#b4233a" if row["title"].startswith("medmark") else "#1f5fa8" if row["clean_label"] else "#8a94a0"
        for axis, near, x, step in zip(axes, spots, (row["quality"]["ssim"], accused), (0.02, 5), strict=True):
            label = f"{number} {row['title']}" if axis is axes[0] else None
            axis.plot(x, wsr, "o", color=color, label=label)
            # points that lie together share one label
            spot = next((s for s in near if abs(s[0] - x) < step and abs(s[1] - wsr) < 5), (x, wsr))
            near.setdefault(spot, []).append(str(number))
    for axis, near in zip(axes, spots, strict=True):
        for spot, numbers in near.items():
            axis.annotate(", ".join(numbers), spot, xytext=(5, 5), textcoords="offset points", fontsize=8)
        axis.set_ylim(-4, 108)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set(xlabel="SSIM of the marked images", ylabel="marked images taken for the target,\nweakest adversary, %")
    axes[1].set(xlabel="benign models that the t-test alone accuses, %", xlim=(-4, 104))
    figure.legend(loc="center left", bbox_to_anchor=(0.92, 0.5), frameon=False, fontsize=8)
    figure.text(0.93, 0.2, "red: medmark; blue: labels kept; grey: relabelled", fontsize=7)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="kermany", choices=("kermany", "nih", "phantoms"))
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    path = HERE / "results" / f"compare_methods_{options.data}.json"
    profile = replace(PROFILE, target_class=TARGET_CLASS if options.data == "phantoms" else "")
    results = run(options.data, options.work, path, profile)
    write_section(results, HERE.parent / "docs" / "compare_methods.md")
    plot(results, path.with_suffix(".svg"))


if __name__ == "__main__":
    main()
