"""Several models in one folder: training them side by side, ``models.json``, and reading them back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from medmark.components.base.atomic import write_atomic
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.progress import track
from medmark.components.base.threads import choose_workers, use_threads
from medmark.components.dataset.arrays import ImageArrays
from medmark.components.dataset.prepared import Prepared, load_bytes, open_images
from medmark.components.dataset.release import SPLITS, Release
from medmark.components.surrogate.networks import Classifier, load_classifier, save_classifier
from medmark.components.surrogate.training import TrainConfig, accuracy, train_classifier

C = TypeVar("C", bound="Config")


class TrainedModel(NamedTuple):
    """A classifier that was read back.

    Attributes:
        entry: its entry in ``models.json``: ``name``, ``config``, ``file``, ``test_accuracy`` and so on.
        model: the classifier.
    """

    entry: dict[str, Any]
    model: Classifier


class Config(Protocol):
    """What a model is made from; a data class, and ``name`` is the name of its file."""

    @property
    def name(self) -> str: ...


def train_models(
    release_dir: str | Path, out_dir: str | Path, *, configs: list[TrainConfig], workers: int | None = None
) -> dict[str, Any]:
    """Trains each classifier on a release's training split and writes ``models.json``; see :func:`train_side_by_side`.

    It learns the same from a release as from what was prepared of it.

    Returns:
        The content of ``models.json``: ``release_digest`` and ``models``, each with name, file, architecture, seed,
        test_accuracy, history, seconds, sha256 and config.
    """
    return train_side_by_side(release_dir, out_dir, configs, _train_one, workers=workers, what="training classifiers")


def train_side_by_side(
    release_dir: str | Path,
    out_dir: str | Path,
    configs: Sequence[C],
    train_one: Callable[[Path, Path, C], dict[str, Any]],
    *,
    workers: int | None = None,
    what: str,
) -> dict[str, Any]:
    """Trains models on a release and writes ``models.json``.

    Models that are already there, from the same configuration and release, are kept, so an interrupted step goes on
    where it stopped. The result does not depend on the number of workers.

    Args:
        release_dir: release to train on, or what was prepared of it.
        out_dir: gets ``<name>.safetensors`` for each, and ``models.json``.
        configs: one a model, with unique names.
        train_one: takes release, ``out_dir`` and a configuration, writes the model and returns its entry with at least ``name``,
            ``file``, ``sha256`` and ``config``; a function of a module, because it may run in another process.
        workers: processes that train side by side; what the machine holds when None.
        what: is done, for the progress.

    Returns:
        The content of ``models.json``: ``release_digest`` and ``models``, the entries in the order of the configurations.

    Raises:
        MedmarkError: two models with one name, or what training refuses.
    """
    release, out = open_images(release_dir), Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    if len({config.name for config in configs}) != len(configs):
        raise MedmarkError(f"two models with one name among {[c.name for c in configs]}; give each its own")
    done = _finished(out, release.digest, configs)
    waiting = [config for config in configs if config.name not in done]
    workers = workers or choose_workers(len(waiting))
    use_threads()  # before the workers start, which inherit the number
    for entry in track(_train_all(release, out, waiting, train_one, workers), what, len(waiting)):
        done[entry["name"]] = entry
        _write_index(out, release.digest, [done[config.name] for config in configs if config.name in done])
    return _write_index(out, release.digest, [done[config.name] for config in configs])


def gather_models(directories: Sequence[str | Path], out_dir: str | Path) -> dict[str, Any]:
    """Puts models of several folders into one, in their order.

    Args:
        directories: of :func:`train_models`.
        out_dir: folder to write.

    Returns:
        The content of the new ``models.json``.

    Raises:
        MedmarkError: there is none, two have one name, they were trained on different releases, or a file is not the one that was
            recorded.
    """
    found = [model for directory in directories for model in read_models(directory)]
    digests = {_read_index(Path(directory) / "models.json")["release_digest"] for directory in directories}
    if len(digests) != 1:
        raise MedmarkError(f"models of {len(digests)} releases cannot be put together; train all of them on one")
    out, files = Path(out_dir), [entry["file"] for entry, _ in found]
    if len(set(files)) != len(files):
        raise MedmarkError(f"two models with one name among {files}; give each its own")
    out.mkdir(parents=True, exist_ok=True)
    for entry, path in found:
        shutil.copyfile(path, out / entry["file"])
    return _write_index(out, digests.pop(), [entry for entry, _ in found])


def _finished(out: Path, digest: str, configs: Sequence[C]) -> dict[str, dict[str, Any]]:
    index = out / "models.json"
    if not index.exists():
        return {}
    previous = _read_index(index)
    wanted = {config.name: asdict(config) for config in configs}  # type: ignore[call-overload]  # a data class
    return {
        entry["name"]: entry
        for entry in previous["models"]
        if previous["release_digest"] == digest and wanted.get(entry["name"]) == entry["config"] and _intact(out, entry)
    }


def _train_all(
    release: Release | Prepared,
    out: Path,
    configs: Sequence[C],
    train_one: Callable[[Path, Path, C], dict[str, Any]],
    workers: int,
) -> Iterator[dict[str, Any]]:
    if workers == 1 or len(configs) < 2:
        for config in configs:
            yield train_one(release.path, out, config)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(train_one, release.path, out, config) for config in configs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _train_one(release_dir: Path, out: Path, config: TrainConfig) -> dict[str, Any]:
    release = open_images(release_dir)
    train, val, test = _load_splits(release_dir, release.digest, config.size)
    # the digest in the name: a checkpoint from another release is never resumed
    checkpoint = out / f"{config.name}.{release.digest[:12]}.checkpoint"
    trained = train_classifier(train, val, config, num_classes=len(release.class_names), checkpoint=checkpoint)
    path = out / f"{config.name}.safetensors"
    save_classifier(trained.model, path, release_digest=release.digest, seed=config.seed)
    return {
        "name": config.name,
        "file": path.name,
        "architecture": config.architecture,
        "seed": config.seed,
        "test_accuracy": accuracy(trained.model, test),
        "history": trained.history,
        "seconds": round(trained.seconds, 2),
        "sha256": file_sha256(path),
        "config": asdict(config),
    }


@lru_cache(maxsize=1)
def _load_splits(release_dir: Path, digest: str, size: int) -> list[ImageArrays]:
    images = open_images(release_dir)
    return [load_bytes(images, split=split, size=size) for split in SPLITS]


def _write_index(out: Path, digest: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    index = {"release_digest": digest, "models": entries}
    write_atomic(out / "models.json", canonical_json(index))
    return index


def _read_index(index: Path) -> dict[str, Any]:
    try:
        content = json.loads(index.read_bytes())
        for entry in content["models"]:
            if Path(entry["file"]).name != entry["file"] or not isinstance(entry["sha256"], str):
                raise ValueError(f"file {entry['file']!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MedmarkError(f"damaged list of models: {index} ({error!r}); remove the folder, train again") from error
    return content


def _intact(directory: Path, entry: dict[str, Any]) -> bool:
    path = directory / entry["file"]
    return path.is_file() and file_sha256(path) == entry["sha256"]


def load_models(directory: str | Path) -> list[TrainedModel]:
    """Reads the classifiers of a folder back, in the order of ``models.json``; errors as of :func:`read_models`."""
    return [TrainedModel(entry, load_classifier(path)) for entry, path in read_models(directory)]


def read_models(directory: str | Path) -> list[tuple[dict[str, Any], Path]]:
    """Lists the models of a folder: entries of ``models.json`` in their order, and the files.

    Raises:
        MedmarkError: the folder has no models, or a file is not the one that was recorded.
    """
    index = Path(directory) / "models.json"
    if not index.is_file():
        raise MedmarkError(f"no models.json in {directory}; train the models first")
    models = []
    for entry in _read_index(index)["models"]:
        path = Path(directory) / entry["file"]
        if not _intact(Path(directory), entry):
            raise MedmarkError(f"weights changed or missing: {path}; train the models again")
        models.append((entry, path))
    return models
