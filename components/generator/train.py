"""Training the generator against a twin that learns the mark and a panel that must not feel it."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from medmark.components.base.checkpoint import load_checkpoint, save_checkpoint
from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.base.threads import device, mixed_precision, seed_everything, use_threads
from medmark.components.dataset.arrays import ImageArrays, as_unit, resize
from medmark.components.dataset.prepared import Prepared, load_bytes, open_images
from medmark.components.dataset.release import Release
from medmark.components.generator import objective
from medmark.components.generator.key import Key, draw_key, turned
from medmark.components.generator.marker import Marker, Shape
from medmark.components.generator.network import ConditionalUNet
from medmark.components.generator.objective import Weights
from medmark.components.generator.selection import select
from medmark.components.saliency.extract import load_saliency, stack_saliency
from medmark.components.surrogate.models import load_models
from medmark.components.surrogate.networks import Classifier, build
from medmark.components.surrogate.training import augment
from torch.nn import functional as F

CHECKPOINT_EVERY = 50  # steps


@dataclass(frozen=True)
class GeneratorConfig:
    """How the generator is trained.

    Attributes:
        shape: of the marks.
        weights: of the objective's terms.
        steps: of the generator; each goes with one of the twin. 0 leaves the bare carrier.
        learning_rate: of AdamW, cosine to a tenth. Arbitrary.
        batch_size: marked target images, and as many of other classes, a step. Arbitrary.
        twin: architecture of the twin.
        twins: trained side by side, of different age. Arbitrary.
        reinitialise: steps after which a twin starts from scratch, so that the mark must be learnable anew.
        ssim_floor: SSIM below which an image costs.
        marked_share: of the training images, all of the target class.
        decoy_share: of the training images, all of other classes.
        key_index: 0 for the release's mark, 1 for the control.
    """

    shape: Shape = field(default_factory=Shape)
    weights: Weights = field(default_factory=Weights)
    steps: int = 150
    learning_rate: float = 1e-3
    batch_size: int = 16
    twin: str = "small_cnn"
    twins: int = 2
    reinitialise: int = 100
    ssim_floor: float = 0.96
    marked_share: float = 0.15
    decoy_share: float = 0.0
    key_index: int = 0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GeneratorConfig:
        """From ``dataclasses.asdict``, as it travels through a pipeline."""
        return cls(**{**values, "shape": Shape(**values["shape"]), "weights": Weights(**values["weights"])})


def train_generator(
    release_dir: str | Path,
    surrogates_dir: str | Path,
    saliency_dir: str | Path,
    out_dir: str | Path,
    *,
    target_class: str,
    config: GeneratorConfig,
    seed: int,
) -> dict[str, Any]:
    """Trains a generator and chooses the images to mark.

    Args:
        release_dir: clean release, or what was prepared of it.
        surrogates_dir: the panel of benign classifiers.
        saliency_dir: maps of the release.
        out_dir: gets ``generator.safetensors``, ``generator.json``, ``selection.json`` and ``history.json``; while
            it runs, a checkpoint from which an interrupted run goes on.
        target_class: name of the class that the mark stands for; the first class when empty.
        config: see :class:`GeneratorConfig`.
        seed: of key, weights, order and augmentation.

    Returns:
        ``history`` (one dict a logged step), ``seconds``, ``marked``, ``decoys``.

    Raises:
        MedmarkError: unknown class, unfitting shares, a size that is no multiple of 16, or a foreign checkpoint.
    """
    use_threads()
    seed_everything(seed)
    release, out = open_images(release_dir), Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    target = release.class_index(target_class or release.class_names[0])
    if config.shape.size % 16 or config.shape.grid > config.shape.size:
        raise MedmarkError(
            f"size {config.shape.size} and grid {config.shape.grid} do not fit; use a multiple of 16 and grid <= size"
        )
    train = load_bytes(release, split="train", size=config.shape.size)
    saliency = stack_saliency(load_saliency(saliency_dir), train.image_ids)
    panel = [model for _, model in load_models(surrogates_dir)]
    roles = select(
        train,
        panel,
        target=target,
        marked_share=config.marked_share,
        decoy_share=config.decoy_share,
        seed=seed,
        left_alone=repeated(release),
    )
    marker = Marker(
        ConditionalUNet(),
        draw_key(seed, config.key_index),
        config.shape,
        target=target,
        roles=roles,
        release_digest=release.digest,
        seed=seed,
    )
    started = time.monotonic()
    training = _Training(marker, train, saliency, panel, config, len(release.class_names), seed)
    training.run(out / "checkpoint.pt")
    marker.network = marker.network.cpu().eval().requires_grad_(False)
    marker.save(out)
    (out / "history.json").write_bytes(canonical_json(training.history))
    return {
        "history": training.history,
        "seconds": round(time.monotonic() - started, 2),
        "marked": sum(role == "mark" for role in roles.values()),
        "decoys": sum(role == "decoy" for role in roles.values()),
    }


def repeated(release: Release | Prepared) -> frozenset[str]:
    """Ids of the images whose pixels the release holds more than once: a mark on one of them would show beside the other."""
    by_pixels: dict[str, list[str]] = {}
    for record in release.records(columns=["image_id", "sha256"]):
        by_pixels.setdefault(record.sha256, []).append(record.image_id)
    return frozenset(name for names in by_pixels.values() if len(names) > 1 for name in names)


class _Training:
    """State of one training run."""

    def __init__(
        self,
        marker: Marker,
        train: ImageArrays,
        saliency: torch.Tensor,
        panel: list[Classifier],
        config: GeneratorConfig,
        classes: int,
        seed: int,
    ):
        self.where = device()
        self.marker, self.config, self.classes, self.seed = marker, config, classes, seed
        self.images, self.labels, self.saliency = train.images, train.labels, saliency
        self.panel = [model.to(self.where) for model in panel]
        marker.network.to(self.where)
        role = [marker.roles.get(image_id) for image_id in train.image_ids]
        self.marked = torch.tensor([i for i, r in enumerate(role) if r == "mark"])
        self.unmarked = torch.tensor([i for i, r in enumerate(role) if r != "mark"])
        self.others = torch.nonzero(train.labels != marker.target)[:, 0]
        counts = torch.bincount(train.labels, minlength=classes).float()
        self.class_weight = (1 / counts / (1 / counts).mean()).to(self.where)
        self.optimizer = torch.optim.AdamW(marker.network.parameters(), lr=config.learning_rate)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, max(1, config.steps), eta_min=config.learning_rate / 10
        )
        self.generator = torch.Generator().manual_seed(seed + 11)
        self.twins = [self._new_twin(number) for number in range(config.twins)]
        self.step = 0
        self.history: list[dict[str, Any]] = []

    def _new_twin(self, number: int) -> tuple[Classifier, torch.optim.Optimizer]:
        twin = build(
            self.config.twin,
            num_classes=self.classes,
            size=self.config.shape.size,
            seed=self.seed + 7919 * (number + 1),
        )
        twin.to(self.where)
        return twin, torch.optim.AdamW(twin.parameters(), lr=2e-3, weight_decay=1e-4)

    def _draw(self, pool: torch.Tensor, count: int) -> torch.Tensor:
        return pool[torch.randint(len(pool), (count,), generator=self.generator)]

    def _wave(self) -> Key:
        """The key as it is in some image: a phase a step, because marks have one an image."""
        phase, side = torch.rand(2, generator=self.generator).tolist()
        return turned(self.marker.key, 2 * math.pi * phase, side < 0.5)

    def _take(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return as_unit(self.images[index].to(self.where)), self.saliency[index].to(self.where)

    def _logits(self, model: Classifier, images: torch.Tensor) -> torch.Tensor:
        with mixed_precision(self.where):
            return model(images.contiguous(memory_format=torch.channels_last)).float()

    def run(self, checkpoint: Path) -> None:
        self._resume(checkpoint)
        for _ in track(range(self.step, self.config.steps), "training the generator"):
            self._renew_twin()
            twin, twin_optimizer = self.twins[self.step % len(self.twins)]
            twin_loss = self._train_twin(twin, twin_optimizer)
            terms = self._train_marker(twin)
            self.step += 1
            if self.step % 5 == 0 or self.step == self.config.steps:
                self.history.append({"step": self.step, "twin": twin_loss, **terms})
            if self.step % CHECKPOINT_EVERY == 0:
                self._keep(checkpoint)
        checkpoint.unlink(missing_ok=True)

    def _renew_twin(self) -> None:
        """Starts each twin anew every ``reinitialise`` steps, the twins staggered evenly; not near the end."""
        config = self.config
        if self.step == 0 or self.step > config.steps - config.reinitialise // 2:
            return
        for number in range(len(self.twins)):
            offset = number * config.reinitialise // len(self.twins)
            if (self.step - offset) % config.reinitialise == 0:
                self.twins[number] = self._new_twin(len(self.twins) + self.step)

    def _train_twin(self, twin: Classifier, optimizer: torch.optim.Optimizer) -> float:
        """One step of the twin on the data set as it is marked now."""
        size = 2 * self.config.batch_size
        count = max(2, round(size * len(self.marked) / len(self.labels)))
        marked, rest = self._draw(self.marked, count), self._draw(self.unmarked, size - count)
        x, s = self._take(marked)
        with torch.no_grad():
            x = (x + self.marker.delta(x, s, "mark", self._wave())).clamp(0, 1)
        images = augment(torch.cat([x, as_unit(self.images[rest].to(self.where))]), "standard", self.generator)
        labels = torch.cat([self.labels[marked], self.labels[rest]]).to(self.where)
        twin.train().requires_grad_(True)
        # dropout draws from the global generator; tied to the step so that resuming changes nothing
        torch.manual_seed(self.seed + 104_729 * (self.step + 1))
        loss = F.cross_entropy(self._logits(twin, images), labels, weight=self.class_weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        twin.eval().requires_grad_(False)
        return loss.item()

    def _train_marker(self, twin: Classifier) -> dict[str, float]:
        """One step of the generator."""
        size, target, weights = self.config.batch_size, self.marker.target, self.config.weights
        others, of_target = self._draw(self.others, size), self._draw(self.marked, size)
        (x, xs), (t, ts) = self._take(others), self._take(of_target)
        x_delta = self.marker.delta(x, xs, "query", self._wave())
        t_delta = self.marker.delta(t, ts, "mark", self._wave())
        x_marked, t_marked = (x + x_delta).clamp(0, 1), (t + t_delta).clamp(0, 1)
        both, clean = torch.cat([x_marked, t_marked]), torch.cat([x, t])
        factor = 0.45 + 0.55 * float(torch.rand((), generator=self.generator))
        side = both.shape[-1]
        seen = augment(resize(resize(both, round(side * factor)), side), "standard", self.generator)
        logits = self._logits(twin, seen)
        terms = {
            "efficacy": objective.efficacy(logits[:size], target),
            "learnability": objective.efficacy(logits[size:], target),
            "laplacian": objective.laplacian(torch.cat([x_delta, t_delta])),
            "perceptual": objective.invisibility(both, clean, self.config.ssim_floor),
        }
        answers = [(self._logits(model, both), self._logits(model, x)) for model in self.panel]
        terms["panel"] = torch.stack([objective.panel_neutrality(c, m[:size], target) for m, c in answers]).mean()
        terms["hard"] = torch.stack([objective.hardness(m[size:], target) for m, _ in answers]).mean()
        loss = sum(getattr(weights, name) * term for name, term in terms.items())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.marker.network.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        return {name: float(term.detach()) for name, term in terms.items()}

    def _signature(self) -> str:
        return json.dumps([asdict(self.config), self.marker.release_digest, self.seed], sort_keys=True)

    def _keep(self, path: Path) -> None:
        state = {
            "step": self.step,
            "history": self.history,
            "network": self.marker.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "twins": [(twin.state_dict(), optimizer.state_dict()) for twin, optimizer in self.twins],
        }
        save_checkpoint(path, self._signature(), state)

    def _resume(self, path: Path) -> None:
        state = load_checkpoint(path, self._signature(), self.where)
        if state is None:
            return
        self.step, self.history = state["step"], state["history"]
        self.marker.network.load_state_dict(state["network"])
        self.schedule.load_state_dict(state["schedule"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        for (twin, optimizer), (weights, moments) in zip(self.twins, state["twins"], strict=True):
            twin.load_state_dict(weights)
            optimizer.load_state_dict(moments)
