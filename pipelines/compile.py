"""Compiles pipelines to IR YAML, which a Kubeflow cluster runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from medmark.components.base.errors import MedmarkError
from medmark.components.base.image import IMAGE, RUNS_IN
from medmark.components.base.text import reason_of
from medmark.pipelines.pods import Pods, ask_for

if TYPE_CHECKING:
    from kfp.dsl.graph_component import GraphComponent

COMPONENTS = Path(__file__).parent.parent / "components"
DIGESTS = Path(__file__).parent.parent / "images" / "digests.yaml"
PINNED = re.compile(r"\S+@sha256:[0-9a-f]{64}")
LARGEST_FILE = 1 << 16  # bytes
# their steps take what a digest names, draw for one submission, or are never found by set_caching_options(False)
CACHED = ("lock-release", "mark-release", "mark-segmenter", "update-release")
KFP_RUNS, MEDMARK_RUNS = " -m kfp.dsl.executor_main ", " -m medmark.pipelines.run_step kfp.dsl.executor_main "


def read_images(file: str | Path | None = None, *, unpinned: bool = False) -> dict[str, str]:
    """Reads which image to run the steps in.

    Args:
        file: YAML file with a reference by the name that components give, ``medmark/python-cpu``; those that come with medmark when
            None.
        unpinned: take references without a digest, too. What such a step ran in can change between two runs.

    Returns:
        Reference by name.

    Raises:
        MedmarkError: the file is missing or holds something else, or a reference has no digest.
    """
    path = Path(file) if file is not None else DIGESTS
    try:
        with open(path, "rb") as stream:
            images = yaml.safe_load(stream.read(LARGEST_FILE))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise MedmarkError(f"unreadable images: {path} ({reason_of(error)}); give a YAML file") from error
    if not isinstance(images, dict) or not all(isinstance(part, str) for pair in images.items() for part in pair):
        raise MedmarkError(f"no images in {path}; write one line for each, '{IMAGE}: registry/name@sha256:...'")
    if IMAGE not in images:
        raise MedmarkError(f"{path} does not name {IMAGE}; write '{IMAGE}: registry/name@sha256:...'")
    for name, reference in images.items():
        if not unpinned and not PINNED.fullmatch(reference):
            raise MedmarkError(
                f"{name} in {path} is {reference!r}, which is not pinned; push the image and give --images with its"
                " registry/name@sha256:..., or give --unpinned"
            )
    return images


def compile_pipeline(
    pipeline: GraphComponent,
    path: str | Path,
    images: Mapping[str, str],
    pods: Pods | None = None,
    *,
    anew: bool = False,
) -> None:
    """Writes the IR YAML of one pipeline, with each step told which image it runs in and made to say why it fails
    (:mod:`medmark.pipelines.run_step`).

    A cluster's cache finds a step by its image, command and parameters, and by the ids of its input artifacts. It is on in :data:`CACHED`
    pipelines, so that a submission that failed goes on with what succeeded, and off in all others: a step that reads from an address
    would get what was there before. Steps that track, sign and publish are never found.

    Args:
        pipeline: a function decorated with ``dsl.pipeline``.
        path: file to write.
        images: reference by name, see :func:`read_images`; a step with another image keeps it.
        pods: what the steps ask of the cluster, see :func:`medmark.pipelines.pods.read_pods`; the defaults when None.
        anew: switch the cache off in every step.
    """
    from kfp import compiler

    compiler.Compiler().compile(pipeline, str(path))
    documents = list(yaml.safe_load_all(Path(path).read_text()))
    spec = documents[0]
    if anew or spec["pipelineInfo"]["name"] not in CACHED:
        for component in (spec["root"], *spec["components"].values()):
            for task in component.get("dag", {}).get("tasks", {}).values():
                task["cachingOptions"] = {}
    _put_in(images, spec)
    Path(path).write_text(yaml.safe_dump_all(ask_for(documents, pods or Pods())))


def _put_in(images: Mapping[str, str], spec: dict) -> None:
    """Gives steps the reference of their image, and tells them: a pod does not know its image, and its lineage could not name it.

    Steps in medmark's image run under :mod:`medmark.pipelines.run_step`.
    """
    for executor in spec["deploymentSpec"]["executors"].values():
        container = executor.get("container", {})
        if container.get("image") == IMAGE:
            container["command"] = [part.replace(KFP_RUNS, MEDMARK_RUNS) for part in container["command"]]
        if container.get("image") in images:
            container["image"] = images[container["image"]]
            container["env"] = [*container.get("env", []), {"name": RUNS_IN, "value": container["image"]}]


def compile_components(out: str | Path, images: Mapping[str, str]) -> list[Path]:
    """Writes each component of medmark as ``<name>.yaml``, for pipelines of people who do not install medmark.

    ``kfp.components.load_component_from_file`` loads them. What their steps ask of the cluster, and whether KFP may cache them, is up
    to the pipeline: never those that draw secrets or read from addresses.

    Args:
        out: folder to write; made if missing.
        images: reference by name, see :func:`read_images`.

    Returns:
        The files that were written.
    """
    from kfp import compiler
    from kfp.dsl.python_component import PythonComponent

    rooms = sorted(path.parent.name for path in COMPONENTS.glob("*/component.py"))
    modules = [import_module(f"medmark.components.{room}.component") for room in rooms]
    modules.append(import_module("medmark.pipelines.reconcile.component"))
    found = [each for module in modules for each in vars(module).values() if isinstance(each, PythonComponent)]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for component in found:
        path = out / f"{component.name.removesuffix('-component')}.yaml"
        compiler.Compiler().compile(component, str(path))
        spec = yaml.safe_load(path.read_text())
        _put_in(images, spec)
        for executor in spec["deploymentSpec"]["executors"].values():
            container = executor["container"]
            for variable in container.pop("env", []):  # KFP 2.17 cannot compile a loaded component that has variables
                shell = container["command"].index("-ec") + 1
                stated = f"export {variable['name']}={shlex.quote(variable['value'])}"
                container["command"][shell] = f"{stated}\n{container['command'][shell]}"
        path.write_text(yaml.safe_dump(spec))
        paths.append(path)
    return paths


def pipelines() -> list[GraphComponent]:
    """Returns every pipeline of medmark, each a function decorated with ``dsl.pipeline``."""
    from medmark.pipelines.audit_lineage.pipeline import audit_lineage
    from medmark.pipelines.audit_segmenter.pipeline import audit_segmenter
    from medmark.pipelines.audit_suspect.pipeline import audit_suspect
    from medmark.pipelines.compare_methods.pipeline import compare_methods
    from medmark.pipelines.lock_release.pipeline import lock_release
    from medmark.pipelines.mark_release.pipeline import mark_release
    from medmark.pipelines.mark_segmenter.pipeline import mark_segmenter
    from medmark.pipelines.reconcile.pipeline import reconcile
    from medmark.pipelines.stress_release.pipeline import stress_release
    from medmark.pipelines.update_release.pipeline import update_release

    marking = [lock_release, mark_release, mark_segmenter, update_release]
    return [audit_lineage, audit_segmenter, audit_suspect, compare_methods, reconcile, stress_release, *marking]


def compile_all(out: str | Path, images: Mapping[str, str], pods: Pods | None = None) -> list[Path]:
    """Writes the IR YAML of every pipeline of medmark as ``<name>.yaml``, and of every component in ``components/``.

    Args:
        out: folder to write; made if missing.
        images, pods: see :func:`compile_pipeline`.

    Returns:
        The files that were written.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for pipeline in pipelines():
        path = out / f"{pipeline.name}.yaml"
        compile_pipeline(pipeline, path, images, pods)
        paths.append(path)
    return paths + compile_components(out / "components", images)
