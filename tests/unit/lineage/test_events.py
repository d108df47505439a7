import hashlib
import hmac
import json
import stat

import pytest
from chain_case import PARAMETERS, SEED
from commitment_case import FIXTURES, RELEASE
from medmark.components.base.digests import canonical_json, file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.release import Release
from medmark.components.lineage import events
from medmark.components.lineage.events import (
    artifact_digest,
    check_record,
    public_record,
    read_record,
    read_steps,
    step_event,
    write_events,
    write_steps,
)
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.transport.file import FileConfig, FileTransport

DIGEST = Release(RELEASE).digest
PARENT = "ab" * 32


@pytest.fixture
def parent(monkeypatch):
    """The fixture release has no parent; a marked one has."""
    monkeypatch.setattr(events, "read_subject", MarkedFixture)


class MarkedFixture(Release):
    def __init__(self, path):
        super().__init__(path)
        self.parent = PARENT


def steps_of_a_run() -> list[dict]:
    """Three steps, the last one first."""
    key, drop, evidence = "11" * 32, "22" * 32, "33" * 32
    said = {"parameters": PARAMETERS, "seed": SEED}
    return [
        step_event("verify", inputs={"marked": DIGEST, "evidence": evidence}, outputs={"check": "44" * 32}, **said),
        step_event(
            "poison",
            inputs={"clean": PARENT, "generator": key},
            outputs={"marked": DIGEST, "evidence": evidence},
            **said,
        ),
        step_event("train generator", inputs={"clean": PARENT}, outputs={"generator": key}, **said),
        step_event("ingest", inputs={"source": drop}, outputs={"clean": PARENT}, source_files=7, **said),
    ]


def test_an_event_is_an_openlineage_run_event():
    """It can be built again by the library's own classes, and says what the schema requires."""
    event = step_event(
        "ingest", inputs={"source": PARENT}, outputs={"clean": DIGEST}, parameters={"a": [1, None]}, seed=3
    )
    assert json.loads(json.dumps(event)) == event
    assert event["schemaURL"].startswith("https://openlineage.io/spec/") and event["producer"].startswith(
        "urn:medmark:"
    )
    again = RunEvent(
        eventTime=event["eventTime"],
        producer=event["producer"],
        eventType=RunState[event["eventType"]],
        run=Run(**event["run"]),
        job=Job(**event["job"]),
        inputs=[InputDataset(**one) for one in event["inputs"]],
        outputs=[OutputDataset(**one) for one in event["outputs"]],
    )
    assert again.eventType is RunState.COMPLETE and again.job.namespace == "medmark"
    facets = [*event["run"]["facets"].values(), *event["inputs"][0]["facets"].values()]
    assert len(facets) == 4 and all(facet["_producer"] and "#/$defs/" in facet["_schemaURL"] for facet in facets)
    assert event["outputs"][0]["facets"]["version"]["datasetVersion"] == DIGEST


def test_a_secret_seed_survives_a_store_that_makes_floats_of_numbers():
    """KFP keeps an artifact's metadata in a protobuf Struct."""
    event = step_event(
        "ingest", inputs={"source": PARENT}, outputs={}, parameters={"n": 2**60 + 1}, seed=SEED, source_files=5
    )
    through = json.loads(json.dumps(event), parse_int=float)
    step = events._Step.of(through)
    assert step.parameters == {"n": 2**60 + 1, "seed": SEED} and step.source_files == 5


def test_steps_are_written_once_in_order(tmp_path):
    made = steps_of_a_run()
    again = step_event(
        "ingest", inputs={"source": "22" * 32}, outputs={"clean": PARENT}, parameters=PARAMETERS, seed=SEED
    )
    steps = write_steps(tmp_path, [*made, *made, again])
    assert [event["job"]["name"] for event in steps["events"]] == ["ingest", "train generator", "poison", "verify"]
    assert read_steps(tmp_path) == steps
    assert stat.S_IMODE((tmp_path / "steps.json").stat().st_mode) == 0o600
    with pytest.raises(MedmarkError, match="already there"):
        write_steps(tmp_path, made)
    (tmp_path / "other").mkdir()
    assert write_steps(tmp_path / "other", made)["salt"] != steps["salt"]


def test_steps_that_need_each_other_are_refused(tmp_path):
    one = step_event("one", inputs={"a": "11" * 32}, outputs={"b": "22" * 32}, parameters={}, seed=None)
    two = step_event("two", inputs={"b": "22" * 32}, outputs={"a": "11" * 32}, parameters={}, seed=None)
    with pytest.raises(MedmarkError, match="need each other: one, two"):
        write_steps(tmp_path, [one, two])


def test_a_step_may_hand_on_what_it_got(tmp_path):
    """As an update does that changes nothing."""
    read = step_event(
        "read drop",
        inputs={"source": PARENT, "previous": DIGEST},
        outputs={"drop": "11" * 32},
        parameters={},
        seed=None,
    )
    mark = step_event(
        "mark drop",
        inputs={"drop": "11" * 32, "previous": DIGEST},
        outputs={"marked": DIGEST},
        parameters={},
        seed=None,
    )
    steps = write_steps(tmp_path, [mark, read])
    assert [event["job"]["name"] for event in steps["events"]] == ["read drop", "mark drop"]


def test_the_record_shows_what_is_public_and_hides_the_rest(tmp_path, parent):
    steps = write_steps(tmp_path, steps_of_a_run())
    record = public_record(RELEASE, steps, verdict="owned")
    (tmp_path / "record.json").write_bytes(canonical_json(record))
    assert read_record(tmp_path / "record.json") == record
    assert record["drop"] == {"digest": "22" * 32, "files": 7}
    ingest, train, poison, _ = record["steps"]
    assert ingest["inputs"] == {"source": {"sha256": "22" * 32}} and ingest["outputs"] == {"clean": {"sha256": PARENT}}
    assert (
        train["outputs"]["generator"]
        == poison["inputs"]["generator"]
        == {"hmac-sha256": hmac.new(bytes.fromhex(steps["salt"]), b"11" * 32, hashlib.sha256).hexdigest()}
    )
    assert poison["outputs"]["marked"] == {"sha256": DIGEST} and set(poison["outputs"]["evidence"]) == {"hmac-sha256"}
    assert train["parameters"] != poison["parameters"], "equal settings of two steps must not show"
    check_record(record, steps)


def test_nothing_secret_is_in_the_record(tmp_path, parent):
    steps = write_steps(tmp_path, steps_of_a_run())
    public = canonical_json(public_record(RELEASE, steps, verdict="owned")).decode()
    settings = [json.dumps(value) for value in PARAMETERS.values()]
    for secret in (
        str(SEED),
        f"{SEED:x}",
        steps["salt"],
        "11" * 32,
        "33" * 32,
        *settings,
        *PARAMETERS,
        "runId",
        "eventTime",
    ):
        assert secret.strip('"') not in public, secret
    for value in (*PARAMETERS.values(), SEED, PARAMETERS, PARAMETERS | {"seed": SEED}):
        for form in (value, str(value)):
            assert hashlib.sha256(canonical_json(form)).hexdigest() not in public
            assert hashlib.sha256(str(form).encode()).hexdigest() not in public


def test_a_registry_is_not_named(tmp_path, parent, monkeypatch):
    monkeypatch.setenv("MEDMARK_IMAGE", "registry.intern.example:5000/team/medmark@sha256:" + "55" * 32)
    steps = write_steps(tmp_path, steps_of_a_run())
    assert "registry.intern" in json.dumps(steps)
    record = public_record(RELEASE, steps, verdict="owned")
    assert {step["image"] for step in record["steps"]} == {"medmark@sha256:" + "55" * 32}


@pytest.mark.parametrize("change", ["salt", "seed", "digest", "less"])
def test_other_steps_do_not_open_the_record(tmp_path, parent, change):
    steps = write_steps(tmp_path, steps_of_a_run())
    record = public_record(RELEASE, steps, verdict="owned")
    other = json.loads(json.dumps(steps))
    train = other["events"][1]
    if change == "salt":
        other["salt"] = "66" * 32
    elif change == "seed":
        train["run"]["facets"]["executionParameters"]["parameters"][-1]["value"] = "7"
    elif change == "digest":
        train["outputs"][0]["facets"]["version"]["datasetVersion"] = "77" * 32
    else:
        other["events"].pop()
    with pytest.raises(MedmarkError, match="steps do not open the record: "):
        check_record(record, other)


def test_steps_of_another_release_make_no_record(tmp_path, parent):
    steps = write_steps(tmp_path, steps_of_a_run()[2:])
    with pytest.raises(MedmarkError, match="steps of another release"):
        public_record(RELEASE, steps, verdict="owned")
    (tmp_path / "b").mkdir()
    with pytest.raises(MedmarkError, match="0 raw drops"):
        public_record(RELEASE, write_steps(tmp_path / "b", steps_of_a_run()[:3]), verdict="owned")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: record.update(extra=1),
        lambda record: record.update(schema_version=2),
        lambda record: record.update(schema_version=True),
        lambda record: record.update(release_digest="AB" * 32),
        lambda record: record.update(parent_digest=None),
        lambda record: record.update(steps=[]),
        lambda record: record.update(verdict="<b>"),
        lambda record: record["drop"].update(files=-1),
        lambda record: record["drop"].update(files=2.5),
        lambda record: record["drop"].pop("digest"),
        lambda record: record["steps"][0].update(seed=7),
        lambda record: record["steps"][0].update(name="a/b"),
        lambda record: record["steps"][0].update(parameters={"epsilon": 0.07}),
        lambda record: record["steps"][0]["inputs"].update(source={"hmac-sha256": "11" * 32}),
        lambda record: record["steps"][1]["outputs"].update(generator={"sha256": "11" * 32}),
        lambda record: record["steps"][0]["inputs"].update({"../x": {"hmac-sha256": "11" * 32}}),
        lambda record: record["steps"][0].update(image="a b"),
        lambda record: record["steps"].append(7),
    ],
)
def test_a_record_of_another_form_is_refused(tmp_path, parent, spoil):
    record = public_record(RELEASE, write_steps(tmp_path, steps_of_a_run()), verdict="owned")
    spoil(record)
    (tmp_path / "record.json").write_bytes(canonical_json(record))
    with pytest.raises(MedmarkError, match=r"damaged record: .*record\.json .*; get it again"):
        read_record(tmp_path / "record.json")


@pytest.mark.parametrize(
    "said",
    [
        {"name": "a/b"},
        {"inputs": {"a": "no digest"}},
        {"outputs": {"a b": PARENT}},
        {"parameters": {"x": {1, 2}}},
        {"parameters": {"x": float("nan")}},
        {"parameters": {"seed": 4}},
    ],
)
def test_malformed_steps_are_refused(said):
    fine = {"inputs": {}, "outputs": {"a": PARENT}, "parameters": {}, "seed": 3}
    with pytest.raises(MedmarkError):
        step_event(said.pop("name", "step"), **(fine | said))


def test_damaged_steps_are_refused(tmp_path):
    steps = write_steps(tmp_path, steps_of_a_run())
    for spoilt in (
        steps | {"salt": "00"},
        steps | {"schema_version": 2},
        steps | {"events": 7},
        {k: v for k, v in steps.items() if k != "salt"},
    ):
        (tmp_path / "steps.json").write_bytes(canonical_json(spoilt))
        with pytest.raises(MedmarkError, match=r"damaged list of steps: .*steps\.json"):
            read_steps(tmp_path)
    (tmp_path / "steps.json").write_bytes(canonical_json(steps | {"events": [{"job": 1}]}))
    with pytest.raises(MedmarkError, match="damaged event"):
        read_steps(tmp_path)


def test_events_are_written_as_the_librarys_file_transport_does(tmp_path):
    made = steps_of_a_run()
    write_events(tmp_path / "ours.jsonl", made)
    transport = FileTransport(FileConfig(log_file_path=str(tmp_path / "theirs.jsonl"), append=True))
    for event in made:
        again = RunEvent(
            eventTime=event["eventTime"],
            producer=event["producer"],
            eventType=RunState.COMPLETE,
            run=Run(**event["run"]),
            job=Job(**event["job"]),
            inputs=[InputDataset(**one) for one in event["inputs"]],
            outputs=[OutputDataset(**one) for one in event["outputs"]],
        )
        transport.emit(again)
    ours, theirs = ((tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("ours", "theirs"))
    assert ours == theirs and len(ours) == 4


def test_digests_of_artifacts(tmp_path):
    assert artifact_digest(RELEASE) == DIGEST
    evidence = FIXTURES / "evidence-v1"
    assert artifact_digest(evidence) == file_sha256(evidence / "evidence.json")
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "keep.json").write_text("{}")
    assert artifact_digest(tmp_path / "keep") == hashlib.sha256(b"{}").hexdigest()
    folder = tmp_path / "models"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "x").write_bytes(b"1")
    (folder / "a").write_bytes(b"2")
    lines = f"{hashlib.sha256(b'2').hexdigest()}  a\n{hashlib.sha256(b'1').hexdigest()}  b/x\n"
    assert artifact_digest(folder) == hashlib.sha256(lines.encode()).hexdigest()
    assert artifact_digest(folder / "a") == hashlib.sha256(b"2").hexdigest()
    with pytest.raises(MedmarkError, match="no such file or folder"):
        artifact_digest(tmp_path / "absent")
