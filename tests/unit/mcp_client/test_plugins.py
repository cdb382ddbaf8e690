"""The servers of Claude Code's plugins: real files in a clean home."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmstudio_bridge.errors import ServerNotConfiguredError
from lmstudio_bridge.runs.server_selection import find_servers
from tests.unit.mcp_client.test_discovery import Machine, scopes, servers

KEY = "tools@market"
NAME = "plugin:tools:files"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A plugin `tools` is installed and enabled for the user; it has no servers yet."""
    machine = Machine(tmp_path / "home", tmp_path / "home" / "work" / "project")
    machine.project.mkdir(parents=True)
    record(machine, {"scope": "user"})
    enable(machine, ".claude/settings.json")
    return machine


def record(machine: Machine, *installs: dict[str, Any]) -> None:
    places = [{"installPath": str(folder_of(machine)), **install} for install in installs]
    machine.write(".claude/plugins/installed_plugins.json", {"version": 2, "plugins": {KEY: places}})


def enable(machine: Machine, path: str, on: Any = True) -> Path:
    return machine.write(path, {"enabledPlugins": {KEY: on}})


def folder_of(machine: Machine) -> Path:
    return machine.home / ".claude" / "plugins" / "cache" / "market" / "tools" / "1.0"


def put(machine: Machine, path: str, content: object) -> Path:
    return machine.write(str((folder_of(machine) / path).relative_to(machine.home)), content)


ENTRY = {"command": "${CLAUDE_PLUGIN_ROOT}/run", "args": ["${CLAUDE_PLUGIN_DATA}"], "env": {"A": "1"}}


@pytest.mark.parametrize(
    "files",
    [
        {".mcp.json": {"mcpServers": {"files": ENTRY}}},
        {".mcp.json": {"files": ENTRY}},
        {".mcp.json": {"$schema": "https://example.com/schema.json", "files": ENTRY}},
        {".claude-plugin/plugin.json": {"name": "tools", "mcpServers": {"files": ENTRY}}},
        {".claude-plugin/plugin.json": {"mcpServers": "./servers.json"}, "servers.json": {"files": ENTRY}},
        {".claude-plugin/plugin.json": {"mcpServers": ["./a.json"]}, "a.json": {"mcpServers": {"files": ENTRY}}},
    ],
)
def test_servers_of_an_enabled_plugin_are_found(machine: Machine, files: dict[str, object]) -> None:
    for path, content in files.items():
        put(machine, path, content)
    root = folder_of(machine)
    catalog = machine.load()
    found = catalog.servers[NAME]

    assert scopes(catalog) == {NAME: "plugin"}
    assert catalog.warnings == ()
    assert catalog.skipped == {}
    assert found.command == f"{root}/run"
    data = str(machine.home / ".claude" / "plugins" / "data" / "tools-market")
    assert found.args == (data,)
    assert found.env == {"CLAUDE_PLUGIN_ROOT": str(root), "CLAUDE_PLUGIN_DATA": data, "A": "1"}


@pytest.mark.parametrize("said", [{"files": ENTRY}, "./servers.json"])
def test_plugin_without_a_manifest_is_described_by_its_marketplace(machine: Machine, said: object) -> None:
    """As Claude Code 2.1.332 does; of one that has a manifest, the marketplace names no servers."""
    put(machine, "servers.json", {"files": ENTRY})
    entries = [{"name": "other", "mcpServers": {"x": ENTRY}}, {"name": "tools", "source": "./x", "mcpServers": said}]
    machine.write("market/.claude-plugin/marketplace.json", {"plugins": entries})
    known = {"market": {"installLocation": str(machine.home / "market")}}
    machine.write(".claude/plugins/known_marketplaces.json", known)
    assert scopes(machine.load()) == {NAME: "plugin"}

    put(machine, ".claude-plugin/plugin.json", {"name": "tools"})
    assert scopes(machine.load()) == {}


def test_manifest_names_the_plugin_and_decides_before_the_file(machine: Machine) -> None:
    put(machine, ".claude-plugin/plugin.json", {"name": "kit", "mcpServers": {"a": {"command": "manifest"}}})
    put(machine, ".mcp.json", {"a": {"command": "file"}, "b": {"command": "file"}})

    assert {name: config.command for name, config in machine.load().servers.items()} == {
        "plugin:kit:a": "manifest",
        "plugin:kit:b": "file",
    }


@pytest.mark.parametrize("name", [NAME, "plugin_tools_files"])
def test_both_spellings_of_a_name_are_the_same_server(machine: Machine, name: str) -> None:
    put(machine, ".mcp.json", servers("files"))
    catalog = machine.load()

    assert catalog.require(name).name == NAME
    assert find_servers(catalog, (name, NAME)).names == (NAME,)


def test_spelling_that_two_servers_share_means_neither(machine: Machine) -> None:
    machine.claude(**servers("a.b", "a b"))

    with pytest.raises(ServerNotConfiguredError):
        machine.load().require("a_b")
    assert machine.load().require("a.b").name == "a.b"


def test_older_record_of_an_installation_is_read(machine: Machine) -> None:
    put(machine, ".mcp.json", servers("files"))
    installed = {"version": 1, "plugins": {KEY: {"installPath": str(folder_of(machine))}}}
    machine.write(".claude/plugins/installed_plugins.json", installed)

    assert scopes(machine.load()) == {NAME: "plugin"}


def test_own_installation_for_the_project_is_taken_before_the_general_one(machine: Machine) -> None:
    put(machine, ".mcp.json", servers("files"))
    other = machine.home / "other"
    machine.write("other/.mcp.json", servers("newer"))
    here = {"scope": "local", "projectPath": str(machine.project), "installPath": str(other)}
    record(machine, {"scope": "user"}, here)
    assert scopes(machine.load()) == {"plugin:tools:newer": "plugin"}

    record(machine, {**here, "projectPath": str(machine.home / "else")}, {"scope": "user"})
    assert scopes(machine.load()) == {NAME: "plugin"}


@pytest.mark.parametrize("on", [False, "true", None])
def test_plugin_that_is_not_enabled_has_no_servers(machine: Machine, on: object) -> None:
    put(machine, ".mcp.json", servers("files"))
    enable(machine, ".claude/settings.json", on)

    assert scopes(machine.load()) == {}


def test_settings_that_claude_code_cannot_read_enable_nothing(machine: Machine) -> None:
    put(machine, ".mcp.json", servers("files"))
    machine.write(".claude/settings.json", f'{{"enabledPlugins": {{"{KEY}": true,}}}}')

    assert scopes(machine.load()) == {}
    assert len(machine.load().warnings) == 1


@pytest.mark.parametrize("name", ["settings.json", "settings.local.json"])
def test_project_can_switch_a_plugin_off(machine: Machine, name: str) -> None:
    put(machine, ".mcp.json", servers("files"))
    enable(machine, f"work/project/.claude/{name}", False)

    assert scopes(machine.load()) == {}


@pytest.mark.parametrize(
    ("place", "trusted", "found"), [("work/project", True, True), ("work/project", False, False), ("else", True, False)]
)
@pytest.mark.parametrize("name", ["settings.json", "settings.local.json"])
def test_settings_of_a_project_enable_only_what_the_user_installed_for_the_project(
    machine: Machine, name: str, place: str, trusted: bool, found: bool
) -> None:
    put(machine, ".mcp.json", servers("files"))
    enable(machine, ".claude/settings.json", None)
    path = enable(machine, f"work/project/.claude/{name}")
    machine.claude({"hasTrustDialogAccepted": trusted})
    assert scopes(machine.load()) == {}
    assert machine.load().skipped == {
        NAME: f"its plugin is enabled only in {path}; `claude plugin install {KEY}` enables it for you."
    }

    record(machine, {"scope": "project", "projectPath": str(machine.home / place)})
    assert bool(scopes(machine.load())) is found


def test_server_of_a_plugin_that_is_switched_off_in_claude_code_is_left_out(machine: Machine) -> None:
    put(machine, ".mcp.json", servers("files", "notes"))
    state = machine.claude({"disabledMcpServers": [NAME]})
    catalog = machine.load()

    assert list(catalog.servers) == ["plugin:tools:notes"]
    assert catalog.skipped == {NAME: f"it is disabled for this project in {state}."}


def test_what_a_plugin_asks_its_user_for_is_known_to_claude_code_only(machine: Machine) -> None:
    path = put(machine, ".mcp.json", {"files": {"command": "x", "env": {"KEY": "${user_config.key}"}}})

    assert machine.load().skipped == {
        NAME: f"its entry in {path} uses ${{user_config.key}}, which only Claude Code can fill in."
    }


@pytest.mark.parametrize(
    ("files", "warning"),
    [
        ({".mcp.json": "{"}, "is not valid JSON: .* line 1, column 2"),
        ({".mcp.json": {"mcpServers": []}}, "has no object 'mcpServers'"),
        (
            {".claude-plugin/plugin.json": {"mcpServers": "./gone.json"}},
            "names './gone.json', which is not a JSON file",
        ),
        ({".claude-plugin/plugin.json": {"mcpServers": "./x.mcpb"}, "x.mcpb": ""}, "names './x.mcpb', which is not"),
    ],
)
def test_plugin_that_cannot_be_read_is_a_warning(machine: Machine, files: dict[str, object], warning: str) -> None:
    for path, content in files.items():
        put(machine, path, content)
    machine.claude(**servers("mine"))
    catalog = machine.load()

    assert scopes(catalog) == {"mine": "user"}
    with pytest.raises(ServerNotConfiguredError, match=warning):
        catalog.require("files")


def test_odd_records_are_let_pass(machine: Machine) -> None:
    machine.claude(**servers("mine"))
    odd: list[Any] = [[], {KEY: 7}, {KEY: [7, {"installPath": 7}]}]
    for plugins in odd:
        machine.write(".claude/plugins/installed_plugins.json", {"plugins": plugins})
        assert scopes(machine.load()) == {"mine": "user"}
        assert machine.load().warnings == ()


def test_enabled_plugin_whose_folder_is_gone_is_a_warning(machine: Machine) -> None:
    record(machine, {"scope": "user", "installPath": str(folder_of(machine) / "gone")})
    enable(machine, ".claude/settings.json")

    [warning] = machine.load().warnings
    assert warning.startswith(f"The enabled plugin {KEY} has no servers here")
