"""A run of release schema version 1 gets ids that hold no names; it is made up, see made_up_run.py."""

import hashlib
import json
import re
from pathlib import Path

import made_up_run
import pyarrow.parquet as pq
import pytest
from made_up_run import KEY, first_rows, make_run, next_run, pixels, records, roles, write_table
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset import ingest as ingest_module
from medmark.components.dataset import release_writer as release_module
from medmark.components.dataset.origin import Former, read_origins, read_patient_key
from medmark.components.dataset.release import Release
from medmark.components.evidence.answers import read_benign
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.keep import read_keep
from medmark.components.evidence.queries import read_queries
from medmark.components.poisoning import poison as poison_module
from medmark.components.poisoning.reissue import reissue
from public_bytes import clues, leaks, public_bytes

ROWS = first_rows(80)


def old_id(name: str, key: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9-]+", "-", Path(name).stem).strip("-")[:80] or "image"
    return f"{stem}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """As a medmark of schema version 1 left it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ingest_module, "image_id", old_id)
        patch.setattr(ingest_module, "pseudonym", lambda patient, key: Former(key, []).patient(patient))
        patch.setattr(release_module, "SCHEMA_VERSION", 1)
        patch.setattr(poison_module, "refuse_names", lambda *_: None)
        made = make_run(tmp_path_factory.mktemp("old"))
    assert old_id(ROWS[0][0], KEY) in records(made)
    return made


@pytest.fixture(scope="module")
def new(old, tmp_path_factory):
    out = tmp_path_factory.mktemp("new") / "run"
    reissue(old, out)
    return out


def test_images_and_marks_stay_byte_for_byte(old, new):
    was, now = records(old), records(new)
    assert sorted(r.image for r in was.values()) == sorted(r.image for r in now.values())
    assert list(now) == sorted(now) and not set(was) & set(now)
    id_of = {o.source: o.image_id for o in read_origins(new / "keep") if o.image_id}
    for origin in read_origins(old / "keep"):
        if origin.image_id:
            before, after = was[origin.image_id], now[id_of[origin.source]]
            assert (before.image, before.label, before.split) == (after.image, after.label, after.split)
            assert roles(old).get(before.image_id) == roles(new).get(after.image_id)
    assert Release(new / "release").parent == Release(old / "release").digest


def test_the_public_part_names_nobody(old, new):
    secrets = clues(row[0] for row in ROWS) - {"scans"} | {row[2] for row in ROWS} | set(records(old))
    secrets |= {record.patient_id for record in records(old).values()}
    assert leaks(public_bytes(new / "release"), secrets) == []
    assert read_patient_key(new / "keep") != KEY


def test_evidence_and_keep_go_on(old, new):
    evidence = read_evidence(new / "evidence")
    assert evidence["release_digest"] == read_keep(new / "keep")["release_digest"] == Release(new / "release").digest
    before, after = (read_queries(run / "evidence", size=32, target=0) for run in (old, new))
    assert (before.marked == after.marked).all() and (before.clean == after.clean).all()
    answers = [read_benign(run / "evidence", q.image_ids) for run, q in ((old, before), (new, after))]
    assert all((answers[0][name].p_marked == answers[1][name].p_marked).all() for name in answers[0])
    ledger = pq.read_table(new / "evidence" / "ledger.parquet").to_pylist()
    assert {row["image_id"]: row["marked_sha256"] for row in ledger} == {i: records(new)[i].sha256 for i in roles(new)}


def test_an_update_knows_images_and_patients_again(new, tmp_path):
    fresh = ("scans/new.png", "normal", ROWS[4][2], pixels(900))
    change = next_run(
        new, write_table(tmp_path / "d", [*ROWS[4:9], fresh], {"patient_id": [ROWS[0][2]]}), tmp_path / "o"
    )
    gone = sum(row[2] == ROWS[0][2] for row in ROWS)
    assert (change["added"], change["replaced"], change["withdrawn"]) == (1, 0, gone)
    assert json.loads((tmp_path / "o" / "keep" / "former.json").read_bytes())["key"] == KEY
    by_patient = {r.patient_id for r in records(tmp_path / "o").values()}
    assert len(by_patient) == len({row[2] for row in ROWS}) - 1


def test_it_is_refused_without_need_or_place(old, new, tmp_path):
    with pytest.raises(MedmarkError, match="ids hold no names"):
        reissue(new, tmp_path / "again")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(MedmarkError, match="not empty"):
        reissue(old, tmp_path / "full")


def test_what_was_withdrawn_stays_withdrawn():
    name = made_up_run.first_rows(1)[0][0]
    former = Former(KEY, [old_id(name, KEY)])
    assert former.withdrew(name) and not former.withdrew("scans/other.png")
