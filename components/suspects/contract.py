"""The contract of a suspect: how it is shown images, and how its answers are read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from medmark.components.base.errors import MedmarkError

ANSWERS = ("probabilities", "logits", "labels")
MAX_SIDE = 4096  # arbitrary bound on what a suspect may make us draw


def refuse_unknown(values: dict[str, Any], known: list[str], what: str) -> None:
    """Refuses values of unknown names.

    Args:
        values: by name.
        known: names that there are.
        what: has these names, for the message.

    Raises:
        MedmarkError: there is no such name.
    """
    for name in values:
        if name not in known:
            raise MedmarkError(f"unknown field of the suspects' {what}: {name!r}; use {', '.join(known)}")


@dataclass(frozen=True)
class Contract:
    """What a suspect expects and gives, as far as it does not say so itself.

    An image x in [0, 1] is given as ``(x * scale - mean) / std``, (N, channels, size, size).

    Attributes:
        size: side in pixels; None: as the model declares.
        channels: 1, or 3 for grey repeated; None: as the model declares.
        mean: taken off after scaling, one number for all channels.
        std: divided by afterwards.
        scale: value of white before normalisation, 1 or 255.
        answers: ``probabilities`` and ``logits`` are float outputs, (N, K), or (N,) or (N, 1) for the second of two
            classes; ``labels`` are whole numbers or class names, (N,) or (N, 1).
        input, output: names of the tensors; None: the only one.
        classes: class names in the order of the suspect's outputs; None: that of the evidence.

    Raises:
        MedmarkError: a value outside these.
    """

    size: int | None = None
    channels: int | None = None
    mean: float = 0.0
    std: float = 1.0
    scale: float = 1.0
    answers: str = "probabilities"
    input: str | None = None
    output: str | None = None
    classes: tuple[str, ...] | None = None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Contract:
        """Makes a contract from its fields as JSON has them, for instance from ``audit.json``.

        Raises:
            MedmarkError: an unknown field, or a value that a contract refuses.
        """
        refuse_unknown(values, [field.name for field in fields(cls)], "contract")
        classes = values.get("classes")
        return cls(**values | {"classes": tuple(classes) if classes else None})

    def to_json(self) -> dict[str, Any]:
        """Returns its fields as JSON has them."""
        return asdict(self) | {"classes": list(self.classes) if self.classes else None}

    def __post_init__(self) -> None:
        if self.size is not None and not 1 <= self.size <= MAX_SIDE:
            raise MedmarkError(f"suspect's image size {self.size}; give a side of 1 to {MAX_SIDE} pixels")
        if self.channels not in (None, 1, 3):
            raise MedmarkError(f"suspect's {self.channels} channels; give 1, or 3 for grey repeated")
        if self.scale not in (1.0, 255.0):
            raise MedmarkError(f"suspect's scale {self.scale}; give 1 or 255, the value of white before normalisation")
        if not math.isfinite(self.mean) or not math.isfinite(self.std) or self.std <= 0:
            raise MedmarkError(f"suspect's mean {self.mean} and std {self.std}; give finite numbers, std above 0")
        if self.answers not in ANSWERS:
            raise MedmarkError(f"suspect's answers {self.answers!r}; give one of {', '.join(ANSWERS)}")
