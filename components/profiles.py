"""What a run of mark_release is made of, by profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from medmark.components.base.errors import MedmarkError
from medmark.components.evidence.secrets import REFERENCE
from medmark.components.generator.marker import Shape
from medmark.components.generator.objective import Weights
from medmark.components.generator.train import GeneratorConfig
from medmark.components.surrogate.training import TrainConfig
from medmark.components.verification.verdict import Thresholds

Setting = str | int | float
MAX_GROUPS = 64  # what the steps of a loop say of themselves must fit one argument of a command, see docs/scale.md


class Settings:
    """A data class of parameters, each with a default; each can be given as ``--set name=value``."""

    def with_settings(self, settings: Mapping[str, Setting]) -> Self:
        """Returns a copy with some values replaced.

        Args:
            settings: values by name; for the texts of a command line see :func:`read_settings`.

        Raises:
            MedmarkError: an unknown name, or a value of another type.
        """
        values: dict[str, Any] = {}
        for name, value in settings.items():
            kind = _kind(type(self), name)
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise _refused(name, value, kind)
            values[name] = kind(value)
        return replace(self, **values)  # type: ignore[type-var]  # a data class


@dataclass(frozen=True)
class Profile(Settings):
    """All parameters of a run; each can be given as ``--set name=value``.

    Attributes:
        size: side at which models and generator see the images, pixels.
        target_class: what marked images are taken for; the release's first class when empty.
        architecture: of surrogates, twin and most benign models.
        epochs: of small networks.
        other_architecture: of the second marked model.
        other_epochs: of that one.
        surrogates: benign models that the generator trains against.
        benign_models: benign models that calibrate the verdict, those trained as the marked models are included; 19 are needed
            for the level 0.05.
        benign_architectures: taken in turn for the benign models.
        generator_steps: see GeneratorConfig.
        marked_share: of the training images that carry the mark.
        decoy_share: of the training images that carry a decoy.
        hold_back: chance of a training patient without mark and decoy never to be published, 0 to 0.5.
        epsilon: largest change, share of the display's range.
        ssim_floor: SSIM that the objective asks of each image.
        queries: images a suspect is asked about, at most; each of another patient.
        phantoms: how many to make when no data is given.
        efficacy, learnability, panel, hard, laplacian, perceptual: weights of the objective's terms; 0 is off.
    """

    size: int = 128
    target_class: str = ""
    architecture: str = "small_cnn"
    epochs: int = 12
    other_architecture: str = "resnet18"
    other_epochs: int = 10
    surrogates: int = 3
    benign_models: int = 20
    benign_architectures: str = "small_cnn,small_cnn_wide,resnet_tiny"
    generator_steps: int = 0  # the bare carrier; measured: benchmarks/results/learned.json
    marked_share: float = 0.18  # measured: benchmarks/results/frontier_kermany.json
    decoy_share: float = 0.1  # measured: benchmarks/results/keys_phantoms_64.json
    hold_back: float = 0.0  # the owner's choice: it costs those who may use the release as many images
    epsilon: float = 0.08
    ssim_floor: float = 0.96
    queries: int = 150
    phantoms: int = 800
    efficacy: float = Weights.efficacy
    learnability: float = Weights.learnability
    panel: float = Weights.panel
    hard: float = Weights.hard
    laplacian: float = Weights.laplacian
    perceptual: float = Weights.perceptual

    def classifier(self, name: str, seed: int, **changes: Any) -> TrainConfig:
        """Returns the configuration of a classifier of this profile, with some of its fields replaced."""
        given: dict[str, Any] = {"architecture": self.architecture, "size": self.size, "epochs": self.epochs}
        return TrainConfig(name=name, seed=seed, **given | changes)

    def surrogate_configs(self, seed: int) -> list[dict]:
        """Models that the generator trains against; each sees other patients."""
        return [
            _as_dict(self.classifier(f"surrogate-{i:02d}", seed + 100 + i, subset=0.85)) for i in range(self.surrogates)
        ]

    def benign_configs(self, seed: int) -> list[dict]:
        """Held-out benign models: other seeds, subsets of patients and architectures than the generator saw.

        The last ones are trained exactly as the marked models are, seed included, but on the original images: what the mark
        does to a model, and what it costs in accuracy, is read against them.
        """
        names = self.benign_architectures.split(",")
        alike = [{**config, "name": config["name"].replace("marked", "benign")} for config in self.marked_configs(seed)]
        if self.benign_models < len(alike):
            raise MedmarkError(
                f"benign models={self.benign_models} is too few; at least {len(alike)}, trained as the marked models are"
            )
        return [
            _as_dict(
                self.classifier(
                    f"benign-{i:02d}",
                    seed + 1000 + i,
                    architecture=names[i % len(names)],
                    subset=(1.0, 0.9, 0.8)[i % 3],
                    augmentation=("standard", "strong")[i % 2],
                )
            )
            for i in range(self.benign_models - len(alike))
        ] + alike

    def marked_configs(self, seed: int) -> list[dict]:
        """Adversaries: another seed and other augmentation, and one with another architecture."""
        return [
            _as_dict(self.classifier(f"marked-{self.architecture}", seed + 5000, augmentation="strong")),
            _as_dict(
                self.classifier(
                    f"marked-{self.other_architecture}",
                    seed + 5001,
                    architecture=self.other_architecture,
                    epochs=self.other_epochs,
                    learning_rate=1e-3,
                )
            ),
        ]

    def generator_config(self, key_index: int) -> dict:
        """The generator, or (``key_index`` 1) the control generator."""
        weights = Weights(self.efficacy, self.learnability, self.panel, self.hard, self.laplacian, self.perceptual)
        config = GeneratorConfig(
            shape=Shape(size=self.size, epsilon=self.epsilon, grid=min(64, self.size // 2)),
            weights=weights,
            steps=self.generator_steps,
            twin=self.architecture,
            ssim_floor=self.ssim_floor,
            marked_share=self.marked_share,
            decoy_share=self.decoy_share if key_index == 0 else 0.0,
            key_index=key_index,
        )
        return asdict(config)


def read_settings(texts: Mapping[str, str], of: type[Settings] = Profile) -> dict[str, Setting]:
    """Reads values of a profile from a command line.

    Args:
        texts: text by name, as ``{"epochs": "3"}``.
        of: class of the profile.

    Returns:
        Value by name, for :meth:`Settings.with_settings`.

    Raises:
        MedmarkError: an unknown name, or a text that is no such value.
    """
    settings: dict[str, Setting] = {}
    for name, text in texts.items():
        kind = _kind(of, name)
        try:
            settings[name] = kind(text)
        except ValueError as error:
            raise _refused(name, text, kind) from error
    return settings


def with_secret_seed(config: dict[str, Any]) -> dict[str, Any]:
    """Lets the seed of a model's configuration follow from the run's secrets."""
    return {**config, "seed": {REFERENCE: "models_seed", "plus": config["seed"]}}


def ingest_with_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """Takes seed and key of the pseudonyms from the run's secrets, unless the options of ingest give them; leaves out what is None."""
    drawn = {"seed": {REFERENCE: "ingest_seed"}, "patient_key": {REFERENCE: "patient_key"}}
    return {name: value for name, value in {**drawn, **options}.items() if value is not None}


def marking_arguments(profile: Profile, ingest_options: Mapping[str, Any]) -> dict[str, Any]:
    """Expands a profile to what the steps of mark_release take. Seeds refer to the run's secrets.

    Args:
        profile: parameters of the run.
        ingest_options: keyword arguments of :func:`medmark.components.dataset.ingest.ingest`. If they give no seed or no key of
            the pseudonyms, those of the run's secrets are taken.

    Returns:
        ``ingest_options``, ``size``, ``target_class``, ``surrogate_configs``, ``benign_configs``, ``marked_configs``, ``generator_config``,
        ``control_config``, ``queries``, ``hold_back`` and ``thresholds``.
    """

    return {
        "ingest_options": ingest_with_secrets({"target_class": profile.target_class, **ingest_options}),
        "size": profile.size,
        "target_class": profile.target_class,
        "surrogate_configs": [with_secret_seed(config) for config in profile.surrogate_configs(0)],
        "benign_configs": [with_secret_seed(config) for config in profile.benign_configs(0)],
        "marked_configs": [with_secret_seed(config) for config in profile.marked_configs(0)],
        "generator_config": profile.generator_config(0),
        "control_config": profile.generator_config(1),
        "queries": profile.queries,
        "hold_back": profile.hold_back,
        "thresholds": asdict(THRESHOLDS),
    }


def grouped(configs: list[dict[str, Any]], size: int) -> list[list[dict[str, Any]]]:
    """Divides configurations of models into those that one step trains.

    Args:
        configs: at least one.
        size: of a group; all in one when 0.

    Raises:
        MedmarkError: the size is negative, or there would be more groups than a step can gather.
    """
    if size < 0:
        raise MedmarkError(f"models_per_step={size} is too few; use 1, or 0 for all in one step")
    size = size or len(configs)
    if len(configs) > MAX_GROUPS * size:
        raise MedmarkError(
            f"{len(configs)} models in steps of {size} are more than {MAX_GROUPS} steps; set models_per_step to at least"
            f" {-(-len(configs) // MAX_GROUPS)}"
        )
    return [configs[first : first + size] for first in range(0, len(configs), size)]


def chosen_profile(name: str, overrides: Mapping[str, Setting]) -> Profile:
    """Returns the profile of a name, with some of its parameters replaced.

    Raises:
        MedmarkError: there is no such profile or parameter, or a value is of another type.
    """
    if name not in PROFILES:
        raise MedmarkError(f"unknown profile: {name!r}; use one of {', '.join(PROFILES)}")
    return PROFILES[name].with_settings(overrides)


def shown_parameters(name: str, profile: Settings, data: str) -> dict[str, Any]:
    """Lists the parameters of a run, for its report and for MLflow.

    Args:
        name: of the profile.
        profile: with what was replaced.
        data: name of the data.
    """
    return {"profile": name, **asdict(profile), "data": data}  # type: ignore[call-overload]  # a data class


def _kind(of: type[Settings], name: str) -> type[Setting]:
    default: Any = of()
    kinds: dict[str, type[Setting]] = {field.name: type(getattr(default, field.name)) for field in fields(default)}
    if name not in kinds:
        raise MedmarkError(f"unknown parameter: {name}; use one of {', '.join(kinds)}")
    return kinds[name]


def _refused(name: str, value: Setting, kind: type[Setting]) -> MedmarkError:
    wanted = {int: "an integer", float: "a number", str: "a text"}[kind]
    return MedmarkError(f"{name}={value} is not {wanted}; correct the value")


def _as_dict(config: TrainConfig) -> dict:
    """Without what is None: a pipeline's parameters have no null."""
    return {name: value for name, value in asdict(config).items() if value is not None}


THRESHOLDS = Thresholds()

PROFILES = {
    "smoke": Profile(
        size=64,
        epochs=12,
        other_architecture="resnet_tiny",
        other_epochs=12,
        marked_share=0.18,
        epsilon=0.09,
        phantoms=2400,
    ),
    "standard": Profile(),
    "full": Profile(
        size=224,
        architecture="resnet18",
        epochs=20,
        other_architecture="densenet121",
        other_epochs=20,
        benign_architectures="resnet18,small_cnn_wide,efficientnet_b0",
        queries=400,
    ),
}
