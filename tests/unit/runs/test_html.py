"""The page of one run: all that happened, in a form that a browser shows without a network."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lmstudio_bridge.events import (
    CallFinished,
    CallStarted,
    Event,
    MessageAdded,
    ModelChosen,
    RoundFinished,
    RoundStarted,
    RunContinued,
    RunFinished,
    RunStarted,
    Warned,
)
from lmstudio_bridge.messages import Usage, UserMessage
from lmstudio_bridge.runs.html import Span, draw_timeline, draw_tokens, render_run, tell_story
from lmstudio_bridge.runs.journal import TimedEvent, open_journal
from lmstudio_bridge.runs.resume import read_run

BEGAN = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
LONG = "".join(f"line {number}\n" for number in range(3_000))


def round_done(number: int, *, tokens: int = 1_000) -> RoundFinished:
    return RoundFinished(number, f"text {number}", "Hm <b>", (), "stop", "tiny", Usage(tokens, 50), 1.0)


def call_done(name: str, text: str, **more: Any) -> CallFinished:
    given: dict[str, Any] = {"is_error": False, "sent": True, "seconds": 0.5, "verdict": "allowed", **more}
    return CallFinished(1, name, "fs", "read_text_file", text, **given)


EVENTS: list[tuple[float, Event]] = [
    (0, RunStarted("r1", "What is <in> it?", ("fs",), 5, "2026-11-23T10:00:00+00:00")),
    (1, ModelChosen("tiny", loaded=True, context_length=8_000)),
    (1, RoundStarted(1, 5, 14)),
    (3, round_done(1)),
    (3, CallStarted(1, "c1", "fs", "read_text_file", '{"path": "a.txt"}')),
    (3, CallStarted(1, "c2", "fs", "read_text_file", '{"path": "b.txt"}')),
    (4, call_done("c1", LONG)),
    (5, call_done("c2", "No such file.", is_error=True)),
    (5, call_done("c3", "Not allowed.", is_error=True, sent=False, verdict="needs_write", rule="unmarked")),
    (5, MessageAdded(UserMessage("Answer now."))),
    (5, RoundStarted(2, 5, 14)),
    (7, Warned("The context was nearly full.")),
    (8, round_done(2, tokens=6_000)),
    (9, RunFinished("answered", "It holds lines.", "", 9.0)),
]


def timed(events: Sequence[tuple[float, Event]]) -> list[TimedEvent]:
    return [TimedEvent(BEGAN + timedelta(seconds=seconds), event) for seconds, event in events]


async def page_of(folder: Path, events: Sequence[tuple[float, Event]]) -> str:
    with open_journal(folder, "r1") as journal:
        for _, event in events:
            journal.keep(event)
    return render_run(read_run(folder, "r1"), tell_story(timed(events)))


# -- the story ------------------------------------------------------------------------------------------------------


def test_rounds_and_calls_are_told_with_their_times() -> None:
    story = tell_story(timed(EVENTS))

    assert [(each.number, each.span) for each in story.rounds] == [(1, Span(1, 3)), (2, Span(5, 8))]
    assert [call.span for call in story.rounds[0].calls] == [Span(3, 4), Span(3, 5), Span(5, 5)]
    assert [call.arguments for call in story.rounds[0].calls] == ['{"path": "a.txt"}', '{"path": "b.txt"}', ""]
    assert (story.rounds[1].told, story.rounds[0].notes) == (["Answer now."], ["The context was nearly full."])
    assert (story.seconds, story.context_length, story.servers()) == (9, 8_000, ["fs"])


def test_hours_between_an_end_and_going_on_are_no_part_of_the_picture() -> None:
    again: list[tuple[float, Event]] = [
        (7_200, RunContinued("r1", "And now?", ("fs",), 5, "")),
        (7_201, RoundStarted(1, 5, 14)),
        (7_203, round_done(1)),
    ]

    story = tell_story(timed([*EVENTS, *again]))

    assert (story.rounds[-1].span, story.seconds, story.instructions) == (Span(11, 13), 13, ["And now?"])


@pytest.mark.parametrize("length", range(len(EVENTS) + 1))
def test_journal_that_ends_anywhere_has_a_story(length: int) -> None:
    story = tell_story(timed(EVENTS[:length]))

    assert draw_timeline(story).texts
    assert (draw_tokens(story) is None) == (length < 4), "the first round is done then"


def test_lines_without_a_time_take_none() -> None:
    story = tell_story([TimedEvent(None, event) for _, event in EVENTS])

    assert (len(story.rounds), story.seconds) == (2, 0)


# -- the page -------------------------------------------------------------------------------------------------------


async def test_page_has_all_of_a_run_and_none_of_it_as_markup(tmp_path: Path) -> None:
    page = await page_of(tmp_path, EVENTS)

    for words in ("What is &lt;in&gt; it?", "It holds lines.", "Hm &lt;b&gt;", "needs write · unmarked", "Answer now."):
        assert words in page
    for number in (0, 1_499, 2_999):
        assert f"line {number}\n" in page, "the whole result is there, in pages"
    assert "<b>" not in page.replace("<body>", "")


async def test_page_asks_for_nothing_from_anywhere(tmp_path: Path) -> None:
    page = await page_of(tmp_path, EVENTS)

    assert re.findall(r"(?:src|href)\s*=|url\(|<script|@import", page) == []
    assert "default-src 'none'" in page


async def test_page_shows_no_terminal_codes(tmp_path: Path) -> None:
    events = [*EVENTS[:6], (4.0, call_done("c1", "\x1b[31mred\u202e"))]

    assert "red" in (page := await page_of(tmp_path, events))
    assert not {"\x1b", "\u202e"} & set(page)


def test_bars_stay_within_the_picture() -> None:
    bars = draw_timeline(tell_story(timed(EVENTS))).bars

    assert [bar.kind for bar in bars] == ["model", "call", "failed", "refused", "model"]
    assert all(bar.x >= 150 and bar.x + bar.width <= 150 + 760 + 2.1 for bar in bars)


@pytest.mark.parametrize(("rounds", "labels"), [(1, 1), (19, 19), (20, 10), (1_000, 19)])
def test_numbers_below_the_bars_never_touch(rounds: int, labels: int) -> None:
    events = [(float(number), round_done(number)) for number in range(1, rounds + 1)]

    chart = draw_tokens(tell_story(timed(events)))

    assert chart is not None
    assert [label.anchor for label in chart.texts].count("middle") == labels


async def test_run_without_token_counts_says_so(tmp_path: Path) -> None:
    assert "counted no tokens" in await page_of(tmp_path, EVENTS[:2])


# -- in a browser ---------------------------------------------------------------------------------------------------

_FRAME = """<!DOCTYPE html><body><pre id="seen"></pre><script>
const seen = document.getElementById("seen"), widths = [360, 1400];
function next() {
  const width = widths.shift();
  if (!width) return;
  const frame = document.createElement("iframe");
  frame.style.width = width + "px";
  frame.onload = () => {
    const page = frame.contentDocument, root = page.documentElement, call = page.querySelector("details");
    call.querySelector("summary").click();
    setTimeout(() => {
      seen.textContent += JSON.stringify({width, over: root.scrollWidth - root.clientWidth, open: call.open,
        legible: [...page.querySelectorAll("svg text")].every(each => each.getBoundingClientRect().height > 9),
        pictures: [...page.querySelectorAll("svg")].map(each => each.getBoundingClientRect().height > 20),
        paper: getComputedStyle(page.body).backgroundColor}) + "\\n";
      next();
    }, 20);
  };
  frame.src = "run.html";
  document.body.append(frame);
}
next();
</script>"""


@pytest.mark.browser
@pytest.mark.parametrize(
    ("scheme", "paper"), [("1", "rgb(255, 255, 255)"), ("0", "rgb(21, 23, 24)")], ids=["light", "dark"]
)
async def test_browser_shows_the_page_narrow_and_wide(tmp_path: Path, scheme: str, paper: str) -> None:
    names = (os.environ.get("CHROMIUM", "chromium"), "google-chrome")
    chromium = next((found for name in names if (found := shutil.which(name))), None)
    assert chromium, "there is no Chromium: run scripts/browser"
    (tmp_path / "run.html").write_text(await page_of(tmp_path / "runs", EVENTS), encoding="utf-8")
    (tmp_path / "frame.html").write_text(_FRAME, encoding="utf-8")

    process = await asyncio.create_subprocess_exec(
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--blink-settings=preferredColorScheme={scheme}"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"),
        (tmp_path / "frame.html").as_uri(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(120):
        out, _ = await process.communicate()

    seen = [json.loads(line) for line in re.findall(r'\{"width".*?\}', out.decode())]
    assert seen == [
        {"width": width, "over": 0, "open": True, "legible": True, "pictures": [True, True], "paper": paper}
        for width in (360, 1400)
    ]
