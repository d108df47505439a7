"""What marking leaves behind beside the mark, by kind of source.

    python benchmarks/traces.py --count 80

The same images with and without the mark, so that nothing but the mark differs; two keys. Phantoms of 160 px in seven kinds of
file, JPEG also by quality, and, where MEDMARK_DATA is given, chest x-rays as they come (JPEG). Writes ``results/traces.json``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
from marking import machine
from medmark.components.dataset.codecs import decode_file
from medmark.components.dataset.phantoms import draw_phantom
from medmark.components.robustness.traces import traces
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit" / "robustness"))
import test_traces as kinds  # the kinds of source that the tests hold to

QUALITIES = (50, 60, 75, 85, 90, 95)


def kermany(count: int) -> list[np.ndarray]:
    """Normal chest x-rays; none without the images."""
    root = Path(os.environ.get("MEDMARK_DATA", "../shared/data")) / "cxr"
    if not (root / "dev" / "manifest.csv").is_file():
        return []
    with open(root / "dev" / "manifest.csv", newline="") as stream:
        rows = [r for r in csv.DictReader(stream) if r["subset"] == "kermany" and r["label"] == "normal"]
    return [decode_file(root / row["file"]).pixels for row in rows[:count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--only", action="append", help="kind of source, repeatable; the other rows stay as they are")
    options = parser.parse_args()
    count = options.count
    side = kinds.SIDE
    phantoms = [draw_phantom(side, sick=False, body_seed=(0, 0, n), image_seed=(0, 2, n)) for n in range(count)]
    sources = {name: [make(image, n) for n, image in enumerate(phantoms)] for name, make in kinds.SOURCES.items()}
    for quality in QUALITIES:
        sources[f"JPEG, quality {quality}"] = [(kinds.jpeg(image, quality), 8) for image in phantoms]
    large = [np.asarray(Image.fromarray(image).resize((384, 384), Image.BICUBIC)) for image in phantoms]
    sources["JPEG, quality 75, 384 px"] = [(kinds.jpeg(image, 75), 8) for image in large]
    sources["kermany"] = [(image, 8) for image in kermany(count)]
    path = Path(__file__).parent / "results" / "traces.json"
    earlier = json.loads(path.read_text())["sources"] if options.only else {}
    result = {"size": side, "keys": [3, 4], "machine": machine(), "sources": earlier}
    for name, images in sources.items():
        if not images or (options.only and name not in options.only):
            continue
        unmarked = [image for image, _ in images]
        found = []
        for key in result["keys"]:
            marked = [kinds.marked(image, bits, n, key) for n, (image, bits) in enumerate(images)]
            found.append({s: round(v, 3) for s, v in traces(marked, unmarked).items()})
        result["sources"][name] = {"images": len(images), "auc": found}
        path.write_text(json.dumps(result, indent=1) + "\n")
        beyond = {s: v for row in found for s, v in row.items() if abs(v - 0.5) > 0.05}
        print(name, len(images), beyond, flush=True)


if __name__ == "__main__":
    main()
