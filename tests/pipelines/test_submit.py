"""``medmark submit`` and ``reconcile`` against a stand-in for the KFP API server, and the CI files."""

import datetime
import hashlib
import io
import ipaddress
import itertools
import json
import re
import shlex
import shutil
import socket
import ssl
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kfp import dsl
from kfp_api import KfpApi
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.base.image import RUNS_IN
from medmark.components.dataset.release import Release
from medmark.components.delivery.component import draw_secrets_component
from medmark.components.delivery.publish import fetch_evidence, fetch_model
from medmark.components.delivery.run_outputs import publish_run
from medmark.components.delivery.submission_records import new_record, read_records, write_record
from medmark.components.evidence.marked_model import read_marked_model
from medmark.components.evidence.secrets import read_secrets, seeds_of
from medmark.components.lineage.chain import fetch_chain, verify_chain
from medmark.components.lineage.commitment import verify_commitment
from medmark.components.lineage.events import public_record, step_event, write_steps
from medmark.components.lineage.keys import load_public, new_key
from medmark.components.locking.certificate import issue_certificate, verify_certificate
from medmark.components.segmentation.networks import build_segmenter, save_segmenter
from medmark.components.storage.place import parse
from medmark.components.storage.store import Store
from medmark.pipelines import cli
from medmark.pipelines.reconcile.component import reconcile_component
from medmark.pipelines.services import DROPS, EVIDENCE, RELEASES, down, up
from medmark.pipelines.submitting import kfp_server
from medmark.pipelines.submitting.cluster import ClusterTarget, submit_to_server
from medmark.pipelines.submitting.local import Target, made_in, submit_locally
from medmark.pipelines.submitting.submission import Submission, of_update_release
from medmark.pipelines.submitting.sweep import sweep

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / "manifests" / "ci"
NUMBERS = itertools.count()  # a prefix of its own for each test
TOKEN = "a-token-nobody-may-see"


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    folder = tmp_path_factory.mktemp("services")
    try:
        yield up(folder, mlflow_port=None)
    finally:
        down(folder)


@pytest.fixture
def store(services, images, monkeypatch):
    """The environment that the commands need, and the store of the releases."""
    for name, identity in (("MEDMARK_S3_CREDENTIALS", "release"), ("MEDMARK_S3_EVIDENCE_CREDENTIALS", "evidence")):
        monkeypatch.setenv(name, str(services.credentials[identity]))
    names = (
        "KFP_ENDPOINT",
        "KFP_TOKEN",
        "KF_PIPELINES_SA_TOKEN_PATH",
        "KFP_CA",
        "KFP_INSECURE",
        "KFP_NAMESPACE",
        RUNS_IN,
    )
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MEDMARK_IMAGES", str(images))
    monkeypatch.setattr(kfp_server, "POLL", 0.02)
    return Store.from_environment()


@pytest.fixture
def server():
    with KfpApi() as server:
        yield server


def put(store: Store, uri: str, content: bytes) -> None:
    place = parse(uri)
    store._client.put_object(place.bucket, place.prefix, io.BytesIO(content), len(content))


def put_release(store: Store, prefix: str, bucket: str = RELEASES, **manifest) -> str:
    """Only ``release.json``: a cluster reads the rest. Gives the address of its folder."""
    content = canonical_json({"name": "cxr", "version": "1", "parent": None, **manifest})
    place = f"s3://{bucket}/{prefix}/{hashlib.sha256(content).hexdigest()}"
    put(store, f"{place}/release.json", content)
    return place


@pytest.fixture
def clean(store):
    return put_release(Store.from_environment("evidence"), f"clean-{next(NUMBERS)}", DROPS)


@pytest.fixture
def mark(clean, server):
    return [
        "submit",
        "mark-release",
        "--release-json",
        f"{clean}/release.json",
        "--profile",
        "smoke",
        *("--publish", f"s3://{RELEASES}/out", "--publish-evidence", clean.replace(DROPS, EVIDENCE).rpartition("/")[0]),
        "--endpoint",
        server.url,
    ]


class Chain:
    """A marked release with evidence and keep, and a place for drops."""

    def __init__(self, store: Store, name: str):
        self.store, self.evidence_store = store, Store.from_environment("evidence")
        self.drops, self.evidence = f"s3://{DROPS}/{name}", f"s3://{EVIDENCE}/{name}"
        self.releases = f"s3://{RELEASES}/{name}/releases"
        self.head = self.publish("0" * 64, "1")

    def publish(self, parent: str, version: str) -> str:
        place = put_release(self.store, self.releases.removeprefix(f"s3://{RELEASES}/"), parent=parent, version=version)
        self.private = {}
        for what in ("evidence", "keep"):
            content = canonical_json({"release_digest": place[-64:], "seed": 7})
            self.private[what] = f"{self.evidence}/{hashlib.sha256(what.encode() + content).hexdigest()}"
            put(self.evidence_store, f"{self.private[what]}/{what}.json", content)
        return place

    def drop(self, name: str) -> str:
        for file in ("normal/a.png", "_SUCCESS"):
            put(self.evidence_store, f"{self.drops}/{name}/{file}", file.encode())
        return f"{self.drops}/{name}"

    def submit(self, name: str) -> list[str]:
        private = [part for what, uri in self.private.items() for part in (f"--{what}", uri)]
        return [
            "submit",
            "update-release",
            "--release-json",
            f"{self.head}/release.json",
            "--drop",
            f"{self.drops}/{name}/",
            *private,
            *("--publish", self.releases, "--publish-evidence", self.evidence),
        ]

    @property
    def reconcile(self) -> list[str]:
        return ["reconcile", "--drops", self.drops, "--releases", self.releases, "--evidence", self.evidence]


@pytest.fixture
def chain(store):
    return Chain(store, f"chain-{next(NUMBERS)}")


def test_a_release_is_submitted_once(medmark, mark, clean, server):
    code, out, err = medmark(*mark)
    assert code == 0 and err == ""
    name, link = re.fullmatch(r"submitted: (mark-release-[0-9a-f]{64})\n(.*)\n", out).groups()
    ((run_id, run),) = server.runs.items()
    assert run.display_name == name and link == f"{server.url}/#/runs/details/{run_id}"
    given = run.runtime_config.parameters
    assert given["source"] == clean and given["source_state"] == clean[-64:]
    assert "seed" not in given and "patients" not in given  # the run draws its secrets
    assert given["drawn_for"] == name[-64:]
    code, out, err = medmark(*mark)
    assert (code, err) == (0, "") and out == f"submitted before, nothing to do: {name}\n{link}\n"
    assert list(server.runs) == [run_id]
    assert medmark(*mark, "--set", "epochs=3")[0] == 0
    assert len({run.display_name for run in server.runs.values()}) == 2


DRAW = Path(__file__).parents[1] / "fixtures" / "draw-v1"


def test_a_drawing_reaches_the_run_by_its_address(medmark, mark, server, store, tmp_path):
    """Everybody with access to a run sees its parameters."""
    private = f"s3://{EVIDENCE}/drawing-{next(NUMBERS)}"
    for name in ("stamp.json", "stamp.commitment.tsr"):
        put(Store.from_environment("evidence"), f"{private}/{name}", (DRAW / name).read_bytes())
    options = ["--drawing", f"{private}/stamp.json", "--drawn-with", f"{private}/stamp.commitment.tsr"]
    assert medmark(*mark)[0] == medmark(*mark, *options)[0] == 0
    assert medmark(*mark, *options)[1].startswith("submitted before")
    without, run = server.runs.values()
    assert without.display_name != run.display_name and "drawing" not in without.runtime_config.parameters
    given = run.runtime_config.parameters
    assert given["drawing"] | {"state": ""} == {"file": options[1], "value": options[3], "state": ""}
    derived = json.loads((DRAW / "derived.json").read_bytes())["stamp"]
    hidden = [json.loads((DRAW / "stamp.json").read_bytes())["secret"], derived["mark_key"], str(derived["seed"])]
    assert not [text for text in hidden if text in str(given)]
    secrets = dsl.Artifact(uri=str(tmp_path / "secrets"), metadata={})
    draw_secrets_component.python_func(
        seed="", for_figures=False, patients={}, drawing=given["drawing"], drawn_for="run", secrets=secrets
    )
    assert read_secrets(secrets.path).seed == derived["seed"]


def test_a_seed_is_for_figures_only(tmp_path):
    """Whoever may see a run reads its parameters, and with the seed draws the key of the mark again."""
    secrets = dsl.Artifact(uri=str(tmp_path / "secrets"), metadata={})
    given = {"seed": "7", "patients": {}, "drawing": {}, "drawn_for": "run", "secrets": secrets}
    with pytest.raises(MedmarkError, match="a seed gives the key of the mark to everybody"):
        draw_secrets_component.python_func(for_figures=False, **given)
    assert not Path(secrets.path).exists()
    draw_secrets_component.python_func(for_figures=True, **given)
    assert read_secrets(secrets.path).seed == seeds_of(7)["seed"]


def test_secrets_are_drawn_for_somebody(tmp_path):
    """KFP's cache would give two runs the same secrets if neither says what they are for."""
    secrets = dsl.Artifact(uri=str(tmp_path / "secrets"), metadata={})
    given = {"seed": "", "for_figures": False, "patients": {}, "drawing": {}}
    with pytest.raises(MedmarkError, match="set drawn_for to the run's id"):
        draw_secrets_component.python_func(**given, drawn_for="", secrets=secrets)
    assert not Path(secrets.path).exists()


def test_a_drawing_that_cannot_be_used_is_not_submitted(medmark, mark, server):
    for options, said in [
        (["--drawing", DRAW / "stamp.json", "--drawn-with", DRAW / "stamp.commitment.tsr"], "the server cannot read"),
        (["--drawing", f"s3://{EVIDENCE}/none.json", "--drawn-with", f"s3://{EVIDENCE}/none.tsr"], "no such object"),
        (["--drawing", f"s3://{EVIDENCE}/none.json"], "go together"),
    ]:
        assert said in one_line(medmark(*mark, *options))
    assert not server.runs


def test_a_drawing_for_a_run_on_this_machine(medmark, mark, store, tmp_path, monkeypatch):
    given = []

    def work(out, **options):
        given.append(options)
        raise MedmarkError("stopped here")

    monkeypatch.setattr("medmark.pipelines.mark_release.run.run_mark_release", work)
    monkeypatch.setattr("medmark.pipelines.submitting.local.fetch_release", lambda *_: None)
    files = {"drawing": str(DRAW / "stamp.json"), "drawn_with": str(DRAW / "stamp.commitment.tsr")}
    options = ["--drawing", files["drawing"], "--drawn-with", files["drawn_with"], "--local", "--work", tmp_path / "w"]
    for more in (options, options[4:]):
        assert "stopped here" in one_line(medmark(*mark[:-2], *more))
    assert [{name: each[name] for name in files} for each in given] == [files, dict.fromkeys(files)]


FIXTURES = Path(__file__).parents[1] / "fixtures"
LOCKED, SEGMENTER = FIXTURES / "locked-v1", FIXTURES / "segmenter-v1"


@pytest.fixture
def places(request):
    """Where a test of this name publishes, as options."""
    name = f"{request.node.name}-{next(NUMBERS)}".replace("_", "-")
    return ["--publish", f"s3://{RELEASES}/{name}", "--publish-evidence", f"s3://{EVIDENCE}/{name}"]


def test_a_release_is_submitted_for_locking(medmark, clean, server, store, places):
    private = Store.from_environment("evidence")
    logo = f"s3://{EVIDENCE}/logo-{next(NUMBERS)}.png"
    put(private, logo, (LOCKED / "evidence" / "logo-0.png").read_bytes())
    lock = ["submit", "lock-release", "--release-json", f"{clean}/release.json", *places, "--endpoint", server.url]
    lock += ["--recipient", f"owner={LOCKED / 'owner' / 'locking.pub'}", "--set", "epochs=3"]
    code, out, err = medmark(*lock)
    assert (code, err) == (0, "") and out.startswith("submitted: lock-release-")
    assert medmark(*lock, "--publish-weak", "--sign")[1].startswith(
        "submitted before"
    )  # what goes out is not what is made
    (run,) = server.runs.values()
    given = run.runtime_config.parameters
    assert given["source"] == clean and given["source_state"] == clean[-64:]
    assert given["recipients"] == {"owner": (LOCKED / "owner" / "locking.pub").read_text()}
    assert given["profile"] == "standard" and given["overrides"]["epochs"] == 3 and given["text"] == "NOT FOR ANALYSIS"
    assert given["ingest_options"] == {"image_mode": "RGB"} and given["version"] == "1-locked"
    assert given["publish_uri"] == places[1] and given["publish_evidence_uri"] == places[3]
    assert "seed" not in given and "publish_weak" not in given and given["sign"] is False
    assert given["submission"]["key"] == run.display_name[-64:]
    assert medmark(*lock, "--logo", logo, "--publish-weak")[0] == 0
    given = list(server.runs.values())[-1].runtime_config.parameters
    sha256 = hashlib.sha256((LOCKED / "evidence" / "logo-0.png").read_bytes()).hexdigest()
    assert given["logos"] == [{"file": logo, "sha256": sha256}] and given["publish_weak"] is True
    assert len(server.runs) == 2


def test_a_segmenter_is_submitted(medmark, server, store, places, tmp_path):
    private = Store.from_environment("evidence")
    release = put_release(private, f"masked-{next(NUMBERS)}", DROPS, task="segmentation")
    trained = f"s3://{EVIDENCE}/trained-{next(NUMBERS)}.safetensors"
    weights = tmp_path / "trained.safetensors"
    save_segmenter(build_segmenter("unet", channels=1, size=64, seed=0), weights)
    put(private, trained, weights.read_bytes())
    mark = ["submit", "mark-segmenter", "--release-json", f"{release}/release.json", *places]
    mark += ["--text", "St. Anna", "--name", "lungs", "--endpoint", server.url]
    assert medmark(*mark)[1].startswith("submitted: mark-segmenter-")
    assert medmark(*mark)[1].startswith("submitted before")
    assert medmark(*mark, "--model", trained)[0] == 0
    without, given = (run.runtime_config.parameters for run in server.runs.values())
    assert "weights" not in without and without["text"] == "St. Anna" and without["name"] == "lungs"
    assert without["source"] == release and without["data_name"] == without["source_state"] == release[-64:]
    assert given["weights"] == trained and given["weights_sha256"] == file_sha256(weights)
    assert without["overrides"]["size"] == 128 and given["overrides"]["size"] == 64  # as the weights have it


def test_what_cannot_be_locked_or_marked_is_not_submitted(medmark, clean, server, store, places, tmp_path):
    masked = put_release(Store.from_environment("evidence"), f"masked-{next(NUMBERS)}", DROPS, task="segmentation")
    given = [*places, "--endpoint", server.url]
    own = ["--recipient", f"owner={LOCKED / 'owner' / 'locking.pub'}"]
    (tmp_path / "w.safetensors").touch()
    for command, said in [
        (
            ["lock-release", "--release-json", f"{masked}/release.json", *own],
            "for 'segmentation', not for classification",
        ),
        (["lock-release", "--release-json", f"{clean}/release.json", *own, "--text", ""], "text for a logo"),
        (
            ["lock-release", "--release-json", f"{clean}/release.json", *own, "--logo", "l.png"],
            "the server cannot read",
        ),
        (
            ["lock-release", "--release-json", f"{clean}/release.json", "--recipient", f"a={LOCKED / 'medmark.pub'}"],
            "not for locking",
        ),
        (["mark-segmenter", "--release-json", f"{clean}/release.json", "--text", "x"], "not for segmentation"),
        (["mark-segmenter", "--release-json", f"{masked}/release.json", "--text", "x" * 17], "1 to 16 printable bytes"),
        (
            [
                "mark-segmenter",
                "--release-json",
                f"{masked}/release.json",
                "--text",
                "x",
                "--model",
                tmp_path / "w.safetensors",
            ],
            "the server cannot read",
        ),
    ]:
        assert said in one_line(medmark("submit", *command, *given))
    assert not server.runs


def test_options_for_a_run_on_this_machine(medmark, clean, store, places, tmp_path, monkeypatch):
    seen = []

    def work(out, **options):
        seen.append(options)
        raise MedmarkError("stopped here")

    monkeypatch.setattr("medmark.pipelines.lock_release.run.run_lock_release", work)
    monkeypatch.setattr("medmark.pipelines.mark_segmenter.run.run_mark_segmenter", work)
    monkeypatch.setattr("medmark.pipelines.submitting.local.fetch_release", lambda *_: None)
    masked = put_release(Store.from_environment("evidence"), f"masked-{next(NUMBERS)}", DROPS, task="segmentation")
    here, logo, weights = ["--local", "--work", tmp_path / "w"], LOCKED / "evidence" / "logo-0.png", SEGMENTER / "model"
    lock = ["submit", "lock-release", "--release-json", f"{clean}/release.json", *places, *here, "--logo", logo]
    lock += ["--recipient", f"owner={LOCKED / 'owner' / 'locking.pub'}", "--profile", "smoke", "--set", "epochs=3"]
    assert "stopped here" in one_line(medmark(*lock))
    mark = ["submit", "mark-segmenter", "--release-json", f"{masked}/release.json", *places, *here, "--text", "x"]
    assert "stopped here" in one_line(medmark(*mark, "--model", weights / "weights.safetensors", "--version", "3"))
    locked, marked = seen
    assert locked["logos"] == [logo] and locked["recipients"].keys() == {"owner"} and locked["profile"] == "smoke"
    assert locked["settings"]["epochs"] == 3 and "text" not in locked and locked["version"] == "1-locked"
    assert locked["data"].endswith("/release") and locked["ingest_options"] == {"image_mode": "RGB"}
    assert marked["model"] == weights / "weights.safetensors" and (marked["text"], marked["version"]) == ("x", "3")


class Finished:
    """Stands in for a run on this machine: copies what an earlier one made."""

    def __init__(self, fixture: Path, what: str, verdict: dict, monkeypatch):
        self.fixture, self.what, self.verdict, self.ran = fixture, what, {"reasons": ["too weak"], **verdict}, 0
        monkeypatch.setattr("medmark.pipelines.submitting.local.fetch_release", lambda *_: None)

    def __call__(self, submission, inputs: Path, out: Path, debug: bool) -> dict:
        self.ran += 1
        for name in (self.what, "evidence"):
            shutil.copytree(self.fixture / name, out / name)
        return self.verdict


def made_record(out: Path, before: dict, made: dict, verdict: str) -> None:
    """Writes ``record.json`` of a run with two steps: the second one makes what goes out."""
    ingest = step_event("ingest", inputs={"source": "0" * 64}, outputs=before, source_files=4, parameters={}, seed=1)
    steps = write_steps(out, [ingest, step_event("make", inputs=before, outputs=made, parameters={}, seed=1)])
    record = public_record(made_in(out), steps, verdict=verdict)
    (out / "record.json").write_bytes(canonical_json(record))


@pytest.fixture
def target(store, places, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDMARK_KEY_PASSPHRASE", "correct horse battery")
    new_key(tmp_path / "keys", "correct horse battery")
    private, key = Store.from_environment("evidence"), tmp_path / "keys" / "medmark.key"
    return Target(places[1], places[3], store, private, tmp_path / "work", key)


def test_an_unsafe_lock_never_goes_out_and_a_weak_one_if_its_owner_says_so(target, store, tmp_path, monkeypatch):
    release = Release(LOCKED / "release")
    submission = Submission("lock-release", f"s3://{DROPS}/{release.parent}", release.parent, "1", {})

    class Locks(Finished):
        def __call__(self, submission, inputs, out, debug):
            verdict = super().__call__(submission, inputs, out, debug)
            (out / "release" / "certificates.json").unlink()  # signed when it goes out
            made_record(out, {"clean": release.parent}, {"release": release.digest}, verdict["verdict"])
            return verdict

    def submit(run, **changes):
        return submit_locally(submission, replace(target, **changes), runners={"lock-release": run})

    unsafe = Locks(LOCKED, "release", {"verdict": "unsafe", "release_digest": release.digest}, monkeypatch)
    for leave in (False, True):
        with pytest.raises(MedmarkError, match="verdict 'unsafe', nothing is published: too weak; see ") as refused:
            submit(unsafe, publish_weak=leave, work=tmp_path / "unsafe")
        assert "--publish-weak" not in str(refused.value)
    weak = Locks(LOCKED, "release", {"verdict": "weak", "release_digest": release.digest}, monkeypatch)
    with pytest.raises(MedmarkError, match="verdict 'weak', nothing is published: too weak; give --publish-weak if"):
        submit(weak)
    assert not store.list(target.releases) and not target.evidence_store.list(target.evidence)
    record, new = submit(weak, publish_weak=True)
    assert new and record["result"] == release.digest and weak.ran == 1  # the finished run was kept
    assert not submit(weak)[1]
    head = fetch_chain(f"{target.releases}/{release.digest}", tmp_path / "chain", store)
    checked = verify_chain(head, load_public(tmp_path / "keys" / "medmark.pub"))
    assert checked["holds"], checked["broken"]
    image = next(iter(release.records()))
    (tmp_path / "image.png").write_bytes(image.image)
    issue_certificate(head, LOCKED / "evidence", image.image_id, tmp_path / "c.json")
    verify_certificate(tmp_path / "image.png", tmp_path / "c.json", load_public(tmp_path / "keys" / "medmark.pub"))
    (kept,) = [name for name in target.evidence_store.folders(target.evidence) if name != "submissions"]
    names = set(target.evidence_store.list(f"{target.evidence}/{kept}"))
    assert names >= {"evidence.json", "locks.parquet", "grants.json"}
    assert not names & set(store.list(f"{target.releases}/{release.digest}"))


def test_a_marked_model_goes_out_with_its_commitment(target, store, tmp_path, monkeypatch):
    model = read_marked_model(SEGMENTER / "model")
    trained_on = model.stated["release_digest"]
    submission = Submission("mark-segmenter", f"s3://{DROPS}/{trained_on}", trained_on, "1", {})
    verdict = {"verdict": "owned", "model_digest": model.digest, "release_digest": trained_on}

    class Segmenter(Finished):
        def __call__(self, submission, inputs, out, debug):
            said = super().__call__(submission, inputs, out, debug)
            made_record(out, {"clean": trained_on}, {"marked": model.digest}, said["verdict"])
            return said

    def submit(to=target, **said):
        run = Segmenter(SEGMENTER, "model", {**verdict, **said}, monkeypatch)
        return submit_locally(submission, to, runners={"mark-segmenter": run})[0]

    with pytest.raises(MedmarkError, match="verdict 'inconclusive', nothing is published"):
        submit(replace(target, publish_weak=True, work=tmp_path / "not"), verdict="inconclusive")
    with pytest.raises(MedmarkError, match="verdict of another model than"):
        submit(replace(target, work=tmp_path / "other"), model_digest="0" * 64)
    assert not store.list(target.releases)
    assert submit()["result"] == model.digest
    assert set(store.list(f"{target.releases}/{model.digest}")) == {
        "commitment.json", "lineage.json", "model.json", "model.onnx", "weights.safetensors",
    }  # fmt: skip
    (kept,) = [name for name in target.evidence_store.folders(target.evidence) if name != "submissions"]
    fetch_model(f"{target.releases}/{model.digest}", tmp_path / "model", store)
    fetch_evidence(f"{target.evidence}/{kept}", tmp_path / "evidence", target.evidence_store)
    given = {"release_digest": model.digest, "evidence_dir": tmp_path / "evidence"}
    public_key = load_public(tmp_path / "keys" / "medmark.pub")
    assert verify_commitment(tmp_path / "model" / "commitment.json", public_key, **given)["evidence_checked"]
    head = fetch_chain(f"{target.releases}/{model.digest}", tmp_path / "chain", store)
    assert verify_chain(head, public_key)["holds"]


def test_nothing_goes_out_unsigned_that_was_to_be_signed(target, store, tmp_path):
    (tmp_path / "signatures").mkdir()
    with pytest.raises(MedmarkError, match="no signatures"):
        publish_run(
            {"verdict": "owned", "model_digest": read_marked_model(SEGMENTER / "model").digest},
            SEGMENTER / "model",
            SEGMENTER / "evidence",
            signatures_dir=tmp_path / "signatures",
            releases=target.releases,
            evidence=target.evidence,
            store=store,
            evidence_store=target.evidence_store,
            submission=None,
        )
    assert not store.list(target.releases)


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "CANCELING"])
def test_what_failed_is_submitted_again(medmark, mark, server, state, monkeypatch):
    monkeypatch.setattr(kfp_server, "PAGE", 1)
    medmark(*mark)
    (run,) = server.runs.values()
    run.state = state
    assert medmark(*mark)[1].startswith("submitted: ")
    assert server.state(run.display_name) == [state, "PENDING"]
    assert medmark(*mark, "--anew")[1].startswith("submitted before")  # found on the second page
    (_, run) = server.runs.values()
    run.state = state
    assert medmark(*mark, "--anew")[1].startswith("submitted: ")
    cached = [
        [options["enableCache"] for options in caching_options(run.pipeline_spec["pipeline_spec"]) if options]
        for run in server.runs.values()
    ]
    assert cached[0] and all(cached[0]) and cached == [cached[0], cached[0], []]


def caching_options(spec: dict) -> list[dict]:
    dags = [one["dag"] for one in (spec["root"], *spec["components"].values()) if "dag" in one]
    return [task.get("cachingOptions", {}) for dag in dags for task in dag["tasks"].values()]


def test_a_list_of_runs_without_end(medmark, mark, server, monkeypatch):
    medmark(*mark)
    monkeypatch.setattr(kfp_server, "MAX_PAGES", 3)
    endless = json.dumps({"runs": [], "next_page_token": "on"}).encode()
    server.answer = lambda path: (200, "application/json", endless) if path.endswith("/runs") else None
    assert "more than 3 pages of runs" in one_line(medmark(*mark))


def record_of(run, result: str | None) -> None:
    """Writes the record of a run, as its last step does."""
    given = run.runtime_config.parameters
    write_record(
        new_record(given["submission"], result), given["publish_evidence_uri"], Store.from_environment("evidence")
    )


def test_waiting_for_a_run(medmark, mark, server):
    server.states = ["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]
    code, out, err = medmark(*mark, "--wait")
    assert code == 1 and out.startswith("submitted: ") and "left no record in s3://" in err
    assert re.findall(r": ([A-Z]+) after \d+ s\n", err) == ["PENDING", "RUNNING", "SUCCEEDED"]
    (run,) = server.runs.values()
    record_of(run, "5" * 64)
    code, out, err = medmark(*mark, "--wait")
    assert (code, err) == (0, "")
    assert out == f"done before, nothing to do: submission {run.display_name[-64:]}\nrelease: {'5' * 64}\n"


@pytest.mark.parametrize("state", ["FAILED", "CANCELED", "SKIPPED"])
def test_waiting_for_a_run_that_does_not_succeed(medmark, mark, server, state):
    server.states, server.error = ["RUNNING", state], "step poison failed:\nno space\x1b[31m"
    code, _, err = medmark(*mark, "--wait")
    assert code == 1
    reason = "step poison failed: no space" if state == "FAILED" else "no reason given"
    assert re.search(
        rf"medmark: run {state}: {reason}.*; see {server.url}/#/runs/.*submit again, which goes on with what succeeded\n$",
        err,
    )
    assert "\x1b" not in err


def test_waiting_has_an_end(medmark, mark, server):
    server.states = ["RUNNING"]
    code, _, err = medmark(*mark, "--wait", "--timeout", "0.1")
    assert code == 1 and "still RUNNING after 0.1 s" in err and "the same command waits again" in err


def test_waiting_outlasts_a_server_that_is_away_for_a_moment(medmark, mark, server, monkeypatch):
    server.states = ["RUNNING", "SUCCEEDED"]
    server.created = lambda: [record_of(run, None) for run in server.runs.values()]
    away = iter([True, True, True])
    server.answer = lambda path: (
        (502, "text/html", b"<h1>Bad Gateway</h1>") if "/runs/" in path and next(away, None) else None
    )
    code, out, _ = medmark(*mark, "--wait")
    assert code == 0 and out.endswith("release: nothing changed, nothing published\n")
    server.answer = lambda path: (502, "text/html", b"<h1>Bad Gateway</h1>") if "/runs/" in path else None
    code, _, err = medmark(*mark, "--set", "epochs=3", "--wait")  # a new run
    assert code == 1 and "fails (502" in err.splitlines()[-1]


def test_two_that_submit_at_once_leave_one_run(store, server):
    server.created = threading.Barrier(2, timeout=20).wait
    submission = Submission("mark-release", "s3://b/" + "1" * 64, "1" * 64, "1", {"profile": "smoke", "version": "1"})
    given = (f"s3://{RELEASES}/out", f"s3://{EVIDENCE}/out", Store.from_environment("evidence"))
    targets, results = [ClusterTarget(kfp_server.KfpServer(server.url, images={}), *given) for _ in range(2)], []

    def submit(number):
        results.append(submit_to_server(submission, targets[number]))

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(new for _, new in results) == [False, True]
    assert len({run.run_id for run, _ in results}) == 1
    assert sorted(server.state(submission.name)) == ["CANCELING", "PENDING"]


def test_an_update_is_submitted_with_its_drop(medmark, chain, server):
    chain.drop("2026-11-20")
    submit = [*chain.submit("2026-11-20"), "--endpoint", server.url]
    code, out, _ = medmark(*submit)
    assert code == 0 and out.startswith("submitted: update-release-")
    (run,) = server.runs.values()
    given = run.runtime_config.parameters
    assert given["source"] == f"{chain.drops}/2026-11-20"
    assert (given["previous_uri"], given["previous_digest"]) == (chain.head, chain.head[-64:])
    assert (given["evidence_uri"], given["keep_uri"]) == (chain.private["evidence"], chain.private["keep"])
    assert given["version"] == "2" and given["seed"] == int(chain.head[-64:][:12], 16)
    assert medmark(*submit)[1].startswith("submitted before")
    put(chain.evidence_store, f"{chain.drops}/2026-11-20/normal/b.png", b"one more")
    assert medmark(*submit)[1].startswith("submitted: ")
    assert len(server.runs) == 2


def test_reconcile_submits_and_waits_for_the_release(medmark, chain, server):
    """The runs' own work is done by hand; tests/e2e/test_cluster.py does it."""
    server.states = ["SUCCEEDED"]
    command = [*chain.reconcile, "--endpoint", server.url]
    assert medmark(*command)[1] == f"no drop in {chain.drops}\n"
    first = chain.head
    for name in "abc":
        chain.drop(name)
    made = iter([True, False, True])

    def published():
        changed = next(made)
        if changed:
            chain.head = chain.publish(chain.head[-64:], str(len(server.runs) + 1))
        record_of(list(server.runs.values())[-1], chain.head[-64:] if changed else None)

    server.created = published
    code, out, _ = medmark(*command)
    second, third = [run.runtime_config.parameters["previous_digest"] for run in server.runs.values()][1:]
    assert code == 0 and second == third != first[-64:]
    assert out.splitlines() == [
        f"a: done on top of {first[-64:]}, release {second}",
        f"b: done on top of {second}, nothing changed",
        f"c: done on top of {second}, release {chain.head[-64:]}",
    ]
    assert all(line.split(": ")[1].startswith("done before") for line in medmark(*command)[1].splitlines())
    assert len(server.runs) == 3 and len(read_records(chain.evidence, chain.evidence_store)) == 3


def test_reconcile_stops_when_a_run_fails(medmark, chain, server):
    server.states = ["FAILED"]
    chain.drop("a")
    code, _, err = medmark(*chain.reconcile, "--endpoint", server.url)
    assert code == 1 and "drop a: run FAILED: a step failed; see" in err and "run the same command again" in err


@pytest.fixture
def nightly(chain, server):
    return [*chain.reconcile, "--endpoint", server.url, "--cron", "17 2 * * *"]


def test_sweeps_are_scheduled_once_and_replace_what_was_scheduled_before(medmark, chain, server, nightly, monkeypatch):
    for name in ("MEDMARK_S3_CREDENTIALS", "MEDMARK_S3_EVIDENCE_CREDENTIALS"):
        monkeypatch.delenv(name)  # the sweep has those of its namespace
    code, out, err = medmark(*nightly)
    assert (code, err) == (0, "")
    ((first, run),) = server.recurring.items()
    link = f"{server.url}/#/recurringrun/details/"
    said = f"sweeps of {chain.drops} at '17 2 * * *', {run.display_name}\n{link}"
    assert out == f"scheduled: {said}{first}\n"
    assert run.trigger.cron_schedule.cron == "0 17 2 * * *"  # the server's first field is for seconds
    assert (run.max_concurrency, run.no_catchup, run.status) == ("1", True, "ENABLED")
    assert medmark(*nightly)[1] == f"scheduled before, nothing to do: {said}{first}\n"
    assert list(server.recurring) == [first] and not server.runs
    code, out, _ = medmark(*nightly, "--sign")
    ((second, run),) = server.recurring.items()
    assert (
        out == f"scheduled, 1 earlier one replaced: {said}{second}\n" and run.runtime_config.parameters["sign"] is True
    )
    assert server.orphaned == [first]  # its sweep that is on its way goes on
    run.status = "DISABLED"
    assert medmark(*nightly, "--sign")[1].startswith("scheduled, 1 earlier one replaced: ")
    ((third, run),) = server.recurring.items()
    server.recurring["left"] = replace_run(run, recurring_run_id="left", description="by hand")
    assert medmark(*nightly, "--sign")[1].startswith("scheduled before, nothing to do, 1 other removed: ")
    others = [*nightly[:2], f"{chain.drops}-others", *nightly[3:]]
    assert medmark(*others)[1].startswith("scheduled: ")
    assert len(server.recurring) == 2 and third in server.recurring


def replace_run(run, **changes):
    return type(run)(**{name: getattr(run, name) for name in run.openapi_types} | changes)


def in_a_pod(server, chain, **changes) -> list[str]:
    """What the step of a sweep does in its own process."""
    given = dict(zip(("drops", "releases", "evidence"), chain.reconcile[2::2], strict=True)) | {"endpoint": server.url}
    rest = {"drop_options": {}, "sign": True, "namespace": "", "pipeline_root": "", "service_account": "", "pods": {}}
    return sweep(**given | rest | {"timeout": 60.0} | changes)


def test_a_scheduled_sweep_does_what_the_command_does(medmark, chain, server, nightly, tmp_path, monkeypatch):
    (tmp_path / "pods.yaml").write_text("steps: {labels: {team: cxr}, retries: 2}\n")
    given = ["--pods", tmp_path / "pods.yaml", "--pipeline-root", "s3://private/kfp", "--service-account", "marker"]
    assert medmark(*nightly, *given, "--sweep-account", "sweeper", "--inside", server.url)[0] == 0
    (recurring,) = server.recurring.values()
    chain.drop("a")
    first = chain.head
    server.states = ["SUCCEEDED"]

    def published():
        if len(server.runs) > 1:
            chain.head = chain.publish(chain.head[-64:], str(len(server.runs)))
            record_of(list(server.runs.values())[-1], chain.head[-64:])

    server.created = published
    fired = server.fire(recurring.recurring_run_id)
    assert fired.service_account == "sweeper"
    spec, platform = fired.pipeline_spec["pipeline_spec"], fired.pipeline_spec["platform_spec"]
    ((label, executor),) = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items()
    assert executor["podMetadata"]["labels"] == {"access-ml-pipeline": "true", "team": "cxr"}
    (task,) = spec["root"]["dag"]["tasks"].values()
    assert "retryPolicy" not in task and task["cachingOptions"] == {}
    for variable in spec["deploymentSpec"]["executors"][label]["container"]["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    assert reconcile_component.python_func(**fired.runtime_config.parameters) == [
        f"a: done on top of {first[-64:]}, release {chain.head[-64:]}"
    ]
    _, run = server.runs.values()
    assert run.runtime_config.pipeline_root == "s3://private/kfp" and run.service_account == "marker"
    assert run.display_name.startswith("update-release-") and run.runtime_config.parameters["sign"] is False
    executors = run.pipeline_spec["pipeline_spec"]["deploymentSpec"]["executors"].values()
    assert {e["container"]["image"] for e in executors} == {f"registry.example/medmark@sha256:{64 * 'a'}"}
    asked = run.pipeline_spec["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    assert {e["podMetadata"]["labels"]["team"] for e in asked} == {"cxr"}
    tasks = run.pipeline_spec["pipeline_spec"]["root"]["dag"]["tasks"].values()
    assert {t["retryPolicy"]["maxRetryCount"] for t in tasks if "component" in t["componentRef"]["name"]} == {2}
    assert medmark(*nightly[:-2])[1].splitlines()[-1].startswith("a: done before, ") and len(server.runs) == 2


def test_sweeps_of_server_and_command_at_once_submit_a_drop_once(medmark, chain, server, monkeypatch):
    monkeypatch.setenv(RUNS_IN, f"registry.example/medmark@sha256:{64 * 'a'}")
    server.states = ["RUNNING"]
    chain.drop("a")
    for _ in range(2):
        with pytest.raises(MedmarkError, match="drop a: run still RUNNING after 0.1 s"):
            in_a_pod(server, chain, timeout=0.1)
        assert "drop a: run still RUNNING" in medmark(*chain.reconcile, "--endpoint", server.url, "--timeout", "0.1")[2]
    assert len(server.runs) == 1


def test_a_sweep_in_a_pod_has_the_token_that_kubeflow_gives_it(chain, tmp_path, monkeypatch):
    monkeypatch.setenv(RUNS_IN, "any@sha256:" + 64 * "a")
    with KfpApi(token=TOKEN, multi_user=True) as server:
        monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
        with pytest.raises(
            MedmarkError, match="unreadable token: .*; correct KF_PIPELINES_SA_TOKEN_PATH, or set KFP_TOKEN"
        ):
            in_a_pod(server, chain, namespace="team")
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        assert in_a_pod(server, chain, namespace="team") == [f"no drop in {chain.drops}"]
        with pytest.raises(MedmarkError, match="serves several users"):
            in_a_pod(server, chain)


def test_a_sweep_in_a_pod_says_what_it_lacks(chain, server, monkeypatch):
    for changes, says in [
        ({}, "no image for the runs; compile the pipeline with 'medmark compile', which sets MEDMARK_IMAGE"),
        ({"pods": {"all": {}}}, "no pods in the parameter pods"),
        ({"pods": {"steps": {"retries": 1.5}}}, "retries is 1.5; write a whole number"),
        ({"evidence": f"s3://{RELEASES}/x"}, "bucket"),
        ({"pipeline_root": f"s3://{RELEASES}/kfp"}, "in the bucket of the releases"),
    ]:
        with pytest.raises(MedmarkError, match=says):
            in_a_pod(server, chain, **changes)
        monkeypatch.setenv(RUNS_IN, "any@sha256:" + 64 * "a")
    assert not server.runs


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("0 17 2 * * *", "give five fields, such as '17 2 * * *'"),
        ("@daily", "no cron expression: '@daily'"),
        ("17 2 * * $(id)", "no cron expression"),
        ("", "no cron expression"),
    ],
)
def test_times_are_given_as_in_a_crontab(medmark, nightly, server, cron, says):
    """The server would take six fields, and of five the minute for the second."""
    assert says in one_line(medmark(*nightly[:-1], cron))
    assert not server.recurring


def test_only_a_server_is_told_when_to_sweep(medmark, chain, nightly, server):
    assert "let this machine's own scheduler" in one_line(medmark(*nightly, "--local"))
    assert "give --cron, too" in one_line(medmark(*nightly[:-2], "--inside", server.url))
    assert "give --cron, too" in one_line(medmark(*nightly[:-2], "--sweep-account", "sweeper"))
    assert "give --local, or --endpoint" in one_line(medmark(*chain.reconcile, "--cron", "17 2 * * *"))
    assert not server.recurring


def test_the_key_is_another_for_other_input(chain):
    def submission(**changes):
        given = {
            "drop": f"{chain.drops}/a",
            "drop_store": chain.evidence_store,
            **chain.private,
            "options": {"uncertain": "ones"},
        }
        return of_update_release(f"{chain.head}/release.json", chain.store, **{**given, **changes})

    chain.drop("a")
    base = submission()
    assert submission().key == base.key
    others = [
        submission(options={"uncertain": "zeros"}),
        submission(version="2"),
        replace(base, release_digest="1" * 64),
    ]
    put(chain.evidence_store, f"{chain.drops}/a/_SUCCESS", b"says nothing of the content")
    assert submission().key == base.key
    put(chain.evidence_store, f"{chain.drops}/a/normal/a.png", b"NORMAL/A.PNG")  # as long as before
    others.append(submission())
    put(chain.evidence_store, f"{chain.drops}/a/normal/b.png", b"")
    others.append(submission())
    others += [replace(base, pipeline="mark-release"), replace(base, drop=replace(base.drop, uri=f"{chain.drops}/b"))]
    assert len({base.key, *(other.key for other in others)}) == len(others) + 1


def one_line(result) -> str:
    code, out, err = result
    assert code == 1 and out == "" and err.startswith("medmark: ") and err.count("\n") == 1, (out, err)
    assert TOKEN not in err
    return err


def test_a_server_that_does_not_answer(medmark, mark, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    started = time.monotonic()
    assert "is it up? check the address" in one_line(medmark(*mark[:-1], f"http://127.0.0.1:{port}"))
    monkeypatch.setattr(kfp_server, "TIMEOUT", (0.3, 0.3))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no answer from" in one_line(medmark(*mark[:-1], f"http://127.0.0.1:{silent.getsockname()[1]}"))
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "status, kind, body, says",
    [
        (200, "text/html", b"<html>some site</html>", "no KFP API server's answer"),
        (200, "application/json", b"[1, 2]", "no KFP API server's answer"),
        (200, "application/json", b'{"experiments": [{"storage_state": "NONSENSE"}]}', "no KFP API server's answer"),
        (200, "application/json", b"\xff\xfe\x00", "no KFP API server's answer"),
        (500, "application/json", b'{"message": "database\\nis down"}', "fails (500 database is down); see its log"),
        (503, "text/plain", b"upstream", "fails (503"),
        (404, "text/html", b"<h1>nothing here</h1>", "refused by"),
        (302, "text/html", b"login", "refused by"),
    ],
)
def test_a_server_that_answers_something_else(medmark, mark, server, status, kind, body, says):
    server.answer = lambda path: (status, kind, body)
    assert says in one_line(medmark(*mark))


def test_the_token_comes_from_the_environment_and_is_not_shown(medmark, mark, monkeypatch):
    with KfpApi(token=TOKEN) as server:
        command = [*mark[:-1], server.url]
        assert "set KFP_TOKEN" in one_line(medmark(*command))
        monkeypatch.setenv("KFP_TOKEN", TOKEN + "-old")  # the server's answer quotes it
        error = one_line(medmark(*command))
        assert "***" in error and "set KFP_TOKEN" in error
        monkeypatch.setenv("KFP_TOKEN", TOKEN)
        code, out, err = medmark(*command)
        assert code == 0 and TOKEN not in out + err
    for pipeline in ("mark-release", "update-release", "lock-release", "mark-segmenter"):
        words = medmark("submit", pipeline, "--help")[1].lower().split()
        assert "--endpoint" in words and not any("token" in word for word in words if word.startswith("--"))


def test_http_only_to_this_machine(medmark, mark, monkeypatch):
    assert "http to another machine: kfp.example" in one_line(medmark(*mark[:-1], "http://kfp.example"))
    for endpoint in ("kfp.example", "ftp://kfp.example", "https://user:secret@kfp.example", "http://[::1"):
        error = one_line(medmark(*mark[:-1], endpoint))
        assert "not an endpoint" in error and "secret" not in error


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed one for 127.0.0.1."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kfp")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1)).add_extension(address, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem, secret = folder / "ca.pem", folder / "key.pem"
    pem.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    secret.write_bytes(key.private_bytes(*plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    return pem, context


def test_certificates_are_checked(medmark, mark, tmp_path, monkeypatch):
    pem, context = certificate(tmp_path)
    with KfpApi(tls=context) as server:
        command = [*mark[:-1], server.url]
        assert "set KFP_CA to its authority's PEM file" in one_line(medmark(*command))
        assert server.runs == {}
        monkeypatch.setenv("KFP_CA", str(pem))
        assert medmark(*command)[0] == 0
        monkeypatch.setenv("KFP_CA", str(tmp_path / "absent"))
        assert "no file of certificate authorities" in one_line(medmark(*command))


def test_a_server_with_several_users_wants_a_namespace(medmark, mark):
    with KfpApi(multi_user=True) as server:
        command = [*mark[:-1], server.url]
        assert "name yours with --namespace" in one_line(medmark(*command))
        assert medmark(*command, "--namespace", "team")[0] == 0
        assert [e.namespace for e in server.experiments.values()] == ["team"]
        assert medmark(*command, "--namespace", "team")[1].startswith("submitted before")


def test_a_run_has_the_image_that_was_given(medmark, mark, server, images, monkeypatch):
    monkeypatch.delenv("MEDMARK_IMAGES")
    code, _, err = medmark(*mark)
    assert code == 1 and "which is not pinned" in err and not server.runs
    assert medmark(*mark, "--images", images)[0] == 0
    (run,) = server.runs.values()
    executors = run.pipeline_spec["pipeline_spec"]["deploymentSpec"]["executors"].values()
    assert {e["container"]["image"] for e in executors} == {f"registry.example/medmark@sha256:{64 * 'a'}"}


def test_a_run_has_the_pipeline_root_and_the_service_account_that_were_given(medmark, mark, server):
    given = ["--pipeline-root", "s3://private/kfp", "--service-account", "marker"]
    assert medmark(*mark, *given)[0] == 0
    (run,) = server.runs.values()
    assert run.runtime_config.pipeline_root == "s3://private/kfp" and run.service_account == "marker"


@pytest.mark.parametrize(
    ("root", "why"),
    [
        ("private/kfp", "is no address"),
        ("s3:///kfp", "is no address"),
        (f"s3://{RELEASES}/kfp", "in the bucket of the releases"),
        (f"minio://{RELEASES}", "in the bucket of the releases"),
    ],
)
def test_what_the_steps_pass_on_does_not_lie_beside_the_releases(medmark, mark, server, root, why):
    """Secrets, evidence and unmarked images are among it."""
    assert why in one_line(medmark(*mark, "--pipeline-root", root))
    assert server.runs == {}


@pytest.mark.parametrize(
    "arguments, remedy",
    [
        (["mark-release"], "give --local, or --endpoint"),
        (["mark-release", "--local", "--sign"], "with --local give the key with --key"),
        (["mark-release", "--endpoint", "https://kfp", "--key", "medmark.key"], "store it there as the secret"),
    ],
)
def test_wrong_arguments(medmark, store, arguments, remedy):
    places = [
        "--release-json",
        f"s3://b/{'1' * 64}/release.json",
        "--publish",
        "s3://b/r",
        "--publish-evidence",
        "s3://e/r",
    ]
    assert remedy in one_line(medmark("submit", *arguments, *places))


@pytest.mark.parametrize(
    "arguments, missing",
    [(["train"], "train"), (["mark-release", "--drop", "s3://raw/a"], "--drop"), (["update-release"], "--drop")],
)
def test_each_pipeline_takes_its_own_options(medmark, arguments, missing):
    places = ["--release-json", "s3://b/r", "--publish", "s3://b/r", "--publish-evidence", "s3://e/r", "--local"]
    code, out, err = medmark("submit", *arguments, *places)
    assert code == 2 and out == "" and missing in err


def test_an_update_needs_addresses_with_digests(medmark, chain, server):
    chain.drop("a")
    submit = [*chain.submit("a"), "--endpoint", server.url]
    submit[submit.index("--keep") + 1] = chain.evidence
    assert "no digest at the end of --keep" in one_line(medmark(*submit))
    assert "no raw file in" in one_line(medmark(*chain.submit("absent"), "--endpoint", server.url))


def scripts() -> dict[str, list[str]]:
    """Lines of shell in the CI files, by job."""
    github = yaml.safe_load((CI / "github-actions.yaml").read_text())
    gitlab = yaml.safe_load((CI / "gitlab-ci.yaml").read_text())
    found = {
        f"github {name}": [line for step in job["steps"] for line in step.get("run", "").splitlines()]
        for name, job in github["jobs"].items()
    }
    for name, job in gitlab.items():
        if isinstance(job, dict) and "script" in job:
            found[f"gitlab {name}"] = [line for part in job["script"] for line in part.splitlines()]
    return found


def medmark_commands() -> list[list[str]]:
    lines = [line for job in scripts().values() for line in "\n".join(job).replace("\\\n", " ").splitlines()]
    return [shlex.split(line.strip()) for line in lines if line.strip().startswith("medmark ")]


def test_the_commands_of_the_ci_files_are_ones_that_medmark_has():
    import click
    import typer

    root = typer.main.get_command(cli.app)
    commands = medmark_commands()
    assert {tuple(words[1:2]) for words in commands} == {("submit",), ("reconcile",)} and len(commands) == 4
    for _, name, *arguments in commands:
        filled = [re.sub(r"\$\{?(\w+)\}?", r"\1", word) for word in arguments]
        with click.Context(root) as context:
            command = root.commands[name]
            if name == "submit":
                command, (name, *filled) = command.commands[filled[0]], filled
            command.make_context(name, filled, parent=context)  # refuses unknown and missing options


def test_ci_files_run_one_at_a_time_and_on_schedule():
    github = yaml.safe_load((CI / "github-actions.yaml").read_text())
    assert set(github[True]) == {"repository_dispatch", "schedule", "workflow_dispatch"}  # YAML reads "on" as true
    assert github["concurrency"]["group"] and github["concurrency"]["cancel-in-progress"] is False
    assert github["permissions"] == {"contents": "read"}
    uses = [step["uses"] for job in github["jobs"].values() for step in job["steps"] if "uses" in step]
    assert uses and all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", use) for use in uses)
    gitlab = yaml.safe_load((CI / "gitlab-ci.yaml").read_text())
    jobs = [job for job in gitlab.values() if isinstance(job, dict) and "script" in job]
    assert len({job["resource_group"] for job in jobs}) == 1 and all(job["interruptible"] is False for job in jobs)
    triggers = {rule["if"] for job in jobs for rule in job["rules"]}
    assert {'$CI_PIPELINE_SOURCE == "schedule"', '$CI_PIPELINE_SOURCE == "trigger"'} <= triggers


def test_ci_files_keep_secrets_off_the_command_line():
    for job, lines in scripts().items():
        text = "\n".join(lines)
        assert "${{" not in text, job  # what comes from outside would become shell
        assert not re.search(r"(?i)(token|passphrase|secret_key|access_key)\s*[= ]", text), job
        assert "set -x" not in text and "--debug" not in text, job
    github = (CI / "github-actions.yaml").read_text()
    for name in ("MEDMARK_S3_SECRET_KEY", "MEDMARK_S3_EVIDENCE_SECRET_KEY", "MEDMARK_KEY_PASSPHRASE"):
        assert re.search(rf"{name}: \$\{{\{{ secrets\.{name} \}}\}}", github)
