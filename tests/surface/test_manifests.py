"""The manifests, offline: every overlay is put together, every document is valid, and what it names exists and is allowed.

Each check returns what it finds wrong. It must find nothing in the overlays, and find each fault that is planted.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import celpy
import click
import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml
from google.protobuf import json_format
from hera.workflows import models as hera
from kfp.pipeline_spec import pipeline_spec_pb2
from kustomize import MANIFESTS, OVERLAYS, hydrate, make_secrets
from manifest_schemas import LAUNCHER, SCHEMAS
from medmark.components.base.image import IMAGE, RUNS_IN
from medmark.pipelines.cli import app
from medmark.pipelines.compile import DIGESTS, read_images
from medmark.pipelines.pods import read_pods
from pydantic import ValidationError
from yaml.representer import SafeRepresenter

for dumper in (yaml.Dumper, yaml.SafeDumper):  # hera changes how everybody's texts are written
    dumper.add_representer(str, SafeRepresenter.represent_str)
ROOT = MANIFESTS.parent
KUBERNETES = "1.32"
CLICK_ERROR = typer.BadParameter.__mro__[2]  # ClickException; some versions of typer bring their own
SHIM = "#!/bin/sh\nmkdir -p keys; echo key > keys/medmark.key\n"  # test_deploy.py makes a real one
EXAMPLES = """resources: [{base}]
components: [{components}/bucket-notification, {components}/external-secrets, {components}/image, {components}/gpu]
"""
Documents = list[dict]


@pytest.fixture(scope="module")
def hydrated(tmp_path_factory) -> dict[str, Documents]:
    """Documents by overlay; ``examples`` has the components that no overlay takes in."""
    examples = tmp_path_factory.mktemp("examples")
    places = {name: os.path.relpath(MANIFESTS / name, examples.resolve()) for name in ("base", "components")}
    (examples / "kustomization.yaml").write_text(EXAMPLES.format(**places))
    made = {name: hydrate(MANIFESTS / "overlays" / name) for name in OVERLAYS}
    return made | {"examples": hydrate(examples)}


@pytest.fixture(scope="module")
def secrets(hydrated, tmp_path_factory) -> dict[str, set[tuple[str, str, str]]]:
    """Namespace, name and key of every secret that there is, by overlay."""
    made = make_secrets(MANIFESTS / "overlays" / "kind" / "secrets.sh", tmp_path_factory.mktemp("kind"), SHIM)
    example = {
        (one["metadata"]["namespace"], one["metadata"]["name"], data["secretKey"])
        for one in hydrated["examples"]
        if one["kind"] == "ExternalSecret"
        for data in one["spec"]["data"]
    }
    kind = {("kubeflow", path.parent.name, path.name) for path in made.glob("*/*")}
    return {name: kind if name == "kind" else example for name in hydrated}


def name_of(document: dict) -> str:
    return f"{document['kind']} {document['metadata'].get('name', document['metadata'].get('generateName'))}"


def space_of(document: dict) -> str:
    return document["metadata"].get("namespace", "")


def of_kind(documents: Documents, *kinds: str) -> Iterator[dict]:
    return (document for document in documents if document["kind"] in kinds)


def find(documents: Documents, kind: str, name: str) -> dict:
    return next(one for one in of_kind(documents, kind) if one["metadata"]["name"] == name)


def walk(value: object, path: str = "") -> Iterator[tuple[str, dict]]:
    """Every mapping in a document, with its path."""
    if isinstance(value, dict):
        yield path, value
        for key, part in value.items():
            yield from walk(part, f"{path}.{key}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from walk(part, f"{path}.{index}")


# every document is valid


def unread(given: object, read: object, path: str = "") -> list[str]:
    """Paths of what a model did not take in."""
    if isinstance(given, dict) and isinstance(read, dict):
        lost = [f"{path}.{key}" for key in given if key not in read]
        return lost + [each for key in given if key in read for each in unread(given[key], read[key], f"{path}.{key}")]
    if isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        return [each for i, part in enumerate(given) for each in unread(part, read[i], f"{path}.{i}")]
    return [] if isinstance(given, dict | list) == isinstance(read, dict | list) else [path]


def by_hera(model: type, document: dict) -> list[str]:
    try:
        read = model.model_validate(document).model_dump(by_alias=True, exclude_none=True)
    except ValidationError as error:
        return [str(error)]
    return [f"unknown field {path}" for path in unread(document, read)]


def by_schema(schema: dict, value: object) -> list[str]:
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in jsonschema.Draft202012Validator(schema).iter_errors(value)
    ]


def by_kfp(spec: dict) -> list[str]:
    """A pipeline as KFP reads it; it refuses fields that it does not know."""
    try:
        json_format.ParseDict(spec["pipelineSpec"], pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(spec.get("platformSpec", {}), pipeline_spec_pb2.PlatformSpec())
    except json_format.ParseError as error:
        return [str(error)]
    return []


def inside(document: dict) -> list[str]:
    """Problems of what is a text or free in its document's own schema."""
    problems = []
    for text in document.get("data", {}).values() if document["kind"] == "ConfigMap" else ():
        content = yaml.safe_load(text) if isinstance(text, str) else None
        if isinstance(content, dict) and content.keys() == {"s3"} and "default" in content["s3"]:
            problems += by_schema(LAUNCHER, content)
        elif isinstance(content, dict) and "s3" in content:
            problems += by_hera(hera.ArtifactRepository, content)
    if document["kind"] == "WorkflowTemplate":
        patch = yaml.safe_load(document["spec"]["podSpecPatch"])
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": {"containers": [], **patch}}
        problems += by_kubernetes(pod)
    if document["kind"] == "PodDefault":
        given = {name: document["spec"].get(name, []) for name in ("env", "volumeMounts", "volumes")}
        step = {"name": "any", "image": "any", "env": given["env"], "volumeMounts": given["volumeMounts"]}
        spec = {"containers": [step], "volumes": given["volumes"]}
        problems += by_kubernetes({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": spec})
    if document["kind"] == "Sensor":
        for trigger in document["spec"]["triggers"]:
            problems += by_hera(hera.Workflow, trigger["template"]["k8s"]["source"]["resource"])
    if document["kind"] == "PipelineVersion":
        problems += by_kfp(document["spec"])
    return problems


def by_kubernetes(document: dict) -> list[str]:
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [error.message]
    return []


def invalid(documents: Documents) -> list[str]:
    problems = []
    for document in documents:
        version, kind = document["apiVersion"], document["kind"]
        if version == "argoproj.io/v1alpha1" and kind in ("Workflow", "WorkflowTemplate", "CronWorkflow"):
            found = by_hera(getattr(hera, kind), document)
        elif (version, kind) in SCHEMAS:
            found = by_schema(SCHEMAS[version, kind], document)
        else:
            found = by_kubernetes(document)
        problems += [f"{name_of(document)}: {problem}" for problem in found or inside(document)]
    return problems


# what a document names exists


def templates(documents: Documents) -> Iterator[tuple[dict, dict]]:
    """Templates of Argo's workflows with a container, each with its WorkflowTemplate."""
    for workflow in of_kind(documents, "WorkflowTemplate"):
        for template in workflow["spec"]["templates"]:
            if "container" in template:
                yield workflow, template


def named_secrets(document: dict) -> Iterator[tuple[str, str, bool]]:
    """Name, key, and whether it may be missing, of each secret that a document refers to."""
    config = [yaml.safe_load(text) for text in document.get("data", {}).values() if document["kind"] == "ConfigMap"]
    for _, part in walk([document, config]):
        optional = part.get("secretKeyRef", {}).get("optional", False)
        for field in ("secretKeyRef", "accessKeySecret", "secretKeySecret", "authSecret", "accessKey", "secretKey"):
            if isinstance(part.get(field), dict):
                yield part[field]["name"], part[field]["key"], optional
        if "secretName" in part and "accessKeyKey" in part:
            yield from ((part["secretName"], part[key], False) for key in ("accessKeyKey", "secretKeyKey"))
        elif isinstance(part.get("secret"), dict) and "secretName" in part["secret"]:
            for item in part["secret"].get("items", [{"key": "seaweedfs.json"}]):
                yield part["secret"]["secretName"], item["key"], False
    if document["kind"] == "PipelineVersion":  # use_secret_as_env
        for _, part in walk(document["spec"].get("platformSpec", {})):
            for entry in part.get("keyToEnv", []):
                yield part["secretName"], entry["secretKey"], part.get("optional", False)


def dangling(documents: Documents, secrets: set[tuple[str, str, str]]) -> list[str]:
    there = {(one["kind"], space_of(one), one["metadata"].get("name")) for one in documents}
    wanted: list[tuple[dict, str, str]] = []  # document, kind, name
    problems = []
    for document in documents:
        space = space_of(document)
        for name, key, optional in named_secrets(document):
            if not optional and (space, name, key) not in secrets:
                problems.append(f"{name_of(document)}: no secret {name} with {key} in {space}")
        for path, part in walk(document):
            if path.startswith(".spec.pipelineSpec"):
                continue
            wanted += [(document, "ServiceAccount", part[f]) for f in ("serviceAccountName",) if f in part]
            if isinstance(part.get("workflowTemplateRef"), dict):
                target = part["workflowTemplateRef"]["name"]
                within = "medmark-signing" if document["kind"] == "Sensor" else space
                if ("WorkflowTemplate", within, target) not in there:
                    problems.append(f"{name_of(document)}: no WorkflowTemplate {target} in {within}")
            if "configMapKeyRef" in part:
                wanted.append((document, "ConfigMap", part["configMapKeyRef"]["name"]))
                config = [
                    o
                    for o in of_kind(documents, "ConfigMap")
                    if o["metadata"]["name"] == part["configMapKeyRef"]["name"]
                ]
                if config and part["configMapKeyRef"]["key"] not in config[0]["data"]:
                    problems.append(f"{name_of(document)}: no key {part['configMapKeyRef']['key']} in it")
            if isinstance(part.get("configMap"), dict):
                wanted.append((document, "ConfigMap", part["configMap"]["name"]))
            if isinstance(part.get("artifactRepositoryRef"), dict):
                target = part["artifactRepositoryRef"]
                wanted.append((document, "ConfigMap", target["configMap"]))
                if not any(
                    target["key"] in one["data"]
                    for one in of_kind(documents, "ConfigMap")
                    if (space_of(one), one["metadata"]["name"]) == (space, target["configMap"])
                ):
                    problems.append(f"{name_of(document)}: no repository {target['key']} in {target['configMap']}")
            if "persistentVolumeClaim" in part:
                wanted.append((document, "PersistentVolumeClaim", part["persistentVolumeClaim"]["claimName"]))
        if document["kind"] == "RoleBinding":
            wanted.append((document, document["roleRef"]["kind"], document["roleRef"]["name"]))
            for subject in document["subjects"]:
                if (subject["kind"], subject["namespace"], subject["name"]) not in there:
                    problems.append(f"{name_of(document)}: no account {subject['name']} in {subject['namespace']}")
        if document["kind"] == "ValidatingAdmissionPolicyBinding":
            wanted.append((document, "ValidatingAdmissionPolicy", document["spec"]["policyName"]))
        if document["kind"] == "Secret":  # of an account's token
            wanted.append(
                (document, "ServiceAccount", document["metadata"]["annotations"]["kubernetes.io/service-account.name"])
            )
        if document["kind"] == "PipelineVersion":
            wanted.append((document, "Pipeline", document["spec"]["pipelineName"]))
        if document["kind"] == "Sensor":
            problems += loose_events(document, documents)
        if document["kind"] == "WorkflowTemplate":
            problems += loose_steps(document)
        if document["kind"] == "Service":
            pods = [one["spec"]["template"]["metadata"]["labels"] for one in of_kind(documents, "Deployment")]
            if not any(document["spec"]["selector"].items() <= labels.items() for labels in pods):
                problems.append(f"{name_of(document)}: selects no pod")
        if document["kind"] == "LocalQueue" and ("ClusterQueue", "", document["spec"]["clusterQueue"]) not in there:
            problems.append(f"{name_of(document)}: no ClusterQueue {document['spec']['clusterQueue']}")
        if document["kind"] == "ClusterQueue":
            flavors = [flavor["name"] for group in document["spec"]["resourceGroups"] for flavor in group["flavors"]]
            problems += [f"{name_of(document)}: no {f}" for f in flavors if ("ResourceFlavor", "", f) not in there]
        for _, part in walk(document):
            queue = part.get("kueue.x-k8s.io/queue-name")
            if queue and ("LocalQueue", space, queue) not in there:
                problems.append(f"{name_of(document)}: no LocalQueue {queue} in {space}")
    for document, kind, name in wanted:
        if (kind, space_of(document), name) not in there:
            problems.append(f"{name_of(document)}: no {kind} {name} in {space_of(document)}")
    for role in of_kind(documents, "Role"):
        for rule in role["rules"]:
            for resource in rule.get("resourceNames", []):
                known = {name for space, name, _ in secrets if space == space_of(role)} | {
                    one["metadata"]["name"]
                    for one in of_kind(documents, "ConfigMap")
                    if space_of(one) == space_of(role)
                }
                if resource not in known:
                    problems.append(f"{name_of(role)}: nothing of the name {resource}")
    return problems


def loose_events(sensor: dict, documents: Documents) -> list[str]:
    sources = {
        (one["metadata"]["name"], event)
        for one in of_kind(documents, "EventSource")
        for events in (one["spec"].get("webhook", {}), one["spec"].get("minio", {}))
        for event in events
    }
    given = sensor["spec"]["dependencies"]
    problems = [
        f"{name_of(sensor)}: no event {dependency['eventName']} of {dependency['eventSourceName']}"
        for dependency in given
        if (dependency["eventSourceName"], dependency["eventName"]) not in sources
    ]
    for trigger in sensor["spec"]["triggers"]:
        named = set(re.findall(r"[\w-]+", trigger["template"].get("conditions", "")))
        problems += [f"{name_of(sensor)}: no dependency {name}" for name in named - {one["name"] for one in given}]
    return problems


def loose_steps(workflow: dict) -> list[str]:
    """Entrypoint, steps, what they pass on, volumes and parameters."""
    spec, problems = workflow["spec"], []
    known = {template["name"]: template for template in spec["templates"]}
    volumes = {one["name"] for one in spec.get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
    outputs: dict[str, set[str]] = {}
    if spec["entrypoint"] not in known:
        problems.append(f"no entrypoint {spec['entrypoint']}")
    for template in spec["templates"]:
        for step in (step for group in template.get("steps", []) for step in group):
            target = known.get(step["template"])
            if target is None:
                problems.append(f"no template {step['template']}")
                continue
            given = step.get("arguments", {}).get("artifacts", [])
            asked = {artifact["name"] for artifact in target.get("inputs", {}).get("artifacts", [])}
            if {artifact["name"] for artifact in given} != asked:
                problems.append(f"step {step['name']} gives {[a['name'] for a in given]}, not {sorted(asked)}")
            for artifact in given:
                source = re.fullmatch(r"\{\{steps\.([\w-]+)\.outputs\.artifacts\.([\w-]+)\}\}", artifact["from"])
                if not source or source[2] not in outputs.get(source[1], set()):
                    problems.append(f"step {step['name']}: nothing before gives {artifact['from']}")
            outputs[step["name"]] = {one["name"] for one in target.get("outputs", {}).get("artifacts", [])}
        mounts = template.get("container", {}).get("volumeMounts", [])
        problems += [f"no volume {mount['name']}" for mount in mounts if mount["name"] not in volumes]
    declared = {one["name"] for one in spec.get("arguments", {}).get("parameters", [])}
    used = set(re.findall(r"\{\{workflow\.parameters\.([\w-]+)\}\}", json.dumps(spec)))
    problems += [f"no parameter {name}" for name in used ^ declared]
    return [f"{name_of(workflow)}: {problem}" for problem in problems]


# Pod Security 'restricted'

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def pods(documents: Documents) -> Iterator[tuple[str, dict, list[dict]]]:
    """Where, the pod's own fields, and all containers, of each pod that a document starts."""
    for document in documents:
        where, spec = name_of(document), document.get("spec", {})
        if document["kind"] == "Deployment":
            pod = spec["template"]["spec"]
            yield where, pod, [*pod["containers"], *pod.get("initContainers", [])]
        elif document["kind"] == "WorkflowTemplate":
            patch = yaml.safe_load(spec.get("podSpecPatch", "{}"))
            patched = {one["name"]: one for part in ("initContainers", "containers") for one in patch.get(part, [])}
            argo = [patched.get(name, {"name": name}) for name in ("init", "wait")]
            for template in spec["templates"]:
                if "container" in template:
                    pod = spec | {key: value for key, value in template.items() if key == "securityContext"}
                    yield f"{where} {template['name']}", pod, [template["container"], *argo]
        elif document["kind"] in ("EventSource", "Sensor"):
            yield where, spec["template"], [spec["template"]["container"]]
        elif document["kind"] == "EventBus":
            bus = spec["jetstream"]
            names = ("containerTemplate", "reloaderContainerTemplate", "metricsContainerTemplate")
            yield where, bus, [bus.get(name, {}) for name in names]


def unrestricted(documents: Documents) -> list[str]:
    problems = []
    for where, pod, containers in pods(documents):
        of_pod = pod.get("securityContext", {})
        wrong = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
        wrong += [f"volume {v['name']}" for v in pod.get("volumes", []) if not v.keys() - {"name"} <= VOLUMES]
        wrong += ["sysctls"] if of_pod.get("sysctls") else []
        for container in containers:
            own = of_pod | container.get("securityContext", {})
            name = container.get("name", "container")
            held = {
                "may be root": own.get("runAsNonRoot") is True and own.get("runAsUser") != 0,
                "no seccomp profile": own.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
                "may gain privileges": own.get("allowPrivilegeEscalation") is False and not own.get("privileged"),
                "has capabilities": own.get("capabilities", {}).get("drop") == ["ALL"]
                and set(own["capabilities"].get("add", [])) <= {"NET_BIND_SERVICE"},
                "unmasked /proc": own.get("procMount", "Default") == "Default",
                "host port": not any("hostPort" in port for port in container.get("ports", [])),
            }
            wrong += [f"{name}: {problem}" for problem, holds in held.items() if not holds]
            if "image" in container and not (
                own.get("readOnlyRootFilesystem") and "requests" in container["resources"]
            ):
                wrong.append(f"{name}: root that can be written, or no requests")
        problems += [f"{where}: {problem}" for problem in wrong]
    for version in of_kind(documents, "PipelineVersion"):  # KFP adds the rest
        kubernetes = version["spec"].get("platformSpec", {}).get("platforms", {}).get("kubernetes", {})
        asked = kubernetes.get("deploymentSpec", {}).get("executors", {})
        for label in version["spec"]["pipelineSpec"]["deploymentSpec"]["executors"]:
            if not asked.get(label, {}).get("securityContext", {}).get("runAsNonRoot"):
                problems.append(f"{name_of(version)} {label}: may be root")
    for space in of_kind(documents, "Namespace"):
        labels = space["metadata"]["labels"]
        if {labels.get(f"pod-security.kubernetes.io/{mode}") for mode in ("enforce", "audit", "warn")} != {
            "restricted"
        }:
            problems.append(f"{name_of(space)}: not restricted")
    return problems


# images, secrets and rights


def foreign_images(documents: Documents, known: set[str]) -> list[str]:
    problems = []
    for document in documents:
        found = {part["image"] for _, part in walk(document) if isinstance(part.get("image"), str)}
        if document["kind"] == "ConfigMap" and document["metadata"]["name"] == "medmark-images":
            found |= set(yaml.safe_load(document["data"]["digests.yaml"]).values())
        stated = {part["value"] for _, part in walk(document) if part.get("name") == RUNS_IN and "value" in part}
        problems += [
            f"{name_of(document)}: {image} is not in images/digests.yaml" for image in (found | stated) - known
        ]
    return problems


def open_secrets(documents: Documents) -> list[str]:
    """Values in place of references, and keys where what questions suspects could mount them."""
    problems = []
    for document in documents:
        if document["kind"] == "Secret" and document.keys() & {"data", "stringData"}:
            problems.append(f"{name_of(document)}: has content")
        for _, part in walk(document):
            secret = re.search(r"(?i)(secret|token|password|passphrase|access_key)", str(part.get("name", "")))
            path = str(part.get("name", "")).endswith("_PATH")  # where a token lies
            if "value" in part and secret and part["name"].isupper() and not path:
                problems.append(f"{name_of(document)}: {part['name']} is a value")
        names = {name for name, _, _ in named_secrets(document)}
        private = names & {"medmark-signing", "medmark-run", "medmark-s3", "medmark-s3-runs"}
        if (
            space_of(document) in ("medmark-audit", "medmark-events")
            and document["kind"] != "ExternalSecret"
            and private
        ):
            problems.append(f"{name_of(document)}: {sorted(private)} in {space_of(document)}")
        if document["kind"] == "ExternalSecret" and space_of(document) != "medmark-signing":
            if document["metadata"]["name"] in ("medmark-signing", "medmark-run", "medmark-s3", "medmark-s3-runs"):
                problems.append(f"{name_of(document)}: in {space_of(document)}")
        given = document.get("spec", {}).get("pipelineSpec", {}).get("root", {}).get("inputDefinitions", {})
        if "suspects" in given.get("parameters", {}) and space_of(document) != "medmark-audit":
            problems.append(f"{name_of(document)}: questions suspects in {space_of(document)}")
    return problems


def too_much(documents: Documents) -> list[str]:
    """Rights that nothing here needs."""
    problems = []
    for document in of_kind(documents, "Role", "ClusterRole", "ClusterRoleBinding"):
        if document["kind"] != "Role":
            problems.append(f"{name_of(document)}: for the whole cluster")
            continue
        for rule in document["rules"]:
            stars = "*" in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            secrets = "secrets" in rule["resources"] and (rule["verbs"] != ["get"] or not rule.get("resourceNames"))
            starts = {"pods", "jobs", "deployments"} & set(rule["resources"]) and {"create", "update", "patch"} & set(
                rule["verbs"]
            )
            exec_ = any("/exec" in resource or "escalate" in rule["verbs"] for resource in rule["resources"])
            if stars or secrets or starts or exec_:
                problems.append(f"{name_of(document)}: may {rule['verbs']} {rule['resources']}")
    for workflow, template in templates(documents):
        spec = workflow["spec"]
        if spec.get("automountServiceAccountToken") is not False or not spec.get("executor", {}).get(
            "serviceAccountName"
        ):
            problems.append(f"{name_of(workflow)} {template['name']}: has the token of an account")
    for document in of_kind(documents, "Deployment"):
        if document["spec"]["template"]["spec"].get("automountServiceAccountToken") is not False:
            problems.append(f"{name_of(document)}: has the token of an account")
    return problems


REPORTS = "create patch argoproj.io/workflowtaskresults"
TIDIES = ("list watch argoproj.io/workflowartifactgctasks", "patch argoproj.io/workflowartifactgctasks/status")
RUNS = ("get /configmaps kfp-launcher", "get /secrets medmark-s3-runs", "get list /pods", REPORTS)
SUBMITS = (
    "create get list pipelines.kubeflow.org/experiments",
    "create get list terminate pipelines.kubeflow.org/runs",
)
# what accounts may do, by account and the namespace in which they may; what is not here, none may
RIGHTS = {
    ("medmark-executor", "medmark-signing"): {REPORTS, *TIDIES},
    ("medmark-audit-executor", "medmark-audit"): {REPORTS},
    ("medmark-sensor", "medmark-signing"): {"create argoproj.io/workflows"},
    ("medmark-runs", "medmark-signing"): {*RUNS},
    ("medmark-reconcile", "medmark-signing"): {*RUNS, *SUBMITS},
}


def in_words(rules: list[dict]) -> set[str]:
    """Rules of Kubernetes: verbs, group and resource, and names if it counts for these only."""
    return {
        " ".join([*sorted(rule["verbs"]), f"{group}/{resource}", *rule.get("resourceNames", [])])
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def rights_of(overlay: str, documents: Documents) -> dict[tuple[str, str], set[str]]:
    """``RIGHTS`` of the accounts that an overlay has."""
    accounts = {one["metadata"]["name"] for one in of_kind(documents, "ServiceAccount")}
    return {
        (name, "kubeflow" if overlay == "kind" else space): given
        for (name, space), given in RIGHTS.items()
        if name in accounts
    }


def other_rights(overlay: str, documents: Documents) -> list[str]:
    """Where the roles that are bound give another set of rights than the table above."""
    given: dict[tuple[str, str], set[str]] = {}
    for binding in of_kind(documents, "RoleBinding"):
        for subject in binding["subjects"]:
            role = find(documents, "Role", binding["roleRef"]["name"])
            given.setdefault((subject["name"], space_of(binding)), set()).update(in_words(role["rules"]))
    wanted = rights_of(overlay, documents)
    return [
        f"{name} in {space}: {sorted(given.get((name, space), set()) ^ wanted.get((name, space), set()))}"
        for name, space in sorted(given.keys() | wanted.keys())
        if given.get((name, space)) != wanted.get((name, space))
    ]


def stray_tokens(documents: Documents) -> list[str]:
    """Steps beside a sweep's that get a token for KFP, sweeps without one, and what KFP's pods run under that lacks a right."""
    problems = []
    accounts = {"medmark-runs": {"medmark-runs"}} if list(of_kind(documents, "PipelineVersion")) else {}
    for given in of_kind(documents, "PodDefault"):
        accounts["medmark-reconcile"] = {
            "medmark-reconcile",
            "medmark-runs",
        }  # of submitting, and of driver and launcher
        chosen = given["spec"]["selector"]["matchLabels"].items()
        for version in of_kind(documents, "PipelineVersion"):
            asked = version["spec"]["platformSpec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
            for label, executor in asked.items():
                has = chosen <= executor.get("podMetadata", {}).get("labels", {}).items()
                if has != (version["spec"]["pipelineName"] == "reconcile"):
                    problems.append(f"{name_of(version)} {label}: {'has a token' if has else 'has no token'} for KFP")
        for workflow, template in templates(documents):
            if chosen <= (workflow["spec"]["podMetadata"]["labels"] | template["metadata"]["labels"]).items():
                problems.append(f"{name_of(workflow)} {template['name']}: has a token for KFP")
    for name, wanted in accounts.items():
        if find(documents, "ServiceAccount", name).get("automountServiceAccountToken") is False:
            problems.append(f"ServiceAccount {name}: driver and launcher have no token")
        roles = {
            binding["roleRef"]["name"]
            for binding in of_kind(documents, "RoleBinding")
            if any(subject["name"] == name for subject in binding["subjects"])
        }
        if roles != wanted:
            problems.append(f"ServiceAccount {name}: has the roles {sorted(roles)}")
    return problems


def not_tidy(documents: Documents) -> list[str]:
    """Workflows that stay for ever, sweeps that run side by side or leave no log, and steps that are not tried again as they should."""
    problems = []
    for workflow in of_kind(documents, "WorkflowTemplate"):
        spec = workflow["spec"]
        if not all(spec.get("ttlStrategy", {}).get(f"secondsAfter{end}") for end in ("Success", "Failure")):
            problems.append(f"{name_of(workflow)}: is never removed")
        if not spec.get("activeDeadlineSeconds"):
            problems.append(f"{name_of(workflow)}: may run for ever")
        if "reconcile" in spec["entrypoint"] and not spec.get("synchronization", {}).get("mutexes"):
            problems.append(f"{name_of(workflow)}: may run twice at once")
        if "reconcile" in spec["entrypoint"] and spec.get("podGC"):
            problems.append(f"{name_of(workflow)}: its log is gone before the workflow")
        for template in spec["templates"]:
            # KFP 2.17 has a policy of its own for all workflows, OnError, which leaves out steps that fail
            if "retryPolicy" not in template.get("retryStrategy", {"retryPolicy": "none"}):
                problems.append(f"{name_of(workflow)} {template['name']}: does not say what is tried again")
    for cron in of_kind(documents, "CronWorkflow"):
        if cron["spec"].get("concurrencyPolicy") != "Forbid":
            problems.append(f"{name_of(cron)}: may run twice at once")
    for sensor in of_kind(documents, "Sensor"):
        for trigger in sensor["spec"]["triggers"]:
            if trigger.get("atLeastOnce") is not True or not trigger.get("retryStrategy"):
                problems.append(f"{name_of(sensor)}: may lose an event")
    return problems


# commands


def commands(documents: Documents) -> Iterator[tuple[str, list[str], dict]]:
    """Where, words of the command, and the container, of each medmark command in a workflow."""
    for workflow, template in templates(documents):
        container = template["container"]
        words = [*container["command"], *container.get("args", [])]
        if words[0] == "sh":
            script = re.sub(r"\$\{\w+:\+([^}]*)\}", r"\1", words[-1].replace(" $OPTIONS ", " ")).splitlines()
            words = next(shlex.split(line.removeprefix("exec ")) for line in script if "medmark " in line)
        if words[0] == "medmark":
            yield f"{name_of(workflow)} {template['name']}", words, container


def wrong_commands(documents: Documents) -> list[str]:
    """Commands, options and variables that medmark does not have."""
    sources = [path for folder in ("components", "pipelines") for path in (ROOT / folder).rglob("*.py")]
    code = "\n".join(path.read_text() for path in sources)
    known = set(re.findall(r"\b(?:MEDMARK|KFP)_[A-Z0-9_]+\b", code)) | {
        f"MEDMARK_S3_{who}{key}"
        for who in ("", "EVIDENCE_")
        for key in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY", "REGION")
    }
    known |= {f"MLFLOW_TRACKING_{key}" for key in ("URI", "USERNAME", "PASSWORD", "TOKEN")}
    problems = []
    for where, words, container in commands(documents):
        root = typer.main.get_command(app)
        command, context, arguments = root, click.Context(root), words[1:]
        try:
            while hasattr(command, "commands"):
                name, *arguments = arguments
                command = command.commands[name]
            command.make_context(name, list(arguments), parent=context)
        except (CLICK_ERROR, KeyError, ValueError) as error:
            problems.append(f"{where}: {error}")
        text = " ".join([*container["command"], *container["args"]])
        for variable in container.get("env", []):
            name, source = variable["name"], variable.get("valueFrom", {})
            used = re.search(rf"\$[({{]?{name}\b", text)
            if not used and name not in known:
                problems.append(f"{where}: medmark reads no variable {name}")
            key = source.get("secretKeyRef", {}).get("key")
            if key and not name.endswith(f"_{key.upper()}"):
                problems.append(f"{where}: {name} from {key}")
        named = set(re.findall(r"\$[({]?([A-Z][A-Z_]*)", text)) - {"KFP_TOKEN"}
        missing = named - {variable["name"] for variable in container.get("env", [])}
        problems += [f"{where}: no variable {name}" for name in missing]
    return problems


# network


def selected(selector: dict) -> str:
    labels = [f"{key.rpartition('/')[2]} {value}" for key, value in selector.get("matchLabels", {}).items()]
    for expression in selector.get("matchExpressions", []):
        words = {"In": "in", "NotIn": "not in"}[expression["operator"]]
        labels.append(f"{expression['key'].rpartition('/')[2]} {words} {', '.join(expression['values'])}")
    return "; ".join(labels) or "all"


def peer(one: dict) -> str:
    if "ipBlock" in one:
        return one["ipBlock"]["cidr"]
    where = f" in {selected(one['namespaceSelector'])}" if "namespaceSelector" in one else ""
    return f"{selected(one.get('podSelector', {}))}{where}"


def edges(documents: Documents) -> set[tuple[str, ...]]:
    """Policy, pods, what they may do, and ports: a row of the tables in docs/deploy.md."""
    rows = set()
    for policy in of_kind(documents, "NetworkPolicy"):
        spec, name = policy["spec"], f"`{policy['metadata']['name']}`"
        pods_ = selected(spec["podSelector"])
        rules = [("to", rule) for rule in spec.get("egress", [])] + [("from", rule) for rule in spec.get("ingress", [])]
        if not rules:
            rows.add(
                (
                    name,
                    pods_,
                    f"nothing {' and '.join({'Ingress': 'in', 'Egress': 'out'}[t] for t in spec['policyTypes'])}",
                    "",
                )
            )
        for direction, rule in rules:
            key = "to" if direction == "to" else "from"
            ports = ", ".join(f"{port['protocol']} {port['port']}" for port in rule.get("ports", [])) or "all"
            who = " or ".join(peer(one) for one in rule.get(key, [])) or "anything"
            rows.add((name, pods_, f"{direction} {who}", ports))
    return rows


def tables() -> dict[str, set[tuple[str, ...]]]:
    """The tables in docs/deploy.md, by the name in the comment before each."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    found = re.findall(r"^<!-- network: ([\w-]+) -->\n\n((?:\|.*\n)+)", text, re.M)
    return {
        name: {tuple(cell.strip() for cell in row.strip("|").split("|"))[:4] for row in table.splitlines()[2:]}
        for name, table in found
    }


def as_the_table_says(documents: Documents, *names: str) -> list[str]:
    stated = set().union(*(tables()[name] for name in names))
    real = edges(documents)
    return [f"not in the table: {row}" for row in sorted(real - stated)] + [
        f"only in the table: {row}" for row in sorted(stated - real)
    ]


def matches(selector: dict, labels: dict[str, str]) -> bool:
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    return all(
        (labels.get(one["key"]) in one["values"]) == (one["operator"] == "In")
        for one in selector.get("matchExpressions", [])
    )


# pods and services that others bring, as KFP 2.17.0, Argo Events 1.9.11 and Kubernetes make them
KFP_SERVICES = {"ml-pipeline": {8887, 8888}, "ml-pipeline-ui": {80}, "metadata-grpc-service": {8080}}
OTHERS = [
    ("kube-system", {"k8s-app": "kube-dns"}, {53}),
    ("kubeflow", {"app": "ml-pipeline"}, {8887, 8888}),
    ("kubeflow", {"component": "metadata-grpc-server"}, {8080}),
    ("kubeflow", {"app": "seaweedfs"}, {8333}),  # its service's port 9000 comes to this one
]
BUS = {4222, 6222}


def listening(documents: Documents) -> Iterator[tuple[str, dict[str, str], set[int]]]:
    """Namespace, labels and ports of every pod that a policy may mean."""
    yield from OTHERS
    for document in documents:
        space, kind, spec = space_of(document), document["kind"], document.get("spec", {})
        if kind == "Deployment":
            template = spec["template"]
            ports = {port["containerPort"] for one in template["spec"]["containers"] for port in one.get("ports", [])}
            yield space, template["metadata"]["labels"], ports
        elif kind in ("EventSource", "Sensor"):
            ports = {port["targetPort"] for port in spec.get("service", {}).get("ports", [])}
            yield space, spec["template"]["metadata"]["labels"], ports
        elif kind == "EventBus":
            yield space, {"eventbus-name": document["metadata"]["name"]}, BUS
        elif kind == "ConfigMap" and document["metadata"]["name"] == "medmark-pods":
            yield space, yaml.safe_load(document["data"]["pods.yaml"])["steps"]["labels"], set()
    for workflow, template in templates(documents):
        labels = workflow["spec"]["podMetadata"]["labels"] | template["metadata"]["labels"]
        yield space_of(workflow), labels, set()


def unreachable(documents: Documents) -> list[str]:
    """Selectors of policies that mean no pod, ports at which no pod listens, and addresses of services that are not there."""
    there, problems = list(listening(documents)), []
    for policy in of_kind(documents, "NetworkPolicy"):
        spec, name = policy["spec"], name_of(policy)
        own = [one for one in there if one[0] == space_of(policy) and matches(spec["podSelector"], one[1])]
        problems += [] if own else [f"{name}: means no pod"]
        for direction, key in (("egress", "to"), ("ingress", "from")):
            for rule in spec.get(direction, []):
                met = []
                for one in rule.get(key, []):
                    where = one.get("namespaceSelector", {}).get("matchLabels", {})
                    space = where.get("kubernetes.io/metadata.name", space_of(policy))
                    if "ipBlock" in one or (where and "kubernetes.io/metadata.name" not in where):
                        continue  # outside of what is known here
                    found = [pod for pod in there if pod[0] == space and matches(one.get("podSelector", {}), pod[1])]
                    problems += [] if found else [f"{name}: {peer(one)}: no such pod"]
                    met += found
                answering = own if direction == "ingress" else met
                ports = {port for _, _, ports in answering for port in ports}
                asked = {port["port"] for port in rule.get("ports", [])}
                problems += [f"{name}: nothing listens at {port}" for port in (asked - ports if answering else ())]
    services = {("kubeflow", name): ports for name, ports in KFP_SERVICES.items()} | {
        (space_of(one), one["metadata"]["name"]): {port["port"] for port in one["spec"]["ports"]}
        for one in of_kind(documents, "Service")
    }
    for document in documents:
        text = json.dumps(document)
        for name, space, port in re.findall(r"([\w-]+)\.([\w-]+)\.svc\.cluster\.local:(\d+)", text):
            if int(port) not in services.get((space, name), ()):
                problems.append(f"{name_of(document)}: no service {name} in {space} at {port}")
    return problems


def policies_of(documents: Documents, space: str, labels: dict[str, str]) -> set[str]:
    """Names of the policies that let a pod out or in, or nothing if none denies the rest."""
    own = [
        policy
        for policy in of_kind(documents, "NetworkPolicy")
        if space_of(policy) == space and matches(policy["spec"]["podSelector"], labels)
    ]
    assert any(
        set(one["spec"]["policyTypes"]) == {"Ingress", "Egress"} and "egress" not in one["spec"] for one in own
    ), labels
    return {one["metadata"]["name"] for one in own if one["spec"].get("egress") or one["spec"].get("ingress")}


COMPONENT, PART = "app.kubernetes.io/component", {"app.kubernetes.io/part-of": "medmark"}
NETWORKS = {
    "argo-only": ["base"],
    "kubeflow-multiuser": ["base", "kfp"],
    "gpu": ["base", "kfp"],
    "examples": ["base", "bucket-notification"],
    "kind": ["kind"],
}
ALL = [*OVERLAYS, "examples"]


@pytest.fixture(scope="module")
def known() -> set[str]:
    return set(read_images(DIGESTS, unpinned=True).values())


@pytest.fixture(scope="module")
def checks(secrets, known) -> dict[str, Callable[[str, Documents], list[str]]]:
    plain = (invalid, unrestricted, open_secrets, too_much, stray_tokens, not_tidy, wrong_commands, unreachable)
    return {check.__name__: lambda _, documents, check=check: check(documents) for check in plain} | {
        "dangling": lambda overlay, documents: dangling(documents, secrets[overlay]),
        "foreign_images": lambda _, documents: foreign_images(documents, known),
        "other_rights": other_rights,
        "as_the_table_says": lambda overlay, documents: as_the_table_says(documents, *NETWORKS[overlay]),
    }


CHECKS = [
    *(
        "invalid",
        "dangling",
        "unrestricted",
        "foreign_images",
        "open_secrets",
        "too_much",
        "other_rights",
        "stray_tokens",
        "not_tidy",
        "wrong_commands",
        "unreachable",
    ),
    "as_the_table_says",
]


def test_every_overlay_is_known():
    assert set(OVERLAYS) == {"argo-only", "gpu", "kind", "kubeflow-multiuser"} == NETWORKS.keys() - {"examples"}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("overlay", ALL)
def test_overlay(hydrated, checks, overlay, check):
    assert checks[check](overlay, hydrated[overlay]) == []


def container(documents: Documents, workflow: str, template: str) -> dict:
    spec = find(documents, "WorkflowTemplate", workflow)["spec"]
    return next(one for one in spec["templates"] if one["name"] == template)["container"]


def spec(documents: Documents, kind: str, name: str) -> dict:
    return find(documents, kind, name)["spec"]


def version(documents: Documents) -> dict:
    return next(of_kind(documents, "PipelineVersion"))["spec"]


def executors(documents: Documents, pipeline: str) -> dict[str, dict]:
    """What KFP's steps of a pipeline ask of Kubernetes, by their label."""
    found = next(one for one in of_kind(documents, "PipelineVersion") if one["spec"]["pipelineName"] == pipeline)
    return found["spec"]["platformSpec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def labels_of(documents: Documents, pipeline: str) -> dict[str, str]:
    """Labels of the pod of a pipeline's first step."""
    return next(iter(executors(documents, pipeline).values()))["podMetadata"]["labels"]


# check, overlay, what is done to the documents d, and what the check must say
FAULTS = [
    ("invalid", "kind", lambda d: spec(d, "Deployment", "medmark-mlflow").update(replica=2), "replica"),
    ("invalid", "argo-only", lambda d: find(d, "ResourceQuota", "medmark-audit").update(kind="Quota"), "Quota"),
    (
        "invalid",
        "argo-only",
        lambda d: spec(d, "CronWorkflow", "medmark-reconcile").update(schedule="* * * * *"),
        "schedule",
    ),
    (
        "invalid",
        "argo-only",
        lambda d: container(d, "medmark-audit", "question").update(imagePull="Always"),
        "imagePull",
    ),
    (
        "invalid",
        "argo-only",
        lambda d: spec(d, "EventSource", "medmark-drops")["webhook"]["drop"].update(port=12000),
        "12000",
    ),
    ("invalid", "argo-only", lambda d: spec(d, "Sensor", "medmark-drops")["triggers"][0].update(retry={}), "retry"),
    (
        "invalid",
        "argo-only",
        lambda d: spec(d, "Sensor", "medmark-drops")["triggers"][0]["template"]["k8s"]["source"]["resource"][
            "spec"
        ].update(x=1),
        ".spec.x",
    ),
    ("invalid", "argo-only", lambda d: spec(d, "EventBus", "default")["jetstream"].pop("version"), "version"),
    (
        "invalid",
        "argo-only",
        lambda d: spec(d, "EventBus", "default")["jetstream"].update(version="2.10.10"),
        "2.10.10",
    ),
    ("invalid", "gpu", lambda d: version(d).update(pipelineName="A pipeline"), "A pipeline"),
    ("invalid", "gpu", lambda d: version(d)["pipelineSpec"].update(steps=[]), "steps"),
    ("invalid", "gpu", lambda d: spec(d, "LocalQueue", "medmark").update(queue="x"), "queue"),
    (
        "invalid",
        "kind",
        lambda d: find(d, "ConfigMap", "kfp-launcher")["data"].update(providers="s3: {default: {endpoint: x}}"),
        "credentials",
    ),
    (
        "invalid",
        "kind",
        lambda d: find(d, "ConfigMap", "medmark-audit-artifacts")["data"].update(audits="s3: {buckets: x}"),
        "buckets",
    ),
    (
        "invalid",
        "argo-only",
        lambda d: spec(d, "WorkflowTemplate", "medmark-audit").update(
            podSpecPatch="containers: [{name: wait, root: 1}]"
        ),
        "root",
    ),
    ("invalid", "examples", lambda d: spec(d, "ExternalSecret", "medmark-run").pop("secretStoreRef"), "secretStoreRef"),
    ("invalid", "gpu", lambda d: spec(d, "PodDefault", "access-ml-pipeline").update(label="x"), "label"),
    (
        "invalid",
        "gpu",
        lambda d: spec(d, "PodDefault", "access-ml-pipeline")["volumes"][0]["projected"].update(audience="x"),
        "audience",
    ),
    (
        "dangling",
        "argo-only",
        lambda d: container(d, "medmark-mark-release", "publish")["env"].append(
            {"name": "X", "valueFrom": {"secretKeyRef": {"name": "medmark-s3", "key": "gone"}}}
        ),
        "no secret medmark-s3 with gone",
    ),
    (
        "dangling",
        "kind",
        lambda d: spec(d, "Deployment", "medmark-seaweedfs")["template"]["spec"]["volumes"][2]["secret"].update(
            secretName="x"
        ),
        "no secret x",
    ),
    (
        "dangling",
        "argo-only",
        lambda d: find(d, "ConfigMap", "medmark-places")["data"].pop("drops"),
        "no key drops",
    ),
    (
        "dangling",
        "kubeflow-multiuser",
        lambda d: d.remove(find(d, "ConfigMap", "medmark-pods")),
        "ConfigMap medmark-pods",
    ),
    (
        "dangling",
        "argo-only",
        lambda d: d.remove(find(d, "ServiceAccount", "medmark-audit")),
        "ServiceAccount medmark-audit",
    ),
    (
        "dangling",
        "argo-only",
        lambda d: d.remove(find(d, "ServiceAccount", "medmark-sensor")),
        "no account medmark-sensor",
    ),
    ("dangling", "argo-only", lambda d: d.remove(find(d, "Role", "medmark-start")), "no Role medmark-start"),
    (
        "dangling",
        "argo-only",
        lambda d: d.remove(find(d, "ValidatingAdmissionPolicy", "medmark-sensor")),
        "no ValidatingAdmissionPolicy medmark-sensor",
    ),
    ("dangling", "argo-only", lambda d: d.remove(find(d, "WorkflowTemplate", "medmark-reconcile")), "WorkflowTemplate"),
    ("dangling", "argo-only", lambda d: d.remove(find(d, "EventSource", "medmark-drops")), "no event drop"),
    (
        "dangling",
        "examples",
        lambda d: spec(d, "Sensor", "medmark-drops")["triggers"][0]["template"].update(conditions="drop || gone"),
        "no dependency gone",
    ),
    (
        "dangling",
        "argo-only",
        lambda d: spec(d, "WorkflowTemplate", "medmark-mark-release")["templates"][0]["steps"][1][0].update(
            template="x"
        ),
        "no template x",
    ),
    (
        "dangling",
        "argo-only",
        lambda d: spec(d, "WorkflowTemplate", "medmark-mark-release")["templates"][1]["outputs"]["artifacts"].pop(),
        "nothing before gives",
    ),
    (
        "dangling",
        "argo-only",
        lambda d: spec(d, "WorkflowTemplate", "medmark-audit")["arguments"]["parameters"].pop(),
        "no parameter suspect",
    ),
    (
        "dangling",
        "kubeflow-multiuser",
        lambda d: spec(d, "WorkflowTemplate", "medmark-audit-segmenter")["arguments"]["parameters"].pop(),
        "no parameter suspect",
    ),
    ("dangling", "argo-only", lambda d: spec(d, "WorkflowTemplate", "medmark-audit")["volumes"].pop(), "no volume tmp"),
    (
        "dangling",
        "kind",
        lambda d: spec(d, "WorkflowTemplate", "medmark-audit-segmenter").update(entrypoint="audit"),
        "no entrypoint audit",
    ),
    (
        "dangling",
        "kind",
        lambda d: spec(d, "Service", "medmark-mlflow").update(selector={"app": "x"}),
        "selects no pod",
    ),
    (
        "dangling",
        "kind",
        lambda d: d.remove(find(d, "PersistentVolumeClaim", "medmark-mlflow")),
        "PersistentVolumeClaim",
    ),
    ("dangling", "gpu", lambda d: version(d).update(pipelineName="gone"), "no Pipeline gone"),
    ("dangling", "gpu", lambda d: d.remove(find(d, "LocalQueue", "medmark")), "no LocalQueue medmark"),
    ("dangling", "gpu", lambda d: d.remove(find(d, "ClusterQueue", "medmark")), "no ClusterQueue medmark"),
    ("dangling", "gpu", lambda d: d.remove(find(d, "ResourceFlavor", "medmark-gpu")), "no medmark-gpu"),
    (
        "dangling",
        "gpu",
        lambda d: find(d, "Role", "medmark-runs")["rules"][1].update(resourceNames=["mlpipeline-minio-artifact"]),
        "nothing of the name",
    ),
    (
        "unrestricted",
        "argo-only",
        lambda d: spec(d, "WorkflowTemplate", "medmark-audit").pop("podSpecPatch"),
        "wait: may gain",
    ),
    (
        "unrestricted",
        "argo-only",
        lambda d: spec(d, "WorkflowTemplate", "medmark-audit").pop("securityContext"),
        "may be root",
    ),
    (
        "unrestricted",
        "argo-only",
        lambda d: container(d, "medmark-audit", "question")["securityContext"].update(readOnlyRootFilesystem=False),
        "can be written",
    ),
    (
        "unrestricted",
        "kubeflow-multiuser",
        lambda d: container(d, "medmark-audit-segmenter", "question")["securityContext"].update(
            readOnlyRootFilesystem=False
        ),
        "can be written",
    ),
    (
        "unrestricted",
        "kind",
        lambda d: spec(d, "Deployment", "medmark-seaweedfs")["template"]["spec"]["volumes"].append(
            {"name": "host", "hostPath": {"path": "/"}}
        ),
        "volume host",
    ),
    (
        "unrestricted",
        "argo-only",
        lambda d: spec(d, "EventBus", "default")["jetstream"].pop("metricsContainerTemplate"),
        "has capabilities",
    ),
    (
        "unrestricted",
        "argo-only",
        lambda d: spec(d, "Sensor", "medmark-drops")["template"]["securityContext"].pop("seccompProfile"),
        "no seccomp",
    ),
    (
        "unrestricted",
        "gpu",
        lambda d: version(d).pop("platformSpec"),
        "may be root",
    ),
    (
        "unrestricted",
        "argo-only",
        lambda d: find(d, "Namespace", "medmark-audit")["metadata"]["labels"].update(
            {"pod-security.kubernetes.io/enforce": "baseline"}
        ),
        "not restricted",
    ),
    (
        "foreign_images",
        "kind",
        lambda d: spec(d, "Deployment", "medmark-mlflow")["template"]["spec"]["containers"][0].update(
            image="mlflow:latest"
        ),
        "mlflow:latest",
    ),
    (
        "foreign_images",
        "gpu",
        lambda d: find(d, "ConfigMap", "medmark-images")["data"].update({"digests.yaml": f"{IMAGE}: other"}),
        "other",
    ),
    (
        "foreign_images",
        "gpu",
        lambda d: next(iter(version(d)["pipelineSpec"]["deploymentSpec"]["executors"].values()))["container"].update(
            image="old"
        ),
        "old",
    ),
    (
        "open_secrets",
        "argo-only",
        lambda d: find(d, "Secret", "medmark-executor.service-account-token").update(stringData={"token": "x"}),
        "has content",
    ),
    (
        "open_secrets",
        "argo-only",
        lambda d: container(d, "medmark-audit", "question")["env"].append(
            {"name": "MEDMARK_SUSPECT_TOKEN", "value": "x"}
        ),
        "is a value",
    ),
    (
        "open_secrets",
        "kubeflow-multiuser",
        lambda d: container(d, "medmark-audit-segmenter", "question")["env"].append(
            {"name": "MEDMARK_SUSPECT_TOKEN", "value": "x"}
        ),
        "is a value",
    ),
    (
        "open_secrets",
        "argo-only",
        lambda d: spec(d, "WorkflowTemplate", "medmark-audit")["volumes"].append(
            {"name": "key", "secret": {"secretName": "medmark-signing", "items": [{"key": "medmark.key", "path": "k"}]}}
        ),
        "medmark-signing",
    ),
    (
        "open_secrets",
        "kubeflow-multiuser",
        lambda d: spec(d, "WorkflowTemplate", "medmark-audit-segmenter")["volumes"].append(
            {"name": "key", "secret": {"secretName": "medmark-signing", "items": [{"key": "medmark.key", "path": "k"}]}}
        ),
        "medmark-signing",
    ),
    (
        "open_secrets",
        "examples",
        lambda d: find(d, "ExternalSecret", "medmark-run")["metadata"].update(namespace="medmark-audit"),
        "in medmark-audit",
    ),
    (
        "open_secrets",
        "gpu",
        lambda d: version(d)["pipelineSpec"]["root"].update(inputDefinitions={"parameters": {"suspects": {}}}),
        "questions suspects",
    ),
    ("too_much", "argo-only", lambda d: find(d, "Role", "medmark-start")["rules"][0].update(verbs=["*"]), "may ['*']"),
    ("too_much", "gpu", lambda d: find(d, "Role", "medmark-runs")["rules"][1].pop("resourceNames"), "secrets"),
    ("too_much", "gpu", lambda d: find(d, "Role", "medmark-runs")["rules"][2]["verbs"].append("create"), "pods"),
    ("too_much", "argo-only", lambda d: find(d, "Role", "medmark-start").update(kind="ClusterRole"), "whole cluster"),
    (
        "too_much",
        "argo-only",
        lambda d: spec(d, "WorkflowTemplate", "medmark-audit").pop("automountServiceAccountToken"),
        "token of an account",
    ),
    (
        "too_much",
        "kubeflow-multiuser",
        lambda d: spec(d, "WorkflowTemplate", "medmark-audit-segmenter").pop("automountServiceAccountToken"),
        "token of an account",
    ),
    (
        "other_rights",
        "gpu",
        lambda d: find(d, "Role", "medmark-runs")["rules"][1]["resourceNames"].append("medmark-signing"),
        "medmark-runs in medmark-signing: ['get /secrets medmark-s3-runs'",
    ),
    (
        "other_rights",
        "kind",
        lambda d: find(d, "Role", "medmark-executor")["rules"].pop(0),
        f"medmark-executor in kubeflow: ['{REPORTS}']",
    ),
    (
        "other_rights",
        "argo-only",
        lambda d: find(d, "RoleBinding", "medmark-start")["subjects"].append({"name": "medmark-webhook"}),
        "medmark-webhook in medmark-signing",
    ),
    ("stray_tokens", "gpu", lambda d: labels_of(d, "reconcile").pop("access-ml-pipeline"), "has no token"),
    (
        "stray_tokens",
        "kubeflow-multiuser",
        lambda d: labels_of(d, "update-release").update({"access-ml-pipeline": "true"}),
        "has a token for KFP",
    ),
    (
        "stray_tokens",
        "gpu",
        lambda d: spec(d, "WorkflowTemplate", "medmark-audit")["podMetadata"]["labels"].update(
            {"access-ml-pipeline": "true"}
        ),
        "question: has a token for KFP",
    ),
    (
        "stray_tokens",
        "gpu",
        lambda d: d.remove(find(d, "RoleBinding", "medmark-reconcile-runs")),
        "medmark-reconcile: has the roles ['medmark-reconcile']",
    ),
    (
        "stray_tokens",
        "gpu",
        lambda d: find(d, "RoleBinding", "medmark-reconcile")["subjects"].append({"name": "medmark-runs"}),
        "medmark-runs: has the roles ['medmark-reconcile', 'medmark-runs']",
    ),
    (
        "stray_tokens",
        "gpu",
        lambda d: find(d, "ServiceAccount", "medmark-reconcile").update(automountServiceAccountToken=False),
        "driver and launcher have no token",
    ),
    (
        "not_tidy",
        "argo-only",
        lambda d: spec(d, "WorkflowTemplate", "medmark-audit").pop("ttlStrategy"),
        "never removed",
    ),
    (
        "not_tidy",
        "kubeflow-multiuser",
        lambda d: spec(d, "WorkflowTemplate", "medmark-audit-segmenter").pop("ttlStrategy"),
        "never removed",
    ),
    (
        "not_tidy",
        "argo-only",
        lambda d: spec(d, "WorkflowTemplate", "medmark-reconcile").pop("synchronization"),
        "twice",
    ),
    ("not_tidy", "argo-only", lambda d: spec(d, "CronWorkflow", "medmark-reconcile").pop("concurrencyPolicy"), "twice"),
    ("not_tidy", "argo-only", lambda d: spec(d, "Sensor", "medmark-drops")["triggers"][0].pop("atLeastOnce"), "lose"),
    (
        "not_tidy",
        "argo-only",
        lambda d: spec(d, "WorkflowTemplate", "medmark-reconcile").update(podGC={"strategy": "OnPodSuccess"}),
        "its log is gone",
    ),
    (
        "not_tidy",
        "kind",
        lambda d: spec(d, "WorkflowTemplate", "medmark-phantom-drop")["templates"][0]["retryStrategy"].pop(
            "retryPolicy"
        ),
        "draw: does not say what is tried again",
    ),
    (
        "unreachable",
        "kind",
        lambda d: spec(d, "NetworkPolicy", "medmark-signing-kfp")["egress"][2]["ports"][0].update(port=9000),
        "nothing listens at 9000",
    ),
    (
        "unreachable",
        "gpu",
        lambda d: spec(d, "NetworkPolicy", "medmark-signing-kfp")["egress"][1]["to"][0]["podSelector"].update(
            matchLabels={"app": "metadata-grpc-server"}
        ),
        "no such pod",
    ),
    (
        "unreachable",
        "argo-only",
        lambda d: spec(d, "NetworkPolicy", "medmark-audit-suspects").update(
            podSelector={"matchLabels": {COMPONENT: "question"}}
        ),
        "medmark-audit-suspects: means no pod",
    ),
    (
        "unreachable",
        "argo-only",
        lambda d: find(d, "EventBus", "default")["metadata"].update(name="bus"),
        "medmark-events-bus: means no pod",
    ),
    (
        "unreachable",
        "argo-only",
        lambda d: spec(d, "EventSource", "medmark-drops")["service"]["ports"][0].update(targetPort=8080),
        "medmark-events-announcers: nothing listens at 12000",
    ),
    (
        "unreachable",
        "kubeflow-multiuser",
        lambda d: container(d, "medmark-reconcile", "reconcile")["env"].append(
            {"name": "KFP_ENDPOINT", "value": "http://ml-pipeline.kubeflow.svc.cluster.local:8889"}
        ),
        "no service ml-pipeline in kubeflow at 8889",
    ),
    (
        "unreachable",
        "kind",
        lambda d: d.remove(find(d, "Service", "medmark-seaweedfs")),
        "no service medmark-seaweedfs in kubeflow at 8333",
    ),
    (
        "wrong_commands",
        "argo-only",
        lambda d: container(d, "medmark-reconcile", "reconcile")["args"].append("--fast"),
        "--fast",
    ),
    (
        "wrong_commands",
        "argo-only",
        lambda d: container(d, "medmark-mark-release", "commit")["command"].append("x"),
        "x",
    ),
    (
        "wrong_commands",
        "argo-only",
        lambda d: container(d, "medmark-audit", "fetch")["env"].append({"name": "MEDMARK_S3_KEY", "value": "x"}),
        "reads no variable MEDMARK_S3_KEY",
    ),
    (
        "wrong_commands",
        "kubeflow-multiuser",
        lambda d: container(d, "medmark-audit-segmenter", "fetch")["env"].append(
            {"name": "MEDMARK_S3_KEY", "value": "x"}
        ),
        "reads no variable MEDMARK_S3_KEY",
    ),
    (
        "wrong_commands",
        "argo-only",
        lambda d: container(d, "medmark-audit", "fetch")["env"][0].update(name="MEDMARK_S3_REGION"),
        "MEDMARK_S3_REGION from endpoint",
    ),
    (
        "wrong_commands",
        "kubeflow-multiuser",
        lambda d: container(d, "medmark-reconcile", "reconcile")["env"].pop(0),
        "no variable DROPS",
    ),
    (
        "invalid",
        "gpu",
        lambda d: spec(d, "ClusterQueue", "medmark")["resourceGroups"][0].update(flavors=[]),
        "flavors",
    ),
    ("invalid", "gpu", lambda d: next(of_kind(d, "Pipeline"))["metadata"].update(name="A pipeline"), "A pipeline"),
    ("invalid", "gpu", lambda d: find(d, "ResourceFlavor", "medmark-gpu").update(nodes=1), "nodes"),
    (
        "invalid",
        "gpu",
        lambda d: version(d)["platformSpec"]["platforms"]["kubernetes"].update(pods={}),
        "pods",
    ),
    (
        "dangling",
        "argo-only",
        lambda d: find(d, "ConfigMap", "medmark-audit-artifacts")["data"].update(
            audits="s3: {accessKeySecret: {name: medmark-s3, key: access_key}}"
        ),
        "no secret medmark-s3 with access_key in medmark-audit",
    ),
    (
        "dangling",
        "argo-only",
        lambda d: find(d, "ConfigMap", "medmark-audit-artifacts").update(data={"runs": "s3: {}"}),
        "no repository audits",
    ),
    (
        "dangling",
        "argo-only",
        lambda d: spec(d, "EventSource", "medmark-drops")["webhook"]["drop"]["authSecret"].update(key="gone"),
        "no secret medmark-webhook with gone",
    ),
    (
        "dangling",
        "examples",
        lambda d: spec(d, "EventSource", "medmark-bucket")["minio"]["drop"]["secretKey"].update(name="gone"),
        "no secret gone",
    ),
    (
        "dangling",
        "gpu",
        lambda d: find(d, "ConfigMap", "kfp-launcher")["data"].update(
            providers="s3: {default: {secretRef: {secretName: gone, accessKeyKey: a, secretKeyKey: b}}}"
        ),
        "no secret gone with a",
    ),
    (
        "dangling",
        "gpu",
        lambda d: next(iter(executors(d, "audit-lineage").values()))["secretAsEnv"][0].update(
            secretName="gone", optional=False
        ),
        "no secret gone with endpoint",
    ),
    (
        "dangling",
        "argo-only",
        lambda d: find(d, "Secret", "medmark-executor.service-account-token")["metadata"]["annotations"].update(
            {"kubernetes.io/service-account.name": "gone"}
        ),
        "no ServiceAccount gone",
    ),
    (
        "dangling",
        "argo-only",
        lambda d: spec(d, "WorkflowTemplate", "medmark-audit")["executor"].update(serviceAccountName="gone"),
        "no ServiceAccount gone",
    ),
    (
        "dangling",
        "argo-only",
        lambda d: spec(d, "WorkflowTemplate", "medmark-mark-release")["templates"][0]["steps"][1][0]["arguments"][
            "artifacts"
        ].pop(),
        "step commit gives ['release']",
    ),
    (
        "unrestricted",
        "kind",
        lambda d: spec(d, "Deployment", "medmark-mlflow")["template"]["spec"].update(hostNetwork=True),
        "hostNetwork",
    ),
    (
        "unrestricted",
        "kind",
        lambda d: spec(d, "Deployment", "medmark-mlflow")["template"]["spec"]["securityContext"].update(
            sysctls=[{"name": "kernel.msgmax", "value": "1"}]
        ),
        "sysctls",
    ),
    (
        "unrestricted",
        "argo-only",
        lambda d: container(d, "medmark-audit", "question")["securityContext"].update(runAsUser=0),
        "question: container: may be root",
    ),
    (
        "unrestricted",
        "argo-only",
        lambda d: container(d, "medmark-audit", "question")["securityContext"]["capabilities"].update(add=["NET_RAW"]),
        "has capabilities",
    ),
    (
        "unrestricted",
        "argo-only",
        lambda d: container(d, "medmark-audit", "question")["securityContext"].update(privileged=True),
        "question: container: may gain privileges",
    ),
    (
        "unrestricted",
        "argo-only",
        lambda d: container(d, "medmark-audit", "question")["securityContext"].update(procMount="Unmasked"),
        "unmasked /proc",
    ),
    (
        "unrestricted",
        "kind",
        lambda d: spec(d, "Deployment", "medmark-mlflow")["template"]["spec"]["containers"][0]["ports"][0].update(
            hostPort=5000
        ),
        "host port",
    ),
    (
        "unrestricted",
        "argo-only",
        lambda d: container(d, "medmark-audit", "question")["resources"].pop("requests"),
        "no requests",
    ),
    (
        "foreign_images",
        "kind",
        lambda d: container(d, "medmark-audit", "fetch").setdefault("env", []).append({"name": RUNS_IN, "value": "x"}),
        "x is not in",
    ),
    (
        "too_much",
        "argo-only",
        lambda d: find(d, "Role", "medmark-start")["rules"][0].update(resources=["pods/exec"]),
        "pods/exec",
    ),
    (
        "too_much",
        "argo-only",
        lambda d: find(d, "RoleBinding", "medmark-start").update(kind="ClusterRoleBinding"),
        "whole cluster",
    ),
    (
        "too_much",
        "kind",
        lambda d: spec(d, "Deployment", "medmark-mlflow")["template"]["spec"].pop("automountServiceAccountToken"),
        "token of an account",
    ),
    (
        "not_tidy",
        "argo-only",
        lambda d: spec(d, "WorkflowTemplate", "medmark-audit").pop("activeDeadlineSeconds"),
        "for ever",
    ),
    (
        "not_tidy",
        "argo-only",
        lambda d: spec(d, "Sensor", "medmark-drops")["triggers"][0].pop("retryStrategy"),
        "lose",
    ),
    (
        "wrong_commands",
        "kubeflow-multiuser",
        lambda d: container(d, "medmark-reconcile", "reconcile").update(args=["exec medmark reconcile --fast"]),
        "--fast",
    ),
    (
        "as_the_table_says",
        "argo-only",
        lambda d: spec(d, "NetworkPolicy", "medmark-audit-suspects")["egress"][0].pop("ports"),
        "not in the table",
    ),
    (
        "as_the_table_says",
        "argo-only",
        lambda d: d.remove(find(d, "NetworkPolicy", "medmark-events-bus")),
        "only in the table",
    ),
    (
        "as_the_table_says",
        "kind",
        lambda d: spec(d, "NetworkPolicy", "medmark-audit-store").update(podSelector={}),
        "not in the table",
    ),
]


@pytest.mark.parametrize("check, overlay, plant, says", FAULTS, ids=[f"{f[0]}-{i}" for i, f in enumerate(FAULTS)])
def test_a_planted_fault_is_found(hydrated, checks, check, overlay, plant, says):
    documents = deepcopy(hydrated[overlay])
    plant(documents)
    if check == "invalid":  # it looks at each document by itself
        documents = [document for document in documents if document not in hydrated[overlay]]
    found = checks[check](overlay, documents)
    assert any(says in problem for problem in found), found
    assert {fault[0] for fault in FAULTS} == set(CHECKS)


AUDITS = ("medmark-audit", "medmark-audit-segmenter")


def not_apart(overlay: str, documents: Documents) -> list[str]:
    """Steps of audits that reach more than the suspect, or more than the store."""
    space = "kubeflow" if overlay == "kind" else "medmark-audit"
    problems = []
    for workflow in of_kind(documents, "WorkflowTemplate"):
        spec, name = workflow["spec"], workflow["metadata"]["name"]
        if not name.startswith("medmark-audit"):
            continue
        if space_of(workflow) != space or name not in AUDITS:
            problems.append(f"{name} in {space_of(workflow)}")
        argo = {
            "medmark-audit-dns",
            "medmark-audit-api-server",
        }  # Argo's own container beside it reports to the API server
        steps = {
            "fetch": {"medmark-audit-store"},
            "question": {"medmark-audit-suspects"},
            "keep": {"medmark-audit-store"},
        }
        for template in spec["templates"][1:]:
            labels = template.get("metadata", {}).get("labels", {}) | spec["podMetadata"]["labels"]
            reached = policies_of(documents, space, labels) - argo
            if reached != steps.pop(template["name"], None):
                problems.append(f"{name} {template['name']}: reaches {sorted(reached)}")
        problems += [f"{name}: no step {step}" for step in steps]
    return problems


@pytest.mark.parametrize("overlay", ALL)
def test_steps_that_question_suspects_reach_suspects_and_nothing_else(hydrated, overlay):
    assert not_apart(overlay, hydrated[overlay]) == []
    assert {name for name in AUDITS if find(hydrated[overlay], "WorkflowTemplate", name)} == set(AUDITS)


@pytest.mark.parametrize("overlay", ["argo-only", "kind"])
@pytest.mark.parametrize("audit", AUDITS)
@pytest.mark.parametrize("step", ["fetch", "question", "keep"])
def test_a_step_of_an_audit_that_reaches_something_else_is_found(hydrated, overlay, audit, step):
    documents = deepcopy(hydrated[overlay])
    templates_ = find(documents, "WorkflowTemplate", audit)["spec"]["templates"]
    (template,) = (one for one in templates_ if one["name"] == step)
    template["metadata"]["labels"][COMPONENT] = "transfer" if step == "question" else "audit"
    assert [found for found in not_apart(overlay, documents) if found.startswith(f"{audit} {step}: reaches")]
    templates_.remove(template)
    assert f"{audit}: no step {step}" in not_apart(overlay, documents)


def entered(documents: Documents) -> set[str]:
    """Policies that let somebody in."""
    return {one["metadata"]["name"] for one in of_kind(documents, "NetworkPolicy") if one["spec"].get("ingress")}


def test_nothing_comes_in_but_to_webhook_bus_and_the_services_of_kind(hydrated):
    """What a policy admits is by the labels of the pod."""
    events = {"medmark-events-announcers", "medmark-events-bus"}
    for overlay in ALL:
        assert entered(hydrated[overlay]) == ({"medmark-store", "medmark-mlflow"} if overlay == "kind" else events)
    fault = deepcopy(hydrated["argo-only"])
    spec(fault, "NetworkPolicy", "medmark-signing-dns").update(ingress=[{}])
    assert entered(fault) - events == {"medmark-signing-dns"}
    for component in ("store", "mlflow"):
        assert policies_of(hydrated["kind"], "kubeflow", PART | {COMPONENT: component}) == {f"medmark-{component}"}


ANOTHER = {"name": "medmark-mark-release"}
SWEEP = {"workflowTemplateRef": {"name": "medmark-reconcile"}}


@pytest.mark.parametrize(
    "workflow, allowed",
    [
        (SWEEP, True),
        ({"workflowTemplateRef": ANOTHER}, False),
        ({"workflowTemplateRef": {**SWEEP["workflowTemplateRef"], "clusterScope": True}}, False),
        (SWEEP | {"volumes": [{"name": "key", "secret": {"secretName": "medmark-signing"}}]}, False),
        ({"templates": [{"name": "any", "container": {"image": "any"}}]}, False),
    ],
)
def test_the_sensor_may_start_the_sweep_and_nothing_else(hydrated, workflow, allowed):
    documents = hydrated["argo-only"]
    policy = find(documents, "ValidatingAdmissionPolicy", "medmark-sensor")["spec"]
    (condition,), (rule,) = policy["matchConditions"], policy["validations"]

    def says(expression: str, **given: dict) -> bool:
        environment = celpy.Environment()
        known = {name: celpy.json_to_cel(value) for name, value in given.items()}
        return bool(environment.program(environment.compile(expression)).evaluate(known))

    (subject,) = find(documents, "RoleBinding", "medmark-start")["subjects"]
    for name, concerned in ((subject["name"], True), ("somebody", False)):
        user = {"userInfo": {"username": f"system:serviceaccount:{subject['namespace']}:{name}"}}
        assert says(condition["expression"], request=user) == concerned
    assert says(rule["expression"], object={"spec": workflow}) == allowed
    (trigger,) = spec(documents, "Sensor", "medmark-drops")["triggers"]
    assert trigger["template"]["k8s"]["source"]["resource"]["spec"] == SWEEP
    assert policy["failurePolicy"] == "Fail"
    assert spec(documents, "ValidatingAdmissionPolicyBinding", "medmark-sensor")["validationActions"] == ["Deny"]


def test_scripts_of_steps_start_medmark_as_they_should(hydrated, tmp_path):
    (tmp_path / "medmark").write_text('#!/bin/sh\nprintf \'%s\\n\' "$KFP_TOKEN" "$@"\n')
    (tmp_path / "medmark").chmod(0o755)
    (tmp_path / "token").write_text("a token")

    def run(overlay: str, workflow: str, template: str, **given: str) -> list[str]:
        """The token, and what medmark is called with."""
        step = container(hydrated[overlay], workflow, template)
        command = [*step["command"], *(one.replace("/token/", f"{tmp_path}/") for one in step["args"])]
        own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "KFP_TOKEN": ""} | given
        done = subprocess.run(command, env=own, check=True, capture_output=True, text=True)
        return done.stdout.splitlines()

    marking = {"NAME": "a name", "PROFILE": "smoke", "SOURCE": "", "OPTIONS": ""}
    rest = ["--name", "a name", "--profile", "smoke"]
    mark = ("argo-only", "medmark-mark-release", "mark")
    assert run(*mark, **marking) == ["", "run", "mark-release", *rest, "--out", "/scratch/run/out"]
    more = marking | {"SOURCE": "s3://raw/$(id)", "OPTIONS": "--label-column * --quarantine"}
    given = ["--data", "s3://raw/$(id)", *rest, "--label-column", "*", "--quarantine", "--out", "/scratch/run/out"]
    assert run(*mark, **more) == ["", "run", "mark-release", *given]
    places = {"DROPS": "s3://d", "RELEASES": "s3://r", "EVIDENCE": "s3://e"}
    swept = ["reconcile", "--drops", "s3://d", "--releases", "s3://r", "--evidence", "s3://e", "--sign"]
    assert run("kubeflow-multiuser", "medmark-reconcile", "reconcile", **places) == ["a token", *swept]


def other_secrets(documents: Documents, secrets: set[tuple[str, str, str]]) -> list[str]:
    """Secrets that the script of kind makes and nothing names."""
    named = {(name, key) for document in documents for name, key, _ in named_secrets(document)}
    in_runs = {"medmark-run", "medmark-signing"}  # KFP's runs read them; ci.md lists them
    unnamed = {(name, key) for _, name, key in secrets} - named
    return [f"nothing names {name} with {key}" for name, key in sorted(unnamed) if name not in in_runs]


def test_the_secrets_of_kind_are_those_that_its_manifests_name_and_no_others(hydrated, secrets):
    assert other_secrets(hydrated["kind"], secrets["kind"]) == []
    more = secrets["kind"] | {("kubeflow", "medmark-s3", "old")}
    assert other_secrets(hydrated["kind"], more) == ["nothing names medmark-s3 with old"]


# what docs/deploy.md says


def wrong_table_of_secrets(page: str, hydrated: dict[str, Documents]) -> list[str]:
    """Keys that must be there and those that may be missing, by namespace and secret, where the table says something else."""
    named: dict[tuple[str, str], dict[str, bool]] = {}
    for overlay in set(ALL) - {"kind"}:
        for document in hydrated[overlay]:
            for name, key, optional in named_secrets(document) if document["kind"] != "ExternalSecret" else ():
                keys = named.setdefault((space_of(document), name), {})
                keys[key] = keys.get(key, True) and optional
    in_runs = {
        "medmark-run": {"key"},
        "medmark-signing": {"medmark.key", "passphrase"},
    }  # optional to KFP, whose steps then refuse
    rows = [[cell.strip(" `") for cell in row.split("|")[1:-1]] for row in re.findall(r"^\| `medmark-.*$", page, re.M)]
    stated = {
        (row[0], row[1]): (set(re.findall(r"[\w.]+", row[2])), set(re.findall(r"`?([a-z_]+)`", f"{row[3]}`")))
        for row in rows
        if len(row) == 4 and row[1].startswith("medmark-")
    }
    real = {
        (space, name): (
            {key for key, optional in keys.items() if not optional or key in in_runs.get(name, ())},
            {key for key, optional in keys.items() if optional and key not in in_runs.get(name, ())},
        )
        for (space, name), keys in named.items()
    }
    return [
        f"{name} in {space}: {stated.get((space, name))}, not {real.get((space, name))}"
        for space, name in sorted(stated.keys() | real.keys())
        if stated.get((space, name)) != real.get((space, name))
    ]


# of KFP 2.17.0, which the guide for kind installs
KFP = {("service", "kubeflow", name) for name in KFP_SERVICES}
KFP |= {("deployment", "kubeflow", name) for name in ("ml-pipeline", "workflow-controller")}


def wrong_guide(page: str, hydrated: dict[str, Documents]) -> list[str]:
    """Commands in the guide for kind that are too many or cannot work, and names in any command that do not exist."""
    block = re.findall(r"^```\n(.*?)^```$", page, re.M | re.S)[0]
    steps = block.replace("\\\n", " ").splitlines()  # to the first scheduled marking
    problems = [] if len(steps) < 10 else [f"{len(steps)} commands"]
    for step, wanted in ((0, "kind create cluster"), (-1, "/first-release.yaml"), (-1, "/first-drop.yaml")):
        problems += [] if wanted in steps[step] else [f"no {wanted} in: {steps[step]}"]
    for url in re.findall(r"github\.com/[^\"]+", block):  # kustomize gives git 27 seconds
        problems += [] if re.search(r"\?ref=[\d.]+&timeout=\d+s$", url) else [f"no version or time for {url}"]
    if f"kind load docker-image {read_images(DIGESTS, unpinned=True)[IMAGE]} " not in block:
        problems.append("the image is not loaded")
    if (
        "BUILDX_NO_DEFAULT_ATTESTATIONS=1 make images" not in steps
    ):  # 'docker save' leaves an attestation out, and kind wants it
        problems.append("kind may not load the image")
    own = {name for one in of_kind(hydrated["kind"], "Deployment") for name in [one["metadata"]["name"]]}
    awaited = {name for step in steps[:-1] if " wait " in step for name in re.findall(r"deployment/([\w-]+)", step)}
    problems += [f"does not wait for {name}" for name in sorted(own - awaited)]
    paths = set(re.findall(r"\bmanifests/[\w./-]*\w", re.sub(r"github\.com/\S+", "", page)))
    problems += [f"no file {path}" for path in paths if not (ROOT / path).exists()]
    there = KFP | {
        (one["kind"].lower(), space_of(one), one["metadata"]["name"])
        for documents in hydrated.values()
        for one in documents
    }
    asked = re.findall(r"--namespace ([\w-]+) (?:port-forward|describe|patch|get) (\w+)[/ ]([\w-]+)", page)
    asked += re.findall(r"--namespace ([\w-]+) --from (\w+)/([\w-]+)", page)
    asked += [("kubeflow", "deployment", name) for name in awaited]
    problems += [f"no {kind} {name} in {space}" for space, kind, name in asked if (kind, space, name) not in there]
    labels = {value for documents in hydrated.values() for _, one, _ in listening(documents) for value in one.items()}
    for given in re.findall(r"--selector ([\w./-]+)=([\w-]+)", page):
        problems += [] if given in labels else [f"no pod has the label {given}"]
    return problems


def wrong_origins(page: str, hydrated: dict[str, Documents]) -> list[str]:
    """Kinds that Kubernetes does not bring, where the table says something else of where they come from."""
    rows = re.findall(r"^ *\| `([\w.-]+\.[a-z]+)` \|[^|]*\|([^|]*)\|$", page, re.M)
    stated = {group: set(re.findall(r"`([\w-]+)`", overlays)) for group, overlays in rows}
    there: dict[str, set[str]] = {}
    for overlay in set(OVERLAYS) - {"kind"}:  # its guide installs KFP
        for one in hydrated[overlay]:
            group = one["apiVersion"].rpartition("/")[0]
            if not re.fullmatch(r"|apps|[a-z]+(\.authorization)?\.k8s\.io", group):  # Kubernetes' own
                there.setdefault(group, set()).add(overlay)
    return [
        f"{group}: {stated.get(group)}"
        for group in stated.keys() | there.keys()
        if stated.get(group) != there.get(group)
    ]


def wrong_list_of_overlays(page: str, hydrated: dict[str, Documents]) -> list[str]:
    """Overlays that the page does not describe, or of which it does not say whether they ran on a cluster."""
    (table,) = re.findall(r"^\| overlay \|.*\n\|-.*\n((?:\|.*\n)+)", page, re.M)
    described = set(re.findall(r"^\| `([\w-]+)`", table, re.M))
    tried = set(re.findall(r"`([\w-]+)`", re.findall(r"^\| overlays (.*?)\| (?:no|yes)", page, re.M)[0]))
    return [f"overlay {name}" for name in sorted((described ^ set(OVERLAYS)) | (tried ^ set(OVERLAYS)))]


PAGE_CHECKS = (wrong_table_of_secrets, wrong_guide, wrong_origins, wrong_list_of_overlays)
# check, what is written in place of what, and what the check must say
PAGE_FAULTS = [
    (
        wrong_table_of_secrets,
        "`access_key`, `secret_key` | |",
        "`access_key` | |",
        "medmark-s3-runs in medmark-signing",
    ),
    (wrong_table_of_secrets, "`region`, `insecure` |", "`region` |", "medmark-s3 in medmark-signing"),
    (wrong_guide, "make images\n", "make images\nkubectl version\n", "10 commands"),
    (wrong_guide, "kind create cluster", "kind build cluster", "no kind create cluster"),
    (wrong_guide, "kind/first-drop.yaml", "kind/drop.yaml", "no /first-drop.yaml"),
    (wrong_guide, "2.17.0&timeout=300s", "2.17.0", "no version or time for github.com/kubeflow"),
    (wrong_guide, "medmark/python-cpu:0.1.0", "medmark/python-cpu:0.0.1", "not loaded"),
    (wrong_guide, "BUILDX_NO_DEFAULT_ATTESTATIONS=1 ", "", "may not load"),
    (wrong_guide, "deployment/medmark-seaweedfs", "", "does not wait for medmark-seaweedfs"),
    (wrong_guide, "deployment/ml-pipeline", "deployment/ml-pipelines", "no deployment ml-pipelines in kubeflow"),
    (wrong_guide, "manifests/lifecycle.json", "manifests/life.json", "no file manifests/life.json"),
    (wrong_guide, "service/ml-pipeline-ui", "service/ml-pipelines-ui", "no service ml-pipelines-ui"),
    (wrong_guide, "describe cronworkflow medmark-reconcile", "describe cronworkflow sweep", "no cronworkflow sweep"),
    (wrong_guide, "workflowtemplate/medmark-audit ", "workflowtemplate/audit ", "no workflowtemplate audit"),
    (wrong_guide, "component=reconcile", "component=sweep", "no pod has the label"),
    (wrong_origins, "| `kubeflow.org` |", "| `kubeflow.com` |", "kubeflow.org: None"),
    (wrong_origins, "`pod` among its integrations | `gpu` |", "`pod` | `kind` |", "kueue.x-k8s.io"),
    (wrong_list_of_overlays, "| overlays `kind`, ", "| overlays ", "overlay kind"),
    (wrong_list_of_overlays, "| `gpu` | as", "| `cuda` | as", "overlay cuda"),
]


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "deploy.md").read_text()


@pytest.mark.parametrize("check", PAGE_CHECKS)
def test_the_guide_says_what_is_so(hydrated, page, check):
    assert check(page, hydrated) == []
    assert check in {fault[0] for fault in PAGE_FAULTS}


@pytest.mark.parametrize("check, old, new, says", PAGE_FAULTS, ids=range(len(PAGE_FAULTS)))
def test_a_fault_in_the_guide_is_found(hydrated, page, check, old, new, says):
    assert old in page
    found = check(page.replace(old, new, 1), hydrated)
    assert any(says in problem for problem in found), found


def make_as_the_guide_says(page: str, folder: Path) -> subprocess.CompletedProcess:
    """Runs the guide's command for the secrets in something like a checkout, in which medmark is in ``.venv`` only."""
    (command,) = re.findall(r"^.*secrets\.sh .*$", page, re.M)
    for name, text in ((".venv/bin/medmark", SHIM), ("bin/kubectl", "#!/bin/sh\nexit 0\n")):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "manifests").symlink_to(MANIFESTS)
    own = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin"}
    return subprocess.run(["sh", "-ec", command], cwd=folder, env=own, capture_output=True, text=True)


def test_the_guide_makes_the_secrets(page, tmp_path):
    done = make_as_the_guide_says(page, tmp_path / "guide")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "guide" / "medmark-keys" / "keys" / "medmark.key").is_file()
    without = make_as_the_guide_says(page.replace("PATH=$PWD/.venv", "PATH=.venv"), tmp_path / "fault")
    assert "medmark: not found" in without.stderr


def test_kind_takes_keys_again_that_it_drew(tmp_path):
    script = MANIFESTS / "overlays" / "kind" / "secrets.sh"
    first, again = (
        {
            path.relative_to(tmp_path): path.read_bytes()
            for path in make_secrets(script, tmp_path, SHIM).rglob("*")
            if path.is_file()
        }
        for _ in range(2)
    )
    assert first == again and len({first[path] for path in first if path.name == "secret_key"}) == 4
    assert (tmp_path / "keys").stat().st_mode & 0o077 == 0
    identities = json.loads(first[Path("secrets/medmark-seaweedfs/seaweedfs.json")])["identities"]
    opens = {one["name"]: {action.partition(":")[2] for action in one["actions"]} for one in identities}
    assert opens == {
        "admin": {""},
        "release": {"medmark-releases"},
        "evidence": {"medmark-evidence", "medmark-drops"},
        "runs": {"medmark-runs"},
        "audits": {"medmark-audits"},
    }


def wrong_application(example: dict) -> list[str]:
    there = (ROOT / example["spec"]["source"]["path"] / "kustomization.yaml").is_file()
    return invalid([example]) + ([] if there else ["no such overlay"])


def wrong_start(workflow: dict, documents: Documents) -> list[str]:
    """Problems of a Workflow that starts a template of an overlay."""
    name = workflow["spec"]["workflowTemplateRef"]["name"]
    templates_ = [one for one in of_kind(documents, "WorkflowTemplate") if one["metadata"]["name"] == name]
    if [space_of(one) for one in templates_] != [space_of(workflow)]:
        return [f"no template {name} in {space_of(workflow)}"]
    given, asked = (one["spec"].get("arguments", {}).get("parameters", []) for one in (workflow, *templates_))
    other = {one["name"] for one in given} ^ {one["name"] for one in asked}
    return invalid([workflow]) + [f"parameter {name}" for name in sorted(other)]


def test_files_that_are_no_part_of_an_overlay_are_valid(hydrated):
    (example,) = yaml.safe_load_all((MANIFESTS / "argocd.yaml").read_text())
    assert wrong_application(example) == []
    example["spec"]["source"]["path"] = "manifests/overlays/gone"
    assert wrong_application(example) == ["no such overlay"]
    for file in ("first-drop.yaml", "first-release.yaml", "sweep.yaml"):
        (workflow,) = yaml.safe_load_all((MANIFESTS / "overlays" / "kind" / file).read_text())
        assert wrong_start(workflow, hydrated["kind"]) == []
        more = {
            "arguments": {"parameters": [*workflow["spec"].get("arguments", {}).get("parameters", []), {"name": "x"}]}
        }
        faults = [
            ({"metadata": workflow["metadata"] | {"namespace": "argo"}}, "in argo"),
            ({"spec": workflow["spec"] | {"workflowTemplateRef": {"name": "gone"}}}, "no template gone"),
            ({"spec": workflow["spec"] | {"steps": []}}, "steps"),
            ({"spec": workflow["spec"] | more}, "parameter x"),
        ]
        for fault, says in faults:
            assert says in " ".join(wrong_start(workflow | fault, hydrated["kind"]))


def test_what_runs_on_kfp_ask_of_the_cluster(hydrated, tmp_path):
    asked = {}
    for overlay in ("gpu", "kind", "kubeflow-multiuser"):
        (tmp_path / overlay).write_text(find(hydrated[overlay], "ConfigMap", "medmark-pods")["data"]["pods.yaml"])
        asked[overlay] = read_pods(tmp_path / overlay)
        for pod in (asked[overlay].steps, asked[overlay].training):
            run = {**PART, COMPONENT: "run"}  # by which the policies of kind know them
            assert pod.labels.items() >= run.items()
            assert "medmark-signing-store" in policies_of(hydrated["kind"], "kubeflow", pod.labels)
    assert policies_of(hydrated["kind"], "kubeflow", PART | {COMPONENT: "audit"}).isdisjoint({"medmark-signing-store"})
    gpu = asked["gpu"].training
    assert gpu.accelerator == "nvidia.com/gpu" and gpu.tolerations and asked["gpu"].steps.accelerator == ""
    assert gpu.labels["kueue.x-k8s.io/queue-name"] == find(hydrated["gpu"], "LocalQueue", "medmark")["metadata"]["name"]


@pytest.fixture(scope="module")
def generate():
    module_spec = spec_from_file_location("generate_manifests", MANIFESTS / "generate.py")
    module = module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wanted(generate) -> dict[Path, str]:
    return generate.generated()


def out_of_date(wanted: dict[Path, str]) -> list[str]:
    """Files with another content than they should have, and pipelines that should not be there."""
    there = {path: path.read_text() for path in (MANIFESTS / "components" / "pipelines").iterdir()}
    there |= {path: path.read_text() for path in wanted if path.exists()}
    return sorted(path.name for path in there.keys() | wanted.keys() if there.get(path) != wanted.get(path))


def test_generated_manifests_are_up_to_date(wanted):
    if os.environ.get("MEDMARK_UPDATE_GOLDEN"):
        for path, text in wanted.items():
            path.write_text(text)
    assert out_of_date(wanted) == [], "run 'python manifests/generate.py' and commit"
    folder = MANIFESTS / "components" / "pipelines"
    changed = wanted | {folder / "reconcile.yaml": "", folder / "new.yaml": ""}
    assert out_of_date(changed) == ["new.yaml", "reconcile.yaml"]
    changed.pop(folder / "lock-release.yaml")
    assert "lock-release.yaml" in out_of_date(changed)


def test_another_image_makes_another_version_of_each_pipeline(generate, wanted, images):
    def names(files: dict[Path, str]) -> dict[str, str]:
        documents = [yaml.safe_load_all(text) for path, text in files.items() if path.parent.name == "pipelines"]
        versions = [one for several in documents for one in several if one["kind"] == "PipelineVersion"]
        return {one["spec"]["pipelineName"]: one["metadata"]["name"] for one in versions}

    other = generate.generated(images)
    before, after = names(wanted), names(other)
    assert before.keys() == after.keys() and not set(before.values()) & set(after.values())
    assert all(re.fullmatch(rf"{pipeline}-[0-9a-f]{{12}}", name) for pipeline, name in after.items())
    digest = read_images(images)[IMAGE].partition("@")[2]
    assert digest in other[MANIFESTS / "components/image/kustomization.yaml"]
