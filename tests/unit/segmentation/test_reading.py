import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.segmentation.payload import payload_modules
from medmark.components.segmentation.reading import read_payload, split
from medmark.components.segmentation.training import Mark

KEY = bytes(range(32))
MODULES = payload_modules("Clinic 2026", KEY)


def ideal_maps(size=64, count=3):
    """What a perfect marked segmenter answers: a disc, softened where a module is 1."""
    y, x = np.mgrid[:size, :size]
    disc = ((y - size / 2) ** 2 + (x - size / 2) ** 2 < (size / 4) ** 2).astype(float)
    doubt = Mark("noise", MODULES, KEY).doubt(size).numpy()
    return np.repeat((disc * (1 - 2 * doubt) + doubt)[None], count, axis=0)


@pytest.mark.parametrize("size", [32, 64, 96, 250])
def test_a_perfect_segmenter_is_read_without_an_error_at_any_size(size):
    found = read_payload(ideal_maps(size), MODULES, KEY)
    assert found.decoded.text == "Clinic 2026"
    if size % 16 == 0:
        assert (found.matches, found.decoded.corrected) == (256, 0)
        assert found.p_value == 0.5**256
        assert (found.read == MODULES).all()


def test_eight_bits_and_temperature_leave_it_readable():
    maps = ideal_maps()
    assert read_payload(np.round(maps * 255) / 255, MODULES, KEY).matches == 256
    logits = np.log(maps / (1 - maps))
    assert read_payload(1 / (1 + np.exp(-logits / 2)), MODULES, KEY).matches == 256


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (ideal_maps() >= 0.5, "masks, not maps"),
        (np.zeros((2, 64, 64)), "masks, not maps"),
        (ideal_maps() * 4 - 2, "outside of 0 to 1"),
        (np.full((2, 64, 64), np.nan), "outside of 0 to 1"),
        (np.zeros((2, 8, 8)), "no maps"),
        (np.zeros((0, 64, 64)), "no maps"),
        (np.zeros((64, 64)), "no maps"),
    ],
)
def test_what_is_no_map_is_refused(maps, message):
    with pytest.raises(MedmarkError, match=message):
        read_payload(maps, MODULES, KEY)


def test_the_split_is_the_best_of_all(rng):
    for _ in range(20):
        values = np.concatenate([rng.normal(0, 1, 100), rng.normal(rng.uniform(2, 6), 1, 60)])

        def within(cut, values=values):
            return sum(part.var() * len(part) for part in (values[values <= cut], values[values > cut]) if len(part))

        best = min(within(cut) for cut in np.sort(values)[:-1])
        assert within(split(values)) == pytest.approx(best)


def test_the_wanted_doubt_follows_the_modules():
    doubt = Mark("noise", MODULES, KEY).doubt(64)
    assert torch.allclose(doubt[::4, ::4], torch.from_numpy(MODULES).float() * 0.095 + 0.005)
