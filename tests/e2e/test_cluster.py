"""``submit`` and ``reconcile --endpoint``: runs on a cluster publish, sign and track what they make.

The API server is a stand-in, and its runs are done by the launcher of :mod:`launcher`: as processes, or in containers of the image
that the environment variable ``MEDMARK_TEST_IMAGE`` names (``make images-test``). Store and MLflow are real.
"""

import base64
import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from kfp_api import KfpApi
from kfp_metadata import readable
from launcher import Launcher
from medmark.components.dataset.fundus_phantoms import make_fundus_phantoms
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.phantoms import make_masked_phantoms, make_phantoms
from medmark.components.dataset.release import Release
from medmark.components.delivery.publish import fetch_evidence, fetch_model, fetch_release, publish
from medmark.components.delivery.run_outputs import publish_run
from medmark.components.delivery.submission_records import read_records
from medmark.components.lineage.chain import fetch_chain, verify_chain
from medmark.components.lineage.commitment import verify_commitment
from medmark.components.lineage.keys import load_private, load_public
from medmark.components.lineage.signing import sign_run
from medmark.components.locking.certificate import issue_certificate, verify_certificate
from medmark.components.locking.logo import text_logos
from medmark.components.locking.unlock import unlock_release
from medmark.components.profiles import PROFILES
from medmark.components.segmentation.networks import build_segmenter, save_segmenter
from medmark.components.storage.store import Store
from medmark.components.surrogate.networks import build
from medmark.components.tracking.registry import onnx_graph
from medmark.pipelines import cli
from medmark.pipelines.audit_lineage.pipeline import audit_lineage
from medmark.pipelines.audit_segmenter.pipeline import audit_segmenter
from medmark.pipelines.audit_suspect.pipeline import audit_suspect
from medmark.pipelines.compare_methods.pipeline import compare_methods
from medmark.pipelines.services import DROPS, EVIDENCE, RELEASES
from medmark.pipelines.stress_release.pipeline import stress_release

pytestmark = pytest.mark.timeout(1800)  # seconds; a run in containers, beside other work, takes minutes
# chance decides what such small models learn; the runs are about what happens when the mark works
LEARNT = (
    r"(    verdict = check_\w+\(.*\)\n)",
    r"""\1    if verdict["verdict"] != "unchanged":
        import json
        verdict["verdict"] = "{}"
        with open(check.path + "/verdict.json", "w") as stream:
            json.dump(verdict, stream)
""",
)


def learnt(launcher: Launcher, verdict: str = "owned"):
    """Runs pipelines whose marks work, or with another verdict, whatever the tiny models learn."""

    def run(pipeline: dict, platform: dict, parameters: dict) -> None:
        for name, executor in pipeline["deploymentSpec"]["executors"].items():
            if "check" in name:
                command = executor["container"]["command"]
                command[-1], found = re.subn(LEARNT[0], LEARNT[1].format(verdict), command[-1])
                assert found == 1
        launcher(pipeline, platform, parameters)

    return run


@pytest.fixture
def medmark(monkeypatch, capsys):
    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medmark", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return run


def test_drops_become_signed_releases(cluster, medmark, runs, source, services, reached, tmp_path):
    store, private = Store.from_environment(), Store.from_environment("evidence")
    releases, evidence, drops = f"s3://{RELEASES}/on-kfp", f"s3://{EVIDENCE}/on-kfp", f"s3://{DROPS}/on-kfp"
    first = [runs[0] / name for name in ("release", "evidence", "keep")]
    key = load_private(tmp_path / "keys" / "medmark.key", cluster.secrets["medmark-signing"]["passphrase"])
    sign_run(*first[:2], key, tmp_path / "signed", record_file=runs[0] / "record.json")
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
    for image in sorted(make_phantoms(tmp_path / "drawn", count=20, size=64, seed=21).rglob("*.png")):
        for name in "ab":  # the second drop brings what the first one brought already
            private.put(image, f"{drops}/{name}/{image.parent.name}/a-{image.name}")
    taken = sorted(source.rglob("*.png"))[0].relative_to(source).as_posix()
    (tmp_path / "withdrawn.csv").write_text(f"path\n{taken}\n")
    private.put(tmp_path / "withdrawn.csv", f"{drops}/c/withdrawn.csv")
    (tmp_path / "_SUCCESS").touch()
    for name in "abc":
        private.put(tmp_path / "_SUCCESS", f"{drops}/{name}/_SUCCESS")
    with KfpApi() as server:
        server.run = learnt(cluster)
        places = ["--drops", drops, "--releases", releases, "--evidence", evidence, "--endpoint", server.url]
        missing = cluster.secrets.pop("medmark-signing")
        code, _, err = medmark("reconcile", *places, "--sign")
        assert code == 1 and "drop a" in err and "no key to sign with; set MEDMARK_SIGNING_KEY" in err
        assert store.folders(releases) == [head]
        cluster.secrets["medmark-signing"] = missing
        nightly = ["--cron", "17 2 * * *", "--inside", reached[1](server.url)]
        code, _, err = medmark("reconcile", *places, "--sign", *nightly)
        assert code == 0, err
        server.fire(*server.recurring)  # a sweep that the server starts, in a pod
        server.join()
        (log,) = (text for task, text in cluster.logs.items() if task.endswith("-reconcile-component"))
        lines = re.findall(r"^[abc]: .*", log, re.M)
        assert len(lines) == 3, log
        assert re.fullmatch(rf"a: done on top of {head}, release [0-9a-f]{{64}}", lines[0])
        second = lines[0][-64:]
        assert lines[1] == f"b: done on top of {second}, nothing changed"
        assert lines[2].startswith(f"c: done on top of {second}, release ")
        third = lines[2][-64:]
        assert medmark("reconcile", *places, "--sign")[1].count("done before") == 3
        assert len(server.runs) == 1 + 1 + 3  # what failed, the sweep, and its runs
    assert cluster.seen == {"medmark-s3", "medmark-s3-evidence", "medmark-signing", "medmark-mlflow"}
    newest = fetch_chain(f"{releases}/{third}", tmp_path / "chain", store)
    checked = verify_chain(newest, load_public(tmp_path / "keys" / "medmark.pub"))
    assert checked["holds"], checked["broken"]
    assert len(fetch_release(f"{releases}/{second}", tmp_path / "second", store)) == 120 + 20
    assert len(fetch_release(f"{releases}/{third}", tmp_path / "third", store)) == 120 + 20 - 1
    assert len(read_records(evidence, private)) == 3
    assert tracked(services.mlflow, "update-release") == {second, third}


def test_a_first_marking_and_all_that_others_do_with_it(cluster, medmark, source, tiny, services, tmp_path):
    store, private = Store.from_environment(), Store.from_environment("evidence")
    ingest(source, tmp_path / "clean", name="first", seed=1)
    clean = publish(tmp_path / "clean", f"s3://{DROPS}/first-on-kfp", private)
    releases, evidence = f"s3://{RELEASES}/first-on-kfp", f"s3://{EVIDENCE}/first-on-kfp"
    with KfpApi() as server:
        server.run = learnt(cluster)
        command = ["submit", "mark-release", "--release-json", f"{clean.uri}/release.json", "--profile", "smoke"]
        command += [*(f"--set={name}={value}" for name, value in tiny.settings.items()), "--endpoint", server.url]
        command += ["--publish", releases, "--publish-evidence", evidence, "--sign", "--wait"]
        missing = cluster.secrets.pop("medmark-run")
        code, _, err = medmark(*command)
        assert code == 1 and "MEDMARK_RUN_KEY is missing" in err
        cluster.secrets["medmark-run"] = missing
        signing = cluster.secrets.pop("medmark-signing")
        code, _, err = medmark(*command)
        assert code == 1 and "no key to sign with" in err
        cluster.secrets["medmark-signing"] = signing
        opens = cluster.secrets.pop("medmark-s3")
        trained = len(cluster.logs)
        code, _, err = medmark(*command)  # another run, with the same secrets and models
        assert code == 1 and "MEDMARK_S3_ENDPOINT" in err
        again = [log[4:] for log in [*cluster.logs][trained:]]
        steps = ("expand-profile", "track-marking", "sign", "publish")
        assert again == [f"{step}-component" for step in steps]
        cluster.secrets["medmark-s3"] = opens
        cluster.retry()
        assert len(cluster.logs) == trained + len(again) + 1
        assert medmark(*command)[1].startswith("done before, nothing to do: ")
    (file,) = cluster.fetch(cluster.root, tmp_path / "artifacts").rglob("secrets")
    sealed = file.read_bytes()
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(sealed)
    drawn = json.loads(Fernet(base64.urlsafe_b64encode(base64.b64decode(missing["key"]))).decrypt(sealed))
    told = readable("".join(cluster.logs.values()))
    assert (
        "executor_input" in told
        and "executionParameters" in told
        and drawn.keys() >= {"seed", "ingest_seed", "models_seed", "patient_key"}
    )
    for secret in filter(None, drawn.values()):
        assert str(secret) not in told and str(secret)[:8] not in told
    (digest,) = store.folders(releases)
    head = fetch_chain(f"{releases}/{digest}", tmp_path / "chain", store)
    checked = verify_chain(head, load_public(tmp_path / "keys" / "medmark.pub"))
    assert checked["holds"], checked["broken"]
    assert set(private.folders(evidence)) >= {"submissions"} and len(private.folders(evidence)) == 3
    assert digest in tracked(services.mlflow, "mark-release")
    model = mlflow.MlflowClient(services.mlflow).get_model_version_by_alias("first-surrogate-00", "released")
    assert model.tags["medmark.release_digest"] == digest
    audited = audit_from_the_store(cluster, tmp_path, f"{releases}/{digest}", evidence, tiny)
    assert audited == {"suspects": 1, "lineage": True, "attacks": {"none", "blur"}}


def audit_from_the_store(cluster: Launcher, folder: Path, release: str, evidence: str, tiny) -> dict:
    """What an owner and an auditor do with a published release, each as a pipeline that has its addresses only."""
    store, private = Store.from_environment(), Store.from_environment("evidence")
    (digest,) = [d for d in private.folders(evidence) if private.list(f"{evidence}/{d}").keys() >= {"evidence.json"}]
    network = build("small_cnn", num_classes=2, size=64, seed=0)
    (folder / "suspect.onnx").write_bytes(onnx_graph(network, (1, 64, 64), "x", "y").SerializeToString())
    store.put(folder / "suspect.onnx", f"s3://{RELEASES}/suspects/{digest}.onnx")
    of_evidence = {"evidence_uri": f"{evidence}/{digest}", "evidence_digest": digest}
    suspects = cluster.start(
        audit_suspect,
        folder / "audit",
        **of_evidence,
        suspects=[f"s3://{RELEASES}/suspects/{digest}.onnx"],
        contract={"answers": "logits"},
    )
    public_key = (folder / "keys" / "medmark.pub").read_text()
    lineage = cluster.start(audit_lineage, folder / "lineage", release_uri=release, public_key=public_key)
    configs = PROFILES["smoke"].with_settings(tiny.settings).marked_configs(tiny.seed)[:1]
    stressed = cluster.start(
        stress_release,
        folder / "stress",
        **of_evidence,
        release_uri=release,
        release_digest=release.rpartition("/")[2],
        marked_configs=configs,
        seed=0,
        attacks=["blur"],
    )
    (curves,) = stressed.values()
    table = pd.read_csv(curves / "stress.csv")
    return {
        "suspects": len(json.loads((suspects["audit"] / "audit.json").read_bytes())["suspects"]),
        "lineage": json.loads(lineage["result"].read_bytes())["holds"],
        "attacks": set(table.attack),
    }


def test_methods_are_compared(cluster, source, tiny, tmp_path):
    place, profile = f"s3://{DROPS}/compared", replace(PROFILES["smoke"].with_settings(tiny.settings), marked_share=0.1)
    Store.from_environment("evidence").upload(source, place)
    given = {"source": place, "source_state": "", "ingest_options": {"name": "compared"}, "profile": asdict(profile)}
    (table,) = cluster.start(compare_methods, tmp_path / "run", **given, seed=0, methods=["badnets"]).values()
    (name,) = rows = json.loads(table.read_bytes())
    assert name == "badnets" and len(rows[name]["victims"]) == 2
    with pytest.raises(RuntimeError, match="unknown method: 'goodnets'"):
        cluster.start(compare_methods, tmp_path / "refused", **given, seed=0, methods=["goodnets"])


def test_a_segmenter_is_submitted_published_and_audited(cluster, medmark, services, tmp_path):
    store, private = Store.from_environment(), Store.from_environment("evidence")
    make_masked_phantoms(tmp_path / "masked", count=60, size=64)
    classes = ["background", "lungs"]
    ingest(tmp_path / "masked", tmp_path / "clean", name="masked", seed=1, task="segmentation", class_names=classes)
    clean = publish(tmp_path / "clean", f"s3://{DROPS}/masked", private)
    trained = f"s3://{DROPS}/trained.safetensors"
    save_segmenter(build_segmenter("unet", channels=1, size=64, seed=3), tmp_path / "trained.safetensors")
    private.put(tmp_path / "trained.safetensors", trained)
    # as KFP's plugin does; its server wins over that of the secret
    cluster.injected["MLFLOW_TRACKING_URI"] = cluster.secrets["medmark-mlflow"]["tracking_uri"]
    cluster.secrets["medmark-mlflow"] = {"tracking_uri": "http://127.0.0.1:9"}
    models, evidence = f"s3://{RELEASES}/models", f"s3://{EVIDENCE}/segmenters"
    with KfpApi() as server:
        server.run = learnt(cluster)
        command = ["submit", "mark-segmenter", "--release-json", f"{clean.uri}/release.json", "--text", "St. Anna"]
        command += ["--profile", "smoke", "--name", "lungs", "--model", trained, "--endpoint", server.url]
        command += ["--set=steps=4", "--set=batch_size=4", "--set=queries=8"]
        command += ["--publish", models, "--publish-evidence", evidence, "--sign", "--wait"]
        code, out, err = medmark(*command)
        assert code == 0, err
        assert medmark(*command)[1].startswith("done before, nothing to do: ")
    (digest,) = store.folders(models)
    assert out.endswith(f"model: {digest}\n")
    assert store.list(f"{models}/{digest}").keys() == {
        "commitment.json", "lineage.json", "model.json", "model.onnx", "weights.safetensors",
    }  # fmt: skip
    owner = load_public(tmp_path / "keys" / "medmark.pub")
    chain = verify_chain(fetch_chain(f"{models}/{digest}", tmp_path / "chain", store), owner)
    assert chain["holds"] and chain["releases"][0]["parent"] == clean.digest, chain["broken"]
    fetched = fetch_model(f"{models}/{digest}", tmp_path / "model", store)
    assert fetched.stated["release_digest"] == clean.digest
    (kept,) = [name for name in private.folders(evidence) if name != "submissions"]
    fetch_evidence(f"{evidence}/{kept}", tmp_path / "evidence", private)
    verify_commitment(
        tmp_path / "model" / "commitment.json",
        owner,
        release_digest=digest,
        evidence_dir=tmp_path / "evidence",
    )
    (record,) = read_records(evidence, private)
    assert (record["pipeline"], record["release_digest"], record["result"]) == ("mark-segmenter", clean.digest, digest)
    client = mlflow.MlflowClient(services.mlflow)
    run = client.search_runs(experiments(services.mlflow), "tags.`medmark.kfp_run` != ''")
    assert "mark-segmenter" in {found.info.run_name for found in run}
    assert client.get_model_version_by_alias("lungs-segmenter", "released").tags["medmark.model_digest"] == digest
    audit = cluster.start(
        audit_segmenter,
        tmp_path / "audit",
        evidence_uri=f"{evidence}/{kept}",
        evidence_digest=kept,
        suspects=[f"{models}/{digest}/model.onnx"],
    )
    (suspect,) = json.loads((audit["audit"] / "audit-segmenter.json").read_bytes())["suspects"]
    assert suspect["verdict"] in ("not_owned", "inconclusive")  # after four steps


def test_a_release_is_submitted_locked_and_published(cluster, medmark, services, tmp_path):
    store, private = Store.from_environment(), Store.from_environment("evidence")
    make_fundus_phantoms(tmp_path / "fundus", count=60, size=64)
    ingest(tmp_path / "fundus", tmp_path / "clean", name="fundus", seed=1, image_mode="RGB", lesions=True)
    clean = publish(tmp_path / "clean", f"s3://{DROPS}/fundus", private)
    key = X25519PrivateKey.generate()
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "locking.pub").write_bytes(pem)
    (tmp_path / "logo.png").write_bytes(text_logos("NO")[0].png())
    private.put(tmp_path / "logo.png", f"s3://{DROPS}/logo.png")
    tiny = {"epochs": 2, "population": 6, "generations": 1, "segmenter_steps": 2, "removal_steps": 2}
    releases, evidence = f"s3://{RELEASES}/locked", f"s3://{EVIDENCE}/locks"
    with KfpApi() as server:
        server.run = learnt(cluster, "weak")
        command = ["submit", "lock-release", "--release-json", f"{clean.uri}/release.json", "--profile", "smoke"]
        command += [*(f"--set={name}={value}" for name, value in tiny.items()), "--endpoint", server.url]
        command += ["--set=unseen_architectures=small_cnn_wide", "--recipient", f"owner={tmp_path / 'locking.pub'}"]
        command += ["--logo", f"s3://{DROPS}/logo.png", "--publish", releases, "--publish-evidence", evidence]
        command += ["--publish-weak", "--sign", "--wait"]
        code, out, err = medmark(*command)
        assert code == 0, err
        assert medmark(*command)[1].startswith("done before, nothing to do: ")
    (digest,) = store.folders(releases)
    assert out.endswith(f"release: {digest}\n")
    public = {name for name in store.list(f"{releases}/{digest}") if not name.startswith("shards/")}
    assert public == {"certificates.json", "lineage.json", "release.json"}
    head = fetch_chain(f"{releases}/{digest}", tmp_path / "chain", store)
    checked = verify_chain(head, load_public(tmp_path / "keys" / "medmark.pub"))
    assert checked["holds"], checked["broken"]
    fetched = fetch_release(f"{releases}/{digest}", tmp_path / "fetched", store)
    assert fetched.parent == clean.digest
    (kept,) = [name for name in private.folders(evidence) if name != "submissions"]
    fetch_evidence(f"{evidence}/{kept}", tmp_path / "evidence", private)
    verdict = json.loads((tmp_path / "evidence" / "verdict.json").read_bytes())
    assert verdict["unlocked"]["exact"] == verdict["unlocked"]["images"] and verdict["lesions"]["covered_pixels"] == 0
    assert len(unlock_release(fetched.path, tmp_path / "evidence", tmp_path / "unlocked", key)) == len(fetched)
    image = next(iter(fetched.records()))
    (tmp_path / "image.png").write_bytes(image.image)
    given = (tmp_path / "evidence", image.image_id, tmp_path / "image.certificate.json")
    issue_certificate(fetched.path, *given)
    certified = verify_certificate(tmp_path / "image.png", given[2], load_public(tmp_path / "keys" / "medmark.pub"))
    assert certified["release_digest"] == digest
    (record,) = read_records(evidence, private)
    assert (record["pipeline"], record["release_digest"], record["result"]) == ("lock-release", clean.digest, digest)
    assert "lock-release" in {
        run.info.run_name for run in mlflow.MlflowClient(services.mlflow).search_runs(experiments(services.mlflow))
    }


def experiments(uri: str) -> list[str]:
    return [experiment.experiment_id for experiment in mlflow.MlflowClient(uri).search_experiments()]


def tracked(uri: str, pipeline: str) -> set[str]:
    """Digests of the releases that runs of a pipeline made, as MLflow tells them."""
    client = mlflow.MlflowClient(uri)
    runs = client.search_runs(experiments(uri))
    parents = {run.info.run_id for run in runs if run.info.run_name == pipeline}
    made = [run.data.tags for run in runs if run.data.tags.get("mlflow.parentRunId") in parents]
    return {tags["medmark.output.marked"].removeprefix("sha256:") for tags in made if "medmark.output.marked" in tags}
