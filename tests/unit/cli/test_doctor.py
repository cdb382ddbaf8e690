"""Setups in which one thing is wrong: doctor names it, and says how to fix it. Real servers, real processes."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from collections.abc import AsyncIterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from lmstudio_bridge import __version__
from lmstudio_bridge.cli.doctor.checks import Check
from lmstudio_bridge.cli.doctor.command import examine
from lmstudio_bridge.cli.doctor.engine import HOPELESS_CONTEXT, check_call, check_lms
from lmstudio_bridge.cli.doctor.machine import check_settings
from lmstudio_bridge.cli.doctor.programs import as_started
from lmstudio_bridge.lmstudio.client import open_client
from lmstudio_bridge.runs.preparation import SMALL_CONTEXT
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.settings import Surroundings, read_settings
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.replies import CallReply, Stall, TextReply
from tests.lmstudio_sim.server import Simulator, open_simulator
from tests.support.home import GOOD, MODEL, Home, answering, http, make_home, nothing_listens, sloppy
from tests.support.processes import PATIENCE, SLOPPY

TOKEN = "sk-lm-abcdefgh:abcdefghijklmnopqrst"
NOT_LM_STUDIO = "The server at this address does not answer like LM Studio's API."


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path)


async def examine_home(home: Home, url: str = "", *, deep: bool = False, **environ: str) -> list[Check]:
    given = {**home.environ, **({"LMSTUDIO_BASE_URL": url} if url else {}), **environ}
    checks: list[Check] = []
    async with asyncio.timeout(PATIENCE):
        settings = read_settings(given, cwd=home.project)
        await examine(settings, environ=given, redactor=Redactor(), tell=checks.append, deep=deep)
    return checks


def wrong(checks: list[Check]) -> list[Check]:
    """What is not as it should be."""
    return [check for check in checks if check.state != "ok"]


def only(checks: list[Check], name: str) -> Check:
    (found,) = (check for check in checks if check.name == name)
    return found


def assert_check(check: Check, name: str, state: str, found: str = "*", remedy: str = "*") -> None:
    """That it says this, with `*` for any text."""
    assert (check.name, check.state) == (name, state)
    assert fnmatchcase(check.found, found), check.found
    assert fnmatchcase(check.remedy, remedy), check.remedy


async def assert_wrong(
    home: Home, url: str, name: str, state: str, found: str = "*", remedy: str = "*", **environ: str
) -> None:
    """That this is the only thing that is not as it should be."""
    (check,) = wrong(await examine_home(home, url, deep=False, **environ))
    assert_check(check, name, state, found, remedy)


async def test_all_is_well(home: Home) -> None:
    async with open_simulator([GOOD]) as sim:
        checks = await examine_home(home, sim.url, deep=False)

    assert wrong(checks) == []
    found = {check.name: check.found for check in checks}
    assert found["Bridge"].startswith(f"lmstudio-bridge {__version__}, Python 3.")
    assert f"{sim.url} answers (/api/v1/models: LM Studio 0.4 or later), 1 chat model, 1 loaded" == found["LM Studio"]
    assert found["Slots"] == "4 requests at once"
    assert found["MCP server lmstudio-bridge"].endswith("starts the bridge itself.")
    assert found["Registration in Claude Code"].startswith(f"'lmstudio-bridge' in {home.folder / '.claude.json'} (user")
    assert found["Journals"] == f"{home.folder / 'state' / 'runs'}: 0 runs, 0.0 MiB (kept for 30 days, at most 500 MB)"
    assert not (home.folder / "state" / "runs").exists()


# -- LM Studio -----------------------------------------------------------------------------------------------------


async def test_nothing_listens_and_lm_studio_is_not_installed(home: Home) -> None:
    url = await nothing_listens()
    found = f"LM Studio does not answer at {url}, and it does not seem to be installed here."
    (check,) = wrong(await examine_home(home, url))

    assert_check(check, "LM Studio", "failed", found, "*https://lmstudio.ai*")
    assert "scripts/demo" in check.remedy


async def test_nothing_listens_and_lm_studio_is_installed(home: Home) -> None:
    (home.folder / ".lmstudio").mkdir()
    url, found = await nothing_listens(), "LM Studio is not reachable."
    await assert_wrong(home, url, "LM Studio", "failed", found, "*lms server start*")


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (http("404 Not Found", "<html>nginx</html>"), NOT_LM_STUDIO),
        (http("200 OK", "<html>My router</html>"), NOT_LM_STUDIO),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "LM Studio closed the connection before it answered."),
    ],
)
async def test_another_server_listens_on_that_port(home: Home, reply: bytes, found: str) -> None:
    (home.folder / ".lmstudio").mkdir()
    async with answering(reply) as url:
        await assert_wrong(home, url, "LM Studio", "failed", found, "*LMSTUDIO_BASE_URL*")


@pytest.mark.parametrize("token", ["", "sk-lm-abcdefgh:WRONGfghijklmnopqrst", "lm-studio"])
async def test_a_token_is_wanted_and_the_right_one_is_not_given(home: Home, token: str) -> None:
    async with open_simulator([GOOD], token=TOKEN) as sim:
        (check,) = wrong(await examine_home(home, sim.url, LM_API_TOKEN=token))

    found = "LM Studio refused the API token." if token else f"{sim.url} requires an API token, and none is set."
    assert_check(check, "API token", "failed", found, "*Manage Tokens*")
    assert "LM_API_TOKEN" in check.remedy
    assert not token or token not in check.remedy


async def test_a_server_that_guards_itself_otherwise(home: Home) -> None:
    async with answering(http("401 Unauthorized", "<html>401</html>")) as url:
        await assert_wrong(home, url, "API token", "failed", remedy="*LM_API_TOKEN*")


# -- the model -----------------------------------------------------------------------------------------------------


EMBEDDING = SimModel("nomic/embed", type="embedding", loaded=True)
UNLOADED = SimModel(MODEL, trained_for_tool_use=True)


@pytest.mark.parametrize(
    ("models", "environ", "found", "remedy"),
    [
        ([], {}, "There are no models.*", "*Download a chat model*"),
        (
            [EMBEDDING],
            {},
            "There are only embedding models, which can't chat: nomic/embed.*",
            "*Download a chat model*",
        ),
        (
            [UNLOADED, SimModel("b/c")],
            {},
            "No model was named, none is loaded, and there are several*",
            "*DEFAULT_MODEL*",
        ),
        (
            [GOOD],
            {"DEFAULT_MODEL": "qwen/qwen3-5b"},
            "LM Studio has no model named 'qwen/qwen3-5b'.",
            f"*Did you mean {MODEL} or *",
        ),
    ],
    ids=["none", "only embeddings", "several", "another name"],
)
async def test_no_model_can_be_chosen(
    home: Home, models: list[SimModel], environ: dict[str, str], found: str, remedy: str
) -> None:
    async with open_simulator(models) as sim:
        await assert_wrong(home, sim.url, "Model", "failed", found, remedy, **environ)


@pytest.mark.parametrize(
    ("native", "jit", "state", "found"),
    [
        (True, True, "warning", "*The first call loads it, with 16,384 tokens of context*"),
        (True, False, "warning", "*The first call loads it, with 16,384 tokens of context*"),
        (False, True, "warning", "*loads it just in time, often with only 4,096 tokens*"),
        (False, False, "failed", "*just-in-time loading is off, so no call can load it*"),
    ],
)
async def test_the_model_is_not_loaded(home: Home, native: bool, jit: bool, state: str, found: str) -> None:
    """Whether that is wrong depends on who can load it: the bridge (LM Studio 0.4), LM Studio by itself, or nobody."""
    async with open_simulator([UNLOADED], native=native, jit=jit) as sim:
        await assert_wrong(home, sim.url, "Loading", state, found, f"*lms load {MODEL} --context-length 16384*")


async def test_just_in_time_loading_is_explained_where_it_is_on(home: Home) -> None:
    async with open_simulator([GOOD, SimModel("b/c")], jit=True) as sim:
        checks = await examine_home(home, sim.url)
    async with open_simulator([GOOD, SimModel("b/c")], jit=False) as sim:
        without = await examine_home(home, sim.url)

    assert only(checks, "Just-in-time loading").found.startswith("on. A model that was loaded this way is unloaded")
    assert [check for check in without if check.name == "Just-in-time loading"] == []


@pytest.mark.parametrize(
    ("tokens", "state"),
    [
        (HOPELESS_CONTEXT - 1, "failed"),
        (HOPELESS_CONTEXT, "warning"),
        (SMALL_CONTEXT - 1, "warning"),
        (SMALL_CONTEXT, None),
    ],
)
async def test_the_context_is_small(home: Home, tokens: int, state: str | None) -> None:
    small = SimModel(MODEL, loaded=True, context_length=tokens, trained_for_tool_use=True)
    async with open_simulator([small]) as sim:
        found = wrong(await examine_home(home, sim.url))

    assert [(check.name, check.state) for check in found] == ([("Context", state)] if state else [])
    assert all(f"lms load {MODEL} --context-length 16384" in check.remedy for check in found)


async def test_the_model_is_not_trained_for_tools(home: Home) -> None:
    untrained = SimModel(MODEL, loaded=True, context_length=32_768, trained_for_tool_use=False)
    found = "Not trained for tool use: tool calls as schema-constrained JSON"
    async with open_simulator([untrained]) as sim:
        await assert_wrong(home, sim.url, "Tool calls", "warning", found, "*the hammer*")


async def test_the_model_is_in_memory_twice(home: Home) -> None:
    async with open_simulator([GOOD]) as sim:
        await sim.load(MODEL, context_length=32_768)
        await assert_wrong(home, sim.url, "Copies", "warning", f"*{MODEL}, {MODEL}:2*")


FAKE_LMS = """#!/bin/sh
case "$*" in
  "ps --json") echo '{ps}' ;;
  "daemon status --json") echo '{status}' ;;
esac
"""


def put_lms(home: Home, *, ps: str, status: str = "") -> None:
    """An `lms` that prints that."""
    path = home.write("bin/lms", FAKE_LMS.format(ps=ps, status=status))
    path.chmod(0o755)


async def test_a_model_that_goes_away_by_itself(home: Home) -> None:
    """Only `lms ps` tells that it was loaded just in time."""
    loaded = [{"identifier": "other", "ttlMs": 1}, {"identifier": MODEL, "ttlMs": 3_600_000}]
    put_lms(home, ps=json.dumps(loaded), status='{"status": "running", "version": "0.4.25"}')
    async with open_simulator([GOOD]) as sim:
        checks = await examine_home(home, sim.url)

    (check,) = wrong(checks)
    assert_check(check, "Idle time", "warning", f"*{MODEL} was loaded just in time: it is unloaded after 60 minutes*")
    assert only(checks, "LM Studio's version").found == "0.4.25"


@pytest.mark.parametrize(
    "ps",
    [json.dumps([{"identifier": MODEL, "ttlMs": None}]), json.dumps([{"identifier": MODEL}]), "[3]", "{}", "no JSON"],
)
async def test_an_lms_that_tells_nothing_is_let_be(home: Home, ps: str) -> None:
    put_lms(home, ps=ps, status="[]")
    async with open_simulator([GOOD]) as sim:
        assert wrong(await examine_home(home, sim.url)) == []


async def test_an_lms_that_hangs_or_cannot_be_started_is_given_up(home: Home) -> None:
    path = home.write("bin/lms", "#!/bin/sh\nexec sleep 600\n")
    path.chmod(0o755)
    around = Surroundings(home.project, {"PATH": f"{path.parent}:/usr/bin:/bin"})
    async with asyncio.timeout(PATIENCE):
        assert [check async for check in check_lms(around, instance=MODEL, limit=0.1)] == []
    path.write_bytes(b"\x7fELF")
    assert [check async for check in check_lms(around, instance=MODEL)] == []


async def test_an_lms_of_the_project_is_not_run(home: Home) -> None:
    path = home.write("project/.venv/bin/lms", "#!/bin/sh\ntouch $HOME/mark\n")
    path.chmod(0o755)
    around = Surroundings(home.project, {"PATH": f"{path.parent}:/usr/bin:/bin", "HOME": str(home.folder)})

    assert [check async for check in check_lms(around, instance=MODEL)] == []
    assert not (home.folder / "mark").exists()


# -- MCP servers ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with open_simulator([GOOD]) as sim:
        yield sim


async def test_the_projects_file_is_broken(home: Home, sim: Simulator) -> None:
    path = home.write("project/.mcp.json", '{"mcpServers": {,}}')
    home.write(".lmstudio/mcp.json", {"mcpServers": {"notes": sloppy()}})

    (check,) = [check for check in wrong(await examine_home(home, sim.url)) if check.area == "servers"]

    assert_check(check, "MCP servers", "warning", f"*{path} is not valid JSON: *line 1, column 17*")


async def test_a_broken_file_is_named_before_what_follows_from_it(home: Home, sim: Simulator) -> None:
    path = home.write("project/.mcp.json", "{")
    home.write(".claude.json", {"mcpServers": {}})

    checks = wrong(await examine_home(home, sim.url))
    broken, none = [check for check in checks if check.area == "servers"]

    assert broken.found.startswith(f"{path} is not valid JSON: ")
    assert (none.state, none.found, none.remedy) == ("failed", "none usable", "See the warning above.")
    assert checks[-1].found == "The bridge is not registered in any file that can be read."


async def test_a_programs_file_with_comments_is_read(home: Home, sim: Simulator) -> None:
    path = home.write(
        ".cursor/mcp.json", '{"mcpServers": {"me": {"command": "gone", "args": ["lmstudio-bridge"]}, /* x */}}'
    )

    checks = await examine_home(home, sim.url)

    assert f"'me' in {path} (user scope) starts 'gone', which does not exist." in [check.found for check in checks]


async def test_the_users_file_is_broken(home: Home, sim: Simulator) -> None:
    path = home.write(".claude.json", "{")
    home.write(".lmstudio/mcp.json", {"mcpServers": {"notes": sloppy()}})

    states = {(check.name, check.state) for check in wrong(await examine_home(home, sim.url))}

    assert states >= {("MCP servers", "warning"), ("Registration in Claude Code", "warning")}
    assert path.read_text(encoding="utf-8") == "{"


async def test_a_servers_command_is_missing(home: Home, sim: Simulator) -> None:
    home.servers(notes={"command": "no-such-command", "env": {"API_KEY": "geheim-1234"}})
    found = "*command not found: no-such-command.*"
    await assert_wrong(home, sim.url, "MCP server notes", "failed", found, "*always works*")


async def test_a_server_ends_at_its_start(home: Home, sim: Simulator) -> None:
    code = "import os, sys; sys.exit('no database at ' + os.environ['DB_PASSWORD'])"
    home.servers(notes={"command": sys.executable, "args": ["-c", code], "env": {"DB_PASSWORD": "geheim-1234"}})

    (check,) = wrong(await examine_home(home, sim.url))

    assert_check(check, "MCP server notes", "failed", remedy="*no database at [*][*][*]*")
    assert "geheim" not in f"{check}"


async def test_a_server_never_answers(home: Home, sim: Simulator) -> None:
    home.servers(notes=sloppy(hang=True), good=sloppy())

    checks = await examine_home(home, sim.url, LMSTUDIO_BRIDGE_SERVER_START_TIMEOUT="3")

    (check,) = wrong(checks)
    assert_check(check, "MCP server notes", "failed", "*within 3 s*")
    assert only(checks, "MCP server good").found.startswith("12 tools, 1 marked read-only, 0 as writing, 11 unmarked")


async def test_a_server_has_no_tools(home: Home, sim: Simulator) -> None:
    home.servers(notes=sloppy(pages=[{"tools": []}]))
    await assert_wrong(home, sim.url, "MCP server notes", "warning", "0 tools*")


async def test_servers_are_started_at_the_same_time(home: Home, sim: Simulator) -> None:
    """Each waits for the other to have started."""

    def meeting(mine: str, other: str) -> dict[str, Any]:
        serve = shlex.join([sys.executable, str(SLOPPY), "{}"])
        wait = f"touch {mine}; while [ ! -e {other} ]; do sleep 0.05; done; exec {serve}"
        return {"command": "sh", "args": ["-c", wait]}

    home.servers(a=meeting("a", "b"), b=meeting("b", "a"))

    assert wrong(await examine_home(home, sim.url)) == []


async def test_a_projects_server_waits_for_approval(home: Home, sim: Simulator) -> None:
    path = home.write("project/.mcp.json", {"mcpServers": {"theirs": {"command": "touch", "args": ["started"]}}})
    found, remedy = f"*is not approved yet: its command comes from {path}*", "*LMSTUDIO_BRIDGE_TRUST=theirs*"
    await assert_wrong(home, sim.url, "MCP server theirs", "warning", found, remedy)
    assert not (home.project / "started").exists()


async def test_an_entry_is_malformed(home: Home, sim: Simulator) -> None:
    home.servers(notes=sloppy(), other={"type": "carrier pigeon"})
    found = "*type 'carrier pigeon' is not one of stdio, http, sse*"
    await assert_wrong(home, sim.url, "MCP server other", "warning", found)


async def test_the_bridge_is_its_own_only_server(home: Home, sim: Simulator) -> None:
    home.servers()

    checks = await examine_home(home, sim.url)

    (check,) = wrong(checks)
    assert_check(check, "MCP servers", "failed", remedy="*claude mcp add*")
    assert only(checks, "MCP server lmstudio-bridge").found.endswith("starts the bridge itself.")


async def test_a_bridge_was_started_by_a_bridge(home: Home, sim: Simulator) -> None:
    remedy = "*Remove the bridge from the MCP servers*"
    await assert_wrong(home, sim.url, "Depth", "failed", remedy=remedy, LMSTUDIO_BRIDGE_DEPTH="1")


async def test_a_rule_file_is_broken(home: Home, sim: Simulator) -> None:
    path = home.write("project/lmstudio-bridge.toml", "allow = [\n")
    found = f"*{path}, line 1: not valid TOML*"
    await assert_wrong(home, sim.url, "Rules", "failed", found, "*docs/security.md*")


# -- the bridge itself ---------------------------------------------------------------------------------------------


async def test_journals_of_items_are_not_counted_as_runs(home: Home, sim: Simulator) -> None:
    for run_id in ("20260101-000000-aaaaa", "20260101-000000-aaaaa-1", "20260101-000000-aaaaa-2"):
        home.write(f"state/runs/{run_id}.jsonl", "")

    assert "runs: 1 run, 0.0 MiB" in only(await examine_home(home, sim.url), "Journals").found


async def test_journals_cannot_be_written(home: Home, sim: Simulator) -> None:
    home.write("state", "a file where the folder should be")

    (check,) = [check for check in wrong(await examine_home(home, sim.url)) if check.area == "journals"]
    off = await examine_home(home, sim.url, LMSTUDIO_BRIDGE_JOURNAL="off")

    assert_check(check, check.name, "failed", "*state is not a folder*", "*LMSTUDIO_BRIDGE_HOME*")
    assert only(off, "Journals").state == "ok", "those that are not kept need no folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_the_folder_of_journals_is_read_only(home: Home, sim: Simulator) -> None:
    runs = home.folder / "state" / "runs"
    runs.mkdir(parents=True, mode=0o500)

    (check,) = [check for check in wrong(await examine_home(home, sim.url)) if check.area == "journals"]

    assert check.found == f"{runs} is not writable: Permission denied."


async def test_a_setting_is_misspelt(home: Home, sim: Simulator) -> None:
    (near,) = wrong(await examine_home(home, sim.url, LMSTUDIO_BRIDGE_MAXACCESS="read"))
    (far,) = wrong(await examine_home(home, sim.url, LMSTUDIO_BRIDGE_NONE_OF_THEM="1"))

    found = "LMSTUDIO_BRIDGE_MAXACCESS is not a known setting."
    assert_check(near, "Settings", near.state, found, "*Did you mean LMSTUDIO_BRIDGE_MAX_ACCESS[?]*")
    assert far.remedy.startswith("See https://")


async def test_no_program_has_the_bridge(home: Home, sim: Simulator) -> None:
    home.write(".claude.json", {"mcpServers": {"notes": sloppy()}})
    await assert_wrong(home, sim.url, "Registration", "warning", remedy="*lmstudio-bridge install*")


async def test_settings_are_shown_and_secrets_are_not(home: Home, sim: Simulator) -> None:
    found = only(await examine_home(home, sim.url, LM_API_TOKEN="geheim-1234", DEFAULT_MODEL=MODEL), "Settings").found

    assert f"DEFAULT_MODEL={MODEL}" in found
    assert "LM_API_TOKEN" in found
    assert "geheim" not in found


# -- the programs that start it ------------------------------------------------------------------------------------


async def test_the_plugin_counts_as_a_registration_and_both_are_too_many(home: Home, sim: Simulator) -> None:
    plugins = {"lmstudio-bridge@somewhere": True, "other@somewhere": True}
    settings = home.write(".claude/settings.json", {"enabledPlugins": plugins})
    (home.folder / "bin" / "uvx").symlink_to(sys.executable)

    (check,) = wrong(await examine_home(home, sim.url))
    home.write(".claude.json", {"mcpServers": {"notes": sloppy()}})
    alone = await examine_home(home, sim.url)
    home.write(".claude/settings.json", {"enabledPlugins": {"lmstudio-bridge@somewhere": False}})
    (off,) = wrong(await examine_home(home, sim.url))

    assert_check(check, "Plugin in Claude Code", "warning", remedy="*`lmstudio-bridge uninstall --scope user`*")
    assert wrong(alone) == []
    assert only(alone, "Plugin in Claude Code").found == f"enabled in {settings}"
    assert off.found == "The bridge is not registered in any program on this machine."


async def test_a_plugin_or_a_projects_entry_without_uvx_says_to_install_it(home: Home, sim: Simulator) -> None:
    """`install --scope project` would write uvx again."""
    home.write(".claude/settings.json", {"enabledPlugins": {"lmstudio-bridge@somewhere": True}})
    bridge = {"command": "uvx", "args": ["lmstudio-bridge"]}
    home.write("project/.mcp.json", {"mcpServers": {"notes": sloppy(), "lmstudio-bridge": bridge}})

    checks = await examine_home(home, sim.url, PATH="/nowhere", LMSTUDIO_BRIDGE_TRUST="notes,lmstudio-bridge")

    told = [check for check in checks if check.area == "programs" and check.state == "failed"]
    assert [check.remedy.partition(":")[0] for check in told if "'uvx'" in check.found] == ["Install uv"] * 2


@pytest.mark.parametrize("variables", [{}, {"MY_URL": "http://10.0.0.9:1"}])
def test_settings_are_those_of_the_entry_that_claude_code_uses_here(home: Home, variables: dict[str, str]) -> None:
    def entry(url: str) -> dict[str, Any]:
        return {"command": "lmstudio-bridge", "env": {"LMSTUDIO_BASE_URL": url}}

    around = Surroundings(home.project, {**home.environ, **variables})
    assert as_started(around)[0] == {}

    local = {str(home.project): {"mcpServers": {"b": entry("${MY_URL:-http://10.0.0.1:1}")}}}
    everywhere = {"lmstudio-bridge": entry("http://10.0.0.2:1")}
    path = home.write(".claude.json", {"mcpServers": everywhere, "projects": local})
    env, where = as_started(around)

    assert env == {"LMSTUDIO_BASE_URL": variables.get("MY_URL", "http://10.0.0.1:1")}
    assert where == f"'b' in {path}"


async def test_rules_of_claude_code_are_shown_and_those_that_are_not_understood_are_named(
    home: Home, sim: Simulator
) -> None:
    path = home.write(".claude/settings.json", {"permissions": {"deny": ["mcp__notes__wipe", "mcp__notes__a(b)"]}})

    checks = await examine_home(home, sim.url)

    shown = f'deny "mcp__notes__wipe" ({path}); deny "mcp__notes__a(b)" ({path})'
    assert only(checks, "Claude Code's rules").found == shown
    [unclear] = wrong(checks)
    assert unclear.found.startswith(f'{path}: the rule deny "mcp__notes__a(b)" is not understood, so it holds for all')


@pytest.mark.parametrize(
    ("protocol", "found"),
    [
        ("", "traces and metrics of runs are sent to the receiver that OTEL_* names"),
        ("grpc", "No traces and metrics are sent: OpenTelemetry's protocol grpc is not supported."),
    ],
)
def test_telemetry_that_is_not_sent_is_named(home: Home, protocol: str, found: str) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    settings = read_settings(home.environ, cwd=home.project)

    check = only(list(check_settings(settings, {**home.environ, **given})), "OpenTelemetry")
    assert (check.found, check.state) == (found, "warning" if protocol else "ok")


async def test_a_programs_file_is_no_file(home: Home, sim: Simulator) -> None:
    pipe = home.folder / ".cursor" / "mcp.json"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    await assert_wrong(home, sim.url, "Registration in Cursor", "warning", f"*{pipe} cannot be read*")


async def test_a_program_starts_a_command_that_is_gone(home: Home, sim: Simulator) -> None:
    path = home.write(".cursor/mcp.json", {"mcpServers": {"local": {"command": "/gone/lmstudio-bridge"}}})
    found = f"'local' in {path} (user scope) starts '/gone/lmstudio-bridge', which does not exist."
    remedy = "*`lmstudio-bridge install cursor --scope user`*"
    await assert_wrong(home, sim.url, "Registration in Cursor", "failed", found, remedy)


async def test_a_program_starts_the_bridge_with_other_settings(home: Home, sim: Simulator) -> None:
    env = {"LM_API_TOKEN": "geheim-1234", "LMSTUDIO_BASE_URL": sim.url, "DEFAULT_MODEL": "${MY_MODEL}"}
    home.write(".claude.json", {"mcpServers": {"notes": sloppy(), "l": {"command": "lmstudio-bridge", "env": env}}})
    found = "*with settings that were not checked here: LM_API_TOKEN."
    await assert_wrong(home, sim.url, "Registration in Claude Code", "warning", found)


@pytest.mark.parametrize(
    ("env", "state"),
    [({}, "warning"), ({"LMSTUDIO_BRIDGE_MCP_CONFIG": ""}, "ok"), ({"MCP_JSON_PATH": "${HOME}/mine.json"}, "ok")],
)
async def test_a_program_starts_the_bridge_without_its_servers(
    home: Home, sim: Simulator, env: dict[str, str], state: str
) -> None:
    home.write(".cursor/mcp.json", {"mcpServers": {"l": {"command": "lmstudio-bridge", "env": env}}})
    home.write(".claude.json", {"mcpServers": {"notes": sloppy()}})

    check = only(await examine_home(home, sim.url, LMSTUDIO_BRIDGE_MCP_CONFIG=""), "Registration in Cursor")

    assert check.state == state
    if state == "warning":
        assert check.found.endswith("without LMSTUDIO_BRIDGE_MCP_CONFIG, so the servers of Cursor are not used.")
        assert check.remedy == "`lmstudio-bridge install cursor` adds it."


@pytest.mark.parametrize("approved", [False, True])
async def test_the_bridge_in_a_projects_file_waits_for_approval(home: Home, sim: Simulator, approved: bool) -> None:
    path = home.write("project/.mcp.json", {"mcpServers": {"lmstudio-bridge": {"command": "lmstudio-bridge"}}})
    names = ["lmstudio-bridge"] if approved else []
    state = {"mcpServers": {"notes": sloppy()}, "projects": {str(home.project): {"enabledMcpjsonServers": names}}}
    home.write(".claude.json", state)

    found = [check for check in wrong(await examine_home(home, sim.url)) if check.area == "programs"]

    assert [check.found for check in found] == (
        []
        if approved
        else [f"'lmstudio-bridge' in {path} (project scope) is not approved yet, so Claude Code does not start it."]
    )


# -- a real call ---------------------------------------------------------------------------------------------------


async def test_a_deep_look_lets_the_model_call_a_tool(home: Home) -> None:
    async with open_simulator([UNLOADED]) as sim:
        sim.script(MODEL, CallReply(("report_ready", {})))
        checks = await examine_home(home, sim.url, deep=True)

    check = only(checks, "Model call")
    assert (check.state, check.found.startswith(f"{MODEL} called the requested tool (")) == ("ok", True)
    assert [request.path for request in sim.requests if request.method == "POST"] == [
        "/api/v1/models/load",
        "/v1/chat/completions",
    ]


async def test_a_deep_look_at_a_model_that_only_talks(home: Home) -> None:
    async with open_simulator([GOOD]) as sim:
        sim.script(MODEL, TextReply("Ready!"))
        check = only(await examine_home(home, sim.url, deep=True), "Model call")

    found = "*answered with text instead of calling the requested tool*"
    assert_check(check, "Model call", "warning", found, "*LMSTUDIO_BRIDGE_CALLS=grammar*")


async def test_a_deep_look_at_a_model_that_crashes(home: Home) -> None:
    async with open_simulator([SimModel(MODEL, load_failure="Failed to load model: out of memory")]) as sim:
        check = only(await examine_home(home, sim.url, deep=True), "Model call")

    assert_check(check, "Model call", "failed", "LM Studio could not load the model.")


async def test_a_deep_look_ends_in_any_case() -> None:
    async with open_simulator([GOOD]) as sim, open_client(sim.url) as client:
        sim.script(MODEL, TextReply("never", faults=(Stall(),)))
        check = await check_call(client, read_settings({}, cwd=Path("/")), limit=0.2)

    assert_check(check, "Model call", "failed", "The model did not answer within 0.2 s.")


async def test_a_deep_look_is_not_made_where_nobody_answers(home: Home) -> None:
    checks = await examine_home(home, await nothing_listens(), deep=True)

    assert [check.name for check in checks if check.area == "deep"] == []


async def test_variables_that_a_server_is_likely_to_want_and_does_not_get_are_named(home: Home, sim: Simulator) -> None:
    home.servers(github=sloppy())

    checks = await examine_home(home, sim.url, GITHUB_TOKEN="geheim-1234", KUBECONFIG="/k")

    [check] = [check for check in checks if "not passed on" in check.found]
    found = "not passed on to it: GITHUB_TOKEN"
    assert_check(check, "MCP server github", "ok", found, "*LMSTUDIO_BRIDGE_PASS_ENV*")
