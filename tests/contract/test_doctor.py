"""`lmstudio-bridge doctor` as a process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.lmstudio_sim.server import Simulator
from tests.support.home import Home, make_home, nothing_listens, sloppy
from tests.support.shell import ROOT, Shell

PROGRAMS = {
    "claude-code": "Claude Code",
    "claude-desktop": "Claude Desktop",
    "cursor": "Cursor",
    "vscode": "VS Code",
    "lm-studio": "LM Studio",
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path)


def shell_of(home: Home, **environ: str) -> Shell:
    return Shell(home.project, {**home.environ, "PYTHONPATH": str(ROOT), **environ})


async def test_json_has_the_documented_shape(home: Home, sim: Simulator) -> None:
    code, out, err = await shell_of(home, LMSTUDIO_BASE_URL=sim.url).run("doctor", "--json")

    root = json.loads(out)
    assert (code, err) == (0, "")
    assert list(root) == ["format", "version", "ok", "checks"]
    assert (root["format"], root["ok"]) == (1, True)
    assert (await shell_of(home).run("--version"))[1] == f"lmstudio-bridge {root['version']}\n"
    assert {tuple(check) for check in root["checks"]} == {("area", "name", "state", "found", "remedy")}

    code, out, _ = await shell_of(home, LMSTUDIO_BASE_URL="ftp://x").run("doctor", "--json")

    assert code == 1
    assert json.loads(out)["ok"] is False
    assert [check["name"] for check in json.loads(out)["checks"]] == ["Bridge", "Settings"]
    assert "LMSTUDIO_BASE_URL" in json.loads(out)["checks"][-1]["found"]


async def test_what_install_writes_is_what_doctor_finds(home: Home, sim: Simulator) -> None:
    home.write(".claude.json", {"mcpServers": {"notes": sloppy()}})
    shell = shell_of(home, LMSTUDIO_BASE_URL=sim.url)
    for host in PROGRAMS:
        code, _, err = await shell.run("install", host, "--yes")
        assert code == 0, err

    code, out, _ = await shell.run("doctor")

    assert (code, out.splitlines()[-1]) == (0, "Everything looks good."), out
    for name in PROGRAMS.values():
        assert f"Registration in {name}: 'lmstudio-bridge' in {home.folder}" in out


async def test_warnings_do_not_fail_and_the_last_line_counts(home: Home, sim: Simulator) -> None:
    (home.folder / "project" / ".mcp.json").write_text("{", encoding="utf-8")

    code, out, _ = await shell_of(home, LMSTUDIO_BASE_URL=sim.url, LMSTUDIO_BRIDGE_X="1").run("doctor")

    assert (code, out.splitlines()[-1]) == (0, "No problems, 2 warnings.")
    assert out.count("is not valid JSON") == 1, "although it matters to servers and to the registration"
    assert "\x1b" not in out
    links = ["This machine", "LM Studio", "Model", "MCP servers", "Rules", "Claude Code and other programs"]
    assert [line for line in out.splitlines() if line in links] == links


async def test_a_terminal_without_the_marks_gets_words(home: Home) -> None:
    environ = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    code, out, err = await shell_of(home, LMSTUDIO_BASE_URL=await nothing_listens(), **environ).run("doctor")

    assert (code, err) == (1, "")
    assert out.isascii()
    assert "\nFAIL LM Studio: LM Studio does not answer at " in out
    assert out.startswith("This machine\nok   Bridge: ")
    assert out.splitlines()[-1] == "1 problem."


@pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is for Linux")
async def test_the_sandbox_is_tried_and_what_it_is_missing_for_is_named(home: Home, sim: Simulator) -> None:
    home.write(".claude.json", {"mcpServers": {"mine": sloppy()}})
    home.write("project/.mcp.json", {"mcpServers": {"theirs": sloppy()}})
    rules = home.folder / ".config" / "lmstudio-bridge" / "lmstudio-bridge.toml"
    rules.parent.mkdir(parents=True)
    rules.write_text("[sandbox]\nmine = true\nmein = true\n", encoding="utf-8")
    environ = {"LMSTUDIO_BASE_URL": sim.url, "LMSTUDIO_BRIDGE_TRUST": "*", "PATH": str(home.folder)}

    code, out, _ = await shell_of(home, **environ).run("doctor")

    assert code == 1
    assert "MCP server mine: MCP server 'mine' was not started, because its sandbox cannot be set up: bubblewrap" in out
    assert "Sandbox: bubblewrap was not found. Install it" in out
    assert "used for: mine\n" in out
    assert "Sandbox: theirs of this project is started without one: bubblewrap was not found." in out
    assert "Rules: The sandbox of mein names no configured server." in out
