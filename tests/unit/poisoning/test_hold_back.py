"""Patients who are held back are never published, in no release, and a withdrawal takes them out of the evidence, too."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_up_run import CLASSES, KEY, SEED, SIDE, first_rows, make_run, next_run, pixels, records, write_table
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset import drop as drop_module
from medmark.components.dataset.drop import CHANGES, read_drop
from medmark.components.dataset.origin import read_held_back as held_in_keep
from medmark.components.dataset.pseudonyms import image_id, pseudonym
from medmark.components.dataset.release import Release
from medmark.components.evidence.evidence import read_evidence
from medmark.components.evidence.held_back import HELD_BACK, is_held_back, read_held_back
from medmark.components.generator.marker import Marker
from medmark.components.poisoning.poison import poison

SHARE, COUNT = 0.35, 240
ROWS = {pseudonym(row[2], KEY): row for row in first_rows(COUNT)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), count=COUNT, hold_back=SHARE)


def chosen(run) -> set[str]:
    """Patients of the images that were chosen for a mark or a decoy, whether they could carry it or not."""
    patients = {record.image_id: record.patient_id for record in Release(run / "clean").records()}
    return {patients[one] for one in Marker.load(run / "generator").roles}


def held(run) -> dict[str, str]:
    """Patient of each image that is held back, by id."""
    return held_in_keep(run / "keep")


def asked_about(run) -> set[str]:
    """Images that suspects are asked about."""
    return set(pq.read_table(run / "evidence" / HELD_BACK)["image_id"].to_pylist())


def test_the_lot_decides_who_is_not_published(run):
    clean = {r.image_id: r for r in Release(run / "clean").records()}
    published, away = records(run), held(run)
    assert away and set(published) | set(away) == set(clean) and not set(published) & set(away)
    marked = chosen(run)
    for record in clean.values():
        drawn = is_held_back(SEED, record.patient_id, SHARE)
        expected = record.split == "train" and record.patient_id not in marked and drawn
        assert (record.image_id in away) == expected, record
    evidence = read_evidence(run / "evidence")
    assert evidence["hold_back"] == SHARE and evidence["held_back_patients"] == len(set(away.values()))


def test_nothing_public_names_them(run):
    public = b"".join(path.read_bytes() for path in (run / "release").rglob("*") if path.is_file())
    for one, patient in held(run).items():
        assert one.encode() not in public and patient.encode() not in public


def test_suspects_are_asked_about_both_kinds_in_an_order_that_tells_nothing(run):
    rows = pq.read_table(run / "evidence" / HELD_BACK).to_pylist()
    away, marked = held(run), chosen(run)
    asked = {row["image_id"] for row in rows}
    others = {i for i, r in records(run).items() if r.split == "train" and r.patient_id not in marked}
    assert asked == set(away) | others and len(rows) == len(asked)
    shown = list(read_held_back(run / "evidence", size=SIDE, seed=SEED, share=SHARE))
    sides = np.concatenate([part.held_back for part in shown])
    assert [row["image_id"] in away for row in rows] == sides.tolist()
    assert np.concatenate([part.expected for part in shown]).std() > 0
    first, second = sides[: len(sides) // 2].mean(), sides[len(sides) // 2 :].mean()
    assert 0.1 < first < 0.7 and 0.1 < second < 0.7


def test_a_drop_does_not_bring_them_back(run, tmp_path):
    patient = sorted(held(run).values())[0]
    name, label, who, image = ROWS[patient]
    again = [(name, label, who, image), ("scans/new-of-held.png", label, who, pixels(900))]
    fresh = [(f"scans/fresh-{n}.png", CLASSES[n % 2], f"fresh-{n}", pixels(910 + n)) for n in range(6)]
    change = next_run(run, write_table(tmp_path / "drop", again + fresh), tmp_path)
    assert change["added"] == change["changed"] == 6
    assert not set(held(run)) & set(records(tmp_path))
    assert image_id("scans/new-of-held.png", KEY) not in records(tmp_path)
    assert held(tmp_path) == held(run) and (tmp_path / "evidence" / HELD_BACK).exists()
    # under another name and patient the pixels are known again
    disguised = write_table(tmp_path / "disguised", [("scans/other.png", label, "somebody else", image)])
    with pytest.raises(MedmarkError, match="same image twice"):
        read_drop(disguised, tmp_path / "release", tmp_path / "keep", tmp_path / "x", label_column="label")


def test_a_withdrawal_takes_them_out_of_the_evidence(run, tmp_path):
    patient = sorted(held(run).values())[0]
    gone = {one for one, whose in held(run).items() if whose == patient}
    source = write_table(tmp_path / "drop", [], {"patient_id": [ROWS[patient][2]]})
    change = next_run(run, source, tmp_path)
    assert (change["changed"], change["withdrawn"]) == (len(gone), 0)
    assert set(held(tmp_path)) == set(held(run)) - gone
    assert not asked_about(tmp_path) & gone
    assert read_evidence(tmp_path / "evidence")["held_back_patients"] == len(set(held(tmp_path).values()))
    assert set(records(tmp_path)) == set(records(run))
    stated = Release(tmp_path / "release").read_changes()
    assert not any(stated[kind] for kind in ("added", "changed", "withdrawn", "tombstones"))
    back = write_table(tmp_path / "back", [ROWS[patient]])
    with pytest.raises(MedmarkError, match="pixels of an image that was withdrawn"):
        read_drop(back, tmp_path / "release", tmp_path / "keep", tmp_path / "x", label_column="label")


def test_corrections_leave_the_evidence_alike_whether_an_image_was_published_or_not(run, tmp_path, monkeypatch):
    """Other pixels take an image out of the questions, another label does not; what is left differs by the lot alone."""
    away, asked = held(run), asked_about(run)
    hidden, shown = ([i for i in sorted(asked) if (i in away) == is_away][:2] for is_away in (True, False))
    rows = {image_id(row[0], KEY): row for row in first_rows(COUNT)}
    drop = []
    for repainted, relabelled in (hidden, shown):
        name, label, who, image = rows[repainted]
        corrected = image.copy()
        corrected[:6, :6] = 90
        drop.append((name, label, who, corrected))
        name, label, who, image = rows[relabelled]
        drop.append((name, CLASSES[1 - CLASSES.index(label)], who, image))
    next_run(run, write_table(tmp_path / "drop", drop), tmp_path)
    assert asked - asked_about(tmp_path) == {hidden[0], shown[0]}
    assert set(held(tmp_path)) == set(away) and not set(away) & set(records(tmp_path))
    assert read_evidence(tmp_path / "evidence")["held_back_patients"] == len(set(away.values()))
    # the same drop again brings nothing new, and no image is decoded
    monkeypatch.setattr(drop_module, "decode_file", None)
    again = read_drop(
        tmp_path / "drop" / "labels.csv", tmp_path / "release", tmp_path / "keep", tmp_path / "x", label_column="label"
    )
    assert not any(again[kind] for kind in CHANGES)


def test_a_published_image_stays_when_its_patient_is_corrected_to_one_who_is_held_back(run, tmp_path):
    hidden = ROWS[sorted(held(run).values())[0]]
    published = sorted(i for i, r in records(run).items() if r.split == "train")[0]
    name, label, _, image = {image_id(row[0], KEY): row for row in first_rows(COUNT)}[published]
    next_run(run, write_table(tmp_path / "drop", [(name, label, hidden[2], image)]), tmp_path)
    assert published in records(tmp_path) and not set(held(run)) & set(records(tmp_path))


def test_what_cannot_be_held_back_is_refused(run, tmp_path):
    def again(share, **given):
        places = [run / name for name in ("generator", "control", "maps")] + [tmp_path / "r", tmp_path / "e"]
        poison(run / "clean", *places, version="1", queries=10, hold_back=share, **given)

    models = {"surrogates_dir": run / "models"}
    with pytest.raises(MedmarkError, match="hold_back=0.6 is not between 0 and 0.5"):
        again(0.6, **models)
    with pytest.raises(MedmarkError, match="hold_back=0.01 divides .* at least 20"):
        again(0.01, **models)
    with pytest.raises(MedmarkError, match="needs surrogates"):
        again(SHARE)
