"""Suspects that segment, and their hostile answers."""

import numpy as np
import pytest
import torch
from medmark.components.base.errors import MedmarkError
from medmark.components.suspects.contract import Contract
from medmark.components.suspects.segmenters import SegmenterSuspect

CLASSES = ["background", "lungs"]


class Backend:
    """Answers with a function of the images."""

    where, digest, description, batch_size = "suspect", "0" * 64, None, 4

    def __init__(self, answer, *, shape=(None, 1, 32, 32), output=(None, 1, 32, 32), kind="float32"):
        self.answer, self.inputs, self.outputs = answer, {"x": (shape, "float32")}, {"y": (output, kind)}
        self.asked = []

    def ask(self, images, input, output):
        self.asked.append(images)
        return self.answer(images)

    def close(self):
        pass


def suspect(answer, contract=None, *, channels=1, **declared):
    return SegmenterSuspect(Backend(answer, **declared), contract or Contract(), channels=channels, class_names=CLASSES)


IMAGES = torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(0))


def test_probabilities_logits_and_two_channels_are_the_same_maps():
    p = lambda x: x[:, :1] * 0.8 + 0.1  # noqa: E731
    wanted = IMAGES[:, 0].numpy() * 0.8 + 0.1
    logit = lambda x: np.log(p(x) / (1 - p(x)))  # noqa: E731
    two = lambda x: np.concatenate([1 - p(x), p(x)], axis=1)  # noqa: E731
    turned = Contract(classes=("lungs", "background"))
    for made in (
        suspect(p),
        suspect(lambda x: p(x)[:, 0], output=(None, 32, 32)),
        suspect(logit, Contract(answers="logits")),
        suspect(two, output=(None, 2, 32, 32)),
        suspect(lambda x: two(x)[:, ::-1], turned, output=(None, 2, 32, 32)),
        suspect(lambda x: np.log(two(x)), Contract(answers="logits"), output=(None, 2, 32, 32)),
    ):
        np.testing.assert_allclose(made(IMAGES), wanted, atol=1e-5)


def test_images_are_shown_as_the_contract_says():
    made = suspect(lambda x: x[:, :1] * 0, Contract(mean=0.5, std=0.25), shape=(None, 3, 32, 32))
    made(IMAGES)
    shown = np.concatenate(made._backend.asked)
    np.testing.assert_allclose(shown, (IMAGES.numpy().repeat(3, axis=1) - 0.5) / 0.25, rtol=1e-5)
    colours = suspect(lambda x: x[:, :1], channels=3, shape=(None, 3, 32, 32))
    assert colours(IMAGES.repeat(1, 3, 1, 1)).shape == (5, 32, 32)
    with pytest.raises(MedmarkError, match="3 channels of at most"):
        suspect(lambda x: x, channels=3)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x * np.nan, "not finite"),
        (lambda x: x * 9 - 4, "are these logits"),
        (lambda x: x[:1], "one row an image"),
        (lambda x: x[:, 0, 0], "is needed"),
        (lambda x: np.repeat(x, 3, axis=1), "is needed"),
        (lambda x: (x > 0.5).astype(np.int64), "int64"),
    ],
)
def test_answers_that_do_not_fit_are_refused(answer, message):
    with pytest.raises(MedmarkError, match=message):
        suspect(answer)(IMAGES)


def test_what_is_declared_is_checked_before_anything_is_asked():
    for declared, message in (
        ({"output": (None, 5)}, "no map"),
        ({"output": (None, 7, 32, 32)}, "no map"),
        ({"kind": "int64"}, "int64"),
        ({"shape": (None, 1, 32, 48)}, "side, side"),
    ):
        with pytest.raises(MedmarkError, match=message):
            suspect(lambda x: x, **declared)
    with pytest.raises(MedmarkError, match="cannot be read from masks alone"):
        suspect(lambda x: x, Contract(answers="labels"))
