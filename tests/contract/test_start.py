"""What the start imports: no more than a list, whoever asks for the tools; the rest comes later, and fails aloud.

Counted in modules, not in seconds, by real processes under `-X importtime`.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.changing_server import entry
from tests.support.desk import assert_names, open_desk
from tests.support.raw_client import ERAS, EXIT_LIMIT, Era, RawClient, open_raw_client

PACKAGE = "lmstudio_bridge"
SERVICE = f"{PACKAGE}.service"
"""Imports all that a run needs: never before the tools have been listed."""

SHELL = {PACKAGE, *(f"{PACKAGE}.{name}" for name in ("cli", "collector", "hosts"))}
"""Our modules for --version and --help, besides those of `commands`."""

REDACTION = {
    f"{PACKAGE}.{name}" for name in ("agent", "agent.fence", "key_shapes", "messages", "redaction", "spellings")
}
"""No line of the log is written without them."""

START = (
    SHELL
    | REDACTION
    | {
        f"{PACKAGE}.{name}"
        for name in ("answers", "app", "ending", "errors", "host_input", "request", "resources", "server", "settings")
    }
)
"""Our modules until the tools are listed."""

SHELL_LIBRARIES = {
    "collections",
    "gc",
    "json",
    "shlex",
    "typing",
    "unicodedata",  # where there is no .pyc yet: Python compiles a named character with it
}
"""The standard library's modules for --version and --help, besides those of a small program that reads arguments."""

START_LIBRARIES = {"argparse", "gettext", "difflib", "gc"}
"""Modules of others until the tools are listed, besides those that no server on the bare SDK can do without."""

SPARED = {"rich"}
"""Libraries that a server on the bare SDK imports, if they are there, and ours does not."""

RUN_LIBRARIES = {"httpx"}
"""Libraries that the service imports itself, besides the MCP SDK and what comes with it.

Each is imported before the first run can start its servers; what only some runs need, or a run later, comes later.
"""


@dataclass(frozen=True, slots=True)
class Import:
    """A module that was imported, and the one that imported it first; "" is the program."""

    name: str
    importer: str


def imports_of(report: str) -> list[Import]:
    """Every import in what `-X importtime` writes: a module after all that it imports, which stand further right."""
    found = re.findall(r"^import time: +\d+ \| +\d+ \|( +)(\S+)$", report, flags=re.MULTILINE)
    importers: dict[int, str] = {}  # by depth, of the module whose imports stand above
    imports: list[Import] = []
    for blanks, name in reversed(found):
        importers[len(blanks)] = name
        imports.append(Import(name, importers.get(len(blanks) - 2, "")))
    return imports[::-1]


def without_subtree(imports: Iterable[Import], root: str) -> list[Import]:
    """The imports before `root` was there, without those that it made."""
    rest: list[Import] = []
    inside: set[str] = set()
    for each in reversed(list(imports)):
        if each.name == root:
            rest, inside = [], {root}
        elif each.importer in inside:
            inside.add(each.name)
        else:
            rest.append(each)
    return rest[::-1]


def too_much(imports: Iterable[Import], *, ours: set[str], libraries: set[str], floor: set[str]) -> list[str]:
    """In words, what is neither in the lists nor in the floor, and who of the others brings it in."""
    found = [
        each
        for each in imports
        if each.name not in ours
        and not each.name.startswith(f"{PACKAGE}.commands")
        and each.name not in floor
        and each.name.partition(".")[0] not in libraries
        and not (each.name.startswith("_") and each.name.partition(".")[0] in sys.stdlib_module_names)
    ]
    names = {each.name for each in found}
    return [f"{each.importer or 'the program'} imports {each.name}" for each in found if each.importer not in names]


async def report_of(*arguments: str) -> str:
    """What a Python program writes to stderr that runs to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-X", "importtime", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(EXIT_LIMIT):
        _, report = await process.communicate()
    assert process.returncode == 0, report.decode()
    return report.decode()


async def served(era: Era, module: str, *methods: str, reads: str = "") -> list[Import]:
    """All imports of a server that is opened, asked for these lists, then for a resource, and ended."""
    command = (sys.executable, "-X", "importtime", "-m", module)
    async with open_raw_client(era=era, environ={}, command=command) as client:
        for method in methods:
            await client.request(method, {})
        if reads:
            await client.request("resources/read", {"uri": reads})
    return imports_of(client.stderr.decode())


@pytest.mark.parametrize("era", ERAS)
async def test_until_the_tools_are_listed_only_what_is_on_the_list_is_imported(era: Era) -> None:
    bare, bridge = await asyncio.gather(
        served(era, "tests.support.one_tool_server", "tools/list"),
        served(era, PACKAGE, "tools/list", reads="lmstudio://runs"),
    )
    imports = without_subtree(bridge, SERVICE)
    floor = {each.name for each in bare}

    assert too_much(imports, ours=START, libraries=START_LIBRARIES, floor=floor) == []
    assert SPARED & floor == SPARED, "what the bare SDK imports for nothing"
    assert SPARED & {each.name for each in imports} == set()
    assert {each.name for each in bridge} >= {SERVICE, "httpx", f"{PACKAGE}.autonomous"}, "what is read was imported"
    assert START - {each.name for each in imports} == set(), "what nobody needs any more is taken off the list"


async def test_until_the_servers_of_a_run_start_only_libraries_on_the_list_are_imported() -> None:
    imports = await served("2026-07-28", PACKAGE, "tools/list", reads="lmstudio://runs")

    before = {each.name for each in without_subtree(imports, SERVICE)}
    roots = {
        each.name.partition(".")[0]
        for each in imports
        if each.name not in before and each.importer.partition(".")[0] == PACKAGE
    }
    assert roots - sys.stdlib_module_names - {PACKAGE, "anyio"} == RUN_LIBRARIES


@pytest.mark.parametrize("era", ERAS)
async def test_a_host_that_never_asks_for_the_tools_has_nothing_of_a_run_imported(era: Era) -> None:
    bare, bridge = await asyncio.gather(
        served(era, "tests.support.one_tool_server", "prompts/list", "resources/list"),
        served(era, PACKAGE, "prompts/list", "resources/list", "resources/templates/list"),
    )
    floor = {each.name for each in bare}

    assert too_much(bridge, ours=START, libraries=START_LIBRARIES, floor=floor) == []


@pytest.mark.parametrize("option", ["--version", "--help"])
async def test_version_and_help_import_next_to_nothing(option: str) -> None:
    small = "import runpy, argparse, pathlib; argparse.ArgumentParser('small').print_help()"
    floor, imports = map(imports_of, await asyncio.gather(report_of("-c", small), report_of("-m", PACKAGE, option)))

    assert too_much(imports, ours=SHELL, libraries=SHELL_LIBRARIES, floor={each.name for each in floor}) == []
    assert SHELL - {each.name for each in imports} == set(), "what nobody needs any more is taken off the list"


async def test_what_shows_a_run_in_a_pipe_imports_nothing_for_terminals() -> None:
    imports = imports_of(await report_of("-c", f"import {PACKAGE}.commands.progress_lines"))

    assert {"rich", f"{PACKAGE}.commands.terminal"} & {each.name for each in imports} == set()


# -- the reader of the report ---------------------------------------------------------------------


REPORT = """\
import time: self [us] | cumulative | imported package
import time:       100 |        100 | site
import time:       300 |        300 |     heavy.part
import time:       300 |        600 |   heavy
import time:       100 |        700 | ours.service
a line of a log
import time:        50 |         50 |   late
import time:        50 |        100 | after
"""


def test_the_report_tells_who_imported_what() -> None:
    assert imports_of(REPORT) == [
        Import("site", ""),
        Import("heavy.part", "heavy"),
        Import("heavy", "ours.service"),
        Import("ours.service", ""),
        Import("late", "after"),
        Import("after", ""),
    ]


def test_what_a_module_imports_and_what_comes_after_it_is_left_out() -> None:
    assert without_subtree(imports_of(REPORT), "ours.service") == [Import("site", "")]


def test_what_is_too_much_is_named_with_who_imports_it() -> None:
    imports = imports_of(REPORT)

    assert too_much(imports, ours={"ours.service"}, libraries={"heavy"}, floor={"site", "late"}) == [
        "the program imports after"
    ]
    assert too_much(imports, ours={"ours.service"}, libraries=set(), floor={"site", "late", "after"}) == [
        "ours.service imports heavy"
    ]


# -- while the rest is being imported, and when it can't be ---------------------------------------


BROKEN = 'raise ModuleNotFoundError("No module named \'h11\'", name="h11")\n'

HELD = """\
import importlib, sys
with open({gate!r}, encoding="utf-8") as gate:
    gate.read()
sys.path.remove({folder!r})
del sys.modules["httpx"]
importlib.import_module("httpx")
"""
"""Stands for httpx, and is there only when a gate (a FIFO) has been opened and closed."""


class Gate:
    """Where the import of httpx waits until it is let through."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    async def reached(self) -> None:
        """The import has come to the gate: opening a FIFO waits for the other side."""
        async with asyncio.timeout(EXIT_LIMIT):
            self._file = await asyncio.to_thread(os.open, self._path, os.O_WRONLY)

    def open(self) -> None:
        os.close(self._file)


@asynccontextmanager
async def open_held(folder: Path, *, era: Era = "2026-07-28") -> AsyncIterator[tuple[RawClient, Gate]]:
    """A bridge that has listed its tools and stands in the middle of its warm-up."""
    gate = folder / "gate"
    os.mkfifo(gate)
    (folder / "httpx.py").write_text(HELD.format(gate=str(gate), folder=str(folder)), encoding="utf-8")
    environ = {"PYTHONPATH": os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", "")))}
    async with open_raw_client(era=era, environ=environ) as client:
        await client.request("tools/list", {})
        held = Gate(gate)
        await held.reached()
        yield client, held


posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no FIFOs and none of these signals")


@posix
async def test_warming_up_keeps_nobody_waiting_who_does_not_need_it(tmp_path: Path) -> None:
    async with open_held(tmp_path, era="2025-11-25") as (client, gate):
        await client.request("ping", {})
        assert len((await client.request("tools/list", {}))["tools"]) == 4
        refused = await client.call("autonomous_with_mcp", mcp_name="x", task="y", max_rounds=0)
        gate.open()

    assert_names(refused, "max_rounds")


@posix
async def test_a_call_during_the_warm_up_waits_for_it_and_a_cancelled_one_takes_it_from_no_other(
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
async def test_the_host_may_go_during_the_warm_up(tmp_path: Path) -> None:
    async with open_held(tmp_path) as (client, gate):
        stdin = client.process.stdin
        assert stdin is not None
        stdin.close()
        gate.open()
        async with asyncio.timeout(EXIT_LIMIT):
            code = await client.process.wait()

    assert (code, client.stderr.decode(), client.stray) == (0, "", [])


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
async def test_a_signal_during_the_warm_up_waits_for_no_import(tmp_path: Path, name: str) -> None:
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


@pytest.mark.parametrize("era", ERAS)
async def test_a_part_that_cannot_be_imported_is_named_to_every_caller(tmp_path: Path, era: Era) -> None:
    (tmp_path / "httpx.py").write_text(BROKEN, encoding="utf-8")
    environ = {"PYTHONPATH": os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))}
    async with open_raw_client(era=era, environ=environ) as client:
        calls = [await client.call("continue_run", run_id="20260101-000000-aaaaa") for _ in range(2)]
        read = await client.answer_to(await client.start("resources/read", {"uri": "lmstudio://models"}))
        assert len((await client.request("tools/list", {}))["tools"]) == 4
        code = await client.close_stdin()

    for answer in calls:
        assert_names(answer, "No module named 'h11'", "Install lmstudio-bridge once more")
    assert "No module named 'h11'" in read["error"]["message"]
    assert code == 0
    assert client.stderr.decode().count("Traceback") == 1, "once, for who reads the log"


async def test_a_part_that_only_a_run_imports_is_named_to_its_caller(tmp_path: Path) -> None:
    (tmp_path / "jsonschema.py").write_text(BROKEN.replace("h11", "rpds"), encoding="utf-8")
    environ = {"PYTHONPATH": os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))}
    async with open_desk(tmp_path) as desk:
        desk.configure(notes=entry(tmp_path / "notes.json", {"name": "list"}))
        desk.environ |= environ
        async with desk.bridge("2026-07-28") as client:
            answer = await client.call("autonomous_with_mcp", mcp_name="notes", task="Do it.")

    assert_names(answer, "No module named 'rpds'", "Install lmstudio-bridge once more")
    assert client.stderr.decode().count("Traceback") == 1, "once, for who reads the log"


async def test_a_file_with_certificates_that_is_none_is_told_without_a_traceback(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate", encoding="utf-8")
    environ = {"LMSTUDIO_BASE_URL": "https://127.0.0.1:1/v1", "LMSTUDIO_BRIDGE_CA_FILE": str(bad)}

    async with open_raw_client(era="2025-11-25", environ=environ) as client:
        answer = await client.call("autonomous_discover_and_execute", task="Do it.")

    assert_names(answer, f"{bad} cannot be used", "Set LMSTUDIO_BRIDGE_CA_FILE")
    assert f"{bad} cannot be used" in client.stderr.decode()
    assert "Traceback" not in client.stderr.decode()
