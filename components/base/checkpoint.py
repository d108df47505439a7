"""Checkpoints of a training: kept while it runs, resumed after an interruption, refused by another training."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from medmark.components.base.atomic import atomic_file
from medmark.components.base.errors import MedmarkError


def save_checkpoint(path: Path, signature: str, state: dict[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        path: of the file; one that is there is replaced.
        signature: text that says which training it is.
        state: tensors, numbers, texts, and lists and dictionaries of them.
    """
    with atomic_file(path) as stream:
        torch.save({"signature": signature, **state}, stream)


def load_checkpoint(path: Path, signature: str, where: torch.device) -> dict[str, Any] | None:
    """The state of an interrupted training, with its tensors on ``where``; None if there is no such file. Runs no pickled code.

    Raises:
        MedmarkError: the file is damaged, or of a training with another signature.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True, map_location=where)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise MedmarkError(f"damaged checkpoint: {path}; remove it, the training then starts anew") from error
    if not isinstance(state, dict) or state.get("signature") != signature:
        raise MedmarkError(f"checkpoint of another run: {path}; remove it, or use the parameters that it was made with")
    return state
