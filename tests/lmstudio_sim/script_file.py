"""Reads a script file: models, settings and replies for a simulator that runs as its own process.

    {"models": [{"key": "qwen/qwen3-4b", "loaded": true}],
     "settings": {"jit": true, "token": null},
     "repeat": false,
     "replies": {"qwen/qwen3-4b": [{"calls": [["list_files", {"path": "."}]]}, {"text": "done"}],
                 "*": [{"status": 429, "body": {"error": "busy"}, "headers": {"Retry-After": "1"}}]}}

A reply has the fields of `Completion` or, if it has a `status`, of `HttpReply`; `stream` has those of `StreamOptions`,
`usage` those of `Usage`, and each of `faults` names its class in `fault`. With `repeat` a queue that is used up begins
again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from tests.lmstudio_sim.errors import JsonObject
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import (
    BadFrame,
    Call,
    Completion,
    CutSocket,
    EndEarly,
    Fault,
    HttpReply,
    Reply,
    Stall,
    StreamError,
    StreamOptions,
    Usage,
)
from tests.lmstudio_sim.scripts import ReplyFunction
from tests.lmstudio_sim.server import Simulator

FAULTS: dict[str, Callable[..., Fault]] = {
    "Stall": Stall,
    "StreamError": StreamError,
    "CutSocket": CutSocket,
    "EndEarly": EndEarly,
    "BadFrame": BadFrame,
}


@dataclass(frozen=True, slots=True)
class ScriptFile:
    """What a script file says; `settings` are keyword arguments of `open_simulator`."""

    models: list[SimModel] | None = None
    settings: JsonObject = field(default_factory=dict)
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    repeat: bool = False

    def apply(self, simulator: Simulator) -> None:
        """Hand the replies to a simulator."""
        for model, replies in self.replies.items():
            if self.repeat and replies:
                simulator.script_fn(model, _repeat(replies))
            else:
                simulator.script(model, *replies)


def read_script(path: Path) -> ScriptFile:
    """Read a script file.

    Raises:
        KeyError, TypeError, ValueError: the file does not say what it should.
    """
    data: JsonObject = json.loads(path.read_text(encoding="utf-8"))
    models = [SimModel(each.pop("key"), **each) for each in data["models"]] if "models" in data else None
    replies = {model: [_read_reply(each) for each in listed] for model, listed in data.get("replies", {}).items()}
    return ScriptFile(models, data.get("settings", {}), replies, data.get("repeat", False))


def _repeat(replies: list[Reply]) -> ReplyFunction:
    endless = cycle(replies)
    return lambda _: next(endless)


def _read_reply(data: JsonObject) -> Reply:
    faults = tuple(_read_fault(fault) for fault in data.pop("faults", ()))
    if "status" in data:
        return HttpReply(**data, faults=faults)
    known: dict[str, Any] = {**data, "faults": faults, "calls": tuple(Call(*call) for call in data.get("calls", ()))}
    if "stream" in data:
        known["stream"] = StreamOptions(**data["stream"])
    if data.get("usage") is not None:
        known["usage"] = Usage(**data["usage"])
    return Completion(**known)


def _read_fault(data: JsonObject) -> Fault:
    return FAULTS[data.pop("fault")](**data)
