"""The result of one check: what was found, and how to fix it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lmstudio_bridge.errors import BridgeError

Area: TypeAlias = Literal["bridge", "lm_studio", "model", "servers", "rules", "journals", "programs", "deep"]
State: TypeAlias = Literal["ok", "warning", "failed"]

Say: TypeAlias = Callable[[str], None]
"""Tells the user what is waited for now."""


def say_nothing(_: str) -> None:
    """For a caller that shows no progress."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was found at `name`; `remedy` is set if something should be done. docs/commands.md documents the fields."""

    area: Area
    name: str
    state: State
    found: str
    remedy: str = ""


def failed_check(area: Area, name: str, error: BridgeError) -> Check:
    """A failed check from an error; the details of the error go before its remedy."""
    return Check(area, name, "failed", error.message, error.explain().removeprefix(error.message).strip())
