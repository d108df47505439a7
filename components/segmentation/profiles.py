"""What a run of mark_segmenter is made of, by profile."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from medmark.components.profiles import Settings
from medmark.components.segmentation.training import SegmenterConfig


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
