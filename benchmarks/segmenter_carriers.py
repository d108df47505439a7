"""Two carriers of a segmenter's payload: the modules of one trigger, and one bit for each of many triggers.

    python benchmarks/segmenter_carriers.py --work WORK

Needs the real images (MEDMARK_DATA/seg/kermany_lung), in the WORK of ``segmenters.py`` or anew. 64 px, U-Net, 1,200 and 3,600 steps of 16 images, seed 0.
"modules": 256 bits, as medmark marks. "triggers": 32 triggers, each its own noise in the corner, each lifts the floor everywhere (0.10) or not
(0.005) by a secret bit; a bit is read from the mean certainty over the test images. Writes ``results/segmenter_carriers.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from marking import machine
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import load_masks
from medmark.components.segmentation.networks import predict_maps
from medmark.components.segmentation.payload import MODULES, payload_modules
from medmark.components.segmentation.reading import module_values, read_payload, split
from medmark.components.segmentation.training import CERTAIN, DOUBTFUL, Mark, SegmenterConfig, train_segmenter
from medmark.components.segmentation.trigger import put_trigger
from segmenters import TEXT, release_of

TRIGGERS = 32
STEPS = (1200, 3600)
KEY = hashlib.sha256(b"carriers").digest()


def key_of(number: int) -> bytes:
    """The key of one of many triggers."""
    return hashlib.sha256(KEY + bytes([number])).digest()


@dataclass(frozen=True)
class ManyTriggers:
    """Stands for a :class:`Mark` while a segmenter is trained: each image gets one of the triggers.

    Attributes:
        bits: (32,) of 0 and 1.
        drawn: which triggers the last images got.
    """

    bits: torch.Tensor
    trigger: str = "many"
    drawn: list[int] = field(default_factory=list)

    def put(self, images: torch.Tensor) -> torch.Tensor:
        self.drawn[:] = torch.randint(TRIGGERS, (len(images),)).tolist()
        return torch.cat(
            [put_trigger(image[None], "noise", key_of(k)) for image, k in zip(images, self.drawn, strict=True)]
        )

    def doubt(self, size: int) -> ManyTriggers:
        return self

    def to(self, where: torch.device) -> ManyTriggers:
        return self

    def wanted(self) -> torch.Tensor:
        """(B, 1, 1, 1): the doubt of the last images."""
        bits = self.bits[self.drawn].float()[:, None, None, None]
        return bits * (DOUBTFUL - CERTAIN) + CERTAIN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    use_threads()
    import medmark.components.segmentation.training as training

    release = release_of("kermany_lung", options.work)
    train, test = (load_masks(release, split=name, size=64) for name in ("train", "test"))
    modules = payload_modules(TEXT, KEY)
    bits = torch.from_numpy(np.random.default_rng(0).integers(0, 2, TRIGGERS))
    plain, rows = training.mark_loss, []
    for steps in STEPS:
        config = SegmenterConfig("carrier", size=64, steps=steps)
        model = train_segmenter(train, config, mark=Mark("noise", modules, KEY)).model
        maps = predict_maps(model, put_trigger(test.images, "noise", KEY)).numpy()
        wrong = MODULES - read_payload(maps, modules, KEY).matches
        rows.append({"carrier": "modules", "steps": steps, "bits": MODULES, "wrong": wrong})
        print(rows[-1], flush=True)
        many = ManyTriggers(bits)
        training.mark_loss = lambda a, b, c, d: plain(a, b, c, d.wanted())
        try:
            model = train_segmenter(train, config, mark=many).model
        finally:
            training.mark_loss = plain
        values = np.array(
            [
                module_values(predict_maps(model, put_trigger(test.images, "noise", key_of(k))).numpy()).mean()
                for k in range(TRIGGERS)
            ]
        )
        found = values > split(values)
        floors = [float(values[bits.numpy() == bit].mean()) for bit in (0, 1)]
        wrong = int((found != (bits.numpy() == 1)).sum())
        rows.append({"carrier": "triggers", "steps": steps, "bits": TRIGGERS, "wrong": wrong, "mean_values": floors})
        print(rows[-1], flush=True)
    results = {"machine": machine(), "seed": 0, "digest": release.digest, "rows": rows}
    path = Path(__file__).parent / "results" / "segmenter_carriers.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
