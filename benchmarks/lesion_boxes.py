"""How much of lesions the boxes of a trained segmenter hold, by how sure it must be: fundus photographs with drawn lesions (IDRiD, among others without).

    python benchmarks/lesion_boxes.py --work WORK --seed 0

Needs the real images (MEDMARK_DATA). 96 px, the segmenter of ``benchmarks/locking.py``. Writes ``results/lesion_boxes_seed<SEED>.json``: ``segmenter``,
what the pipeline states of it, and ``levels``: of the validation and the test images with drawn lesions the share of the lesions' pixels that is
inside the boxes, and the share of all pixels that is, by probability from which a place counts as a lesion's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from locking import release_of
from marking import machine
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import masks_of_records
from medmark.components.locking.lesion_segmenter import (
    _boxed,
    _with_lesions,
    load_lesion_segmenter,
    train_lesion_segmenter,
)
from medmark.components.segmentation.networks import predict_maps
from medmark.components.segmentation.training import SegmenterConfig

SIZE = 96
LEVELS = (0.5, 0.3, 0.1, 0.05, 0.03, 0.02, 0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    use_threads()
    options.work.mkdir(parents=True, exist_ok=True)
    release = release_of("fundus", options.work, options.seed)
    config = SegmenterConfig("lesions", "segresnet", size=SIZE, steps=800, seed=options.seed)
    stated = train_lesion_segmenter(release.path, options.work / "segmenter", config)
    network = load_lesion_segmenter(options.work / "segmenter").network
    levels = {}
    for split in ("val", "test"):
        arrays = masks_of_records(release, (r for r in release.records(split) if r.mask), SIZE)
        drawn = _with_lesions(arrays)
        masks, maps = arrays.masks[drawn], predict_maps(network, arrays.images[drawn])
        found = {str(level): _boxed(maps, masks, level) for level in LEVELS}
        levels[split] = {level: {"held": held, "covered": covered} for level, (held, covered) in found.items()}
    made = {
        "seed": options.seed,
        "size": SIZE,
        "release_digest": release.digest,
        "machine": machine(),
        "segmenter": stated,
        "levels": levels,
    }
    path = Path(__file__).parent / "results" / f"lesion_boxes_seed{options.seed}.json"
    path.write_text(json.dumps(made, indent=1) + "\n")
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
