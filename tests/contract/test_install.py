"""`install` and `uninstall`, as processes of their own, on real files."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.shell import ROOT, Shell

FAKE_CLAUDE = f"""#!{sys.executable}
# `claude mcp` as 2.1.197 does it: an entry that is there is not replaced, what is not there is not removed.
import json, os, sys
from pathlib import Path
with open(os.environ["CLAUDE_LOG"], "a", encoding="utf-8") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
if os.environ.get("CLAUDE_BREAKS"):
    print("something is wrong inside")
    sys.exit(1)
_, action, _, scope, name, *rest = sys.argv[1:]
path = Path.cwd() / ".mcp.json" if scope == "project" else Path(os.environ["HOME"], ".claude.json")
root = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {{}}
servers = root.setdefault("mcpServers", {{}})
if (action == "remove") != (name in servers):
    print("MCP server already exists" if name in servers else "No MCP server")
    sys.exit(1)
if action == "remove":
    del servers[name]
else:
    servers[name] = json.loads(rest[0]) if action == "add-json" else {{"command": rest[1], "args": rest[2:]}}
path.write_text(json.dumps(root, indent=2), encoding="utf-8")
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A home folder with a project in it, and no `claude` on the PATH."""
    (tmp_path / "home" / "project").mkdir(parents=True)
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    return Shell(tmp_path / "home" / "project", environ)


def home(shell: Shell) -> Path:
    return Path(shell.environ["HOME"])


def write(path: Path, root: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(root if isinstance(root, str) else json.dumps(root, indent=2), encoding="utf-8")
    return path


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def backups(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.backup-*"))


def with_claude(shell: Shell, **environ: str) -> tuple[Shell, Path]:
    """The shell with a `claude` on its PATH, and the file with the command lines that it got."""
    folder = home(shell) / "bin"
    folder.mkdir()
    (folder / "claude").write_text(FAKE_CLAUDE, encoding="utf-8")
    (folder / "claude").chmod(0o755)
    log = folder / "log"
    path = f"{folder}:{shell.environ['PATH']}"
    return Shell(shell.folder, {**shell.environ, "PATH": path, "CLAUDE_LOG": str(log), **environ}), log


def commands_in(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


# -- install -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "path", "root"),
    [
        ("claude-code", ".claude.json", "mcpServers"),
        ("claude-desktop", ".config/Claude/claude_desktop_config.json", "mcpServers"),
        ("cursor", ".cursor/mcp.json", "mcpServers"),
        ("vscode", ".config/Code/User/mcp.json", "servers"),
        ("lm-studio", ".lmstudio/mcp.json", "mcpServers"),
    ],
)
async def test_the_bridge_is_put_in_beside_the_others_and_taken_out_again(
    shell: Shell, host: str, path: str, root: str
) -> None:
    known = {"first": 1.50, root: {"other": {"command": "x", "env": {"KEY": "geheim-123"}}}, "last": ["ü"]}
    file = write(home(shell) / path, known)
    file.chmod(0o640)
    before = file.read_bytes()

    code, out, err = await shell.run("install", host, "--yes", "--base-url", "http://10.0.0.5:1234")

    assert code == 0, out + err
    after = read(file)
    entry = after[root].pop("lmstudio-bridge")
    assert after == known
    started = await asyncio.create_subprocess_exec(
        entry["command"], *entry["args"], "--version", cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert (await started.communicate())[0].startswith(b"lmstudio-bridge ")
    named = {} if host in ("claude-code", "lm-studio") else {"LMSTUDIO_BRIDGE_MCP_CONFIG": str(file)}
    assert entry["env"] == {"LMSTUDIO_BASE_URL": "http://10.0.0.5:1234", **named}
    assert entry.get("type") == ("stdio" if host in ("claude-code", "vscode") else None)
    assert (list(after), stat.S_IMODE(file.stat().st_mode)) == (list(known), 0o640)
    (copy,) = backups(file)
    assert copy.read_bytes() == before
    assert '+      "command": ' in out
    assert ("hands tasks to a model of the same LM Studio" in err) == (host == "lm-studio")
    assert "geheim-123" not in out + err
    # The bridge finds the servers of the program that starts it.
    code, listed, err = await Shell(shell.folder, {**shell.environ, **entry["env"]}).run("servers", "--json")
    assert code == 0, err
    states = {server["server"]: server["state"] for server in json.loads(listed)}
    assert states["other"] == "usable"
    assert "starts the bridge itself" in states["lmstudio-bridge"]

    code, out, err = await shell.run("uninstall", host, "--yes")

    assert code == 0, out + err
    assert file.read_bytes() == before
    assert "geheim-123" not in out + err
    assert {each.name for each in file.parent.iterdir() if each != shell.folder} == {
        file.name,
        *(copy.name for copy in backups(file)),
    }


@pytest.mark.parametrize(
    ("options", "env", "said"),
    [
        (("--scope", "project"), None, "not those in this file, which everyone who works on the project can change"),
        (("--env", "LMSTUDIO_BRIDGE_MCP_CONFIG="), {"LMSTUDIO_BRIDGE_MCP_CONFIG": ""}, ""),
        (("--env", "MCP_JSON_PATH=/other.json"), {"MCP_JSON_PATH": "/other.json"}, ""),
    ],
)
async def test_a_projects_file_or_one_chosen_otherwise_is_not_named_in_the_entry(
    shell: Shell, options: tuple[str, ...], env: Any, said: str
) -> None:
    code, out, err = await shell.run("install", "cursor", "--yes", *options)

    assert code == 0, out + err
    above = shell.folder if "project" in options else home(shell)
    assert read(above / ".cursor" / "mcp.json")["mcpServers"]["lmstudio-bridge"].get("env") == env
    assert said in err
    assert "will use the servers in this file" not in err


async def test_installing_again_changes_only_what_it_is_told_to(shell: Shell) -> None:
    file = write(home(shell) / ".claude.json", {})
    await shell.run("install", "--yes", "--base-url", "http://10.0.0.5:1234", "--env", "LM_API_TOKEN=geheim-1")
    root = read(file)
    root["mcpServers"]["lmstudio-bridge"]["timeout"] = 600_000  # by hand
    write(file, root)
    before = file.read_bytes()

    code, out, err = await shell.run("install")  # asks nothing, so it needs no terminal

    assert (code, out) == (0, "")
    assert f"The bridge is already registered in Claude Code: {file}" in err
    assert file.read_bytes() == before

    code, out, _ = await shell.run("install", "--yes", "--model", "b")

    entry = read(file)["mcpServers"]["lmstudio-bridge"]
    known = {"LMSTUDIO_BASE_URL": "http://10.0.0.5:1234", "LM_API_TOKEN": "geheim-1"}
    assert (code, entry["env"], entry["timeout"]) == (0, {**known, "DEFAULT_MODEL": "b"}, 600_000)
    assert "geheim" not in out


async def test_the_servers_that_an_entry_names_stay_named(shell: Shell) -> None:
    file = home(shell) / ".cursor" / "mcp.json"
    await shell.run("install", "cursor", "--yes", "--env", "LMSTUDIO_BRIDGE_MCP_CONFIG=")

    await shell.run("install", "cursor", "--yes", "--model", "b")

    entry = read(file)["mcpServers"]["lmstudio-bridge"]
    assert entry["env"] == {"LMSTUDIO_BRIDGE_MCP_CONFIG": "", "DEFAULT_MODEL": "b"}


async def test_doctor_checks_what_claude_code_would_start(shell: Shell) -> None:
    await shell.run("install", "--yes", "--base-url", "http://127.0.0.1:9")

    _, out, _ = await shell.run("doctor", "--json")

    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert "http://127.0.0.1:9" in checks["LM Studio"]["found"]
    assert f"'lmstudio-bridge' in {home(shell) / '.claude.json'}" in checks["Entry"]["found"]
    assert checks["Registration in Claude Code"]["state"] == "ok"


async def test_an_entry_of_that_name_is_shown_and_replaced_only_after_a_yes(shell: Shell) -> None:
    file = write(home(shell) / ".claude.json", {"mcpServers": {"lmstudio-bridge": {"command": "node", "args": ["x"]}}})
    before = file.read_bytes()

    code, seen = await shell.answer("n", "install")

    assert (code, file.read_bytes()) == (1, before)
    assert '-      "command": "node"' in seen
    assert "Replace the existing entry? [y/N]" in seen
    assert "Nothing was written." in seen

    code, seen = await shell.answer("y", "install")

    assert code == 0, seen
    assert read(file)["mcpServers"]["lmstudio-bridge"]["command"] != "node"


async def test_without_a_terminal_and_without_yes_nothing_is_written(shell: Shell) -> None:
    code, out, err = await shell.run("install", "cursor")

    assert code == 2
    assert "+++ " in out
    assert "no terminal to ask on. Use --yes" in err
    assert not (home(shell) / ".cursor").exists()


async def test_a_dry_run_shows_a_diff_and_writes_nothing(shell: Shell) -> None:
    file = write(home(shell) / ".cursor" / "mcp.json", {"mcpServers": {"a": {"command": "b"}}})

    code, out, err = await shell.run("install", "cursor", "--dry-run", "--model", "qwen")

    assert code == 0
    assert err.startswith("The bridge will use the servers in this file.")
    assert err.endswith("\nNothing was written (--dry-run).\n")
    assert out.startswith(f"--- {file}\n+++ {file}\n@@ ")
    assert '+        "DEFAULT_MODEL": "qwen"' in out
    assert '       "command": "…"' in out  # of another server
    assert backups(file) == []


async def test_a_secret_is_written_and_never_shown(shell: Shell) -> None:
    other = {"mcpServers": {"x": {"command": "c", "args": ["--key", "geheim-arg"], "headers": {"A": "geheim-kopf"}}}}
    file = write(home(shell) / ".claude.json", json.dumps(other))  # on one line, next to ours
    tokened = Shell(shell.folder, {**shell.environ, "LM_API_TOKEN": "geheim-token", "OTHER": "geheim-anders"})

    code, out, err = await tokened.run("install", "--yes", "--env", "LM_API_TOKEN", "--env", "OTHER", "--env", "A=b c")

    assert code == 0, err
    env = read(file)["mcpServers"]["lmstudio-bridge"]["env"]
    assert env == {"LM_API_TOKEN": "geheim-token", "OTHER": "geheim-anders", "A": "b c"}
    assert "geheim" not in out + err
    assert '"LM_API_TOKEN": "…"' in out
    assert stat.S_IMODE((home(shell) / ".claude.json").stat().st_mode) & 0o077 == 0o044  # as it was

    code, out, err = await tokened.run("install", "--print", "--env", "LM_API_TOKEN")

    assert json.loads(out)["mcpServers"]["lmstudio-bridge"]["env"] == {"LM_API_TOKEN": "<LM_API_TOKEN>"}
    assert err == "Replace <LM_API_TOKEN> with the value of LM_API_TOKEN.\n"


async def test_a_new_file_is_for_its_owner_alone_and_a_projects_for_all(shell: Shell) -> None:
    await shell.run("install", "--yes")
    await shell.run("install", "--yes", "--scope", "project")

    assert stat.S_IMODE((home(shell) / ".claude.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((shell.folder / ".mcp.json").stat().st_mode) == 0o644
    assert read(shell.folder / ".mcp.json")["mcpServers"]["lmstudio-bridge"]["command"] == "uvx"


async def test_a_secret_does_not_go_into_a_file_that_others_get(shell: Shell) -> None:
    code, _, err = await shell.run("install", "--yes", "--scope", "project", "--env", "LM_API_TOKEN=geheim-1")

    assert code == 2
    assert "LM_API_TOKEN looks like a secret" in err
    assert "geheim" not in err
    assert not (shell.folder / ".mcp.json").exists()

    code, _, err = await shell.run("install", "--yes", "--scope", "project", "--env", "LM_API_TOKEN=${LM_API_TOKEN}")

    assert code == 0, err
    env = read(shell.folder / ".mcp.json")["mcpServers"]["lmstudio-bridge"]["env"]
    assert env == {"LM_API_TOKEN": "${LM_API_TOKEN}"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--base-url", "ftp://x"), "LMSTUDIO_BASE_URL is not an http or https address"),
        (("--env", "LMSTUDIO_BRIDGE_CALLS=maybe"), "LMSTUDIO_BRIDGE_CALLS has an invalid value"),
        (("--env", "=x"), "--env needs the name of a variable"),
        (("--env", "NOT_HERE"), "--env NOT_HERE: this variable is not set"),
    ],
)
async def test_an_entry_that_would_not_start_is_not_written(shell: Shell, options: tuple[str, ...], said: str) -> None:
    code, _, err = await shell.run("install", "--yes", *options)

    assert (code, said in err) == (2, True), err
    assert not (home(shell) / ".claude.json").exists()


@pytest.mark.parametrize("text", ['{\n  // mine\n  "servers": {}\n}', "{", "[]", '{"servers": []}', "\x00"])
async def test_a_file_that_is_not_plain_json_is_left_alone_and_there_is_something_to_paste(
    shell: Shell, text: str
) -> None:
    file = write(home(shell) / ".config" / "Code" / "User" / "mcp.json", text)

    code, out, err = await shell.run("install", "vscode", "--yes", "--env", "LM_API_TOKEN=geheim-1")

    assert (code, out) == (1, "")
    assert f"VS Code's file {file}" in err
    assert json.loads(err[err.index("\n{") :])["servers"]["lmstudio-bridge"]["env"] == {
        "LM_API_TOKEN": "<LM_API_TOKEN>",
        "LMSTUDIO_BRIDGE_MCP_CONFIG": str(file),
    }
    assert "geheim" not in err
    assert file.read_text(encoding="utf-8") == text
    assert "Fix it" not in err, "comments are allowed there"
    assert (await shell.run("uninstall", "vscode", "--yes"))[0] == 1
    write(home(shell) / ".claude.json", "{")
    assert "Fix it and try again, or by hand, add this:\n" in (await shell.run("install", "--yes"))[2]


async def test_a_byte_order_mark_stays(shell: Shell) -> None:
    file = home(shell) / ".cursor" / "mcp.json"
    file.parent.mkdir()
    file.write_bytes(b'\xef\xbb\xbf{"mcpServers": {}}\r\n')

    await shell.run("install", "cursor", "--yes")

    written = file.read_bytes()
    assert (written[:3], written[-2:]) == (b"\xef\xbb\xbf", b"\r\n")
    assert "lmstudio-bridge" in json.loads(written.decode("utf-8-sig"))["mcpServers"]


async def test_what_is_in_several_scopes_is_taken_out_of_the_one_that_is_named(shell: Shell) -> None:
    for scope in ("user", "local"):
        await shell.run("install", "--yes", "--scope", scope)

    code, _, err = await shell.run("uninstall", "--yes")
    assert code == 2
    assert "several scopes: user (" in err

    assert (await shell.run("uninstall", "--yes", "--scope", "local"))[0] == 0
    root = read(home(shell) / ".claude.json")
    assert root["projects"] == {str(shell.folder): {"mcpServers": {}}}
    assert "lmstudio-bridge" in root["mcpServers"]

    assert (await shell.run("uninstall", "--yes"))[0] == 0
    code, out, err = await shell.run("uninstall")
    assert (code, out) == (0, "")
    assert "The bridge is not registered in Claude Code" in err


# -- through Claude Code's own command ---------------------------------------------------------------------------


async def test_claude_code_changes_its_own_file_where_it_can(shell: Shell) -> None:
    there, log = with_claude(shell)
    file = home(shell) / ".claude.json"

    code, _, err = await there.run("install", "--yes", "--model", "a")
    first = read(file)["mcpServers"]["lmstudio-bridge"]
    await there.run("install", "--yes", "--model", "b")
    second = read(file)["mcpServers"]["lmstudio-bridge"]
    await there.run("uninstall", "--yes")

    assert code == 0, err
    assert f"Written with `claude mcp`: {file}" in err
    assert (first["env"], second["env"]) == ({"DEFAULT_MODEL": "a"}, {"DEFAULT_MODEL": "b"})
    kept = [read(path)["mcpServers"]["lmstudio-bridge"] for path in backups(file)]
    assert kept == [first, second], "as each was before its change"
    assert read(file) == {"mcpServers": {}}
    name = ["--scope", "user", "lmstudio-bridge"]
    assert commands_in(log) == [
        ["mcp", "add-json", *name, json.dumps(first)],
        ["mcp", "remove", *name],  # it replaces nothing
        ["mcp", "add-json", *name, json.dumps(second)],
        ["mcp", "remove", *name],
    ]


async def test_a_secret_never_stands_on_a_command_line(shell: Shell) -> None:
    there, log = with_claude(shell)

    code, _, _ = await there.run("install", "--yes", "--env", "LM_API_TOKEN=geheim-1")

    assert (code, commands_in(log)) == (0, [])
    assert read(home(shell) / ".claude.json")["mcpServers"]["lmstudio-bridge"]["env"] == {"LM_API_TOKEN": "geheim-1"}


async def test_where_claude_fails_its_file_is_changed_instead(shell: Shell) -> None:
    there, log = with_claude(shell, CLAUDE_BREAKS="1")

    code, _, err = await there.run("install", "--yes")

    assert (code, len(commands_in(log))) == (0, 1)
    assert "`claude mcp` failed (something is wrong inside); its file is changed directly instead." in err
    assert "lmstudio-bridge" in read(home(shell) / ".claude.json")["mcpServers"]
