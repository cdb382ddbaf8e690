"""A repository cannot get its code run by the servers that work in it."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from lmstudio_bridge.mcp_client.stdio import add_git_safety, keep_from_project
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
    (project / "package.json").write_text("{}", encoding="utf-8")
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
        ("pnpm dlx hello-mcp", "-C / dlx hello-mcp"),
        ("deno run -A npm:hello-mcp", "run --no-config --node-modules-dir=none -A npm:hello-mcp"),
        ("deno run -A server.ts", "run -A server.ts"),  # the project's own
        ("yarn dlx hello-mcp", "dlx hello-mcp"),
        ("cmd /c npx.cmd -y hello-mcp", "/c npx.cmd --prefix / --script-shell SHELL -y hello-mcp"),
        ("npx --prefix . hello-mcp", "--prefix . hello-mcp"),
        ("uvx hello-mcp", "hello-mcp"),  # ignores the project itself
    ],
)
def test_other_package_managers_take_nothing_from_the_project_either(tmp_path: Path, line: str, guarded: str) -> None:
    """As tried with pnpm 9, Yarn 4 and Deno 2.9 in a project with traps for each (ours)."""
    (tmp_path / ".yarnrc.yml").touch()
    command, *words = line.split()
    config = ServerConfig("hello", "stdio", command=command, args=tuple(words), scope="user")

    args, env = keep_from_project(config, {"A": "b"}, project=tmp_path, home=None)

    assert " ".join("SHELL" if word.endswith("npx_shell.sh") else word for word in args) == guarded
    assert env["A"] == "b"
    assert ("YARN_IGNORE_PATH" in env) == (command == "yarn")
    assert keep_from_project(replace(config, scope="project"), {}, project=tmp_path, home=None)[0] == tuple(words)


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
