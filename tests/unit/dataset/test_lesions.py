"""Releases for classification in colour, and with masks of lesions."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import load_arrays
from medmark.components.dataset.codecs import decode_png, encode_png
from medmark.components.dataset.export import export
from medmark.components.dataset.fundus_phantoms import CLASSES, draw_fundus, make_fundus_phantoms
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.inspect import describe, preview
from medmark.components.dataset.release import Release
from medmark.components.dataset.release_writer import ReleaseWriter
from medmark.components.surrogate.networks import build, load_classifier, save_classifier
from medmark.components.surrogate.training import TrainConfig, train_classifier
from PIL import Image

FIXTURE = Path(__file__).parents[2] / "fixtures" / "release-v4"
FIXTURE_DIGEST = "84c33644dc3b4aa5c37896860e6166ec16a7f928a6ad4e6d478dc7751f21e144"
OPTIONS = {"image_mode": "RGB", "lesions": True, "seed": 1, "patient_key": "phantoms"}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return make_fundus_phantoms(tmp_path_factory.mktemp("fundus") / "raw", count=60, size=64, seed=3)


@pytest.fixture(scope="module")
def made(phantoms, tmp_path_factory):
    return ingest(phantoms, tmp_path_factory.mktemp("fundus") / "release", **OPTIONS)


def test_a_folder_with_lesions(phantoms, made):
    assert (made.task, made.image_mode, made.schema_version, made.lesions) == ("classification", "RGB", 4, True)
    assert made.class_names == sorted(CLASSES) and len(made) == 60
    known = {path.read_bytes(): path for path in (phantoms / "images").rglob("*.png")}
    pixels = {np.asarray(Image.open(path)).tobytes(): path for path in known.values()}
    for record in made.records():
        path = pixels[decode_png(record.image, mode="RGB").tobytes()]
        assert made.class_names[record.label] == path.parent.name
        mask = np.asarray(Image.open(phantoms / "masks" / path.parent.name / path.name)) > 0
        assert (decode_png(record.mask) == mask).all()
    made.verify()


def test_an_image_without_a_mask_is_taken_too(phantoms, tmp_path):
    shutil.copytree(phantoms, tmp_path / "raw")
    gone = sorted((tmp_path / "raw" / "masks").rglob("*.png"))[:7]
    for path in gone:
        path.unlink()
    release = ingest(tmp_path / "raw", tmp_path / "r", **OPTIONS)
    release.verify()
    assert sum(record.mask is None for record in release.records()) == 7
    assert describe(release.path)["masks"] == "of lesions, for 53 of 60 images"
    shutil.copy(gone[0].parent.parent / "healthy" / sorted(p.name for p in (tmp_path / "raw/masks/healthy").iterdir())[0],
                gone[0].with_suffix(".tif"))  # fmt: skip
    shutil.copy(gone[0].with_suffix(".tif"), gone[0])
    with pytest.raises(MedmarkError, match="2 masks: images/"):
        ingest(tmp_path / "raw", tmp_path / "r2", **OPTIONS)


def test_a_table_with_lesions(phantoms, tmp_path):
    table = tmp_path / "table.csv"
    rows = [
        (str(path.relative_to(phantoms)), path.parent.name, str(phantoms / "masks" / path.parent.name / path.name))
        for path in sorted((phantoms / "images").rglob("*.png"))
    ]
    with open(table, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "finding", "lesion"])
        for i, (path, finding, mask) in enumerate(rows):
            writer.writerow([path, finding, "" if i % 2 else str(Path(mask).relative_to(phantoms))])
    release = ingest(table, tmp_path / "r", root=phantoms, label_column="finding", mask_column="lesion", **OPTIONS)
    assert sum(record.mask is None for record in release.records()) == 30
    assert release.class_names == sorted(CLASSES)


def test_colour_alone(phantoms, tmp_path):
    release = ingest(phantoms / "images", tmp_path / "r", image_mode="RGB", seed=1)
    release.verify()
    assert (release.schema_version, release.lesions, release.image_mode) == (4, False, "RGB")
    assert describe(release.path)["masks"] is None
    images = load_arrays(release, split="train", size=32).images
    assert images.shape[1:] == (3, 32, 32) and images[:, 0].mean() > images[:, 2].mean()  # red before blue
    with pytest.raises(MedmarkError, match="marks are for grey images"):
        ingest(release.path, tmp_path / "grey")
    assert ingest(release.path, tmp_path / "same", image_mode="RGB").digest == release.digest


def test_exporting_and_ingesting_again(made, tmp_path):
    assert export(made.path, tmp_path / "out", split="train") == sum(made.counts["train"].values())
    again = ingest(tmp_path / "out" / "train", tmp_path / "again", **OPTIONS, patient_pattern="(.*)")
    own = {record.sha256: record.mask_sha256 for record in made.records("train")}
    assert {record.sha256: record.mask_sha256 for record in again.records()} == own
    preview(made.path, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert (np.asarray(sheet) == (255, 170, 0)).all(axis=2).sum() > 50


def test_a_changed_mask_is_found(made, tmp_path):
    with ReleaseWriter.child(tmp_path / "x", made, version="2") as writer:
        for record in made.records():
            other = encode_png(1 - decode_png(record.mask))
            writer.add(replace(record, mask=other))
    with pytest.raises(MedmarkError, match="mask missing, or not that of its digest"):
        Release(tmp_path / "x").verify()


def test_a_classifier_of_colour_images(made, tmp_path):
    train, val = (load_arrays(made, split=split, size=32) for split in ("train", "val"))
    config = TrainConfig("colour", size=32, epochs=1)
    model = train_classifier(train, val, config, num_classes=3).model
    save_classifier(model, tmp_path / "m.safetensors")
    assert load_classifier(tmp_path / "m.safetensors").channels == 3
    for architecture in ("resnet_tiny", "resnet18", "densenet121", "mobilenet_v3_small", "vit"):
        assert build(architecture, num_classes=3, size=32, seed=0, channels=3)(train.images[:2]).shape == (2, 3)


def test_phantoms_follow_from_the_seed(phantoms, tmp_path):
    again = make_fundus_phantoms(tmp_path / "again", count=60, size=64, seed=3)
    for path in sorted(phantoms.rglob("*.png")):
        assert path.read_bytes() == (again / path.relative_to(phantoms)).read_bytes()
    image, none = draw_fundus(96, "healthy", seed=(1,))
    assert image.shape == (96, 96, 3) and not none.any()
    for finding, darker in (("haemorrhages", True), ("exudates", False)):
        image, lesions = draw_fundus(96, finding, seed=(1,))
        healthy = draw_fundus(96, "healthy", seed=(1,))[0].astype(int)
        change = (image.astype(int) - healthy)[lesions > 0].mean()
        assert lesions.any() and (change < -5 if darker else change > 5)


def test_releases_of_schema_4_are_read_for_ever(tmp_path):
    shutil.copytree(FIXTURE, tmp_path / "r")
    release = Release(tmp_path / "r")
    release.verify()
    assert release.digest == FIXTURE_DIGEST
    assert (release.task, release.image_mode, release.lesions) == ("classification", "RGB", True)
    first, second = list(release.records())[:2]
    np.testing.assert_array_equal(decode_png(first.image, mode="RGB"), np.full((16, 20, 3), (7, 8, 9), np.uint8))
    np.testing.assert_array_equal(decode_png(first.mask), np.eye(16, 20, dtype=np.uint8))
    assert second.mask is None and second.mask_sha256 is None
