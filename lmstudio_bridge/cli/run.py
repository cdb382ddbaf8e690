"""`lmstudio-bridge run` and `continue`: a task from the shell. Progress goes to stderr, the answer to stdout."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Column
from rich.text import Text

from lmstudio_bridge import events
from lmstudio_bridge.cli import terminal
from lmstudio_bridge.cli.arguments import EXIT_FAILED, EXIT_OK
from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.messages import Notice
from lmstudio_bridge.runs.autonomous import open_agent
from lmstudio_bridge.runs.item_rows import why_not_done
from lmstudio_bridge.runs.progress import describe, open_progress
from lmstudio_bridge.runs.report import RunReport, shown_changes
from lmstudio_bridge.runs.request import MAX_TASK, ContinueRequest, RunRequest
from lmstudio_bridge.runs.resume import find_run
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.settings import Settings
from lmstudio_bridge.text import clean_text, one_line, shortened

_DONE, _FAILED, _NOTE = "\N{HEAVY CHECK MARK}", "\N{HEAVY BALLOT X}", "!"

_BAR = 12  # columns of the bar
_WIDE = 70  # columns of a terminal that has room for it
_BELOW = 3  # lines below an answer that is being written
_NOTED = 200  # characters of an answer with facts that were not found
_REFRESHES = 8  # a second


async def run_task(settings: Settings, args: argparse.Namespace, redactor: Redactor) -> int:
    """Run a new task; the exit code."""
    given = args.for_each
    items = given[0] if given and len(given) == 1 else tuple(given) if given else None
    request = RunRequest(
        _task(args.task),
        tuple(args.mcp) if args.mcp else None,
        for_each=items,
        combine=args.combine,
        combine_schema=_read_schema("--combine-schema", args.combine_schema),
        agent=args.agent,
        **_options(args),
    )
    return await _run(settings, request, redactor, as_json=args.json)


async def continue_run(settings: Settings, args: argparse.Namespace, redactor: Redactor) -> int:
    """Continue a stored run; the exit code."""
    stored = find_run(settings.home / "runs", args.run_id)
    request = ContinueRequest(stored.run_id, args.instructions, **_options(args))
    return await _run(settings, request, redactor, as_json=args.json)


def _task(given: str) -> str:
    """The task, which `-` takes from stdin."""
    if given != "-":
        return given
    text = sys.stdin.buffer.read(4 * MAX_TASK + 1).decode("utf-8", "replace").strip() if sys.stdin else ""
    if not 1 <= len(text) <= MAX_TASK:
        problem = "longer than" if text else "empty; it must have 1 to"
        raise SettingsError(f"The task from stdin is {problem} {MAX_TASK:,} characters.", remedy="Pipe a task into it.")
    return text


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "max_rounds": args.max_rounds,
        "max_tokens": args.max_tokens,
        "model": args.model,
        "seconds": args.timeout,
        "output_schema": _read_schema("--schema", args.schema),
        "access": args.access,
    }


def _read_schema(option: str, name: str | None) -> dict[str, Any] | None:
    if name is None:
        return None
    try:
        schema = json.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise SettingsError(f"{option} {name} can't be used: {why}.", remedy="Name a file with a JSON Schema.") from exc
    if not isinstance(schema, dict):
        raise SettingsError(f"{option} {name} is not a JSON object.", remedy="Name a file with a JSON Schema.")
    return schema


async def _run(settings: Settings, request: RunRequest | ContinueRequest, redactor: Redactor, *, as_json: bool) -> int:
    run_id = ""
    has_changed = False

    if sys.stderr.isatty():
        display = open_display(sys.stderr, environ=os.environ)
    else:
        display = open_lines(sys.stderr, heartbeat=settings.heartbeat)
    async with open_agent(settings, environ=os.environ, redactor=redactor) as agent:
        try:
            async with display as show:

                async def emit(event: events.Event) -> None:
                    nonlocal run_id, has_changed
                    if isinstance(event, events.RunStarted | events.RunContinued):
                        run_id = event.run_id
                    if isinstance(event, events.FilesChanged):
                        has_changed |= bool(shown_changes(event.changes))
                    elif isinstance(event, events.ItemFinished):
                        has_changed |= bool(shown_changes(event.outcome.changes))
                    await show(event)

                report = await agent.run(request, emit=emit)
        except asyncio.CancelledError:
            if run_id:
                resume = f"lmstudio-bridge continue {run_id}"
                print(f"Interrupted. The work so far is kept; to resume: {resume}", file=sys.stderr, flush=True)
                if has_changed and settings.journal == "full":
                    print(f"It changed files; to undo that: lmstudio-bridge runs undo {run_id}", file=sys.stderr)
            raise
        # Flushed before the agent closes, because servers may take long to stop.
        if as_json:
            print(json.dumps(report.as_json(), ensure_ascii=False), flush=True)
        else:
            _print_report(report, sys.stderr if report.outcome.stop == "failed" else sys.stdout)
        if not as_json and (saved := report.saved()):
            terminal.open_console(sys.stderr, environ=os.environ).print(saved)
    return EXIT_OK if report.outcome.is_done else EXIT_FAILED


def _print_report(report: RunReport, stream: TextIO) -> None:
    """The report, in a terminal with the answer formatted."""
    parts = [clean_text(part)[0] for part in report.around_answer()]
    if stream.isatty() and parts[1].strip():
        terminal.print_formatted(*parts, stream=stream)
    else:
        print(clean_text(report.text())[0], file=stream, flush=True)


# -- progress ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_lines(stream: TextIO, *, heartbeat: float) -> AsyncIterator[events.Emit]:
    """A sink that writes plain lines to a pipe or a file, at least one every `heartbeat` seconds."""

    async def write(_: float, message: str) -> None:
        print(one_line(message), file=stream, flush=True)

    async with open_progress(write, heartbeat=heartbeat) as emit:
        yield emit


@asynccontextmanager
async def open_display(stream: TextIO, *, environ: Mapping[str, str]) -> AsyncIterator[events.Emit]:
    """A sink that shows a run in a terminal: a line for each call, and below them what is happening now."""
    console = terminal.open_console(stream, environ=environ)
    spinner = "dots" if terminal.can_show(terminal.SPINNER_SAMPLE, stream) else "line"
    display = _Display(console, spinner=spinner, unicode_marks=terminal.can_show(_DONE + _FAILED, stream))
    with Live(console=console, get_renderable=display.now, transient=True, refresh_per_second=_REFRESHES) as live:
        live.refresh()  # else the first line and rich's thread could both draw it for the first time
        yield display.emit


class _Display:
    def __init__(self, console: Console, *, spinner: str, unicode_marks: bool) -> None:
        self._console = console
        self._done, self._failed = (_DONE, _FAILED) if unicode_marks else ("ok", "FAILED")
        self._tally = events.Tally()
        self._context: int | None = None
        self._read = 0  # tokens of the prompt
        self._text = ""  # the answer as far as it is written
        words = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True))
        figures = TextColumn("{task.fields[figures]}", markup=False, style="dim", table_column=Column(no_wrap=True))
        bar = [BarColumn(bar_width=_BAR), figures] if console.width >= _WIDE else []
        self._progress = Progress(
            SpinnerColumn(spinner), words, *bar, TimeElapsedColumn(), console=console, expand=True
        )
        self._task = self._progress.add_task("Starting…", total=None, figures="")

    def now(self) -> RenderableType:
        """What is shown below the lines: the answer as far as it is written, and what is happening."""
        return Group(_Tail(self._text), self._progress) if self._text else self._progress

    async def emit(self, event: events.Event) -> None:
        """Show one event as a line, below the lines, or both."""
        self._tally.add(event)
        match event:
            case events.RunStarted(run_id=run_id) | events.RunContinued(run_id=run_id):
                self._line("", f"run {run_id}", style="dim")
            case events.ModelChosen(context_length=context_length):
                self._context = context_length
            case events.RoundStarted(tokens=tokens):
                self._text, self._read = "", tokens
            case events.Generating(text=text):
                self._text = text
            case events.RoundFinished(calls=calls):
                self._text = "" if calls else self._text
            case events.CallFinished(is_error=False):
                size = f"{len(event.text):,} characters · {event.seconds:.1f} s"
                self._line(self._done, f"{self._call(event)} · {size}", style="green")
            case events.CallFinished():
                self._line(
                    self._failed,
                    f"{self._call(event)} · {event.reason or event.text.partition(chr(10))[0]}",
                    style="red",
                )
            case events.ServerFailed(server=server, reason=reason):
                self._line(_NOTE, f"{server} was left out: {reason.partition(chr(10))[0]}", style="yellow")
            case events.Warned(text=text) | events.Noticed(notice=Notice(kind="recovery", text=text)):
                self._line(_NOTE, text, style="yellow")
            case events.ItemFinished(outcome=outcome):
                mark, style, shown = self._done, "green", outcome.answer
                if not outcome.is_done:
                    mark, style, shown = self._failed, "red", why_not_done(outcome)
                elif doubtful := outcome.missing or outcome.failed:
                    why = "not found in anything read" if outcome.missing else "calls failed"
                    mark, style = _NOTE, "yellow"
                    shown = shortened(f"{why}: {', '.join(doubtful)} · {one_line(shown)}", _NOTED)
                self._line(mark, f"{self._item(event.number)} · {shown}", style=style)
            case events.RunFinished(stop=stop):
                self._line("", f"{events.STATES[stop][0]} · {self._tally.outcome().figures()}", style="dim")
                return
            case _:
                pass
        self._show(event)

    def _show(self, event: events.Event) -> None:
        """Say what is happening now, with the bar of the context or of the items."""
        words = one_line(describe(event))
        match event:
            case events.RoundStarted(tokens=tokens):
                self._show_context(words, tokens)
            case events.Generating(pieces=pieces):
                self._show_context(words, self._read + pieces)
            case events.ItemsProgress(done=done, total=total):
                at_work = sorted(self._tally.items.open) if self._tally.items else []
                words = " · ".join([words, *map(self._item, at_work)])
                self._progress.update(self._task, description=one_line(words), completed=done, total=total)
            case _ if words:
                self._progress.update(self._task, description=words)
            case _:
                pass

    def _show_context(self, words: str, tokens: int) -> None:
        share = f"{tokens / self._context:.0%} of context" if self._context else ""
        self._progress.update(self._task, description=words, completed=tokens, total=self._context, figures=share)

    def _call(self, event: events.CallFinished) -> str:
        return " ".join(part for part in (event.server, event.tool, event.about) if part)

    def _item(self, number: int) -> str:
        return self._tally.items.listed.items[number - 1] if self._tally.items else ""

    def _line(self, mark: str, text: str, *, style: str) -> None:
        """A line above; what went wrong is shown whole."""
        if style in ("red", "yellow"):
            terminal.print_marked(self._console, Text(mark, style), Text(one_line(text)))
            return
        line = Text.assemble((f"{mark} " if mark else "", style), one_line(text))
        self._console.print(line, overflow="ellipsis", no_wrap=True)


@dataclass(frozen=True, slots=True)
class _Tail:
    """As much of the end of a formatted text as fits on the screen above what is happening."""

    text: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(terminal.markdown_in_terminal(self.text), options.update(height=None), pad=False)
        for line in lines[-max(1, console.height - _BELOW) :]:
            yield from line
            yield Segment.line()
