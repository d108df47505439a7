"""Which patient an image is of: what a source tells, and what a user's pattern finds."""

import time

import numpy as np
import pandas as pd
import pytest
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset import patients
from medmark.components.dataset.drop import read_drop
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.origin import read_origins
from medmark.components.dataset.release import Release
from medmark.components.profiles import chosen_profile, marking_arguments
from medmark.pipelines.cli import app
from PIL import Image
from typer.testing import CliRunner

KEY = "patients"
CLASSES = ("normal", "pneumonia")


def write(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32)).astype(np.uint8)).save(path)


def write_source(root, name, numbers=range(40)):
    """A folder per class; ``name`` makes the file's name of class and number."""
    for number in numbers:
        label = CLASSES[number % 2]
        write(root / label / name(label, number), number)
    return root


def split_by_source(folder, release):
    splits = {record.image_id: record.split for record in Release(release).records(columns=["image_id", "split"])}
    return {o.source: splits[o.image_id] for o in read_origins(folder) if o.image_id}


# a rule that tells no patients


def test_a_common_prefix_is_no_patient(tmp_path):
    """The images are broken: it must be said before one of them is decoded."""
    source = write_source(tmp_path / "raw", lambda label, n: f"scan_{n:03d}.png")
    for path in source.rglob("*.png"):
        path.write_bytes(b"x")
    with pytest.raises(MedmarkError) as refusal:
        ingest(source, tmp_path / "r")
    message = str(refusal.value)
    assert message.startswith("all 40 images are taken for one patient, 'scan'") and message.isprintable()
    assert "what stands before the first '_' of the file's name (normal/scan_000.png)" in message
    assert "--patient-pattern" in message
    assert not (tmp_path / "r").exists()


def test_the_class_in_front_is_no_patient(tmp_path):
    source = write_source(tmp_path / "raw", lambda label, n: f"{label}_{n:03d}.png")
    with pytest.raises(MedmarkError) as refusal:
        ingest(source, tmp_path / "r")
    assert "class 'normal' has no image in split test" in str(refusal.value)
    assert "its 20 images are of 1 patient" in str(refusal.value) and "--patient-pattern" in str(refusal.value)
    assert "what stands before the first '_' of the file's name, 'normal' in normal/normal_000.png" in str(
        refusal.value
    )
    release = ingest(source, tmp_path / "q", patient_pattern=r"_(\d+)\.png$")
    assert len(release) == 40 and release.counts["test"] == {"normal": 4, "pneumonia": 4}


def test_a_column_that_tells_no_patients(tmp_path):
    source = write_source(tmp_path / "raw", lambda label, n: f"{n:03d}.png")
    rows = [{"path": p.relative_to(source).as_posix(), "label": p.parent.name} for p in sorted(source.rglob("*.png"))]
    pd.DataFrame(rows).assign(patient_id="unknown").to_csv(source / "labels.csv", index=False)
    with pytest.raises(MedmarkError, match="one patient, 'unknown'.*the text in column 'patient_id'"):
        ingest(source / "labels.csv", tmp_path / "r", label_column="label")


# a user's pattern


def test_a_pattern_tells_patients_in_folders_and_in_a_csv(tmp_path):
    """Four images of each patient, in different folders."""
    source = write_source(tmp_path / "raw", lambda label, n: f"visit{n}_of_p{n // 4 * 2 + n % 2}.png", range(160))
    rows = [{"path": p.relative_to(source).as_posix(), "label": p.parent.name} for p in sorted(source.rglob("*.png"))]
    pd.DataFrame(rows).assign(patient_id="unknown").to_csv(tmp_path / "raw.csv", index=False)
    common = {"patient_pattern": r"_of_(p\d+)\.", "patient_key": KEY}
    folders = ingest(source, tmp_path / "r", private=tmp_path / "o", **common)
    table = ingest(tmp_path / "raw.csv", tmp_path / "t", root=source, label_column="label", **common)
    assert folders.digest == table.digest
    records = list(folders.records(columns=["image_id", "patient_id", "split"]))
    assert len({record.patient_id for record in records}) == 80
    splits = split_by_source(tmp_path / "o", tmp_path / "r")
    by_patient = {}
    for name, split in splits.items():
        by_patient.setdefault(name.rpartition("_of_")[2], set()).add(split)
    assert len(by_patient) == 80 and all(len(found) == 1 for found in by_patient.values())


def test_a_name_without_a_match_is_one_row(tmp_path):
    source = write_source(tmp_path / "raw", lambda label, n: f"{n:03d}.png")
    write(source / "normal" / "other.png", 99)
    options = {"patient_pattern": r"/(\d*)[a-z]*\.png"}  # the group is empty for 'other'
    with pytest.raises(MedmarkError, match=r"no patient: .* finds none in normal/other.png.*--quarantine"):
        ingest(source, tmp_path / "r", **options)
    release = ingest(source, tmp_path / "q", quarantine=True, **options)
    assert (len(release), release.rejected["rows"]) == (40, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patient_pattern": "("}, "no regular expression: '\\('.*correct it"),
        ({"patient_pattern": "a{99999999999}(x)"}, "no regular expression"),
        ({"patient_pattern": r"p\d+"}, "pattern without a group"),
        ({"patient_pattern": ""}, "pattern without a group"),
        ({"patient_pattern": "(" + "x" * 200 + ")"}, "too long or not printable"),
        ({"patient_pattern": "(x)\n"}, "too long or not printable"),
        ({"patient_pattern": "(x)", "patient_column": "who"}, "two rules for patients"),
        ({"uncertain": "perhaps"}, "unknown policy"),
    ],
)
@pytest.mark.parametrize("of", ["ingest", "drop"])
def test_bad_options_are_one_line(release, tmp_path, options, message, of):
    with pytest.raises(MedmarkError, match=message) as refusal:
        if of == "ingest":
            ingest(tmp_path, tmp_path / "r", **options)
        else:
            read_drop(tmp_path, release, tmp_path, tmp_path / "o", **options)
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 600


def test_a_name_made_for_the_pattern_costs_its_row_and_no_more(tmp_path, monkeypatch):
    """Python's re would be busy for years with it."""
    monkeypatch.setattr(patients, "SECONDS", 0.03)
    source = write_source(tmp_path / "raw", lambda label, n: f"{n:03d}.png")
    write(source / "normal" / f"{'1' * 60}!.png", 99)
    options = {"patient_pattern": r"/((\d+)+)\.png"}
    started = time.monotonic()
    with pytest.raises(MedmarkError, match="takes too long: .* on normal/111.*--quarantine"):
        ingest(source, tmp_path / "r", **options)
    release = ingest(source, tmp_path / "q", quarantine=True, **options)
    assert (len(release), release.rejected["rows"]) == (40, 1)
    for number in range(20):
        write(source / "normal" / f"{'1' * 60}!{number}.png", 100 + number)
    with pytest.raises(MedmarkError, match="takes too long: .* and 9 others; simplify it"):
        ingest(source, tmp_path / "s", quarantine=True, **options)
    assert time.monotonic() - started < 60


def test_a_drop_tells_patients_by_the_same_pattern(tmp_path):
    common = {"patient_pattern": r"_of_(p\d+)\."}

    def named(label, n):
        return f"visit{n}_of_p{n % 40}.png"

    source = write_source(tmp_path / "raw", named)
    before = ingest(source, tmp_path / "r", private=tmp_path / "o", patient_key=KEY, **common)
    split_of = {r.patient_id: r.split for r in before.records(columns=["patient_id", "split"])}
    drop = write_source(tmp_path / "d", named, range(36, 50))
    found = read_drop(drop, tmp_path / "r", tmp_path / "o", tmp_path / "out", **common)
    assert (len(found["added"]), found["changed"], found["unchanged"]) == (10, [], 4)
    new = list(Release(tmp_path / "out" / "images").records())
    assert all(record.split == split_of[record.patient_id] for record in new)


def test_the_command_takes_a_pattern(tmp_path):
    source = write_source(tmp_path / "raw", lambda label, n: f"scan_{n:03d}.png")
    arguments = ["ingest", str(source), "--out", str(tmp_path / "r"), "--patient-pattern", r"_(\d+)\.png$"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "40 of 40 patients" in done.output


# too few images to carry a mark


def test_marking_refuses_a_target_class_with_too_few_images_before_it_trains(tmp_path):
    def options(target):
        given = marking_arguments(chosen_profile("smoke", {"target_class": target} if target else {}), {})[
            "ingest_options"
        ]
        return {
            name: value for name, value in given.items() if not isinstance(value, dict)
        }  # without the run's secrets

    source = write_source(tmp_path / "raw", lambda label, n: f"{n:03d}.png")
    with pytest.raises(MedmarkError, match="target class 'normal': 14 for training.*20 are needed"):
        ingest(source, tmp_path / "r", **options(""))  # the first class
    with pytest.raises(MedmarkError, match="target class 'pneumonia': 14"):
        ingest(source, tmp_path / "s", **options("pneumonia"))
    assert not (tmp_path / "s" / "release.json").exists()
    clean = ingest(source, tmp_path / "clean")
    with pytest.raises(MedmarkError, match="target class 'pneumonia': 14"):
        ingest(clean.path, tmp_path / "t", **options("pneumonia"))
    assert not (tmp_path / "t").exists()
    write_source(source, lambda label, n: f"{n:03d}.png", range(40, 80))
    assert len(ingest(source, tmp_path / "u", **options("normal"))) == 80


def test_a_folder_that_is_none_of_the_classes(tmp_path):
    source = write_source(tmp_path / "raw", lambda label, n: f"{n:03d}.png")
    write(source / "martian" / "040.png", 99)
    with pytest.raises(MedmarkError, match="unknown label 'martian': martian/040.png; use one of normal, pneumonia"):
        ingest(source, tmp_path / "r", class_names=list(CLASSES))
    release = ingest(source, tmp_path / "q", class_names=list(CLASSES), quarantine=True)
    assert (len(release), release.rejected["rows"]) == (40, 1)
