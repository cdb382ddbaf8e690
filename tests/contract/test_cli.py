"""The command line, as a process of its own."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import CallReply, Stall, TextReply
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.support.journals import read_journal, stop_of, write_journal
from tests.support.npm_servers import config_entry, npm_server
from tests.support.processes import SLOPPY, processes_that_name
from tests.support.shell import LIMIT, MODEL, Shell, configure, environment


async def test_version_and_help_are_plain_text_on_stdout(shell: Shell) -> None:
    assert await shell.run("--version") == (0, f"lmstudio-bridge {version('lmstudio-bridge')}\n", "")
    code, out, err = await shell.run("--help")
    assert (code, err) == (0, "")
    assert all(command in out for command in ("serve", "run", "doctor", "exit codes"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("servers",),
        ("models",),
        ("doctor",),
        ("run", "x\x1b[2J", "--mcp", "evil\x1b[2J\u202e\x9b31m"),
        ("run", "x", "--model", "none\x1b[2J"),
        ("runs",),
    ],
)
async def test_no_name_of_others_reaches_the_terminal_as_a_code(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A project names its servers as it likes, and LM Studio its models."""
    name = "evil\x1b[2J\u202e\x9b31m"
    async with open_simulator([SimModel(name, loaded=True, context_length=32_768)]) as sim:
        shell = Shell(tmp_path, environment(tmp_path, sim))
        configure(shell, **{name: {"command": name}, f"{name}2": {"type": name}, "x": {"command": f"${{{name}}}"}})
        (tmp_path / "lmstudio-bridge.toml").write_text(f"deny = [{json.dumps(f'{name}/x')}]", encoding="utf-8")
        write_journal(tmp_path / "home" / "runs", "20260101-000000-aaaaa", task=name, servers=[name])

        _, out, err = await shell.run(*arguments)

    assert "evil" in out + err or "none" in err
    assert not set(out + err) & {"\x1b", "\u202e", "\x9b"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
async def test_a_run_ended_by_a_signal_leaves_its_journal_and_no_server(
    shell: Shell, sim: Simulator, number: signal.Signals, code: int
) -> None:
    configure(
        shell,
        sloppy={"command": sys.executable, "args": [str(SLOPPY), json.dumps({"stubborn": True}), str(shell.folder)]},
    )
    sim.script(MODEL, TextReply("never", faults=(Stall(),)))

    process = await shell.start("run", "Wait for ever", "--mcp", "sloppy", "--access", "write")
    request = await sim.wait_for_request(path="/v1/chat/completions")
    servers = processes_that_name(shell.folder)
    process.send_signal(number)
    async with asyncio.timeout(LIMIT):
        _, err = await process.communicate()
        await request.ended.wait()

    assert process.returncode == code, err.decode()
    assert (len(servers), processes_that_name(shell.folder)) == (1, [])
    assert request.disconnected
    (journal,) = (shell.folder / "home" / "runs").glob("*.jsonl")
    assert stop_of(read_journal(journal)) == "cancelled"
    assert journal.stem in err.decode()
    assert "Traceback" not in err.decode()


@pytest.mark.npm
async def test_run_prints_the_answer_on_stdout_and_progress_on_stderr(shell: Shell, sim: Simulator) -> None:
    """A terminal that cannot show a character does not cost the answer."""
    configure(shell, filesystem=config_entry(npm_server("filesystem"), str(shell.folder)))
    sim.script(
        MODEL, CallReply(("filesystem__read_text_file", {"path": "notes.txt"})), TextReply("It is heron-42 → yes.")
    )
    narrow = Shell(shell.folder, {**shell.environ, "PYTHONIOENCODING": "ascii"})

    code, out, err = await narrow.run("run", "What is the code word?", "--mcp", "filesystem", "--max-rounds", "5")

    assert code == 0, err
    assert "It is heron-42 ? yes.\n\n[Local model output" in out
    assert "servers: filesystem" in err


async def test_a_folder_that_is_gone_is_said_with_exit_code_2(shell: Shell) -> None:
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$0" -m lmstudio_bridge doctor', sys.executable),
        cwd=shell.folder,
        env=dict(shell.environ),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT):
        _, err = await process.communicate()

    assert process.returncode == 2, err.decode()
    assert err.decode().startswith("The current folder cannot be used")


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX closes them")
@pytest.mark.parametrize("closed", ["<&-", ">&-"])
async def test_a_server_without_a_way_to_its_host_says_so_with_exit_code_2(shell: Shell, closed: str) -> None:
    process = await asyncio.create_subprocess_shell(
        f"exec {shlex.quote(sys.executable)} -m lmstudio_bridge {closed}",
        cwd=shell.folder,
        env=dict(shell.environ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT):
        _, err = await process.communicate()

    assert process.returncode == 2
    assert "stdin or stdout is closed" in err.decode()
    assert "lmstudio-bridge install" in err.decode()
    assert "Traceback" not in err.decode()


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "told"),
    [
        (("serve",), {"LMSTUDIO_BASE_URL": "ftp://nowhere"}, 2, ["LMSTUDIO_BASE_URL", "http://127.0.0.1:1234/v1"]),
        (("run", "x", "--mcp", "filesystem"), {}, 1, ["No MCP server named 'filesystem'"]),
        (("run", "x" * 10_001), {}, 2, ["TASK: must have 1 to 10,000 characters, not 10,001"]),
        *(
            (arguments, {}, 2, ["usage: lmstudio-bridge"])
            for arguments in (
                *(("run", "x", "--max-rounds", number) for number in ("0", "1001")),
                *(("run",), ("nonsense",)),
            )
        ),
    ],
)
async def test_what_cannot_be_done_is_told_on_stderr(
    shell: Shell, arguments: tuple[str, ...], environ: dict[str, str], code: int, told: list[str]
) -> None:
    got, out, err = await Shell(shell.folder, {**shell.environ, **environ}).run(*arguments)

    assert (got, out) == (code, "")
    assert all(each in err for each in told), err
    assert "Traceback" not in err


@pytest.mark.npm
async def test_doctor_finds_everything_in_place(shell: Shell) -> None:
    configure(shell, filesystem=config_entry(npm_server("filesystem"), str(shell.folder)))

    code, out, err = await shell.run("doctor")

    assert code == 0, out + err
    assert f"\N{HEAVY CHECK MARK} Model: {MODEL} (loaded, context 32,768 tokens of at most 131,072)" in out
    assert "MCP server filesystem: 14 tools" in out
    assert f"Rules: none (from {shell.folder}/" in out
    assert f"Workspace: {shell.folder}" in out
    assert "\N{HEAVY BALLOT X}" not in out


@pytest.mark.npm
async def test_a_run_from_the_shell_only_reads_unless_told_otherwise(shell: Shell, sim: Simulator) -> None:
    configure(shell, filesystem=config_entry(npm_server("filesystem"), str(shell.folder)))
    path = shell.folder / "a.txt"
    sim.script(MODEL, CallReply(("filesystem__write_file", {"path": str(path), "content": "x"})), TextReply("Done."))

    code, out, _ = await shell.run("run", "Write it.")

    assert (code, path.exists()) == (1, False)
    assert out.startswith("Nothing was changed: this run could only read.\nFailed: write_file ")


@pytest.mark.npm
async def test_a_write_that_failed_and_was_made_good_is_a_success(shell: Shell, sim: Simulator) -> None:
    """One that was not is in test_outcomes.py."""
    configure(shell, filesystem=config_entry(npm_server("filesystem"), str(shell.folder)))
    path = shell.folder / "no" / "a.txt"
    write = CallReply(("filesystem__write_file", {"path": str(path), "content": "x"}))
    make = CallReply(("filesystem__create_directory", {"path": str(path.parent)}))
    sim.script(MODEL, write, make, write, TextReply("I wrote the summary."))

    code, out, err = await shell.run("run", "Write the summary to no/a.txt.", "--access", "write")

    assert (code, path.exists()) == (0, True), err
    assert out.startswith("I wrote the summary.\n\nChanged: no/a.txt (created, +1)\n")
    assert "\n\n[Local model output, unverified · " in out


async def test_doctor_names_what_is_missing_and_what_to_do(shell: Shell, sim: Simulator) -> None:
    configure(shell, broken={"command": "no-such-command-anywhere"})
    await sim.stop()

    code, out, _ = await shell.run("doctor")

    assert code == 1
    assert "\N{HEAVY BALLOT X} LM Studio: LM Studio does not answer at" in out
    assert "lms server start" in out
    assert "\N{HEAVY BALLOT X} MCP server broken" in out
    assert "no-such-command-anywhere" in out
