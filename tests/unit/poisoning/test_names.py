"""Names of patients and files never reach what is published; runs are made up, see made_up_run.py."""

import hashlib
import json
import re
import stat
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from kfp import dsl
from made_up_run import CLASSES, KEY, make_run, next_run, pixels, write_table
from medmark.components.base.digests import file_sha256
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.component import ingest_component
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.origin import read_origins
from medmark.components.dataset.pseudonyms import image_id, pseudonym
from medmark.components.dataset.release import Release
from medmark.components.delivery.component import expand_profile_component
from medmark.components.lineage.step import said_by
from medmark.pipelines import cli
from medmark.pipelines.mark_release import run as mark_run
from PIL import Image
from public_bytes import clues, hashes, leaks, public_bytes
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

FIXTURES = Path(__file__).parents[2] / "fixtures"
STUDIES = [f"CheXpert-v1.0/train/patient{n // 2:05d}/study{1 + n % 2}/view1_frontal.png" for n in range(80)]


def hostile_rows(numbers) -> list[tuple]:
    """Surname, birth date and record number in folders, files and patient ids."""
    rows = []
    for n in numbers:
        who = f"Okonkwo{n // 2}_19470{1 + n % 2}13_MRN88213{n:03d}"
        rows.append((f"Ward Czerny/{who}/{who}_thorax.png", CLASSES[n // 2 % 2], f"MRN88213{n // 2:03d}", pixels(n)))
    return rows


def write_dicom(path, number) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    made.PatientName, made.PatientID, made.PatientBirthDate = (
        f"Quispe{number}^Rosaura",
        f"PID-55{number:04d}",
        "19320229",
    )
    made.AccessionNumber, made.StudyDescription = f"ACC77{number:04d}", "Nachsorge Quispe"
    made.PhotometricInterpretation, made.SamplesPerPixel = "MONOCHROME2", 1
    made.Rows, made.Columns = 32, 32
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    made.PixelData = np.ascontiguousarray(pixels(number)).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A first run of named files, one of them unreadable, and an update that withdraws, adds and sets aside."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = hostile_rows(range(80))
    table = write_table(folder / "raw", rows)
    for name, *_ in rows[:1]:
        (folder / "raw" / name).write_bytes(b"no image")
    table = table.rename(table.with_name("Station_Czerny_2019.csv"))
    make_run(folder / "one", table, label_column="label", patient_key=KEY, quarantine=True)
    new = hostile_rows(range(80, 84))
    drop = write_table(folder / "drop", new, {"path": [rows[5][0], rows[8][0]]})
    (folder / "drop" / new[0][0]).write_bytes(b"no image")
    next_run(folder / "one", drop, folder / "two", quarantine=True)
    return folder, rows + new, [table, drop]


def test_no_name_and_no_hash_of_one_is_public(hostile):
    folder, rows, tables = hostile
    public = public_bytes(*(folder / run / "release" for run in ("one", "two")))
    secrets = clues(row[0] for row in rows) | {row[2] for row in rows} | {t.name for t in tables[:1]}
    secrets |= {"Okonkwo", "Czerny", "MRN88213"}
    assert leaks(public, secrets) == []
    private = public_bytes(folder / "one" / "keep", folder / "two" / "keep")
    assert rows[10][0].encode() in private  # the test can find names


def test_what_was_set_aside_is_named_in_the_keep_alone(hostile):
    folder, rows, _ = hostile
    for run, name in (("one", rows[0][0]), ("two", rows[80][0])):
        (row,) = pd.read_parquet(folder / run / "keep" / "rejected.parquet").to_dict("records")
        assert row["source"] == name and row["reason"]
        assert not list((folder / run / "release").rglob("rejected*"))
    assert Release(folder / "one" / "release").rejected is None  # of a marked release, as before


def test_dicom_tags_stay_out_but_for_the_display(tmp_path):
    names = []
    for n in range(40):
        path = tmp_path / "raw" / CLASSES[n % 2] / f"Quispe{n}_Rosaura_19320229.dcm"
        write_dicom(path, n)
        names.append(path.relative_to(tmp_path / "raw").as_posix())
    ingest(tmp_path / "raw", tmp_path / "release", patient_key=KEY)
    secrets = {c for c in clues(names) if c not in CLASSES} | {"Quispe", "Rosaura", "19320229", "Nachsorge"}
    secrets |= {text for n in range(40) for text in (f"PID-55{n:04d}", f"ACC77{n:04d}", f"Quispe{n}^Rosaura")}
    assert leaks(public_bytes(tmp_path / "release"), secrets) == []
    for path in sorted((tmp_path / "raw").rglob("*.dcm"))[:1]:
        assert pydicom.dcmread(path).PatientID.startswith("PID-55")


def test_guessing_chexpert_paths_gives_nobody_back(tmp_path):
    """All patients, studies and views are known: whoever hashes their paths must not find one image of the release."""
    rows = [(name, CLASSES[n // 2 % 2], "", pixels(n)) for n, name in enumerate(STUDIES)]
    table = tmp_path / "raw" / "train.csv"
    for name, _, _, image in rows:
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "raw" / name)
    table.write_text("Path,label\n" + "".join(f"{name},{label}\n" for name, label, *_ in rows))
    release = ingest(table, tmp_path / "release", label_column="label", patient_key=KEY)
    ids = "\n".join(
        text for r in release.records(columns=["image_id", "patient_id"]) for text in (r.image_id, r.patient_id)
    )
    back = []
    for patient in range(100):
        for study in range(1, 3):
            for view in ("view1_frontal", "view2_lateral"):
                guess = f"CheXpert-v1.0/train/patient{patient:05d}/study{study}/{view}.png"
                if any(h(guess.encode()).hexdigest()[:8] in ids for h in (hashlib.sha256, hashlib.sha1, hashlib.md5)):
                    back.append(guess)
    assert back == []


def test_a_drop_cannot_be_confirmed_from_its_digest(tmp_path):
    """Names and files of a small drop can be guessed: the public digest must not be what anybody can work out."""
    table = write_table(tmp_path / "raw", hostile_rows(range(40)))
    made = {name: dsl.Artifact(name=name, uri=str(tmp_path / name), metadata={}) for name in ("release", "origins")}
    options = {"label_column": "label", "patient_key": KEY}
    ingest_component.python_func(source=str(table), source_state="", options=options, **made)
    (source,) = said_by(made)["release"]["lineage"]["inputs"]
    lines = sorted((o.source, o.sha256) for o in read_origins(tmp_path / "origins"))
    text = "".join(f"{sha256}  {source}\n" for source, sha256 in lines)
    assert file_sha256(table) in text  # as whoever guesses all files would have it
    assert source["facets"]["version"]["datasetVersion"] not in hashes(text)


def test_mlflow_gets_the_name_of_the_data_set_not_of_its_source(tmp_path, monkeypatch):
    class Enough(Exception):
        pass

    def stop(pipeline, arguments, *_):
        given.update(arguments)
        raise Enough

    given: dict = {}
    monkeypatch.setattr(mark_run, "run_locally", stop)
    table = write_table(tmp_path / "raw", hostile_rows(range(2)))
    table = table.rename(table.with_name("Station_Czerny_2019.csv"))
    options = {"name": "thorax", "label_column": "label"}
    with pytest.raises(Enough):
        mark_run.run_mark_release(tmp_path / "out", data=str(table), profile="smoke", ingest_options=options)
    taken = ("profile", "overrides", "models_per_step", "ingest_options", "name", "drawn_for")
    parameters = expand_profile_component.python_func(**{name: given[name] for name in taken}, run="run")[-1]
    assert parameters["data"] == "thorax"
    assert leaks(json.dumps(parameters).encode(), {table.name, table.stem, "Czerny", str(tmp_path)}) == []


def test_ids_do_not_collide():
    """128 bits: for n ids two are the same with a probability of about n^2 / 2^129, 1.5e-25 for 10 million."""
    names = [f"CheXpert-v1.0/train/patient{n:05d}/study1/view1_frontal.jpg" for n in range(100_000)]
    found = {image_id(name, KEY) for name in names} | {pseudonym(name, KEY) for name in names}
    assert len(found) == 2 * len(names) and all(re.fullmatch("[0-9a-f]{32}", one) for one in found)
    bits = 4 * len(image_id(names[0], KEY))
    assert bits >= 96 and (10_000_000**2 / 2) / 2**bits < 1e-14
    # every digit is drawn from all sixteen: no part of an id is constant
    assert all(len({one[place] for one in found}) == 16 for place in range(32))


def test_the_key_never_follows_from_the_seed(tmp_path):
    table = write_table(tmp_path / "raw", hostile_rows(range(40)))
    ids = [
        {
            r.image_id
            for r in ingest(table, tmp_path / str(n), label_column="label", seed=5).records(columns=["image_id"])
        }
        for n in range(2)
    ]
    assert not ids[0] & ids[1]


def test_rows_come_in_the_order_of_their_ids(hostile):
    folder, _, _ = hostile
    ids = [r.image_id for r in Release(folder / "one" / "release").records(columns=["image_id"])]
    assert ids == sorted(ids)


@pytest.mark.parametrize("where", ["default", "named"])
def test_what_plain_ingest_sets_aside_is_in_a_private_file(tmp_path, monkeypatch, capsys, where):
    rows = hostile_rows(range(40))
    table = write_table(tmp_path / "raw", rows)
    (tmp_path / "raw" / rows[0][0]).write_bytes(b"no image")
    expected = tmp_path / ("aside.parquet" if where == "named" else "r.rejected.parquet")
    command = ["medmark", "ingest", str(table), "--label-column", "label", "--quarantine", "--out", str(tmp_path / "r")]
    monkeypatch.setattr(sys, "argv", command + (["--rejected", str(expected)] if where == "named" else []))
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code
    assert str(expected) in capsys.readouterr().out.replace("\n", "")
    (row,) = pd.read_parquet(expected).to_dict("records")
    assert row["source"] == rows[0][0] and row["reason"]
    assert stat.S_IMODE(expected.stat().st_mode) == 0o600
    assert Release(tmp_path / "r").rejected == {"rows": 1}
    assert leaks(public_bytes(tmp_path / "r"), {rows[0][0], "Okonkwo", "Czerny"}) == []


@pytest.mark.parametrize("file", ["r/aside.parquet", "r/shards/aside.parquet", "x/../r/aside.parquet", "s3://b/aside"])
def test_the_private_file_never_lies_in_the_release(tmp_path, monkeypatch, capsys, file):
    table = write_table(tmp_path / "raw", hostile_rows(range(40)))
    command = ["medmark", "ingest", str(table), "--label-column", "label", "--quarantine", "--out", str(tmp_path / "r")]
    monkeypatch.setattr(sys, "argv", [*command, "--rejected", file if "://" in file else str(tmp_path / file)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1 and capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "r" / "release.json").exists()


def test_nothing_that_was_set_aside_is_written_over(tmp_path):
    table = write_table(tmp_path / "raw", hostile_rows(range(40)))
    (tmp_path / "r.rejected.parquet").write_bytes(b"of another ingest")
    with pytest.raises(MedmarkError, match="exists: .*r.rejected.parquet; move it away"):
        ingest(table, tmp_path / "r", label_column="label", quarantine=True)


# schema version 1


def test_inspecting_an_old_release_warns(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["medmark", "inspect", str(FIXTURES / "updated-release-v1")])
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code
    out = " ".join(capsys.readouterr().out.split())
    assert "image ids hold file names and rejected.parquet names source files" in out and "medmark reissue" in out


def test_an_old_release_is_not_taken_as_a_source(tmp_path):
    with pytest.raises(MedmarkError, match="image ids hold file names.*ingest the raw images again"):
        ingest(FIXTURES / "release-v1", tmp_path / "r")


def test_the_second_schema_is_read():
    release = Release(FIXTURES / "release-v2")
    release.verify()
    assert release.schema_version == 2 and release.rejected == {"rows": 1}
    assert release.digest == "dd4cfd5596bbc5e2e8946da1d89780283ca303c9bae98750ced429703ceab7de"
    assert image_id(hostile_rows([3])[0][0], KEY) in {r.image_id for r in release.records(columns=["image_id"])}
