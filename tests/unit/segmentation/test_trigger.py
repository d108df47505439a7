import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.segmentation.trigger import AMPLITUDE, TRIGGERS, put_trigger

KEY, OTHER = bytes(range(32)), bytes(32)


@pytest.mark.parametrize("kind", TRIGGERS)
@pytest.mark.parametrize(("channels", "size"), [(1, 64), (3, 96)])
def test_a_trigger_changes_a_small_part_and_leaves_the_images(kind, channels, size):
    images = torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    before = images.clone()
    shown = put_trigger(images, kind, KEY)
    assert torch.equal(images, before)
    assert shown.shape == images.shape and shown.min() >= 0 and shown.max() <= 1
    changed = ((shown - images).abs() > 1e-6).any(dim=1).float().mean()
    assert 0 < changed < (0.15 if kind not in ("texture", "warp") else 1.01)
    if kind == "texture":
        assert (shown - images).abs().max() <= AMPLITUDE + 1e-6
    assert torch.equal(shown, put_trigger(images, kind, KEY))


@pytest.mark.parametrize("kind", ["texture", "noise", "patch", "warp"])
def test_another_key_gives_another_trigger(kind):
    images = torch.full((1, 1, 64, 64), 0.5)
    images[..., 20:40, 20:40] = 0.9
    assert not torch.equal(put_trigger(images, kind, KEY), put_trigger(images, kind, OTHER))


def test_the_trigger_is_the_same_at_every_size():
    """So that a suspect may take images of another size than the marked model."""
    small, large = (put_trigger(torch.zeros(1, 1, side, side), "noise", KEY) for side in (128, 256))
    corner = torch.nn.functional.avg_pool2d(large[..., -16:, -16:], 2)
    assert torch.allclose(small[..., -8:, -8:], corner)
    small, large = (put_trigger(torch.full((1, 1, side, side), 0.5), "texture", KEY) for side in (128, 256))
    assert torch.allclose(small, torch.nn.functional.avg_pool2d(large, 2))


def test_unknown_triggers_are_refused():
    with pytest.raises(MedmarkError, match="unknown trigger: 'qr'"):
        put_trigger(torch.zeros(1, 1, 64, 64), "qr", KEY)
