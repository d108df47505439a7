"""Which statistic of a model's answers to waves tells the key that it learned best.

    python benchmarks/key_statistics.py --data kermany --size 64 --work WORK

WORK is that of ``other_owners.py``, whose owners' models are asked. Writes ``results/key_statistics_<data>_<size>.json``: for each statistic

- ``ranks``: of the owner's own key among 1,800, by model; ``first_18``: share of models with a rank of 18 or less, which the audit asks for;
- ``geometric_mean`` and ``worst`` of the ranks;
- ``shared_keys``: share of the keys that at least half of the benign models tell so well, too. Whoever draws one of these cannot accuse
  by the key alone; on average over all keys one benign model in a hundred passes with any statistic.

``audit`` is the statistic of :mod:`medmark.components.verification.key_test`, the worse of the ranks with nothing and with all subtracted;
``before`` is the one that it had first. ``answers`` and ``panel`` hold what owners' and the last benign models answered, so that other
statistics can be tried without training anything.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from marking import Bench
from medmark.components.evidence.key_answers import CYCLES, DEGREES, KeyAnswers
from medmark.components.evidence.queries import read_queries
from medmark.components.generator import key as table
from medmark.components.generator.key import Key, draw_key
from medmark.components.generator.marker import Marker
from medmark.components.surrogate.models import load_models
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import predict_probabilities
from medmark.components.verification.key_test import IMAGES, OWN_SHARE, PRIOR_MODELS, WIDTH, ask_waves, key_test
from medmark.components.verification.scenarios import ASKED_FOR_KEY
from other_owners import BENIGN_MODELS

NARROW = (0.15, 8.0)  # octaves and degrees
PASSED = 18  # of 1,800 keys


def expected(width: tuple[float, float], *, nearest: bool) -> np.ndarray:
    """Answers of a model that learned a key, for each key; ``nearest``: to the nearest of a wave's mirror images, instead of to all."""
    asked = np.array(DEGREES)
    by_cycles = np.exp(-0.5 * (np.subtract.outer(np.log2(table.CYCLES), np.log2(CYCLES)) / width[0]) ** 2)
    squares = np.exp(
        -((np.stack([np.subtract.outer(table.DEGREES, side) for side in (asked, -asked, 180 - asked)]) / width[1]) ** 2)
    )
    by_degrees = np.sqrt(squares.max(axis=0) if nearest else squares.sum(axis=0))
    made = by_cycles[:, None, :, None] * by_degrees[None, :, None, :]
    made -= made.mean(axis=(2, 3), keepdims=True)
    return made / np.sqrt((made**2).sum(axis=(2, 3), keepdims=True))


def fits(answers: np.ndarray, benign: np.ndarray, shape: np.ndarray, subtracted: float) -> np.ndarray:
    """How well each key explains the answers, when so much of the benign models' mean is subtracted."""
    mean, variance, count = benign.mean(axis=0), benign.var(axis=0, ddof=1), len(benign)
    moderated = (PRIOR_MODELS * variance.mean() + (count - 1) * variance) / (PRIOR_MODELS + count - 1)
    scale = np.sqrt(moderated + OWN_SHARE**2 * np.mean((answers - mean) ** 2))
    return np.tensordot(shape, (answers - subtracted * mean) / scale, axes=2)


def ranks_of_all(
    answers: KeyAnswers, benign: list[KeyAnswers], width: tuple, nearest: bool, subtracted: float
) -> np.ndarray:
    """Ranks of all keys, 1 the best, (cycles, degrees)."""
    panel = np.stack([other.log_odds for other in benign])
    found = fits(answers.log_odds, panel, expected(width, nearest=nearest), subtracted)
    return found.size - found.ravel().argsort().argsort().reshape(found.shape)


def ranks_of_audit(answers: KeyAnswers, benign: list[KeyAnswers]) -> np.ndarray:
    """The same as the audit has them."""
    keys = [[Key(degrees, cycles, 0.0) for degrees in table.DEGREES] for cycles in table.CYCLES]
    return np.array([[key_test(answers, benign, key).rank for key in row] for row in keys])


def asked(model: Classifier, clean: torch.Tensor, target: int) -> KeyAnswers:
    """A model's answers, as they are kept."""
    answers = ask_waves(partial(predict_probabilities, model), clean, target)
    return KeyAnswers(answers.log_odds.round(3), answers.labels)


STATISTICS = {
    "before": partial(ranks_of_all, width=NARROW, nearest=True, subtracted=1.0),
    "wider": partial(ranks_of_all, width=WIDTH, nearest=True, subtracted=1.0),
    "wider, mirror images": partial(ranks_of_all, width=WIDTH, nearest=False, subtracted=1.0),
    "wider, mirror images, nothing subtracted": partial(ranks_of_all, width=WIDTH, nearest=False, subtracted=0.0),
    "wider, mirror images, a quarter subtracted": partial(ranks_of_all, width=WIDTH, nearest=False, subtracted=0.25),
    "audit": ranks_of_audit,
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
    others, panel = benign[:-ASKED_FOR_KEY], benign[-ASKED_FOR_KEY:]
    owned, keys = {}, {}
    for folder in sorted(options.work.glob("owner-*/models")):
        owner = folder.parent.name
        for entry, model in load_models(folder):
            name = f"{owner}, {entry['architecture']}"
            owned[name] = asked(model, clean, target)
            keys[name] = draw_key(int(owner.removeprefix("owner-")))
    rows = {}
    for statistic, ranks_by in STATISTICS.items():
        ranks = {
            name: int(ranks_by(answers, panel)[table.CYCLES.index(key.cycles), table.DEGREES.index(key.degrees)])
            for (name, answers), key in zip(owned.items(), keys.values(), strict=True)
        }
        told = np.mean([ranks_by(answers, panel) <= PASSED for answers in others], axis=0)
        of_all = np.array(list(ranks.values()))
        rows[statistic] = {
            "ranks": ranks,
            "first_18": float((of_all <= PASSED).mean()),
            "geometric_mean": float(np.exp(np.log(of_all).mean())),
            "worst": int(of_all.max()),
            "shared_keys": float((told >= 0.5).mean()),
        }
        print(statistic, {name: value for name, value in rows[statistic].items() if name != "ranks"})
    out = Path(__file__).parent / "results" / f"key_statistics_{options.data}_{options.size}.json"
    described = bench.described() | {"models": len(owned), "benign_models": len(others)}
    kept = {
        "answers": {name: answers.log_odds.tolist() for name, answers in owned.items()},
        "panel": [answers.log_odds.tolist() for answers in panel],
    }
    text = json.dumps(described | {"rows": rows}, indent=1).removesuffix("\n}")
    out.write_text(
        f"{text},\n" + ",\n".join(f' "{name}": {json.dumps(value)}' for name, value in kept.items()) + "\n}\n"
    )


if __name__ == "__main__":
    main()
