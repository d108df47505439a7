"""Whether fresh models that never saw a mark are accused, and whether the exact tests are uniform for them.

    python benchmarks/benign.py --data kermany --size 64 --models 40 --work WORK

WORK is that of ``other_owners.py --hold-back SHARE``. Models of four architectures, each with a seed and a subset of the patients of its own, are
trained on the clean images, those of patients held back included, and each is judged as the release check judges it, with one owner's evidence.
Writes ``results/benign_<data>_<size>.json``: ``accused``; ``rows``, each with verdict and p-values; ``keys_uniform``, the p-value of a
Kolmogorov-Smirnov test of the ranks of keys that are drawn for each model anew; ``at_most_a_tenth``, how many p-values of the other exact tests, and of
all together, are at most 0.1. A suspect that is left alone has 1 there, so these are not uniform.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from marking import Bench
from medmark.components.base.progress import track
from medmark.components.evidence.queries import read_queries
from medmark.components.generator.key import draw_key
from medmark.components.generator.marker import Marker
from medmark.components.surrogate.models import load_models, train_models
from medmark.components.surrogate.training import TrainConfig, accuracy, predict_probabilities
from medmark.components.verification.key_test import IMAGES, ask_waves, key_test
from medmark.components.verification.scenarios import ASKED_FOR_KEY
from other_owners import BENIGN_MODELS, judged
from scipy import stats

ARCHITECTURES = {"small_cnn": 2e-3, "small_cnn_wide": 2e-3, "resnet_tiny": 1e-3, "resnet18": 1e-3}
FIRST_SEED = 50_000  # of models, and of keys that nobody else has


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("phantoms", "kermany", "nih"), default="kermany")
    parser.add_argument("--size", type=int, default=64, help="side in pixels")
    parser.add_argument("--models", type=int, default=40)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    bench = Bench(options.data, options.work, size=options.size, benign_models=BENIGN_MODELS)
    names = list(ARCHITECTURES)
    configs = [
        TrainConfig(
            name=f"fresh-{n:02d}",
            architecture=names[n % len(names)],
            size=options.size,
            learning_rate=ARCHITECTURES[names[n % len(names)]],
            augmentation=("standard", "strong", "none")[n % 3],
            seed=FIRST_SEED + n,
            subset=(1.0, 0.8)[n % 2],
        )
        for n in range(options.models)
    ]
    train_models(bench.release.path, options.work / "fresh", configs=configs)
    models = {entry["name"]: model for entry, model in load_models(options.work / "fresh")}
    owners = sorted(folder.parent for folder in options.work.glob("owner-*/models"))
    target = Marker.load(owners[0] / "generator").target
    clean = read_queries(owners[0] / "evidence", size=bench.size, target=target).clean[:IMAGES]
    asked = {
        name: ask_waves(partial(predict_probabilities, m), clean, target)
        for name, m in track(models.items(), "asking for keys")
    }
    panel = [ask_waves(partial(predict_probabilities, m), clean, target) for m in bench.benign_models[-ASKED_FOR_KEY:]]
    rows = []
    for number, owner in enumerate(track(owners, "judging with each owner's evidence")):
        mine = dict(list(models.items())[number :: len(owners)])
        found = judged(bench, owner, int(owner.name.removeprefix("owner-")), mine, asked, panel)
        for name, (result, key, *_) in found.items():
            config = next(config for config in configs if config.name == name)
            rank = key_test(asked[name], panel, draw_key(config.seed)).rank
            images = result.images
            rows.append(
                {
                    "model": name,
                    "architecture": config.architecture,
                    "augmentation": config.augmentation,
                    "accuracy": accuracy(models[name], bench.test),
                    "evidence_of": owner.name,
                    "verdict": result.decision.verdict,
                    "delta_p": result.effect.delta_p,
                    "key_rank": key.rank,
                    "rank_of_another_key": rank,
                    "variants_p_value": images.variants.p_value,
                    "held_back_p_value": images.held_back.p_value,
                    "together_p_value": result.measured.together_p_value,
                }
            )
    keys = key_test(asked[rows[0]["model"]], panel, draw_key(0)).keys
    result = {
        **bench.described(),
        "models": len(rows),
        "owners": len(owners),
        "accused": sum(row["verdict"] == "owned" for row in rows),
        "keys_uniform": float(stats.kstest([row["rank_of_another_key"] / keys for row in rows], "uniform").pvalue),
        "at_most_a_tenth": {
            name: sum(row[f"{name}_p_value"] <= 0.1 for row in rows) for name in ("variants", "held_back", "together")
        },
        "rows": rows,
    }
    out = Path(__file__).parent / "results" / f"benign_{options.data}_{options.size}.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    print({name: value for name, value in result.items() if name != "rows"})


if __name__ == "__main__":
    main()
