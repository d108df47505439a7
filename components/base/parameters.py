"""Parameters on their way through KFP."""

from __future__ import annotations

from typing import Any


def whole(value: Any) -> Any:
    """Gives back the integers that KFP's protobuf structs turn into floats, at any depth.

    Args:
        value: a dictionary or list that a component received. A float that is a whole number becomes an int.
    """
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
