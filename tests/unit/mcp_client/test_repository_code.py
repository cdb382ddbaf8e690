"""A repository cannot get its code run by the servers that work in it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from lmstudio_bridge.errors import ServerStartError
from lmstudio_bridge.mcp_client.launch import add_git_safety, add_python_safety, find_trap, keep_from_project
from lmstudio_bridge.messages import Scope, ServerConfig
from tests.unit.mcp_client.pools import open_test_pool

SAFE = {"safe.bareRepository": "explicit", "core.fsmonitor": "false", "core.hooksPath": os.devnull}


def git_settings(env: dict[str, str]) -> dict[str, str]:
    count = int(env["GIT_CONFIG_COUNT"])
    return {env[f"GIT_CONFIG_KEY_{number}"]: env[f"GIT_CONFIG_VALUE_{number}"] for number in range(count)}


def test_every_server_gets_gits_safety_settings() -> None:
    assert git_settings(add_git_safety({})) == SAFE


def test_settings_of_the_user_for_git_are_kept_and_count() -> None:
    own = {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "user.name",
        "GIT_CONFIG_VALUE_0": "me",
        "GIT_CONFIG_KEY_1": "CORE.hookspath",
        "GIT_CONFIG_VALUE_1": "/my/hooks",
    }
    both = add_git_safety(own)

    assert own.items() <= {**both, "GIT_CONFIG_COUNT": "2"}.items()
    others = {key: value for key, value in SAFE.items() if key != "core.hooksPath"}
    assert git_settings(both) == {"user.name": "me", "CORE.hookspath": "/my/hooks", **others}


@pytest.mark.parametrize("count", ["x", "-1", "²", "99999"])
def test_a_count_that_git_does_not_understand_is_left_to_it(count: str) -> None:
    assert add_git_safety({"GIT_CONFIG_COUNT": count}) == {"GIT_CONFIG_COUNT": count}


@pytest.mark.parametrize("tool", ["git_status", "git_diff_unstaged"])
async def test_a_committed_folder_that_looks_like_a_repository_runs_nothing(tmp_path: Path, tool: str) -> None:
    """The real mcp-server-git ran the `core.fsmonitor` in its `config`, in a run that only reads."""
    project, mark = tmp_path / "project", tmp_path / "mark"
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    trap = set_trap(project, mark, environ)
    server = ServerConfig("git", "stdio", command=sys.executable, args=("-m", "mcp_server_git"), scope="user")
    async with open_test_pool(project=project, environ=environ) as pool:
        await pool.open_server(server)
        await pool.call_tool("git", tool, {"repo_path": str(trap / "inner")})

    assert not mark.exists()


@pytest.mark.parametrize("name", ["mcp_server_git.py", "click.py"])
async def test_python_server_imports_nothing_from_the_project(tmp_path: Path, name: str) -> None:
    project, mark = tmp_path / "project", tmp_path / "mark"
    project.mkdir()
    (project / name).write_text(f"open({str(mark)!r}, 'w')\nraise SystemExit\n", encoding="utf-8")
    server = ServerConfig("git", "stdio", command=sys.executable, args=("-m", "mcp_server_git"), scope="user")
    async with open_test_pool(project=project, environ={"PATH": os.environ["PATH"], "HOME": str(tmp_path)}) as pool:
        assert await pool.open_server(server)

    assert not mark.exists()


@pytest.mark.parametrize(
    ("words", "scope", "is_safe"),
    [
        ("-m mcp_server_git", "local", True),
        ("-m my_server", "user", True),
        ("-m my_server", "lmstudio", True),
        ("-m my_server", "local", False),
        ("server.py", "user", False),
    ],
)
def test_python_of_all_projects_imports_nothing_of_one(words: str, scope: Scope, is_safe: bool) -> None:
    config = ServerConfig("mine", "stdio", command="python", args=tuple(words.split()), scope=scope)

    assert ("PYTHONSAFEPATH" in add_python_safety({}, config)) == is_safe


def set_trap(project: Path, mark: Path, environ: dict[str, str]) -> Path:
    """A folder in the project in which `git status` makes the mark."""
    trap = project / "trap"
    trap.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", "--bare", trap], check=True)
    subprocess.run(["git", "init", "-q", "--bare", trap / "inner"], check=True)  # GitPython works in its parent folder
    (trap / "inner" / "config").write_text("[core]\nbare = false\n", encoding="utf-8")
    (trap / "work").mkdir()
    settings = {
        "repositoryformatversion": "0",
        "bare": "false",
        "worktree": "work",
        "fsmonitor": f"touch {mark}; false",
    }
    lines = [f'{key} = "{value}"' for key, value in settings.items()]
    (trap / "config").write_text("\n".join(["[core]", *lines]), encoding="utf-8")
    subprocess.run(["git", "status"], cwd=trap, env=environ, check=False, capture_output=True)
    assert mark.exists(), "the trap works"
    mark.unlink()
    return trap


@pytest.mark.skipif(shutil.which("npx") is None, reason="needs npx")
@pytest.mark.parametrize(("command", "scope"), [("npx", "user"), ("env A=b npx", "local"), ("npm exec", "user")])
async def test_npx_of_the_user_takes_nothing_from_the_node_modules_of_a_project(
    tmp_path: Path, command: str, scope: Scope
) -> None:
    project, mark, package = tmp_path / "project", tmp_path / "mark", tmp_path / "hello.tgz"
    programs = project / "node_modules" / ".bin"
    programs.mkdir(parents=True)
    for name in ("hello-mcp", "node", "git"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {mark}\nexit 1\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    itself = {"name": "hello-mcp", "version": "9.9.9", "bin": {"hello-mcp": "node_modules/.bin/hello-mcp"}}
    (project / "package.json").write_text(json.dumps(itself), encoding="utf-8")
    write_package(package)
    server = ServerConfig(
        "hello", "stdio", command=command.split()[0], scope=scope,
        args=(*command.split()[1:], "-y", "-p", f"file:{package}", "hello-mcp"),
        env={"npm_config_cache": str(tmp_path / "cache"), "npm_config_offline": "true", "npm_config_audit": "false"},
    )  # fmt: skip
    async with open_test_pool(project=project, environ={"PATH": os.environ["PATH"], "HOME": str(tmp_path)}) as pool:
        [tool] = await pool.open_server(server)

    assert not mark.exists()
    assert tool.description == str(project), "the working directory stays the project"


@pytest.mark.parametrize(
    ("line", "guarded"),
    [
        ("npx -y hello-mcp --project x", "npx --prefix / --script-shell SHELL -y hello-mcp --project x"),
        (
            "npm --loglevel silent exec hello-mcp",
            "npm --prefix / --script-shell SHELL --loglevel silent exec hello-mcp",
        ),
        ("npm run x", "npm run x"),
        ("npx --prefix . hello-mcp", "npx --prefix . hello-mcp"),
        ("cmd /c npx.cmd -y hello-mcp", "cmd /c npx.cmd --prefix / --script-shell SHELL -y hello-mcp"),
        ("env -i A=b nice -n 5 npx hello-mcp", "env -i A=b nice -n 5 npx --prefix / --script-shell SHELL hello-mcp"),
        ("corepack pnpm dlx hello-mcp", "corepack pnpm -C / dlx hello-mcp"),
        ("pnpm --silent dlx hello-mcp", "pnpm -C / --silent dlx hello-mcp"),
        ("/opt/bin/pnpx hello-mcp", "/opt/bin/pnpm -C / dlx hello-mcp"),
        ("yarn dlx hello-mcp", "yarn dlx hello-mcp"),
        ("deno run -A npm:hello-mcp", "deno run --no-config --node-modules-dir=none -A npm:hello-mcp"),
        ("deno -A jsr:@a/hello-mcp", "deno --no-config --node-modules-dir=none -A jsr:@a/hello-mcp"),
        ("deno run -A server.ts", "deno run -A server.ts"),  # the project's own
        ("uv run --with mcp server.py", "uv run --no-project --no-config --with mcp server.py"),
        ("uv run /opt/server.py", "uv run --no-project --no-config /opt/server.py"),
        ("uv run --directory /opt/hello hello-mcp", "uv run --directory /opt/hello hello-mcp"),
        ("uvx hello-mcp", "uvx hello-mcp"),  # ignores the project itself
    ],
)
def test_what_starts_packages_takes_nothing_from_the_project(tmp_path: Path, line: str, guarded: str) -> None:
    """As tried with npm 11, pnpm 9, Yarn 4 and Deno 2.9 in a project with traps for each (ours)."""
    command, *words = line.split()
    config = ServerConfig("hello", "stdio", command=command, args=tuple(words), scope="user")

    shown, env = keep_from_project(config, {"A": "b"}, project=tmp_path)

    assert " ".join("SHELL" if word.endswith("npx_shell.sh") else word for word in shown) == guarded
    assert env["A"] == "b"
    assert ("YARN_IGNORE_PATH" in env) == (command == "yarn")
    for other in (replace(config, scope="project"), replace(config, cwd=tmp_path)):
        assert keep_from_project(other, {}, project=tmp_path)[0] == (command, *words)


@pytest.mark.parametrize("words", [("bash", "-lc"), ("env", "-S")])
def test_what_a_shell_starts_takes_nothing_from_the_project_either(tmp_path: Path, words: tuple[str, str]) -> None:
    lines = {
        "source ~/.nvm/nvm.sh && npx -y hello-mcp": r"source \S+ && npx --prefix / .*npx_shell.sh -y hello-mcp",
        "exec pnpx hello-mcp": "exec pnpm -C / dlx hello-mcp",
        "npm exec hello-mcp": "npm --prefix / .*npx_shell.sh exec hello-mcp",
        "npm run dev": "npm run dev",
    }
    for line, guarded in lines.items():
        config = ServerConfig("hello", "stdio", command=words[0], args=(words[1], line), scope="user")

        assert re.fullmatch(guarded, keep_from_project(config, {}, project=tmp_path)[0][-1])


@pytest.mark.parametrize(
    ("line", "trap", "is_caught"),
    [
        ("bunx hello-mcp", "node_modules", True),
        ("bun x hello-mcp", ".env", True),
        ("sh -c bunx hello-mcp", "bunfig.toml", True),
        ("pipx run hello-mcp", "__pypackages__", True),
        ("bun run server.ts", "node_modules", False),  # the project's own
        ("bunx hello-mcp", "src", False),
        ("npx hello-mcp", "node_modules", False),
    ],
)
async def test_what_has_no_option_against_it_is_not_started_where_there_is_something(
    tmp_path: Path, line: str, trap: str, is_caught: bool
) -> None:
    """Bun 1.4 runs what is in `node_modules/.bin`, its `node` included, and reads .env (ours)."""
    (tmp_path / "inner").mkdir()
    (tmp_path / trap).mkdir()
    command, *words = line.split(maxsplit=2) if line.startswith("sh") else line.split()
    config = ServerConfig("hello", "stdio", command=command, args=tuple(words), scope="user")

    assert find_trap(config, project=tmp_path / "inner", home=None) == (str(tmp_path / trap) if is_caught else "")
    assert find_trap(config, project=tmp_path, home=str(tmp_path)) == "", "the user's own"
    assert find_trap(replace(config, cwd=tmp_path), project=tmp_path, home=None) == ""
    if is_caught:
        async with open_test_pool(project=tmp_path) as pool:
            with pytest.raises(ServerStartError, match=r"is not started, because .* would run what is in"):
                await pool.open_server(config)


def write_package(path: Path) -> None:
    """A package for npx, with a server whose only tool is described by its working directory."""
    script = """#!/usr/bin/env node
    require('child_process').spawnSync('git', ['--version']);
    require('readline').createInterface({input: process.stdin}).on('line', line => {
      const {id, method, params} = JSON.parse(line);
      const serverInfo = {name: 'hello', version: '1'}, inputSchema = {type: 'object'};
      const result = method === 'initialize'
        ? {protocolVersion: params.protocolVersion, capabilities: {tools: {}}, serverInfo}
        : {tools: [{name: 'hello', description: process.cwd(), inputSchema}]};
      if (id !== undefined) console.log(JSON.stringify({jsonrpc: '2.0', id, result}));
    });
    """
    manifest = {"name": "hello-mcp", "version": "1.0.0", "bin": {"hello-mcp": "index.js"}}
    files = {"package.json": json.dumps(manifest), "index.js": script}
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size, member.mode = len(text.encode()), 0o755
            archive.addfile(member, io.BytesIO(text.encode()))
