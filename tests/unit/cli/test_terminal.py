"""Consoles on streams that are terminals and such that are not."""

from __future__ import annotations

import io
import re
import sys

import pytest
from rich.text import Text

from lmstudio_bridge.cli import terminal

TASK = "Who owns every file below src/, and since when?"
LONG = "word " * 60 + "[bold]12 :smile: /a/path[/bold]"


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown_table(monkeypatch: pytest.MonkeyPatch, columns: int, row: tuple[str, ...]) -> list[str]:
    """The lines of a table of runs at a terminal of that width, without codes."""
    stream = Terminal()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.print_table(("run", "ended", "model", "task"), [row], empty="none")
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in stream.getvalue().splitlines()]


def shown_marked(monkeypatch: pytest.MonkeyPatch, columns: int, mark: str, text: str) -> str:
    """A marked text at a terminal of that width."""
    stream = Terminal()
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal.print_marked(terminal.open_console(stream, environ={"NO_COLOR": "1"}), Text(mark), Text(text))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("term", "environ", "coloured"),
    [("xterm", {}, True), ("xterm", {"NO_COLOR": ""}, True), ("xterm", {"NO_COLOR": "1"}, False), ("dumb", {}, False)],
)
def test_a_terminal_has_colours_unless_it_or_the_environment_says_no(
    monkeypatch: pytest.MonkeyPatch, term: str, environ: dict[str, str], coloured: bool
) -> None:
    """The NO_COLOR that counts is the one that is given, not the process's."""
    monkeypatch.setenv("TERM", term)
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()

    terminal.open_console(stream, environ=environ).print("x", style="red")

    assert ("\x1b[31m" in stream.getvalue()) is coloured


AS_LIST = ["20260101-000000-aaaaa", "  ended: answered", "  task: Who owns every file below src/,", "  and since when?"]
AS_TABLE = ["run                    ended     model  task", f"20260101-000000-aaaaa  answered         {TASK}"]


@pytest.mark.parametrize(("columns", "shown"), [(40, AS_LIST), (100, AS_TABLE)])
def test_a_table_is_a_list_where_it_would_break_its_words(
    columns: int, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown_table(monkeypatch, columns, ("20260101-000000-aaaaa", "answered", "", TASK)) == shown


@pytest.mark.parametrize(("columns", "first"), [(73, "run "), (72, "20260101-000000-aaaaa")])
def test_only_the_last_column_of_a_table_is_wrapped(columns: int, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = ("20260101-000000-aaaaa", "answered", "a-model-of-18-char", TASK)
    shown = "\n".join(shown_table(monkeypatch, columns, row))

    assert shown.startswith(first)
    assert "20260101-000000-aaaaa" in shown


def test_what_is_no_terminal_gets_whole_lines_as_they_are() -> None:
    stream = io.StringIO()

    terminal.open_console(stream, environ={"FORCE_COLOR": "1"}).print(LONG, style="red")

    assert stream.getvalue() == f"{LONG}\n"


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8", True), ("ascii", False), ("cp437", False), ("nonsense", False)]
)
def test_marks_are_shown_where_the_encoding_has_them(encoding: str, shown: bool) -> None:
    class Stream(io.StringIO):
        @property
        def encoding(self) -> str:  # type: ignore[override]  # a stream of Python's has it as an attribute
            return encoding

    assert terminal.can_show("\N{HEAVY CHECK MARK}", Stream()) is shown


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_marked_text_is_wrapped_at_words_below_itself(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    words = [f"word{number}" for number in range(60)]
    first, *others = shown_marked(monkeypatch, columns, "ok  ", " ".join(words)).splitlines()

    assert first.startswith("ok   word0 word1")
    assert all(line.startswith("     word") for line in others)
    assert max(map(len, [first, *others])) <= columns
    assert " ".join([first, *others]).split()[1:] == words


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_a_command_in_marked_text_can_be_copied_whole(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    command = "`claude mcp add --scope user filesystem -- npx -y server .`"
    text = f"Add one to Claude Code, for example: {command} and then another."

    assert shown_marked(monkeypatch, columns, "ok", text).count(command) == 1


def test_marked_text_is_one_line_where_there_is_no_terminal() -> None:
    stream = io.StringIO()

    terminal.print_marked(terminal.open_console(stream, environ={}), Text("ok"), Text(LONG))

    assert stream.getvalue() == f"ok {LONG}\n"


def test_a_spinner_is_only_for_terminals() -> None:
    assert terminal.open_status("waiting", io.StringIO(), environ={}) is None
    assert terminal.open_status("waiting", Terminal(), environ={}) is not None


def test_formatted_answer_keeps_its_lines_and_hides_nothing() -> None:
    stream = io.StringIO()

    terminal.open_console(stream, environ={}).print(
        terminal.markdown_in_terminal("a: 1\nb: **2**\n\n<id> [x](http://y) ![z](w) &lt;")
    )

    lines = [line.strip() for line in stream.getvalue().splitlines()]
    assert lines == ["a: 1", "b: 2", "", "<id> [x](http://y) ![z](w) &lt;"]
