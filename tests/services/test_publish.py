"""Publishing into a real SeaweedFS: a reader sees a whole release or none."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Release
from medmark.components.delivery.publish import (
    MAX_SIDECAR_BYTES,
    fetch_evidence,
    fetch_keep,
    fetch_model,
    fetch_release,
    publish,
    publish_evidence,
    publish_keep,
)
from medmark.components.evidence.keep import write_keep
from medmark.components.storage.place import parse
from medmark.components.storage.store import Store
from medmark.pipelines.services import EVIDENCE, RELEASES
from minio.error import S3Error
from object_store import content, make_release, processes_of, store_for

KILLS = 50
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture
def release(tmp_path, monkeypatch):
    """Ten shards."""
    return make_release(tmp_path / "release", images=20, seed=1, patch=monkeypatch)


def test_publish_and_fetch(services, release, tmp_path):
    store, uri = store_for(services, "release"), f"s3://{RELEASES}/noise"
    (release / "private notes.txt").write_text("not in release.json")
    done = publish(release, uri, store)
    assert done.uri == f"{uri}/{Release(release).digest}"
    assert done.sent == 11 and done.locked_until
    assert publish(release, uri, store).sent == 0
    assert set(store.list(done.uri)) == {"release.json", *(f"shards/part-{i:05d}.parquet" for i in range(10))}
    fetched = fetch_release(done.uri, tmp_path / "back", store)
    assert fetched.digest == done.digest
    (release / "private notes.txt").unlink()
    assert content(tmp_path / "back") == content(release)
    assert fetch_release(done.uri, tmp_path / "back", store).digest == done.digest
    assert list(tmp_path.glob("*.partial")) == []


def test_marked_models_and_their_evidence_are_stored_apart(services, tmp_path):
    store, uri = store_for(services, "release"), f"s3://{RELEASES}/models"
    made = FIXTURES / "segmenter-v1"
    done = publish(made / "model", uri, store)
    assert set(store.list(done.uri)) == {"model.json", "model.onnx", "weights.safetensors"}
    assert publish(made / "model", uri, store).sent == 0
    assert fetch_model(done.uri, tmp_path / "model", store).digest == done.digest
    assert content(tmp_path / "model") == content(made / "model")
    with pytest.raises(MedmarkError, match="evidence would be public there"):
        publish_evidence(made / "evidence", uri, store)
    private = store_for(services, "evidence")
    kept = publish_evidence(made / "evidence", f"s3://{EVIDENCE}/models", private)
    assert fetch_evidence(kept.uri, tmp_path / "evidence", private)["model_digest"] == done.digest
    broken = Path(shutil.copytree(made / "model", tmp_path / "broken"))
    (broken / "model.onnx").write_bytes(b"another")
    with pytest.raises(MedmarkError, match="model changed or missing"):
        publish(broken, uri, store)


def test_every_object_is_locked(services, release):
    store = store_for(services, "release")
    prefix = parse(publish(release, f"s3://{RELEASES}/lock", store).uri).prefix
    objects = list(store._client.list_objects(RELEASES, prefix=prefix, recursive=True, include_version=True))
    assert len(objects) == 11
    for found in objects:
        with pytest.raises(S3Error, match="AccessDenied"):
            store._client.remove_object(RELEASES, found.object_name, found.version_id)


def test_what_was_set_aside_stays_here(services, tmp_path, monkeypatch):
    from medmark.components.dataset import release_writer as release_format

    folder, uri, store = tmp_path / "with", f"s3://{RELEASES}/rejected", store_for(services, "release")
    record = next(Release(make_release(tmp_path / "from", images=2, seed=3, patch=monkeypatch)).records())
    header, names = {"name": "n", "version": "1", "class_names": ["a", "b"]}, tmp_path / "names.parquet"
    with release_format.ReleaseWriter(folder, **header, rejected=names) as writer:
        writer.add(record)
        writer.reject("broken.png", "no image")
    fetch_release(publish(folder, uri, store).uri, tmp_path / "back", store)
    assert content(tmp_path / "back") == content(folder)
    assert names.stat().st_mode & 0o777 == 0o600 and not list(folder.rglob("*rejected*"))


def test_a_release_whose_ids_hold_names_is_not_published(services, tmp_path):
    store = store_for(services, "release")
    old = Path(__file__).resolve().parents[1] / "fixtures" / "updated-release-v1"
    with pytest.raises(MedmarkError, match="image ids hold file names.*cannot be published.*medmark reissue"):
        publish(old, f"s3://{RELEASES}/old", store)
    assert not list(store.list(f"s3://{RELEASES}/old"))


def test_the_list_of_changes_goes_along(services, release, tmp_path):
    (release / "changes.json").write_text("{}")
    manifest = json.loads((release / "release.json").read_bytes())
    manifest["changes"] = {"file": "changes.json", "sha256": file_sha256(release / "changes.json")}
    (release / "release.json").write_bytes(canonical_json(manifest))
    store = store_for(services, "release")
    fetch_release(publish(release, f"s3://{RELEASES}/changes", store).uri, tmp_path / "back", store)
    assert content(tmp_path / "back") == content(release)
    (release / "changes.json").write_text("{ }")
    with pytest.raises(MedmarkError, match="changes missing or changed"):
        publish(release, f"s3://{RELEASES}/changes", store)
    for named in ({"file": "../x", "sha256": "0" * 64}, {"file": "changes.json", "sha256": "x"}, "changes.json"):
        (release / "release.json").write_bytes(canonical_json(manifest | {"changes": named}))
        with pytest.raises(MedmarkError):
            publish(release, f"s3://{RELEASES}/changes", store)


def test_lineage_and_commitment_go_along(services, release, tmp_path, capsys):
    store, uri = store_for(services, "release"), f"s3://{RELEASES}/sidecars"
    done = publish(release, uri, store)
    assert "goes out without a commitment" in capsys.readouterr().err
    fetch_release(done.uri, tmp_path / "before", store)
    for name in ("lineage.json", "commitment.json", "commitment.tsr"):
        (release / name).write_text(name)
    assert publish(release, uri, store).sent == 3 and publish(release, uri, store).sent == 0
    assert capsys.readouterr().err == ""
    for copy in ("before", "after"):  # what was fetched before gets what it lacks
        fetch_release(done.uri, tmp_path / copy, store)
        assert content(tmp_path / copy) == content(release)
    (release / "lineage.json").write_text("another")
    with pytest.raises(MedmarkError, match="other content at .*lineage.json"):
        publish(release, uri, store)
    for name in ("lineage.json", "commitment.tsr"):
        (release / name).unlink()
    assert publish(release, uri, store).sent == 0
    (release / "lineage.json").write_bytes(b"x" * (MAX_SIDECAR_BYTES + 1))
    with pytest.raises(MedmarkError, match="larger than"):
        publish(release, uri, store)
    store.put(release / "lineage.json", f"{done.uri}/lineage.json")
    with pytest.raises(MedmarkError, match="bytes; at most"):
        fetch_release(done.uri, tmp_path / "large", store)


def test_sidecars_of_an_attempt_that_ended_early_are_replaced(services, release, tmp_path):
    """Signed anew, the same release goes out with the new signature: the old one was never seen."""
    store, uri = store_for(services, "release"), f"s3://{RELEASES}/signed-anew"
    place = f"{uri}/{Release(release).digest}"
    (tmp_path / "old").write_text("signature of an attempt that was killed")
    store.put(tmp_path / "old", f"{place}/commitment.json")
    (release / "commitment.json").write_text("new signature")
    publish(release, uri, store)
    fetch_release(place, tmp_path / "copy", store)
    assert (tmp_path / "copy" / "commitment.json").read_text() == "new signature"


def test_sidecars_are_there_before_the_release(services, release, monkeypatch):
    store, sent, put = store_for(services, "release"), [], Store.put
    for name in ("lineage.json", "commitment.json"):
        (release / name).write_text(name)
    monkeypatch.setattr(Store, "put", lambda self, path, place: sent.append(path.name) or put(self, path, place))
    publish(release, f"s3://{RELEASES}/order", store)
    assert sent[-3:] == ["commitment.json", "lineage.json", "release.json"]


def test_what_is_kept_for_updates_goes_with_the_evidence(services, release, tmp_path):
    keep, store, uri = tmp_path / "keep", store_for(services, "evidence"), f"s3://{EVIDENCE}/keep"
    for name in ("origin/sources.parquet", "origin/patients.json", "models/models.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    stated = write_keep(
        keep, tmp_path / "origin", tmp_path / "models", release_digest="0" * 64, shares={"mark": 0.1, "decoy": 0.1}
    )
    done = publish_keep(keep, uri, store)
    assert done.sent == 4 and fetch_keep(done.uri, tmp_path / "back", store) == stated
    assert content(tmp_path / "back") == content(keep)
    stranger = store_for(services, "release")
    with pytest.raises(MedmarkError, match="access denied"):
        fetch_keep(done.uri, tmp_path / "stolen", stranger)
    publish(release, f"s3://{RELEASES}/with-keep", stranger)
    with pytest.raises(MedmarkError, match="would be public there"):
        publish_keep(keep, f"s3://{RELEASES}/with-keep", stranger)
    (keep / "surrogates" / "models.json").write_text("others")
    with pytest.raises(MedmarkError, match="changed or missing"):
        publish_keep(keep, uri, store)


def test_other_content_at_the_place_is_not_overwritten(services, release, tmp_path):
    store, uri = store_for(services, "release"), f"s3://{RELEASES}/other"
    place = parse(uri) / Release(release).digest
    (tmp_path / "file").write_text("something else")
    store.put(tmp_path / "file", place / "shards/part-00003.parquet")
    with pytest.raises(MedmarkError, match="other content at .*part-00003.parquet; nothing is overwritten"):
        publish(release, uri, store)
    assert list(store.list(place)) == ["shards/part-00003.parquet"]
    with pytest.raises(MedmarkError, match="give its parent"):
        publish(release, str(place), store)


def test_a_damaged_release_is_not_published(services, release):
    shard = release / "shards" / "part-00004.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(MedmarkError, match="shard changed or missing"):
        publish(release, f"s3://{RELEASES}/damaged", store_for(services, "release"))
    assert store_for(services, "release").list(f"s3://{RELEASES}/damaged") == {}


def test_a_reader_refuses_what_was_changed(services, release, tmp_path):
    store = store_for(services, "release")
    done = publish(release, f"s3://{RELEASES}/changed", store)
    (tmp_path / "file").write_text("another shard")
    store.put(tmp_path / "file", f"{done.uri}/shards/part-00001.parquet")
    with pytest.raises(MedmarkError, match="does not match its SHA-256"):
        fetch_release(done.uri, tmp_path / "back", store)
    store.put(tmp_path / "file", f"{done.uri}/release.json")
    with pytest.raises(MedmarkError, match="does not match its SHA-256: .*release.json"):
        fetch_release(done.uri, tmp_path / "back", store)
    assert not (tmp_path / "back").exists()


def test_what_cannot_be_fetched(services, release, tmp_path):
    store = store_for(services, "release")
    with pytest.raises(MedmarkError, match="no digest at the end"):
        fetch_release(f"s3://{RELEASES}/noise", tmp_path / "back", store)
    with pytest.raises(MedmarkError, match="has no release.json"):
        fetch_release(f"s3://{RELEASES}/noise/{'0' * 64}", tmp_path / "back", store)
    done = publish(release, f"s3://{RELEASES}/full", store)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(MedmarkError, match="not empty"):
        fetch_release(done.uri, tmp_path, store)
    with pytest.raises(MedmarkError, match="access denied"):
        fetch_release(done.uri, tmp_path / "back", store_for(services, "evidence"))


def test_evidence_goes_elsewhere(services, tmp_path):
    evidence, store = tmp_path / "evidence", store_for(services, "evidence")
    shutil.copytree(FIXTURES / "evidence-v1", evidence)
    done = publish_evidence(evidence, f"s3://{EVIDENCE}/noise", store)
    assert done.sent == len(content(evidence)) and publish_evidence(evidence, f"s3://{EVIDENCE}/noise", store).sent == 0
    assert fetch_evidence(done.uri, tmp_path / "back", store) == json.loads((evidence / "evidence.json").read_bytes())
    assert content(tmp_path / "back") == content(evidence)
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o700
    stranger = store_for(services, "release")
    for call in (
        lambda: publish_evidence(evidence, f"s3://{EVIDENCE}/noise", stranger),
        lambda: fetch_evidence(done.uri, tmp_path / "stolen", stranger),
        lambda: publish_evidence(evidence, f"s3://{RELEASES}/noise", store),
    ):
        with pytest.raises(MedmarkError, match="access denied"):
            call()


def write_all(tmp_path, services, release):
    """Address, fetching function and store of a release, of evidence and of what was kept for updates."""
    private = store_for(services, "evidence")
    for name in ("origin/sources.parquet", "origin/patients.json", "models/models.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    shares = {"mark": 0.1, "decoy": 0.1}
    write_keep(tmp_path / "keep", tmp_path / "origin", tmp_path / "models", release_digest="0" * 64, shares=shares)
    done = publish(release, f"s3://{RELEASES}/planted", store_for(services, "release"))
    return {
        "release": (done.uri, fetch_release, store_for(services, "release")),
        "evidence": (
            publish_evidence(FIXTURES / "evidence-v1", f"s3://{EVIDENCE}/planted", private).uri,
            fetch_evidence,
            private,
        ),
        "keep": (publish_keep(tmp_path / "keep", f"s3://{EVIDENCE}/planted", private).uri, fetch_keep, private),
    }


@pytest.mark.parametrize("kind", ["release", "evidence", "keep"])
def test_what_others_planted_is_not_written_through(services, release, tmp_path, kind):
    """The folder in which a fetch goes on has a name that anybody can tell."""
    uri, get, store = write_all(tmp_path, services, release)[kind]
    out, stolen, calls = tmp_path / "out", tmp_path / "stolen", []
    staged = tmp_path / f"out.{uri[-64:][:12]}.partial"
    name = sorted(n for n in store.list(uri) if "/" not in n)[0]
    stolen.mkdir()

    def refused(what: str) -> None:
        with pytest.raises(MedmarkError, match=f"{what}.*; remove .*") as error:
            get(uri, out, store)
        calls.append(str(error.value))
        assert not out.exists() and list(stolen.iterdir()) == []

    staged.symlink_to(stolen)
    refused("a link: ")
    staged.unlink()
    for link in (staged / name, staged / ".incomplete", staged / "sub" / "link"):
        link.parent.mkdir(parents=True)
        link.symlink_to(stolen if link.suffix != ".json" else stolen / "file")
        refused("a link: ")
        shutil.rmtree(staged)
    staged.mkdir()
    (tmp_path / "mine").write_text("mine")
    os.link(tmp_path / "mine", staged / name)
    refused("a file with another name elsewhere: ")
    assert (tmp_path / "mine").read_text() == "mine"
    shutil.rmtree(staged)
    staged.mkdir()
    staged.chmod(0o777)
    refused("others may write there: ")
    staged.rmdir()
    staged.write_text("a file")
    refused("a file: ")
    staged.unlink()
    if not os.geteuid():  # only root can make a folder of somebody else's
        staged.mkdir()
        os.chown(staged, 12345, 12345)
        refused("belongs to somebody else: ")
        staged.rmdir()
    out.symlink_to(stolen)
    with pytest.raises(MedmarkError, match="a link: .*out; give the folder itself"):
        get(uri, out, store)
    assert list(stolen.iterdir()) == []
    out.unlink()
    get(uri, out, store)
    assert (out / name).is_file() and list(tmp_path.glob(".*")) == list(tmp_path.glob("*.partial")) == []


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
@pytest.mark.parametrize("kind", ["release", "evidence", "keep"])
def test_fetched_files_are_private_or_public(services, release, tmp_path, kind, umask):
    uri, get, store = write_all(tmp_path, services, release)[kind]
    before = os.umask(umask)
    try:
        get(uri, tmp_path / "out", store)
    finally:
        os.umask(before)
    made = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    folder, file = (0o755, 0o644) if kind == "release" else (0o700, 0o600)
    assert {path.name: oct(path.stat().st_mode & 0o7777) for path in made} == {
        path.name: oct(folder if path.is_dir() else file) for path in made
    }


def test_two_fetches_into_one_folder(services, release, tmp_path, monkeypatch):
    store = store_for(services, "release")
    uri, seen, take = publish(release, f"s3://{RELEASES}/twice", store).uri, [], Store.get

    def get(self, *given, **options):
        if not seen:
            seen.append(None)
            with pytest.raises(MedmarkError, match="another command writes to .*out at this moment") as error:
                fetch_release(uri, tmp_path / "out", store)
            seen.append(error)
        return take(self, *given, **options)

    monkeypatch.setattr(Store, "get", get)
    fetch_release(uri, tmp_path / "out", store).verify()
    assert len(seen) == 2


def test_the_opening_of_a_commitment_goes_along(services, tmp_path):
    evidence, store, uri = tmp_path / "evidence", store_for(services, "evidence"), f"s3://{EVIDENCE}/committed"
    shutil.copytree(FIXTURES / "evidence-v1", evidence)
    publish_evidence(evidence, uri, store)
    (evidence / "opening.json").write_text("{}")
    done = publish_evidence(evidence, uri, store)
    assert done.sent == 1
    fetch_evidence(done.uri, tmp_path / "back", store)
    assert content(tmp_path / "back") == content(evidence)


def test_evidence_is_never_stored_among_releases(services, release, tmp_path):
    store, uri = store_for(services, "release"), f"s3://{RELEASES}/mixed-up"
    publish(release, uri, store)
    with pytest.raises(MedmarkError, match="evidence would be public there"):
        publish_evidence(FIXTURES / "evidence-v1", uri, store)
    with pytest.raises(MedmarkError, match="private: .* has evidence.json"):
        publish(FIXTURES / "evidence-v1", uri, store)


@pytest.fixture
def publisher(services):
    """A process that publishes in children; see publisher.py."""
    environment = os.environ | {"MEDMARK_S3_CREDENTIALS": str(services.credentials["release"]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("publisher.py")],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.stdin.close()
    assert process.wait(20) == 0
    process.stdout.close()


def publish_in_child(publisher, release, uri, kill_after=None) -> tuple[int, float]:
    """Exit status of the child and the seconds it had."""
    publisher.stdin.write(f"{release}\t{uri}\n")
    publisher.stdin.flush()
    pid, started = int(publisher.stdout.readline()), time.monotonic()
    if kill_after is not None:
        time.sleep(kill_after)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return int(publisher.stdout.readline()), time.monotonic() - started


@pytest.mark.timeout(180)
def test_a_publisher_that_is_killed_leaves_nothing_or_everything(services, publisher, release, tmp_path):
    store, draw = store_for(services, "release"), random.Random(7)
    publish_in_child(publisher, release, f"s3://{RELEASES}/warm")
    status, whole = publish_in_child(publisher, release, f"s3://{RELEASES}/timed")
    assert status == 0
    digest, expected, seen = Release(release).digest, content(release), []
    for i in range(KILLS):
        uri, back = f"s3://{RELEASES}/kill-{i}", tmp_path / f"back-{i}"
        status, _ = publish_in_child(publisher, release, uri, kill_after=draw.uniform(0, whole))
        there = store.list(f"{uri}/{digest}")
        try:
            fetch_release(f"{uri}/{digest}", back, store)
            seen.append("whole")
            assert content(back) == expected
        except MedmarkError as error:
            assert "nothing complete there" in str(error) and not back.exists()
            assert status == -signal.SIGKILL and "release.json" not in there
            seen.append("partial" if there else "nothing")
        # fewer where the store kept, after the listing, what it was being sent when the publisher died
        assert publish(release, uri, store).sent <= len(expected) - len(there)
        fetch_release(f"{uri}/{digest}", back, store)
        assert content(back) == expected
    print({what: seen.count(what) for what in set(seen)}, f"of {KILLS}, a publish takes {whole:.2f} s")
    assert seen.count("partial") >= 5  # else this has tested nothing
    assert len(processes_of(tmp_path)) == 0
