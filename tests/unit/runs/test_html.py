"""The page of one run: all that happened, in a form that a browser shows without a network."""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lmstudio_bridge.evals.results import Attempt, Plan, Results, render_page
from lmstudio_bridge.events import (
    CallFinished,
    CallStarted,
    Event,
    FileChange,
    FilesChanged,
    ItemFinished,
    MessageAdded,
    ModelChosen,
    Outcome,
    RoundFinished,
    RoundStarted,
    RunContinued,
    RunFinished,
    RunStarted,
    ServerFailed,
    ServerReady,
    Warned,
)
from lmstudio_bridge.messages import Usage, UserMessage
from lmstudio_bridge.runs.html import Story, render_run, tell_story
from lmstudio_bridge.runs.journal import TimedEvent
from lmstudio_bridge.runs.resume import read_run
from tests.support.fakes import keep_events
from tests.unit.runs.test_for_each import page_events
from tests.unit.runs.test_for_each import page_of as items_page

BEGAN = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
LONG = "".join(f"line {number}\n" for number in range(3_000))


ANSWER = """# Lines

It holds **lines**. <script>alert(1)</script> ![x](http://x/y.png) [here](http://x) <http://x> &#x202e;

| line | text |
|---|---|
| 1 | a |

[x]: http://x
"""


def round_done(number: int, *, tokens: int = 1_000, text: str = "Next.") -> RoundFinished:
    return RoundFinished(number, text, "Hm <b>", (), "stop", "tiny", Usage(tokens, 50), 1.0)


def call_done(name: str, text: str, **more: Any) -> CallFinished:
    given: dict[str, Any] = {"is_error": False, "sent": True, "seconds": 0.5, "verdict": "allowed", **more}
    return CallFinished(1, name, "fs", "read_text_file", text, **given)


EVENTS: list[tuple[float, Event]] = [
    (0, RunStarted("r1", "What is <in> it?", ("fs",), 5, "2026-11-23T10:00:00+00:00")),
    (0.5, ServerReady("fs", 14)),
    (1, ServerFailed("db", "No such program.")),
    (1, ModelChosen("tiny", loaded=True, context_length=8_000)),
    (1, RoundStarted(1, 5, 14)),
    (3, round_done(1)),
    (3, CallStarted(1, "c1", "fs", "read_text_file", '{"path": "a.txt"}')),
    (3, CallStarted(1, "c2", "fs", "read_text_file", '{"path": "b.txt"}')),
    (4, call_done("c1", f"Data, up to the line ghjkmnpq:\n{LONG}ghjkmnpq")),
    (5, call_done("c2", "No such file.", is_error=True)),
    (
        5,
        call_done(
            "c3", "Not allowed.", is_error=True, sent=False, verdict="needs_write", rule="unmarked", about="c.txt"
        ),
    ),
    (5, MessageAdded(UserMessage("Answer now."))),
    (5, RoundStarted(2, 5, 14)),
    (7, Warned("The context was nearly full.")),
    (8, round_done(2, tokens=6_000, text=ANSWER)),
    (9, RunFinished("answered", ANSWER, "", 9.0)),
]


RESULTS = Results(
    Plan("tiny", 1, ("bridge", "baseline"), 15, 2048, 300.0, 1, 1, "2026-03-01T12:00:00+00:00", "0.1"),
    [
        Attempt("one-call/a", "one-call", "bridge", "", "answered", 2, 1, 1_000, 100, 1.0, "It is that."),
        Attempt("one-call/a", "one-call", "baseline", "no file", "answered", 2, 1, 1_000, 100, 1.0, ""),
    ],
    {"impossible/a": "uvx is missing"},
)


def timed(events: Sequence[tuple[float, Event]]) -> list[TimedEvent]:
    return [TimedEvent(BEGAN + timedelta(seconds=seconds), event) for seconds, event in events]


async def page_of(folder: Path, events: Sequence[tuple[float, Event]]) -> str:
    keep_events(folder, "r1", *(event for _, event in events))
    return render_run(read_run(folder, "r1"), tell_story(timed(events)))


# -- the story ------------------------------------------------------------------------------------------------------


def rows(story: Story) -> list[tuple[str, str, str, float, float]]:
    return [(step.kind, step.label, step.state, step.start, step.end) for step in story.steps]


def test_servers_rounds_and_calls_are_told_with_their_times() -> None:
    story = tell_story(timed(EVENTS))

    assert rows(story) == [
        ("server", "fs", "", 0, 0.5),
        ("server", "db", "failed", 0, 1),
        ("model", "Round 1", "", 1, 3),
        ("call", "read_text_file", "", 3, 4),
        ("call", "read_text_file", "failed", 3, 5),
        ("call", "read_text_file", "refused", 5, 5),
        ("note", "The bridge said to the model", "", 5, 5),
        ("note", "Note", "", 7, 7),
        ("model", "Round 2", "", 5, 8),
    ]
    assert [step.about for step in story.steps if step.kind == "call"] == ["path: a.txt", "path: b.txt", "c.txt"]
    assert (story.seconds, story.context_length, len(story.usages)) == (9, 8_000, 2)


def test_hours_between_an_end_and_going_on_are_no_part_of_the_picture() -> None:
    again: list[tuple[float, Event]] = [
        (7_200, RunContinued("r1", "And now?", ("fs",), 5, "")),
        (7_200, MessageAdded(UserMessage("And now?"))),
        (7_201, RoundStarted(1, 5, 14)),
        (7_203, round_done(1)),
    ]

    story = tell_story(timed([*EVENTS, *again]))

    assert (rows(story)[-1], story.seconds) == (("model", "Round 1", "", 11, 13), 13)
    assert story.instructions == ["And now?"]
    said = [step.parts for step in story.steps if step.label == "The bridge said to the model"]
    assert said == [[("Text", "Answer now.")]], "the other words are the user's"


@pytest.mark.parametrize("length", range(1, len(EVENTS) + 1))
async def test_journal_that_ends_anywhere_has_a_page(tmp_path: Path, length: int) -> None:
    page = await page_of(tmp_path, EVENTS[:length])

    assert ("counted no tokens" in page) == (length < 6), "the first round is done then"
    assert ("unfinished" in page) == (length in (7, 8, 9)), "a call has no result then"


def test_lines_without_a_time_take_none() -> None:
    story = tell_story([TimedEvent(None, event) for _, event in EVENTS])

    assert (len(story.steps), story.seconds) == (9, 0)


# -- the page -------------------------------------------------------------------------------------------------------


async def test_page_has_all_of_a_run_and_none_of_it_as_markup(tmp_path: Path) -> None:
    page = await page_of(tmp_path, EVENTS)

    assert "<h1>What is &lt;in&gt; it?</h1>" in page
    for words in ("Hm &lt;b&gt;", "needs write · unmarked", "Answer now.", "6,050 of 8,000 tokens (76%)"):
        assert words in page
    for number in (0, 1_499, 2_999):
        assert f"line {number}\n" in page, "the whole result is there, in pages"
    assert not re.search("up to the line|ghjkmnpq", page), "without delimiters"
    assert "<b>" not in page.replace("<body>", "")


async def test_answer_is_there_once_and_without_what_could_load_link_or_hide(tmp_path: Path) -> None:
    page = await page_of(tmp_path, EVENTS)

    assert page.count("lines</strong>") == 1
    assert "<h3>Lines</h3>" in page
    for words in ("&lt;script&gt;", "![x](http://x/y.png)", "[here](http://x)", "&lt;http://x&gt;", "&amp;#x202e;"):
        assert words in page
    assert "[x]: http://x" in page


async def test_page_asks_for_nothing_from_anywhere(tmp_path: Path) -> None:
    page = await page_of(tmp_path, EVENTS)

    assert re.findall(r"(?:src|href)\s*=|url\(|<script|@import", page) == []
    assert "default-src 'none'" in page


async def test_page_shows_no_terminal_codes(tmp_path: Path) -> None:
    events = [*EVENTS[:8], (4.0, call_done("c1", "\x1b[31mred\u202e"))]

    assert "red" in (page := await page_of(tmp_path, events))
    assert not {"\x1b", "\u202e"} & set(page)


@pytest.mark.parametrize(
    ("end", "badge"),
    [
        (RunFinished("answered", "It holds lines.", "", 9.0), "right"),
        (RunFinished("round_limit", "", "", 9.0), "warn"),
        (RunFinished("failed", "", "No model.", 9.0), "wrong"),
    ],
)
async def test_badge_says_how_it_ended(tmp_path: Path, end: RunFinished, badge: str) -> None:
    assert f'<span class="badge {badge}">' in await page_of(tmp_path, [*EVENTS[:-1], (9, end)])


_DIFF = "--- a.txt\n+++ a.txt\n@@ -1 +1 @@\n-<a>\n+b\n"
UNFOUND = ItemFinished(3, Outcome("answered", "It is 185.", missing=("185", "<b>")))
WRITTEN = [
    *EVENTS[:-1],
    (9, FilesChanged("/p", (FileChange("a.txt", "changed", "x", "y", added=1, removed=1, diff=_DIFF),))),
    EVENTS[-1],
]


async def test_lines_of_a_diff_are_marked_and_its_file_is_a_heading(tmp_path: Path) -> None:
    page = await page_of(tmp_path, WRITTEN)

    assert "<h3>a.txt (+1 \N{MINUS SIGN}1)</h3>" in page
    assert "--- a.txt\n+++ a.txt\n@@ -1 +1 @@\n<del>-&lt;a&gt;</del>\n<ins>+b</ins>\n" in page


def test_an_item_with_facts_that_were_not_found_says_so_while_it_is_closed(tmp_path: Path) -> None:
    page = items_page(tmp_path, [*page_events(30), UNFOUND])

    assert '<strong>item 3</strong> <span class="wrong">not found: 185, &lt;b&gt;</span>' in page
    assert '<p class="wrong">1 with facts that were not found in anything read</p>' in page
    assert "</i>!</a>" in page


# -- in a browser ---------------------------------------------------------------------------------------------------

_AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
_FRAME = """<!DOCTYPE html><body><pre id="seen"></pre><script>
const seen = document.getElementById("seen"), asked = [390, 1280].flatMap(width => PAGES.map(name => [width, name]));
function next() {
  const [width, name] = asked.shift() || [];
  if (!name) return;
  const frame = document.createElement("iframe");
  frame.style.width = width + "px";
  frame.onload = async () => {
    const page = frame.contentDocument, root = page.documentElement, window = frame.contentWindow;
    for (const each of page.querySelectorAll("details")) each.open = true;
    const found = await window.axe.run(page, {resultTypes: ["violations"]});
    seen.textContent += JSON.stringify({width, name, over: root.scrollWidth - root.clientWidth,
      wrong: found.violations.map(each => each.id + " " + each.nodes.map(node => node.html)),
      paper: window.getComputedStyle(page.body).backgroundColor}) + "\\n";
    next();
  };
  frame.src = name;
  document.body.append(frame);
}
next();
</script>"""


@pytest.mark.browser
@pytest.mark.parametrize(
    ("scheme", "paper"), [("1", "rgb(255, 255, 255)"), ("0", "rgb(21, 23, 24)")], ids=["light", "dark"]
)
async def test_pages_have_no_fault_that_axe_knows_narrow_and_wide(tmp_path: Path, scheme: str, paper: str) -> None:
    names = (os.environ.get("CHROMIUM", "chromium"), "google-chrome")
    chromium = next((found for name in names if (found := shutil.which(name))), None)
    assert chromium, "there is no Chromium: run scripts/browser"
    assert _AXE.exists(), "there is no axe-core: run scripts/setup"
    for name, page in {
        "answered.html": await page_of(tmp_path / "1", EVENTS),
        "failed.html": await page_of(tmp_path / "2", EVENTS[:8]),
        "items.html": items_page(tmp_path / "3", [*page_events(40), UNFOUND]),
        "written.html": await page_of(tmp_path / "4", WRITTEN),
        "results.html": render_page(RESULTS),
    }.items():
        # Its policy forbids all scripts, also the one that examines it.
        examined = re.sub("<meta http-equiv.*?>", f'<script src="{_AXE.as_uri()}"></script>', page)
        (tmp_path / name).write_text(examined, encoding="utf-8")
    pages = ["answered.html", "failed.html", "items.html", "written.html", "results.html"]
    (tmp_path / "frame.html").write_text(_FRAME.replace("PAGES", json.dumps(pages)), encoding="utf-8")

    process = await asyncio.create_subprocess_exec(
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", f"--blink-settings=preferredColorScheme={scheme}"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=60000", "--dump-dom"),
        (tmp_path / "frame.html").as_uri(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(120):
        out, _ = await process.communicate()

    lines = re.findall(r'^.*(\{"width".*\})$', out.decode(), re.MULTILINE)
    seen = [json.loads(html.unescape(line)) for line in lines]
    assert seen == [
        {"width": width, "name": name, "over": 0, "wrong": [], "paper": paper}
        for width in (390, 1280)
        for name in pages
    ]
