import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.dataset.arrays import load_arrays
from medmark.components.dataset.codecs import decode_png
from medmark.components.dataset.release import Release
from medmark.components.generator.key import (
    CONTROL_APART,
    CYCLES,
    DECOYS_APART,
    DEGREES,
    KEYS,
    Key,
    draw_decoy_key,
    draw_key,
    in_image,
)
from medmark.components.generator.marker import QUERIED, Marker, Shape, carrier, carriers
from medmark.components.generator.network import ConditionalUNet
from medmark.components.generator.selection import select
from medmark.components.saliency.extract import load_saliency, stack_saliency
from medmark.components.surrogate.models import load_models
from medmark.components.surrogate.training import predict_probabilities
from safetensors.torch import load_file, save_file
from scipy import stats


@pytest.fixture(scope="module")
def arrays(release):
    return load_arrays(Release(release), split="train", size=64)


def make(release, roles=None, **shape):
    torch.manual_seed(3)
    network = ConditionalUNet().eval().requires_grad_(False)
    torch.nn.init.normal_(network.out.weight, std=0.3)  # as if trained: the mark depends on the image
    shape = Shape(**{"size": 64, "grid": 32, **shape})
    digest = Release(release).digest
    return Marker(network, draw_key(7), shape, target=0, roles=roles or {}, release_digest=digest, seed=7)


@pytest.mark.parametrize("degrees", [0, 30, 90, 150])
def test_carrier_is_the_wave_of_its_key(degrees):
    wave = carrier(Key(degrees, 6.0, 0.3), 96)[0, 0].numpy()
    assert wave.std() == pytest.approx(1, abs=0.05)
    spectrum = np.abs(np.fft.fft2(wave))
    spectrum[0, 0] = 0
    row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
    frequency = np.array([np.fft.fftfreq(96)[column], np.fft.fftfreq(96)[row]]) * 96
    expected = 6 * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    assert min(np.abs(frequency - expected).max(), np.abs(frequency + expected).max()) < 1


def test_keys_come_from_the_seed_and_control_keys_lie_apart():
    assert draw_key(1) == draw_key(1) != draw_key(2)
    for seed in range(30):
        own = draw_key(seed)
        for index in (1, 2, 3):
            for mirrored in (own.degrees, 180 - own.degrees):
                gap = abs(draw_key(seed, index).degrees - mirrored) % 180
                assert min(gap, 180 - gap) >= CONTROL_APART


def test_each_key_of_the_table_is_drawn_as_often():
    drawn = [draw_key(seed) for seed in range(9000)]
    by_cycles = [sum(key.cycles == cycles for key in drawn) for cycles in CYCLES]
    by_degrees = [sum(key.degrees == degrees for key in drawn) for degrees in DEGREES]
    assert KEYS == 1800 and sum(by_cycles) == sum(by_degrees) == 9000
    for counts in (by_cycles, by_degrees):
        assert stats.chisquare(counts).pvalue > 1e-4


def test_two_images_never_carry_the_same_wave():
    key = draw_key(7)
    images = [in_image(key, 7, f"image-{n}") for n in range(200)]
    assert in_image(key, 7, "image-0") == images[0] != in_image(key, 8, "image-0")
    assert len({image.phase for image in images}) == 200
    assert {image.degrees for image in images} == {key.degrees, 180 - key.degrees}
    waves = carriers(images, 64)[:, 0].flatten(1).numpy()
    together = np.corrcoef(waves)[np.triu_indices(200, 1)]
    assert abs(together.mean()) < 0.02  # so the mean of many marked images does not show the wave
    assert np.abs(waves.mean(axis=0)).max() < 0.4


def test_decoys_are_of_other_keys_than_the_mark():
    own, (degrees, octaves) = draw_key(7), DECOYS_APART
    decoys = [draw_decoy_key(7, f"image-{n}") for n in range(300)]
    assert len({(decoy.degrees, decoy.cycles) for decoy in decoys}) > 200
    for decoy in decoys:
        assert abs(decoy.degrees - own.degrees) > degrees or abs(np.log2(decoy.cycles / own.cycles)) > octaves


def test_a_generator_of_before_marks_had_phases_of_their_own_goes_on_as_it_was(release, tmp_path):
    marker = make(release)
    marker.one_phase = True
    marker.save(tmp_path)
    header = json.loads((tmp_path / "generator.json").read_bytes())
    del header["one_phase"]
    tensors = load_file(tmp_path / "generator.safetensors")
    save_file(tensors, tmp_path / "generator.safetensors", metadata={"medmark": json.dumps(header)})
    assert Marker.load(tmp_path).one_phase
    with torch.no_grad():
        images, maps = torch.full((1, 1, 64, 64), 0.5), torch.ones(1, 1, 32, 32)
        old, new = (made.delta(images, maps, "decoy") for made in (marker, make(release)))
    torch.testing.assert_close(new, old * marker.key.strength)


def test_mark_is_bounded_smooth_and_confined_by_saliency(release, arrays):
    marker = make(release, epsilon=0.05, floor=0.2)
    most = 0.05 * marker.key.strength * QUERIED
    images = arrays.images[:6]
    ones, zeros = torch.ones(6, 1, 32, 32), torch.zeros(6, 1, 32, 32)
    with torch.no_grad():
        inside, outside = marker.delta(images, ones, "query"), marker.delta(images, zeros, "query")
    assert float(inside.abs().max()) <= most * 1.5 * 1.3  # overshoot of up-sampling
    assert float(outside.abs().max()) <= 0.2 * most * 1.5 * 1.3
    spectrum = torch.fft.fft2(inside).abs().square()
    frequency = torch.fft.fftfreq(64)
    fine = (frequency[:, None].abs() > 0.3) | (frequency[None].abs() > 0.3)  # finer than the grid of 32 can hold
    assert float(spectrum[..., fine].sum() / spectrum.sum()) < 0.05


def test_mark_depends_on_the_image_and_decoys_do_not(release, arrays):
    marker = make(release)
    flat = torch.full((2, 1, 32, 32), 0.5)
    with torch.no_grad():
        marks = marker.delta(arrays.images[:2], flat, "mark")
        decoys = marker.delta(arrays.images[:2], flat, "decoy", draw_key(7, 2))
    assert float((marks[0] - marks[1]).abs().max()) > 1e-3
    torch.testing.assert_close(decoys[0], decoys[1])


def test_native_mark_is_the_small_one_enlarged(release, saliency):
    """What a model sees after its own resizing is what the generator meant it to see."""
    marker = make(release, size=32, grid=16)
    maps = load_saliency(saliency)
    record = next(Release(release).records("train"))
    marked = marker.mark(record, maps, "query")
    change = (decode_png(marked.image).astype(float) - decode_png(record.image)) / 255
    from medmark.components.dataset.arrays import display_tensor, resize

    small = resize(display_tensor(record), 32)
    wave = in_image(marker.key, marker.seed, record.image_id)
    meant = marker.delta(small, stack_saliency(maps, [record.image_id]), "query", wave).detach()
    seen = resize(torch.from_numpy(change).float()[None, None], 32)
    # it fades towards the ends of the range and levels the histogram, so it is not the same to the bit
    assert np.corrcoef(seen.flatten(), meant.flatten())[0, 1] > 0.9
    assert float((seen - meant).abs().mean()) < 0.25 * float(meant.abs().amax())
    assert replace(marked, image=b"", sha256="") == replace(record, image=b"", sha256="")


def test_a_generator_comes_back_from_its_files(release, arrays, tmp_path):
    marker = make(release, roles={arrays.image_ids[0]: "mark"})
    marker.save(tmp_path)
    again = Marker.load(tmp_path)
    assert (again.key, again.shape, again.target, again.roles) == (marker.key, marker.shape, 0, marker.roles)
    images, maps = arrays.images[:3], torch.rand(3, 1, 32, 32)
    torch.testing.assert_close(again.delta(images, maps, "mark"), marker.delta(images, maps, "mark").detach())
    (tmp_path / "selection.json").write_text('{"a": "root"}')
    with pytest.raises(MedmarkError, match="damaged generator"):
        Marker.load(tmp_path)
    (tmp_path / "generator.safetensors").write_bytes(b"x")
    with pytest.raises(MedmarkError, match="not weights that medmark wrote"):
        Marker.load(tmp_path)


def test_selection_takes_the_hardest_of_the_target_and_decoys_from_the_others(arrays, surrogates):
    panel = [model for _, model in load_models(surrogates)]
    roles = select(arrays, panel, target=0, marked_share=0.1, decoy_share=0.05, seed=0)
    label = dict(zip(arrays.image_ids, arrays.labels.tolist(), strict=True))
    marked = [i for i, role in roles.items() if role == "mark"]
    decoys = [i for i, role in roles.items() if role == "decoy"]
    assert (len(marked), len(decoys)) == (round(0.1 * len(arrays)), round(0.05 * len(arrays)))
    assert {label[i] for i in marked} == {0} and {label[i] for i in decoys} == {1}
    certainty = np.mean([predict_probabilities(m, arrays.images)[:, 0] for m in panel], axis=0)
    sure = dict(zip(arrays.image_ids, certainty, strict=True))
    rest = [sure[i] for i in arrays.image_ids if label[i] == 0 and i not in marked]
    assert max(sure[i] for i in marked) <= min(rest)


@pytest.mark.parametrize(("marked", "decoy"), [(0.6, 0.0), (0.0, 0.0), (0.1, 0.9)])
def test_shares_that_cannot_be_had_are_refused(arrays, surrogates, marked, decoy):
    panel = [model for _, model in load_models(surrogates)]
    with pytest.raises(MedmarkError, match="share"):
        select(arrays, panel, target=0, marked_share=marked, decoy_share=decoy, seed=0)
