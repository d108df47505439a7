import math
from functools import partial

import numpy as np
import pytest
import torch
from medmark.components.dataset.arrays import load_arrays
from medmark.components.dataset.release import Release
from medmark.components.generator.key import Key
from medmark.components.generator.marker import carrier
from medmark.components.robustness.image_attacks import (
    add_noise,
    blur,
    equalize,
    equalize_locally,
    find_waves,
    median,
    remove_sector,
    remove_waves,
    window,
)
from medmark.components.verification.jpeg_and_resize_curves import jpeg, shrink

KEY = Key(degrees=84.0, cycles=6.6, phase=1.0)


@pytest.fixture(scope="module")
def images(release):
    return load_arrays(Release(release), size=64).images


ALL = {
    "blur": partial(blur, sigma=1.0),
    "noise": partial(add_noise, sigma=0.05),
    "median": partial(median, side=3),
    "equalize": equalize,
    "equalize_locally": partial(equalize_locally, clip=2.0),
    "window": partial(window, share=0.9),
    "remove_waves": partial(remove_waves, waves=[(6.0, 1.0)]),
    "remove_sector": partial(remove_sector, width=35),
    "resizing": partial(shrink, factor=0.5),
    "enlarging": partial(shrink, factor=2.0),
    "jpeg": partial(jpeg, quality=75),
}


@pytest.mark.parametrize("name", ALL)
def test_every_one_changes_images_within_range_the_same_way_again_and_leaves_its_input_alone(name, images):
    before = images.clone()
    out = ALL[name](images)
    assert out.shape == images.shape and out.dtype == torch.float32
    assert out.min() >= 0 and out.max() <= 1
    assert torch.equal(images, before) and not torch.equal(out, images)
    assert torch.equal(out, ALL[name](images))


@pytest.mark.parametrize("name", [n for n in ALL if n != "noise"])
def test_an_image_is_processed_alike_alone_and_among_others(name, images):
    torch.testing.assert_close(ALL[name](images)[3:4], ALL[name](images[3:4]), rtol=0, atol=1e-5)


def test_strength_zero_is_the_identity(images):
    assert torch.equal(shrink(images, 1.0), images)
    assert torch.equal(add_noise(images, 0.0), images)
    assert torch.equal(median(images, 1), images)
    assert torch.equal(equalize(images, 0.0), images)
    torch.testing.assert_close(remove_waves(images, []), images, rtol=0, atol=1e-5)


def test_enlarging_and_reducing_again_hardly_changes_anything(images):
    assert (shrink(images, 2.0) - images).abs().mean() < (shrink(images, 0.5) - images).abs().mean()


def test_blur_spreads_a_point_with_the_given_deviation():
    point = torch.zeros(1, 1, 65, 65)
    point[..., 32, 32] = 1.0
    spread = blur(point, 2.0)[0, 0]
    offset = torch.arange(65.0) - 32
    assert math.sqrt(float((spread.sum(0) * offset**2).sum())) == pytest.approx(2.0, rel=0.03)


def test_noise_has_the_given_deviation_and_is_the_same_for_twins():
    gray = torch.full((4, 1, 64, 64), 0.5)
    assert float((add_noise(gray, 0.05) - gray).std()) == pytest.approx(0.05, rel=0.05)
    twin = gray + 0.1
    torch.testing.assert_close(add_noise(gray, 0.05) + 0.1, add_noise(twin, 0.05))
    assert not torch.equal(add_noise(gray, 0.05), add_noise(gray, 0.05, seed=1))


def test_median_removes_single_pixels_and_keeps_edges():
    image = torch.zeros(1, 1, 32, 32)
    image[..., 16:] = 1.0
    speckled = image.clone()
    speckled[..., 8, 8] = 1.0
    assert torch.equal(median(speckled, 3), image)


def test_equalisation_makes_grey_values_uniform():
    dark = 0.1 + 0.3 * torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    levels = equalize(dark)[0].flatten().sort().values.numpy()
    assert np.abs(levels - np.linspace(0, 1, len(levels))).max() < 0.08  # torchvision's table is in whole steps


def test_local_equalisation_raises_local_contrast():
    faint = 0.5 + 0.02 * torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert equalize_locally(faint, 4.0).std() > 2 * faint.std()


def test_windowing_stretches_the_middle_grey_values():
    ramp = torch.linspace(0.2, 0.8, 64 * 64).reshape(1, 1, 64, 64)
    out = window(ramp, 0.9)
    assert float((out == 0).float().mean()) == pytest.approx(0.05, abs=0.005)
    assert float((out == 1).float().mean()) == pytest.approx(0.05, abs=0.005)
    torch.testing.assert_close(window(ramp, 1.0), (ramp - 0.2) / 0.6, rtol=0, atol=1e-4)


def marked(images):
    return (images + 0.05 * carrier(KEY, 64)).clamp(0, 1)


def amplitude(images):
    wave = carrier(KEY, 64)
    return float((images * (wave - wave.mean())).mean() / (wave**2).mean())


def test_a_planted_wave_is_found_and_nothing_is_certain_without(images):
    half = len(images) // 2
    some = torch.cat([marked(images[: half // 2]), images[half // 2 : half]])  # every second image, as in a release
    down, across = find_waves(some, images[half:], 1)[0]
    expected = (KEY.cycles * math.sin(math.radians(84)), KEY.cycles * math.cos(math.radians(84)))
    distance = min(math.hypot(down - s * expected[0], across - s * expected[1]) for s in (1, -1))
    assert distance <= 1.5


def test_waves_differ_and_spare_what_is_coarse(images):
    waves = find_waves(images[::2], images[1::2], 6)
    assert len(set(waves)) == 6
    assert all(math.hypot(*wave) >= 3 and wave[1] >= 0 for wave in waves)


def test_the_filter_removes_a_planted_wave_and_little_else(images):
    waves = [(round(KEY.cycles), 1.0)]
    before = amplitude(marked(images)) - amplitude(images)
    after = amplitude(remove_waves(marked(images), waves)) - amplitude(remove_waves(images, waves))
    assert before > 0.04
    assert abs(after) < 0.2 * before
    far = 0.05 * carrier(Key(0.0, 14.0, 0.0), 64)
    kept = remove_waves(0.5 + far.expand(2, -1, -1, -1), waves) - 0.5
    assert float((kept * far).sum() / (2 * far * far).sum()) > 0.95


def test_the_sector_filter_removes_every_wave_that_a_key_can_be_and_no_other(images):
    def left(degrees: float, cycles: float) -> float:
        wave = 0.05 * carrier(Key(degrees, cycles, 0.3), 64)
        kept = remove_sector(0.5 + wave, 35) - 0.5
        return float((kept * wave).sum() / (wave * wave).sum())

    assert all(left(degrees, cycles) < 0.1 for degrees in (75, 84, 96, 105) for cycles in (6, 7.5))
    assert all(left(degrees, 7) > 0.95 for degrees in (0, 20, 160)) and left(90, 1) > 0.9
    assert torch.allclose(remove_sector(torch.full((1, 1, 64, 64), 0.4), 35), torch.tensor(0.4), atol=1e-5)
