"""What a person sees while a run is under way: a line for each call, and a spinner that says what happens now."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TextIO

from rich.console import Console
from rich.status import Status
from rich.text import Text

from lmstudio_bridge.agent.arguments import about_arguments
from lmstudio_bridge.cli.terminal import can_show, open_console
from lmstudio_bridge.events import (
    CallFinished,
    CallStarted,
    Emit,
    Event,
    Noticed,
    RoundStarted,
    RunContinued,
    RunFinished,
    RunStarted,
    ServerFailed,
    Warned,
)
from lmstudio_bridge.messages import Notice
from lmstudio_bridge.runs.progress import describe
from lmstudio_bridge.text import one_line

_DONE, _FAILED, _NOTE = "\N{HEAVY CHECK MARK}", "\N{HEAVY BALLOT X}", "!"
_MOVING, _PLAIN = "\N{BRAILLE PATTERN DOTS-124}", "line"  # one sign of rich's usual spinner, and one for poor terminals


@asynccontextmanager
async def open_display(stream: TextIO, *, environ: Mapping[str, str]) -> AsyncIterator[Emit]:
    """A sink that shows a run in a terminal: lines, and a spinner."""
    console = open_console(stream, environ=environ)
    spinner = "dots" if can_show(_MOVING, stream) else _PLAIN
    with console.status(Text("starting"), spinner=spinner) as status:
        yield Display(console, status, signs=can_show(_DONE + _FAILED, stream)).emit


class Display:
    """Shows events on a console; `signs` says whether it has marks beyond ASCII."""

    def __init__(self, console: Console, status: Status, *, signs: bool) -> None:
        self._console = console
        self._status = status
        self._done, self._failed = (_DONE, _FAILED) if signs else ("ok", "FAILED")
        self._about: dict[str, str] = {}
        self._max_rounds = 0

    async def emit(self, event: Event) -> None:
        """Show one event, as a line that stays or as what happens now."""
        match event:
            case RunStarted(run_id=run_id) | RunContinued(run_id=run_id):
                self._line("", f"run {run_id}", style="dim")
            case RoundStarted(max_rounds=max_rounds):
                self._max_rounds = max_rounds
            case CallStarted(call_id=call_id, arguments=arguments):
                self._about[call_id] = about_arguments(json.loads(arguments))
            case CallFinished(is_error=False):
                size = f"{len(event.text):,} characters · {event.seconds:.1f} s"
                self._line(self._done, f"{self._call(event)} · {size}", style="green")
            case CallFinished():
                self._line(self._failed, f"{self._call(event)} · {event.text.partition(chr(10))[0]}", style="red")
            case ServerFailed(server=server, reason=reason):
                self._line(_NOTE, f"{server} was left out: {reason.partition(chr(10))[0]}", style="yellow")
            case Warned(text=text) | Noticed(notice=Notice(kind="recovery", text=text)):
                self._line(_NOTE, text, style="yellow")
            case RunFinished():
                return
            case _:
                pass
        if text := describe(event, max_rounds=self._max_rounds):
            self._status.update(Text(one_line(text)[: self._console.width - 4]))

    def _call(self, event: CallFinished) -> str:
        return " ".join(part for part in (event.server, event.tool, self._about.get(event.call_id, "")) if part)

    def _line(self, mark: str, text: str, *, style: str) -> None:
        line = Text.assemble((f"{mark} " if mark else "", style), one_line(text))
        self._console.print(line, overflow="ellipsis", no_wrap=True)
