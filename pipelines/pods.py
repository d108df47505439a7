"""What the pods of a compiled pipeline ask of a cluster: processors, memory, a GPU, a place, a queue, and how often to try again.

A file says it for all steps, and differently for those that train models:

    steps:
      cpu: "1"
      memory: 2Gi
      labels: {kueue.x-k8s.io/queue-name: medmark}
    training:
      cpu: "4"
      memory: 16Gi
      accelerator: nvidia.com/gpu
"""

import tempfile
import threading
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml
from medmark.components.base.errors import MedmarkError
from medmark.components.base.image import RUNS_IN
from medmark.components.base.text import reason_of

LARGEST_FILE = 1 << 16  # bytes
DEFINING = threading.Lock()  # KFP keeps the pipeline that is being defined in one variable of the process
# Namespaces with the Pod Security Standard 'restricted' refuse pods that do not state this; KFP states the rest of it.
NON_ROOT = {"securityContext": {"runAsNonRoot": True}}
# components that train models, or ask or attack them many times over
TRAINING = (
    "check-locks-component",
    "check-update-component",
    "compare-methods-component",
    "lock-release-component",
    "mark-segmenter-component",
    "stress-component",
    "train-classifiers-component",
    "train-generator-component",
    "train-lesion-segmenter-component",
    "train-segmenters-component",
)
# components that are tried once: each drop whose run failed would be marked again from its first step
ONCE = ("reconcile-component",)


@dataclass(frozen=True)
class Pod:
    """What a pod asks for.

    Attributes:
        cpu: processors, request and limit, as Kubernetes writes them. As many processes train models side by side as fit.
        memory: request, as Kubernetes writes it.
        memory_limit: likewise; none when empty.
        accelerator: resource name of a GPU; one is asked for. None when empty.
        shared_memory: size of ``/dev/shm``; the container runtime's when empty.
        retries: further tries after a failure, each after twice the pause, from a minute to an hour.
        timeout: seconds after which a try is ended; never when 0.
        labels: of the pod, such as Kueue's queue.
        node_selector: labels that the node must have.
        tolerations: of a node's taints, as Kubernetes writes them.
    """

    cpu: str = "1"
    memory: str = "2Gi"
    memory_limit: str = ""
    accelerator: str = ""
    shared_memory: str = ""
    retries: int = 0
    timeout: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Pods:
    """Pods of all steps and of those that train. The defaults are arbitrary: a pod without a request is the first to be evicted."""

    steps: Pod = Pod()
    training: Pod = Pod(cpu="2", memory="4Gi")


def read_pods(file: str | Path) -> Pods:
    """Reads what pods ask for.

    Args:
        file: YAML file with ``steps`` and ``training``, each with fields of :class:`Pod`; what ``steps`` says holds for
            those that train, too, unless ``training`` says otherwise.

    Raises:
        MedmarkError: the file is missing, or holds something else.
    """
    try:
        with open(file, "rb") as stream:
            content = yaml.safe_load(stream.read(LARGEST_FILE))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise MedmarkError(f"unreadable pods: {file} ({reason_of(error)}); give a YAML file") from error
    return pods_of(content, file)


def pods_of(content: Any, file: str | Path) -> Pods:
    """Returns what pods ask for.

    Args:
        content: as in the file that :func:`read_pods` reads.
        file: where it comes from, for messages.

    Raises:
        MedmarkError: it is something else.
    """
    if not isinstance(content, dict) or not content.keys() <= {"steps", "training"}:
        raise MedmarkError(f"no pods in {file}; write 'steps:' and 'training:' with what they ask for")
    of_all = content.get("steps")
    training = _changed(_changed(Pods.training, of_all, file), content.get("training"), file)
    pods = Pods(_changed(Pods.steps, of_all, file), training)
    for pod in (pods.steps, pods.training):
        try:
            _settings(pod)
        except (ValueError, TypeError) as error:
            raise MedmarkError(f"{file}: {reason_of(error)}; write it as Kubernetes does") from error
    return pods


def _changed(pod: Pod, given: Any, file: str | Path) -> Pod:
    names = {one.name: type(getattr(pod, one.name)) for one in fields(Pod)}
    if given is None:
        return pod
    if not isinstance(given, dict) or not given.keys() <= names.keys():
        raise MedmarkError(f"{file}: pods ask for {given!r}; use {', '.join(names)}")
    for name, value in given.items():
        parts = [*value, *value.values()] if isinstance(value, dict) else []
        if type(value) is not names[name] or not all(isinstance(part, str) for part in parts):
            raise MedmarkError(f"{file}: {name} is {value!r}; write {_shape(names[name])}")
    return replace(pod, **given)


def _shape(kind: type) -> str:
    return {str: "a text in quotes", int: "a whole number", dict: "names and texts", list: "a list"}[kind]


def ask_for(documents: list[dict], pods: Pods) -> list[dict]:
    """Puts what pods ask for into a compiled pipeline. Steps in an image of medmark ask not to be root, too; others may have to be.

    Args:
        documents: the pipeline and, if there is one, what Kubernetes gives its steps.
        pods: what they ask for.

    Returns:
        The two documents.
    """
    spec = documents[0]
    platform = documents[1] if len(documents) > 1 else {}
    executors = (
        platform.setdefault("platforms", {})
        .setdefault("kubernetes", {})
        .setdefault("deploymentSpec", {})
        .setdefault("executors", {})
    )
    of_all, of_training = _settings(pods.steps), _settings(pods.training)
    settings = {
        name: of_training if _name(name) in TRAINING else of_all
        for name, component in spec["components"].items()
        if "executorLabel" in component
    }
    for name, (resources, _, kubernetes) in settings.items():
        label = spec["components"][name]["executorLabel"]
        container = spec["deploymentSpec"]["executors"][label].get("container")
        if container is not None:
            container["resources"] = deepcopy(resources)
            ours = any(variable["name"] == RUNS_IN for variable in container.get("env", []))
            kubernetes = kubernetes | NON_ROOT if ours else kubernetes
            if kubernetes:
                own = executors.get(label, {})
                executors[label] = own | deepcopy(kubernetes)
                if "podMetadata" in own:
                    labels = kubernetes.get("podMetadata", {}).get("labels", {}) | own["podMetadata"]["labels"]
                    executors[label]["podMetadata"] = own["podMetadata"] | {"labels": labels}
    for component in (spec["root"], *spec["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            called = task["componentRef"]["name"]
            retry = settings.get(called, ({}, None, {}))[1]
            if retry and _name(called) not in ONCE:
                task["retryPolicy"] = deepcopy(retry)
    return [spec, platform] if executors else [spec]


def _name(called: str) -> str:
    """``train-segmenters-component`` of ``comp-train-segmenters-component-2``."""
    return called.removeprefix("comp-").rstrip("-0123456789")


def _settings(pod: Pod) -> tuple[dict, dict | None, dict]:
    """Resources, retries and Kubernetes' settings of a pod, as KFP itself writes them."""
    from kfp import compiler, dsl, kubernetes

    @dsl.container_component
    def step() -> dsl.ContainerSpec:
        return dsl.ContainerSpec(image="none")

    def pipeline() -> None:
        task = step()
        task.set_cpu_request(pod.cpu).set_cpu_limit(pod.cpu).set_memory_request(pod.memory)
        if pod.memory_limit:
            task.set_memory_limit(pod.memory_limit)
        if pod.accelerator:
            task.set_accelerator_type(pod.accelerator).set_accelerator_limit(1)
        if pod.retries:
            task.set_retry(pod.retries, backoff_duration="60s", backoff_factor=2.0, backoff_max_duration="3600s")
        if pod.timeout:
            kubernetes.set_timeout(task, pod.timeout)
        if pod.shared_memory:
            kubernetes.empty_dir_mount(
                task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=pod.shared_memory
            )
        for key, value in pod.labels.items():
            kubernetes.add_pod_label(task, key, value)
        for key, value in pod.node_selector.items():
            kubernetes.add_node_selector(task, key, value)
        for toleration in pod.tolerations:
            kubernetes.add_toleration(task, **toleration)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pod.yaml"
        with DEFINING:
            defined = dsl.pipeline(pipeline, name="pod")
        compiler.Compiler().compile(defined, str(path))
        spec, *platform = yaml.safe_load_all(path.read_text())
    (executor,), (task,) = spec["deploymentSpec"]["executors"].values(), spec["root"]["dag"]["tasks"].values()
    of_kubernetes: dict = {}
    if platform:
        (of_kubernetes,) = platform[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    return executor["container"]["resources"], task.get("retryPolicy"), of_kubernetes
