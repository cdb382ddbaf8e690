"""What the shells complete, asked of the shells themselves."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from tests.support.shell import LIMIT, ROOT

SHELLS = ("bash", "zsh", "fish")
COMMANDS = (
    *("serve", "install", "doctor", "run", "continue", "runs"),
    *("models", "servers", "eval", "uninstall", "completion"),
)
NAMES = """#!/bin/sh
echo "$*" >> asked
[ "$1 $2" = "completion --names" ] || exit 1
case $3 in
    servers) echo filesystem ;;
    models) echo qwen/qwen3-4b ;;
    runs) printf "last\\n20260101-000000-aaaaa\\n" ;;
esac
"""
"""What the scripts ask the bridge for; they may do so only when something is completed."""

ZSH = """
unsetopt zle_bracketed_paste
autoload -U compinit
compinit -u -D
eval "$(cat %s)"
compadd() {
    if [[ " $* " != *" -O "* && " $* " != *" -D "* ]]; then
        local -a hits
        builtin compadd -O hits "$@"
        print -rl -- $hits >> offered
    fi
    builtin compadd "$@"
}
print READY
"""
"""zsh as it is at a start, and a note of all that it offers."""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The script for each shell, in a file."""
    paths = {shell: tmp_path_factory.mktemp("completion") / shell for shell in SHELLS}
    for shell, path in paths.items():
        command = [sys.executable, "-m", "lmstudio_bridge", "completion", shell]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=LIMIT, check=True)
        path.write_bytes(done.stdout)
        assert (done.stderr, done.stdout.isascii()) == (b"", True)
    return paths


def write_bridge(folder: Path) -> None:
    bridge = folder / "bin" / "lmstudio-bridge"
    bridge.parent.mkdir()
    bridge.write_text(NAMES, encoding="utf-8")
    bridge.chmod(0o755)


def run_shell(shell: str, code: str, folder: Path) -> list[str]:
    """What a shell prints, line by line."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    plain = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    environ = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(folder), "TERM": "dumb"}
    done = subprocess.run(
        [program, *plain, "-c", code],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def complete_in_zsh(path: Path, line: str, folder: Path) -> list[str]:
    """What zsh offers after Tab, at a terminal, without which it completes nothing."""
    program = shutil.which("zsh")
    if program is None:
        pytest.skip("zsh is not installed")
    (folder / "start").write_text(ZSH % path, encoding="utf-8")
    environ = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(folder), "TERM": "dumb"}
    zsh = pexpect.spawn(program, ["-f"], cwd=str(folder), env=environ, encoding="utf-8", timeout=LIMIT)
    try:
        zsh.sendline("source ./start")
        zsh.expect("READY\r\n")
        zsh.send(f"{line}\t\x15print DO''NE\n")
        zsh.expect("DONE\r\n")
    finally:
        zsh.close(force=True)
    offered = folder / "offered"
    return offered.read_text(encoding="utf-8").split() if offered.exists() else []


def completed(shell: str, path: Path, line: str, folder: Path) -> list[str]:
    """What the shell offers for the last word of a line."""
    words = line.split(" ")
    if shell == "fish":
        code = f"source {path}; complete -C {shlex.quote(line)}"
    elif shell == "zsh":
        return complete_in_zsh(path, line, folder)
    else:
        code = f"""
            source {path}
            COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
            "$(complete -p lmstudio-bridge | sed 's/.*-F \\([^ ]*\\).*/\\1/')" lmstudio-bridge {shlex.quote(words[-1])}
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
    return [each.split("\t")[0] for each in run_shell(shell, code, folder) if each.startswith(words[-1])]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lmstudio-bridge un", ["uninstall"]),
        ("lmstudio-bridge --ver", ["--version"]),
        ("lmstudio-bridge install c", ["claude-code", "claude-desktop", "cursor"]),
        ("lmstudio-bridge install cursor --sc", ["--scope"]),
        ("lmstudio-bridge install --scope ", ["local", "project", "user"]),
        ("lmstudio-bridge install --dry-run --max-access w", ["write"]),
        ("lmstudio-bridge runs sh", ["show"]),
        ("lmstudio-bridge completion ", ["bash", "fish", "zsh"]),
        ("lmstudio-bridge run --schema a-", ["a-file"]),
        ("lmstudio-bridge run --model d", []),
        ("lmstudio-bridge run --model q", ["qwen/qwen3-4b"]),
        ("lmstudio-bridge run --mcp ", ["filesystem"]),
        ("lmstudio-bridge login ", ["filesystem"]),
        ("lmstudio-bridge runs show 2026", ["20260101-000000-aaaaa"]),
        ("lmstudio-bridge continue l", ["last"]),
        ("lmstudio-bridge eval --server f", []),
    ],
)
def test_the_shell_offers_what_the_parser_accepts(
    shell: str, line: str, offered: list[str], scripts: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "a-file").touch()
    write_bridge(tmp_path)

    found = completed(shell, scripts[shell], line, tmp_path)

    assert sorted(each for each in found if line[-1] != " " or each[0] != "-") == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_is_offered(shell: str, scripts: dict[str, Path], tmp_path: Path) -> None:
    assert set(COMMANDS) <= set(completed(shell, scripts[shell], "lmstudio-bridge ", tmp_path))


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_that_starts_asks_for_no_names(shell: str, scripts: dict[str, Path], tmp_path: Path) -> None:
    write_bridge(tmp_path)

    start = "autoload -U compinit; compinit -u -D; " if shell == "zsh" else ""
    load = f"source {scripts[shell]}" if shell == "fish" else f'eval "$(cat {scripts[shell]})"'
    run_shell(shell, start + load, tmp_path)

    assert not (tmp_path / "asked").exists()
