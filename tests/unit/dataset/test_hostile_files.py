"""A damaged or hostile file costs its own row and nothing else."""

import io
import os
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_dicom import deflate, write_deflated, write_dicom
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.codecs import decode_file
from medmark.components.dataset.decoded import DecodedImage
from medmark.components.dataset.ingest import ingest
from PIL import Image, PngImagePlugin
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless


@pytest.fixture
def folder(tmp_path):
    """Two classes, eight patients each."""
    rng = np.random.default_rng(0)
    for label in ("normal", "pneumonia"):
        (tmp_path / "raw" / label).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 256, (32, 32)).astype(np.uint8)).save(
                tmp_path / "raw" / label / f"{label[0]}{i}_1.png"
            )
    return tmp_path / "raw"


def _fifo(path):
    os.mkfifo(path.with_suffix(".png"))


def _directory(path):
    path.with_suffix(".png").mkdir()


def _loop(path):
    path.with_suffix(".png").symlink_to(path.with_suffix(".png").name)


def _newline(path):
    Image.new("L", (32, 32)).save(path.with_name("bad\nname.png"))


def _surrogate(path):
    (path.parent / os.fsdecode(b"bad\xff.png")).write_bytes(b"x")


def _text_chunk(path):
    info = PngImagePlugin.PngInfo()
    info.add_text("x", "y" * 2**25, zip=True)
    Image.new("L", (32, 32)).save(path.with_suffix(".png"), pnginfo=info)


def _pages(path):
    page = Image.new("L", (32, 32))
    page.save(path.with_suffix(".tif"), save_all=True, append_images=[page])


def _codestream(syntax, kind):
    def write(path):
        stream = io.BytesIO()
        Image.new("L", (64, 64)).save(stream, kind, **({"no_jp2": True} if kind == "JPEG2000" else {}))
        frame = encapsulate([stream.getvalue()])
        write_dicom(path, bits=8, syntax=syntax, raw=[("PixelData", "OB", frame)])
        ds = __import__("pydicom").dcmread(path)
        ds.PixelData, ds["PixelData"].is_undefined_length = frame, True
        ds.save_as(path)

    return write


HOSTILE = {
    "bomb": lambda path: write_deflated(path, deflate(2**30)),
    "damaged deflate": lambda path: write_deflated(path, b"\xff" * 500),
    "cut deflate": lambda path: write_deflated(path, deflate(2**20)[:200]),
    "fifo": _fifo,
    "directory": _directory,
    "loop": _loop,
    "newline": _newline,
    "surrogate": _surrogate,
    "text chunk": _text_chunk,
    "pages": _pages,
    "jpeg of another size": _codestream(JPEGBaseline8Bit, "JPEG"),
    "jpeg 2000 of another size": _codestream(JPEG2000Lossless, "JPEG2000"),
    "no rows": lambda path: write_dicom(path, Rows=None),
    "frames": lambda path: write_dicom(path, raw=[("NumberOfFrames", "IS", b"99999999999 ")]),
    "bad frames": lambda path: write_dicom(path, raw=[("NumberOfFrames", "IS", b"abc ")]),
    "bits": lambda path: write_dicom(path, BitsStored=17),
    "high bit": lambda path: write_dicom(path, HighBit=15),
    "palette": lambda path: write_dicom(path, PhotometricInterpretation="PALETTE COLOR"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_one_row(folder, tmp_path, kind):
    HOSTILE[kind](folder / "normal" / "n9_1.dcm")
    with pytest.raises(MedmarkError, match="quarantine") as refusal:
        ingest(folder, tmp_path / "r")
    assert str(refusal.value).isprintable()
    release = ingest(folder, tmp_path / "q", quarantine=True)
    assert (len(release), release.rejected["rows"]) == (16, 1)


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 300 + ".png", "a\x1b[2J.png", "p/" * 3000 + "x.png", "b" * 2**20])
def test_a_hostile_path_in_a_csv_is_one_row(folder, tmp_path, name):
    rows = [{"path": p.relative_to(folder).as_posix(), "label": p.parent.name} for p in sorted(folder.rglob("*.png"))]
    pd.DataFrame([*rows, {"path": name, "label": "normal"}]).to_csv(folder / "labels.csv", index=False)
    with pytest.raises(MedmarkError, match="quarantine") as refusal:
        ingest(folder / "labels.csv", tmp_path / "r", label_column="label")
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 1000
    release = ingest(folder / "labels.csv", tmp_path / "q", label_column="label", quarantine=True)
    assert (len(release), release.rejected["rows"]) == (16, 1)


def test_a_patient_is_looked_up_within_the_limits(folder, tmp_path):
    """Without a patient column the headers are read, before anything is decoded."""
    write_deflated(folder / "n9.dcm", b"\xff" * 500)
    rows = [{"path": p.relative_to(folder).as_posix(), "label": p.parent.name} for p in sorted(folder.rglob("*.png"))]
    pd.DataFrame([*rows, {"path": "n9.dcm", "label": "normal"}]).to_csv(folder / "labels.csv", index=False)
    release = ingest(folder / "labels.csv", tmp_path / "q", label_column="label", quarantine=True)
    assert (len(release), release.rejected["rows"]) == (16, 1)


def test_a_bomb_does_not_fill_the_memory(tmp_path):
    path = write_deflated(tmp_path / "bomb.dcm", deflate(2**30))
    code = (
        "import sys\n"
        "from medmark.components.dataset.codecs import decode_file\n"
        "from medmark.components.dataset.dicom import dicom_patient\n"
        "from medmark.components.base.errors import MedmarkError\n"
        "from pathlib import Path\n"
        "for read in (dicom_patient, decode_file):\n"
        "    try: read(Path(sys.argv[1]))\n"
        "    except MedmarkError as error: print(error)\n"
        "status = open('/proc/self/status').read()\n"  # getrusage would count the test run's own peak, across exec
        "print(int(status.split('VmHWM:')[1].split()[0]) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60)
    *refusals, peak = done.stdout.splitlines()
    assert len(refusals) == 2 and all("bomb.dcm" in refusal for refusal in refusals)
    assert int(peak) < 800  # MiB: imports, and at most 144 MiB inflated; all of the bomb would be 1024 at least


def _valid(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16)).astype(np.uint8)
    for kind in ("PNG", "JPEG", "TIFF"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        yield kind, stream.getvalue()
    for syntax in (None, DeflatedExplicitVRLittleEndian):
        path = tmp_path / "seed.dcm"
        write_dicom(path, side=16, **({"syntax": syntax} if syntax else {}), WindowCenter=2048, WindowWidth=4096)
        yield str(syntax), path.read_bytes()
    ds = __import__("pydicom").dcmread(write_dicom(tmp_path / "rle.dcm", side=16))
    ds.compress(RLELossless)
    ds.save_as(tmp_path / "rle.dcm")
    yield "RLE", (tmp_path / "rle.dcm").read_bytes()


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    return list(_valid(tmp_path_factory.mktemp("seeds")))


@settings(
    max_examples=300,
    derandomize=True,
    deadline=5000,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_changed_bytes_give_an_image_or_one_line(seeds, tmp_path, data):
    _, seed = data.draw(st.sampled_from(seeds))
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, max(0, len(changed) - 1)))
        match data.draw(st.sampled_from(["set", "cut", "insert", "drop"])):
            case "set":
                changed[at : at + 4] = data.draw(st.binary(min_size=1, max_size=4))
            case "cut":
                del changed[max(140, at) :]
            case "insert":
                changed[at:at] = data.draw(st.binary(min_size=1, max_size=16))
            case "drop":
                del changed[at : at + 8]
    path = tmp_path / "x.png"
    path.write_bytes(changed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert isinstance(decode_file(path), DecodedImage)
        except MedmarkError as error:
            assert str(error).isprintable() and "x.png" in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,normal,extra\n", "unreadable CSV"),
        (",".join(f"c{i}" for i in range(3000)) + "\n", "no column|missing column"),
        ("path,label\n\xff", "unreadable CSV"),
    ],
)
def test_a_hostile_csv_is_one_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(MedmarkError, match=message) as refusal:
        ingest(tmp_path / "t.csv", tmp_path / "r", label_column="label", quarantine=True)
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 1000


@pytest.mark.parametrize("label", ["\u00b2", "9" * 5000, "x" * 2**20, "a\nb"])
def test_a_hostile_label_is_one_row(folder, tmp_path, label):
    rows = [{"path": p.relative_to(folder).as_posix(), "label": p.parent.name} for p in sorted(folder.rglob("*.png"))]
    table = folder / "labels.csv"
    pd.DataFrame([*rows, {"path": rows[0]["path"][:-6] + "9.png", "label": label}]).to_csv(table, index=False)
    options = {"label_column": "label", "class_names": ["normal", "pneumonia"]}
    with pytest.raises(MedmarkError, match="label") as refusal:
        ingest(table, tmp_path / "r", **options)
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 2000
    release = ingest(table, tmp_path / "q", quarantine=True, **options)
    assert (len(release), release.rejected["rows"]) == (16, 1)
