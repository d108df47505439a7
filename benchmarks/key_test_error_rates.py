"""How often the exact key test accuses a model that was not trained on the release, and how often one that was, by simulation.

    python benchmarks/key_test_error_rates.py [--audits 1000] [--out benchmarks/results/key_test_error_rates.json]

Three minutes on one core. Each audit draws a code, 6 benign models, and 5 suspects of one kind that answer about 64 images,
each clean and with every cell. Cells are 8 directions x frequencies; a model that answers to one also answers to its
neighbours, by the cosine of twice the angle between them and half as much for each step in frequency. Writes
``benchmarks/results/key_test_error_rates.json``:

- ``false_accusations``: suspects that do not depend on the code, by kind. Share with p <= 0.01 of ``fixed``, ``sequential``
  (at any of four looks), both by labels only, ``uncalibrated``, ``fixed_and_best`` (if no other code explains the
  answers better at 0.05), and ``any_of_5``, the audits with one accused of five by Holm's method. ``peeking`` takes the
  smallest rank of the looks for a p-value, which is not valid. Each with an upper 95 % Clopper-Pearson bound.
- ``similar_codes``: suspects trained on another owner's release, whose code was *chosen* to be similar to ours. Nothing
  promises a rate here; the columns show what comparing with the best code does.
- ``power``: models of our own release, by rise of the logit that the cells cause, and two adversaries that hide it.
  ``images`` are those that the sequential test asks about until p <= 0.01, 64 if it never is; ``bonferroni_images`` the
  same by four times the rank. ``fixed_power`` is that of a fixed test with so many images. ``vetoed``: another code
  explains the answers better at 0.05; ``vetoed_apart`` is the same over the codes whose two cells are no neighbours.
  Neighbours of opposite classes undo each other, so that a code beside ours does explain such a model better.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from marking import machine
from medmark.components.base.progress import track
from medmark.components.evidence.code import Code, code_bits, code_count, draw_code
from medmark.components.verification.key_test import (
    CellAnswers,
    calibrated,
    evidence_by_image,
    explained_better,
    key_test,
    look_sizes,
    scores,
    scores_by_look,
    sequential_key_test,
)
from medmark.components.verification.statistics import upper_rate

RESULT = Path(__file__).parent / "results" / "key_test_error_rates.json"
SEED = 40
IMAGES = 64
BENIGN = 6
SUSPECTS = 5
ALPHA = 0.01
VETO = 0.05  # level of explained_better
DIRECTIONS = 8
TABLES = (24, 40)
LOOKS = look_sizes(IMAGES)
STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0)

# response to each cell, (C,) or (N, C): rise of the first class's logit against the second's
Draw = Callable[[np.random.Generator, Code, int], np.ndarray]


def near(cell: int, cells: int) -> np.ndarray:
    """(C,) response to each cell, 0 to 1, of a model that was trained on this one."""
    direction, frequency = np.arange(cells) % DIRECTIONS, np.arange(cells) // DIRECTIONS
    angle = np.pi * (direction - cell % DIRECTIONS) / DIRECTIONS
    return np.cos(2 * angle).clip(0) * 0.5 ** np.abs(frequency - cell // DIRECTIONS)


def pattern(code: Code, cells: int) -> np.ndarray:
    """(C,) response of a model that was trained on this code's cells, the second class's being negative."""
    (first,), (second,) = code.cells
    return near(first, cells) - near(second, cells)


def shortcuts(cells: int) -> np.ndarray:
    """(C,) textures that look like a class to every model: always the same four cells."""
    response = np.zeros(cells)
    response[[1, 6, 11, 20]] = [3.0, -3.0, 2.0, -2.0]
    return response


def apart(code: Code, cells: int) -> bool:
    """Whether a model that answers to one of the code's cells hardly answers to the other."""
    (first,), (second,) = code.cells
    return near(first, cells)[second] < 0.3


def drawn(rng: np.random.Generator, cells: int) -> Code:
    return draw_code(rng.bytes(32), cells, 2, 1)


def answers(
    rng: np.random.Generator, difficulty: np.ndarray, response: np.ndarray, *, flips: float = 0.0
) -> CellAnswers:
    """Draws the answers of a model: its own noise, and for ``flips`` of the queries the opposite answer."""
    own = response + rng.normal(0, 0.3, response.shape[-1])
    clean = difficulty + rng.normal(0, 0.5, len(difficulty))
    logits = clean[:, None] + own + rng.normal(0, 0.5, (len(difficulty), response.shape[-1]))
    first = 1 / (1 + np.exp(-np.concatenate([clean[:, None], logits], axis=1)))
    first = np.where(rng.random(first.shape) < flips, 1 - first, first)
    both = np.stack([first, 1 - first], axis=-1)
    return CellAnswers(both[:, 0], both[:, 1:], (0, 1))


def at_random(rng: np.random.Generator, cells: int) -> CellAnswers:
    """Answers that have nothing to do with the images."""
    first = rng.random((IMAGES, cells + 1))
    both = np.stack([first, 1 - first], axis=-1)
    return CellAnswers(both[:, 0], both[:, 1:], (0, 1))


def changing(rng: np.random.Generator, cells: int) -> np.ndarray:
    """(N, C) response that points at another code at each look, and takes the last one back."""
    response, start, last = np.zeros((IMAGES, cells)), 0, np.zeros(cells)
    for look in LOOKS:
        now = 8 * pattern(drawn(rng, cells), cells)
        response[start:look] = now - last
        start, last = look, now
    return response


def neighbour(rng: np.random.Generator, code: Code, cells: int) -> Code:
    """A code whose cells are one direction beside ours."""
    turned = [cell - cell % DIRECTIONS + (cell + rng.choice([-1, 1])) % DIRECTIONS for (cell,) in code.cells]
    return Code(tuple((int(cell),) for cell in turned)) if turned[0] != turned[1] else neighbour(rng, code, cells)


def half(rng: np.random.Generator, code: Code, cells: int) -> Code:
    """A code with one of our cells."""
    rest = [cell for cell in range(cells) if cell not in (code.cells[0][0], code.cells[1][0])]
    return Code((code.cells[0], (int(rng.choice(rest)),)))


BENIGN_KINDS: dict[str, tuple[Draw, Draw]] = {
    # of the suspect, of the benign models
    "benign": (lambda rng, code, c: np.zeros(c), lambda rng, code, c: np.zeros(c)),
    "benign, unlike the benign models": (lambda rng, code, c: rng.normal(0, 2.0, c), lambda rng, code, c: np.zeros(c)),
    "texture shortcuts in all models": (lambda rng, code, c: shortcuts(c), lambda rng, code, c: shortcuts(c)),
    "texture shortcuts in suspects only": (lambda rng, code, c: shortcuts(c), lambda rng, code, c: np.zeros(c)),
    "other owner's release": (
        lambda rng, code, c: 4 * pattern(drawn(rng, c), c),
        lambda rng, code, c: np.zeros(c),
    ),
    "three other owners' releases": (
        lambda rng, code, c: sum(4 * pattern(drawn(rng, c), c) for _ in range(3)),
        lambda rng, code, c: np.zeros(c),
    ),
    "points at another code at each look": (lambda rng, code, c: changing(rng, c), lambda rng, code, c: np.zeros(c)),
    "answers at random": (lambda rng, code, c: np.full(c, np.nan), lambda rng, code, c: np.zeros(c)),
}


def weigh(suspect: CellAnswers, panel: list[np.ndarray], benign: list[CellAnswers], code: Code) -> dict:
    """All that is counted of one suspect."""
    by_look = scores_by_look(suspect, LOOKS)
    z = calibrated(by_look, panel)
    labels = calibrated(
        scores_by_look(suspect, LOOKS, label_only=True),
        [scores_by_look(other, LOOKS, label_only=True) for other in benign],
    )
    evidence = calibrated(evidence_by_image(suspect), [other[-1] for other in panel])
    looks, label_looks = (sequential_key_test(each, code, looks=len(LOOKS)) for each in (z, labels))
    fixed, vetoed = key_test(z[-1], code).p_value, explained_better(evidence, code).p_value <= VETO
    return {
        "fixed": fixed <= ALPHA,
        "sequential": looks.p_value <= ALPHA,
        "label_only": key_test(labels[-1], code).p_value <= ALPHA,
        "label_only_sequential": label_looks.p_value <= ALPHA,
        "uncalibrated": key_test(by_look[-1], code).p_value <= ALPHA,
        "fixed_and_best": fixed <= ALPHA and not vetoed,
        "vetoed": vetoed,
        "apart": apart(code, by_look.shape[1]),
        "peeking": min(looks.ranks) / looks.codes <= ALPHA,
        "fixed_p": fixed,
        "ranks": looks.ranks,
        "codes": looks.codes,
        "p_values": looks.p_values,
    }


def audit(
    rng: np.random.Generator, cells: int, suspect: Draw, benign: Draw, *, others: int = 0, flips: float = 0.0
) -> dict:
    """One audit: all about the first suspect, and whether Holm's method accuses it or one of ``others`` like it."""
    code, difficulty = drawn(rng, cells), rng.normal(0, 1.5, IMAGES)
    benign_models = [answers(rng, difficulty, benign(rng, code, cells)) for _ in range(BENIGN)]
    panel = [scores_by_look(other, LOOKS) for other in benign_models]

    def asked() -> CellAnswers:
        response = suspect(rng, code, cells)
        return at_random(rng, cells) if np.isnan(response).any() else answers(rng, difficulty, response, flips=flips)

    weighed = weigh(asked(), panel, benign_models, code)
    final = [other[-1] for other in panel]
    p_values = [key_test(calibrated(scores(asked()), final), code).p_value for _ in range(others)]
    # Holm's method accuses somebody if the smallest p-value passes Bonferroni's
    return weighed | {"any_of_5": min([weighed["fixed_p"], *p_values]) <= ALPHA / (1 + others)}


def rates(weighed: list[dict], names: tuple[str, ...]) -> dict:
    """Shares with their upper bounds."""
    found = {name: sum(one[name] for one in weighed) for name in names}
    n = len(weighed)
    return {name: count / n for name, count in found.items()} | {
        f"{name}_upper95": upper_rate(count, n, 0.95) for name, count in found.items()
    }


TESTS = ("fixed", "sequential", "label_only", "label_only_sequential", "uncalibrated", "fixed_and_best", "peeking")


def false_accusations(audits: int) -> list[dict]:
    rows = []
    for kind, cells in track([(kind, cells) for kind in BENIGN_KINDS for cells in TABLES], "benign suspects"):
        rng = np.random.default_rng([SEED, cells])
        suspect, benign = BENIGN_KINDS[kind]
        runs = [audit(rng, cells, suspect, benign, others=SUSPECTS - 1) for _ in range(audits)]
        row = rates(runs, (*TESTS, "any_of_5"))
        rows.append({"suspects": kind, "cells": cells, "codes": code_count(cells, 2, 1), **row})
    return rows


def similar_codes(audits: int) -> list[dict]:
    rows = []
    nothing = BENIGN_KINDS["benign"][1]
    for name, similar in track(list({"one cell beside ours": neighbour, "one cell in common": half}.items()), "owners"):
        for cells in TABLES:
            rng = np.random.default_rng([SEED, cells])

            def suspect(rng: np.random.Generator, code: Code, c: int, similar: Callable = similar) -> np.ndarray:
                return 4 * pattern(similar(rng, code, c), c)

            runs = [audit(rng, cells, suspect, nothing) for _ in range(audits)]
            rows.append({"their_code": name, "cells": cells, **rates(runs, ("fixed", "fixed_and_best", "vetoed"))})
    return rows


def power(audits: int) -> list[dict]:
    nothing = BENIGN_KINDS["benign"][1]
    kinds = [(f"logit {strength:g}", strength, 0.0) for strength in STRENGTHS]
    kinds += [("logit 3, flips a third of the answers", 3.0, 1 / 3), ("logit 3, flips half the answers", 3.0, 0.5)]
    rows = []
    for (name, strength, flips), cells in track([(kind, cells) for kind in kinds for cells in TABLES], "adversaries"):
        rng = np.random.default_rng([SEED, cells])

        def suspect(rng: np.random.Generator, code: Code, c: int, strength: float = strength) -> np.ndarray:
            return strength * pattern(code, c)

        runs = [audit(rng, cells, suspect, nothing, flips=flips) for _ in range(audits)]
        images, bonferroni = [], []
        for run in runs:
            early = [size for size, p in zip(LOOKS, run["p_values"], strict=True) if p <= ALPHA]
            images.append(early[0] if early else IMAGES)
            early = [
                size
                for size, rank in zip(LOOKS, run["ranks"], strict=True)
                if len(LOOKS) * rank / run["codes"] <= ALPHA
            ]
            bonferroni.append(early[0] if early else IMAGES)
        fixed_power = {
            str(size): float(np.mean([run["ranks"][look] / run["codes"] <= ALPHA for run in runs]))
            for look, size in enumerate(LOOKS)
        }
        shares = {name: float(np.mean([run[name] for run in runs])) for name in (*TESTS, "vetoed") if name != "peeking"}
        by_apart = {"vetoed_apart": float(np.mean([run["vetoed"] for run in runs if run["apart"]]))}
        rows.append(
            {
                "suspects": name,
                "cells": cells,
                **(shares | by_apart),
                "images_mean": float(np.mean(images)),
                "images_median": float(np.median(images)),
                "bonferroni_images_mean": float(np.mean(bonferroni)),
                "fixed_power": fixed_power,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=1000, help="simulated audits for each row")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write")
    arguments = parser.parse_args()
    audits, started = arguments.audits, time.monotonic()
    result = {
        "name": "key_test_error_rates",
        "seed": SEED,
        "audits": audits,
        "images": IMAGES,
        "looks": LOOKS,
        "benign_models": BENIGN,
        "suspects_by_holm": SUSPECTS,
        "alpha": ALPHA,
        "veto": VETO,
        "bits": {str(cells): code_bits(cells, 2, 1) for cells in TABLES},
        "false_accusations": false_accusations(audits),
        "similar_codes": similar_codes(audits),
        "power": power(audits),
        "machine": machine(),
        "versions": {name: version(name) for name in ("numpy", "scipy")},
        "seconds": round(time.monotonic() - started),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    valid = [name for name in (*TESTS, "any_of_5") if name != "peeking"]
    worst = max((row[name], name, row["suspects"]) for row in result["false_accusations"] for name in valid)
    print(f"worst false-accusation rate {worst[0]:.4f} ({worst[1]}, {worst[2]})")


if __name__ == "__main__":
    main()
