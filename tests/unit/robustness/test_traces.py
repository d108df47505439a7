"""What is to be seen of a mark in a single image, by somebody without the key."""

import io

import numpy as np
import pytest
import torch
from medmark.components.dataset.codecs import decode_png, encode_png
from medmark.components.dataset.display import stored_delta
from medmark.components.dataset.phantoms import draw_phantom
from medmark.components.dataset.release import Record
from medmark.components.generator import hiding
from medmark.components.generator.hiding import enlarge, hide, jpeg_table
from medmark.components.generator.key import draw_key
from medmark.components.generator.marker import Marker, Shape
from medmark.components.generator.network import ConditionalUNet
from medmark.components.robustness.traces import BAND, traces
from PIL import Image
from torch.nn import functional as F

COUNT, SIDE = 60, 160
# where the limits of 0.45 and 0.55 do not hold: benchmarks/results/traces.json
# the marks are of 4.6 cycles: the coarser a wave, the stronger it is, and the more it leaves behind
MOST, WIDER = 0.09, {"JPEG, quality 75 to 95": 0.15, "contrast stretched": 0.15}


@pytest.fixture(scope="module")
def phantoms():
    return [draw_phantom(SIDE, sick=False, body_seed=(0, 0, n), image_seed=(0, 2, n)) for n in range(COUNT)]


def jpeg(image, quality):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def twelve_bits(image, number):
    """As a detector gives it: its own noise below the phantom's steps."""
    noise = np.random.default_rng(number).integers(0, 16, image.shape)
    return np.clip(image.astype(int) * 16 + noise, 0, 4095).astype(np.uint16)


def framed(image):
    image = image.copy()
    image[:12] = image[-12:] = image[:, :20] = image[:, -20:] = 0
    return image


SOURCES = {
    "as drawn": lambda image, n: (image, 8),
    "JPEG, quality 75 to 95": lambda image, n: (jpeg(image, (75, 85, 90, 95)[n % 4]), 8),
    "12 bits in 16": lambda image, n: (twelve_bits(image, n), 12),
    "12 bits left-aligned in 16": lambda image, n: (twelve_bits(image, n) * 16, 16),
    "8 bits in 16": lambda image, n: (image.astype(np.uint16) * 257, 16),
    "contrast stretched": lambda image, n: (np.rint(np.clip((image - 20.0) / 180, 0, 1) * 255).astype(np.uint8), 8),
    "black borders": lambda image, n: (framed(image), 8),
}


def marker(seed: int) -> Marker:
    shape = Shape(size=128, epsilon=0.07, grid=64)
    return Marker(ConditionalUNet().eval(), draw_key(seed), shape, target=0, roles={}, release_digest="", seed=seed)


def saliency(number: int) -> torch.Tensor:
    coarse = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(number))
    return F.interpolate(coarse, size=(32, 32), mode="bilinear")


def marked(image: np.ndarray, bits: int, number: int, key: int = 3) -> np.ndarray:
    record = Record(str(number), encode_png(image), "png", 0, "p", "train", *image.shape[::-1], bits, "")
    maps = {record.image_id: (saliency(number)[0] * 255).byte()}
    return decode_png(marker(key).mark(record, maps, "mark").image)


def added(image: np.ndarray, bits: int, number: int) -> np.ndarray:
    """The same perturbation, only added."""
    with torch.no_grad():
        coarse = marker(3).coarse(torch.zeros(1, 1, 128, 128), saliency(number), "decoy", draw_key(3))[0, 0].numpy()
    change = stored_delta(enlarge(coarse, image.shape), image, bits)
    return np.clip(np.rint(image + change), 0, 2**bits - 1).astype(image.dtype)


@pytest.mark.parametrize("source", SOURCES)
def test_no_statistic_but_the_marks_own_band_tells_marked_images(phantoms, source):
    images = [SOURCES[source](image, n) for n, image in enumerate(phantoms)]
    after = [marked(*image, n) for n, image in enumerate(images)]
    assert all((one != image).mean() > 0.2 for one, (image, _) in zip(after, images, strict=True))
    found = traces(after, [image for image, _ in images])
    found.pop(BAND)
    most = WIDER.get(source, MOST)
    assert not {name: round(value, 3) for name, value in found.items() if abs(value - 0.5) > most}


@pytest.mark.parametrize(
    ("source", "statistic"),
    [
        ("8 bits in 16", "gaps between grey values"),
        ("12 bits left-aligned in 16", "grey values modulo 16"),
        ("contrast stretched", "roughness of the histogram"),
        ("as drawn", "darkest value"),
        ("JPEG, quality 75 to 95", "JPEG grid"),
        ("black borders", "constant areas"),
    ],
)
def test_what_plain_addition_leaves_is_found(phantoms, source, statistic):
    images = [SOURCES[source](image, n) for n, image in enumerate(phantoms)]
    found = traces([added(*image, n) for n, image in enumerate(images)], [image for image, _ in images])
    assert not 0.15 < found[statistic] < 0.85


@pytest.mark.parametrize("source", SOURCES)
def test_a_marked_image_keeps_its_values_and_constant_areas(phantoms, source):
    for number in range(8):
        image, bits = SOURCES[source](phantoms[number], number)
        made = marked(image, bits, number)
        assert made.dtype == image.dtype and (made != image).mean() > 0.2
        if "JPEG" not in source:
            if source == "contrast stretched":
                assert set(np.unique(made)) <= set(np.unique(image))
            assert (made.min(), made.max()) == (image.min(), image.max())
            step = np.gcd.reduce(np.diff(np.unique(image)).astype(int))
            assert not ((made.astype(int) - int(image.min())) % step).any()
        if source == "black borders":
            assert (made[:12] == 0).all() and (made[:, :20] == 0).all()


@pytest.mark.parametrize("quality", [30, 60, 80, 92])
def test_the_table_of_a_jpeg_is_found_and_kept(phantoms, quality):
    image = jpeg(np.asarray(Image.fromarray(phantoms[0]).resize((384, 384), Image.BICUBIC)), quality)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    true = np.array(Image.open(stream).quantization[0]).reshape(8, 8)
    table = jpeg_table(image)
    assert (table[:2, :2] == true[:2, :2]).all()
    again = jpeg_table(hide(image, 12 * np.sin(np.arange(384) / 9)[:, None] * np.ones(384)))
    assert (again[:2, :2] == true[:2, :2]).all()
    assert jpeg_table(phantoms[0]) is None


def test_an_image_of_an_unknown_decoder_is_left_alone(phantoms, monkeypatch):
    image = jpeg(phantoms[0], 75)
    change = 5 * np.sin(np.arange(SIDE) / 9) * np.ones((SIDE, SIDE))
    assert hide(image, change) is not None
    others = tuple(lambda data, decode=decode: np.maximum(decode(data), 1) - 1 for decode in hiding.DECODERS)
    monkeypatch.setattr(hiding, "DECODERS", others)
    assert hide(image, change) is None


def test_an_image_that_has_nothing_to_hide_a_mark_in_is_left_alone():
    image = np.zeros((64, 64), np.uint8)
    image[:, 32:] = 255
    assert hide(image, np.full((64, 64), 9.0)) is None
