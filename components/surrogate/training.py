"""Training one classifier: configuration, augmentation, the loop with its checkpoint, and prediction."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from medmark.components.base.checkpoint import load_checkpoint, save_checkpoint
from medmark.components.base.errors import MedmarkError
from medmark.components.base.threads import device, mixed_precision, seed_everything, use_threads
from medmark.components.dataset.arrays import ImageArrays, as_unit, resize
from medmark.components.surrogate.networks import Classifier, build
from torch.nn import functional as F

AUGMENTATIONS = ("none", "standard", "strong")


@dataclass(frozen=True)
class TrainConfig:
    """How a classifier is trained.

    Attributes:
        name: file name of the result.
        architecture: see :data:`medmark.components.surrogate.networks.ARCHITECTURES`.
        size: side of the images, pixels.
        epochs: at most; measured: small_cnn levels off at 10 to 15 on 960 chest x-rays.
        batch_size: arbitrary.
        learning_rate: peak of the one-cycle schedule; 2e-3 suits small_cnn, use 5e-4 for vit. Arbitrary.
        weight_decay: of AdamW. Arbitrary.
        augmentation: ``none``; ``standard``: shift 6 %, rotation 8 degrees, scale 8 %, contrast 15 %, brightness 8 %;
            ``strong``: 1.5 times that, mirrored half of the time.
        seed: of weights, order and augmentation.
        subset: share of the training patients that are used, drawn with ``seed``.
        patience: epochs without a better validation loss before stopping.
        weights: safetensors of pretrained weights, or None.
    """

    name: str
    architecture: str = "small_cnn"
    size: int = 128
    epochs: int = 12
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    augmentation: str = "standard"
    seed: int = 0
    subset: float = 1.0
    patience: int = 8
    weights: str | None = None


def trained_alike(config: TrainConfig, benign: Iterable[TrainConfig]) -> str:
    """Name of the benign model that differs from a marked model in its data alone: all but the name of its configuration is equal.

    Args:
        config: of the marked model.
        benign: configurations of the benign models.

    Raises:
        MedmarkError: there is none.
    """
    for other in benign:
        if replace(other, name=config.name) == config:
            return other.name
    raise MedmarkError(f"no benign model is trained as {config.name} is; add its configuration to the benign models")


@dataclass
class Trained:
    """A trained classifier, its history (one dict an epoch) and how long it took."""

    model: Classifier
    history: list[dict[str, Any]]
    seconds: float


def augment(images: torch.Tensor, kind: str, generator: torch.Generator) -> torch.Tensor:
    """Random shift, rotation, scale, brightness and contrast, for a whole batch at once.

    Args:
        images: (B, C, H, W) float32 in [0, 1].
        kind: one of :data:`AUGMENTATIONS`.
        generator: CPU source of randomness.
    """
    return _augment(images, kind, generator)[0]


def augment_masked(
    images: torch.Tensor, masks: torch.Tensor, kind: str, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for images and masks, (B, 1, H, W) float32 of 0 or 1, which move along."""
    shown, grid = _augment(images, kind, generator)
    if grid is None:
        return shown, masks
    moved = F.grid_sample(masks, grid, padding_mode="border", align_corners=False)
    return shown, (moved >= 0.5).float()


def _augment(images: torch.Tensor, kind: str, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Images, and the grid by which they were moved."""
    if kind == "none":
        return images, None
    strength = 1.5 if kind == "strong" else 1.0

    def uniform(limit: float, *shape: int) -> torch.Tensor:
        return (torch.rand(*shape, generator=generator) * 2 - 1) * limit * strength

    count = len(images)
    angle, scale = uniform(math.radians(8), count), 1 + uniform(0.08, count)
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0], affine[:, 0, 1] = scale * angle.cos(), -scale * angle.sin()
    affine[:, 1, 0], affine[:, 1, 1] = scale * angle.sin(), scale * angle.cos()
    affine[:, :, 2] = uniform(0.06, count, 2)
    if kind == "strong":
        mirrored = torch.rand(count, generator=generator) < 0.5
        affine[mirrored, :, 0] *= -1
    grid = F.affine_grid(affine.to(images.device), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    contrast = (1 + uniform(0.15, count, 1, 1, 1)).to(images.device)
    brightness = uniform(0.08, count, 1, 1, 1).to(images.device)
    return ((moved - 0.5) * contrast + 0.5 + brightness).clamp(0, 1), grid


def train_classifier(
    train: ImageArrays, val: ImageArrays, config: TrainConfig, *, num_classes: int, checkpoint: str | Path | None = None
) -> Trained:
    """Trains with AdamW, a one-cycle schedule and a class-balanced loss; keeps the weights of the best epoch.

    A run is repeatable from its seed on one machine with one number of threads, and so is a run that was interrupted
    and resumed from its checkpoint.

    Args:
        train: images to learn from.
        val: images that choose the epoch (lowest class-balanced loss).
        config: see :class:`TrainConfig`.
        num_classes: K.
        checkpoint: file to keep after every epoch and to resume from; removed at the end.

    Raises:
        MedmarkError: unknown augmentation, a class without a training image, or a checkpoint of another run.
    """
    if config.augmentation not in AUGMENTATIONS:
        raise MedmarkError(f"unknown augmentation: {config.augmentation!r}; use one of {', '.join(AUGMENTATIONS)}")
    use_threads()
    seed_everything(config.seed)
    if config.subset < 1.0:
        patients = sorted(set(train.patient_ids))
        rng = np.random.default_rng(config.seed)
        kept = set(rng.choice(patients, max(1, round(config.subset * len(patients))), replace=False))
        train = train.subset(torch.tensor([i for i, patient in enumerate(train.patient_ids) if patient in kept]))
    counts = torch.bincount(train.labels, minlength=num_classes)
    if (counts == 0).any():
        raise MedmarkError(f"class {int(counts.argmin())} has no training image for {config.name}; supply some")
    training = _Training(train, val, config, counts)
    if checkpoint is not None:
        training.resume(Path(checkpoint))
    started = time.monotonic()
    while not training.is_over():
        training.run_epoch()
        if checkpoint is not None:
            training.keep(Path(checkpoint))
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)
    return Trained(training.best_model(), training.progress.history, time.monotonic() - started)


@dataclass
class _Progress:
    """How far a training has got.

    Attributes:
        epoch: epochs that are done.
        best_epoch, best_loss, best_weights: of the epoch with the lowest validation loss.
        history: one dict an epoch.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


class _Training:
    """State of one training run.

    Args:
        train, val, config: see :func:`train_classifier`.
        counts: (K,) training images of each class.
    """

    def __init__(self, train: ImageArrays, val: ImageArrays, config: TrainConfig, counts: torch.Tensor):
        self.train, self.val, self.config, self.where = train, val, config, device()
        model = build(
            config.architecture,
            num_classes=len(counts),
            size=config.size,
            seed=config.seed,
            weights=config.weights,
            channels=train.images.shape[1],
        )
        self.model = model.to(self.where)
        self.class_weight = (1 / counts.float() / (1 / counts.float()).mean()).to(self.where)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.batches = max(1, len(train) // config.batch_size)
        steps = max(config.epochs * self.batches, 10)  # PyTorch divides by 0 where the warm-up is one step
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, config.learning_rate, total_steps=steps, pct_start=0.2
        )
        self.generator = torch.Generator().manual_seed(config.seed + 1)
        self.progress = _Progress()

    def is_over(self) -> bool:
        """Whether all epochs are done, or no better one came for a while."""
        done = self.progress
        return done.epoch >= self.config.epochs or done.epoch - done.best_epoch >= self.config.patience

    def run_epoch(self) -> None:
        """Trains on every image once and notes how well the model does on the validation images."""
        loss = self._train_epoch()
        now = self.progress
        now.epoch += 1
        probabilities = torch.from_numpy(predict_probabilities(self.model, self.val.images))
        log_probabilities = probabilities.clamp_min(1e-7).log().float()
        val_loss = F.nll_loss(log_probabilities, self.val.labels, weight=self.class_weight.cpu()).item()
        val_accuracy = (probabilities.argmax(1) == self.val.labels).float().mean().item()
        now.history.append({"epoch": now.epoch, "loss": loss, "val_loss": val_loss, "val_accuracy": val_accuracy})
        if not math.isfinite(val_loss):
            name = self.config.name
            raise MedmarkError(f"training of {name} diverged in epoch {now.epoch}; use a lower learning rate")
        if val_loss < now.best_loss:
            now.best_loss, now.best_epoch = val_loss, now.epoch
            now.best_weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def _train_epoch(self) -> float:
        """Mean loss of the batches."""
        config, where = self.config, self.where
        self.model.train()
        order = torch.randperm(len(self.train), generator=self.generator)
        losses = []
        for batch in range(self.batches):
            index = order[batch * config.batch_size : (batch + 1) * config.batch_size]
            images = augment(as_unit(self.train.images[index].to(where)), config.augmentation, self.generator)
            # dropout draws from the global generator; tied to the epoch so that resuming changes nothing
            torch.manual_seed(config.seed + 1_000_003 * (self.progress.epoch * self.batches + batch))
            with mixed_precision(where):
                logits = self.model(images.contiguous(memory_format=torch.channels_last)).float()
            loss = F.cross_entropy(logits, self.train.labels[index].to(where), weight=self.class_weight)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.item())
        return float(np.mean(losses))

    def best_model(self) -> Classifier:
        """The model with the weights of the best epoch, on the CPU, ready for evaluation."""
        self.model.load_state_dict(self.progress.best_weights)
        return self.model.cpu().eval().requires_grad_(False)

    def _signature(self) -> str:
        return json.dumps({**asdict(self.config), "images": len(self.train)}, sort_keys=True)

    def keep(self, checkpoint: Path) -> None:
        """Writes all that :meth:`resume` needs."""
        schedule = {k: v for k, v in self.schedule.state_dict().items() if isinstance(v, int | float | list)}
        state = {
            "progress": vars(self.progress),
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
        self.progress = _Progress(**kept["progress"])


@torch.no_grad()
def predict_probabilities(model: Classifier, images: torch.Tensor, batch_size: int = 64) -> np.ndarray:
    """Class probabilities, (N, K) float64 summing to 1, of (N, C, S, S) images, float32 in [0, 1] or uint8; resized to the model's size."""
    model.eval()
    where = next(model.parameters()).device
    parts = []
    for batch in images.split(batch_size):
        batch = resize(as_unit(batch), model.size).to(where).contiguous(memory_format=torch.channels_last)
        parts.append(torch.softmax(model(batch).double(), dim=1).cpu())
    return torch.cat(parts).numpy()


def accuracy(model: Classifier, arrays: ImageArrays) -> float:
    """Share of images whose most probable class is their label."""
    return float((predict_probabilities(model, arrays.images).argmax(1) == arrays.labels.numpy()).mean())
