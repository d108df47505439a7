"""The overlays on a real cluster: Kubernetes itself says whether it takes them, who may do what, and which pods it lets in.

``MEDMARK_KUBECONFIG`` names a kubeconfig for a cluster to try things on, with the custom resources of an overlay's kinds. Each overlay is
applied, looked at and removed again, with its namespaces, which must not be there before. No pod is started but those that the cluster's
own controllers start for what is applied.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import pytest
import yaml
from kustomize import MANIFESTS, OVERLAYS, hydrate
from test_manifests import find, in_words, of_kind, rights_of, space_of

pytestmark = pytest.mark.skipif(
    "MEDMARK_KUBECONFIG" not in os.environ,
    reason="MEDMARK_KUBECONFIG names no kubeconfig: the manifests are NOT tried on a cluster",
)
PATIENCE = 60  # seconds; for what Kubernetes does in its own time
# as KFP 2.17 makes it
KUBEFLOW = {"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"}
ARGO = {"image": "quay.io/argoproj/argoexec"}  # as Argo makes its own containers, open but for our patch
CLOSED = {  # what KFP says of its own containers, and its installation of Argo's
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def kubectl(*arguments: str, given: object = None) -> subprocess.CompletedProcess:
    """What kubectl answers; ``given`` is what it reads from its standard input, as documents."""
    return subprocess.run(
        ["kubectl", "--kubeconfig", os.environ["MEDMARK_KUBECONFIG"], *arguments],
        input=None if given is None else json.dumps({"apiVersion": "v1", "kind": "List", "items": given}),
        capture_output=True,
        text=True,
        timeout=300,
    )


def read(*arguments: str) -> dict:
    done = kubectl(*arguments, "--output=json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def eventually(holds: Callable[[], object]) -> bool:
    end = time.monotonic() + PATIENCE
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(1)
    return bool(held)


@dataclass
class Applied:
    """An overlay on the cluster."""

    overlay: str
    documents: list[dict]
    spaces: list[str]


@pytest.fixture(scope="module", params=OVERLAYS)
def applied(request) -> Iterator[Applied]:
    overlay = request.param
    documents = hydrate(MANIFESTS / "overlays" / overlay)
    spaces = sorted({space_of(one) for one in documents} - {""})
    known = {line.split()[-1] for line in kubectl("api-resources", "--no-headers").stdout.splitlines()}
    if missing := {one["kind"] for one in documents} - known:
        pytest.skip(f"the cluster does not know {', '.join(sorted(missing))}: the overlay {overlay} is NOT tried")
    there = {one["metadata"]["name"] for one in read("get", "namespaces")["items"]}
    assert not there & set(spaces), f"{sorted(there & set(spaces))} is there already: take a cluster to try things on"
    if overlay == "kind":  # KFP brings the namespace
        labels = {"name": "kubeflow", "labels": KUBEFLOW}
        kubectl("create", "--filename=-", given=[{"apiVersion": "v1", "kind": "Namespace", "metadata": labels}])
    folder = str(MANIFESTS / "overlays" / overlay)
    done = kubectl("apply", "--server-side", "--validate=strict", "--kustomize", folder)
    try:
        assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
        assert done.stdout.count("\n") == len(documents), done.stdout
        yield Applied(overlay, documents, spaces)
    finally:
        gone = kubectl("delete", "--ignore-not-found", "--timeout=120s", "--kustomize", folder)
        gone_too = kubectl("delete", "--ignore-not-found", "--timeout=120s", "namespace", *spaces)
    assert gone.returncode == gone_too.returncode == 0, gone.stderr + gone_too.stderr
    left = kubectl("get", "--ignore-not-found", "--kustomize", folder, "--output=name")
    assert left.stdout == "", left.stdout


def test_what_is_applied_again_changes_nothing(applied):
    folder = str(MANIFESTS / "overlays" / applied.overlay)

    def generations() -> list[tuple]:
        found = read("get", "--kustomize", folder)["items"]
        return [(one["kind"], one["metadata"]["name"], one["metadata"].get("generation")) for one in found]

    before = generations()
    again = kubectl("apply", "--server-side", "--validate=strict", "--kustomize", folder)
    assert again.returncode == 0, again.stderr
    assert generations() == before and len(before) == len(applied.documents)


def rights(account: str, home: str, space: str) -> set[str]:
    """What an account may do in a namespace, but for what everybody may: ask who one is, and what one may do."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": space},
    }
    done = kubectl(
        "create", "--filename=-", "--output=json", f"--as=system:serviceaccount:{home}:{account}", given=[review]
    )
    assert done.returncode == 0, done.stderr
    everybody = ("authorization.k8s.io", "authentication.k8s.io")
    rules = json.loads(done.stdout)["status"]["resourceRules"]
    return in_words([rule for rule in rules if not set(rule["apiGroups"]) <= set(everybody)])


def test_accounts_may_do_what_is_theirs_and_nothing_else(applied):
    accounts = {(one["metadata"]["name"], space_of(one)) for one in of_kind(applied.documents, "ServiceAccount")}
    found = {
        (name, space): rights(name, home, space)
        for name, home in accounts
        for space in [*applied.spaces, "default", "kube-system"]
    }
    assert {where: given for where, given in found.items() if given} == rights_of(applied.overlay, applied.documents)


def merged(given: list[dict], patch: list[dict]) -> list[dict]:
    """Containers with what Argo's ``podSpecPatch`` says of those of the same name."""
    by_name = {one["name"]: one for one in patch}
    return [one | by_name.pop(one["name"], {}) for one in given] + list(by_name.values())


def pod(space: str, name: str, labels: dict, spec: dict) -> dict:
    metadata = {"name": name[:60], "namespace": space, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"restartPolicy": "Never"} | spec}


def of_argo(document: dict) -> Iterator[dict]:
    """Pods of a workflow's steps, with Argo's own containers, which it closes by itself no more than KFP's installation says."""
    spec = document["spec"]
    patch = yaml.safe_load(spec["podSpecPatch"])
    claims = [
        {"name": one["metadata"]["name"], "persistentVolumeClaim": {"claimName": f"x-{one['metadata']['name']}"}}
        for one in spec.get("volumeClaimTemplates", [])
    ]
    for template in spec["templates"]:
        if "container" not in template:
            continue
        made = {
            "serviceAccountName": spec["serviceAccountName"],
            "automountServiceAccountToken": spec["automountServiceAccountToken"],
            "securityContext": spec["securityContext"],
            "volumes": [*spec.get("volumes", []), *claims],
            "tolerations": template.get("tolerations", []),
            "initContainers": merged([{"name": "init", **ARGO}], patch.get("initContainers", [])),
            "containers": merged(
                [{"name": "main", **template["container"]}, {"name": "wait", **ARGO}], patch.get("containers", [])
            ),
        }
        labels = spec["podMetadata"]["labels"] | template["metadata"]["labels"]
        yield pod(space_of(document), f"{document['metadata']['name']}-{template['name']}", labels, made)


def of_events(document: dict) -> Iterator[dict]:
    spec, name = document["spec"], f"{document['kind'].lower()}-{document['metadata']['name']}"
    if document["kind"] == "EventBus":
        bus = spec["jetstream"]
        parts = {
            "main": "containerTemplate",
            "reloader": "reloaderContainerTemplate",
            "metrics": "metricsContainerTemplate",
        }
        containers = [{"name": part, "image": "nats", **bus[field]} for part, field in parts.items()]
        made = {"securityContext": bus["securityContext"], "containers": containers}
        yield pod(space_of(document), name, {}, made)
    else:
        template = spec["template"]
        made = {key: template[key] for key in ("serviceAccountName", "securityContext")}
        container = {"name": "main", "image": "argo-events", **template["container"]}
        yield pod(space_of(document), name, template["metadata"]["labels"], made | {"containers": [container]})


def of_kfp(document: dict) -> Iterator[dict]:
    """Pods of a pipeline's steps: what KFP 2.17 says of each, and its launcher in front."""
    asked = document["spec"]["platformSpec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for label, executor in document["spec"]["pipelineSpec"]["deploymentSpec"]["executors"].items():
        own, given = asked[label], executor["container"]
        wants = given.get("resources", {})
        amounts = {
            side: {
                what: str(wants[f"resource{what.capitalize()}{side.capitalize()}"])
                for what in ("cpu", "memory")
                if f"resource{what.capitalize()}{side.capitalize()}" in wants
            }
            for side in ("request", "limit")
        }
        if accelerator := wants.get("accelerator"):
            amounts["limit"][accelerator["resourceType"]] = accelerator["resourceCount"]
        closed = {name: CLOSED[name] for name in ("allowPrivilegeEscalation", "capabilities", "seccompProfile")}
        step = {
            "name": "main",
            "image": given["image"],
            "resources": {f"{side}s": amount for side, amount in amounts.items()},
            "securityContext": closed | own["securityContext"],
        }
        argo = {**ARGO, "securityContext": CLOSED | {"runAsUser": 65532}}
        made = {
            "serviceAccountName": "medmark-runs",
            "securityContext": {"seccompProfile": CLOSED["seccompProfile"]},
            "tolerations": own.get("tolerations", []),
            "initContainers": [
                {"name": "init", **argo},
                {"name": "kfp-launcher", "image": "kfp-launcher", "securityContext": CLOSED},
            ],
            "containers": [step, {"name": "wait", **argo}],
        }
        labels = own.get("podMetadata", {}).get("labels", {})
        name = f"{document['spec']['pipelineName']}-{label.removeprefix('exec-')}"[:60].strip("-")
        yield pod(space_of(document), name, labels, made)


def started(applied: Applied) -> dict[str, dict]:
    """The pods that the overlay's documents come to, by name."""
    makers = {"WorkflowTemplate": of_argo, "PipelineVersion": of_kfp}
    makers |= dict.fromkeys(("EventSource", "Sensor", "EventBus"), of_events)
    made = [one for document in applied.documents for one in makers.get(document["kind"], lambda _: ())(document)]
    for one in of_kind(applied.documents, "Deployment"):
        template = one["spec"]["template"]
        made.append(pod(space_of(one), one["metadata"]["name"], template["metadata"]["labels"], template["spec"]))
        made[-1]["spec"] = template["spec"]
    return {f"{one['metadata']['namespace']}/{one['metadata']['name']}": one for one in made}


def test_the_pods_of_every_step_are_let_in(applied):
    quotas = list(of_kind(applied.documents, "ResourceQuota"))
    for quota in quotas:

        def counted(quota: dict = quota) -> bool:
            found = read("--namespace", space_of(quota), "get", "resourcequota", quota["metadata"]["name"])
            return found.get("status", {}).get("hard") == quota["spec"]["hard"]

        assert eventually(counted), f"{quota['metadata']['name']}: the cluster does not count it"
    pods = started(applied)
    done = kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", given=list(pods.values()))
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
    assert done.stdout.count("created (server dry run)") == len(pods) > 10


def root(spec: dict) -> None:
    spec["containers"][0].setdefault("securityContext", {})["runAsUser"] = 0


def privileged(spec: dict) -> None:
    spec["containers"][0].setdefault("securityContext", {}).update(privileged=True, allowPrivilegeEscalation=True)


def host(spec: dict) -> None:
    spec.setdefault("volumes", []).append({"name": "host", "hostPath": {"path": "/"}})


def unpatched(spec: dict) -> None:
    for container in [*spec.get("initContainers", []), spec["containers"][-1]]:
        container.pop("securityContext", None)


def greedy(spec: dict) -> None:
    spec["containers"][0]["resources"] = {"requests": {"cpu": "100", "memory": "1Gi"}}


@pytest.mark.parametrize(
    "spoil, says",
    [
        (root, "violates PodSecurity"),
        (privileged, "violates PodSecurity"),
        (host, "violates PodSecurity"),
        (unpatched, "violates PodSecurity"),
        (greedy, "exceeded quota"),
    ],
)
def test_pods_that_want_more_are_refused(applied, spoil, says):
    if applied.overlay == "kind":
        pytest.skip("the namespace of kind is KFP's, with its own Pod Security and no quota")
    pods = {}
    for one in started(applied).values():  # one of each namespace
        pods.setdefault(one["metadata"]["namespace"], one)
    assert set(pods) == set(applied.spaces)
    for one in deepcopy(pods).values():
        spoil(one["spec"])
        done = kubectl("create", "--dry-run=server", "--filename=-", given=[one])
        assert done.returncode != 0 and says in done.stderr, f"{one['metadata']}: {done.stdout}{done.stderr}"


def test_the_sensor_starts_the_sweep_and_nothing_else(applied):
    if applied.overlay == "kind":
        pytest.skip("kind has no sensor")
    (trigger,) = find(applied.documents, "Sensor", "medmark-drops")["spec"]["triggers"]
    sweep = trigger["template"]["k8s"]["source"]["resource"]
    key = {"name": "key", "secret": {"secretName": "medmark-signing"}}
    shell = {"name": "x", "container": {"image": "x"}}
    more = [
        {"workflowTemplateRef": {"name": "medmark-mark-release"}},
        sweep["spec"] | {"volumes": [key]},
        sweep["spec"] | {"podSpecPatch": "{}"},
        {"entrypoint": "x", "templates": [shell]},
    ]

    def create(given: dict, *who: str) -> subprocess.CompletedProcess:
        return kubectl("create", "--dry-run=server", "--filename=-", *who, given=[sweep | {"spec": given}])

    sensor = "--as=system:serviceaccount:medmark-events:medmark-sensor"
    says = "the sensor may start the workflow medmark-reconcile as it is"
    assert eventually(lambda: says in create(more[0], sensor).stderr), "the policy does not come into force"
    for given in more:
        refused = create(given, sensor)
        assert refused.returncode != 0 and says in refused.stderr, refused
        assert create(given).returncode == 0  # the policy concerns the sensor alone
    started_ = create(sweep["spec"], sensor)
    assert started_.returncode == 0, started_.stderr


def test_what_the_guide_creates_is_taken(applied):
    if applied.overlay != "kind":
        pytest.skip("the guide creates them in kind")
    for file in ("first-release.yaml", "first-drop.yaml", "sweep.yaml"):
        path = str(MANIFESTS / "overlays" / "kind" / file)
        done = kubectl("create", "--dry-run=server", "--validate=strict", "--filename", path)
        assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
