"""Drops in a real SeaweedFS become releases: with the real update once, with a quick stand-in for the order of things."""

import hashlib
import io
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import encode_png
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.origin import drop_digest, read_origins, read_patient_key
from medmark.components.dataset.phantoms import make_phantoms
from medmark.components.dataset.release import Record, Release
from medmark.components.dataset.release_writer import ReleaseWriter
from medmark.components.delivery.drops import COMPLETE, raw_drop
from medmark.components.delivery.publish import fetch_release, publish, publish_evidence, publish_keep
from medmark.components.delivery.submission_records import read_records
from medmark.components.evidence.keep import keep_for_updates
from medmark.components.generator.marker import Shape
from medmark.components.generator.train import GeneratorConfig, train_generator
from medmark.components.lineage.chain import fetch_chain, verify_chain
from medmark.components.lineage.events import artifact_digest, step_event
from medmark.components.lineage.keys import load_private, load_public, new_key
from medmark.components.lineage.signing import sign_run
from medmark.components.poisoning.poison import poison
from medmark.components.storage.place import parse
from medmark.components.verification.release_check import check_release
from medmark.components.verification.sealing import finish_evidence
from medmark.components.verification.verdict import Thresholds
from medmark.pipelines import cli
from medmark.pipelines.services import DROPS, EVIDENCE, RELEASES
from medmark.pipelines.submitting.local import Target, run_update, submit_locally
from medmark.pipelines.submitting.reconcile import find_private, read_chain, reconcile
from medmark.pipelines.submitting.submission import of_mark_release, of_update_release
from object_store import store_for


def put(store, uri: str, content: bytes) -> None:
    """An object as any other tool puts it there: without medmark's digest."""
    place = parse(uri)
    store._client.put_object(place.bucket, place.prefix, io.BytesIO(content), len(content))


class Places:
    """A prefix of its own in both buckets, and what a sweep takes."""

    def __init__(self, services, name: str, work: Path, runner):
        self.store, self.evidence_store = store_for(services, "release"), store_for(services, "evidence")
        self.drops, self.releases = f"s3://{DROPS}/{name}", f"s3://{RELEASES}/{name}/releases"
        self.evidence = f"s3://{EVIDENCE}/{name}"
        self.work, self.runner = work, runner
        self.key: Path | None = None

    @property
    def target(self) -> Target:
        return Target(self.releases, self.evidence, self.store, self.evidence_store, self.work, self.key)

    def publish(self, out: Path) -> str:
        publish_evidence(out / "evidence", self.evidence, self.evidence_store)
        publish_keep(out / "keep", self.evidence, self.evidence_store)
        return publish(out / "release", self.releases, self.store).digest

    def drop(self, name: str, files: dict[str, bytes], complete: bool = True) -> None:
        for file, content in {**files, **({COMPLETE: b""} if complete else {})}.items():
            put(self.evidence_store, f"{self.drops}/{name}/{file}", content)

    def submit(self, submission):
        return submit_locally(submission, self.target, runners={"update-release": self.runner})[0]

    def sweep(self) -> list[str]:
        return list(
            reconcile(
                self.drops,
                self.releases,
                self.evidence,
                store=self.store,
                evidence_store=self.evidence_store,
                options={},
                submit=self.submit,
            )
        )

    def submission(self, name: str):
        head = read_chain(self.releases, self.store)[-1]
        private = find_private(self.evidence, head, self.evidence_store)
        release_json = f"{self.releases}/{head}/release.json"
        return of_update_release(
            release_json, self.store, drop=f"{self.drops}/{name}", drop_store=self.evidence_store, **private, options={}
        )


def write_run(out: Path, *, seed: int, parent: str | None, version: str) -> str:
    """The three folders of a run, of noise."""
    image = encode_png(np.random.default_rng(seed).integers(0, 256, (24, 24), dtype=np.uint8))
    changes = {"parent": parent} if version != "1" else None
    with ReleaseWriter(
        out / "release", name="noise", version=version, class_names=["a", "b"], parent=parent, changes=changes
    ) as writer:
        writer.add(Record("image", image, "png", 0, "patient", "train", 24, 24, 8, hashlib.sha256(image).hexdigest()))
    digest = Release(out / "release").digest
    for what, content in {
        "evidence": {"schema_version": 1, "seed": seed},
        "keep": {"schema_version": 1, "shares": {"mark": 0.1, "decoy": 0.0}},
    }.items():
        (out / what / "surrogates").mkdir(parents=True)
        files = {}
        for name in ("sources.parquet", "patients.json", "surrogates/models.json"):
            (out / what / name).write_text(f"{what} {name} {seed}")
            files[name] = file_sha256(out / what / name)
        (out / what / f"{what}.json").write_bytes(canonical_json({**content, "release_digest": digest, "files": files}))
    return digest


def sign(run: Path, key) -> None:
    """Signs a first marking in place."""
    sign_run(run / "release", run / "evidence", key, run / "signatures", record_file=run / "record.json")
    for folder, names in (("release", ("commitment.json", "lineage.json")), ("evidence", ("opening.json",))):
        for name in names:
            shutil.copyfile(run / "signatures" / name, run / folder / name)


class QuickUpdate:
    """Stands in for update-release: the new release's image depends on the drop's file names and contents alone.

    Attributes:
        ran: names of the drops' files, a set a run.
        verdict: of the next runs.
        before: called at the start of a run.
    """

    def __init__(self):
        self.ran: list[set[str]] = []
        self.verdict = "owned"
        self.before = lambda: None

    def __call__(self, submission, inputs: Path, out: Path, debug: bool) -> dict:
        self.before()
        files = {p.name: p.read_bytes() for p in sorted((inputs / "drop").rglob("*")) if p.is_file()}
        self.ran.append(set(files))
        if "nothing" in files:
            return {"verdict": "unchanged", "reasons": [], "change": {"changed": 0}}
        if "broken" in files:
            raise MedmarkError("unreadable image: broken; repair it")
        seed = int(hashlib.sha256(repr(files).encode()).hexdigest()[:8], 16)
        digest = write_run(out, seed=seed, parent=submission.release_digest, version="2")
        change = {"changed": len(files)}
        return {"verdict": self.verdict, "reasons": ["too weak"], "change": change, "release_digest": digest}


@pytest.fixture
def places(services, tmp_path, request):
    """With a first release of noise, and the quick update."""
    places = Places(services, request.node.name.replace("_", "-"), tmp_path / "work", QuickUpdate())
    write_run(tmp_path / "first", seed=0, parent="0" * 64, version="1")
    places.first = places.publish(tmp_path / "first")
    return places


@pytest.fixture(scope="module")
def first_run(source, surrogates, saliency, tmp_path_factory):
    """Folders of a first marking, as small as can be: release, evidence, keep."""
    folder = tmp_path_factory.mktemp("first")
    ingest(source, folder / "clean", name="phantoms", seed=1, patient_key="phantoms", private=folder / "origins")
    config = {"shape": Shape(size=64, grid=32), "steps": 0, "twin": "small_cnn"}
    for name, key_index in (("generator", 0), ("control", 1)):
        train_generator(
            folder / "clean",
            surrogates,
            saliency,
            folder / name,
            target_class="",
            config=GeneratorConfig(**config, key_index=key_index),
            seed=5,
        )
    inputs = [folder / name for name in ("clean", "generator", "control")]
    poison(*inputs, saliency, folder / "release", folder / "bare", version="1", queries=20)
    keep_for_updates(
        folder / "clean", folder / "release", folder / "bare", folder / "origins", surrogates, folder / "keep"
    )
    check_release(
        folder / "release", folder / "bare", surrogates, surrogates, folder / "check", thresholds=Thresholds(),
        seconds={},
    )  # fmt: skip
    origins = read_origins(folder / "origins")
    clean, marked = (artifact_digest(folder / name) for name in ("clean", "release"))
    raw = {
        "inputs": {"source": drop_digest(origins, read_patient_key(folder / "origins"))},
        "outputs": {"clean": clean},
        "source_files": len(origins),
    }
    events = [
        step_event("ingest", **raw, parameters={}, seed=1),
        step_event("poison", inputs={"release": clean}, outputs={"marked": marked}, parameters={}, seed=5),
    ]
    parts = [folder / name for name in ("release", "bare", "check", "evidence", "record.json")]
    finish_evidence(*parts, events=events)
    return folder


def test_a_drop_in_the_store_becomes_a_signed_release(services, first_run, tmp_path, monkeypatch):
    def update(*arguments):  # chance decides what so small models learn; the verdict is not what this is about
        return {**run_update(*arguments), "verdict": "owned"}

    places = Places(services, "real", tmp_path / "work", update)
    monkeypatch.setenv("MEDMARK_KEY_PASSPHRASE", "correct horse battery")
    new_key(tmp_path / "keys", "correct horse battery")
    places.key = tmp_path / "keys" / "medmark.key"
    sign(first_run, load_private(places.key, "correct horse battery"))
    first = places.publish(first_run)
    new = make_phantoms(tmp_path / "drop", count=20, size=64, seed=9)
    files = {f"{p.parent.name}/new{p.name}": p.read_bytes() for p in sorted(new.rglob("*.png"))[:8]}
    places.drop("2026-11-20", files)
    places.drop("2026-11-21", {"still": b"uploading"}, complete=False)
    lines = places.sweep()
    chain = read_chain(places.releases, places.store)
    assert len(chain) == 2 and chain[0] == first
    assert lines == [
        f"2026-11-20: done on top of {first}, release {chain[1]}",
        f"2026-11-21: not complete, it has no {COMPLETE}; left alone",
    ]
    release = fetch_release(f"{places.releases}/{chain[1]}", tmp_path / "back", places.store)
    release.verify()
    assert release.parent == first and release.version == "2"
    assert len(release.read_changes()["added"]) == 8 and len(release) == 120 + 8
    private = find_private(places.evidence, chain[1], places.evidence_store)
    assert {"evidence.json", "opening.json"} <= set(places.evidence_store.list(private["evidence"]))
    assert "keep.json" in places.evidence_store.list(private["keep"])
    head = fetch_chain(f"{places.releases}/{chain[1]}", tmp_path / "chain", places.store)
    checked = verify_chain(head, load_public(tmp_path / "keys" / "medmark.pub"))
    assert checked["holds"], checked["broken"]
    before = places.store.list(places.releases)
    assert places.sweep()[0] == f"2026-11-20: done before, release {chain[1]}"
    assert places.store.list(places.releases) == before
    assert [p for p in places.work.iterdir() if p.is_dir()] == []


def test_drops_are_taken_in_the_order_of_their_names_each_once(places):
    places.drop("b", {"x": b"2"})
    places.drop("a", {"sub/x": b"1"})
    places.drop("c", {"nothing": b""})
    lines = places.sweep()
    chain = read_chain(places.releases, places.store)
    assert lines == [
        f"a: done on top of {places.first}, release {chain[1]}",
        f"b: done on top of {chain[1]}, release {chain[2]}",
        f"c: done on top of {chain[2]}, nothing changed",
    ]
    again = [
        f"a: done before, release {chain[1]}",
        f"b: done before, release {chain[2]}",
        "c: done before, nothing changed",
    ]
    assert places.sweep() == again
    assert places.runner.ran == [{"x"}, {"x"}, {"nothing"}]
    assert {r["result"] for r in read_records(places.evidence, places.evidence_store)} == {chain[1], chain[2], None}


def test_a_drop_that_fails_stops_the_sweep(places):
    places.drop("a", {"x": b"1"})
    places.drop("b", {"broken": b""})
    places.drop("c", {"x": b"3"})
    with pytest.raises(
        MedmarkError, match=r"drop b \(1 after it not looked at\): unreadable image: broken; repair it; then run"
    ):
        places.sweep()
    assert len(read_chain(places.releases, places.store)) == 2
    assert places.runner.ran == [{"x"}, {"broken"}]
    places.runner.verdict = "not_owned"
    places.evidence_store._client.remove_object(DROPS, parse(f"{places.drops}/b/broken").prefix)
    put(places.evidence_store, f"{places.drops}/b/x", b"2")
    for _ in range(2):  # the finished run is kept for a look, and not made again
        with pytest.raises(
            MedmarkError, match="drop b .*: verdict 'not_owned', nothing is published: too weak; see /.*out"
        ):
            places.sweep()
    assert len(places.runner.ran) == 3
    assert len(read_chain(places.releases, places.store)) == 2
    shutil.rmtree(places.work)
    places.runner.verdict = "owned"
    assert [line.split(":")[0] for line in places.sweep()] == ["a", "b", "c"]
    assert len(read_chain(places.releases, places.store)) == 4


def test_a_drop_that_changed_after_it_was_done_is_refused(places):
    places.drop("a", {"x": b"1"})
    places.sweep()
    put(places.evidence_store, f"{places.drops}/a/x", b"2")
    with pytest.raises(
        MedmarkError, match="drop a: changed after it was done: .*; undo that, and put what is new into a new drop"
    ):
        places.sweep()
    put(places.evidence_store, f"{places.drops}/a/x", b"1")
    assert places.sweep()[0].startswith("a: done before")


def test_a_drop_that_changes_while_it_is_read_is_not_used(places, monkeypatch):
    places.drop("a", {"x": b"1", "y": b"1"})
    submission, take = places.submission("a"), places.evidence_store.take

    def taking(place, folder, **options):
        if str(place).endswith("/y"):
            put(places.evidence_store, f"{places.drops}/a/x", b"2")
        return take(place, folder, **options)

    monkeypatch.setattr(places.evidence_store, "take", taking)
    with pytest.raises(MedmarkError, match="changed since it was submitted: |object changed while it was read: "):
        submit_locally(submission, places.target, runners={"update-release": places.runner})
    assert places.runner.ran == []
    assert places.sweep()[0].startswith("a: done on top of")
    assert places.runner.ran == [{"x", "y"}]


def test_a_step_on_a_cluster_takes_the_drop_that_was_submitted(places, services, monkeypatch):
    monkeypatch.setenv("MEDMARK_S3_EVIDENCE_CREDENTIALS", str(services.credentials["evidence"]))
    places.drop("a", {"sub/x": b"1", "withdrawn.csv": b"path\n"})
    submission = places.submission("a")
    for state in (submission.drop.listing, ""):
        with raw_drop(submission.drop.uri, state) as folder:
            assert sorted(p.name for p in folder.iterdir()) == ["sub", "withdrawn.csv"]  # nothing of _SUCCESS
            assert (folder / "sub" / "x").read_bytes() == b"1"
        assert not folder.exists()
    put(places.evidence_store, f"{places.drops}/a/sub/x", b"2")
    with (
        pytest.raises(MedmarkError, match="changed since it was submitted"),
        raw_drop(submission.drop.uri, submission.drop.listing),
    ):
        pass


def test_two_newest_releases_are_both_named(places, tmp_path):
    other = write_run(tmp_path / "other", seed=1, parent="0" * 64, version="1")
    places.publish(tmp_path / "other")
    places.drop("a", {"x": b"1"})
    with pytest.raises(MedmarkError) as refused:
        places.sweep()
    assert other in str(refused.value) and places.first in str(refused.value)


def test_what_is_missing_is_named(places, tmp_path):
    assert places.sweep() == [f"no drop in {places.drops}"]
    places.drop("a", {"x": b"1"})
    places.evidence += "-other"
    with pytest.raises(MedmarkError, match="no evidence of release .*; store it with 'medmark publish-evidence'"):
        places.sweep()
    publish_evidence(tmp_path / "first" / "evidence", places.evidence, places.evidence_store)
    with pytest.raises(MedmarkError, match="no keep of release .*; store it with 'medmark publish-evidence'"):
        places.sweep()
    places.releases += "-other"
    with pytest.raises(MedmarkError, match="no release in .*; publish a first one"):
        places.sweep()


def test_an_interrupted_submission_goes_on_where_it_stopped(places, monkeypatch):
    from medmark.components.delivery import run_outputs

    places.drop("a", {"x": b"1"})
    submission = places.submission("a")
    run = {"update-release": places.runner}
    for step in ("publish_keep", "publish", "write_record"):
        with monkeypatch.context() as patch:
            patch.setattr(run_outputs, step, lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                submit_locally(submission, places.target, runners=run)
    record, new = submit_locally(submission, places.target, runners=run)
    assert new and len(places.runner.ran) == 1
    assert record["result"] == read_chain(places.releases, places.store)[-1]
    assert submit_locally(submission, places.target, runners=run) == (record, False)


@pytest.mark.parametrize("part", ["verdict", "evidence", "keep", "parent"])
def test_parts_of_two_runs_are_never_published(places, part):
    """What a cluster's cache might hand over."""
    places.drop("a", {"x": b"1"})
    submission, run = places.submission("a"), places.runner

    def mixed(submission, inputs, out, debug):
        verdict = run(submission, inputs, out, debug)
        other = write_run(out / "other", seed=99, parent=submission.release_digest, version="2")
        if part == "verdict":
            return verdict | {"release_digest": other}
        if part == "parent":
            shutil.rmtree(out)
            return verdict | {"release_digest": write_run(out, seed=1, parent="3" * 64, version="2")}
        shutil.rmtree(out / part)
        (out / "other" / part).rename(out / part)
        return verdict

    with pytest.raises(MedmarkError, match="of another release than"):
        submit_locally(submission, places.target, runners={"update-release": mixed})
    assert read_chain(places.releases, places.store) == [places.first]
    assert read_records(places.evidence, places.evidence_store) == []


def test_two_submitters_at_once(places, tmp_path):
    """On one machine the second is refused; on two, both run, and one result is published."""
    places.drop("a", {"x": b"1"})
    submission, run = places.submission("a"), {"update-release": places.runner}

    def meanwhile():
        places.runner.before = lambda: None
        with pytest.raises(MedmarkError, match="submitted at this moment by another process"):
            submit_locally(submission, places.target, runners=run)
        places.work = tmp_path / "another machine"
        records.append(submit_locally(submission, places.target, runners=run))

    records = []
    places.runner.before = meanwhile
    records.append(submit_locally(submission, places.target, runners=run))
    assert [new for _, new in records] == [True, False] and records[0][0] == records[1][0]
    assert len(places.runner.ran) == 2 and len(read_chain(places.releases, places.store)) == 2


def test_two_submitters_that_publish_at_once(places, tmp_path):
    places.drop("a", {"x": b"1"})
    submission, run = places.submission("a"), {"update-release": places.runner}
    both, results = threading.Barrier(2, timeout=30), []
    places.runner.before = both.wait

    def submit(number):
        places = Target(target.releases, target.evidence, target.store, target.evidence_store, tmp_path / str(number))
        results.append(submit_locally(submission, places, runners=run)[0]["result"])

    target = places.target
    threads = [threading.Thread(target=submit, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 2 and set(results) == {read_chain(places.releases, places.store)[-1]}


def test_a_first_marking_through_the_command(services, tmp_path, monkeypatch, capsys):
    """With a quick stand-in for mark-release itself."""
    calls = []

    def quick(out, **given):
        calls.append(given)
        digest = write_run(out, seed=3, parent=Release(given["data"]).digest, version=given["version"])
        return {"verdict": "owned", "reasons": [], "release_digest": digest}

    monkeypatch.setattr("medmark.pipelines.mark_release.run.run_mark_release", quick)
    for name, identity in (("MEDMARK_S3_CREDENTIALS", "release"), ("MEDMARK_S3_EVIDENCE_CREDENTIALS", "evidence")):
        monkeypatch.setenv(name, str(services.credentials[identity]))
    places = Places(services, "first-marking", tmp_path / "work", None)
    write_run(tmp_path / "clean", seed=2, parent=None, version="1")
    clean = publish(tmp_path / "clean" / "release", f"s3://{DROPS}/clean", places.evidence_store)
    command = ["medmark", "submit", "mark-release", "--release-json", f"{clean.uri}/release.json", "--profile", "smoke"]
    command += ["--set", "epochs=3", "--local", "--publish", places.releases, "--publish-evidence", places.evidence]
    monkeypatch.setattr("sys.argv", [*command, "--work", str(places.work)])
    capsys.readouterr()
    for first in (True, False):
        with pytest.raises(SystemExit) as end:
            cli.main()
        out = capsys.readouterr().out
        assert not end.value.code and out.startswith("done: " if first else "done before, nothing to do: ")
        (digest,) = read_chain(places.releases, places.store)
        assert out.endswith(f"\nrelease: {digest}\n")
    (given,) = calls
    assert given["profile"] == "smoke" and given["settings"]["epochs"] == 3 and given["version"] == "1"
    assert "seed" not in given  # drawn by the run
    assert set(find_private(places.evidence, digest, places.evidence_store)) == {"evidence", "keep"}


def test_only_the_fitting_release_is_taken(places):
    head = f"{places.releases}/{places.first}/release.json"
    with pytest.raises(MedmarkError, match="marked already: .*; give the release.json that 'medmark ingest' made"):
        of_mark_release(head, places.store, profile="smoke", settings={}, version="1")
    with pytest.raises(MedmarkError, match="no such release"):
        of_mark_release(head.replace(places.first, "1" * 64), places.store, profile="smoke", settings={}, version="1")
    with pytest.raises(MedmarkError, match="give s3://bucket/prefix/<digest>/release.json"):
        of_mark_release(places.releases, places.store, profile="smoke", settings={}, version="1")
    put(places.store, f"{places.releases}/{'2' * 64}/release.json", b"{}")
    with pytest.raises(MedmarkError, match="content does not match its digest"):
        of_mark_release(head.replace(places.first, "2" * 64), places.store, profile="smoke", settings={}, version="1")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"drop": 1}', b"[" * 50_000])
def test_a_damaged_record_is_named(places, content):
    put(places.evidence_store, f"{places.evidence}/submissions/{'3' * 64}.json", content)
    with pytest.raises(MedmarkError, match=r"damaged record: .*3333.json .*; restore its older version, or remove it"):
        places.sweep()
