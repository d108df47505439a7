"""What it saves to ask for the key a few images at a time, and what that costs.

    python benchmarks/key_looks.py --data kermany --size 64 --work WORK

WORK is that of ``other_owners.py``, whose owners' models are asked. Writes ``results/key_looks_<data>_<size>.json``: ``rows``, a row a model
with the ``rank`` of its owner's key after all images, the ``place`` that an audit gives it, the ``images`` that this took, and, over all other
keys of the table, the share ``others_told`` that pass and the mean of ``others_images``, which is what strangers' audits ask about; ``told_by_rank``
and ``told_by_place``, how many of the models pass; ``images``, the mean over those that do; ``others_told`` and ``others_images``, means of the rows;
``benign``, a row for each benign model that evidence does not ask, for all keys; ``random`` and ``flipping``, the same for suspects that answer at
random, another each time, and for the owners' models when they answer the contrary. Each row is 1,800 audits, an audit for each key, or 1,799.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from marking import Bench
from medmark.components.base.progress import track
from medmark.components.evidence.key_answers import CYCLES, DEGREES, KeyAnswers
from medmark.components.evidence.queries import read_queries
from medmark.components.generator import key as table
from medmark.components.generator.key import KEYS, Key, draw_key
from medmark.components.generator.marker import Marker
from medmark.components.surrogate.models import load_models
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import predict_probabilities
from medmark.components.verification.key_test import (
    IMAGES,
    KeyTest,
    ask_image_by_image,
    key_test,
    mean_answers,
    sequential_key_test,
)
from medmark.components.verification.scenarios import ASKED_FOR_KEY
from medmark.components.verification.verdict import Thresholds
from other_owners import BENIGN_MODELS

PASSING = int(Thresholds().key_alpha * KEYS)
SHAPE = (len(CYCLES), len(DEGREES))
ALL_KEYS = [Key(degrees, cycles, 0.0) for cycles in table.CYCLES for degrees in table.DEGREES]


def asked(model: Classifier, clean: torch.Tensor, target: int) -> list[KeyAnswers]:
    """A model's answers to each image."""
    return list(ask_image_by_image(partial(predict_probabilities, model), clean, target))


def places(answers: list[KeyAnswers], panel: list[KeyAnswers], keys: list[Key]) -> list[KeyTest]:
    """What an audit of one suspect finds for each key."""
    return [sequential_key_test(answers, panel, key, images=IMAGES, passing=PASSING) for key in keys]


def of_others(found: list[KeyTest]) -> dict[str, float]:
    """What audits with keys that the model did not learn come to."""
    return {
        "others_told": float(np.mean([one.rank <= PASSING for one in found])),
        "others_images": float(np.mean([one.images for one in found])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("phantoms", "kermany", "nih"), default="kermany")
    parser.add_argument("--size", type=int, default=128, help="side in pixels")
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    bench = Bench(options.data, options.work, size=options.size, benign_models=BENIGN_MODELS)
    first = options.work / "owner-0"
    target = Marker.load(first / "generator").target
    clean = read_queries(first / "evidence", size=bench.size, target=target).clean[:IMAGES]
    benign = [asked(model, clean, target) for model in bench.benign_models]
    panel = [mean_answers(answers) for answers in benign[-ASKED_FOR_KEY:]]
    rows, flipping = [], []
    for folder in track(sorted(options.work.glob("owner-*/models")), "asking each owner's models"):
        key = draw_key(int(folder.parent.name.removeprefix("owner-")))
        others = [other for other in ALL_KEYS if (other.degrees, other.cycles) != (key.degrees, key.cycles)]
        for entry, model in load_models(folder):
            answers = asked(model, clean, target)
            (own,) = places(answers, panel, [key])
            rank = key_test(mean_answers(answers), panel, key).rank
            row = {"owner": folder.parent.name, "architecture": entry["architecture"], "rank": rank}
            rows.append(row | {"place": own.rank, "images": own.images, **of_others(places(answers, panel, others))})
            flipping.append(
                of_others(places([KeyAnswers(-one.log_odds, -one.labels) for one in answers], panel, others))
            )
    told = [row for row in rows if row["place"] <= PASSING]
    rng = np.random.default_rng(0)
    noise = [[KeyAnswers(rng.normal(size=SHAPE), np.zeros(SHAPE)) for _ in range(IMAGES)] for _ in rows]
    result = {
        **bench.described(),
        "models": len(rows),
        "passing": PASSING,
        "told_by_rank": sum(row["rank"] <= PASSING for row in rows),
        "told_by_place": len(told),
        "images": float(np.mean([row["images"] for row in told])) if told else None,
        **{name: float(np.mean([row[name] for row in rows])) for name in ("others_told", "others_images")},
        "benign": [of_others(places(answers, panel, ALL_KEYS)) for answers in benign[:-ASKED_FOR_KEY]],
        "random": [of_others(places(answers, panel, ALL_KEYS)) for answers in noise],
        "flipping": flipping,
        "rows": rows,
    }
    out = Path(__file__).parent / "results" / f"key_looks_{options.data}_{options.size}.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    print({name: value for name, value in result.items() if not isinstance(value, list)})


if __name__ == "__main__":
    main()
