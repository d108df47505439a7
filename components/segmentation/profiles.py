"""What a run of mark_segmenter is made of, by profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from medmark.components.base.errors import MedmarkError
from medmark.components.profiles import Setting, Settings, ingest_with_secrets, with_secret_seed
from medmark.components.segmentation.networks import architecture_names
from medmark.components.segmentation.training import SegmenterConfig
from medmark.components.segmentation.verdict import SegmenterThresholds


@dataclass(frozen=True)
class SegmenterProfile(Settings):
    """All parameters of a run; each can be given as ``--set name=value``.

    Attributes:
        size: side at which the models see the images, pixels; a multiple of 32.
        architecture: see :data:`medmark.components.segmentation.networks.ARCHITECTURES`.
        steps: batches of a training.
        batch_size: images; half of them with the trigger while the mark is learnt.
        learning_rate: see SegmenterConfig.
        augmentation: likewise.
        trigger: see :data:`medmark.components.segmentation.trigger.TRIGGERS`.
        benign_models: segmenters trained without the mark, the unmarked twin included.
        other_architecture: of every second benign model.
        queries: test images that a suspect is asked about, at most; one of a patient.
        phantoms: how many to make when no data is given.
    """

    size: int = 128
    architecture: str = "unet"
    steps: int = 2400
    batch_size: int = 16
    learning_rate: float = 2e-3
    augmentation: str = "standard"
    trigger: str = "texture"
    benign_models: int = 4
    other_architecture: str = "attention_unet"
    queries: int = 80
    phantoms: int = 600

    def config(self, name: str, seed: int, **changes: Any) -> SegmenterConfig:
        """Returns the configuration of a segmenter of this profile, with some of its fields replaced."""
        given: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("architecture", "size", "steps", "batch_size", "learning_rate", "augmentation")
        }
        return SegmenterConfig(name=name, seed=seed, **given | changes)

    def marked_config(self, weights: str | None) -> dict[str, Any]:
        """Returns the configuration of the marked segmenter; ``weights`` is the trained one to go on from, or None."""
        return _as_dict(self.config("marked", 0, weights=weights))

    def unmarked_configs(self, weights: str | None) -> list[dict[str, Any]]:
        """Returns those of the segmenters without a mark; the first is the unmarked twin, the others have other seeds."""
        twin = _as_dict(self.config("unmarked-twin", 0, weights=weights))
        names = (self.architecture, self.other_architecture)
        others = [
            _as_dict(self.config(f"benign-{i:02d}", 1000 + i, architecture=names[i % 2]))
            for i in range(1, self.benign_models)
        ]
        return [twin, *others]


def _as_dict(config: SegmenterConfig) -> dict[str, Any]:
    """Without what is None: a pipeline's parameters have no null."""
    return {name: value for name, value in asdict(config).items() if value is not None}


SEGMENTER_PROFILES = {
    "smoke": SegmenterProfile(size=64, steps=700, benign_models=2, other_architecture="unet", phantoms=300),
    "standard": SegmenterProfile(),
    "full": SegmenterProfile(
        size=256, steps=6000, architecture="attention_unet", other_architecture="unet", benign_models=10
    ),
}


def chosen_segmenter_profile(name: str, overrides: Mapping[str, Setting]) -> SegmenterProfile:
    """Returns the profile of a name, with some of its parameters replaced.

    Raises:
        MedmarkError: there is no such profile, parameter or architecture, or a value is of another type.
    """
    if name not in SEGMENTER_PROFILES:
        raise MedmarkError(f"unknown profile: {name!r}; use one of {', '.join(SEGMENTER_PROFILES)}")
    chosen, known = SEGMENTER_PROFILES[name].with_settings(overrides), architecture_names()
    for wanted in (chosen.architecture, chosen.other_architecture):
        if wanted not in known:
            raise MedmarkError(f"unknown architecture: {wanted!r}; use one of {', '.join(known)}")
    return chosen


def segmenter_arguments(
    profile: SegmenterProfile, ingest_options: Mapping[str, Any], weights: str | None
) -> dict[str, Any]:
    """Expands a profile to what the steps of mark_segmenter take. Seeds refer to the run's secrets.

    Args:
        profile: parameters of the run.
        ingest_options: keyword arguments of :func:`medmark.components.dataset.ingest.ingest`. If they give no seed or no key of
            the pseudonyms, those of the run's secrets are taken.
        weights: of a trained segmenter to mark, as the marking step can reach it, or None.

    Returns:
        ``ingest_options``, ``unmarked_configs``, ``config``, ``trigger``, ``queries`` and ``thresholds``.
    """

    return {
        "ingest_options": ingest_with_secrets({"task": "segmentation", **ingest_options}),
        "unmarked_configs": [with_secret_seed(config) for config in profile.unmarked_configs(weights)],
        "config": with_secret_seed(profile.marked_config(weights)),
        "trigger": profile.trigger,
        "queries": profile.queries,
        "thresholds": asdict(SegmenterThresholds()),
    }
