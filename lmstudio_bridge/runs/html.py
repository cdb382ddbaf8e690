"""Pages of HTML that need nothing else: no network, no script; for light and dark, narrow and wide screens.

What happened in a run, put in order for a picture: its rounds, their calls, and when each of them was.

One run as one page: how it ended, when what happened, how the context filled, and each round with its calls.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape

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
from lmstudio_bridge.runs.journal import TimedEvent
from lmstudio_bridge.runs.report import RunReport
from lmstudio_bridge.runs.resume import StoredRun
from lmstudio_bridge.text import clean_text

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #687076; --paper: #fff; --line: #d7dbdf; --inset: #f4f5f6;
  --first: #0b68cb; --second: #b5651d; --right: #18794e; --wrong: #ca244d; }
@media (prefers-color-scheme: dark) { :root { --ink: #ecedee; --soft: #9ba1a6; --paper: #151718; --line: #3a3f42;
  --inset: #1f2224; --first: #52a9ff; --second: #e0a060; --right: #4cc38a; --wrong: #ff6369; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 68rem; padding: 0 1rem; }
svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
.axis { stroke: var(--line); } .wide { overflow-x: auto; } .wide svg { min-width: 46rem; }
table { border-collapse: collapse; } caption { text-align: left; color: var(--soft); }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child, td.text { text-align: left; } td.text { overflow-wrap: anywhere; }
.right { color: var(--right); } .wrong { color: var(--wrong); } .soft { color: var(--soft); }
"""


def render_page(title: str, parts: Iterable[str], *, style: str = "") -> str:
    """A whole page; `parts` are its body as HTML, `style` is what it needs beyond the house's own."""
    head = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body>",
    ]
    return "\n".join([*head, *parts, "</body></html>"]) + "\n"


def render_cells(tag: str, texts: Iterable[str]) -> str:
    """Cells of one row of a table."""
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)


_PAUSE = 1.0  # seconds that stand for the time between a run's end and its going on


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when something took, in seconds from the run's beginning."""

    start: float
    end: float


@dataclass(slots=True)
class CallStory:
    """One call; `arguments` as JSON text, "" where it was not sent."""

    finished: CallFinished
    arguments: str
    span: Span


@dataclass(slots=True)
class RoundStory:
    """One request to the model with what came of it; `told` is what the bridge said to the model before it."""

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
    """A whole run. `instructions` are those of each time it was gone on with, "" for none; `seconds` its length."""

    rounds: list[RoundStory] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    instructions: list[str] = field(default_factory=list)
    context_length: int | None = None
    seconds: float = 0.0

    def servers(self) -> list[str]:
        """The servers that were called, in the order of their first calls."""
        return list(dict.fromkeys(call.finished.server for each in self.rounds for call in each.calls))


def tell_story(events: Sequence[TimedEvent]) -> Story:
    """The story of a run's journal. What has no time, or an end that is missing, takes no time."""
    story = Story()
    clock = _Clock()
    under_way: dict[str, tuple[float, str]] = {}  # calls by id: when they began, and with what
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
                under_way[call_id] = now, arguments
            case CallFinished(call_id=call_id) as finished if current is not None:
                start, arguments = under_way.pop(call_id, (now, ""))
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
    """Seconds of a run at each of its events; the time between an end and its going on is not one of the run."""

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


_LEFT, _WIDTH, _RIGHT = 150, 760, 20  # pixels, as are all sizes here
_LANE, _BAR = 26, 18
_CHART = 140
_TICKS = 5
_LABEL = 40  # that the number of a round needs
_PAGE = 8_000  # characters of a result on one page of it
_MAX_SHOWN = 400_000  # characters of one result

_RUN_STYLE = """
.model { fill: var(--first); } .call { fill: var(--right); } .failed { fill: var(--wrong); }
.refused { fill: var(--second); } .room { fill: var(--line); } .reply { fill: var(--second); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; } h3 { margin: 1.4rem 0 .3rem; }
pre { background: var(--inset); padding: .6rem .8rem; white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; }
details { margin: .3rem 0; } summary { cursor: pointer; overflow-wrap: anywhere; }
details details { margin-left: 1rem; }
"""


def render_run(run: StoredRun, story: Story) -> str:
    """The whole page as HTML."""
    outcome = run.outcome
    title = f"Run {run.run_id}"
    notes = [*story.notes, *(note for each in story.rounds for note in each.notes)]
    parts = [
        f"<h1>{escape(title)}</h1>",
        _facts(run, story),
        "<h2>Task</h2>",
        _text(run.task),
        *(_text(each) for each in story.instructions if each),
        "<h2>Answer</h2>",
        _text(outcome.answer or "(none)"),
        *(["<h2>Error</h2>", _text(outcome.error)] if outcome.error else []),
        "<h2>Timeline</h2>",
        f'<div class="wide">{render_timeline(story)}</div>',
        "<h2>Context usage</h2>",
        f'<div class="wide">{render_tokens(story)}</div>',
        *(["<h2>Notes</h2><ul>", *(f"<li>{_line(note)}</li>" for note in notes), "</ul>"] if notes else []),
        "<h2>Rounds</h2>",
        *(_round(each) for each in story.rounds),
    ]
    return render_page(title, parts, style=_RUN_STYLE)


def _facts(run: StoredRun, story: Story) -> str:
    outcome = run.outcome
    ended = outcome.stop if run.finished else "not finished (the bridge ended, or it is still in progress)"
    usage = outcome.usage
    facts = {
        "began": run.started_at,
        "ended": ended,
        "model": outcome.model + (f", context {story.context_length:,} tokens" if story.context_length else ""),
        "MCP servers": ", ".join(run.servers),
        "rounds and calls": f"{outcome.rounds} and {outcome.calls}",
        "tokens": f"{usage.prompt_tokens:,} read, {usage.completion_tokens:,} written",
        "time": f"{outcome.seconds:.1f} s",
        "estimate": RunReport(run.run_id, outcome, run.servers).savings().in_words(),
    }
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{_line(value)}</dd>" for name, value in facts.items() if value)
    return f"<dl>{rows}</dl>"


def render_timeline(story: Story) -> str:
    """A lane for the model and one for each server, with a bar for each reply and each call, as SVG."""
    lanes = ["model", *story.servers()]
    height = _LANE * len(lanes) + 24
    whole = max(story.seconds, 0.001)
    marks: list[str] = []
    for tick in range(_TICKS + 1):
        x = _LEFT + _WIDTH * tick // _TICKS
        marks.append(f'<line class="axis" x1="{x}" y1="0" x2="{x}" y2="{height - 20}"/>')
        marks.append(f'<text x="{x}" y="{height - 5}" text-anchor="middle">{whole * tick / _TICKS:.1f} s</text>')
    for row, lane in enumerate(lanes):
        marks.append(f'<text x="{_LEFT - 8}" y="{row * _LANE + 17}" text-anchor="end">{_short(lane)}</text>')
    for each in story.rounds:
        usage = f", {each.usage.completion_tokens:,} tokens" if each.usage else ""
        marks.append(_bar(each.span, 0, whole, "model", f"round {each.number}{usage}"))
        for call in each.calls:
            row = lanes.index(call.finished.server)
            marks.append(_bar(call.span, row, whole, _state(call), f"{call.finished.tool} {_state(call)}"))
    return _svg("Timeline of the run", height, marks)


def _bar(span: Span, row: int, whole: float, kind: str, words: str) -> str:
    x = _LEFT + _WIDTH * span.start / whole
    width = max(2.0, _WIDTH * (span.end - span.start) / whole)
    title = f"<title>{_line(words)}, {span.end - span.start:.2f} s</title>"
    place = f'x="{x:.1f}" y="{row * _LANE + 4}" width="{width:.1f}" height="{_BAR}"'
    return f'<rect class="{kind}" {place} rx="2">{title}</rect>'


def _state(call: CallStory) -> str:
    if not call.finished.sent and call.finished.verdict not in ("", "allowed"):
        return "refused"
    return "failed" if call.finished.is_error else "call"


def render_tokens(story: Story) -> str:
    """For each round how many tokens were read and written, against the context, as SVG."""
    counted = [(each.number, each.usage) for each in story.rounds if each.usage and each.usage.prompt_tokens]
    if not counted:
        return '<p class="soft">The server counted no tokens.</p>'
    most = max(story.context_length or 0, *(usage.prompt_tokens + usage.completion_tokens for _, usage in counted))
    step = _WIDTH / len(counted)
    every = math.ceil(_LABEL / step)
    marks: list[str] = []
    for part in (0, 50, 100):
        y = 10 + _CHART - _CHART * part // 100
        marks.append(f'<line class="axis" x1="{_LEFT}" y1="{y}" x2="{_LEFT + _WIDTH}" y2="{y}"/>')
        marks.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{most * part // 100:,}</text>')
    for place, (number, usage) in enumerate(counted):
        x, width = _LEFT + place * step, max(1.0, min(40.0, step * 0.8))
        read, written = (_CHART * tokens / most for tokens in (usage.prompt_tokens, usage.completion_tokens))
        title = f"<title>round {number}: {usage.prompt_tokens:,} read, {usage.completion_tokens:,} written</title>"
        for kind, top, size in (("model", 10 + _CHART - read, read), ("reply", 10 + _CHART - read - written, written)):
            place_of = f'x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{max(1.0, size):.1f}"'
            marks.append(f'<rect class="{kind}" {place_of}>{title}</rect>')
        if place % every == 0:
            marks.append(f'<text x="{x + width / 2:.1f}" y="{_CHART + 26}" text-anchor="middle">{number}</text>')
    known = "of the context" if story.context_length else "of the fullest round; the context is not known"
    caption = f'<p class="soft">Tokens by round, read below and written above; the top line is all {known}.</p>'
    return _svg("Tokens by round", _CHART + 34, marks) + caption


def _round(each: RoundStory) -> str:
    usage = each.usage
    tokens = f" · {usage.prompt_tokens:,} tokens read, {usage.completion_tokens:,} written" if usage else ""
    seconds = f" · {each.span.end - each.span.start:.1f} s"
    told = [f'<p class="soft">The bridge said to the model:</p>{_text(text)}' for text in each.told]
    thought = f"<details><summary>Reasoning</summary>{_text(each.reasoning)}</details>" if each.reasoning else ""
    parts = [
        *told,
        f"<h3>Round {each.number}</h3>",
        f'<p class="soft">{each.tools_offered} tools offered{tokens}{seconds}</p>',
        thought,
        _text(each.text) if each.text else "",
        *map(_call, each.calls),
    ]
    return "".join(parts)


def _call(call: CallStory) -> str:
    finished = call.finished
    state = _state(call)
    wrong = f'<span class="wrong">{state}</span> · ' if state != "call" else ""
    decided = " · ".join(part for part in (finished.verdict.replace("_", " "), finished.rule) if part)
    about = f" {finished.about}" if finished.about else ""
    summary = (
        f"<strong>{_line(finished.server)} {_line(finished.tool)}</strong>{_line(about)} · {wrong}"
        f"{finished.seconds:.2f} s · {len(finished.text):,} characters" + (f" · {_line(decided)}" if decided else "")
    )
    arguments = f'<p class="soft">Arguments</p>{_text(_pretty(call.arguments))}' if call.arguments else ""
    return (
        f'<details><summary>{summary}</summary>{arguments}<p class="soft">Result</p>{_pages(finished.text)}</details>'
    )


def _pages(text: str) -> str:
    """A result in pages: the first one open, the others to be opened one inside the other."""
    shown = text[:_MAX_SHOWN]
    pages = [shown[start : start + _PAGE] for start in range(0, len(shown), _PAGE)] or [""]
    html = _text(f"… {len(text) - len(shown):,} characters more are not shown here") if len(text) > len(shown) else ""
    for number in range(len(pages) - 1, 0, -1):
        begin = number * _PAGE
        html = f"<details><summary>from character {begin:,}</summary>{_text(pages[number])}{html}</details>"
    return _text(pages[0]) + html


def _pretty(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return arguments


def _svg(label: str, height: int, marks: Iterable[str]) -> str:
    width = _LEFT + _WIDTH + _RIGHT
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg role="img" aria-label="{label}" {size}>{"".join(marks)}</svg>'


def _text(text: str) -> str:
    return f"<pre>{escape(clean_text(text)[0])}</pre>"


def _line(text: str) -> str:
    return escape(" ".join(clean_text(text)[0].split()))


def _short(name: str) -> str:
    return _line(name if len(name) <= 18 else f"{name[:17]}…")
