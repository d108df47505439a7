import numpy as np
import pytest
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import load_arrays
from medmark.components.dataset.codecs import decode_file
from medmark.components.dataset.display import stored_delta, to_unit
from medmark.components.dataset.export import export
from medmark.components.dataset.inspect import describe, preview
from medmark.components.dataset.phantoms import make_phantoms
from medmark.components.dataset.release import Release
from PIL import Image


@pytest.mark.parametrize(
    ("suffix", "dtype"), [("png", np.uint8), ("png", np.uint16), ("tif", np.uint8), ("tif", np.uint16)]
)
def test_lossless_formats_keep_every_value(tmp_path, rng, suffix, dtype):
    pixels = rng.integers(0, np.iinfo(dtype).max + 1, (40, 30)).astype(dtype)
    Image.fromarray(pixels).save(tmp_path / f"x.{suffix}")
    image = decode_file(tmp_path / f"x.{suffix}")
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.bits == 8 * np.dtype(dtype).itemsize


def test_jpeg_and_gray_rgb(tmp_path, rng):
    gray = np.repeat(rng.integers(0, 256, (40, 30, 1)).astype(np.uint8), 3, axis=2)
    Image.fromarray(gray).save(tmp_path / "x.png")
    np.testing.assert_array_equal(decode_file(tmp_path / "x.png").pixels, gray[..., 0])
    Image.fromarray(gray[..., 0]).save(tmp_path / "x.jpg")
    assert decode_file(tmp_path / "x.jpg").pixels.shape == (40, 30)


def test_decompression_bomb_is_not_decoded(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 200_000
    with pytest.raises(MedmarkError, match="bomb.png"):
        decode_file(tmp_path / "bomb.png")


def test_display_follows_the_dicom_standard():
    pydicom_pixels = pytest.importorskip("pydicom.pixels")
    from pydicom.dataset import Dataset

    header = Dataset()
    header.PhotometricInterpretation, header.BitsStored, header.PixelRepresentation = "MONOCHROME2", 12, 0
    header.WindowCenter, header.WindowWidth = 1500, 2000
    pixels = np.arange(0, 4096, 7, dtype=np.uint16).reshape(1, -1)
    shown = pydicom_pixels.apply_windowing(pixels, header)
    expected = (shown - shown.min()) / (shown.max() - shown.min())
    ours = to_unit(pixels, 12, {"WindowCenter": 1500, "WindowWidth": 2000})
    np.testing.assert_allclose(ours, expected, atol=6e-4)


@pytest.mark.parametrize(
    ("bits", "dicom"),
    [
        (8, None),
        (16, None),
        (12, {"PhotometricInterpretation": "MONOCHROME1"}),
        (12, {"WindowCenter": 2000, "WindowWidth": 3000, "RescaleSlope": 2.0, "RescaleIntercept": -100}),
    ],
)
def test_a_change_in_display_units_shows_as_such(bits, dicom, rng):
    top = 2**bits - 1
    pixels = rng.integers(round(0.2 * top), round(0.35 * top), (20, 20)).astype(np.uint8 if bits == 8 else np.uint16)
    pixels[0, :2] = 0, top  # the image uses the whole range
    delta = rng.uniform(-0.05, 0.05, (20, 20)).astype(np.float32)
    changed = np.rint(pixels + stored_delta(delta, pixels, bits, dicom))
    change = to_unit(changed, bits, dicom) - to_unit(pixels, bits, dicom)
    np.testing.assert_allclose(change[1:], delta[1:], atol=1.1 / top * (2 if dicom else 1))


def test_a_window_much_wider_than_the_image_does_not_drown_it():
    pixels = np.arange(400, dtype=np.uint16).reshape(20, 20)
    change = stored_delta(np.full((20, 20), 0.06), pixels, 12, {"WindowCenter": 2048, "WindowWidth": 4096})
    assert np.abs(change).max() == pytest.approx(0.06 * 1.25 * 399)


@pytest.mark.parametrize("format", ["png", "dicom"])
def test_export_is_lossless(release, tmp_path, format):
    count = export(release, tmp_path / "out", format=format, split="test")
    records = {r.image_id: r for r in Release(release).records("test")}
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert count == len(files) == len(records)
    for path in files:
        record = records[path.stem]
        assert path.parent.parent.name == "test"
        image = decode_file(path)
        assert image.pixels.tobytes() == Image.open(__import__("io").BytesIO(record.image)).tobytes()
    with pytest.raises(MedmarkError, match="not empty"):
        export(release, tmp_path / "out", format=format)


def test_export_keeps_dicom_attributes(medmark_data, tmp_path):
    import pydicom
    from medmark.components.dataset.codecs import encode_png
    from medmark.components.dataset.export import write_dicom
    from medmark.components.dataset.release import Record

    original = decode_file(medmark_data / "dicom" / "RG1_chest_CR_j2k_lossy.dcm")
    import json

    height, width = original.pixels.shape
    record = Record(
        "x", encode_png(original.pixels), "png", 0, "p", "train", width, height, 15, "0", json.dumps(original.dicom)
    )
    write_dicom(record, tmp_path / "x.dcm")
    again = decode_file(tmp_path / "x.dcm")
    np.testing.assert_array_equal(again.pixels, original.pixels)
    assert again.dicom["PhotometricInterpretation"] == "MONOCHROME1"
    assert (again.bits, again.dicom["WindowWidth"]) == (15, original.dicom["WindowWidth"])
    assert pydicom.dcmread(tmp_path / "x.dcm").PatientID == "p"


def test_phantoms_depend_on_the_seed_alone(tmp_path):
    a, b, c = (make_phantoms(tmp_path / str(i), count=24, size=64, seed=s) for i, s in enumerate((3, 3, 4)))
    read = lambda root: {p.name: p.read_bytes() for p in root.rglob("*.png")}  # noqa: E731
    assert read(a) == read(b) != read(c)
    assert len(read(a)) == 24
    with pytest.raises(MedmarkError, match="not empty"):
        make_phantoms(a, count=24)


def test_arrays_and_description(release, tmp_path):
    arrays = load_arrays(Release(release), split="train", size=48)
    assert arrays.images.shape == (len(arrays), 1, 48, 48)
    assert 0 <= float(arrays.images.min()) < float(arrays.images.max()) <= 1
    description = describe(release)
    assert description["images"] == 120
    assert description["resolutions"] == {"64x64": 120}
    assert sum(description["counts"]["train"].values()) == len(arrays)
    preview(release, tmp_path / "sheet.png", per_class=3, side=50)
    assert Image.open(tmp_path / "sheet.png").size == (150, 100)
