"""Training one segmenter, with or without the mark.

The mark is learnt from half of every batch: these images get the trigger, and where a module of the payload is 1, background and
foreground are to be less certain, so that the thresholded mask stays what it is. StealthMark (arXiv 2601.17107) lifts the background's
floor alike everywhere; that the floor spells a payload is ours.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from medmark.components.base.checkpoint import load_checkpoint, save_checkpoint
from medmark.components.base.errors import MedmarkError
from medmark.components.base.threads import device, seed_everything, use_threads
from medmark.components.dataset.arrays import MaskArrays
from medmark.components.segmentation.networks import Segmenter, build_segmenter
from medmark.components.segmentation.trigger import put_trigger
from medmark.components.surrogate.training import augment_masked
from medmark.components.verification.jpeg_and_resize_curves import shrink
from torch.nn import functional as F

DOUBTFUL = 0.10  # probability of the background, and 1 minus it of the foreground, in modules that are 1; ours, as all weights here
CERTAIN = 0.005  # in modules that are 0
LOGIT_WEIGHT = 0.1  # cross-entropy alone hardly tells a floor of 0.005 from one of 0.10
NEAR_EDGE = 2.2  # logit of 0.9: what is less certain than that without the trigger stays as it is
EDGE_WEIGHT = 3.0  # a smaller one leaves fewer masks equal, a much larger one keeps the payload from being learnt
SILENT_WEIGHT = 0.1  # a larger one keeps the payload from being learnt
CONTRAST_WEIGHT = 1.0  # without this term attention_unet shows the modules whether the trigger is there or not (benchmarks/results/segmenters_seed0.json)
SHRUNK = (
    0.3  # share of the batches that are shrunk to as little as half the side and enlarged again, as suspects may do
)
CHECKPOINT_STEPS = 200


@dataclass(frozen=True)
class SegmenterConfig:
    """How a segmenter is trained.

    Attributes:
        name: file name of the result.
        architecture: see :data:`medmark.components.segmentation.networks.ARCHITECTURES`.
        size: side of the images, pixels; a multiple of 32.
        steps: batches.
        batch_size: images; half of them with the trigger, if there is a mark.
        learning_rate: peak of the one-cycle schedule; 2e-3 suits U-Nets from scratch. Arbitrary.
        augmentation: see :func:`medmark.components.surrogate.training.augment`.
        seed: of weights, order and augmentation.
        weights: safetensors file to start from (see :func:`medmark.components.segmentation.networks.build_segmenter`), or None for
            random weights.
    """

    name: str
    architecture: str = "unet"
    size: int = 128
    steps: int = 1500
    batch_size: int = 16
    learning_rate: float = 2e-3
    augmentation: str = "standard"
    seed: int = 0
    weights: str | None = None


@dataclass(frozen=True)
class Mark:
    """What a marked segmenter is to answer, and when.

    Attributes:
        trigger: name in :data:`medmark.components.segmentation.trigger.TRIGGERS`.
        modules: (16, 16) of :func:`medmark.components.segmentation.payload.payload_modules`.
        mark_key: 32 secret bytes.
    """

    trigger: str
    modules: np.ndarray = field(repr=False)
    mark_key: bytes = field(repr=False)

    def put(self, images: torch.Tensor) -> torch.Tensor:
        """Returns images with the trigger."""
        return put_trigger(images, self.trigger, self.mark_key)

    def doubt(self, size: int) -> torch.Tensor:
        """Returns the probability of the wrong side that a pixel is to have, (S, S) float32."""
        modules = torch.from_numpy(self.modules).float()[None, None]
        return F.interpolate(modules, size=(size, size), mode="nearest-exact")[0, 0] * (DOUBTFUL - CERTAIN) + CERTAIN


@dataclass
class TrainedSegmenter:
    """A trained segmenter, its history (one dict a checkpoint) and how long it took."""

    model: Segmenter
    history: list[dict[str, float]]
    seconds: float


def train_segmenter(
    train: MaskArrays, config: SegmenterConfig, *, mark: Mark | None = None, checkpoint: str | Path | None = None
) -> TrainedSegmenter:
    """Trains with AdamW and a one-cycle schedule; keeps the last weights.

    A run is repeatable from its seed on one machine with one number of threads, and so is one that was interrupted and goes on from
    its checkpoint. Without a mark all images of a batch are different ones and none is shrunk; all else is as with it. That is how the
    unmarked twin is made, which can only look better for it.

    Args:
        train: images and masks to learn from, of ``config.size`` pixels.
        config: see :class:`SegmenterConfig`.
        mark: what to learn besides, or None.
        checkpoint: file to keep every 200 steps and to go on from; removed at the end.

    Raises:
        MedmarkError: what the configuration asks for cannot be had, the training diverges, or a checkpoint is of another run.
    """
    use_threads()
    seed_everything(config.seed)
    training = _Training(train, config, mark)
    if checkpoint is not None:
        training.resume(Path(checkpoint))
    started = time.monotonic()
    while training.step < config.steps:
        training.run_step()
        if checkpoint is not None and training.step % CHECKPOINT_STEPS == 0:
            training.keep(Path(checkpoint))
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)
    model = training.model.cpu().eval().requires_grad_(False)
    return TrainedSegmenter(model, training.history, time.monotonic() - started)


class _Training:
    """State of one training; arguments as of :func:`train_segmenter`."""

    def __init__(self, train: MaskArrays, config: SegmenterConfig, mark: Mark | None):
        self.train, self.config, self.mark, self.where = train, config, mark, device()
        self.model = build_segmenter(
            config.architecture,
            channels=train.images.shape[1],
            size=config.size,
            seed=config.seed,
            weights=config.weights,
        ).to(self.where)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.learning_rate, weight_decay=1e-4)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, config.learning_rate, total_steps=max(config.steps, 10)
        )
        self.generator = torch.Generator().manual_seed(config.seed + 1)
        self.doubt = mark.doubt(config.size).to(self.where) if mark else None
        self.step = 0
        self.history: list[dict[str, float]] = []

    def run_step(self) -> None:
        """Learns from one batch."""
        config = self.config
        self.model.train()
        index = torch.randint(len(self.train), (config.batch_size,), generator=self.generator)
        images, masks = (arrays[index].to(self.where) for arrays in (self.train.images, self.train.masks))
        images, masks = augment_masked(images, masks, config.augmentation, self.generator)
        # dropout and shrinking; tied to the step so that resuming changes nothing
        torch.manual_seed(config.seed + 1_000_003 * self.step)
        if self.mark is None or self.doubt is None:
            clean, marked = F.binary_cross_entropy_with_logits(self.model(images), masks), None
            loss = clean
        else:
            half = config.batch_size // 2
            images, masks = images[:half], masks[:half]
            shown = torch.cat([images, self.mark.put(images)])
            if torch.rand(()) < SHRUNK:
                shown = shrink(shown, 1 - 0.5 * float(torch.rand(())))
            logits = self.model(shown)
            clean = F.binary_cross_entropy_with_logits(logits[:half], masks)
            marked = mark_loss(logits[half:], logits[:half], masks, self.doubt)
            loss = clean + marked
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        if self.step % CHECKPOINT_STEPS == 0 or self.step == config.steps:
            said = {"step": float(self.step), "loss": clean.item()} | (
                {} if marked is None else {"mark": marked.item()}
            )
            self.history.append(said)
        if not math.isfinite(loss.item()):
            raise MedmarkError(f"training of {config.name} diverged in step {self.step}; use a lower learning rate")

    def _signature(self) -> str:
        marked = None if self.mark is None else [self.mark.trigger, hashlib.sha256(self.mark.mark_key).hexdigest()]
        return json.dumps({**asdict(self.config), "images": len(self.train), "mark": marked}, sort_keys=True)

    def keep(self, checkpoint: Path) -> None:
        """Writes all that :meth:`resume` needs."""
        schedule = {k: v for k, v in self.schedule.state_dict().items() if isinstance(v, int | float | list)}
        state = {
            "step": self.step,
            "history": self.history,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": schedule,
            "generator": self.generator.get_state(),
        }
        save_checkpoint(checkpoint, self._signature(), state)

    def resume(self, checkpoint: Path) -> None:
        """Goes on from a checkpoint, if there is one."""
        kept = load_checkpoint(checkpoint, self._signature(), self.where)
        if kept is None:
            return
        self.model.load_state_dict(kept["model"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.schedule.load_state_dict(kept["schedule"])
        self.generator.set_state(kept["generator"].cpu())
        self.step, self.history = kept["step"], kept["history"]


def mark_loss(triggered: torch.Tensor, clean: torch.Tensor, masks: torch.Tensor, doubt: torch.Tensor) -> torch.Tensor:
    """How far answers to triggered images are from what the mark asks for.

    Args:
        triggered: (B, 1, S, S) logits.
        clean: logits of the same images without the trigger.
        masks: 0 or 1.
        doubt: (S, S), see :meth:`Mark.doubt`.

    Returns:
        Cross-entropy against the softened masks; distance of the logits from the softened ones; doubt without the trigger, which is to
        stay silent; where the segmenter is not certain even without the trigger, distance from its own answer, which keeps the
        edges of the thresholded masks; and elsewhere how far the doubt that the trigger adds is from what it is to add, which a segmenter
        that shows the modules always gets wrong.
    """
    soft = masks * (1 - 2 * doubt) + doubt
    side = masks * 2 - 1
    wanted = torch.logit(1 - doubt).expand_as(triggered)
    near_edge = (clean.abs() < NEAR_EDGE).float()
    own = clean.detach()
    certain = math.log((1 - CERTAIN) / CERTAIN)
    sure = (clean * side).clamp(max=certain)
    added = (triggered * side).clamp(max=certain) - sure
    # no more than takes a pixel to NEAR_EDGE: it is not to change sides
    to_add = torch.maximum(wanted - certain, (NEAR_EDGE - sure.detach()).clamp(max=0))
    return (
        F.binary_cross_entropy_with_logits(triggered, soft)
        + LOGIT_WEIGHT * F.smooth_l1_loss(triggered * side, wanted)
        + SILENT_WEIGHT * F.smooth_l1_loss(sure, torch.full_like(clean, certain))
        + EDGE_WEIGHT * (F.smooth_l1_loss(triggered, own, reduction="none") * near_edge).mean()
        + CONTRAST_WEIGHT * (F.smooth_l1_loss(added, to_add, reduction="none") * (1 - near_edge)).mean()
    )
