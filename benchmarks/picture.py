"""The picture of the README: a phantom with the mark beside its original.

    make run
    python benchmarks/picture.py out docs/marked.png

Takes the marked image of median SSIM of a run without --data, and draws its original again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pyarrow.parquet as pq
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.display import to_unit
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.phantoms import make_phantoms
from medmark.components.dataset.release import Release
from medmark.components.evidence.secrets import seeds_of
from medmark.components.report.figures import DIFFERENCE_GAIN
from medmark.pipelines.run_arguments import NOBODY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument("--seed", type=int, default=0, help="of the run")
    options = parser.parse_args()
    ledger = pq.read_table(options.run / "evidence" / "ledger.parquet").to_pandas().sort_values("ssim")
    row = ledger.iloc[len(ledger) // 2]
    verdict = json.loads((options.run / "verdict.json").read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        source = make_phantoms(Path(scratch) / "source", count=verdict["dataset"]["images"], seed=0)
        seed = seeds_of(options.seed)["ingest_seed"]
        ingest(source, Path(scratch) / "release", name="phantoms", seed=seed, patient_key=NOBODY)
        clean, marked = (
            next(
                to_unit(decode_png(r.image), r.bits, r.display)
                for r in Release(path).records("train")
                if r.image_id == row.image_id
            )
            for path in (Path(scratch) / "release", options.run / "release")
        )
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
    axes[0].imshow(clean, cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
    axes[1].imshow(marked, cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
    axes[2].imshow((marked - clean) * DIFFERENCE_GAIN, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="bicubic")
    titles = ("original", f"marked (SSIM {row.ssim:.3f})", f"difference × {DIFFERENCE_GAIN}")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.picture, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
