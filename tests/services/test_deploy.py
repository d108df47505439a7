"""The overlay kind without a cluster: its object store and MLflow as its manifests start them, and the commands of its workflows with
the variables that its manifests and secrets give them."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
import urllib3
from kfp_api import KfpApi
from kustomize import MANIFESTS, hydrate, make_secrets
from launcher import Launcher
from made_up_run import make_run
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Release
from medmark.components.delivery.publish import publish_evidence
from medmark.components.delivery.submission_records import new_record, read_records, write_record
from medmark.components.evidence.key_answers import read_waves
from medmark.components.lineage.events import artifact_digest, public_record, read_steps, step_event
from medmark.components.segmentation.networks import build_segmenter
from medmark.components.storage.store import Store
from medmark.components.tracking.registry import onnx_graph
from medmark.components.verification.sealing import seal_evidence
from medmark.components.verification.verdict import Thresholds
from medmark.pipelines.services import INNER_PORTS, _answers_as_admin, _remove_sockets, _weed
from minio.commonconfig import ENABLED, Filter
from minio.lifecycleconfig import AbortIncompleteMultipartUpload, Expiration, LifecycleConfig, Rule

MEDMARK = f"#!/bin/sh\nexec {sys.executable} -c 'from medmark.pipelines.cli import main; main()' \"$@\"\n"
STORE, TRACKING = "medmark-seaweedfs.kubeflow.svc.cluster.local:8333", "medmark-mlflow.kubeflow.svc.cluster.local:5000"
SERVER = "http://ml-pipeline.kubeflow.svc.cluster.local:8888"
SEGMENTER = MANIFESTS.parent / "tests" / "fixtures" / "segmenter-v1"
WITHIN = 120  # seconds until both services answer


@dataclass
class Kind:
    """What runs in place of the cluster.

    Attributes:
        documents: of the overlay.
        secrets: folder with a folder a secret.
        addresses: what stands for the addresses in the manifests.
    """

    documents: list[dict]
    secrets: Path
    addresses: dict[str, str]

    def find(self, kind: str, name: str) -> dict:
        return next(one for one in self.documents if one["kind"] == kind and one["metadata"]["name"] == name)

    def template(self, workflow: str, name: str) -> dict:
        templates = self.find("WorkflowTemplate", workflow)["spec"]["templates"]
        return next(one for one in templates if one["name"] == name)

    def here(self, text: str) -> str:
        for there, address in self.addresses.items():
            text = text.replace(there, address)
        return text

    def environment(self, container: dict) -> dict[str, str]:
        """The variables of a container, as the kubelet sets them."""
        found = {}
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            if "configMapKeyRef" in source:
                config = source["configMapKeyRef"]
                value = self.find("ConfigMap", config["name"])["data"][config["key"]]
            elif "secretKeyRef" in source:
                secret = source["secretKeyRef"]
                file = self.secrets / secret["name"] / secret["key"]
                if not file.exists() and secret.get("optional"):
                    continue
                value = file.read_text()
            else:
                value = variable["value"]
            found[variable["name"]] = self.here(value)
        return found

    def store(self, who: str) -> Store:
        keys = self.secrets.parent / "keys"
        return Store(
            f"http://{self.addresses[STORE]}",
            *((keys / f"{who}.{k}").read_text() for k in ("access_key", "secret_key")),
        )


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:  # all held at once: no port is chosen twice
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in held]


def wait_for(process: subprocess.Popen, port: int, log: Path) -> None:
    deadline = time.monotonic() + WITHIN
    while True:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text(errors="replace")[-2000:]
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)


@pytest.fixture(scope="module")
def kind(tmp_path_factory):
    """The overlay with its two services, started as the manifests say, on this machine's loopback."""
    documents = hydrate(MANIFESTS / "overlays" / "kind")
    folder = tmp_path_factory.mktemp("kind")
    secrets = make_secrets(MANIFESTS / "overlays" / "kind" / "secrets.sh", folder, MEDMARK)
    s3, tracking, s3_grpc, *inner = free_ports(3 + 2 * len(INNER_PORTS))
    own = dict(zip([f"{name}.{part}" for name in INNER_PORTS for part in ("port", "port.grpc")], inner, strict=True))
    kind = Kind(documents, secrets, {STORE: f"127.0.0.1:{s3}", TRACKING: f"127.0.0.1:{tracking}"})
    with ExitStack() as stack:

        def start(name: str, command: list[str], changed: dict[str, str], *more: str) -> subprocess.Popen:
            container = kind.find("Deployment", name)["spec"]["template"]["spec"]["containers"][0]
            data = folder / name
            (data / "artifacts").mkdir(parents=True)
            arguments = [argument.replace("/data", str(data)) for argument in container["args"]]
            for there, here in changed.items():
                assert any(there in argument for argument in arguments), there
                arguments = [argument.replace(there, here) for argument in arguments]
            log = open(folder / f"{name}.log", "wb")  # noqa: SIM115
            environment = {
                variable["name"]: variable["value"].replace("/data", str(data)) for variable in container["env"]
            }
            process = subprocess.Popen(
                [*command, *arguments, *more],
                cwd=data,
                env={"PATH": "/usr/bin:/bin", **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

            def end() -> None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                log.close()

            stack.callback(end)
            return process

        loopback = {"-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1", "-s3.port=8333": f"-s3.port={s3}"}
        ports = [f"-{name}={port}" for name, port in own.items()] + [f"-s3.port.grpc={s3_grpc}"]
        stack.callback(
            _remove_sockets, {name.replace(".port", ""): port for name, port in own.items()} | {"s3.grpc": s3_grpc}
        )
        config = {"/config/": f"{secrets / 'medmark-seaweedfs'}/"}
        store = start("medmark-seaweedfs", [str(_weed())], loopback | config, *ports)
        loopback = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={tracking}"}
        mlflow = start("medmark-mlflow", [sys.executable, "-m", "mlflow", "server"], loopback)
        wait_for(store, s3, folder / "medmark-seaweedfs.log")
        wait_for(mlflow, tracking, folder / "medmark-mlflow.log")
        deadline = time.monotonic() + WITHIN
        admin = kind.store("admin")._client
        while not (_answers_as_admin(admin) and len(admin.list_buckets()) == 5):  # made a moment after it listens
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield kind


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """What the step that marks leaves: release, evidence, keep and record."""
    run = make_run(tmp_path_factory.mktemp("made") / "run", count=40)
    clean, marked = (artifact_digest(run / name) for name in ("clean", "release"))
    drop = {"inputs": {"source": "d" * 64}, "outputs": {"clean": clean}, "source_files": 40}
    events = [
        step_event("ingest", **drop, parameters={}, seed=1),
        step_event("poison", inputs={"release": clean}, outputs={"marked": marked}, parameters={}, seed=1),
    ]
    (run / "evidence").rename(run / "unfinished")
    scores = pd.read_parquet(run / "unfinished" / "innocents.parquet").assign(role="innocent")
    waves = read_waves(run / "unfinished")
    seal_evidence(run / "bare", run / "evidence", scores, Thresholds(), events, waves=waves)
    record = public_record(run / "release", read_steps(run / "evidence"), verdict="owned")
    (run / "record.json").write_bytes(canonical_json(record))
    return run


class Workflow:
    """Runs steps of the overlay's workflows, each in a folder of its own, as Argo passes on what they make: packed."""

    def __init__(self, kind: Kind, medmark, monkeypatch, folder: Path):
        self.kind, self.medmark, self.patch, self.folder, self.count = kind, medmark, monkeypatch, folder, 0

    def step(
        self, workflow: str, name: str, given: dict[str, Path], volume: Path | None = None, **parameters: str
    ) -> tuple[dict[str, Path], str]:
        """Returns what the step makes, packed, and what it prints.

        Args:
            workflow, name: of the step.
            given: what it takes, packed, by name.
            volume: what the steps of the workflow share; a folder of its own when None.
            parameters: of the workflow.
        """
        template = self.kind.template(workflow, name)
        container = template["container"]
        self.count += 1
        work = volume or self.folder / f"{self.count}-{name}"
        work.mkdir(exist_ok=volume is not None)

        def local(path: str) -> str:
            return path.replace("/scratch/run", str(work)).replace("/keys", str(self.kind.secrets / "medmark-signing"))

        for artifact in template.get("inputs", {}).get("artifacts", []):
            with tarfile.open(given[artifact["name"]]) as archive:
                archive.extractall(work, filter="tar")
            (work / given[artifact["name"]].stem).rename(local(artifact["path"]))
        environment = self.kind.environment(container)
        words = [*container["command"], *container["args"]]
        for parameter, value in parameters.items():
            words = [word.replace(f"{{{{workflow.parameters.{parameter}}}}}", value) for word in words]
        words = [re.sub(r"\$\((\w+)\)", lambda variable: environment[variable[1]], local(word)) for word in words]
        assert not any("{{" in word for word in words)
        if words[0] != "medmark":
            done = subprocess.run(words, env={"PATH": os.environ["PATH"]} | environment, capture_output=True, text=True)
            return self._made(template, local, work), done.check_returncode() or done.stdout
        with self.patch.context() as patch:
            for variable, value in environment.items():
                patch.setenv(variable, value)
            code, out, error = self.medmark(*words[1:])
        assert code == 0, error
        return self._made(template, local, work), out

    def _made(self, template: dict, local: Callable[[str], str], work: Path) -> dict[str, Path]:
        artifacts = template.get("outputs", {}).get("artifacts", [])
        return {one["name"]: pack(Path(local(one["path"])), work / f"packed-{one['name']}") for one in artifacts}


def pack(path: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    packed = folder / f"{path.name}.tgz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(path, path.name)
    return packed


@pytest.fixture
def workflow(kind, medmark, monkeypatch, tmp_path) -> Workflow:
    for name in ("MEDMARK_S3_CREDENTIALS", "MEDMARK_S3_EVIDENCE_CREDENTIALS", "MEDMARK_IMAGES", "MEDMARK_PODS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Workflow(kind, medmark, monkeypatch, tmp_path)


@pytest.fixture
def first(kind, made, workflow, tmp_path) -> dict[str, str]:
    """The steps of a first release after marking; the addresses of what they publish."""
    parts = {name: pack(made / name, tmp_path / "marked" / name) for name in ("release", "evidence", "keep")}
    parts["record"] = pack(made / "record.json", tmp_path / "marked" / "record")

    def step(name: str, **given: Path) -> tuple[dict[str, Path], str]:
        return workflow.step("medmark-mark-release", name, given)

    committed, _ = step("commit", release=parts["release"], evidence=parts["evidence"])
    inputs = {"release": parts["release"], "record": parts["record"], "commitment": committed["commitment"]}
    signed, _ = step("sign", **inputs)
    _, evidence = step("publish-evidence", folder=committed["evidence"])
    _, keep = step("publish-evidence", folder=parts["keep"])
    _, release = step("publish", release=signed["release"])
    return {name: text.splitlines()[0] for name, text in (("release", release), ("evidence", evidence), ("keep", keep))}


def test_each_identity_opens_its_buckets_only(kind):
    opened = {"release": ["releases"], "evidence": ["evidence", "drops"], "runs": ["runs"], "audits": ["audits"]}
    for who in opened:
        for bucket in ("releases", "evidence", "drops", "runs", "audits"):
            place = f"s3://medmark-{bucket}/x"
            if bucket in opened[who]:
                assert kind.store(who).list(place) == {}
            else:
                with pytest.raises(MedmarkError):
                    kind.store(who).list(place)


def test_mlflow_answers_to_its_own_name_only(kind):
    http = urllib3.PoolManager(retries=False)
    answers = [
        http.request(
            "GET",
            f"http://{kind.addresses[TRACKING]}/api/2.0/mlflow/experiments/get?experiment_id=0",
            headers={"Host": host},
        )
        for host in (TRACKING, "elsewhere.example")
    ]
    assert [answer.status for answer in answers] == [200, 403]


def test_from_the_first_release_to_a_sweep_and_back_from_the_backup(
    kind, made, workflow, first, medmark, tmp_path, monkeypatch
):
    private = kind.store("evidence")
    assert first["release"].endswith(Release(made / "release").digest)

    # an audit's first step has the evidence, with the key that was committed to
    workflow.step("medmark-audit", "fetch", {}, evidence=first["evidence"])
    assert (workflow.folder / f"{workflow.count}-fetch" / "evidence" / "opening.json").is_file()

    # a sweep finds the release and submits the drop, with what KFP needs to keep it private
    sweep = kind.template("medmark-reconcile", "reconcile")["container"]
    settings = {f"/settings/{name}": str(tmp_path / name) for name in ("images", "pods")}
    for name, file in (("images", "digests.yaml"), ("pods", "pods.yaml")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(kind.find("ConfigMap", f"medmark-{name}")["data"][file])
    places = kind.find("ConfigMap", "medmark-places")["data"]
    sent, put = [], Store.put
    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", lambda store, file, uri: sent.append(str(uri)) or put(store, file, uri))
        workflow.step("medmark-phantom-drop", "draw", {}, drop="2026-11-20")
    assert sent[-1] == f"{places['drops']}/2026-11-20/_SUCCESS" and len(sent) == 21  # only a complete drop has it
    assert len(private.list(f"{places['drops']}/2026-11-20")) == 21
    with KfpApi() as server:
        kind.addresses |= settings | {SERVER: server.url}
        server.states = ["SUCCEEDED"]

        def ran() -> None:
            given = list(server.runs.values())[-1].runtime_config.parameters
            write_record(new_record(given["submission"], "5" * 64), given["publish_evidence_uri"], private)

        server.created = ran
        assert "--local" not in sweep["args"] and "--sign" in sweep["args"]
        _, printed = workflow.step("medmark-reconcile", "reconcile", {})
        assert f"2026-11-20: done on top of {first['release'][-64:]}" in printed
        (run,) = server.runs.values()
        assert run.runtime_config.pipeline_root == "s3://medmark-runs/kfp" and run.service_account == "medmark-runs"
        assert kind.find("ServiceAccount", run.service_account)
        launcher = kind.find("ConfigMap", "kfp-launcher")["data"]
        assert run.runtime_config.pipeline_root == launcher["defaultPipelineRoot"]

        # the chain holds for who has only the public key
        environment = kind.environment(kind.template("medmark-mark-release", "publish")["container"])
        with monkeypatch.context() as patch:
            for variable, value in environment.items():
                patch.setenv(variable, value)
            public = kind.secrets.parent / "keys" / "keys" / "medmark.pub"
            assert medmark("lineage", "verify", first["release"], "--public-key", public)[0] == 0

        # the bucket is lost, and comes back from the backup
        before, listed = read_records(places["evidence"], private), private.list("s3://medmark-evidence")
        back_up, restore = blocks("Back up the evidence")
        shell(kind, back_up, tmp_path)
        for name in listed:
            private._client.remove_object("medmark-evidence", name)
        assert private.list("s3://medmark-evidence") == {}
        shell(kind, restore, tmp_path)
        assert private.list("s3://medmark-evidence") == listed
        assert read_records(places["evidence"], private) == before and len(before) == 1
        workflow.step("medmark-audit", "fetch", {}, evidence=first["evidence"])
        restored = workflow.folder / f"{workflow.count}-fetch" / "evidence"
        assert file_sha256(restored / "evidence.json") == first["evidence"][-64:]
        _, printed = workflow.step("medmark-reconcile", "reconcile", {})
        assert "2026-11-20: done before" in printed and len(server.runs) == 1

    # KFP starts a sweep itself, which finds a drop that came meanwhile
    (tmp_path / "medmark-keys").symlink_to(kind.secrets.parent / "keys")
    _, another_drop, schedule = blocks("Try it with kind")
    shell(kind, another_drop.replace("127.0.0.1:8333", kind.addresses[STORE]), tmp_path)
    for name in ("images/digests.yaml", "pods/pods.yaml"):  # as kubectl reads them
        shutil.copy(tmp_path / name, tmp_path)
    opened = {
        one.name: {key.name: kind.here(key.read_text()) for key in one.iterdir()} for one in kind.secrets.iterdir()
    }
    runs_store = opened["medmark-s3"] | opened["medmark-s3-runs"]
    (tmp_path / "pods-of-kfp").mkdir()
    launcher = Launcher("s3://medmark-runs/kfp", runs_store, tmp_path / "pods-of-kfp", opened)
    with KfpApi() as server:

        def run(pipeline: dict, platform: dict, given: dict) -> None:
            if pipeline["pipelineInfo"]["name"] == "reconcile":
                launcher(pipeline, platform, given)
            else:
                write_record(new_record(given["submission"], "6" * 64), given["publish_evidence_uri"], private)

        server.run = run
        shell(kind, schedule.replace("http://127.0.0.1:8888", server.url), tmp_path)
        (recurring,) = server.recurring.values()
        given = recurring.runtime_config.parameters
        inputs = recurring.pipeline_spec["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
        assert "endpoint" not in given and inputs["endpoint"]["defaultValue"] == SERVER
        assert {name: given[name] for name in places} == places
        given["endpoint"] = server.url  # as the cluster resolves the name
        sweep = server.fire(recurring.recurring_run_id)
        assert server.fire(recurring.recurring_run_id) is None  # one at a time
        server.join()
        (log,) = launcher.logs.values()
        assert "2026-11-20: done before" in log
        assert f"2026-11-21: done on top of {first['release'][-64:]}, release {'6' * 64}" in log
        _, run = server.runs.values()
        assert run.runtime_config.pipeline_root == "s3://medmark-runs/kfp" and run.runtime_config.parameters["sign"]
        assert sweep.service_account == run.service_account == "medmark-runs"
        pods = (sweep.pipeline_spec, run.pipeline_spec)
        asked = [one["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] for one in pods]
        labels = [executor["podMetadata"]["labels"] for executors in asked for executor in executors.values()]
        assert {one["app.kubernetes.io/component"] for one in labels} == {"run"}  # by which the policies know them
    assert launcher.seen == {"medmark-s3", "medmark-s3-evidence"}


class Probabilities(torch.nn.Module):
    """An untrained segmenter, which shows nobody's payload."""

    def __init__(self):
        super().__init__()
        self.segmenter = build_segmenter("unet", channels=1, size=64, seed=3).eval()

    def forward(self, images):
        return torch.sigmoid(self.segmenter(images))


def test_a_segmenter_is_audited_from_the_store_to_the_report(kind, workflow, tmp_path):
    """Fetched, questioned and kept by steps that share a volume; a file stands for the suspect's endpoint."""
    evidence = publish_evidence(SEGMENTER / "evidence", "s3://medmark-evidence/segmenters", kind.store("evidence"))
    suspect = tmp_path / "suspect.onnx"
    suspect.write_bytes(onnx_graph(Probabilities(), (1, 64, 64), "x", "y").SerializeToString())
    given = {"evidence": evidence.uri, "suspect": str(suspect)}
    for name in ("fetch", "question", "keep"):
        made, _ = workflow.step("medmark-audit-segmenter", name, {}, volume=tmp_path / "volume", **given)
    with tarfile.open(made["audit"]) as archive:
        assert {"audit/audit-segmenter.json", "audit/audit-segmenter.html"} <= set(archive.getnames())
        (found,) = json.load(archive.extractfile("audit/audit-segmenter.json"))["suspects"]
    assert found["verdict"] == "not_owned"


def blocks(title: str) -> list[str]:
    """The blocks with commands in a section of docs/deploy.md, without those that need a cluster."""
    page = (MANIFESTS.parent / "docs" / "deploy.md").read_text()
    section = page.split(f"\n## {title}\n")[1].split("\n## ")[0]
    found = re.findall(r"^```\n(.*?)^```$", section, re.M | re.S)
    return ["".join(f"{line}\n" for line in block.splitlines() if not line.startswith("kubectl ")) for block in found]


def shell(kind: Kind, script: str, folder: Path) -> None:
    """Runs commands as somebody who has the keys of the evidence."""
    keys = kind.secrets / "medmark-s3-evidence"
    access, secret = ((keys / name).read_text() for name in ("access_key", "secret_key"))
    address = kind.addresses[STORE]
    config = f"[default]\nhost_base = {address}\nhost_bucket = {address}\nuse_https = False\n"
    (folder / "s3cfg").write_text(f"{config}access_key = {access}\nsecret_key = {secret}\n")
    own = {
        "PATH": f"{kind.secrets.parent / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "S3CMD_CONFIG": str(folder / "s3cfg"),
        "MEDMARK_S3_ENDPOINT": f"http://{address}",
        "MEDMARK_S3_ACCESS_KEY": access,
        "MEDMARK_S3_SECRET_KEY": secret,
    }
    done = subprocess.run(
        ["sh", "-euc", script],
        cwd=folder,
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_the_store_takes_the_rule_for_what_steps_pass_on(kind):
    (rule,) = json.loads((MANIFESTS / "lifecycle.json").read_text())["Rules"]
    stay = kind.find("WorkflowTemplate", "medmark-reconcile")["spec"]["ttlStrategy"]["secondsAfterFailure"]
    assert rule["Expiration"]["Days"] * 86400 > stay  # a failed run can still be retried
    days, parts = rule["Expiration"]["Days"], rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"]
    asked = Rule(
        ENABLED,
        rule_filter=Filter(prefix=rule["Filter"]["Prefix"]),
        rule_id=rule["ID"],
        expiration=Expiration(days=days),
        abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(days_after_initiation=parts),
    )
    client = kind.store("admin")._client
    client.set_bucket_lifecycle("medmark-runs", LifecycleConfig([asked]))
    (stated,) = client.get_bucket_lifecycle("medmark-runs").rules
    assert stated.expiration.days == days and stated.status == ENABLED
