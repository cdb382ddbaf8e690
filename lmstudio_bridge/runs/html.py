"""A stored run as one page of HTML, rendered with Jinja from `templates/`: no network, no script."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt

from lmstudio_bridge import events
from lmstudio_bridge.agent.untrusted import without_delimiters
from lmstudio_bridge.json_text import load_or_none
from lmstudio_bridge.messages import Notice, Usage, UserMessage
from lmstudio_bridge.runs.item_rows import item_rows
from lmstudio_bridge.runs.journal import TimedEvent, item_run_id, journal_path, read_timed_events
from lmstudio_bridge.runs.markdown import open_markdown
from lmstudio_bridge.runs.report import diff_lines, report_of
from lmstudio_bridge.runs.resume import StoredRun
from lmstudio_bridge.text import clean_text, first_line, one_line, shortened

_PAUSE = 1.0  # seconds shown between the end of a run and its continuation
_PAGE = 8_000  # characters of a result on one page of it
_MAX_SHOWN = 400_000  # characters of one result
_TITLE = 160  # characters of the task
_SHOWN_ARGUMENTS = 160  # characters of a call's arguments in its row
_SHOWN_OF_ITEM = 1_000  # characters of a result in a call of an item; the item's own page has all

_COLORS = {"answered": "right", "running": "soft", "failed": "wrong"}  # CSS classes; of other states: warn


def _make_markdown() -> MarkdownIt:
    markdown = open_markdown()
    markdown.add_render_rule("heading_open", lambda *_: "<h3>")  # the page has its own levels above
    markdown.add_render_rule("heading_close", lambda *_: "</h3>\n")
    markdown.add_render_rule(
        "table_open", lambda *_: '<div class="scroll" role="region" aria-label="Table" tabindex="0"><table>\n'
    )
    markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")
    return markdown


_MARKDOWN = _make_markdown()


def render_markdown(text: str) -> str:
    """What a model wrote as safe HTML: no tag of its own, no link, no image."""
    rendered: str = _MARKDOWN.render(clean_text(text)[0])
    return rendered


def _pages(text: str) -> list[str]:
    """A long text in pages, at least one; the last one says what is left out."""
    shown = text[:_MAX_SHOWN]
    pages = [shown[start : start + _PAGE] for start in range(0, len(shown) or 1, _PAGE)]
    hidden = len(text) - len(shown)
    return [*pages, f"… {hidden:,} characters more are not shown here"] if hidden else pages


_TEMPLATES = Environment(
    loader=PackageLoader("lmstudio_bridge"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters.update(
    clean=lambda text: clean_text(text)[0],
    one_line=one_line,
    thousands="{:,}".format,
    markdown=render_markdown,
    pages=_pages,
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number at the top of a page, with its name, and a note for the one that matters most."""

    name: str
    value: str
    note: str = ""


def render_template(name: str, **values: Any) -> str:
    """A page of HTML from one of the package's templates; all values are escaped."""
    return _TEMPLATES.get_template(name).render(values)


def render_run(run: StoredRun, story: Story, cells: Sequence[Cell] = ()) -> str:
    """The page of one run: how it ended, its answer, its timeline with each round and call, its context usage.

    For a run over many items, `cells` are shown in place of the last two.
    """
    outcome = run.outcome
    words = events.STATES[run.state][0]
    badge = (_COLORS.get(run.state, "warn"), words[:1].upper() + words[1:])
    if run.state == "answered" and not outcome.is_done:
        badge = ("wrong", "Nothing was changed" if outcome.nothing_changed else "A change failed")
    most = max(story.context_length or 1, *(usage.total for _, usage in story.usages), 1)
    return render_template(
        "run.html.j2",
        title=first_line(run.task, _TITLE),
        badge=badge,
        facts=_facts(run),
        numbers=_figures(run),
        run=run,
        story=story,
        most=most,
        context_words=_context_words(story),
        changes=diff_lines(run.events),
        cells=cells,
    )


def _facts(run: StoredRun) -> str:
    servers = f"servers: {', '.join(run.servers)}" if run.servers else ""
    access = f"{run.outcome.access} access"  # not "could only read": calls may have been approved
    unchanged = "nothing was changed" if run.outcome.nothing_changed else ""
    facts = (run.time, run.outcome.model, servers, access, unchanged, run.project, f"run {run.run_id}")
    return " · ".join(fact for fact in facts if fact)


def _figures(run: StoredRun) -> list[Figure]:
    outcome = run.outcome
    figures = [
        Figure("Time", f"{outcome.seconds:,.1f} s"),
        Figure("Rounds", f"{outcome.rounds:,}"),
        Figure("Calls", f"{outcome.calls:,}"),
        Figure("Tokens in", f"{outcome.usage.prompt_tokens:,}"),
        Figure("Tokens out", f"{outcome.usage.completion_tokens:,}"),
    ]
    report = report_of(run)
    if report.saved():
        kept, cost, _ = report.savings().rounded()
        figures.append(Figure("Kept out of Claude's context", f"~{kept} tokens", f"delegating cost ~{cost}"))
    return figures


def _context_words(story: Story) -> str:
    if not story.usages:
        return ""
    number, tokens = max(((number, usage.total) for number, usage in story.usages), key=itemgetter(1))
    limit = story.context_length
    share = f" of {limit:,} tokens ({tokens / limit:.0%})" if limit else " tokens; the context length is not known"
    return f"Fullest in round {number}: {tokens:,}{share}"


@dataclass(slots=True)
class Step:
    """A row of the timeline: a start of a server, a round of the model, a call, or a note.

    `kind` and `state` are CSS classes; `state` is "failed", "refused", "unfinished", or "" where all went well. `start`
    and `end` are seconds since the start of the run. `parts` are texts with their headings, shown when it is opened.
    """

    kind: str
    label: str
    start: float
    end: float
    about: str = ""
    figures: str = ""
    state: str = ""
    parts: list[tuple[str, str]] = field(default_factory=list)

    def left(self, whole: float) -> float:
        """Where its bar begins, in percent of the `whole` run."""
        return 100 * self.start / max(whole, 0.001)

    def width(self, whole: float) -> float:
        """How long its bar is, in percent of the `whole` run."""
        return 100 * (self.end - self.start) / max(whole, 0.001)

    def texts(self, answer: str) -> list[tuple[str, str]]:
        """Its texts, without the answer of the run, which stands above."""
        return [part for part in self.parts if self.kind != "model" or part[1].strip() != answer.strip()]


@dataclass(frozen=True, slots=True)
class Cell:
    """An item of a run over many: its row as `item_rows` makes it, its calls, its time in percent of the longest."""

    run_id: str
    row: Mapping[str, Any]
    calls: Sequence[Step]
    share: float


@dataclass(slots=True)
class Story:
    """A whole run; `instructions` has an entry for each continuation, `seconds` is its length.

    `usages` are the counted tokens by the number of the round.
    """

    steps: list[Step] = field(default_factory=list)
    usages: list[tuple[int, Usage]] = field(default_factory=list)
    instructions: list[str] = field(default_factory=list)
    context_length: int | None = None
    seconds: float = 0.0


def tell_story(journal: Sequence[TimedEvent]) -> Story:
    """The story in a run's journal; events without a time take none."""
    story = Story()
    calls: dict[str, Step] = {}  # in progress, by id
    began = 0.0  # the last time that something was waited for
    offered = told_offered = 0  # tools; told where their number changes
    for now, event in _with_seconds(journal):
        story.seconds = now
        match event:
            case events.RunStarted() | events.RunContinued():
                began = now
                if isinstance(event, events.RunContinued):
                    story.instructions.append(event.instructions)
            case events.ModelChosen(context_length=context_length):
                story.context_length = context_length
            case events.ServerReady(server=server, tools=tools):
                story.steps.append(Step("server", server, began, now, "started", f"{tools} tools"))
            case events.ServerFailed(server=server, reason=reason):
                story.steps.append(Step("server", server, began, now, reason, state="failed"))
            case events.RoundStarted(tools_offered=tools_offered):
                began, offered = now, tools_offered if tools_offered != told_offered else 0
                told_offered = tools_offered
            case events.RoundFinished(number=number, text=text, reasoning=reasoning, usage=usage):
                parts = [(name, part) for name, part in (("Reasoning", reasoning), ("Text", text)) if part.strip()]
                figures = f"{offered} tools offered" if offered else ""
                if usage and usage.prompt_tokens:
                    story.usages.append((number, usage))
                    tokens = f"{usage.prompt_tokens:,} tokens in, {usage.completion_tokens:,} out"
                    figures = " · ".join(part for part in (tokens, figures) if part)
                story.steps.append(Step("model", f"Round {number}", began, now, figures=figures, parts=parts))
                began = now
            case events.CallStarted(call_id=call_id, server=server, tool=tool, arguments=arguments):
                calls[call_id] = _call(server, tool, arguments, now)
                story.steps.append(calls[call_id])
            case events.CallFinished() as done:
                step = calls.pop(done.call_id, None)
                if step is None:  # it was not sent
                    step = _call(done.server, done.tool, "", now)
                    step.about = done.about
                    story.steps.append(step)
                _finish_call(step, done, now)
                began = now
            case events.MessageAdded(message=UserMessage(text)) if any(each.kind == "model" for each in story.steps):
                if text in story.instructions:
                    continue  # the user said that
                story.steps.append(Step("note", "The bridge said to the model", now, now, parts=[("Text", text)]))
            case (
                events.Warned(text=text) | events.RetryScheduled(reason=text) | events.Noticed(notice=Notice(text=text))
            ):
                story.steps.append(Step("note", "Note", now, now, about=text))
            case _:
                pass
    return story


def _call(server: str, tool: str, arguments: str, now: float) -> Step:
    """A call that has no result yet."""
    values = load_or_none(arguments)
    about, parts = arguments, []
    if isinstance(values, dict):
        about = ", ".join(
            f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
            for name, value in values.items()
        )
    if len(about) > _SHOWN_ARGUMENTS or "\n" in about:
        parts = [("Arguments", json.dumps(values, indent=2, ensure_ascii=False) if values else arguments)]
    about = shortened(about, _SHOWN_ARGUMENTS)
    return Step("call", tool, now, now, about, server, state="unfinished", parts=parts)


def _finish_call(step: Step, done: events.CallFinished, now: float) -> None:
    refused = not done.sent and done.verdict not in ("", "allowed")
    step.end = now
    step.state = "refused" if refused else "failed" if done.is_error else ""
    text = without_delimiters(done.text)
    why = done.rule if refused else done.reason if done.is_error else ""
    figures = (step.figures, f"{len(text):,} characters", done.verdict.replace("_", " ") if refused else "", why)
    step.figures = " · ".join(part for part in figures if part)
    step.parts.append(("Result", text))


def item_cells(folder: Path, run: StoredRun) -> list[Cell]:
    """The items of a run over many, in order; none for other runs."""
    rows = item_rows(run.items, access=run.outcome.access) if run.items else []
    slowest = max((row["seconds"] for row in rows), default=0) or 1
    return [
        Cell(run_id, row, _calls_of_item(folder, run_id), 100 * row["seconds"] / slowest)
        for row, run_id in ((row, item_run_id(run.run_id, number)) for number, row in enumerate(rows, start=1))
    ]


def _calls_of_item(folder: Path, run_id: str) -> tuple[Step, ...]:
    """The calls of one item; none if its journal is gone."""
    try:
        steps = tell_story(read_timed_events(journal_path(folder, run_id))).steps
    except OSError:
        return ()
    calls = [step for step in steps if step.kind == "call"]
    return tuple(
        replace(call, parts=[(name, shortened(text, _SHOWN_OF_ITEM)) for name, text in call.parts]) for call in calls
    )


def _with_seconds(journal: Sequence[TimedEvent]) -> Iterator[tuple[float, events.Event]]:
    """The events with the seconds of the run so far, without the time between its end and a continuation."""
    zero: datetime | None = None
    now = offset = 0.0
    for each in journal:
        if each.at and (zero is None or isinstance(each.event, events.RunContinued | events.RunStarted)):
            zero, offset = each.at, now + _PAUSE if zero else 0.0
        if each.at and zero:
            now = max(now, offset + (each.at - zero).total_seconds())
        yield now, each.event
