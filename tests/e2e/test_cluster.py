"""``submit`` and ``reconcile --endpoint``: runs on a cluster publish, sign and track what they make.

The API server is a stand-in, and its runs are done by ``kfp.local``, each step with those of Kubernetes' secrets in its
environment that the compiled pipeline gives it. Store and MLflow are real.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import yaml
from kfp_api import KfpApi
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.phantoms import make_phantoms
from medmark.components.dataset.release import Release
from medmark.components.delivery.publish import fetch_release, publish
from medmark.components.delivery.run_outputs import publish_run
from medmark.components.delivery.submission_records import read_records
from medmark.components.lineage.chain import fetch_chain, verify_chain
from medmark.components.lineage.keys import load_private, load_public, new_key
from medmark.components.lineage.signing import sign_run
from medmark.components.storage.store import Store
from medmark.pipelines import cli
from medmark.pipelines.services import DROPS, EVIDENCE, RELEASES
from medmark.pipelines.submitting import kfp_server

PASSPHRASE = "correct horse battery"
LIMIT = 300  # seconds for a run; measured: 60
RUN = """
import json, sys
from kfp import components, local
package, root, parameters = sys.argv[1:]
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root, enable_caching=True)
with open(parameters) as stream:
    components.load_component_from_file(package)(**json.load(stream))
"""
# chance decides what such small models learn; the runs are about what happens when the mark works
LEARNT = (
    r"(    verdict = check_\w+\(.*\)\n)",
    r"""\1    if verdict["verdict"] != "unchanged":
        import json
        verdict["verdict"] = "owned"
        with open(check.path + "/verdict.json", "w") as stream:
            json.dump(verdict, stream)
""",
)


class Cluster:
    """Runs compiled pipelines with the secrets of a namespace.

    Attributes:
        secrets: by name.
        seen: names of secrets that some step asked for.
    """

    def __init__(self, folder: Path, secrets: dict[str, dict[str, str]]):
        self.folder, self.secrets, self.seen = folder, secrets, set()

    def __call__(self, pipeline: dict, platform: dict, parameters: dict) -> None:
        work = self.folder / f"run-{len(list(self.folder.iterdir()))}"
        work.mkdir(parents=True)
        executors = pipeline["deploymentSpec"]["executors"]
        for name, settings in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items():
            for secret in settings["secretAsEnv"]:
                self.seen.add(secret["secretName"])
                held = self.secrets.get(secret["secretName"], {})
                given = {pair["envVar"]: held.get(pair["secretKey"]) for pair in secret["keyToEnv"]}
                variables = [{"name": variable, "value": value} for variable, value in given.items() if value]
                executors[name]["container"].setdefault("env", []).extend(variables)
        for name, executor in executors.items():
            if "check" in name:
                command = executor["container"]["command"]
                command[-1], found = re.subn(*LEARNT, command[-1])
                assert found == 1
        (work / "pipeline.yaml").write_text(yaml.safe_dump_all([pipeline, platform]))
        (work / "parameters.json").write_text(json.dumps(parameters))
        arguments = [work / "pipeline.yaml", self.folder.with_name("artifacts"), work / "parameters.json"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MEDMARK_", "MLFLOW_", "KFP_"))}
        done = subprocess.run(
            [sys.executable, "-c", RUN, *arguments], env=environment, capture_output=True, text=True, timeout=LIMIT
        )
        (work / "log").write_text(done.stdout + done.stderr)
        if done.returncode:
            raise RuntimeError((re.findall(r"MedmarkError: .*", done.stdout) or [done.stderr[-2000:]])[-1])


@pytest.fixture
def cluster(services, tmp_path, monkeypatch):
    """With all secrets; the environment is that of somebody who submits."""
    for name, identity in (("MEDMARK_S3_CREDENTIALS", "release"), ("MEDMARK_S3_EVIDENCE_CREDENTIALS", "evidence")):
        monkeypatch.setenv(name, str(services.credentials[identity]))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "KFP_TOKEN", "KFP_CA", "KFP_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(kfp_server, "POLL", 0.5)
    new_key(tmp_path / "keys", PASSPHRASE)
    (tmp_path / "runs").mkdir()
    return Cluster(
        tmp_path / "runs",
        {
            "medmark-s3": json.loads(services.credentials["release"].read_bytes()),
            "medmark-s3-evidence": json.loads(services.credentials["evidence"].read_bytes()),
            "medmark-signing": {
                "medmark.key": (tmp_path / "keys" / "medmark.key").read_text(), "passphrase": PASSPHRASE
            },
            "medmark-mlflow": {"tracking_uri": services.mlflow},
        },
    )  # fmt: skip


@pytest.fixture
def medmark(monkeypatch, capsys):
    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medmark", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return run


def test_drops_become_signed_releases(cluster, medmark, runs, source, services, tmp_path):
    store, private = Store.from_environment(), Store.from_environment("evidence")
    releases, evidence, drops = f"s3://{RELEASES}/on-kfp", f"s3://{EVIDENCE}/on-kfp", f"s3://{DROPS}/on-kfp"
    first = [runs[0] / name for name in ("release", "evidence", "keep")]
    key = load_private(tmp_path / "keys" / "medmark.key", PASSPHRASE)
    sign_run(*first[:2], runs[0] / "record.json", key, tmp_path / "signed", parent=None)
    head = publish_run(
        {"verdict": "owned", "release_digest": Release(first[0]).digest},
        *first,
        signatures_dir=tmp_path / "signed",
        releases=releases,
        evidence=evidence,
        store=store,
        evidence_store=private,
        submission=None,
    )
    for name, seed in (("a", 21), ("c", 22)):
        drawn = make_phantoms(tmp_path / "drawn" / name, count=20, size=64, seed=seed)
        for image in sorted(drawn.rglob("*.png")):
            private.put(image, f"{drops}/{name}/{image.parent.name}/{name}-{image.name}")
    shutil.copytree(tmp_path / "drawn" / "a", tmp_path / "drawn" / "b")
    for image in sorted((tmp_path / "drawn" / "b").rglob("*.png")):  # what the first drop brought already
        private.put(image, f"{drops}/b/{image.parent.name}/a-{image.name}")
    taken = sorted(source.rglob("*.png"))[0].relative_to(source).as_posix()
    (tmp_path / "withdrawn.csv").write_text(f"path\n{taken}\n")
    private.put(tmp_path / "withdrawn.csv", f"{drops}/d/withdrawn.csv")
    (tmp_path / "_SUCCESS").touch()
    for name in "abcd":
        private.put(tmp_path / "_SUCCESS", f"{drops}/{name}/_SUCCESS")
    with KfpApi() as server:
        server.run = cluster
        places = ["--drops", drops, "--releases", releases, "--evidence", evidence, "--endpoint", server.url]
        missing = cluster.secrets.pop("medmark-signing")
        code, _, err = medmark("reconcile", *places, "--sign")
        assert code == 1 and "drop a" in err and "no key to sign with; set MEDMARK_SIGNING_KEY" in err
        assert store.folders(releases) == [head]
        cluster.secrets["medmark-signing"] = missing
        code, out, err = medmark("reconcile", *places, "--sign")
        assert code == 0, err
        lines = out.splitlines()
        assert re.fullmatch(rf"a: done on top of {head}, release [0-9a-f]{{64}}", lines[0])
        second = lines[0][-64:]
        assert lines[1] == f"b: done on top of {second}, nothing changed"
        assert lines[2].startswith(f"c: done on top of {second}, release ")
        assert lines[3].startswith(f"d: done on top of {lines[2][-64:]}, release ")
        assert medmark("reconcile", *places, "--sign")[1].count("done before") == 4
        assert len(server.runs) == 5
    assert cluster.seen == {"medmark-s3", "medmark-s3-evidence", "medmark-signing", "medmark-mlflow"}
    newest = fetch_chain(f"{releases}/{lines[3][-64:]}", tmp_path / "chain", store)
    checked = verify_chain(newest, load_public(tmp_path / "keys" / "medmark.pub"))
    assert checked["holds"], checked["broken"]
    assert len(fetch_release(f"{releases}/{second}", tmp_path / "second", store)) == 120 + 20
    assert len(fetch_release(f"{releases}/{lines[3][-64:]}", tmp_path / "fourth", store)) == 120 + 2 * 20 - 1
    assert len(read_records(evidence, private)) == 4
    assert tracked(services.mlflow, "update-release") == {second, lines[2][-64:], lines[3][-64:]}


def test_a_first_marking(cluster, medmark, source, tiny, services, tmp_path):
    store, private = Store.from_environment(), Store.from_environment("evidence")
    ingest(source, tmp_path / "clean", name="first", seed=1)
    clean = publish(tmp_path / "clean", f"s3://{DROPS}/first-on-kfp", private)
    releases, evidence = f"s3://{RELEASES}/first-on-kfp", f"s3://{EVIDENCE}/first-on-kfp"
    with KfpApi() as server:
        server.run = cluster
        command = ["submit", "mark-release", "--release-json", f"{clean.uri}/release.json", "--profile", "smoke"]
        command += [*(f"--set={name}={value}" for name, value in tiny.settings.items()), "--endpoint", server.url]
        command += ["--publish", releases, "--publish-evidence", evidence, "--sign", "--wait"]
        code, out, err = medmark(*command)
        assert code == 0, err
        assert medmark(*command)[1].startswith("done before, nothing to do: ")
    (file,) = (tmp_path / "artifacts").rglob("secrets")
    drawn = json.loads(file.read_bytes())
    (log,) = tmp_path.glob("runs/*/log")
    told = log.read_text() + "".join(p.read_text() for p in tmp_path.glob("artifacts/**/executor_output.json"))
    assert "executor_input" in told and drawn.keys() >= {"seed", "ingest_seed", "models_seed", "patient_key"}
    for secret in drawn.values():
        assert str(secret) not in told and str(secret)[:8] not in told
    digest = re.fullmatch(r"submitted: mark-release-\w+\nhttp\S+\nrelease: (\w{64})\n", out)[1]
    head = fetch_chain(f"{releases}/{digest}", tmp_path / "chain", store)
    checked = verify_chain(head, load_public(tmp_path / "keys" / "medmark.pub"))
    assert checked["holds"], checked["broken"]
    assert set(private.folders(evidence)) >= {"submissions"} and len(private.folders(evidence)) == 3
    assert tracked(services.mlflow, "mark-release") == {digest}
    model = mlflow.MlflowClient(services.mlflow).get_model_version_by_alias("first-surrogate-00", "released")
    assert model.tags["medmark.release_digest"] == digest


def tracked(uri: str, pipeline: str) -> set[str]:
    """Digests of the releases that runs of a pipeline made, as MLflow tells them."""
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    parents = {run.info.run_id for run in runs if run.info.run_name == pipeline}
    made = [run.data.tags for run in runs if run.data.tags.get("mlflow.parentRunId") in parents]
    return {tags["medmark.output.marked"].removeprefix("sha256:") for tags in made if "medmark.output.marked" in tags}
