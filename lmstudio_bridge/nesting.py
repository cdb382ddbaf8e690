"""How deeply a JSON value is nested: what is too deep for one reader on the way must be noticed by the first."""

from __future__ import annotations

from collections.abc import Mapping


def is_deeper(value: object, levels: int) -> bool:
    """Whether a JSON value has more levels than that; a plain value has none."""
    if isinstance(value, Mapping):
        return levels == 0 or any(is_deeper(child, levels - 1) for child in value.values())
    if isinstance(value, list | tuple):
        return levels == 0 or any(is_deeper(child, levels - 1) for child in value)
    return False
