"""Commands on places in a real SeaweedFS: what is given and made there is what a folder would hold."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx.numpy_helper
import onnx.parser
import pytest
from made_up_evidence import write_evidence
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset import release_writer as release_format
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.phantoms import make_phantoms
from medmark.components.dataset.pseudonyms import kept_patient_key
from medmark.components.dataset.release import Release
from medmark.components.delivery import places
from medmark.components.delivery.places import Places, local
from medmark.components.delivery.publish import publish, publish_evidence
from medmark.components.evidence.keep import write_keep
from medmark.components.evidence.secrets import seeds_of
from medmark.components.lineage.commitment import commit
from medmark.components.lineage.keys import load_private, new_key
from medmark.components.storage.place import parse
from medmark.components.storage.retry import Interrupted
from medmark.components.storage.store import Store
from medmark.pipelines.commands.audit import time_stamp
from medmark.pipelines.services import EVIDENCE, RELEASES
from object_store import content, make_release, store_for
from PIL import Image
from proxy import Proxy
from test_store import NAMES, SECRET, liar  # noqa: F401, a fixture

PASSPHRASE = "a passphrase for tests"
ONNX = """
<ir_version: 8, opset_import: ["" : 18]>
agraph (float[N, 1, 16, 16] image) => (float[N, 2] logits)
<int64[2] axes = {2, 3}, int64[2] shape = {-1, 1}, float w = {0.0}>
{
    mean = ReduceMean <keepdims = 0> (image, axes)
    flat = Reshape(mean, shape)
    nothing = Mul(flat, w)
    logits = Concat <axis = 1> (flat, nothing)
}
"""


@pytest.fixture
def cache(services, tmp_path, monkeypatch):
    """An empty cache, and credentials of both identities in the environment."""
    for name in [name for name in os.environ if name.startswith(("MEDMARK_S3_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MEDMARK_S3_CREDENTIALS", str(services.credentials["release"]))
    monkeypatch.setenv("MEDMARK_S3_EVIDENCE_CREDENTIALS", str(services.credentials["evidence"]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MEDMARK_KEY_PASSPHRASE", PASSPHRASE)
    return tmp_path / "cache" / "medmark"


@pytest.fixture
def medmark(cache, medmark):
    """The command, with what opens the buckets."""
    return medmark


def drawn_as(patients: Path) -> dict:
    """What ``medmark ingest --seed 0 --patients FILE`` draws."""
    return {"seed": seeds_of(0)["ingest_seed"], "patient_key": kept_patient_key(patients)}


def left(cache) -> list[Path]:
    """What is left of transfers."""
    return sorted(cache.iterdir()) if cache.exists() else []


def put_raw(services, folder: Path, place: str, identity: str = "release") -> None:
    """Uploads as other tools do: no SHA-256, large files in parts, and objects that stand for folders."""
    client, target = store_for(services, identity)._client, parse(place)
    for path in [folder, *folder.rglob("*")]:
        name = "/".join([target.prefix, *path.relative_to(folder).parts])
        if path.is_dir():
            client.put_object(target.bucket, f"{name}/", open(os.devnull, "rb"), 0)
        else:
            client.fput_object(target.bucket, name, str(path), part_size=5 << 20)


def test_from_phantoms_to_exported_files(services, medmark, cache, tmp_path):
    place = f"s3://{RELEASES}/commands"
    assert medmark("phantom", "--out", f"{place}/raw", "--count", 40, "--size", 64)[0] == 0
    drawn = ("--seed", 0, "--patients", tmp_path / "patients.json")
    code, out, _ = medmark("ingest", f"{place}/raw", "--out", f"{place}/release", "--name", "chest", *drawn)
    assert code == 0 and "40 of " in out
    same = drawn_as(tmp_path / "patients.json")
    release = ingest(make_phantoms(tmp_path / "p", count=40, size=64), tmp_path / "r", name="chest", **same)
    assert release.digest in out
    code, out, _ = medmark("inspect", f"{place}/release", "--preview", f"{place}/sheet.png")
    assert code == 0 and release.digest in out
    code, out, _ = medmark("export", f"{place}/release/", "--out", f"{place}/png")
    assert code == 0 and out == f"40 files in {place}/png\n"
    assert left(cache) == [] and cache.stat().st_mode & 0o777 == 0o700
    store = store_for(services, "release")
    store.download(place, tmp_path / "back")
    assert content(tmp_path / "back" / "raw") == content(tmp_path / "p")
    assert content(tmp_path / "back" / "release") == content(tmp_path / "r")
    assert Image.open(tmp_path / "back" / "sheet.png").size == (6 * 192, 2 * 192)
    assert len(list((tmp_path / "back" / "png").rglob("*.png"))) == 40
    code, _, err = medmark("ingest", f"{place}/raw", "--out", f"{place}/release")
    assert code == 1 and "not empty" in err and f"{place}/release" in err and err.count("\n") == 1
    code, _, err = medmark("export", f"{place}/release", "--out", f"{place}/release/png")
    assert code == 1 and "not empty" not in err and "inside a release" in err
    code, _, err = medmark("inspect", f"{place}/raw")
    assert code == 1 and "nothing complete there" in err
    code, _, err = medmark("inspect", f"{place}/nothing")
    assert code == 1 and "nothing complete there" in err
    code, _, err = medmark("ingest", f"{place}/nothing", "--out", tmp_path / "no")
    assert code == 1 and "no such object" in err
    assert left(cache) == []


def test_images_and_tables_of_other_tools(services, medmark, cache, tmp_path):
    drop, place = tmp_path / "drop", f"s3://{RELEASES}/drop"
    (drop / "images" / "deep").mkdir(parents=True)
    rows = ["file,sick"]
    for i in range(30):
        Image.fromarray(np.full((16, 16), i, np.uint8)).save(drop / "images" / "deep" / f"ä {i}.png")
        rows.append(f"images/deep/ä {i}.png,{i % 2}")
    (drop / "list.csv").write_text("\n".join(rows))
    put_raw(services, drop, place)
    assert store_for(services, "release").sha256(f"{place}/list.csv") == ""
    options = ("--path-column", "file", "--label-column", "sick")
    columns = {"path_column": "file", "label_column": "sick"}
    expected = ingest(drop / "list.csv", tmp_path / "expected", **columns, **drawn_as(tmp_path / "key")).digest
    ways = [
        (f"{place}/list.csv",),
        (place,),
        (drop / "list.csv", "--root", place),
        (f"{place}/list.csv", "--root", place),
    ]
    for number, way in enumerate(ways):
        drawn = ("--seed", 0, "--patients", tmp_path / "key")
        code, out, _ = medmark("ingest", *way, *options, "--out", tmp_path / f"r{number}", *drawn)
        assert code == 0 and expected in out
    code, _, err = medmark("ingest", f"{place}/list.csv", *options, "--out", tmp_path / "r9", "--path-column", "sick")
    assert code == 1 and str(cache) not in err
    assert left(cache) == []


def test_an_object_in_parts_whose_digest_nobody_states(services, cache, tmp_path):
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "large.bin").write_bytes(os.urandom((10 << 20) + 1))
    put_raw(services, tmp_path / "from", f"s3://{RELEASES}/parts")
    place, store = f"s3://{RELEASES}/parts/large.bin", store_for(services, "release")
    etag = store.listing(f"s3://{RELEASES}/parts")["large.bin"][1]
    assert etag.endswith("-3")  # no MD5
    with Places() as places:
        path = places.read(place, raw=True)
        assert file_sha256(path) == file_sha256(tmp_path / "from" / "large.bin")
        assert path.name == "large.bin" and places.read(place, raw=True) == path
        assert abs(path.stat().st_mtime - time.time()) < 600 and path.stat().st_mtime.is_integer()  # the object's
    with pytest.raises(MedmarkError, match="at most 1000 are read"), Places() as places:
        places.read(place, raw=True, limit=1000)
    with pytest.raises(MedmarkError, match="without a stated SHA-256"):
        store.get(place, tmp_path / "no")
    assert left(cache) == []


def test_a_stated_digest_counts_and_an_object_that_changes_is_refused(services, cache, tmp_path, monkeypatch):
    place, store = parse(f"s3://{RELEASES}/pinned/file"), store_for(services, "release")
    (tmp_path / "file").write_bytes(b"one")
    store.put(tmp_path / "file", place)
    store._client.put_object(RELEASES, "pinned/lie", open(tmp_path / "file", "rb"), 3, metadata={"sha256": "0" * 64})
    with pytest.raises(MedmarkError, match="does not match its SHA-256"), Places() as places:
        places.read(f"s3://{RELEASES}/pinned/lie", raw=True)
    before = store._found(place, 100)
    (tmp_path / "file").write_bytes(b"two")
    store.put(tmp_path / "file", place)
    monkeypatch.setattr(Store, "_found", lambda self, place, limit: before)
    with pytest.raises(Interrupted, match="changed while it was read"):
        store.take(place, tmp_path / "parts")
    assert left(cache) == []


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names(liar, name, cache, tmp_path, monkeypatch):  # noqa: F811
    for variable in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY"):
        monkeypatch.setenv(f"MEDMARK_S3_{variable}", {"ENDPOINT": liar.url}.get(variable, SECRET))
    liar.names, before = ["p/fine", "p/" + name], {*tmp_path.rglob("*")}
    with pytest.raises(MedmarkError, match="refused object name") as caught, Places() as places:
        places.read("s3://bucket/p", raw=True)
    assert "\n" not in str(caught.value)
    assert {*tmp_path.rglob("*")} - before <= {cache, cache.parent}


def test_a_name_of_a_file_and_of_a_folder(liar, cache, tmp_path, monkeypatch):  # noqa: F811
    for variable in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY"):
        monkeypatch.setenv(f"MEDMARK_S3_{variable}", {"ENDPOINT": liar.url}.get(variable, SECRET))
    liar.names, liar.digest = ["p/a", "p/a/b"], ""
    with pytest.raises(MedmarkError, match="'p/a' is a file and a folder"), Places() as places:
        places.read("s3://bucket/p", raw=True)
    liar.names, liar.size = [f"p/{i}" for i in range(60)], 60 << 30
    with pytest.raises(MedmarkError, match="disk full"), Places() as places:
        places.read("s3://bucket/p", raw=True)
    assert left(cache) == []


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """A release, evidence that was made for it, and a commitment."""
    release = make_release(tmp_path / "release", images=8, seed=1, patch=monkeypatch)
    evidence = write_evidence(tmp_path / "made")
    content = json.loads((evidence / "evidence.json").read_bytes())
    (evidence / "evidence.json").write_bytes(canonical_json(content | {"release_digest": Release(release).digest}))
    new_key(tmp_path / "keys", PASSPHRASE)
    commit(release, evidence, load_private(tmp_path / "keys" / "medmark.key", PASSPHRASE), tmp_path / "commitment.json")
    return release, evidence


def test_an_audit(services, medmark, committed, cache, tmp_path):
    _, evidence = committed
    place, private = f"s3://{RELEASES}/audit", f"s3://{EVIDENCE}/audit"
    (tmp_path / "raw").mkdir()
    model = onnx.parser.parse_model(ONNX)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight), "w"))
    onnx.save(model, tmp_path / "raw" / "suspect.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    assert (tmp_path / "raw" / "w.data").stat().st_size
    for path in (tmp_path / "commitment.json", tmp_path / "keys" / "medmark.pub"):
        shutil.copy(path, tmp_path / "raw")
    put_raw(services, tmp_path / "raw", place)
    there = publish_evidence(evidence, private, store_for(services, "evidence")).uri
    suspect = ("--suspect", f"{place}/suspect.onnx", "--answers", "logits")
    proof = ("--commitment", f"{place}/commitment.json", "--public-key", f"{place}/medmark.pub")
    code, out, err = medmark("audit", there, *suspect, *proof, "--out", f"{private}/report")
    assert (code, err) == (0, "") and "not_owned" in out and f"{private}/report/audit.html" in out
    store = store_for(services, "evidence")
    names = store.list(f"{private}/report")
    assert {"answers.sqlite", "audit.html", "audit.json"} <= set(names)
    store.download(f"{private}/report", tmp_path / "back")
    audit = json.loads((tmp_path / "back" / "audit.json").read_bytes())
    assert audit["suspects"][0]["verdict"] == "not_owned" and audit["commitment"]
    assert audit["suspects"][0]["name"] == f"{place}/suspect.onnx"
    code, _, err = medmark("audit", there, *suspect, "--out", f"{private}/report")
    assert code == 1 and "not empty" in err
    code, _, err = medmark("audit", there, "--suspect", f"{place}/nothing", "--out", f"{private}/x")
    assert code == 1 and "unknown kind of suspect" in err and f"{place}/nothing" in err
    assert left(cache) == []


def test_a_time_stamp_comes_along(services, cache, tmp_path):
    (tmp_path / "raw").mkdir()
    for name in ("commitment.json", "commitment.tsr"):
        (tmp_path / "raw" / name).write_text(name)
    put_raw(services, tmp_path / "raw", f"s3://{RELEASES}/stamp")
    with Places() as places:
        path = places.read(f"s3://{RELEASES}/stamp/commitment.json", raw=True, beside=time_stamp("commitment.json"))
        assert content(path.parent) == content(tmp_path / "raw")
    with Places() as places:
        assert list(places.read(f"s3://{RELEASES}/stamp/commitment.json", raw=True).parent.iterdir()) == [path]


def test_attacks(services, medmark, committed, cache, tmp_path, monkeypatch):
    """Where the attacks' inputs come from and their output goes; what they do is tested elsewhere."""
    import pandas as pd
    from medmark.components.evidence.evidence import read_evidence
    from medmark.components.robustness.traces import BAND

    release, evidence = committed
    private = f"s3://{EVIDENCE}/attacks"
    there = publish(release, f"s3://{RELEASES}/attacks", store_for(services, "release")).uri
    hidden = publish_evidence(evidence, private, store_for(services, "evidence")).uri

    def stress(release_dir, evidence_dir, out, *, other_release_dir, **options):
        Release(release_dir).verify()
        Release(other_release_dir).verify()
        read_evidence(evidence_dir)
        out.mkdir(exist_ok=True)
        (out / "rows.jsonl").open("a").write("row\n")
        if len((out / "rows.jsonl").read_text()) < 12:
            raise MedmarkError(f"cannot go on: {out}; see {evidence_dir}")
        seen = {"queries": {BAND: 0.9, "fine noise": 0.52}}
        (out / "stress.json").write_bytes(canonical_json({"traces": seen}))
        names = ["kind", "attack", "strength", "wsr", "clean_rate", "delta_p", "accuracy", "accuracy_before"]
        return pd.DataFrame([dict.fromkeys(names, 1.0) | {"verdict": "owned"}])

    monkeypatch.setattr("medmark.components.robustness.stress.stress", stress)
    command = ("stress", hidden, "--release", there, "--clean", there, "--out", f"{private}/out")
    for _ in range(2):
        code, _, err = medmark(*command)
        assert code == 1 and f"cannot go on: {private}/out; see {hidden}\n" in err
        assert len(left(cache)) == 1  # the rows that it goes on with, and nothing of the evidence
    code, out, err = medmark(*command)
    assert code == 0 and f"curves: {private}/out/stress.svg" in out, err
    assert "by their band: AUC 0.90; by anything else: 0.52 (fine noise)" in out
    assert store_for(services, "evidence").read(f"{private}/out/rows.jsonl", 100) == b"row\n" * 3
    assert left(cache) == []


def test_what_is_private_stays_apart(services, medmark, committed, cache, tmp_path, monkeypatch):
    release, evidence = committed
    keep = tmp_path / "keep"
    for name in ("origin/sources.parquet", "origin/patients.json", "models/models.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    digest, shares = Release(release).digest, {"mark": 0.1, "decoy": 0.1}
    write_keep(keep, tmp_path / "origin", tmp_path / "models", release_digest=digest, shares=shares)
    private, uris = f"s3://{EVIDENCE}/apart", {}
    for folder in (evidence, keep):
        code, out, _ = medmark("publish-evidence", folder, private)
        uris[folder] = out.splitlines()[0]
        assert code == 0 and uris[folder].startswith(private)
        assert medmark("fetch", uris[folder], "--out", tmp_path / f"back-{folder.name}")[0] == 0
        assert content(tmp_path / f"back-{folder.name}") == content(folder)
        assert (tmp_path / f"back-{folder.name}").stat().st_mode & 0o777 == 0o700
    code, out, err = medmark("publish", release, f"s3://{RELEASES}/apart")
    assert code == 0 and "without a commitment" in err and err.count("\n") == 1
    uri = out.splitlines()[0]
    for folder in (evidence, keep):
        code, _, err = medmark("publish-evidence", folder, f"s3://{RELEASES}/apart")
        assert code == 1 and "denied" in err
        code, _, err = medmark("publish", folder, f"s3://{RELEASES}/apart")
        assert code == 1 and "private" in err
    code, _, err = medmark("audit", uris[evidence], "--suspect", "x.onnx", "--out", f"s3://{RELEASES}/apart/out")
    assert code == 1 and "denied" in err  # the evidence's credentials may not write among releases
    monkeypatch.delenv("MEDMARK_S3_EVIDENCE_CREDENTIALS")
    for folder in (evidence, keep):
        with pytest.raises(MedmarkError, match="access denied"), Places() as places:
            places.read(uris[folder], private=True)
        code, _, err = medmark("fetch", uris[folder], "--out", tmp_path / "stolen")
        assert code == 1 and "access denied" in err and not (tmp_path / "stolen").exists()
    assert medmark("fetch", uri, "--out", tmp_path / "public")[0] == 0
    assert left(cache) == []


def run_and_kill(arguments, begun, environment) -> None:
    """Starts a command and kills it with -9 as soon as it has begun to work."""
    program = "import sys; sys.argv[0] = 'medmark'; from medmark.pipelines.cli import main; main()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not begun():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL
    process.stderr.close()


def test_a_command_that_is_killed_while_it_fetches_goes_on(services, medmark, cache, tmp_path, monkeypatch):
    drop, place = tmp_path / "drop", f"s3://{RELEASES}/killed-read"
    rng = np.random.default_rng(0)
    for i in range(24):
        path = drop / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (256, 256), dtype=np.uint8)).save(path)
    put_raw(services, drop, place)
    arguments = ("ingest", place, "--out", tmp_path / "out", "--seed", "0", "--patients", tmp_path / "key")
    with Proxy(services.s3, rate=1 << 18) as proxy:
        monkeypatch.setenv("MEDMARK_S3_ENDPOINT", proxy.address)
        run_and_kill(arguments, lambda: len([*cache.glob("*/parts/*/" + 64 * "?")]) >= 6, os.environ)
        arrived = [path.name for path in cache.glob("*/parts/*/" + 64 * "?")]
        assert 6 <= len(arrived) < 24 and not (tmp_path / "out").exists()
        proxy._rate, fetched, take = None, [], places.Store._fetch
        monkeypatch.setattr(Store, "_fetch", lambda self, *given: fetched.append(given) or take(self, *given))
        assert medmark(*arguments)[0] == 0
    assert len(fetched) == 24 - len(arrived)
    assert Release(tmp_path / "out").digest == ingest(drop, tmp_path / "expected", **drawn_as(tmp_path / "key")).digest
    assert left(cache) == []


def test_what_had_arrived_whole_is_not_fetched_again_after_a_kill(services, cache, tmp_path, monkeypatch):
    drop, place = tmp_path / "drop", f"s3://{RELEASES}/killed-later"
    for name in ("a/1", "a/2", "b"):
        (drop / name).parent.mkdir(parents=True, exist_ok=True)
        (drop / name).write_text("the same content")
    put_raw(services, drop, place)
    child = os.fork()
    if not child:
        Places().read(place, raw=True)
        os._exit(9)  # as if killed: nothing is cleaned up
    assert os.waitpid(child, 0)[1] >> 8 == 9
    (drop / "c").write_text("new")
    client = store_for(services, "release")._client
    client.fput_object(RELEASES, "killed-later/c", str(drop / "c"))
    client.remove_object(RELEASES, "killed-later/b")
    fetched, fetch = [], Store._fetch
    monkeypatch.setattr(Store, "_fetch", lambda self, *given: fetched.append(given) or fetch(self, *given))
    (drop / "b").unlink()
    with Places() as places:
        assert content(places.read(place, raw=True)) == content(drop)
    assert len(fetched) == 1
    assert left(cache) == []


def test_a_release_is_not_fetched_twice_after_an_interruption(services, medmark, cache, tmp_path, monkeypatch, quick):
    release = make_release(tmp_path / "release", images=20, seed=2, patch=monkeypatch)
    uri = publish(release, f"s3://{RELEASES}/interrupted", store_for(services, "release")).uri
    copy = f"s3://{RELEASES}/interrupted-copy"  # by another tool, and its address has no digest
    put_raw(services, release, copy)
    fetch, calls, breaks_at = Store._fetch, [], 5

    def counted(self, place, *given):
        calls.append(place)
        if len(calls) == breaks_at:
            raise Interrupted("no answer; run again to go on")
        return fetch(self, place, *given)

    monkeypatch.setattr(Store, "_fetch", counted)
    for place in (uri, copy):
        calls.clear()
        breaks_at = 5
        code, _, err = medmark("inspect", place)
        assert code == 1 and "run again to go on" in err and len(left(cache)) == 1
        calls.clear()
        breaks_at = None
        code, out, _ = medmark("inspect", place)
        assert code == 0 and Release(release).digest in out
        assert 0 < len(calls) <= 11 - 3
        assert left(cache) == []


def test_a_release_that_was_changed_is_refused(services, medmark, cache, tmp_path, monkeypatch):
    release = make_release(tmp_path / "release", images=4, seed=3, patch=monkeypatch)
    store = store_for(services, "release")
    uri = publish(release, f"s3://{RELEASES}/tampered", store).uri
    (tmp_path / "file").write_text("another shard")
    store.put(tmp_path / "file", f"{uri}/shards/part-00001.parquet")
    code, _, err = medmark("inspect", uri)
    assert code == 1 and "does not match its SHA-256" in err
    assert left(cache) == []


def test_a_command_that_is_killed_while_it_sends_goes_on(services, medmark, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(release_format, "SHARD_BYTES", 1000)
    monkeypatch.setattr(release_format, "ROW_GROUP_BYTES", 1000)
    release, store = tmp_path / "release", store_for(services, "release")
    assert len(ingest(make_phantoms(tmp_path / "p", count=40, size=64), release).shards) == 40
    place = f"s3://{RELEASES}/killed-write"
    arguments = ("ingest", release, "--out", place)
    with Proxy(services.s3, rate=1 << 14) as proxy:
        monkeypatch.setenv("MEDMARK_S3_ENDPOINT", proxy.address)
        run_and_kill(arguments, lambda: len(store.list(place)) >= 3, os.environ)
        there = store.list(place)
        assert 3 <= len(there) < 40 and "release.json" not in there
        proxy._rate = None
        code, _, err = medmark("ingest", release, "--out", place, "--seed", 1)
        assert code == 1 and "not empty" in err and len(left(cache)) == 1
        code, out, err = medmark(*arguments)
    assert code == 0 and "is complete now" in err and not out
    store.download(place, tmp_path / "back")
    assert content(tmp_path / "back") == content(release)
    assert left(cache) == []


def test_output_that_cannot_be_sent_is_kept(services, medmark, cache, tmp_path, monkeypatch):
    ingest(make_phantoms(tmp_path / "p", count=40, size=64), tmp_path / "release")
    release, place = tmp_path / "release", f"s3://{RELEASES}/kept"
    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", lambda *given: (_ for _ in ()).throw(MedmarkError("access denied: there")))
        code, _, err = medmark("ingest", release, "--out", place)
    assert code == 1 and "access denied" in err and "the same command, run again, only sends it" in err
    code, out, err = medmark("ingest", release, "--out", place)
    assert code == 0 and "is complete now" in err and not out
    assert store_for(services, "release").sha256(f"{place}/release.json") == Release(release).digest
    assert left(cache) == []


def test_two_commands_at_once(services, cache, tmp_path, monkeypatch):
    release = make_release(tmp_path / "release", images=4, seed=6, patch=monkeypatch)
    uri = publish(release, f"s3://{RELEASES}/both", store_for(services, "release")).uri
    with Places() as one:
        path = one.read(uri)
        with Places() as two:
            assert two.read(uri) != path and content(two.read(uri)) == content(release)
        assert content(path) == content(release)
        one.write(f"s3://{RELEASES}/both-out")
        with pytest.raises(MedmarkError, match="another command writes to"), Places() as two:
            two.write(f"s3://{RELEASES}/both-out")
    assert left(cache) == []


def test_a_command_that_fails_leaves_nothing(services, cache, tmp_path):
    with pytest.raises(ZeroDivisionError), Places() as places:
        out = places.write(f"s3://{RELEASES}/fails")
        out.mkdir()
        (out / "half").write_text("half")
        1 / 0  # noqa: B018
    assert left(cache) == [] and store_for(services, "release").list(f"s3://{RELEASES}/fails") == {}


def test_paths_of_this_machine_and_what_is_no_place(cache, tmp_path, monkeypatch):
    with Places() as places:
        assert places.read("a/b.csv") == Path("a/b.csv") == places.write("a/b.csv", file=True)
        assert places.read_source("a.csv", "b") == (Path("a.csv"), Path("b"))
        for text in ("s3:/bucket/x", "S3://bucket/x", "s3://bucket/../x", "s3://B"):
            with pytest.raises(MedmarkError):
                places.read(text)
    assert local("here", "") == Path("here")
    with pytest.raises(MedmarkError, match="must be on this machine: s3://b/x; give a folder"):
        local("s3://b/x", "give a folder")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(MedmarkError, match="set XDG_CACHE_HOME"), Places() as places:
        places.read(f"s3://{RELEASES}/x")


@pytest.mark.parametrize("command", [("up",), ("down",), ("status",), ("fetch", "s3://b/x", "--out")])
def test_folders_that_must_be_of_this_machine(medmark, command):
    code, _, err = medmark(*command, "s3://bucket/x")
    assert code == 1 and "must be on this machine: s3://bucket/x" in err


def test_a_commitment_and_its_reveal(services, medmark, committed, cache, tmp_path):
    release, evidence = committed
    (evidence / "opening.json").unlink()
    place, private, key = f"s3://{RELEASES}/proof", f"s3://{EVIDENCE}/proof", tmp_path / "keys" / "medmark.key"
    there = publish(release, place, store_for(services, "release")).uri
    code, out, err = medmark("commit", there, evidence, "--key", key, "--out", f"{place}/commitment.json")
    assert code == 0 and f"publish: {place}/commitment.json" in out, err
    hidden = publish_evidence(evidence, private, store_for(services, "evidence")).uri
    put_raw(services, tmp_path / "keys", private, "evidence")
    code, out, err = medmark("reveal", f"{place}/commitment.json", hidden, "--out", f"{private}/reveal.json")
    assert code == 0, err
    given = ("--public-key", tmp_path / "keys" / "medmark.pub", "--release", there, "--evidence", hidden)
    code, out, err = medmark(
        "verify-commitment", f"{place}/commitment.json", *given, "--reveal", f"{private}/reveal.json"
    )
    assert code == 0 and "what was committed to" in out and Release(release).digest in out, err
    for command in (
        ("commit", there, hidden, "--key", key, "--out", f"{place}/other.json"),
        ("commit", there, evidence, "--key", f"{private}/medmark.key", "--out", f"{place}/other.json"),
        ("keys", "new", "--out", private),
        ("lineage", "sign", there, "--record", key, "--key", key),
        ("lineage", "verify", release, "--public-key", key.with_suffix(".pub"), "--root", place),
    ):
        code, _, err = medmark(*command)
        assert code == 1 and "must be on this machine" in err
    assert left(cache) == []


def test_a_chain_is_checked_where_it_was_published(services, medmark, cache, tmp_path, monkeypatch):
    release = make_release(tmp_path / "release", images=4, seed=8, patch=monkeypatch)
    manifest = json.loads((release / "release.json").read_bytes())
    (release / "release.json").write_bytes(canonical_json(manifest | {"parent": "0" * 64}))
    there = publish(release, f"s3://{RELEASES}/chain", store_for(services, "release")).uri
    new_key(tmp_path / "keys", PASSPHRASE)
    put_raw(services, tmp_path / "keys", f"s3://{RELEASES}/chain-keys")
    checks = f"s3://{RELEASES}/chain-checks.json"
    key = ("--public-key", f"s3://{RELEASES}/chain-keys/medmark.pub")
    code, _, err = medmark("lineage", "verify", there, *key, "--json", checks)
    assert code == 1 and "lineage.json does not hold" in err  # it was never signed
    assert json.loads(store_for(services, "release").read(checks, 1 << 20))["broken"]
    assert left(cache) == []


def test_marking_what_lies_in_a_store(services, medmark, cache, tmp_path, monkeypatch):
    raw = make_phantoms(tmp_path / "p", count=40, size=64)
    place = f"s3://{RELEASES}/to-mark"
    put_raw(services, raw, place)
    for command in (("mark-release", "--data", place), ("update-release", tmp_path, "--data", place)):
        code, _, err = medmark("run", *command, "--out", f"s3://{EVIDENCE}/run")
        assert code == 1 and "belong in different buckets" in err and err.count("\n") == 1
    code, _, err = medmark("run", "update-release", place, "--data", place, "--out", tmp_path / "out")
    assert code == 1 and "must be on this machine" in err
    states = []

    def run(out, *, data, **options):
        from medmark.pipelines.run_arguments import source_state

        assert content(Path(data)) == content(raw)
        states.append((data, source_state(Path(data), None)))
        raise MedmarkError("step ingest failed; run again, finished steps are kept")

    monkeypatch.setattr("medmark.pipelines.mark_release.run.run_mark_release", run)
    for _ in range(2):
        assert medmark("run", "mark-release", "--data", place, "--out", tmp_path / "out")[0] == 1
        assert left(cache) == []
    assert states[0] == states[1]  # else finished steps would not be found again


def test_compiled_pipelines(services, medmark, cache):
    place = f"s3://{RELEASES}/compiled"
    code, out, _ = medmark("compile", "--unpinned", "--out", place)
    assert code == 0 and f"{place}/mark-release.yaml" in out.split()
    assert {"mark-release.yaml", "components/ingest.yaml"} <= store_for(services, "release").list(place).keys()
    assert left(cache) == []
