"""What a run of lock_release is made of, by profile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from medmark.components.base.digests import canonical_json
from medmark.components.base.errors import MedmarkError
from medmark.components.locking.search import SearchConfig
from medmark.components.locking.verdict import LockThresholds
from medmark.components.profiles import Setting, Settings, ingest_with_secrets, with_secret_seed
from medmark.components.segmentation.training import SegmenterConfig
from medmark.components.surrogate.networks import ARCHITECTURES
from medmark.components.surrogate.training import TrainConfig

# ours: the U-Net that segmenters are by default normalises the one channel of its last layer, and learns lesions too small to fill it badly
SEGMENTER = "segresnet"


@dataclass(frozen=True)
class LockProfile(Settings):
    """All parameters of a run; each can be given as ``--set name=value``.

    Attributes:
        size: side at which classifiers see the images, pixels.
        architectures: of the classifiers that the locks are made against, separated by commas; see
            :data:`medmark.components.surrogate.networks.ARCHITECTURES`.
        unseen_architectures: of classifiers that take no part and show how far the locks carry.
        epochs: of their training, at most.
        learning_rate: of their training.
        segmenter_steps: batches that a segmenter of lesions is trained with, if the release has masks.
        population, generations: see :class:`medmark.components.locking.search.SearchConfig`.
        scales: likewise, separated by commas.
        least_alpha, most_alpha: smallest and largest opacity, of 255.
        enough: see SearchConfig.
        margin: likewise.
        removal_steps: batches that the removal network of the check is trained with.
        phantoms: how many to make when no data is given.
    """

    size: int = 128
    architectures: str = "resnet18"
    unseen_architectures: str = "small_cnn,densenet121,mobilenet_v3_small"
    epochs: int = 25
    learning_rate: float = 1e-3
    segmenter_steps: int = 1500
    population: int = SearchConfig.population
    generations: int = SearchConfig.generations
    scales: str = "0.25,0.3,0.35,0.4"
    least_alpha: int = 100
    most_alpha: int = 255
    enough: float = SearchConfig.enough
    margin: int = SearchConfig.margin
    removal_steps: int = 600
    phantoms: int = 600

    def classifiers(self, names: str, prefix: str, seed: int) -> list[dict[str, Any]]:
        """Returns configurations of classifiers.

        Args:
            names: architectures, separated by commas.
            prefix: of the classifiers' names.
            seed: of the first.
        """
        configs = [
            TrainConfig(
                name=f"{prefix}-{number:02d}-{architecture}",
                architecture=architecture,
                size=self.size,
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                seed=seed + number,
            )
            for number, architecture in enumerate(names.split(","))
        ]
        return [_as_dict(config) for config in configs]

    @property
    def segmenter(self) -> dict[str, Any]:
        """Configuration of the segmenter of lesions."""
        size = -(-self.size // 32) * 32
        return _as_dict(SegmenterConfig("lesions", SEGMENTER, size=size, steps=self.segmenter_steps, seed=2000))

    @property
    def search(self) -> SearchConfig:
        """How placements are searched.

        Raises:
            MedmarkError: ``scales`` is no list of shares.
        """
        try:
            scales = tuple(float(scale) for scale in self.scales.split(","))
        except ValueError:
            scales = ()
        if not scales or not all(0 < scale < 1 for scale in scales):
            raise MedmarkError(f"scales={self.scales!r}; use shares of the side, as 0.25,0.3")
        return SearchConfig(
            population=self.population,
            generations=self.generations,
            scales=scales,
            alphas=(self.least_alpha, self.most_alpha),
            enough=self.enough,
            margin=self.margin,
        )


def _as_dict(config: TrainConfig | SegmenterConfig) -> dict[str, Any]:
    """Without what is None: a pipeline's parameters have no null."""
    return {name: value for name, value in asdict(config).items() if value is not None}


LOCK_PROFILES = {
    "smoke": LockProfile(
        size=64,
        architectures="small_cnn",
        unseen_architectures="small_cnn_wide,resnet_tiny",
        learning_rate=2e-3,
        population=16,
        generations=10,
        scales="0.2,0.3,0.4",
        segmenter_steps=200,
        removal_steps=150,
        phantoms=240,
    ),
    "standard": LockProfile(),
    "full": LockProfile(
        size=224,
        architectures="resnet50,densenet121",
        unseen_architectures="resnet18,efficientnet_b0,mobilenet_v3_small,vit",
        population=40,
        generations=30,
        removal_steps=3000,
        phantoms=2000,
    ),
}


def chosen_lock_profile(name: str, overrides: Mapping[str, Setting]) -> LockProfile:
    """Returns the profile of a name, with some of its parameters replaced.

    Raises:
        MedmarkError: there is no such profile or parameter, or a value is of another type.
    """
    if name not in LOCK_PROFILES:
        raise MedmarkError(f"unknown profile: {name!r}; use one of {', '.join(LOCK_PROFILES)}")
    return LOCK_PROFILES[name].with_settings(overrides)


def locking_arguments(profile: LockProfile, ingest_options: Mapping[str, Any]) -> dict[str, Any]:
    """Expands a profile to what the steps of lock_release take. Seeds refer to the run's secrets.

    Args:
        profile: parameters of the run.
        ingest_options: keyword arguments of :func:`medmark.components.dataset.ingest.ingest`. If they give no seed or no key of
            the pseudonyms, those of the run's secrets are taken.

    Returns:
        ``ingest_options``, ``configs``, ``unseen_configs``, ``segmenter_config``, ``search``, ``removal_steps`` and ``thresholds``.

    Raises:
        MedmarkError: an unknown architecture, or scales that are none.
    """
    for wanted in (*profile.architectures.split(","), *profile.unseen_architectures.split(",")):
        if wanted not in ARCHITECTURES:
            raise MedmarkError(f"unknown architecture: {wanted!r}; use one of {', '.join(ARCHITECTURES)}")

    return {
        "ingest_options": ingest_with_secrets(ingest_options),
        "configs": [with_secret_seed(config) for config in profile.classifiers(profile.architectures, "attacked", 100)],
        "unseen_configs": [
            with_secret_seed(config) for config in profile.classifiers(profile.unseen_architectures, "unseen", 1000)
        ],
        "segmenter_config": with_secret_seed(profile.segmenter),
        "search": json.loads(canonical_json(asdict(profile.search))),  # lists: pipelines know no tuples
        "removal_steps": profile.removal_steps,
        "thresholds": asdict(LockThresholds()),
    }
