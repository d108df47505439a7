"""How well models that learned a mark tell its key, with and without decoys.

    python benchmarks/keys.py --data kermany --size 128 --keys 3 --work WORK

Marks the training images with keys that are drawn as a release's is, trains two networks on them, and ranks the key by their answers to
waves. Rows are kept as they come; writes ``results/keys_<data>_<size>.json``: ``rows`` by share of decoys, key and network, each with the
rank of the key among 1,800 and its p-value, with the WSR of the mark and of the control, and with the accuracy; ``benign_accuracy``.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from marking import MARKED_MODELS, Bench
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import ImageArrays
from medmark.components.generator.key import draw_decoy_key, draw_key, in_image
from medmark.components.generator.marker import Marker, Shape
from medmark.components.generator.network import ConditionalUNet
from medmark.components.generator.selection import select
from medmark.components.profiles import PROFILES
from medmark.components.surrogate.training import accuracy, predict_probabilities, train_classifier
from medmark.components.verification.key_test import IMAGES, ask_waves, key_test
from medmark.components.verification.scenarios import ASKED_FOR_KEY

DECOYS = (0.0, 0.1)


def with_waves(
    arrays: ImageArrays, saliency: torch.Tensor, marker: Marker, roles: dict[str, str], seed: int
) -> torch.Tensor:
    """The images with their marks and decoys, as files of 8 bits hold them."""
    images = arrays.images.clone()
    for i, image_id in enumerate(arrays.image_ids):
        if image_id in roles:
            key = marker.key if roles[image_id] == "mark" else draw_decoy_key(seed, image_id)
            delta = marker.delta(images[i : i + 1], saliency[i : i + 1], "decoy", in_image(key, seed, image_id))
            images[i] = ((images[i : i + 1] + delta).clamp(0, 1) * 255).round()[0] / 255
    return images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="kermany", choices=("phantoms", "kermany", "nih"))
    parser.add_argument("--size", type=int, default=128, help="side in pixels")
    parser.add_argument("--keys", type=int, default=3, help="how many keys, from the seeds 0, 1, ...")
    parser.add_argument("--target", type=int, default=0, help="class that carries the mark")
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    use_threads()
    bench = Bench(options.data, options.work, size=options.size, benign_models=ASKED_FOR_KEY)
    target, profile = options.target, PROFILES["smoke" if options.data == "phantoms" else "standard"]
    path = Path(__file__).parent / "results" / f"keys_{options.data}_{options.size}.json"
    results = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    results |= bench.described() | {"target": target, "marked_share": profile.marked_share, "epsilon": profile.epsilon}
    results["benign_accuracy"] = float(np.mean([accuracy(model, bench.test) for model in bench.benign_models]))
    others = torch.nonzero(bench.test.labels != target)[:, 0]
    clean = bench.test.images[others[:IMAGES]]
    benign = [ask_waves(partial(predict_probabilities, model), clean, target) for model in bench.benign_models]
    shape = Shape(size=options.size, epsilon=profile.epsilon, grid=min(64, options.size // 2))
    for decoys in DECOYS:
        for seed in range(options.keys):
            if f"decoys {decoys:g}, key {seed}, {MARKED_MODELS[-1].architecture}" in results["rows"]:
                continue
            shares = {"marked_share": profile.marked_share, "decoy_share": decoys}
            roles = select(bench.train, bench.panel, target=target, seed=seed, **shares)
            marker, other = (
                Marker(ConditionalUNet(), key, shape, target=target, roles=roles, release_digest="", seed=seed)
                for key in (draw_key(seed), draw_key(seed, 1))
            )
            images = with_waves(bench.train, bench.saliency["train"], marker, roles, seed)
            asked = [
                with_waves(bench.test, bench.saliency["test"], each, dict.fromkeys(bench.test.image_ids, "mark"), seed)
                for each in (marker, other)
            ]
            for config in MARKED_MODELS:
                config = replace(config, size=options.size, seed=config.seed + seed)
                model = train_classifier(replace(bench.train, images=images), bench.val, config, num_classes=2).model
                suspect = partial(predict_probabilities, model)
                found = key_test(ask_waves(suspect, clean, target), benign, draw_key(seed))
                rates = [float((suspect(marked[others])[:, target] > 0.5).mean()) for marked in asked]
                row = {
                    "degrees": marker.key.degrees,
                    "cycles": marker.key.cycles,
                    "rank": found.rank,
                    "p_value": found.p_value,
                    "wsr": rates[0],
                    "control_wsr": rates[1],
                    "accuracy": accuracy(model, bench.test),
                }
                results["rows"][f"decoys {decoys:g}, key {seed}, {config.architecture}"] = row
                path.write_text(json.dumps(results, indent=1) + "\n")
                print(decoys, seed, config.architecture, row, flush=True)


if __name__ == "__main__":
    main()
