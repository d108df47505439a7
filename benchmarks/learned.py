"""What training the generator adds to the bare carrier, and what each term of the objective does.

    python benchmarks/learned.py --data kermany --work WORK

Needs the real images (MEDMARK_DATA). 128 px, epsilon 0.06, 15 % of the training images marked, three panel models, three
benign models, two marked models a row (small_cnn with stronger augmentation, another seed; resnet_tiny). "free": the U-Net
may change half as much again as the carrier does, so that it can cancel it. Rows are kept as they come, so an
interrupted run goes on. Writes ``results/learned.json``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields, replace
from pathlib import Path

from marking import Bench
from medmark.components.base.threads import use_threads
from medmark.components.generator.marker import Shape
from medmark.components.generator.objective import Weights
from medmark.components.generator.train import GeneratorConfig

STEPS = 150


def rows() -> dict[str, GeneratorConfig]:
    """What is trained, by name."""
    base = GeneratorConfig(shape=Shape(grid=64), steps=STEPS, ssim_floor=0.955)
    plan = {
        "bare carrier": replace(base, steps=0),
        "bare carrier, as alike as with all terms": replace(base, steps=0, shape=replace(base.shape, epsilon=0.048)),
        "all terms": base,
    }
    for field in fields(Weights):
        plan[f"without {field.name}"] = replace(base, weights=replace(base.weights, **{field.name: 0.0}))
    plan["free"] = replace(base, shape=replace(base.shape, freedom=1.5))
    return plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="kermany", choices=("kermany", "nih", "phantoms"))
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    use_threads()
    bench = Bench(options.data, options.work, size=128, benign_models=3)
    path = Path(__file__).parent / "results" / "learned.json"
    results = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    results |= bench.described() | {"steps": STEPS}
    for name, config in rows().items():
        if name not in results["rows"]:
            results["rows"][name] = bench.measure(share=config.marked_share, shape=config.shape, generator=config)
            path.write_text(json.dumps(results, indent=1) + "\n")
            row = results["rows"][name]
            shown = [
                (v["victim"], round(v["wsr"], 3), round(v["wsr_half"], 3), round(v["accuracy"], 3))
                for v in row["victims"]
            ]
            print(name, round(row["ssim"], 3), round(row["innocent_lift"], 3), shown, flush=True)


if __name__ == "__main__":
    main()
