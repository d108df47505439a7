"""Runs compiled pipelines as Kubeflow Pipelines does on a cluster (2.17.0: driver, launcher, pod), one task after the other.

Where ``kfp.local`` forgives, this does not:

- every task starts in an empty folder; its inputs are downloaded from a real object store, file by file, and its outputs uploaded, so that
  an empty folder, a link or a file beside an output is lost;
- artifacts have addresses in the store, and metadata goes through the backend's conversion (:mod:`kfp_metadata`);
- numbers travel as floating point, results as JSON, conditions as the compiler wrote them;
- a task sees the environment of its pod alone: the container's variables, those of Kubernetes' secrets that it was given, and those that
  KFP's MLflow plugin injects. A name that comes as a value and from a secret is refused, as Kubernetes does;
- what runs is the command of the compiled document, with KFP's own executor as its entry point;
- a task whose cache is on takes over the outputs of an earlier one with the same image, command, parameters and input artifacts.

A task runs as a process, or in a container with a read-only root, as a user without a name.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import yaml
from kfp_metadata import stored
from medmark.pipelines.compile import compile_pipeline, read_images
from minio import Minio

CONDITION = re.compile(r"inputs\.parameter_values\['([^']+)'\] (==|!=) '([^']*)'")
LIMIT = 1200  # seconds for a task; a sweep waits for the runs that it submits
# in a process, /s3 must not be that of this machine: what the component's file gets in front of it
MOUNTED_AT = "import kfp.dsl.types.artifact_types as _types; _types._S3_LOCAL_MOUNT_PREFIX = {!r}\n"


@dataclass
class Docker:
    """Tasks run in containers.

    Attributes:
        image: runs in place of what the documents name.
        network: of the containers.
        user: ``uid:gid``.
    """

    image: str
    network: str = "none"
    user: str = "10001:0"


@dataclass
class Launcher:
    """A namespace that runs pipelines.

    Attributes:
        root: where artifacts go, ``s3://bucket/prefix``.
        s3: ``endpoint``, ``access_key`` and ``secret_key`` that open it; tasks do not get them.
        folder: for the tasks' empty folders.
        secrets: Kubernetes' secrets, by name.
        injected: variables that KFP's MLflow plugin injects.
        docker: how to run containers; None: processes.
        python: folder with the ``python3`` of processes (:mod:`warm_python`).
        seen: names of the secrets that some task asked for.
        retry: goes on with the last run, as KFP's retry does: what has succeeded is not done again.
        logs: what each task printed, by number and name.
        cached: outputs of the tasks that ended well while their cache was on, by pipeline and fingerprint.
    """

    root: str
    s3: dict[str, str]
    folder: Path
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    injected: dict[str, str] = field(default_factory=dict)
    docker: Docker | None = None
    python: Path = Path(sys.executable).parent
    seen: set[str] = field(default_factory=set)
    logs: dict[str, str] = field(default_factory=dict)
    cached: dict[tuple[str, str], dict] = field(default_factory=dict)
    retry: Callable[[], dict] | None = None

    def __call__(self, pipeline: dict, platform: dict, parameters: dict) -> dict:
        """Runs a pipeline.

        Args:
            pipeline, platform: the documents of the compiled file.
            parameters: of the run.

        Returns:
            Outputs of the pipeline by name: an artifact, or the value of a parameter.

        Raises:
            RuntimeError: a task failed; with medmark's own message, if it gave one.
        """
        run = _Run(self, pipeline, platform, f"{self.root}/{pipeline['pipelineInfo']['name']}/{uuid4()}")
        given = {name: _travelled(value) for name, value in parameters.items()}
        self.retry = partial(run.dag, "root", pipeline["root"], given, {})
        return self.retry()

    def start(self, pipeline, folder: Path, **arguments) -> dict:
        """Compiles a pipeline, runs it and returns what it made: paths of artifacts in the folder, and values of parameters."""
        folder.mkdir()
        compile_pipeline(pipeline, folder / "pipeline.yaml", read_images(unpinned=True))
        made = self(*yaml.safe_load_all((folder / "pipeline.yaml").read_text()), arguments)
        for name, output in made.items():
            if isinstance(output, dict) and "uri" in output:
                made[name] = self.fetch(output["uri"], folder / name)
        return made

    def fetch(self, uri: str, to: Path) -> Path:
        """Downloads what lies under an address, such as an artifact of a run."""
        _download(self._client(), uri, to)
        return to

    def _client(self) -> Minio:
        address = urlsplit(self.s3["endpoint"])
        return Minio(
            address.netloc,
            access_key=self.s3["access_key"],
            secret_key=self.s3["secret_key"],
            secure=address.scheme == "https",
        )


class _Run:
    def __init__(self, launcher: Launcher, pipeline: dict, platform: dict, root: str):
        self.launcher, self.pipeline, self.root = launcher, pipeline, root
        self.id = root.rpartition("/")[2]
        kubernetes = platform.get("platforms", {}).get("kubernetes", {"deploymentSpec": {"executors": {}}})
        self.settings = kubernetes["deploymentSpec"]["executors"]
        self.client = launcher._client()
        self.done: dict[str, dict] = {}

    def dag(self, path: str, component: dict, parameters: dict, artifacts: dict) -> dict:
        """Runs the tasks of a component that have not succeeded before, and returns its outputs."""
        parameters = _defaults(component) | parameters
        tasks, done = component["dag"]["tasks"], self.done.setdefault(path, {})
        order = {name: task.get("dependentTasks", []) for name, task in tasks.items()}
        for name in TopologicalSorter(order).static_order():
            task = tasks[name]
            if name in done:
                continue
            given, taken = self.inputs(task, parameters, artifacts, done)
            condition = task.get("triggerPolicy", {}).get("condition")
            if condition and not _holds(condition, given):
                done[name] = None
                continue
            if any(done[before] is None for before in order[name]):  # KFP does not start what waits for a skipped task
                done[name] = None
                continue
            called = self.pipeline["components"][task["componentRef"]["name"]]
            if "parameterIterator" in task:
                done[name] = self.loop(f"{path}/{name}", task["parameterIterator"], called, given, taken)
            elif "dag" in called:
                done[name] = self.dag(f"{path}/{name}", called, given, taken)
            else:
                done[name] = self.found_or_made(task, name, called, given, taken)
        outputs = {}
        declared = component["dag"].get("outputs", {})
        for port, chosen in declared.get("artifacts", {}).items():
            (selector,) = chosen["artifactSelectors"]
            outputs[port] = done[selector["producerSubtask"]][selector["outputArtifactKey"]]
        for port, chosen in declared.get("parameters", {}).items():
            selector = chosen["valueFromParameter"]
            outputs[port] = done[selector["producerSubtask"]][selector["outputParameterKey"]]
        return outputs

    def loop(self, path: str, iterator: dict, called: dict, parameters: dict, artifacts: dict) -> dict:
        """Runs each iteration of a loop, and collects their outputs in its order, as the driver does."""
        items = iterator["items"]
        each = parameters[items["inputParameter"]] if "inputParameter" in items else json.loads(items["raw"])
        each = json.loads(each) if isinstance(each, str) else each
        given = {name: value for name, value in parameters.items() if name != items.get("inputParameter")}
        made = [
            self.dag(f"{path}/{number}", called, given | {iterator["itemInput"]: item}, artifacts)
            for number, item in enumerate(each)
        ]
        declared = called.get("outputDefinitions", {})
        ports = [*declared.get("artifacts", {}), *declared.get("parameters", {})]
        return {port: [outputs[port] for outputs in made] for port in ports}

    def inputs(self, task: dict, parameters: dict, artifacts: dict, done: dict) -> tuple[dict, dict]:
        """Resolves what a task takes, as the driver does."""
        declared, given, taken = task.get("inputs", {}), {}, {}
        for port, source in declared.get("parameters", {}).items():
            if "runtimeValue" in source:
                constant = source["runtimeValue"]["constant"]
                given[port] = self.id if constant == "{{$.pipeline_job_uuid}}" else constant
            elif "componentInputParameter" in source:
                given[port] = parameters[source["componentInputParameter"]]
            else:
                made = source["taskOutputParameter"]
                given[port] = done[made["producerTask"]][made["outputParameterKey"]]
        for port, source in declared.get("artifacts", {}).items():
            if "componentInputArtifact" in source:
                taken[port] = artifacts[source["componentInputArtifact"]]
            else:
                made = source["taskOutputArtifact"]
                taken[port] = done[made["producerTask"]][made["outputArtifactKey"]]
        return given, taken

    def found_or_made(self, task: dict, name: str, component: dict, parameters: dict, artifacts: dict) -> dict:
        """Looks for a task in the cache as the driver does (backend/src/v2/driver/cache.go), and runs it if it is not there."""
        if not task["cachingOptions"].get("enableCache"):
            return self.task(name, component, parameters, artifacts)
        lists = {port: taken if isinstance(taken, list) else [taken] for port, taken in artifacts.items()}
        container = self.pipeline["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        parts = {
            "inputs": {port: [artifact["uri"] for artifact in listed] for port, listed in lists.items()},  # has one id
            "parameters": _defaults(component) | parameters,
            "outputs": component.get("outputDefinitions", {}),
            "container": [container["image"], *container["command"], *container.get("args", [])],
        }
        key = self.pipeline["pipelineInfo"]["name"], json.dumps(parts, sort_keys=True)
        if key not in self.launcher.cached:
            self.launcher.cached[key] = self.task(name, component, parameters, artifacts)
        return self.launcher.cached[key]

    def task(self, name: str, component: dict, parameters: dict, artifacts: dict) -> dict:
        """Runs a pod, and returns its outputs."""
        number = f"{len(self.launcher.logs):03d}-{name}"
        folder = self.launcher.folder / number
        try:
            return self.pod(name, number, component, parameters, artifacts, folder)
        finally:
            shutil.rmtree(folder)

    def pod(self, name: str, number: str, component: dict, parameters: dict, artifacts: dict, folder: Path) -> dict:
        in_container = self.launcher.docker is not None
        mounts, temporary = folder / "s3", folder / "tmp"
        for path in (mounts, temporary):
            path.mkdir(parents=True)
            path.chmod(0o777)
        declared = component.get("outputDefinitions", {})
        outputs = {
            port: {
                "name": f"{self.root}/{name}/{port}",
                "type": kind["artifactType"],
                "uri": f"{self.root}/{name}/{uuid4()}/{port}",
                "metadata": {},
            }
            for port, kind in declared.get("artifacts", {}).items()
        }
        lists = {port: taken if isinstance(taken, list) else [taken] for port, taken in artifacts.items()}
        for artifact in chain(*lists.values()):
            _download(self.client, artifact["uri"], _local(mounts, artifact["uri"]))
        for artifact in outputs.values():
            _local(mounts, artifact["uri"]).parent.mkdir(parents=True)
        seen_temporary = Path("/tmp") if in_container else temporary
        executor_input = {
            "inputs": {
                "parameterValues": _defaults(component) | parameters,
                "artifacts": {port: {"artifacts": listed} for port, listed in lists.items()},
            },
            "outputs": {
                "parameters": {
                    port: {"outputFile": f"{seen_temporary}/kfp/outputs/{port}"}
                    for port in declared.get("parameters", {})
                },
                "artifacts": {port: {"artifacts": [artifact]} for port, artifact in outputs.items()},
                "outputFile": f"{seen_temporary}/kfp_outputs/output_metadata.json",
            },
        }
        for made in ("kfp/outputs", "kfp_outputs"):
            (temporary / made).mkdir(parents=True)
        if self.launcher.docker:  # the launcher runs in the container, under its user, and owns what it makes there
            user, group = self.launcher.docker.user.split(":")
            for path in (*mounts.rglob("*"), *temporary.rglob("*")):
                os.chown(path, int(user), int(group))
                path.chmod(0o755 if path.is_dir() else 0o644)
        container = self.pipeline["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        environment = self.environment(component["executorLabel"], container)
        command = [*container["command"], *container.get("args", [])]
        command = [json.dumps(executor_input) if part == "{{$}}" else part for part in command]
        if in_container:
            done = self.in_container(command, environment, folder)
        else:
            done = self.in_process(command, environment, folder)
        self.launcher.logs[number] = done.stdout
        if done.returncode:
            shown = (folder / "termination-log").read_text() if in_container else ""
            raise RuntimeError(shown or (re.findall(r"MedmarkError: .*", done.stdout) or [done.stdout[-2000:]])[-1])
        file = temporary / "kfp_outputs" / "output_metadata.json"
        said = json.loads(file.read_bytes()) if file.exists() else {}
        for port, artifact in outputs.items():
            changed = said.get("artifacts", {}).get(port, {"artifacts": [{}]})["artifacts"][0]
            artifact["metadata"] = stored(changed.get("metadata", {}))
            if changed.get("uri", artifact["uri"]) == artifact["uri"]:
                _upload(self.client, _local(mounts, artifact["uri"]), artifact["uri"])
            artifact["uri"] = changed.get("uri", artifact["uri"])
        values = {port: _travelled(value) for port, value in said.get("parameterValues", {}).items()}
        return outputs | values

    def environment(self, label: str, container: dict) -> dict[str, str]:
        """The variables of a pod."""
        plain = {entry["name"]: entry["value"] for entry in container.get("env", [])} | self.launcher.injected
        from_secrets: dict[str, str] = {}
        for secret in self.settings.get(label, {}).get("secretAsEnv", []):
            self.launcher.seen.add(secret["secretName"])
            held = self.launcher.secrets.get(secret["secretName"])
            if held is None and not secret.get("optional"):
                raise RuntimeError(f"pod waits for the secret {secret['secretName']}")
            for pair in secret["keyToEnv"]:
                if pair["envVar"] in plain:
                    raise RuntimeError(
                        f"pod refused: env {pair['envVar']}: may not be specified when `value` is not empty"
                    )
                value = (held or {}).get(pair["secretKey"])
                if value is not None:
                    from_secrets[pair["envVar"]] = value
        return plain | from_secrets

    def in_process(self, command: list[str], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess:
        at = command.index("--executor_input") - 1
        command[at] = MOUNTED_AT.format(f"{folder}/s3/") + command[at]
        own = {
            "PATH": f"{self.launcher.python}:{Path(sys.executable).parent}:{os.defpath}",
            "HOME": str(folder / "tmp"),
        }
        own["TMPDIR"] = own["HOME"]
        return subprocess.run(
            command,
            env=own | environment,
            cwd=folder / "tmp",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
        )

    def in_container(
        self, command: list[str], environment: dict[str, str], folder: Path
    ) -> subprocess.CompletedProcess:
        docker = self.launcher.docker
        last_words = folder / "termination-log"  # as kubelet mounts it
        last_words.touch()
        last_words.chmod(0o666)
        given = [f"--env={name}={value}" for name, value in environment.items()]
        bounds = ["--rm", "--read-only", f"--user={docker.user}", f"--network={docker.network}", "--cap-drop=ALL"]
        mounts = [f"--volume={folder}/s3:/s3", f"--volume={folder}/tmp:/tmp"]
        mounts.append(f"--volume={last_words}:/dev/termination-log")
        return subprocess.run(
            ["docker", "run", *bounds, *mounts, *given, docker.image, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
        )


def _defaults(component: dict) -> dict:
    declared = component.get("inputDefinitions", {}).get("parameters", {})
    return {name: one["defaultValue"] for name, one in declared.items() if "defaultValue" in one}


def _travelled(value):
    """A value after it was a protobuf Struct: every number is a float, and those without fraction are written without one."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return int(float(value)) if float(value).is_integer() else float(value)
    if isinstance(value, list):
        return [_travelled(item) for item in value]
    return {str(name): _travelled(item) for name, item in value.items()}


def _holds(condition: str, parameters: dict) -> bool:
    found = CONDITION.fullmatch(condition)
    if not found:
        raise NotImplementedError(f"condition {condition!r}; teach the launcher this form")
    name, operator, text = found.groups()
    return (parameters[name] == text) == (operator == "==")


def _place(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _local(mounts: Path, uri: str) -> Path:
    return mounts / uri.removeprefix("s3://")


def _upload(client: Minio, path: Path, uri: str) -> None:
    bucket, key = _place(uri)
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        client.fput_object(bucket, key if file == path else f"{key}/{file.relative_to(path)}", str(file))


def _download(client: Minio, uri: str, to: Path) -> None:
    bucket, key = _place(uri)
    for found in client.list_objects(bucket, prefix=key, recursive=True):
        if found.object_name == key or found.object_name.startswith(f"{key}/"):
            target = to / found.object_name[len(key) + 1 :] if found.object_name != key else to
            target.parent.mkdir(parents=True, exist_ok=True)
            client.fget_object(bucket, found.object_name, str(target))
