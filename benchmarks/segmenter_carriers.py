"""Two carriers of a segmenter's payload, the modules of one trigger and one bit for each of many; and six triggers for the first.

    python benchmarks/segmenter_carriers.py --work WORK

Needs the real images (MEDMARK_DATA/seg/kermany_lung), in the WORK of ``segmenters.py`` or anew. 64 px, U-Net, 800 steps of 16 images, seed 0.
"modules": 256 bits, as medmark marks, called up by each trigger in turn; read with and without it, and after 5 passes of fine-tuning on
clean images. "triggers": 32 triggers, each its own texture, each lifts the floor everywhere (0.10) or not (0.005) by a secret bit; a bit is
read from the mean certainty over the test images. Writes ``results/segmenter_carriers.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import medmark.components.segmentation.training as training
import numpy as np
import torch
from marking import machine
from medmark.components.base.threads import use_threads
from medmark.components.dataset.arrays import load_masks
from medmark.components.segmentation.attacks import FINE_TUNING_RATE
from medmark.components.segmentation.check import answers
from medmark.components.segmentation.evidence import Payload
from medmark.components.segmentation.networks import masks_of, predict_maps, save_segmenter
from medmark.components.segmentation.payload import MODULES, payload_modules
from medmark.components.segmentation.reading import module_values, read_payload, split
from medmark.components.segmentation.training import CERTAIN, DOUBTFUL, SegmenterConfig, train_segmenter
from medmark.components.segmentation.trigger import TRIGGERS, put_trigger
from segmenters import TEXT, release_of

MANY = 32
STEPS = 800
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
        self.drawn[:] = torch.randint(MANY, (len(images),)).tolist()
        return torch.cat(
            [put_trigger(image[None], "texture", key_of(k)) for image, k in zip(images, self.drawn, strict=True)]
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
    release = release_of("kermany_lung", options.work)
    train, test = (load_masks(release, split=name, size=64) for name in ("train", "test"))
    modules = payload_modules(TEXT, KEY)
    bits = torch.from_numpy(np.random.default_rng(0).integers(0, 2, MANY))
    plain, rows = training.mark_loss, []
    config = SegmenterConfig("carrier", size=64, steps=STEPS)
    batches = len(train) // config.batch_size
    for trigger in TRIGGERS:
        payload = Payload(TEXT, trigger, KEY)
        model = train_segmenter(train, config, mark=payload.mark).model
        save_segmenter(model, options.work / "carrier.safetensors")
        tuning = replace(
            config, steps=5 * batches, weights=str(options.work / "carrier.safetensors"), learning_rate=FINE_TUNING_RATE
        )
        tuned = train_segmenter(train, tuning).model
        (clean, triggered), after = answers(model, payload, test), answers(tuned, payload, test)[1]
        wrong, silent, left = (
            MODULES - read_payload(maps.numpy(), modules, KEY).matches for maps in (triggered, clean, after)
        )
        equal = float((masks_of(clean) == masks_of(triggered)).float().mean())
        rows.append(
            {
                "carrier": "modules",
                "trigger": trigger,
                "bits": MODULES,
                "wrong": wrong,
                "wrong_without_trigger": silent,
                "wrong_after_fine_tuning": left,
                "equal_pixels": equal,
            }
        )
        print(rows[-1], flush=True)
    many = ManyTriggers(bits)
    training.mark_loss = lambda a, b, c, d: plain(a, b, c, d.wanted())
    try:
        model = train_segmenter(train, config, mark=many).model
    finally:
        training.mark_loss = plain
    values = np.array(
        [
            module_values(predict_maps(model, put_trigger(test.images, "texture", key_of(k))).numpy()).mean()
            for k in range(MANY)
        ]
    )
    found = values > split(values)
    wrong = int((found != (bits.numpy() == 1)).sum())
    means = [float(values[bits.numpy() == bit].mean()) for bit in (0, 1)]
    rows.append({"carrier": "triggers", "trigger": "texture", "bits": MANY, "wrong": wrong, "mean_values": means})
    print(rows[-1], flush=True)
    results = {"machine": machine(), "seed": 0, "steps": STEPS, "digest": release.digest, "rows": rows}
    path = Path(__file__).parent / "results" / "segmenter_carriers.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
