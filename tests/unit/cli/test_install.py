"""Where each program keeps the bridge's entry, what the entry says, and how a change of it is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lmstudio_bridge import REPOSITORY
from lmstudio_bridge.cli.arguments import SCOPES, Host, HostScope
from lmstudio_bridge.cli.hosts import find_location
from lmstudio_bridge.cli.install import Program, own_program, plan_change, read_source
from lmstudio_bridge.errors import BridgeError, SettingsError
from lmstudio_bridge.mcp_client.config import starts_bridge
from lmstudio_bridge.settings import Settings, Surroundings

ROOT = Path(__file__).parents[3]


def write(path: Path, root: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(root if isinstance(root, str) else json.dumps(root, indent=2), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("host", "scope", "platform", "path", "keys"),
    [
        ("claude-code", "user", "linux", "~/.claude.json", "mcpServers"),
        ("claude-code", "local", "linux", "~/.claude.json", "projects ~/project mcpServers"),
        ("claude-code", "project", "linux", "~/project/.mcp.json", "mcpServers"),
        ("claude-desktop", "user", "linux", "~/.config/Claude/claude_desktop_config.json", "mcpServers"),
        (
            *("claude-desktop", "user", "darwin"),
            "~/Library/Application Support/Claude/claude_desktop_config.json",
            "mcpServers",
        ),
        ("claude-desktop", "user", "win32", "~/AppData/Roaming/Claude/claude_desktop_config.json", "mcpServers"),
        ("cursor", "user", "darwin", "~/.cursor/mcp.json", "mcpServers"),
        ("cursor", "project", "linux", "~/project/.cursor/mcp.json", "mcpServers"),
        ("vscode", "user", "linux", "~/.config/Code/User/mcp.json", "servers"),
        ("vscode", "user", "darwin", "~/Library/Application Support/Code/User/mcp.json", "servers"),
        ("vscode", "user", "win32", "~/AppData/Roaming/Code/User/mcp.json", "servers"),
        ("vscode", "project", "linux", "~/project/.vscode/mcp.json", "servers"),
        ("lm-studio", "user", "linux", "~/.lmstudio/mcp.json", "mcpServers"),
    ],
)
def test_each_program_has_its_own_place(
    tmp_path: Path, host: Host, scope: HostScope, platform: str, path: str, keys: str
) -> None:
    around = Surroundings(tmp_path / "project", {"HOME": str(tmp_path)})

    place = find_location(host, scope, around=around, platform=platform)

    assert str(place.path) == path.replace("~", str(tmp_path))
    assert place.keys == tuple(keys.replace("~", str(tmp_path)).split(" "))


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_the_documentation_names_every_place(platform: str) -> None:
    told = (ROOT / "docs" / "claude-code.md").read_text(encoding="utf-8")
    around = Surroundings(Path("/project"), {"HOME": "/home"})
    for host, scopes in SCOPES.items():
        for scope in scopes:
            path = str(find_location(host, scope, around=around, platform=platform).path)
            spelled = path.replace("/project/", "").replace("/home/", "~/")
            windows = spelled.replace("~/AppData/Roaming/", "%APPDATA%/").replace("/", "\\")
            assert f"`{windows if '%' in windows else spelled}`" in told


def test_the_environment_moves_places(tmp_path: Path) -> None:
    moved = {
        "HOME": str(tmp_path),
        "CLAUDE_CONFIG_DIR": "/c",
        "XDG_CONFIG_HOME": "/x",
        "APPDATA": "/a",
    }
    around = Surroundings(tmp_path, moved)

    assert find_location("claude-code", "user", around=around, platform="linux").path == Path("/c/.claude.json")
    assert find_location("vscode", "user", around=around, platform="linux").path == Path("/x/Code/User/mcp.json")
    assert find_location("vscode", "user", around=around, platform="win32").path == Path("/a/Code/User/mcp.json")


def test_local_scope_is_that_of_the_repository_as_in_claude_code(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    around = Surroundings(tmp_path / "a" / "b", {"HOME": "/h"})

    assert find_location("claude-code", "local", around=around, platform="linux").keys[1] == str(tmp_path)


def test_lm_studios_older_file_is_used_where_there_is_only_that(tmp_path: Path) -> None:
    older = write(tmp_path / ".cache" / "lm-studio" / "mcp.json", {})

    around = Surroundings(tmp_path, {"HOME": str(tmp_path)})
    assert find_location("lm-studio", "user", around=around, platform="linux").path == older


def test_a_place_without_a_home_folder_or_without_such_a_scope_is_refused(tmp_path: Path) -> None:
    for host, scopes in SCOPES.items():
        if "user" in scopes:
            with pytest.raises(SettingsError, match="no home folder"):
                find_location(host, "user", around=Surroundings(tmp_path, {}), platform="linux")
    with pytest.raises(SettingsError, match="Cursor has no scope 'local'"):
        find_location("cursor", "local", around=Surroundings(tmp_path, {"HOME": "/h"}), platform="linux")


def test_the_command_is_one_that_starts_again(tmp_path: Path) -> None:
    scripts = tmp_path / "bin"
    scripts.mkdir()
    script = scripts / "lmstudio-bridge"

    def program(*, argv0: str = "-m", prefix: str = "/venv") -> Program:
        return own_program(argv0=argv0, prefix=prefix, scripts=str(scripts), python="/venv/bin/python")

    assert program() == Program("/venv/bin/python", ("-m", "lmstudio_bridge"))
    script.touch()
    assert program() == Program(str(script))
    link = tmp_path / "lmstudio-bridge"
    link.symlink_to(script)
    assert program(argv0=str(link)) == Program(str(link))
    assert program(argv0="lmstudio-bridge") == Program(str(script))
    cached = program(argv0=str(script), prefix="/home/u/.cache/uv/archive-v0/rA2B1eoy")
    assert cached == Program("uvx", ("lmstudio-bridge",))
    source = "git+https://127.0.0.1/x/lmstudio-bridge@main"
    from_git = own_program(argv0="-m", prefix="/c/archive-v0/r", scripts="/s", python="/p", source=source)
    assert from_git == Program("uvx", ("--from", source, "lmstudio-bridge"))
    for each in (program(), cached, from_git, Program("/venv/bin/python", ("-m", "lmstudio_bridge"))):
        assert starts_bridge(each.command, each.args)


def entry_with(env: Mapping[str, str]) -> dict[str, Any]:
    return {"command": "uvx", "args": ["lmstudio-bridge"], "env": dict(env)}


def test_every_text_in_a_diff_that_is_not_known_to_be_harmless_is_hidden(tmp_path: Path) -> None:
    place = find_location("cursor", "user", around=Surroundings(tmp_path, {"HOME": str(tmp_path)}), platform="linux")
    old = {"command": "/x", "args": ["--api-key", "geheim-0", "z"], "env": {"K": "geheim-1", "DEFAULT_MODEL": "m"}}
    text = json.dumps({"mcpServers": {"b": {"url": 'https://a?k=geheim"2'}, "lmstudio-bridge": old}}, indent=1)

    shown = plan_change(place, text, entry_with({"TOKEN": "geheim-3", "LMSTUDIO_BRIDGE_HOME": "/h"})).diff()

    assert "geheim" not in shown
    for text in ('"/x"', '"uvx"', '"m"', '"/h"', '"url": "…"', '"TOKEN": "…"'):
        assert text in shown


def test_settings_whose_values_are_shown_hold_no_secret() -> None:
    secret = [name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]
    assert secret == ["api_token"]  # whose variables begin neither with LMSTUDIO_BRIDGE_ nor are in the list


def test_a_setting_of_another_shape_is_a_bridge_error(tmp_path: Path) -> None:
    place = find_location("cursor", "user", around=Surroundings(tmp_path, {"HOME": str(tmp_path)}), platform="linux")
    with pytest.raises(BridgeError, match="cannot be changed: the parent of 'lmstudio-bridge' is not an object"):
        plan_change(place, '{"mcpServers": 3}', entry_with({}))


@pytest.mark.parametrize(
    ("record", "source"),
    [
        (None, ""),
        ({"url": "file:///src", "dir_info": {"editable": True}}, f"git+{REPOSITORY}"),
        ({"url": "https://h/x.git", "vcs_info": {"vcs": "git", "commit_id": "1a"}}, "git+https://h/x.git"),
        (
            {"url": "https://h/x", "vcs_info": {"vcs": "git", "commit_id": "1a", "requested_revision": "v1"}},
            "git+https://h/x@v1",
        ),
    ],
)
def test_an_entry_starts_the_bridge_from_where_it_was_installed(record: object, source: str) -> None:
    assert read_source(read=lambda _: json.dumps(record) if record else None) == source
