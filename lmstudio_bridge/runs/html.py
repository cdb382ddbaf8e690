"""A stored run as one page of HTML, rendered with Jinja from `templates/`: no network, no script."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lmstudio_bridge.events import (
    CallFinished,
    CallStarted,
    MessageAdded,
    ModelChosen,
    Noticed,
    RetryScheduled,
    RoundFinished,
    RoundStarted,
    RunContinued,
    RunStarted,
    ServerFailed,
    Warned,
)
from lmstudio_bridge.messages import Usage, UserMessage
from lmstudio_bridge.runs.item_rows import item_rows
from lmstudio_bridge.runs.journal import TimedEvent
from lmstudio_bridge.runs.report import diff_lines, report_of
from lmstudio_bridge.runs.resume import StoredRun
from lmstudio_bridge.text import clean_text, one_line

_TEMPLATES = Environment(
    loader=PackageLoader("lmstudio_bridge"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters.update(clean=lambda text: clean_text(text)[0], one_line=one_line, thousands="{:,}".format)

_PAUSE = 1.0  # seconds shown between the end of a run and its continuation
_PAGE = 8_000  # characters of a result on one page of it
_MAX_SHOWN = 400_000  # characters of one result

_LEFT, _WIDTH, _RIGHT = 150, 760, 20  # pixels, as are all sizes here
_LANE, _BAR = 26, 18
_CHART = 140
_TICKS = 5
_LABEL = 40  # that the number of a round needs
_MAX_LANE_NAME = 18  # characters


def render_template(name: str, **values: Any) -> str:
    """A page of HTML from one of the package's templates; all values are escaped."""
    return _TEMPLATES.get_template(name).render(values)


def render_run(run: StoredRun, story: Story) -> str:
    """The page of one run: how it ended, its timeline, its context usage, and each round with its calls."""
    return render_template(
        "run.html.j2",
        title=f"Run {run.run_id}",
        run=run,
        story=story,
        facts=_facts(run, story),
        notes=[*story.notes, *(note for each in story.rounds for note in each.notes)],
        timeline=draw_timeline(story),
        tokens=draw_tokens(story),
        changes="\n".join(diff_lines(run.events)),
        rows=item_rows(run.items, access=run.outcome.access) if run.items else [],
    )


def _facts(run: StoredRun, story: Story) -> dict[str, str]:
    outcome = run.outcome
    usage = outcome.usage
    return {
        "began": run.started_at,
        "ended": run.state,
        "model": outcome.model + (f", context {story.context_length:,} tokens" if story.context_length else ""),
        "MCP servers": ", ".join(run.servers),
        "rounds and calls": f"{outcome.rounds} and {outcome.calls}",
        "tokens": f"{usage.prompt_tokens:,} read, {usage.completion_tokens:,} written",
        "changes": "nothing was changed" if outcome.nothing_changed else "",
        "time": f"{outcome.seconds:.1f} s",
        "estimate": report_of(run).saved(),
    }


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle of a chart; `kind` is its CSS class, `title` what the pointer shows."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    title: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart's axes."""

    x1: int
    y1: int
    x2: int
    y2: int


@dataclass(frozen=True, slots=True)
class Label:
    """A text in a chart; `anchor` as in SVG's text-anchor."""

    text: str
    x: float
    y: float
    anchor: str = "start"


@dataclass(slots=True)
class Chart:
    """A picture that `chart.html.j2` draws as SVG; sizes are pixels, `label` is read out by screen readers."""

    label: str
    height: int
    width: int = _LEFT + _WIDTH + _RIGHT
    lines: list[Line] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    texts: list[Label] = field(default_factory=list)


def draw_timeline(story: Story) -> Chart:
    """A lane for the model and one for each server, with a bar for each reply and each call."""
    lanes = ["model", *story.servers()]
    chart = Chart("Timeline of the run", _LANE * len(lanes) + 24)
    whole = max(story.seconds, 0.001)

    def add_bar(span: Span, row: int, kind: str, title: str) -> None:
        seconds = span.end - span.start
        x, width = _LEFT + _WIDTH * span.start / whole, max(2.0, _WIDTH * seconds / whole)
        title = f"{title}, {seconds:.2f} s"
        chart.bars.append(Bar(kind, round(x, 1), row * _LANE + 4, round(width, 1), _BAR, title))

    for tick in range(_TICKS + 1):
        x = _LEFT + _WIDTH * tick // _TICKS
        chart.lines.append(Line(x, 0, x, chart.height - 20))
        chart.texts.append(Label(f"{whole * tick / _TICKS:.1f} s", x, chart.height - 5, "middle"))
    for row, lane in enumerate(lanes):
        name = lane if len(lane) <= _MAX_LANE_NAME else f"{lane[: _MAX_LANE_NAME - 1]}…"
        chart.texts.append(Label(name, _LEFT - 8, row * _LANE + 17, "end"))
    for each in story.rounds:
        usage = f", {each.usage.completion_tokens:,} tokens" if each.usage else ""
        add_bar(each.span, 0, "model", f"round {each.number}{usage}")
        for call in each.calls:
            row = lanes.index(call.finished.server)
            add_bar(call.span, row, call.state, f"{call.finished.tool} {call.state}")
    return chart


def draw_tokens(story: Story) -> Chart | None:
    """How many tokens each round read and wrote, against the context; None if the server counted none."""
    counted = [(each.number, each.usage) for each in story.rounds if each.usage and each.usage.prompt_tokens]
    if not counted:
        return None
    most = max(story.context_length or 0, *(usage.prompt_tokens + usage.completion_tokens for _, usage in counted))
    step = _WIDTH / len(counted)
    every = math.ceil(_LABEL / step)
    chart = Chart("Tokens by round", _CHART + 34)
    for part in (0, 50, 100):
        y = 10 + _CHART - _CHART * part // 100
        chart.lines.append(Line(_LEFT, y, _LEFT + _WIDTH, y))
        chart.texts.append(Label(f"{most * part // 100:,}", _LEFT - 8, y + 4, "end"))
    for index, (number, usage) in enumerate(counted):
        x, width = round(_LEFT + index * step, 1), round(max(1.0, min(40.0, step * 0.8)), 1)
        read, written = (_CHART * tokens / most for tokens in (usage.prompt_tokens, usage.completion_tokens))
        title = f"round {number}: {usage.prompt_tokens:,} read, {usage.completion_tokens:,} written"
        for kind, top, size in (("model", 10 + _CHART - read, read), ("reply", 10 + _CHART - read - written, written)):
            chart.bars.append(Bar(kind, x, round(top, 1), width, round(max(1.0, size), 1), title))
        if index % every == 0:
            chart.texts.append(Label(str(number), round(x + width / 2, 1), _CHART + 26, "middle"))
    return chart


@dataclass(frozen=True, slots=True)
class Span:
    """When something started and ended, in seconds since the start of the run."""

    start: float
    end: float


@dataclass(slots=True)
class CallStory:
    """One call; `arguments` as JSON text, "" where it was not sent."""

    finished: CallFinished
    arguments: str
    span: Span

    @property
    def state(self) -> str:
        """Its CSS class: "refused", "failed", or "call" where all went well."""
        if not self.finished.sent and self.finished.verdict not in ("", "allowed"):
            return "refused"
        return "failed" if self.finished.is_error else "call"

    @property
    def decided(self) -> str:
        """The verdict and the rule behind it, for a reader."""
        return " · ".join(part for part in (self.finished.verdict.replace("_", " "), self.finished.rule) if part)

    @property
    def pretty_arguments(self) -> str:
        try:
            return json.dumps(json.loads(self.arguments), indent=2, ensure_ascii=False)
        except (ValueError, RecursionError):
            return self.arguments

    @property
    def hidden(self) -> int:
        """How many characters of the result the page leaves out."""
        return max(0, len(self.finished.text) - _MAX_SHOWN)

    @property
    def pages(self) -> list[ResultPage]:
        """The result in pages, at least one."""
        shown = self.finished.text[:_MAX_SHOWN]
        return [ResultPage(start, shown[start : start + _PAGE]) for start in range(0, len(shown) or 1, _PAGE)]


@dataclass(frozen=True, slots=True)
class ResultPage:
    """A part of a result; `start` is the number of characters before it."""

    start: int
    text: str


@dataclass(slots=True)
class RoundStory:
    """One request to the model and its calls; `told` is what the bridge said to the model before it."""

    number: int
    span: Span
    tools_offered: int = 0
    text: str = ""
    reasoning: str = ""
    usage: Usage | None = None
    calls: list[CallStory] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Story:
    """A whole run; `instructions` has an entry for each continuation, `seconds` is its length."""

    rounds: list[RoundStory] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    instructions: list[str] = field(default_factory=list)
    context_length: int | None = None
    seconds: float = 0.0

    def servers(self) -> list[str]:
        """The servers that were called, in the order of their first calls."""
        return list(dict.fromkeys(call.finished.server for each in self.rounds for call in each.calls))


def tell_story(events: Sequence[TimedEvent]) -> Story:
    """The story in a run's journal; events without a time take none."""
    story = Story()
    clock = _Clock()
    in_progress: dict[str, tuple[float, str]] = {}  # calls by id: start and arguments
    began = 0.0
    offered = 0
    told: list[str] = []
    for timed in events:
        now = clock.seconds(timed)
        story.seconds = max(story.seconds, now)
        current = story.rounds[-1] if story.rounds else None
        match timed.event:
            case RunContinued(instructions=instructions):
                story.instructions.append(instructions)
            case ModelChosen(context_length=context_length):
                story.context_length = context_length
            case RoundStarted(tools_offered=tools_offered):
                began, offered = now, tools_offered
            case RoundFinished(number=number, text=text, reasoning=reasoning, usage=usage):
                story.rounds.append(RoundStory(number, Span(began, now), offered, text, reasoning, usage, told=told))
                told, began = [], now
            case CallStarted(call_id=call_id, arguments=arguments):
                in_progress[call_id] = now, arguments
            case CallFinished(call_id=call_id) as finished if current is not None:
                start, arguments = in_progress.pop(call_id, (now, ""))
                current.calls.append(CallStory(finished, arguments, Span(start, now)))
            case MessageAdded(message=UserMessage(text)) if current is not None:
                told.append(text)
            case Warned(text=text) | ServerFailed(reason=text) | RetryScheduled(reason=text):
                (current.notes if current else story.notes).append(text)
            case Noticed(notice=notice):
                (current.notes if current else story.notes).append(f"{notice.kind}: {notice.text}")
            case _:
                pass
    return story


class _Clock:
    """Seconds of a run at each of its events, without the time between its end and a continuation."""

    def __init__(self) -> None:
        self._zero: datetime | None = None
        self._offset = 0.0
        self._last = 0.0

    def seconds(self, timed: TimedEvent) -> float:
        if timed.at is None:
            return self._last
        if self._zero is None or isinstance(timed.event, RunContinued | RunStarted):
            self._offset = self._last + _PAUSE if self._zero else 0.0
            self._zero = timed.at
        self._last = max(self._last, self._offset + (timed.at - self._zero).total_seconds())
        return self._last
