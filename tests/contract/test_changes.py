"""What a run changed in files: shown in its result, printed by `runs show --diff`, put back by `runs undo`."""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.lmstudio_sim.replies import CallReply, Stall, TextReply
from tests.lmstudio_sim.server import Simulator
from tests.support.npm_servers import config_entry, npm_server
from tests.support.shell import LIMIT, MODEL, Shell, configure

pytestmark = pytest.mark.npm

WORD = "The launch code word is heron-42.\n"
EDIT: tuple[str, dict[str, Any]] = (
    "filesystem__edit_file",
    {"path": "notes.txt", "edits": [{"oldText": "heron-42", "newText": "egret-7"}]},
)
CREATE: tuple[str, dict[str, Any]] = ("filesystem__write_file", {"path": "new.md", "content": "one\ntwo\n"})


@pytest.fixture
def desk(shell: Shell) -> Shell:
    """The shell with a project of its own, beside the bridge's state, and the filesystem server."""
    project = shell.folder / "project"
    project.mkdir()
    (project / "notes.txt").write_text(WORD, encoding="utf-8")
    configure(Shell(project, {}), filesystem=config_entry(npm_server("filesystem"), str(project)))
    return Shell(project, shell.environ)


async def change(
    desk: Shell, sim: Simulator, *calls: tuple[str, dict[str, Any]], **environ: str
) -> tuple[int, str, str]:
    """A run that makes these calls, one after another, and says that it is done."""
    sim.script(MODEL, *(CallReply(call) for call in calls), TextReply("It is done."))
    shell = Shell(desk.folder, {**desk.environ, **environ})
    return await shell.run("run", "Do it", "--mcp", "filesystem", "--access", "write")


def runs(desk: Shell) -> Path:
    return desk.folder.parent / "home" / "runs"


def run_id(desk: Shell) -> str:
    [journal] = runs(desk).glob("*.jsonl")
    return journal.stem


async def test_result_says_what_was_changed_and_how_to_undo_it(desk: Shell, sim: Simulator) -> None:
    code, out, err = await change(desk, sim, EDIT, CREATE)

    assert code == 0, err
    _, _, told = out.partition("It is done.\n\n")
    assert told.startswith(
        "Changed: new.md (created, +2), notes.txt (+1 \N{MINUS SIGN}1)\n"
        f"Undo with: lmstudio-bridge runs undo {run_id(desk)}\n\n```diff\n"
    )
    assert "\n-The launch code word is heron-42.\n+The launch code word is egret-7.\n```\n\n[Local model" in told


async def test_the_model_reads_what_each_of_its_calls_changed_and_the_result_says_it_once(
    desk: Shell, sim: Simulator
) -> None:
    write = ("filesystem__write_file", {"path": "notes.txt", "content": WORD.replace("heron", "egret")})

    _, out, _ = await change(desk, sim, CREATE, write, write, EDIT)

    body = json.loads(sim.requests[-1].body)
    created, changed, same, failed = [each["content"] for each in body["messages"] if each["role"] == "tool"]
    diff = "@@ -1 +1 @@\n-The launch code word is heron-42.\n+The launch code word is egret-42.\n"
    assert "\nnew.md: created, 2 lines\n" in created
    assert f"\n+++ notes.txt\n{diff}" in changed
    assert same.endswith("\nThis call changed nothing: the file is as it was.")
    assert failed.startswith("The call failed: ")
    assert (out.count("+The launch code word is egret-42."), out.count("created, 2 lines")) == (1, 0)


async def test_changes_are_in_the_figures_the_page_and_the_whole_diff(desk: Shell, sim: Simulator) -> None:
    long = "".join(f"line {number}\n" for number in range(100))
    _, out, _ = await change(desk, sim, ("filesystem__write_file", {"path": "long.txt", "content": long}))
    _, diff, _ = await desk.run("runs", "show", "last", "--diff")
    _, shown, _ = await desk.run("runs", "show", "last", "--json")
    await desk.run("runs", "show", "last", "--html", "page.html")

    assert "\n+line 36\n… 63 more lines; `lmstudio-bridge runs show" in out
    assert "\n+line 99\n" not in out
    assert diff.startswith("long.txt (created, +100)\n--- /dev/null\n+++ long.txt\n@@ -0,0 +1,100 @@\n+line 0\n")
    assert "\n+line 99\n" in diff
    changes = json.loads(shown)["changes"]
    assert (changes["created"], changes["changed"], changes["files"][0]["added"]) == (1, 0, 100)
    assert "+line 99" in (desk.folder / "page.html").read_text(encoding="utf-8")


async def test_write_that_leaves_its_file_as_it_was_is_no_success(desk: Shell, sim: Simulator) -> None:
    same = ("filesystem__write_file", {"path": "notes.txt", "content": WORD})

    code, out, _ = await change(desk, sim, same)

    assert code == 1
    assert out.startswith("Nothing was changed: notes.txt is as it was.\n\nIt is done.")
    assert "Undo with" not in out


async def test_undo_puts_everything_back_and_can_be_undone(desk: Shell, sim: Simulator) -> None:
    move = ("filesystem__move_file", {"source": "notes.txt", "destination": "moved.txt"})
    folder = ("filesystem__create_directory", {"path": "made/below"})
    inner = ("filesystem__write_file", {"path": "made/below/x.txt", "content": "x"})
    entry = config_entry(npm_server("filesystem"), str(desk.folder))
    configure(Shell(desk.folder, {}), filesystem={**entry, "env": {"A_TOKEN": "not-yet-in-a-file"}})
    create = ("filesystem__write_file", {"path": "new.md", "content": "one\nwhat-is-a-secret-later\n"})
    code, out, err = await change(desk, sim, move, create, folder, inner)
    assert code == 0, err
    assert "moved.txt (moved from notes.txt)" in out

    def files() -> dict[str, str]:
        return {
            str(path.relative_to(desk.folder)): path.read_text(encoding="utf-8") if path.is_file() else ""
            for path in desk.folder.rglob("*")
            if path.name != ".mcp.json"
        }

    changed = files()
    refused, _, said = await desk.run("runs", "undo", "last")
    declined, _ = await desk.answer("n", "runs", "undo", "last")
    assert (refused, declined, files()) == (2, 1, changed)
    assert "Use --yes" in said

    agreed, shown = await desk.answer("y", "runs", "undo", "last")
    assert agreed == 0, shown
    assert "notes.txt (moved from moved.txt)" in shown
    assert files() == {"notes.txt": WORD}
    _, continued, _ = await desk.run("continue", "last")
    assert "Undone since: " in continued

    configure(Shell(desk.folder, {}), filesystem={**entry, "env": {"A_TOKEN": "what-is-a-secret-later"}})
    elsewhere = replace(desk, folder=desk.folder.parent)
    again, out, err = await elsewhere.run("runs", "undo", run_id(desk), "--yes")
    assert again == 0, err
    assert "+[secret]\n" in out, "the secrets of the run's project count"
    [journal] = runs(desk).glob("*.jsonl")
    of_undos = journal.read_text(encoding="utf-8").rpartition('"RunFinished"')[2]
    assert "new.md" in of_undos
    assert "what-is-a-secret-later" not in of_undos, "it was undone before that was known as a secret"
    assert f"In {desk.folder}:\n" in err
    assert f"In {desk.folder}" not in said
    assert files() == changed


async def test_interrupted_run_says_what_can_be_undone(desk: Shell, sim: Simulator) -> None:
    await change(desk, sim, CREATE)
    earlier = run_id(desk)
    sim.script(MODEL, CallReply(EDIT), TextReply("never", faults=(Stall(),)))
    process = await desk.start("run", "Do it", "--mcp", "filesystem", "--access", "write")
    await sim.wait_for_request(4, path="/v1/chat/completions")
    early, _, refused = await desk.run("runs", "undo", "last", "--yes")
    beside, _, other = await desk.run("runs", "undo", earlier, "--yes")
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(LIMIT):
        _, err = await process.communicate()

    code, _, _ = await desk.run("runs", "undo", "last", "--yes")

    assert (early, "is still running" in refused) == (1, True), refused
    [later] = {journal.stem for journal in runs(desk).glob("*.jsonl")} - {earlier}
    assert (beside, f"changing files in the same folder: {later}.\nNothing was undone." in other) == (1, True), other
    assert (desk.folder / "new.md").exists()
    assert f"It changed files; to undo that: lmstudio-bridge runs undo {later}" in err.decode()
    assert code == 0
    assert (desk.folder / "notes.txt").read_text(encoding="utf-8") == WORD


async def test_what_a_killed_run_changed_is_undone(desk: Shell, sim: Simulator) -> None:
    sim.script(MODEL, CallReply(EDIT), CallReply(CREATE), TextReply("never", faults=(Stall(),)))
    process = await desk.start("run", "Do it", "--mcp", "filesystem", "--access", "write")
    await sim.wait_for_request(3, path="/v1/chat/completions")
    process.kill()
    async with asyncio.timeout(LIMIT):
        await process.communicate()
    configure(desk, filesystem={"command": "/gone"})
    assert (await desk.run("continue", "last"))[0] == 1, "which compares nothing"

    code, diff, err = await desk.run("runs", "undo", "last", "--yes")

    assert code == 0, err
    assert "The bridge ended before the run did. Changes that others made since then are undone, too." in err
    assert "+The launch code word is egret-7." not in diff.splitlines()
    assert (desk.folder / "notes.txt").read_text(encoding="utf-8") == WORD
    assert not (desk.folder / "new.md").exists()

    code, _, err = await desk.run("runs", "undo", "last", "--yes")
    assert code == 0, err
    assert (desk.folder / "new.md").exists()
    await desk.run("runs", "delete", "last", "--yes")
    assert list(runs(desk).iterdir()) == []


async def test_file_that_was_changed_since_is_left_alone(desk: Shell, sim: Simulator) -> None:
    await change(desk, sim, EDIT, CREATE)
    (desk.folder / "notes.txt").write_text("mine", encoding="utf-8")

    code, _, err = await desk.run("runs", "undo", "last", "--yes")

    assert code == 1
    assert "Left alone: notes.txt (changed since)" in err
    assert (desk.folder / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert not (desk.folder / "new.md").exists()


async def test_copies_are_private_and_go_with_the_journal(desk: Shell, sim: Simulator) -> None:
    await change(desk, sim, EDIT)
    copies = runs(desk) / f"{run_id(desk)}.files"

    assert copies.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in copies.iterdir()] == [0o600]
    await desk.run("runs", "delete", "last", "--yes")
    assert list(runs(desk).iterdir()) == []


@pytest.mark.parametrize("journal", ["off", "audit"])
async def test_nothing_is_copied_where_no_text_may_be_kept(desk: Shell, sim: Simulator, journal: str) -> None:
    code, out, err = await change(desk, sim, EDIT, LMSTUDIO_BRIDGE_JOURNAL=journal)

    assert code == 0, err
    assert "Changed: notes.txt (+1 \N{MINUS SIGN}1)\n\n```diff\n" in out
    assert not [path for path in desk.folder.parent.rglob("*.files") if path.is_dir()]
    assert not [path for path in runs(desk).rglob("*") if path.is_file() and b"heron" in path.read_bytes()]


async def test_changes_of_a_composite_tool_are_seen(desk: Shell, sim: Simulator) -> None:
    replace = ("replace_text", {"path": ".", "old": "heron-42", "new": "egret-7"})

    code, out, err = await change(desk, sim, replace)

    assert code == 0, err
    assert "Changed: notes.txt (+1 \N{MINUS SIGN}1)\n" in out


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"heron-42\r\nend\r\n", b"egret-7\r\nend\r\n"),
        (b"\xef\xbb\xbfheron-42", b"\xef\xbb\xbfegret-7"),
        ("\u200bheron-42\u202e\u2028\n\n\n".encode(), "\u200begret-7\u202e\u2028\n\n\n".encode()),
        (b"heron-42 \x00\x1b[31m\n", b"egret-7 \x00\x1b[31m\n"),
        (b"caf\xe9 heron-42\n", b"caf\xe9 heron-42\n"),
        (b"sekret-value-9931 heron-42\n", b"sekret-value-9931 egret-7\n"),
    ],
)
async def test_a_replacement_keeps_every_other_byte(desk: Shell, sim: Simulator, before: bytes, after: bytes) -> None:
    (desk.folder / "notes.txt").write_bytes(before)
    replace = ("replace_text", {"path": "notes.txt", "old": "heron-42", "new": "egret-7"})

    _, out, _ = await change(desk, sim, replace, LM_API_TOKEN="sekret-value-9931")

    assert (desk.folder / "notes.txt").read_bytes() == after
    assert "sekret-value-9931" not in out


async def test_a_composite_tool_stays_in_the_workspace_and_off_protected_files(desk: Shell, sim: Simulator) -> None:
    outside = desk.folder.parent / "outside.txt"
    outside.write_text(WORD, encoding="utf-8")
    (desk.folder / "link.txt").symlink_to(outside)
    protected = desk.folder / ".mcp.json"
    before = protected.read_bytes()
    calls: list[tuple[str, dict[str, Any]]] = [
        ("replace_text", {"path": path, "old": old, "new": "egret-7"})
        for path, old in ((str(outside), "heron"), ("../outside.txt", "heron"), (".", "args"), ("link.txt", "heron"))
    ]
    calls += [
        ("find_text", {"text": "heron", "folder": "../"}),
        ("read_files", {"paths": ["../*.txt", "../outside.txt"]}),
    ]

    await change(desk, sim, *calls)

    assert outside.read_text(encoding="utf-8") == WORD
    assert protected.read_bytes() == before
    results = [each["content"] for each in json.loads(sim.requests[-1].body)["messages"] if each["role"] == "tool"]
    assert len(results) == len(calls)
    assert all(each.startswith("The call failed: ") and "launch code" not in each for each in results)


async def test_secrets_do_not_reach_the_diff(desk: Shell, sim: Simulator) -> None:
    (desk.folder / "notes.txt").write_text("token: sekret-value-9931\nheron-42\n", encoding="utf-8")

    _, out, _ = await change(desk, sim, EDIT, LM_API_TOKEN="sekret-value-9931")
    _, diff, _ = await desk.run("runs", "show", "last", "--diff")

    assert "+egret-7" in out
    assert "[secret]" in diff
    assert "sekret-value-9931" not in out + diff
