"""Real servers in the real sandbox: what the bridge lets through, the system still forbids."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lmstudio_sim.replies import CallReply, TextReply
from tests.support.bubblewrap import needs_bubblewrap
from tests.support.desk import MODEL, Desk
from tests.support.npm_servers import config_entry, npm_server
from tests.support.processes import processes_that_name, until_dead
from tests.support.raw_client import Answer

pytestmark = [
    pytest.mark.npm,
    pytest.mark.asyncio(loop_scope="module"),
    needs_bubblewrap,
]

SERVER = Path(__file__).parents[1] / "support" / "prying_server.py"
JUDGE_NO_PATH = '[paths.arguments]\n"prying/*" = []\n'


def prying(script: Path = SERVER) -> dict[str, Any]:
    return {"command": sys.executable, "args": [str(script)]}


async def run(desk: Desk, server: str, *calls: tuple[str, dict[str, Any]], writes: bool) -> tuple[Answer, list[str]]:
    """A run whose model makes these calls, one a round; and their results as the model read them."""
    desk.sim.script(MODEL, *(CallReply((f"{server}__{tool}", given)) for tool, given in calls), TextReply("Done."))
    async with desk.bridge() as client:
        if writes:
            answer = await client.call("autonomous_with_write_access", mcp_names=[server], task="Do it.")
        else:
            answer = await client.call("autonomous_with_mcp", mcp_name=server, task="Do it.")
    assert desk.chat_requests(), answer.text
    messages = desk.chat_requests()[-1].messages
    return answer, [str(message["content"]) for message in messages if message["role"] == "tool"]


async def test_in_a_read_run_the_workspace_cannot_be_changed_even_by_a_call_that_is_allowed(desk: Desk) -> None:
    desk.configure(filesystem=config_entry(npm_server("filesystem"), str(desk.project)))
    desk.write_rules('sandbox = true\nallow = ["filesystem/write_file"]\n')
    file = desk.project / "new.txt"
    write = ("write_file", {"path": str(file), "content": "new"})

    answer, (text, refused) = await run(
        desk, "filesystem", ("read_text_file", {"path": desk.notes}), write, writes=False
    )

    assert "heron-42" in text
    assert "EROFS" in refused
    assert not file.exists()
    assert "It runs in a sandbox, without network" in answer.text
    assert "`filesystem = false`" in answer.text

    _, (written,) = await run(desk, "filesystem", write, writes=True)

    assert "Successfully wrote" in written
    assert file.exists()


@pytest.mark.parametrize(
    ("entry_in", "rules", "confined", "network"),
    [
        ("the user's file", "[sandbox]\nprying = true\n", True, False),
        ("the user's file", "[sandbox]\nprying = { network = true }\n", True, True),
        ("the project's file", "", True, False),
        ("the project's file", "sandbox = false\n", False, True),
    ],
)
async def test_only_the_workspace_is_there_and_protected_files_stay(
    desk: Desk, entry_in: str, rules: str, confined: bool, network: bool
) -> None:
    if entry_in == "the project's file":
        desk.configure()
        shutil.copy(SERVER, desk.project)
        desk.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        own = json.dumps({"mcpServers": {"prying": {"command": "python", "args": [SERVER.name, "aws/credentials"]}}})
        (desk.project / ".mcp.json").write_text(own, encoding="utf-8")
    else:
        desk.configure(prying=prying())
    desk.write_rules(rules + JUDGE_NO_PATH)
    secret = Path(desk.environ["HOME"]) / ".aws" / "credentials"
    hook = desk.project / ".git" / "hooks" / "pre-commit"
    for file in (secret, hook):
        file.parent.mkdir(parents=True)
        file.write_text("old", encoding="utf-8")
    (desk.project / "aws").symlink_to(secret.parent)
    calls: list[dict[str, Any]] = [
        {"read": str(desk.project / "notes.txt")},
        {"write": str(desk.project / "new.txt")},
        {"read": str(secret)},
        {"read": str(desk.project / "aws" / secret.name)},
        {"write": str(hook)},
        {"write": str(desk.project / ".envrc")},
        {"connect": desk.sim.port},
    ]

    answer, results = await run(desk, "prying", *(("pry", call) for call in calls), writes=True)

    text, written, outside, linked, hooked, _, connected = results
    assert "heron-42" in text
    assert "done" in written
    assert (desk.project / "new.txt").read_text(encoding="utf-8") == "new"
    assert ("No such file" in outside) == ("No such file" in linked) == confined
    assert ("Read-only file system" in hooked) == confined
    assert hook.read_text(encoding="utf-8") == ("old" if confined else "new")
    assert ("done" in connected) == network
    assert f"which no call may name: {desk.project / '.envrc'}" in answer.text, "it could not be held"
    assert (str(hook) in answer.text) != confined


async def test_in_a_read_run_protected_files_are_held_and_watched_in_what_write_names(desk: Desk) -> None:
    desk.configure(prying=prying())
    rules = f'allow = ["prying/pry"]\n[sandbox]\nprying = {{ write = ["{desk.project}"] }}\n'
    desk.write_rules(rules + JUDGE_NO_PATH)
    hook, created = desk.project / ".git" / "hooks" / "pre-commit", desk.project / ".envrc"
    hook.parent.mkdir(parents=True)

    answer, (hooked, written) = await run(
        desk, "prying", *(("pry", {"write": str(each)}) for each in (hook, created)), writes=False
    )

    assert "Read-only file system" in hooked
    assert "done" in written
    assert f"which no call may name: {created}" in answer.text


async def test_what_a_server_leaves_behind_in_a_group_of_its_own_ends_too(desk: Desk) -> None:
    desk.configure(prying=prying())
    desk.write_rules("sandbox = true\n" + JUDGE_NO_PATH)
    mark = desk.project / "left-behind"
    desk.sim.script(MODEL, CallReply(("prying__pry", {"leave": str(mark)})), TextReply("Done."))

    async with desk.bridge(fresh=True) as client:
        await client.call("autonomous_with_write_access", mcp_names=["prying"], task="Do it.")
        left = processes_that_name(mark)
        assert left, "it runs"

    for pid in left:
        await until_dead(pid)


async def test_no_value_of_an_entry_is_taken_for_a_word_of_ours_and_no_descriptor_is_left_open(desk: Desk) -> None:
    desk.configure()
    shutil.copy(SERVER, desk.project)
    start, seen, escaped = (desk.project / name for name in ("start.sh", "seen", "escaped"))
    start.write_text(f'ls /proc/self/fd > "{seen}"\nexec "{sys.executable}" {SERVER.name}\n', encoding="utf-8")
    for number in range(3, 200):  # what bubblewrap would start, if a descriptor took the place of the command
        program = desk.project / str(number)
        program.write_text(f'#!/bin/sh\nls / > "{escaped}"\n', encoding="utf-8")
        program.chmod(0o755)
    path = os.pathsep.join([str(desk.project), "/usr/bin", "/bin"])
    values = {"LD_A": "--bind-held", "LD_B": "--ro-bind-fd", "LD_C": "--", "PATH": path}
    own = json.dumps({"mcpServers": {"prying": {"command": "sh", "args": [start.name], "env": values}}})
    (desk.project / ".mcp.json").write_text(own, encoding="utf-8")
    desk.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    _, (text,) = await run(desk, "prying", ("pry", {"read": str(desk.project / "notes.txt")}), writes=True)

    assert "heron-42" in text
    assert not escaped.exists()
    assert seen.read_text(encoding="utf-8").split() == ["0", "1", "2", "3"], "3 is what `ls` reads"
