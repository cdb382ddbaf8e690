"""The first seconds of a server: it answers while the rest is still being imported, and says what could not be."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.changing_server import entry
from tests.support.desk import assert_names, open_desk
from tests.support.fork_server import BRIDGE
from tests.support.raw_client import EXIT_LIMIT, Era, RawClient, open_raw_client

BROKEN = 'raise ModuleNotFoundError("No module named \'part\'", name="part")\n'

HELD = """\
with open({gate!r}, encoding="utf-8") as gate:
    gate.read()
def repair_json(text, **options):
    return text
"""
"""Stands in for json-repair, and is imported only when a gate (a FIFO) has been opened and closed."""


class Gate:
    """Where the import of json-repair waits until it is let through."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    async def reached(self) -> None:
        """The import has come to the gate: opening a FIFO waits for the other side."""
        opening = asyncio.create_task(asyncio.to_thread(os.open, self._path, os.O_WRONLY))
        try:
            async with asyncio.timeout(EXIT_LIMIT):
                self._file = await asyncio.shield(opening)
        finally:
            if not opening.done():
                os.close(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK))  # lets the thread end

    def open(self) -> None:
        os.close(self._file)


@asynccontextmanager
async def open_held(folder: Path, *, era: Era = "2026-07-28") -> AsyncIterator[tuple[RawClient, Gate]]:
    """A bridge that has listed its tools while the rest is still being imported."""
    gate = folder / "gate"
    os.mkfifo(gate)
    (folder / "json_repair.py").write_text(HELD.format(gate=str(gate)), encoding="utf-8")
    environ = {"PYTHONPATH": os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", "")))}
    async with open_raw_client(era=era, environ=environ, command=BRIDGE) as client:
        await client.request("tools/list", {})
        held = Gate(gate)
        await held.reached()
        yield client, held


def broken(folder: Path, module: str, part: str) -> dict[str, str]:
    """An environment in which this module cannot be imported, as a part of it is missing."""
    (folder / f"{module}.py").write_text(BROKEN.replace("part", part), encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", "")))}


posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no FIFOs and none of these signals")


@posix
async def test_importing_the_rest_delays_nobody_who_does_not_need_it(tmp_path: Path) -> None:
    async with open_held(tmp_path, era="2025-11-25") as (client, gate):
        await client.request("ping", {})
        assert len((await client.request("tools/list", {}))["tools"]) == 5
        refused = await client.call("autonomous_with_mcp", mcp_name="x", task="y", max_rounds=0)
        gate.open()

    assert_names(refused, "max_rounds")


@posix
async def test_a_call_during_the_import_waits_for_it_and_cancelling_one_leaves_the_others(
    tmp_path: Path,
) -> None:
    async with open_held(tmp_path) as (client, gate):
        cancelled = await client.start_call("continue_run", run_id="20260101-000000-aaaaa")
        waiting = await client.start_call("continue_run", run_id="20260101-000000-bbbbb")
        await client.cancel(cancelled)
        await client.request("tools/list", {})  # answered after the cancel was read
        assert client.answers_to(waiting) == []
        gate.open()
        answer = await client.answer_of(waiting)

    assert_names(answer, "20260101-000000-bbbbb")
    assert client.answers_to(cancelled) == []


@posix
async def test_the_host_may_go_during_the_import(tmp_path: Path) -> None:
    async with open_held(tmp_path) as (client, gate):
        stdin = client.process.stdin
        assert stdin is not None
        stdin.close()
        gate.open()
        async with asyncio.timeout(EXIT_LIMIT):
            code = await client.process.wait()

    assert (code, client.stderr.decode(), client.stray) == (0, "", [])


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
async def test_a_signal_does_not_wait_for_the_import(tmp_path: Path, name: str) -> None:
    """The gate stays shut: the process goes by itself."""
    number = signal.Signals[name]
    async with open_held(tmp_path) as (client, gate):
        waiting = await client.start_call("continue_run", run_id="20260101-000000-aaaaa")
        client.process.send_signal(number)
        async with asyncio.timeout(EXIT_LIMIT):
            code = await client.process.wait()
        gate.open()

    assert (code, client.stderr.decode()) == (128 + number, "")
    assert client.answers_to(waiting) == []


async def test_a_part_that_cannot_be_imported_is_named_to_every_caller(tmp_path: Path) -> None:
    environ = broken(tmp_path, "httpx", "part")
    async with open_raw_client(era="2025-11-25", environ=environ, command=BRIDGE) as client:
        calls = [await client.call("continue_run", run_id="20260101-000000-aaaaa") for _ in range(2)]
        read = await client.answer_to(await client.start("resources/read", {"uri": "lmstudio://models"}))
        assert len((await client.request("tools/list", {}))["tools"]) == 5
        code = await client.close_stdin()

    for answer in calls:
        assert_names(answer, "No module named 'part'", "Reinstall lmstudio-bridge")
    assert "No module named 'part'" in read["error"]["message"]
    assert code == 0
    assert client.stderr.decode().count("Traceback") == 1, "once, for who reads the log"


async def test_a_part_that_only_a_run_imports_is_named_to_its_caller(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
        desk.configure(notes=entry(tmp_path / "notes.json", {"name": "list"}))
        desk.environ |= broken(tmp_path, "jsonschema", "rpds")
        async with desk.bridge("2026-07-28", options={"command": BRIDGE}) as client:
            answer = await client.call("autonomous_with_mcp", mcp_name="notes", task="Do it.", output_schema={})

    assert_names(answer, "No module named 'rpds'", "Reinstall lmstudio-bridge")
    assert client.stderr.decode().count("Traceback") == 1, "once, for who reads the log"


async def test_a_file_with_certificates_that_is_none_is_told_without_a_traceback(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate", encoding="utf-8")
    environ = {"LMSTUDIO_BASE_URL": "https://127.0.0.1:1/v1", "LMSTUDIO_BRIDGE_CA_FILE": str(bad)}

    async with open_raw_client(era="2025-11-25", environ=environ, command=BRIDGE) as client:
        answer = await client.call("autonomous_discover_and_execute", task="Do it.")

    assert_names(answer, f"{bad} cannot be used", "Set LMSTUDIO_BRIDGE_CA_FILE")
    assert f"{bad} cannot be used" in client.stderr.decode()
    assert "Traceback" not in client.stderr.decode()
