"""Compare methods on the same data, with the same budget, adversaries, benign models and tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.base.threads import use_threads
from medmark.components.baselines.interface import Context, Labels, Method, marked, poison
from medmark.components.baselines.methods import METHODS
from medmark.components.dataset.arrays import ImageArrays, load_arrays
from medmark.components.dataset.release import Release
from medmark.components.evidence.queries import QuerySet
from medmark.components.poisoning.quality import likeness, sum_up
from medmark.components.profiles import THRESHOLDS, Profile
from medmark.components.robustness.model_attacks import fine_tune, prune_weights
from medmark.components.saliency.extract import extract, load_saliency, stack_saliency
from medmark.components.surrogate.models import load_models, train_models
from medmark.components.surrogate.networks import Classifier
from medmark.components.surrogate.training import (
    TrainConfig,
    accuracy,
    predict_probabilities,
    train_classifier,
    trained_alike,
)
from medmark.components.verification.interrogation import Suspect, ask, interrogate
from medmark.components.verification.jpeg_and_resize_curves import jpeg, shrink
from medmark.components.verification.judgement import judge, leave_one_out, summary
from medmark.components.verification.verdict import Thresholds, is_accused

FINE_TUNING_EPOCHS = 5  # on the clean validation images; arbitrary


@dataclass
class Field:
    """What all methods share.

    Attributes:
        context: the data set and what its owner has.
        val: clean images on which the adversaries choose their epoch, and fine-tune.
        test: clean images on which accuracy is measured.
        asked: test images of the other classes, one a patient, that suspects are asked about.
        asked_saliency: their maps.
        benign_models: models trained without any mark, by name.
        benign_configs: how they were trained.
        adversaries: how the marked models train.
        thresholds: of the audit.
    """

    context: Context
    val: ImageArrays
    test: ImageArrays
    asked: ImageArrays
    asked_saliency: torch.Tensor
    benign_models: dict[str, Classifier]
    benign_configs: list[TrainConfig]
    adversaries: list[TrainConfig]
    thresholds: Thresholds


def prepare(
    release_dir: str | Path,
    work_dir: str | Path,
    profile: Profile,
    *,
    seed: int = 0,
    thresholds: Thresholds = THRESHOLDS,
) -> Field:
    """Trains the owner's surrogates and the benign models, once; what is in ``work_dir`` already is kept.

    Args:
        release_dir: clean release.
        work_dir: gets ``surrogates/``, ``innocents/`` and ``saliency/``.
        profile: sizes, budget and models, as of ``mark_release``. The benign models named ``benign-`` are trained as
            the marked models are, seed included, on the clean images.
        seed: of everything.
        thresholds: of the audit.

    Raises:
        MedmarkError: unknown target class, or what ingest and training refuse.
    """
    use_threads()
    work, release = Path(work_dir), Release(release_dir)
    target = release.class_index(profile.target_class or release.class_names[0])
    for name, configs in (
        ("surrogates", profile.surrogate_configs(seed)),
        ("innocents", profile.benign_configs(seed)),
    ):
        train_models(release_dir, work / name, configs=[TrainConfig(**config) for config in configs])
    surrogates = load_models(work / "surrogates")
    extract(release_dir, work / "surrogates" / surrogates[0][0]["file"], work / "saliency")
    maps = load_saliency(work / "saliency")
    train, val, test = (load_arrays(release, split=s, size=profile.size) for s in ("train", "val", "test"))
    asked = test.subset(one_a_patient(test, target, profile.queries, seed))
    return Field(
        context=Context(
            release_dir=Path(release_dir),
            surrogates_dir=work / "surrogates",
            saliency_dir=work / "saliency",
            work_dir=work,
            train=train,
            saliency=stack_saliency(maps, train.image_ids),
            surrogates=[model for _, model in surrogates],
            target=target,
            share=profile.marked_share,
            seed=seed,
        ),
        val=val,
        test=test,
        asked=asked,
        asked_saliency=stack_saliency(maps, asked.image_ids),
        benign_models={entry["name"]: model for entry, model in load_models(work / "innocents")},
        benign_configs=[TrainConfig(**config) for config in profile.benign_configs(seed)],
        adversaries=[TrainConfig(**config) for config in profile.marked_configs(seed)],
        thresholds=thresholds,
    )


def compare_all(
    release_dir: str | Path, work_dir: str | Path, profile: Profile, names: list[str], *, seed: int = 0
) -> dict[str, dict]:
    """Measures several methods; returns their rows by name.

    Args:
        release_dir, work_dir, profile, seed: see :func:`prepare`.
        names: of :data:`medmark.components.baselines.methods.METHODS`; all when empty.

    Raises:
        MedmarkError: unknown name, or what :func:`prepare` raises.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise MedmarkError(f"unknown method: {unknown[0]!r}; use some of {', '.join(METHODS)}")
    field = prepare(release_dir, work_dir, profile, seed=seed)
    return {name: compare(method, field) for name, method in METHODS.items() if not names or name in names}


def one_a_patient(arrays: ImageArrays, target: int, limit: int, seed: int) -> np.ndarray:
    """Chooses at most ``limit`` images of other classes than ``target``, each of another patient; returns their positions."""
    chosen: dict[str, int] = {}
    for i in np.random.default_rng((seed, 82)).permutation(len(arrays)).tolist():
        if arrays.labels[i] != target:
            chosen.setdefault(arrays.patient_ids[i], i)
    return np.array(sorted(list(chosen.values())[:limit]), dtype=int)


def compare(method: Method, field: Field) -> dict:
    """Marks, trains the adversaries, asks everybody, and attacks what was found.

    The audit is that of ``mark_release``. The control mark is a second instance of the same method with another key. For
    a method that relabels at random no class is the target: the event is then "not the image's own class", for every
    model that is asked.

    Args:
        method: see :data:`medmark.components.baselines.methods.METHODS`.
        field: from :func:`prepare`.

    Returns:
        A row of the table: ``title``, ``labels``, ``clean_label``, ``marked`` (images) and ``share`` (of the training
        images), ``quality``, ``victims`` (each the audit's summary, accuracies and, by attack, ``wsr`` and
        ``clean_rate``), ``innocents`` and ``seconds``.
    """
    started = time.monotonic()
    context = field.context
    own, control = (method.fit(context, index) for index in (0, 1))
    poisoned, chosen = poison(method, own, context)
    fitted = time.monotonic()
    clean = field.asked.images
    queries = QuerySet(
        clean,
        marked(own, clean, field.asked_saliency, "query"),
        marked(control, clean, field.asked_saliency, "query"),
        field.asked.image_ids,
        0 if method.labels is Labels.OTHER else context.target,
    )
    as_suspect = partial(_leaves_own_class, field.asked.labels) if method.labels is Labels.OTHER else _as_it_is
    benign_models = {name: interrogate(as_suspect(model), queries) for name, model in field.benign_models.items()}
    cleared = leave_one_out(benign_models, field.thresholds)
    marked_models = []
    for config in track(field.adversaries, f"{method.title}: marked models"):
        model = train_classifier(poisoned, field.val, config, num_classes=context.classes).model
        result = judge(
            config.name, interrogate(as_suspect(model), queries), list(benign_models.values()), field.thresholds
        )
        unmarked = accuracy(field.benign_models[trained_alike(config, field.benign_configs)], field.test)
        reached = accuracy(model, field.test)
        marked_models.append(
            {
                **summary(result),
                "accuracy": reached,
                "accuracy_lost": unmarked - reached,
                "attacks": _attacked(model, as_suspect, queries, field.val),
            }
        )
    pairs = zip(context.train.images[chosen], poisoned.images[chosen], strict=True)
    return {
        "title": method.title,
        "labels": method.labels.value,
        "clean_label": method.clean_label,
        "marked": len(chosen),
        "share": len(chosen) / len(context.train),
        "quality": sum_up([likeness(before[0].numpy(), after[0].numpy()) for before, after in pairs]),
        "victims": marked_models,
        "innocents": {
            "count": len(cleared),
            "accused": sum(is_accused(result.decision.failed) for result in cleared),
            # the test that the papers rely on, by itself
            "accused_by_t_test_alone": sum(result.effect.t_p_value < field.thresholds.alpha for result in cleared),
            "largest_lift": max(result.effect.delta_p for result in cleared),
            "models": [summary(result) for result in cleared],
        },
        "seconds": {"marking": round(fitted - started, 1), "all": round(time.monotonic() - started, 1)},
    }


def _as_it_is(model: Classifier) -> Suspect:
    return partial(predict_probabilities, model)


def _leaves_own_class(labels: torch.Tensor, model: Classifier) -> Suspect:
    """Turns the model into one of two classes: 0 "another class than the image's own", 1 "its own".

    With more than two classes, class 0 is the most probable one if the own class has less than one half.
    """

    def suspect(images: torch.Tensor) -> np.ndarray:
        own = predict_probabilities(model, images)[np.arange(len(labels)), labels.numpy()]
        return np.stack([1 - own, own], axis=1)

    return suspect


def _attacked(
    model: Classifier, as_suspect: Callable[[Classifier], Suspect], queries: QuerySet, clean: ImageArrays
) -> dict[str, dict[str, float]]:
    """Measures the rates after processing the queries, and after changing the model."""
    halved, compressed = (
        replace(queries, clean=process(queries.clean), marked=process(queries.marked), control=None)
        for process in (partial(shrink, factor=0.5), partial(jpeg, quality=75))
    )
    tuned = fine_tune(model, clean, epochs=FINE_TUNING_EPOCHS)
    return {
        "half": _rates(as_suspect(model), halved),
        "jpeg_75": _rates(as_suspect(model), compressed),
        "fine_tuned": _rates(as_suspect(tuned), queries),
        "pruned_50": _rates(as_suspect(prune_weights(model, 0.5)), queries),
    }


def _rates(suspect: Suspect, queries: QuerySet) -> dict[str, float]:
    """Returns the shares of marked and of clean images that are taken for the target."""
    return {
        name: float(ask(suspect, images, queries.target)[1].mean())
        for name, images in (("wsr", queries.marked), ("clean_rate", queries.clean))
    }
