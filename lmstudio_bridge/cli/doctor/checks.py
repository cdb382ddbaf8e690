"""One look at one link of the chain: what was found, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

from lmstudio_bridge.errors import BridgeError

Area: TypeAlias = Literal["bridge", "lm_studio", "model", "servers", "rules", "journals", "programs", "deep"]
State: TypeAlias = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was found at `name`; a `remedy` is there where something should be done."""

    area: Area
    name: str
    state: State
    found: str
    remedy: str = ""

    def to_json(self) -> Mapping[str, str]:
        """The shape that docs/commands.md promises."""
        return asdict(self)


def failed_check(area: Area, name: str, error: BridgeError) -> Check:
    """The check that found this error; what is known besides its message goes before the remedy."""
    return Check(area, name, "failed", error.message, error.explain().removeprefix(error.message).strip())
