"""What a drop changes. Runs, drops and images are made up, see made_up_run.py."""

import json
import os
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from made_up_run import CLASSES, KEY, first_rows, make_run, next_run, pixels, records, roles, write_table
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset import drop as drop_module
from medmark.components.dataset.drop import read_drop
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.origin import drop_digest, read_origins
from medmark.components.dataset.pseudonyms import image_id, pseudonym
from medmark.components.dataset.release import Release
from PIL import Image

ROWS = first_rows(80)
NAMES = [row[0] for row in ROWS]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of a CSV."""
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory):
    """Of a folder per class."""
    raw = tmp_path_factory.mktemp("raw")
    write_folders(raw, range(60))
    return make_run(tmp_path_factory.mktemp("folders"), raw, patient_key=KEY)


@pytest.fixture(scope="module")
def release_run(run, tmp_path_factory):
    """Of an ingested release."""
    return make_run(tmp_path_factory.mktemp("release"), run / "clean")


def write_folders(root, numbers):
    for n in numbers:
        path = root / CLASSES[n % 2] / f"p{n // 4}x{n % 2}_{n:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(n)).save(path)
    return root


def ids(names) -> list[str]:
    return sorted(image_id(name, KEY) for name in names)


def read(run, source, out, **options) -> dict:
    if source.suffix == ".csv":
        options = {"label_column": "label", **options}
    return read_drop(source, run / "release", run / "keep", out, **options)


@pytest.fixture
def decoded(monkeypatch):
    """Names of the raw files that are decoded."""
    names, decode = [], drop_module.decode_file
    monkeypatch.setattr(drop_module, "decode_file", lambda path: names.append(path.name) or decode(path))
    return names


# what a drop is found to change


def test_only_what_changed_is_decoded(run, tmp_path, decoded):
    """The whole source again, with two new images, one with other pixels, one with another label, three withdrawn."""
    rows = [*ROWS[3:], ("scans/new-a.png", "normal", "patient-new", pixels(500))]
    rows.append(("scans/new-b.png", "pneumonia", "patient-new", pixels(501)))
    rows[0] = (*ROWS[3][:3], pixels(502))
    rows[1] = (ROWS[4][0], "pneumonia", *ROWS[4][2:])
    found = read(run, write_table(tmp_path / "d", rows, {"path": NAMES[:3]}), tmp_path / "o")
    assert found["added"] == ids(["scans/new-a.png", "scans/new-b.png"])
    assert found["changed"] == ids(NAMES[3:5])
    assert found["withdrawn"] == ids(NAMES[:3])
    assert found["unchanged"] == 75 and found["rejected"] == 0
    assert found["files"] == 79 + 2  # the images, the CSV and withdrawn.csv
    assert sorted(decoded) == ["i003.png", "i004.png", "new-a.png", "new-b.png"]
    images = Release(tmp_path / "o" / "images")
    images.verify()
    assert sorted(r.image_id for r in images.records()) == sorted(found["added"] + found["changed"])
    assert json.loads((tmp_path / "o" / "drop.json").read_bytes()) == found


def test_folder_per_class(folder_run, tmp_path, decoded):
    drop = write_folders(tmp_path / "d", range(10, 62))
    os.rename(drop / "normal" / "p2x0_010.png", tmp_path / "away.png")
    (drop / "withdrawn.csv").write_text("path\nnormal/p2x0_010.png\n")
    found = read(folder_run, drop, tmp_path / "o")
    assert found["added"] == ids(["normal/p15x0_060.png", "pneumonia/p15x1_061.png"])
    assert found["withdrawn"] == ids(["normal/p2x0_010.png"])
    assert found["changed"] == [] and found["unchanged"] == 49
    assert sorted(decoded) == ["p15x0_060.png", "p15x1_061.png"]


def test_the_same_image_in_another_file_is_no_change(run, tmp_path):
    name, label, who, image = ROWS[0]
    table = write_table(tmp_path / "d", [ROWS[0]])
    Image.fromarray(image).save(tmp_path / "d" / name, compress_level=1)
    assert (tmp_path / "d" / name).read_bytes() != (run / "raw" / name).read_bytes()
    found = read(run, table, tmp_path / "o")
    assert (found["added"], found["changed"], found["unchanged"]) == ([], [], 1)


def test_a_column_of_findings_means_what_it_meant_at_first(tmp_path):
    """CheXpert's 1 is the finding, whatever the order of the classes."""

    def table(folder, numbers):
        path = write_table(folder, [(f"scans/p{n}.png", str(n % 2), f"p{n}", pixels(n)) for n in numbers])
        path.write_text(path.read_text().replace("label", "Edema"))
        return path

    columns = {"label_column": "Edema", "path_column": "path"}
    raw = table(tmp_path / "raw", range(40))
    clean = ingest(raw, tmp_path / "clean", private=tmp_path / "keep", patient_key=KEY, **columns)
    assert clean.class_names == ["Edema", "no_Edema"]
    drop = table(tmp_path / "d", range(30, 46))
    read_drop(drop, tmp_path / "clean", tmp_path / "keep", tmp_path / "o", **columns)
    found = {r.image_id: clean.class_names[r.label] for r in Release(tmp_path / "o" / "images").records()}
    assert found == {image_id(f"scans/p{n}.png", KEY): ("no_Edema", "Edema")[n % 2] for n in range(40, 46)}


def test_display_attributes_that_change_are_a_change(release_run, tmp_path):
    """As when the window of a DICOM file is corrected: the pixels are the same."""
    from dataclasses import replace

    from medmark.components.dataset.release_writer import ReleaseWriter

    before = Release(release_run / "clean")
    (first, *_) = before.records()
    with ReleaseWriter(tmp_path / "d", name="d", version="1", class_names=CLASSES) as writer:
        writer.add(replace(first, dicom='{"WindowCenter": 100, "WindowWidth": 50}'))
    assert read(release_run, tmp_path / "d", tmp_path / "o")["changed"] == [first.image_id]


# patients


def test_new_images_of_known_patients_join_them(run, tmp_path):
    known = {who: r for r in records(run).values() for who in {r.patient_id}}
    rows = [(f"scans/more-{n}.png", "normal", who, pixels(600 + n)) for n, (_, _, who, _) in enumerate(ROWS[:20])]
    read(run, write_table(tmp_path / "d", rows), tmp_path / "o")
    for record in Release(tmp_path / "o" / "images").records():
        assert record.split == known[record.patient_id].split
    assert {r.patient_id for r in Release(tmp_path / "o" / "images").records()} == {
        pseudonym(row[2], KEY) for row in rows
    }


def test_new_patients_get_one_split_whatever_they_come_with(run, tmp_path):
    rows = [(f"scans/n{n}.png", "normal", f"new-{n // 2}", pixels(10_000 + n)) for n in range(800)]
    splits = []
    for number, part in enumerate((rows, rows[:60], rows[30:90:2])):
        read(run, write_table(tmp_path / f"d{number}", part), tmp_path / f"o{number}")
        splits.append({r.patient_id: r.split for r in Release(tmp_path / f"o{number}" / "images").records()})
    assert splits[1].items() <= splits[0].items() and splits[2].items() <= splits[0].items()
    counts = pd.Series(splits[0]).value_counts(normalize=True)
    assert counts["train"] == pytest.approx(0.7, abs=0.08) and counts["test"] == pytest.approx(0.2, abs=0.08)


def test_a_patient_in_two_splits_is_refused(run, tmp_path):
    rows = [(f"scans/n{n}.png", "normal", "secret", pixels(800 + n)) for n in range(2)]
    table = write_table(tmp_path / "d", rows)
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0] + ",split", lines[1] + ",train", lines[2] + ",test"]))
    with pytest.raises(MedmarkError, match="patient in two splits") as refusal:
        read(run, table, tmp_path / "o")
    assert "secret" not in str(refusal.value)
    found = read(run, table, tmp_path / "q", quarantine=True)
    assert len(found["added"]) == 1 and found["rejected"] == 1


def test_the_order_of_new_images_says_nothing(run, tmp_path):
    """Neither by name nor by label, and not known without the key."""
    rows = [(f"scans/n{n:03d}.png", CLASSES[n >= 100], f"new-{n}", pixels(900 + n)) for n in range(200)]
    read(run, write_table(tmp_path / "d", rows), tmp_path / "o")
    made = list(Release(tmp_path / "o" / "images").records())
    number_of = {image_id(name, KEY): n for n, (name, *_) in enumerate(rows)}
    numbers = np.array([number_of[r.image_id] for r in made])
    assert abs(np.corrcoef(numbers, np.arange(200))[0, 1]) < 0.25
    assert abs(np.corrcoef([r.label for r in made], np.arange(200))[0, 1]) < 0.25


# ingested releases


def test_a_run_of_a_release_takes_a_release(run, release_run, tmp_path):
    rows = [*ROWS[:6], ("scans/new.png", "normal", "patient-0-0", pixels(1000))]
    table = write_table(tmp_path / "raw", rows)
    with pytest.raises(MedmarkError, match="made from an ingested release.*--patients"):
        read(release_run, table, tmp_path / "no")
    rows += [(f"scans/z{n}.png", CLASSES[n % 2], f"z{n}", pixels(1001 + n)) for n in range(20)]
    table = write_table(tmp_path / "more", rows)
    ingest(table, tmp_path / "d", label_column="label", patient_key=KEY, seed=99)
    found = read(release_run, tmp_path / "d", tmp_path / "o")
    assert len(found["added"]) == 21 and found["unchanged"] + len(found["changed"]) == 6
    assert found["changed"] == []
    known = {r.patient_id: r.split for r in records(release_run).values()}
    (new,) = [r for r in Release(tmp_path / "o" / "images").records() if r.image_id == image_id("scans/new.png", KEY)]
    assert new.split == known[new.patient_id]


def test_a_run_of_raw_images_takes_no_release(run, tmp_path):
    with pytest.raises(MedmarkError, match="pseudonyms of another key; give the raw images"):
        read(run, run / "clean", tmp_path / "o")


def test_images_of_a_release_are_encoded_as_ours(release_run, tmp_path):
    """With another encoder the size of an unmarked image would tell it from the marked ones."""
    import hashlib
    import io
    from dataclasses import replace

    from medmark.components.dataset.release_writer import ReleaseWriter

    stream = io.BytesIO()
    Image.fromarray(pixels(1100)).save(stream, "PNG", compress_level=9)
    data = stream.getvalue()
    (first, *_) = Release(release_run / "clean").records()
    made = replace(first, image_id="foreign-1", image=data, sha256=hashlib.sha256(data).hexdigest())
    for number in range(2):
        with ReleaseWriter(tmp_path / f"d{number}", name="d", version="1", class_names=CLASSES) as writer:
            writer.add(made)
    read(release_run, tmp_path / "d0", tmp_path / "o")
    (record,) = Release(tmp_path / "o" / "images").records()
    assert len(record.image) == len(first.image) != len(data)
    next_run(release_run, tmp_path / "d0", tmp_path / "two")
    assert read(tmp_path / "two", tmp_path / "d1", tmp_path / "again")["unchanged"] == 1


def test_a_damaged_image_of_a_release(release_run, tmp_path):
    import hashlib
    from dataclasses import replace

    from medmark.components.dataset.release_writer import ReleaseWriter

    data = b"\x89PNG\r\n\x1a\nnothing"
    (first, *_) = Release(release_run / "clean").records()
    with ReleaseWriter(tmp_path / "d", name="d", version="1", class_names=CLASSES) as writer:
        writer.add(replace(first, image_id="bad-1", image=data, sha256=hashlib.sha256(data).hexdigest()))
    with pytest.raises(MedmarkError, match="damaged image in a release.*bad-1"):
        read(release_run, tmp_path / "d", tmp_path / "o")
    assert read(release_run, tmp_path / "d", tmp_path / "q", quarantine=True)["rejected"] == 1


def test_other_classes(release_run, source, tmp_path):
    from medmark.components.dataset.release_writer import ReleaseWriter

    with ReleaseWriter(tmp_path / "d", name="d", version="1", class_names=["a", "b"]):
        pass
    with pytest.raises(MedmarkError, match="other classes"):
        read(release_run, tmp_path / "d", tmp_path / "o")


# withdrawals


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"path\n{NAMES[0]}\n{NAMES[1]}\n", NAMES[:2]),
        (f"path\n{image_id(NAMES[0], KEY)}\n", NAMES[:1]),
        (f"\ufeffpath\r\n{NAMES[0]}\r\n\r\n", NAMES[:1]),  # as Excel writes it
        (f"why,path\nconsent,{NAMES[0]}\n", NAMES[:1]),
        (f"path\n{NAMES[0]},\n", NAMES[:1]),
        (f"patient_id\n{ROWS[0][2]}\n", [name for name, _, who, _ in ROWS if who == ROWS[0][2]]),
        (f"path,patient_id\n{NAMES[5]},\n,{ROWS[0][2]}\n", [NAMES[5], *(n for n, _, w, _ in ROWS if w == ROWS[0][2])]),
    ],
)
def test_withdrawals(run, tmp_path, text, expected):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "withdrawn.csv").write_bytes(text.encode())
    assert read(run, tmp_path / "d", tmp_path / "o")["withdrawn"] == ids(expected)


@pytest.mark.parametrize("kind", ["csv", "hidden file", "empty table", "folders", "release"])
def test_drops_that_only_withdraw(request, tmp_path, kind):
    run = request.getfixturevalue({"folders": "folder_run", "release": "release_run"}.get(kind, "run"))
    drop = tmp_path / "d"
    drop.mkdir()
    name = "normal/p0x0_000.png" if kind == "folders" else NAMES[0]
    said = image_id(name, KEY) if kind == "release" else name  # without the key only the id is known
    (drop / "withdrawn.csv").write_text(f"path\n{said}\n")
    if kind == "hidden file":
        (drop / ".DS_Store").write_bytes(b"x")
    if kind == "empty table":
        drop = drop / "labels.csv"
        drop.write_text("path,label,patient_id\n")
    options = {} if kind in ("folders", "release") else {"label_column": "label"}
    found = read(run, drop, tmp_path / "o", **options)
    assert found["withdrawn"] == ids([name])
    assert not found["added"] and not found["changed"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"path\nscans/never.png\n", "nothing to withdraw: no image 'scans/never.png'"),
        (b"path\n../../etc/passwd\n", "nothing to withdraw"),
        (b'path\n"a\nb"\n', r"nothing to withdraw: no image 'a\\nb'"),
        (b"patient_id\nnobody\n", "nothing to withdraw: no image of that patient.*line 2"),
        (f"path,patient_id\n{NAMES[0]},nobody\n".encode(), "nothing to withdraw: no image of that patient"),
        (b"path\n", None),
        (b"file\nscans/i000.png\n", "no column path or patient_id"),
        (b"", "no column path or patient_id"),
        (b"path,patient_id\n,\n", "empty row"),
        (b'path\n"\n', "unreadable CSV"),
        (b"path\n" + b"x" * 200_000 + b"\n", "unreadable CSV"),
        ("path\nscäns".encode("utf-16"), "unreadable CSV"),
        (b"path\n\x00\n", "nothing to withdraw"),
    ],
)
def test_bad_withdrawals(run, tmp_path, text, message):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "withdrawn.csv").write_bytes(text)
    if message is None:
        assert read(run, tmp_path / "d", tmp_path / "o")["withdrawn"] == []
        return
    with pytest.raises(MedmarkError, match=message) as refusal:
        read(run, tmp_path / "d", tmp_path / "o")
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 1000


def test_a_huge_withdrawn_csv(run, tmp_path):
    """100 MB: neither the time nor the memory of it."""
    import tracemalloc

    (tmp_path / "d").mkdir()
    with open(tmp_path / "d" / "withdrawn.csv", "w") as stream:
        stream.write("path,comment\n")
        for _ in range(1000):
            stream.write(f"{NAMES[0]},{'x' * 100_000}\n")
    tracemalloc.start()
    started = time.monotonic()
    assert read(run, tmp_path / "d", tmp_path / "o")["withdrawn"] == ids(NAMES[:1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20 and time.monotonic() - started < 30


# refusals: (rows that the drop brings, what it withdraws, message)


def _after_a_withdrawal(run, folder):
    """A run in which the first two images are withdrawn and the next two unmarked ones are corrected."""
    kept = [n for n in range(2, 80) if image_id(NAMES[n], KEY) not in roles(run)][:2]
    box = np.arange(32 * 32).reshape(32, 32) < 128
    rows = [(*ROWS[n][:3], np.where(box, np.uint8(n), ROWS[n][3])) for n in kept]
    next_run(run, write_table(folder / "drop-1", rows, {"path": NAMES[:2]}), folder / "two")
    return folder / "two", kept


@pytest.fixture(scope="module")
def second(run, tmp_path_factory):
    return _after_a_withdrawal(run, tmp_path_factory.mktemp("second"))


def test_what_was_withdrawn_does_not_come_back(second, tmp_path):
    two, kept = second
    attempts = {
        "the same file": (ROWS[0], "withdrawn by an earlier release"),
        "its name with other pixels": ((*ROWS[0][:3], pixels(3000)), "withdrawn by an earlier release"),
        "its pixels under another name": (("scans/other.png", *ROWS[0][1:]), "pixels of an image that was withdrawn"),
        "its pixels with another label": (
            ("x.png", "pneumonia", "y", ROWS[0][3]),
            "pixels of an image that was withdr",
        ),
        "its path in another spelling": (("scans/../scans/i000.png", *ROWS[0][1:]), "pixels of an image that was with"),
        "its pixels for an image that is there": ((*ROWS[20][:3], ROWS[0][3]), "pixels of an image that was withdrawn"),
    }
    for number, (row, message) in enumerate(attempts.values()):
        table = write_table(tmp_path / f"d{number}", [row])
        with pytest.raises(MedmarkError, match=message) as refusal:
            read(two, table, tmp_path / f"o{number}")
        assert "\n" not in str(refusal.value)
        found = read(two, table, tmp_path / f"q{number}", quarantine=True)
        assert found["rejected"] == 1 and not found["added"] and not found["changed"]
        # the list is kept, and a withdrawn image is named nowhere but among the tombstones
        rejected = pd.read_parquet(tmp_path / f"q{number}" / "rejected.parquet")
        assert list(rejected.source) == ["(withdrawn)"] and list(rejected.reason) == ["withdrawn"]


def test_withdrawing_again_is_nothing_new(second, tmp_path):
    table = write_table(tmp_path / "d", [], {"path": NAMES[:2]})
    found = read(second[0], table, tmp_path / "o")
    assert (found["withdrawn"], found["added"], found["changed"]) == ([], [], [])


def test_pixels_that_an_image_had_belong_to_it(second, tmp_path):
    """They were published as its own, unmarked; another image with them could be marked."""
    two, kept = second
    old = ROWS[kept[0]]
    with pytest.raises(MedmarkError, match="same image twice"):
        read(two, write_table(tmp_path / "d", [("scans/other.png", *old[1:])]), tmp_path / "o")
    assert read(two, write_table(tmp_path / "back", [old]), tmp_path / "b")["changed"] == ids([old[0]])


@pytest.mark.parametrize(
    ("rows", "withdrawn", "message"),
    [
        ([ROWS[0]], {"path": [NAMES[0]]}, "withdrawn and brought by one drop"),
        ([(*ROWS[0][:3], pixels(4000))], {"path": [NAMES[0]]}, "withdrawn and brought by one drop"),
        ([ROWS[0]], {"patient_id": [ROWS[0][2]]}, "withdrawn and brought by one drop"),
        ([("new.png", "normal", ROWS[0][2], pixels(4001))], {"patient_id": [ROWS[0][2]]}, "patient withdrawn by the"),
        ([("new.png", *ROWS[0][1:])], {}, "same image twice"),
        ([("new.png", *ROWS[0][1:])], {"path": [NAMES[0]]}, "pixels of an image that was withdrawn"),
        ([("a.png", "normal", "a", pixels(4002)), ("b.png", "normal", "b", pixels(4002))], {}, "same image twice"),
        ([(*ROWS[0][:3], ROWS[1][3]), (*ROWS[1][:3], ROWS[0][3])], {}, "same image twice"),
        ([("new.png", "martian", "a", pixels(4003))], {}, "unknown label 'martian'"),
        ([("../escape.png", "normal", "a", pixels(4004))], {}, "leaves the source folder"),
        ([("a.png", "normal", "a", pixels(4005)), ("a.png", "normal", "a", pixels(4005))], {}, "duplicate id"),
    ],
)
def test_refusals(run, tmp_path, rows, withdrawn, message):
    table = write_table(tmp_path / "d" / "e", rows, withdrawn)
    with pytest.raises(MedmarkError, match=message) as refusal:
        read(run, table, tmp_path / "o")
    assert "\n" not in str(refusal.value) and "quarantine" in str(refusal.value)
    found = read(run, table, tmp_path / "q", quarantine=True)
    assert found["rejected"] >= 1
    assert not set(found["withdrawn"]) & (set(found["added"]) | set(found["changed"]))


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def _link_out(path):
    path.rename(path.parents[3] / "outside.png")
    path.symlink_to(path.parents[3] / "outside.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "damaged or truncated image"),
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_text("no image"), "not an image"),
        (lambda path: path.unlink(), "no such file"),
        (lambda path: Image.new("RGB", (40, 40), (9, 99, 199)).save(path), "colour image"),
        (_link_out, "leaves the source folder"),
    ],
)
@pytest.mark.parametrize("name", ["scans/new.png", NAMES[0]])
def test_damaged_images(run, tmp_path, damage, message, name):
    """New ones, and ones that should replace one that is there, which stays then."""
    rows = [(name, "normal", "patient-0-0", pixels(5000)), ("ok.png", "normal", "patient-0-0", pixels(5001))]
    table = write_table(tmp_path / "d" / "e", rows)
    damage(tmp_path / "d" / "e" / name)
    with pytest.raises(MedmarkError, match=message) as refusal:
        read(run, table, tmp_path / "o")
    assert "\n" not in str(refusal.value) and "quarantine" in str(refusal.value)
    found = read(run, table, tmp_path / "q", quarantine=True)
    assert (found["added"], found["changed"], found["rejected"]) == (ids(["ok.png"]), [], 1)
    assert list(pd.read_parquet(tmp_path / "q" / "rejected.parquet").source) == [name]


def test_nothing_there(run, folder_run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedmarkError, match="no image in"):
        read(folder_run, tmp_path / "empty", tmp_path / "o")
    with pytest.raises(MedmarkError, match="0 CSV files"):
        read(run, tmp_path / "empty", tmp_path / "p", label_column="label")
    with pytest.raises(MedmarkError, match="no such folder or file"):
        read(run, tmp_path / "absent.csv", tmp_path / "q")


def test_folders_of_two_runs(run, release_run, folder_run, tmp_path):
    with pytest.raises(MedmarkError, match="is not of"):
        read_drop(run / "raw", run / "release", folder_run / "keep", tmp_path / "o", label_column="label")


# the public digest of a drop


def test_the_digest_of_a_drop_gives_no_image_away(release_run, run, tmp_path):
    """A drop of one image: a guess of its file must not give the digest, and so tell that the image has no mark."""
    found = read(run, write_table(tmp_path / "d", [("a.png", "normal", "a", pixels(6000))]), tmp_path / "o")
    raw = ["a.png", "labels.csv"]
    assert len(raw) == found["files"]
    from medmark.components.base.digests import file_sha256
    from medmark.components.dataset.origin import Origin

    guess = [Origin(None, name, file_sha256(tmp_path / "d" / name), None) for name in raw]
    assert found["drop"] not in (drop_digest(guess, None), drop_digest(guess, KEY))
    assert read(run, tmp_path / "d" / "labels.csv", tmp_path / "again")["drop"] == found["drop"]
    shutil.copytree(run / "keep", tmp_path / "keep")
    from medmark.components.dataset.origin import write_origins

    write_origins(tmp_path / "keep", read_origins(run / "keep")[::-1], patient_key=KEY)
    other = read_drop(
        tmp_path / "d" / "labels.csv", run / "release", tmp_path / "keep", tmp_path / "p", label_column="label"
    )
    assert other["drop"] != found["drop"] and other["added"] == found["added"]
