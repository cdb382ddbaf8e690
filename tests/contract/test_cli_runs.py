"""Runs from the shell: done, shown, gone on with, listed, deleted."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.lmstudio_sim.replies import CallReply, Stall, TextReply
from tests.lmstudio_sim.server import Simulator
from tests.support.journals import write_journal
from tests.support.npm_servers import config_entry, npm_server
from tests.support.shell import LIMIT, MODEL, Shell, configure
from tests.support.terminal import type_line_raw, without_codes

pytestmark = pytest.mark.npm

READ = CallReply(("filesystem__read_text_file", {"path": "notes.txt"}))


@pytest.fixture
def desk(shell: Shell) -> Shell:
    """The shell with the filesystem server configured."""
    configure(shell, filesystem=config_entry(npm_server("filesystem"), str(shell.folder)))
    return shell


def journals(shell: Shell) -> list[str]:
    return sorted(path.stem for path in (shell.folder / "home" / "runs").glob("*.jsonl"))


async def do_run(shell: Shell, sim: Simulator) -> str:
    """A run that reads notes.txt; its id."""
    before = set(journals(shell))
    sim.script(MODEL, READ, TextReply("It is heron-42."))
    code, _, err = await shell.run("run", "What is the code word?", "--mcp", "filesystem")
    assert code == 0, err
    [new] = set(journals(shell)) - before
    return new


@asynccontextmanager
async def in_progress(shell: Shell, sim: Simulator, *command: str) -> AsyncIterator[None]:
    """The command waits for its model meanwhile."""
    before = len([each for each in sim.requests if each.path == "/v1/chat/completions"])
    sim.script(MODEL, TextReply("never", faults=(Stall(),)))
    process = await shell.start(*command)
    await sim.wait_for_request(before + 1, path="/v1/chat/completions")
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(LIMIT):
            await process.communicate()


async def run_in_terminal(shell: Shell, *arguments: str, answer: str = "y") -> tuple[int, str]:
    """Exit code, and all that a terminal got, with its codes."""
    line = shlex.join([sys.executable, "-m", "lmstudio_bridge", *arguments])
    environ = {**shell.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    return await asyncio.to_thread(type_line_raw, line, folder=shell.folder, environ=environ, answer=answer)


# -- what is shown --------------------------------------------------------------------------------------------------


async def test_a_terminal_shows_each_call_and_a_spinner_and_then_the_answer(desk: Shell, sim: Simulator) -> None:
    sim.script(MODEL, READ, TextReply("It is heron-42."))

    code, shown = await run_in_terminal(desk, "run", "What is the code word?", "--mcp", "filesystem")

    assert code == 0, shown
    assert "\x1b[32m\N{HEAVY CHECK MARK} " in shown
    lines = [line.rstrip() for line in without_codes(shown).replace("\r", "\n").splitlines()]
    assert any(
        re.fullmatch(r"\S+ filesystem read_text_file notes.txt · \d+ characters · [\d.]+ s", each) for each in lines
    )
    assert any("filesystem: read_text_file notes.txt" in each for each in lines), "the spinner says what happens now"
    assert "It is heron-42." in lines[lines.index(next(each for each in lines if "read_text_file" in each)) :]
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h"), "the cursor is there again"


async def test_a_terminal_shows_a_bar_and_each_item_of_a_run_over_many(desk: Shell, sim: Simulator) -> None:
    sim.script(MODEL, TextReply("A bug."), TextReply("A wish."))

    code, shown = await run_in_terminal(
        *(desk, "run", "Label the ticket {item}", "--mcp", "filesystem", "--access", "write"),
        *("--for-each", "It crashes", "The text is too small"),
    )

    assert code == 0, shown
    lines = [line.strip() for line in without_codes(shown).replace("\r", "\n").splitlines()]
    assert "\N{HEAVY CHECK MARK} It crashes · A bug." in lines
    assert any(
        re.search(r" 1 of 2 · 1 at once · about \d+ s left .*\N{BOX DRAWINGS HEAVY HORIZONTAL}", each) for each in lines
    )
    assert any(re.fullmatch(r"The text is too small +done +A wish\. .*", each) for each in lines), "in columns"
    assert not re.search(r"\n\s*\n\s*\n *item ", without_codes(shown).replace("\r", "")), "empty lines above the table"


async def test_what_a_server_says_cannot_move_the_cursor(desk: Shell, sim: Simulator) -> None:
    sim.script(MODEL, CallReply(("filesystem__read_text_file", {"path": "\x1b[2Jx.txt"})), TextReply("No such file."))

    _, shown = await run_in_terminal(desk, "run", "Read it", "--mcp", "filesystem")

    assert "\x1b[2J" not in shown


async def test_answer_and_figures_come_as_json_and_from_an_agent_if_asked_for(desk: Shell, sim: Simulator) -> None:
    agent = desk.folder / ".claude" / "agents" / "finder.md"
    agent.parent.mkdir(parents=True)
    agent.write_text("---\nname: finder\n---\nAnswer in one sentence.\n", encoding="utf-8")
    sim.script(MODEL, READ, TextReply("It is heron-42."))

    arguments = ("--mcp", "filesystem", "--agent", "finder", "--json")
    code, out, err = await desk.run("run", "What is the code word?", *arguments)

    assert code == 0, err
    value = json.loads(out)
    assert (value["answer"], value["stop"], value["calls"]) == ("It is heron-42.", "answered", 1)
    assert value["run_id"] == journals(desk)[0]
    asked = next(request for request in sim.requests if request.path == "/v1/chat/completions")
    assert "\nAnswer in one sentence." in str(asked.messages[0]["content"])


async def test_answer_fits_the_schema_that_is_given(desk: Shell, sim: Simulator) -> None:
    schema = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
    (desk.folder / "schema.json").write_text(json.dumps(schema), encoding="utf-8")
    sim.script(MODEL, READ, TextReply("It is heron-42."), TextReply('{"word": "heron-42"}'))

    code, out, err = await desk.run("run", "Which?", "--mcp", "filesystem", "--schema", "schema.json", "--json")

    assert code == 0, err
    assert json.loads(json.loads(out)["answer"]) == {"word": "heron-42"}


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), ("[1]", "is not a JSON object"), ("{", "Expecting")]
)
async def test_schema_that_cannot_be_used_is_named(desk: Shell, content: str | None, words: str) -> None:
    if content is not None:
        (desk.folder / "schema.json").write_text(content, encoding="utf-8")

    code, out, err = await desk.run("run", "x", "--schema", "schema.json")

    assert (code, out) == (2, "")
    assert "--schema schema.json" in err
    assert words in err


# -- interrupted, and gone on with ------------------------------------------------------------------------------------


async def test_interrupted_run_says_how_to_go_on_and_can_be_gone_on_with(desk: Shell, sim: Simulator) -> None:
    sim.script(MODEL, READ, TextReply("never", faults=(Stall(),)))
    process = await desk.start("run", "What is the code word?", "--mcp", "filesystem")
    await sim.wait_for_request(2, path="/v1/chat/completions")
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(LIMIT):
        _, err = await process.communicate()
    [run_id] = journals(desk)

    assert process.returncode == 130, err.decode()
    assert f"to resume: lmstudio-bridge continue {run_id}" in err.decode()

    sim.script(MODEL, TextReply("It is heron-42."))
    code, out, err_text = await desk.run("continue", "last")

    assert code == 0, err_text
    assert out.startswith("It is heron-42.")
    asked = [each for each in sim.requests if each.path == "/v1/chat/completions"][-1].json or {}
    assert any("heron-42" in str(message["content"]) for message in asked["messages"]), "the result is still there"


async def test_of_the_runs_of_one_second_the_last_is_that_which_was_written_to_last(desk: Shell) -> None:
    """Their names tell no more than the second; a run of before that was gone on with since then is not the newest."""
    folder = desk.folder / "home" / "runs"
    names = ["20260101-000001-zzzzz", "20260101-000001-aaaaa", "20260101-000000-mmmmm"]
    for moment, name in enumerate(names):
        write_journal(folder, name)
        os.utime(folder / f"{name}.jsonl", (moment, moment))

    runs = json.loads((await desk.run("runs", "--json"))[1])

    assert [run["run_id"] for run in runs] == [names[1], names[0], names[2]]
    assert json.loads((await desk.run("runs", "show", "last", "--json"))[1])["run_id"] == names[1]


async def test_run_that_is_not_there_is_said(desk: Shell) -> None:
    for arguments in (("continue", "last"), ("runs", "show", "20260101-000000-aaaaa")):
        code, out, err = await desk.run(*arguments)

        assert (code, out) == (1, ""), arguments
        assert err.startswith("There "), err
        assert "lmstudio-bridge run" in err
        assert "lmstudio://" not in err, "nobody reads resources in a shell"


async def test_the_last_part_of_a_run_id_is_enough_if_only_one_run_has_it(desk: Shell) -> None:
    folder = desk.folder / "home" / "runs"
    write_journal(folder, "20260101-000000-aaaaa")
    for day in (1, 2):
        write_journal(folder, f"2026010{day}-000000-bbbbb")

    code, out, _ = await desk.run("runs", "show", "aaaaa")
    assert (code, out.splitlines()[0]) == (0, "# Run 20260101-000000-aaaaa")
    code, out, err = await desk.run("runs", "delete", "bbbbb")
    assert (code, out) == (1, "")
    assert err.startswith("Several runs end in bbbbb: 20260101-000000-bbbbb, 20260102-000000-bbbbb.")
    assert len(journals(desk)) == 3


async def test_a_terminal_asks_before_a_run_is_deleted(desk: Shell) -> None:
    write_journal(desk.folder / "home" / "runs", "20260101-000000-aaaaa")
    for answer, left in (("n", 1), ("y", 0)):
        _, shown = await run_in_terminal(desk, "runs", "delete", "last", answer=answer)
        asked, question, _ = shown.partition("[y/N] ")
        assert ("20260101-000000-aaaaa" in asked, question) == (True, "[y/N] ")
        assert len(journals(desk)) == left


async def test_without_a_command_a_terminal_shows_what_this_is(desk: Shell) -> None:
    _, shown = await run_in_terminal(desk)

    assert "An MCP server" in without_codes(shown)
    assert "lmstudio-bridge --help" in without_codes(shown)


async def test_a_dash_takes_the_task_from_stdin(desk: Shell, sim: Simulator) -> None:
    sim.script(MODEL, TextReply("Heron."))
    for given, code in (("What is the code word?\n", 0), (" \n", 2)):
        got, out, err = await desk.run("run", "-", "--mcp", "filesystem", given=given.encode())
        assert got == code, err
        assert ("Heron." in out) == (code == 0)
        assert ("The task from stdin is empty" in err) == (code == 2)

    [run] = json.loads((await desk.run("runs", "--json"))[1])
    assert run["task"] == "What is the code word?"


async def test_the_page_of_a_run_has_local_time(desk: Shell) -> None:
    write_journal(desk.folder / "home" / "runs", "20260101-000000-aaaaa")
    there = Shell(desk.folder, {**desk.environ, "TZ": "XXX-3"})

    assert "- started: 2026-01-01 03:00" in (await there.run("runs", "show", "last"))[1]


# -- what was done ----------------------------------------------------------------------------------------------------


async def test_runs_are_listed_with_how_they_ended_and_what_they_saved_and_shown_whole(
    desk: Shell, sim: Simulator
) -> None:
    assert await desk.run("runs") == (0, "No runs yet.\n", "")
    run_id = await do_run(desk, sim)

    code, out, _ = await desk.run("runs")
    columns, row = (line.split(maxsplit=5) for line in out.splitlines()[:2])

    assert (code, columns) == (0, ["run", "ended", "model", "tokens", "saved", "task"])
    assert row[:3] == [run_id, "answered", MODEL]
    assert row[5] == "What is the code word?"
    assert int(row[4].replace(",", "")) < 0, "a small file costs more than it saves"
    assert re.search(r"^day .*\n\d{4}-\d\d-\d\d +1 .*\nin all +1 ", out, re.MULTILINE)

    [value] = json.loads((await desk.run("runs", "--json"))[1])
    assert (value["run_id"], value["answer"], value["task"]) == (run_id, "It is heron-42.", "What is the code word?")

    code, page, _ = await desk.run("runs", "show", run_id)

    assert code == 0
    assert page.startswith(f"# Run {run_id}\n")
    assert "The launch code word is heron-42." in page
    assert re.search(r"\n\n### Round 1\n\n- \S.*\n(  .*\n)+\n### Round 2\n\n- no tool call$", page.rstrip("\n"))
    assert json.loads((await desk.run("runs", "show", "last", "--json"))[1])["run_id"] == run_id


async def test_runs_are_deleted_by_name_and_by_age_and_never_under_way(desk: Shell, sim: Simulator) -> None:
    old, new = "20260101-000000-aaaaa", await do_run(desk, sim)
    folder = desk.folder / "home" / "runs"
    write_journal(folder, old)
    days_ago = (folder / f"{old}.jsonl").stat().st_mtime - 3 * 86_400
    os.utime(folder / f"{old}.jsonl", (days_ago, days_ago))

    async with in_progress(desk, sim, "continue", new, "Wait."):
        code, _, err = await desk.run("runs", "delete", new)
        assert (code, journals(desk)) == (1, sorted([old, new]))
        assert "is still running" in err

    assert (await desk.run("runs", "delete", "--older-than", "4"))[:2] == (0, "Deleted: 0 of 0.\n")
    assert (await desk.run("runs", "delete", "--older-than", "2"))[:2] == (0, "Deleted: 1 of 1.\n")
    assert journals(desk) == [new]
    code, _, err = await desk.run("runs", "delete", "last")
    assert (code, journals(desk), "Use --yes" in err) == (2, [new], True)
    assert (await desk.run("runs", "delete", "last", new, "--yes"))[:2] == (0, "Deleted: 1 of 1.\n")
    assert (await desk.run("runs", "delete"))[0] == 2


async def test_deletion_by_age_leaves_what_is_no_journal_of_a_run_and_what_is_under_way(
    desk: Shell, sim: Simulator
) -> None:
    folder = desk.folder / "home" / "runs"

    async with in_progress(desk, sim, "run", "Wait.", "--mcp", "filesystem"):
        [active] = journals(desk)
        for name in ("20260101-000000-bbbbb", "my notes", "mine"):
            (folder / f"{name}.jsonl").touch()
        for path in folder.glob("*.jsonl"):
            os.utime(path, (0, 0))
        (folder / "20260101-000000-ccccc.jsonl").symlink_to("nowhere")
        code, out, err = await desk.run("runs", "delete", "--older-than", "1")

    assert (code, out, err) == (0, "Deleted: 1 of 2.\n", "")
    assert journals(desk) == sorted([active, "20260101-000000-ccccc", "my notes", "mine"])


async def test_a_pipe_among_the_journals_is_not_waited_for(desk: Shell) -> None:
    folder = desk.folder / "home" / "runs"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "20260101-000000-aaaaa.jsonl")

    assert (await desk.run("runs"))[:2] == (0, "No runs yet.\n")


# -- models and servers -----------------------------------------------------------------------------------------------


async def test_models_are_listed(desk: Shell) -> None:
    code, out, _ = await desk.run("models")
    columns, row = out.splitlines()

    assert code == 0
    assert columns.split() == ["model", "kind", "state", "context", "slots", "trained", "for", "tools"]
    assert row.split()[:4] == [MODEL, "llm", "loaded", "32,768"]
    assert json.loads((await desk.run("models", "--json"))[1])[0]["key"] == MODEL


async def test_servers_are_listed_with_where_they_come_from(desk: Shell) -> None:
    untrusted = Shell(desk.folder, {**desk.environ, "LMSTUDIO_BRIDGE_TRUST": ""})

    code, out, err = await untrusted.run("servers")

    assert code == 0
    assert f"filesystem  stdio      not approved yet  project: {desk.folder / '.mcp.json'}" in out
    assert "LMSTUDIO_BRIDGE_TRUST" in err
    [value] = json.loads((await desk.run("servers", "--json"))[1])
    assert (value["server"], value["state"]) == ("filesystem", "usable")
