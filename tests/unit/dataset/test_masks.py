"""Releases of images with masks."""

import csv
import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import load_arrays, load_masks
from medmark.components.dataset.codecs import decode_mask, decode_png, encode_png
from medmark.components.dataset.drop import read_drop
from medmark.components.dataset.export import export
from medmark.components.dataset.ingest import ingest
from medmark.components.dataset.inspect import describe, preview
from medmark.components.dataset.origin import read_origins
from medmark.components.dataset.phantoms import draw_phantom, draw_with_lungs, make_masked_phantoms
from medmark.components.dataset.release import Release
from medmark.components.dataset.release_writer import ReleaseWriter
from medmark.components.lineage.croissant import write_card
from PIL import Image

FIXTURE = Path(__file__).parents[2] / "fixtures" / "release-v3"
FIXTURE_DIGEST = "8668fb7a422891a7bb730f99bcf19a5e500553d5545f8426b8406bd01582f1a9"


def draw(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """20 colour images of 20 patients, each with a bright disc and its mask; the last mask is empty."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :40]
    for i in range(20):
        mask = (y - 10 - i / 2) ** 2 + (x - 20) ** 2 < (49 if i < 19 else 0)
        image = rng.integers(0, 100, (32, 40, 3)).astype(np.uint8)
        image[mask, 0] = 250
        draw(tmp_path / "raw" / "images" / "ward" / f"p{i}_1.png", image)
        draw(tmp_path / "raw" / "masks" / "ward" / f"p{i}_1.png", (mask * 255).astype(np.uint8))
    return tmp_path / "raw"


def masked(folder, out, **options):
    given = {"task": "segmentation", "image_mode": "RGB", "class_names": ["background", "disc"], "seed": 1}
    return ingest(folder, out, **{**given, **options})


def test_folder_of_images_and_masks(folder, tmp_path):
    release = masked(folder, tmp_path / "r", private=tmp_path / "private")
    release.verify()
    assert (release.task, release.image_mode, release.schema_version) == ("segmentation", "RGB", 3)
    assert release.class_names == ["background", "disc"]
    assert sum(release.counts[split]["background"] for split in release.counts) == 1
    originals = {(folder / "images" / "ward" / f"p{i}_1.png") for i in range(20)}
    pixels = {np.asarray(Image.open(path)).tobytes(): path for path in originals}
    for record in release.records():
        path = pixels[decode_png(record.image, mode="RGB").tobytes()]
        mask = np.asarray(Image.open(folder / "masks" / "ward" / path.name)) > 0
        assert (decode_png(record.mask) == mask).all()
        assert record.label == mask.any()
        assert "p1" not in record.image_id
    # a mask that changes changes the drop
    assert sum(origin.image_id is None for origin in read_origins(tmp_path / "private")) == 20


def test_grey_release_from_a_csv(folder, tmp_path):
    table = folder / "labels.csv"
    with open(table, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "seg", "patient"])
        for i in range(19):
            grey = np.asarray(Image.open(folder / "images" / "ward" / f"p{i}_1.png"))[..., 0]
            draw(folder / "grey" / f"{i}.png", grey)
            writer.writerow([f"grey/{i}.png", f"masks/ward/p{i}_1.png", f"patient{i // 2}"])
    release = ingest(table, tmp_path / "r", task="segmentation", mask_column="seg")
    assert (release.image_mode, release.class_names, len(release)) == ("L", ["background", "foreground"], 19)
    assert len({record.patient_id for record in release.records()}) == 10
    with pytest.raises(MedmarkError, match="missing column 'mask'"):
        ingest(table, tmp_path / "r2", task="segmentation")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "masks/ward/p3_1.png").unlink(), "no masks: images/ward/p3_1.png"),
        (lambda f: draw(f / "masks/ward/p3_1.tif", np.zeros((32, 40), np.uint8)), "2 masks: images/ward/p3_1.png"),
        (
            lambda f: draw(f / "masks/ward/p3_1.png", np.zeros((40, 32), np.uint8)),
            "mask of 32x40 pixels for an image of",
        ),
        (
            lambda f: draw(f / "masks/ward/p3_1.png", np.arange(32 * 40, dtype=np.uint8).reshape(32, 40)),
            "no mask of two",
        ),
        (lambda f: draw(f / "masks/ward/p3_1.png", np.full((32, 40, 3), (1, 2, 3), np.uint8)), "colour image"),
        (lambda f: (f / "masks/ward/p3_1.png").write_bytes(b"x"), "not an image that can be read"),
        (lambda f: shutil.rmtree(f / "masks"), "no folders images and masks"),
    ],
)
def test_what_cannot_be_used_is_refused_or_set_aside(folder, tmp_path, break_it, message):
    break_it(folder)
    with pytest.raises(MedmarkError, match=message):
        masked(folder, tmp_path / "r")
    if (folder / "masks").exists():
        release = masked(folder, tmp_path / "q", quarantine=True)
        assert (len(release), release.rejected) == (19, {"rows": 1})


def test_masks_have_two_values(tmp_path):
    mask = np.zeros((20, 20), np.uint8)
    for values, found in (((0, 255), 1), ((0, 1), 1), ((0, 0), 0), ((7, 7), 1)):
        mask[:], mask[5:9] = values
        draw(tmp_path / "m.png", mask)
        assert decode_mask(tmp_path / "m.png").max() == found
    mask[:], mask[5:9] = 100, 200
    draw(tmp_path / "m.png", mask)
    with pytest.raises(MedmarkError, match="no mask of two values"):
        decode_mask(tmp_path / "m.png")


def test_a_release_is_for_one_task(folder, tmp_path, release):
    made = masked(folder, tmp_path / "r")
    with pytest.raises(MedmarkError, match="one for classification is needed"):
        ingest(made.path, tmp_path / "c")
    with pytest.raises(MedmarkError, match="one for segmentation is needed"):
        ingest(release, tmp_path / "s", task="segmentation")
    with pytest.raises(MedmarkError, match="one for classification is needed"):
        load_arrays(made, size=32)
    with pytest.raises(MedmarkError, match="one for segmentation is needed"):
        load_masks(Release(release), size=32)
    with pytest.raises(MedmarkError, match="one for classification is needed"):
        read_drop(folder, made.path, tmp_path, tmp_path / "drop")
    copy = ingest(made.path, tmp_path / "copy", task="segmentation")
    assert copy.digest == made.digest
    with pytest.raises(MedmarkError, match="no release can hold them"):
        ReleaseWriter(tmp_path / "x", name="x", version="1", class_names=["a", "b"], task="segmentation", lesions=True)


def test_arrays_are_what_the_release_shows(folder, tmp_path):
    made = masked(folder, tmp_path / "r")
    arrays = load_masks(made, split="train", size=16)
    assert arrays.images.shape[1:] == (3, 16, 16)
    assert arrays.masks.shape[1:] == (1, 16, 16)
    assert set(arrays.masks.unique().tolist()) == {0.0, 1.0}
    inside = arrays.masks.bool().expand_as(arrays.images)[:, 0]
    assert arrays.images[:, 0][inside].mean() > 0.7 > 0.3 > arrays.images[:, 1][inside].mean()
    assert torch.isfinite(arrays.images).all()


def test_records_without_a_mask_and_changed_masks_are_refused(folder, tmp_path):
    made = masked(folder, tmp_path / "r")
    first = next(made.records())
    with (
        pytest.raises(MedmarkError, match="no mask"),
        ReleaseWriter.child(tmp_path / "x", made, version="2") as writer,
    ):
        writer.add(replace(first, mask=None, mask_sha256=None))
    other = encode_png(1 - decode_png(first.mask))
    with ReleaseWriter.child(tmp_path / "y", made, version="2") as writer:
        writer.add(replace(first, mask=other))
    with pytest.raises(MedmarkError, match="mask missing, or not that of its digest"):
        Release(tmp_path / "y").verify()


def test_inspecting_exporting_and_describing(folder, tmp_path):
    made = masked(folder, tmp_path / "r")
    assert (describe(made.path)["task"], describe(made.path)["image_mode"]) == ("segmentation", "RGB")
    preview(made.path, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.mode == "RGB"
        assert ((np.asarray(sheet) == (255, 170, 0)).all(axis=2)).sum() > 50
    assert export(made.path, tmp_path / "out") == 20
    again = masked(tmp_path / "out" / "train", tmp_path / "again", patient_pattern="(.*)")
    assert len(again) == sum(made.counts["train"].values())
    with pytest.raises(MedmarkError, match="export them as png"):
        export(made.path, tmp_path / "dicom", format="dicom")
    fields = write_card(made.path, tmp_path / "croissant.json")["recordSet"][0]["field"]
    assert [field["name"] for field in fields][-2:] == ["mask", "mask_sha256"]


def test_phantoms_with_lungs(tmp_path):
    one = make_masked_phantoms(tmp_path / "1", count=20, size=64, seed=3)
    two = make_masked_phantoms(tmp_path / "2", count=20, size=64, seed=3)
    files = sorted(path.relative_to(one) for path in one.rglob("*.png"))
    assert len(files) == 40
    digests = [[hashlib.sha256((root / file).read_bytes()).hexdigest() for file in files] for root in (one, two)]
    assert digests[0] == digests[1]
    seeds = {"sick": True, "body_seed": (1,), "image_seed": (2,)}
    image, lungs = draw_with_lungs(128, **seeds)
    assert (image == draw_phantom(128, **seeds)).all()
    assert 0.1 < lungs.mean() < 0.4
    assert image[lungs > 0].mean() < image[lungs == 0].mean()


def test_releases_of_schema_3_are_read_for_ever(tmp_path):
    shutil.copytree(FIXTURE, tmp_path / "r")
    release = Release(tmp_path / "r")
    release.verify()
    assert release.digest == FIXTURE_DIGEST
    assert (release.task, release.image_mode, release.class_names) == ("segmentation", "RGB", ["background", "disc"])
    first = next(release.records())
    assert (first.image_id, first.split, first.bits) == ("image-0", "train", 8)
    np.testing.assert_array_equal(decode_png(first.image, mode="RGB"), np.full((16, 20, 3), (7, 8, 9), np.uint8))
    np.testing.assert_array_equal(decode_png(first.mask), np.eye(16, 20, dtype=np.uint8))
