"""Real audits of made-up models, and what a reader finds in a page."""

import math
from html.parser import HTMLParser

import numpy as np
import torch
from medmark.components.evidence.queries import QuerySet
from medmark.components.generator.key import draw_key, turned
from medmark.components.generator.marker import carrier
from medmark.components.report.figures import Picture
from medmark.components.verification.scenarios import verify
from medmark.components.verification.verdict import Thresholds

SIDE, TARGET = 16, "normal"
KEY = draw_key(1590)  # of 4 cycles, which so small images can hold
WAVES = [carrier(turned(KEY, phase, False), SIDE)[0] for phase in (0.0, math.pi / 2)]
STRENGTH = 0.06


def queries(control: bool = True) -> QuerySet:
    clean = 0.5 + 0.02 * torch.rand(40, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    other = (clean + STRENGTH * WAVES[0].transpose(1, 2)) if control else None
    return QuerySet(clean, clean + STRENGTH * WAVES[0], other, [f"image-{i}" for i in range(40)], target=0)


def model(reaction: float, control_reaction: float = 0.0):
    """A classifier that holds the target for more probable the more of the mark it finds."""

    def ask(images: torch.Tensor) -> np.ndarray:
        shown = images - 0.5
        found, other = (
            torch.hypot(*((shown * wave).mean(dim=(1, 2, 3)) for wave in waves)) / STRENGTH
            for waves in (WAVES, [wave.transpose(1, 2) for wave in WAVES])
        )
        p = torch.sigmoid(-3 + reaction * found + control_reaction * other + images.mean(dim=(1, 2, 3))).double()
        return torch.stack([p, 1 - p], dim=1).numpy()

    return ask


def inputs(marked_model=6.0, odd=0.0, benign_models=19, control=True, fires=0.0, name="phantoms", image_id="image-1"):
    """Arguments of write_report; ``odd`` is the reaction of the first benign model."""
    verdict, scores, _ = verify(
        {"marked-a": model(marked_model, fires), "marked-b": model(marked_model + 1, fires)},
        {f"benign-{i:02d}": model(0.01 * i if i else odd) for i in range(benign_models)},
        queries(control),
        Thresholds(),
        KEY,
    )
    worst = {"psnr": 35.0, "ssim": 0.94, "haarpsi": 0.93}
    worst |= {"stored_psnr": 36.0, "stored_ssim": 0.95, "largest_change": 0.08}
    verdict |= {
        "accuracy": {"marked": 0.95, "benign": 0.96},
        "quality": {"psnr": 40.0, "ssim": 0.97, "haarpsi": 0.98, "lpips": None, "lpips_reason": "no weights", "worst": worst,
            "stored_psnr": 41.0, "stored_ssim": 0.98},
        "left_unmarked": 1,
        "marked_fraction": 0.1,
        "decoy_fraction": 0.02,
        "release_digest": "ab" * 32,
        "parent_digest": "cd" * 32,
        "dataset": {"name": name, "version": "1", "images": 100, "counts": {}, "target_class": TARGET},
        "code_version": "0.1.0",
        "seconds": {"ingest": 1.0, "verify": 2.0},
    }  # fmt: skip
    clean = np.full((24, 20), 0.5, dtype=np.float32)
    picture = Picture(
        image_id, TARGET, clean, clean + 0.01, np.zeros((8, 8), dtype=np.float32), note="the most changed"
    )
    epochs = [{"epoch": i, "loss": 1.0, "val_accuracy": 0.5 + 0.1 * i} for i in range(3)]
    return {
        "verdict": verdict,
        "pictures": [picture],
        "histories": {"generator": [{"step": 0, "hard": 2.0}, {"step": 1, "hard": 1.0}], "marked-a": epochs},
        "scores": scores,
        "parameters": {"epsilon": 0.06, "data": name},
    }


class Tags(HTMLParser):
    """Tags with their attributes, and the text a reader sees."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data
