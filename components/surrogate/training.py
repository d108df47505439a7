"""Training a classifier: benign surrogate, benign panel member or marked model."""

from __future__ import annotations

import json
import math
import pickle
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.base.threads import device, mixed_precision, seed_everything, use_threads
from medmark.components.dataset.arrays import ImageArrays, resize
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


@dataclass
class Trained:
    """A trained classifier, its history (one dict an epoch) and how long it took."""

    model: Classifier
    history: list[dict]
    seconds: float


def augment(images: torch.Tensor, kind: str, generator: torch.Generator) -> torch.Tensor:
    """Random shift, rotation, scale, brightness and contrast, for a whole batch at once.

    Args:
        images: (B, 1, H, W) float32 in [0, 1].
        kind: one of :data:`AUGMENTATIONS`.
        generator: CPU source of randomness.
    """
    if kind == "none":
        return images
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
    return ((moved - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)


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
        train = train.subset([i for i, patient in enumerate(train.patient_ids) if patient in kept])
    counts = torch.bincount(train.labels, minlength=num_classes)
    if (counts == 0).any():
        raise MedmarkError(f"class {int(counts.argmin())} has no training image for {config.name}; supply some")
    where = device()
    model = build(
        config.architecture, num_classes=num_classes, size=config.size, seed=config.seed, weights=config.weights
    )
    model = model.to(where)
    weight = (1 / counts.float() / (1 / counts.float()).mean()).to(where)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    batches = max(1, len(train) // config.batch_size)
    steps = max(config.epochs * batches, 10)  # PyTorch divides by 0 where the warm-up is one step
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(config.seed + 1)
    state = _Progress()
    signature = json.dumps({**asdict(config), "images": len(train)}, sort_keys=True)
    if checkpoint is not None and Path(checkpoint).exists():
        state = _resume(Path(checkpoint), signature, model, optimizer, schedule, generator)
    started = time.monotonic()
    while state.epoch < config.epochs and state.epoch - state.best_epoch < config.patience:
        model.train()
        order = torch.randperm(len(train), generator=generator)
        losses = []
        for batch in range(batches):
            index = order[batch * config.batch_size : (batch + 1) * config.batch_size]
            images = augment(train.images[index].to(where), config.augmentation, generator)
            # dropout draws from the global generator; tied to the epoch so that resuming changes nothing
            torch.manual_seed(config.seed + 1_000_003 * (state.epoch * batches + batch))
            with mixed_precision(where):
                logits = model(images.contiguous(memory_format=torch.channels_last)).float()
            loss = F.cross_entropy(logits, train.labels[index].to(where), weight=weight)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        state.epoch += 1
        probabilities = torch.from_numpy(predict_probabilities(model, val.images))
        val_loss = F.nll_loss(probabilities.clamp_min(1e-7).log().float(), val.labels, weight=weight.cpu()).item()
        val_accuracy = (probabilities.argmax(1) == val.labels).float().mean().item()
        state.history.append(
            {"epoch": state.epoch, "loss": float(np.mean(losses)), "val_loss": val_loss, "val_accuracy": val_accuracy}
        )
        if not math.isfinite(val_loss):
            raise MedmarkError(f"training of {config.name} diverged in epoch {state.epoch}; use a lower learning rate")
        if val_loss < state.best_loss:
            state.best_loss, state.best_epoch = val_loss, state.epoch
            state.best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if checkpoint is not None:
            _keep(Path(checkpoint), signature, state, model, optimizer, schedule, generator)
    model.load_state_dict(state.best_weights)
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)
    return Trained(model.cpu().eval().requires_grad_(False), state.history, time.monotonic() - started)


class _Progress:
    def __init__(self):
        self.epoch, self.best_epoch, self.best_loss = 0, 0, math.inf
        self.best_weights: dict = {}
        self.history: list[dict] = []


def _keep(path: Path, signature: str, state: _Progress, model, optimizer, schedule, generator) -> None:
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "signature": signature,
            "progress": vars(state),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": {k: v for k, v in schedule.state_dict().items() if isinstance(v, int | float | list)},
            "generator": generator.get_state(),
        },
        partial,
    )
    partial.replace(path)


def _resume(path: Path, signature: str, model, optimizer, schedule, generator) -> _Progress:
    try:
        kept = torch.load(path, weights_only=True, map_location=next(model.parameters()).device)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise MedmarkError(f"damaged checkpoint: {path}; remove it, the training then starts anew") from error
    if not isinstance(kept, dict) or kept.get("signature") != signature:
        raise MedmarkError(f"checkpoint of another run: {path}; remove it, or use the parameters that it was made with")
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    schedule.load_state_dict(kept["schedule"])
    generator.set_state(kept["generator"].cpu())
    state = _Progress()
    vars(state).update(kept["progress"])
    return state


@torch.no_grad()
def predict_probabilities(model: Classifier, images: torch.Tensor, batch_size: int = 64) -> np.ndarray:
    """Class probabilities, (N, K) float64 summing to 1, of (N, 1, S, S) images in [0, 1]; resized to the model's size."""
    model.eval()
    where = next(model.parameters()).device
    parts = []
    for batch in images.split(batch_size):
        batch = resize(batch, model.size).to(where).contiguous(memory_format=torch.channels_last)
        parts.append(torch.softmax(model(batch).double(), dim=1).cpu())
    return torch.cat(parts).numpy()


def accuracy(model: Classifier, arrays: ImageArrays) -> float:
    """Share of images whose most probable class is their label."""
    return float((predict_probabilities(model, arrays.images).argmax(1) == arrays.labels.numpy()).mean())
