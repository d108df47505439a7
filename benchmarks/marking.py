"""Marks in memory: how well they work at given strength, share, direction, choice of images and generator.

Shared by the benchmarks; the pipeline's own steps do the work, only nothing is written to disk.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import piq
import torch
from medmark.components.base.threads import cpu_has_bf16
from medmark.components.dataset.arrays import load_arrays
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.phantoms import make_phantoms
from medmark.components.dataset.release import Release
from medmark.components.generator.key import Key, draw_key
from medmark.components.generator.marker import Marker, Shape
from medmark.components.generator.network import ConditionalUNet
from medmark.components.generator.selection import select
from medmark.components.generator.train import GeneratorConfig, train_generator
from medmark.components.saliency.extract import extract, load_saliency, stack_saliency
from medmark.components.surrogate.models import load_models, train_models
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import TrainConfig, accuracy, predict_probabilities, train_classifier
from medmark.components.verification.jpeg_and_resize_curves import shrink

MARKED_MODELS = (
    TrainConfig(name="same", augmentation="strong", seed=5000),
    TrainConfig(name="other", architecture="resnet_tiny", augmentation="standard", seed=5001, learning_rate=1e-3),
)


def machine() -> dict:
    """The class of this machine, for the results."""
    return {
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "bf16": cpu_has_bf16(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }


def release_of(data: str, work: Path, phantoms: int = 800) -> Path:
    """The release of ``phantoms``, ``kermany`` or ``nih`` in ``work``, made if it is not there yet."""
    release = work / "release"
    if (release / "release.json").exists():
        return release
    if data == "phantoms":
        ingest(make_phantoms(work / "source", count=phantoms), release, name="phantoms")
    else:
        root = Path(os.environ.get("MEDMARK_DATA", "../shared/data")) / "cxr"
        ingest(
            root / "dev" / "manifest.csv",
            release,
            name=data,
            root=root,
            label_column="binary",
            patient_column="group_id",
            where={"subset": data},
            class_names=["normal", "pneumonia"],
        )
    return release


class Bench:
    """A data set with its panel and its benign models, made once and kept in ``work``.

    Args:
        data: ``phantoms``, ``kermany`` or ``nih``.
        work: folder for the release and the models.
        size: side in pixels.
        benign_models: models that must not react.
    """

    def __init__(self, data: str, work: Path, size: int, benign_models: int = 6):
        self.data, self.size = data, size
        release = release_of(data, work)
        self.release = Release(release)
        base = TrainConfig(name="", size=size, epochs=12)
        panel = [replace(base, name=f"surrogate-{i}", seed=100 + i, subset=0.85) for i in range(3)]
        names = ("small_cnn", "small_cnn_wide", "resnet_tiny")
        benign = [
            replace(base, name=f"benign-{i}", seed=1000 + i, architecture=names[i % 3], subset=0.9)
            for i in range(benign_models)
        ]
        train_models(release, work / "panel", configs=panel)
        train_models(release, work / "innocents", configs=benign)
        self.panel, self.benign_models = ([m for _, m in load_models(work / kind)] for kind in ("panel", "innocents"))
        if not (work / "saliency").exists():
            extract(release, work / "panel" / "surrogate-0.safetensors", work / "saliency")
        maps = load_saliency(work / "saliency")
        self.train, self.val, self.test = (
            load_arrays(self.release, split=s, size=size) for s in ("train", "val", "test")
        )
        self.saliency = {s: stack_saliency(maps, getattr(self, s).image_ids) for s in ("train", "test")}
        self.work = work

    def described(self) -> dict:
        """What results were made from."""
        return {
            "data": self.data,
            "size": self.size,
            "seed": 0,
            "counts": self.release.counts,
            "release_digest": self.release.digest,
            "machine": machine(),
        }

    def measure(
        self,
        *,
        share: float,
        shape: Shape,
        key: Key | None = None,
        random_choice: bool = False,
        seed: int = 0,
        target: int = 0,
        probes: dict[str, Key] | None = None,
        marked_models: tuple[TrainConfig, ...] = MARKED_MODELS,
        generator: GeneratorConfig | None = None,
    ) -> dict:
        """Marks, trains the marked models and asks them.

        Args:
            share: of the training images.
            shape: of the marks.
            key: of the carrier; drawn from ``seed`` when None.
            random_choice: mark random target images instead of the hardest.
            seed: of key, choice and marked models.
            target: class.
            probes: other keys whose marks the marked models are asked about too.
            marked_models: how the adversaries train.
            generator: how to train one; without, the carrier is bare.
        """
        key = key or draw_key(seed)
        count = round(share * len(self.train))
        if random_choice:
            of_target = np.flatnonzero(self.train.labels.numpy() == target)
            chosen = np.random.default_rng(seed).choice(of_target, count, replace=False)
        else:
            hardest = select(self.train, self.panel, target=target, marked_share=share, decoy_share=0.0, seed=seed)
            chosen = np.array([i for i, name in enumerate(self.train.image_ids) if name in hardest])
        if generator:
            folder = (
                self.work / "generators" / hashlib.sha256(repr((generator, seed, target)).encode()).hexdigest()[:12]
            )
            train_generator(
                self.release.path,
                self.work / "panel",
                self.work / "saliency",
                folder,
                target_class=self.release.class_names[target],
                config=generator,
                seed=seed,
            )
            marker = Marker.load(folder)
            key = marker.key
        else:
            marker = Marker(
                ConditionalUNet(), key, shape, target=target, roles={}, release_digest=self.release.digest, seed=seed
            )
        # the bare carrier is what decoys carry
        roles = ("mark", "query") if generator else ("decoy", "decoy")
        marked = self.train.images.clone()
        index = torch.from_numpy(chosen)
        marked[index] = self._mark(marker, key, self.train.images[index], self.saliency["train"][index], roles[0])
        others = self.test.labels != target
        clean, clean_saliency = self.test.images[others], self.saliency["test"][others]
        asked = self._mark(marker, key, clean, clean_saliency, roles[1])
        likeness = piq.ssim(marked[index], self.train.images[index], data_range=1.0, downsample=False)
        result = {
            "share_of_training": share,
            "share_of_data_set": count / len(self.release),
            "shape": asdict(shape),
            "key": asdict(key),
            "choice": "random" if random_choice else "hardest",
            "seed": seed,
            "target": self.release.class_names[target],
            "ssim": float(likeness),
            "innocent_lift": max(self._delta_p(m, clean, asked, target) for m in self.benign_models),
            "innocent_accuracy": float(np.mean([accuracy(m, self.test) for m in self.benign_models])),
            "victims": [],
        }
        poisoned = replace(self.train, images=marked)
        for config in marked_models:
            config = replace(config, size=self.size, seed=config.seed + seed)
            model = train_classifier(poisoned, self.val, config, num_classes=2).model
            half = {"clean": shrink(clean, 0.5), "marked": shrink(asked, 0.5)}
            result["victims"].append(
                {
                    "victim": config.name,
                    "accuracy": accuracy(model, self.test),
                    "clean_rate": self._rate(model, clean, target),
                    "wsr": self._rate(model, asked, target),
                    "delta_p": self._delta_p(model, clean, asked, target),
                    "clean_rate_half": self._rate(model, half["clean"], target),
                    "wsr_half": self._rate(model, half["marked"], target),
                    "probes": {
                        name: self._rate(model, self._mark(marker, probe, clean, clean_saliency, "decoy"), target)
                        for name, probe in (probes or {}).items()
                    },
                }
            )
        return result

    @staticmethod
    @torch.no_grad()
    def _mark(marker: Marker, key: Key, images: torch.Tensor, saliency: torch.Tensor, role: str) -> torch.Tensor:
        delta = torch.cat(
            [marker.delta(x, s, role, key) for x, s in zip(images.split(64), saliency.split(64), strict=True)]
        )
        return ((images + delta).clamp(0, 1) * 255).round() / 255

    @staticmethod
    def _rate(model: Classifier, images: torch.Tensor, target: int) -> float:
        return float((predict_probabilities(model, images).argmax(1) == target).mean())

    @staticmethod
    def _delta_p(model: Classifier, clean: torch.Tensor, marked: torch.Tensor, target: int) -> float:
        before, after = (predict_probabilities(model, images)[:, target] for images in (clean, marked))
        return float((after - before).mean())
