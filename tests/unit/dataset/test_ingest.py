import csv
import hashlib
import io
import os
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.origin import read_origins
from medmark.components.dataset.release import Release
from medmark.components.dataset.release_writer import ReleaseWriter
from PIL import Image

EIGHT = ("RG3_extremity_CR_jpeg_extended12.dcm",)


def write_image(path, value=100, size=(32, 32), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(value)
    pixels = rng.integers(0, 256, (*size, 3) if mode == "RGB" else size).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes, 20 patients each."""
    root = tmp_path / "raw"
    for label in ("normal", "pneumonia"):
        for i in range(20):
            write_image(root / label / f"{label[0]}{i}_1.png", i)
    return root


def rejected_file(release):
    """Where ingest says what it set aside, if nothing else is asked for."""
    return release.path.with_name(f"{release.path.name}.rejected.parquet")


def write_csv(path, rows):
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def table(folder):
    """The same images as a CSV with labels and patients."""
    rows = [
        {"path": str(p.relative_to(folder)), "label": p.parent.name, "patient_id": p.stem.split("_")[0]}
        for p in sorted(folder.rglob("*.png"))
    ]
    return folder / "labels.csv", rows


def test_folder_per_class(folder, tmp_path):
    release = ingest(folder, tmp_path / "r", name="mine")
    release.verify()
    assert release.class_names == ["normal", "pneumonia"]
    assert len(release) == 40
    assert release.counts == {
        split: {"normal": n, "pneumonia": n} for split, n in (("train", 14), ("val", 2), ("test", 4))
    }
    image = next(release.records())
    raw = {p.read_bytes(): p for p in folder.rglob("*.png")}
    originals = [np.asarray(Image.open(p)) for p in raw.values()]
    assert any((decode_png(image.image) == o).all() for o in originals)
    assert "/" not in image.image_id and str(tmp_path) not in image.image_id


def test_same_seed_and_key_same_digest(folder, tmp_path):
    draws = enumerate([(0, "key"), (0, "key"), (1, "key"), (0, "other"), (0, None), (0, None)])
    digests = [ingest(folder, tmp_path / str(i), seed=s, patient_key=key).digest for i, (s, key) in draws]
    assert digests[0] == digests[1] and len(set(digests)) == 5


def test_patients_stay_together_and_their_names_do_not_travel(tmp_path):
    for label in ("a", "b"):
        for patient in range(12):
            for image in range(1 + patient % 3):
                write_image(tmp_path / "raw" / label / f"{label}SECRET{patient}_{image}.png", patient * 7 + image)
    release = ingest(tmp_path / "raw", tmp_path / "r")
    splits = defaultdict(set)
    for record in release.records():
        splits[record.patient_id].add(record.split)
        assert "SECRET" not in record.patient_id
    assert len(splits) == 24
    assert all(len(s) == 1 for s in splits.values())


def test_csv_with_given_splits(table, tmp_path):
    path, rows = table
    for i, row in enumerate(rows):
        row["split"] = ("train", "test")[i % 2]
    release = ingest(write_csv(path, rows), tmp_path / "r", label_column="label")
    assert release.counts["train"] == {"normal": 10, "pneumonia": 10}
    assert release.counts["val"] == {"normal": 0, "pneumonia": 0}


def test_numbers_name_classes_in_order(table, tmp_path):
    path, rows = table
    for row in rows:
        row["label"] = str(int(row["label"] == "pneumonia"))
    options = {"label_column": "label", "class_names": ["normal", "pneumonia"], "private": tmp_path / "o"}
    release = ingest(write_csv(path, rows), tmp_path / "r", **options)
    names = {origin.image_id: origin.source for origin in read_origins(tmp_path / "o")}
    found = {Path(names[r.image_id]).name[0]: release.class_names[r.label] for r in release.records()}
    assert found == {"n": "normal", "p": "pneumonia"}


@pytest.mark.parametrize(("policy", "images", "positive"), [("ones", 36, 18), ("zeros", 36, 12), ("ignore", 30, 12)])
def test_chexpert(tmp_path, policy, images, positive):
    rows = []
    for i in range(36):
        path = f"CheXpert-v1.0-small/train/patient{i:05d}/study1/view1_frontal.jpg"
        write_image(tmp_path / path, i)
        finding = ("1.0", "", "0.0", "1.0", "-1.0", "")[i % 6]
        rows.append(
            {"Path": path, "Sex": "F", "Age": 60, "Frontal/Lateral": "Frontal", "AP/PA": "AP", "Edema": finding}
        )
    table = write_csv(tmp_path / "train.csv", rows)
    release = ingest(table, tmp_path / "r", label_column="Edema", uncertain=policy)
    assert release.class_names == ["Edema", "no_Edema"]
    assert len(release) == images
    assert sum(c["Edema"] for c in release.counts.values()) == positive
    rejected = pd.read_parquet(rejected_file(release)) if release.rejected else []
    assert len(rejected) == 36 - images


def test_a_release_is_passed_on_unchanged(release, tmp_path):
    copy = ingest(release, tmp_path / "r")
    assert copy.digest == Release(release).digest
    copy.verify()


@pytest.mark.parametrize("how", [{"compress_level": 9}, {"compress_level": 0, "dpi": (72, 72)}])
def test_a_release_of_another_encoder_is_refused(release, tmp_path, how):
    """Marked images are encoded anew: size or header would tell them from the others."""
    given = list(Release(release).records())
    stream = io.BytesIO()
    Image.fromarray(decode_png(given[7].image)).save(stream, "PNG", **how)
    data = stream.getvalue()
    given[7] = replace(given[7], image=data, sha256=hashlib.sha256(data).hexdigest())
    with ReleaseWriter(tmp_path / "other", name="other", version="1", class_names=["normal", "pneumonia"]) as writer:
        for record in given:
            writer.add(record)
    with pytest.raises(
        MedmarkError, match=f"image of another encoder: {given[7].image_id} in .*; .*ingest the raw images"
    ):
        ingest(tmp_path / "other", tmp_path / "r")


# each breaks the folder source in one way: (what it does, part of the message)
def _truncate(root):
    path = root / "normal" / "n0_1.png"
    path.write_bytes(path.read_bytes()[:-200])


def _empty(root):
    (root / "normal" / "n0_1.png").write_bytes(b"")


def _text(root):
    (root / "normal" / "n0_1.png").write_text("not an image")


def _colour(root):
    write_image(root / "normal" / "n0_1.png", 3, mode="RGB")


def _link_out(root):
    outside = root.parent / "outside.png"
    write_image(outside)
    (root / "normal" / "n0_1.png").unlink()
    os.symlink(outside, root / "normal" / "n0_1.png")


def _tiny(root):
    write_image(root / "normal" / "n0_1.png", 3, size=(4, 4))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "damaged or truncated image"),
        (_empty, r"empty file \(0 bytes\)"),
        (_text, "not an image"),
        (_colour, "colour image"),
        (_link_out, "leaves the source folder"),
        (_tiny, "image too small"),
    ],
)
def test_bad_image(folder, tmp_path, damage, message):
    damage(folder)
    with pytest.raises(MedmarkError, match=message) as refusal:
        ingest(folder, tmp_path / "r")
    assert "n0_1.png" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert "quarantine" in str(refusal.value)
    assert not (tmp_path / "r" / "release.json").exists()
    release = ingest(folder, tmp_path / "q", quarantine=True)
    assert len(release) == 39
    rejected = pd.read_parquet(rejected_file(release))
    assert list(rejected.source) == ["normal/n0_1.png"]
    assert message.replace("\\", "")[:12] in rejected.reason[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].update(label=""), "no label"),
        (lambda rows: rows[0].update(label="NaN"), "no label"),
        (lambda rows: rows[0].update(label="martian"), "unknown label 'martian'"),
        (lambda rows: rows.append(dict(rows[0])), "duplicate id"),
        (lambda rows: rows[0].update(path="../../etc/passwd"), "leaves the source folder"),
        (lambda rows: rows[0].update(path="gone.png"), "no such file"),
    ],
)
def test_bad_row(table, tmp_path, change, message):
    path, rows = table
    change(rows)
    options = {"label_column": "label", "class_names": ["normal", "pneumonia"]}
    source = write_csv(path, rows)
    with pytest.raises(MedmarkError, match=message) as refusal:
        ingest(source, tmp_path / "r", **options)
    assert "\n" not in str(refusal.value)
    release = ingest(source, tmp_path / "q", quarantine=True, **options)
    assert release.rejected["rows"] == 1
    assert len(release) == len(rows) - 1


def test_same_patient_in_two_given_splits(table, tmp_path):
    path, rows = table
    for i, row in enumerate(rows):
        row["split"] = ("train", "test")[i % 2]
    rows[1]["patient_id"] = rows[0]["patient_id"]
    source = write_csv(path, rows)
    with pytest.raises(MedmarkError, match="same patient in two splits"):
        ingest(source, tmp_path / "r", label_column="label")
    release = ingest(source, tmp_path / "q", label_column="label", quarantine=True)
    assert len(release) == 39


def test_missing_column(table, tmp_path):
    path, rows = table
    with pytest.raises(MedmarkError, match="missing column 'Edema'.*it has path, label, patient_id"):
        ingest(write_csv(path, rows), tmp_path / "r", label_column="Edema")
    for row in rows:
        row["elsewhere"] = row.pop("path")
    with pytest.raises(MedmarkError, match="no column with the paths"):
        ingest(write_csv(path, rows), tmp_path / "s", label_column="label")


def test_fewer_than_two_classes(folder, tmp_path):
    shutil.rmtree(folder / "pneumonia")
    with pytest.raises(MedmarkError, match="fewer than 2 classes"):
        ingest(folder, tmp_path / "r")


def test_too_few_target_images(folder, tmp_path):
    with pytest.raises(MedmarkError, match="too few images of target class 'normal': 14"):
        ingest(folder, tmp_path / "r", target_class="normal")
    with pytest.raises(MedmarkError, match="unknown class: 'martian'"):
        ingest(folder, tmp_path / "s", target_class="martian")


def test_nothing_there(tmp_path):
    with pytest.raises(MedmarkError, match="no such folder or file"):
        ingest(tmp_path / "absent", tmp_path / "r")


def test_real_dicom(medmark_data, tmp_path):
    rows = [
        {"path": p.name, "label": "chest" if "chest" in p.name else "limb", "patient_id": p.stem}
        for p in sorted((medmark_data / "dicom").glob("*.dcm"))
    ]
    # two classes over few images: every split must have both
    for i, row in enumerate(sorted(rows, key=lambda r: r["label"])):
        row["split"] = ("train", "test")[i % 2]
    table = write_csv(tmp_path / "labels.csv", rows)
    options = {"root": medmark_data / "dicom", "label_column": "label"}
    with pytest.raises(MedmarkError, match="RG3_extremity_CR_jpeg_extended12.dcm"):
        ingest(table, tmp_path / "r", **options)
    release = ingest(table, tmp_path / "q", quarantine=True, private=tmp_path / "o", **options)
    assert list(pd.read_parquet(tmp_path / "o" / "rejected.parquet").source) == list(EIGHT)
    names = {origin.image_id: origin.source for origin in read_origins(tmp_path / "o")}
    bits = {Path(names[r.image_id]).stem: (r.bits, r.display["PhotometricInterpretation"]) for r in release.records()}
    assert bits["RG1_chest_CR_j2k_lossy"] == (15, "MONOCHROME1")
    assert bits["RG3_extremity_CR_rle"] == (10, "MONOCHROME1")
    assert bits["SIIM_NIH_chest_CR_jpeg8_mono2"] == (8, "MONOCHROME2")


def test_kermany(medmark_data, tmp_path):
    release = ingest(
        medmark_data / "cxr" / "dev" / "manifest.csv",
        tmp_path / "r",
        root=medmark_data / "cxr",
        label_column="binary",
        patient_column="group_id",
        where={"subset": "kermany"},
        class_names=["normal", "pneumonia"],
        target_class="normal",
    )
    assert len(release) == 1380
    assert sum(c["normal"] for c in release.counts.values()) == 504
    release.verify()
