"""What the shells complete, asked of the shells themselves."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lmstudio_bridge.cli.help import commands_of
from lmstudio_bridge.cli.main import build_parser
from tests.contract.test_cli import LIMIT, ROOT


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The script for each shell, in a file."""
    paths = {shell: tmp_path_factory.mktemp("completion") / shell for shell in ("bash", "zsh", "fish")}
    for shell, path in paths.items():
        command = [sys.executable, "-m", "lmstudio_bridge", "completion", shell]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=LIMIT, check=True)
        path.write_bytes(done.stdout)
        assert (done.stderr, done.stdout.isascii()) == (b"", True)
    return paths


def told(shell: str, code: str, folder: Path) -> list[str]:
    """What a shell prints, line by line."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not there")
    plain = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TERM": "dumb"}
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


def completed(shell: str, path: Path, line: str, folder: Path) -> list[str]:
    """What the shell offers for the last word of a line."""
    words = line.split(" ")
    match shell:
        case "bash":
            code = f"""
                source {path}
                COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
                "$(complete -p lmstudio-bridge | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
                printf '%s\\n' "${{COMPREPLY[@]}}"
            """
        case "zsh":  # compadd and its kin work only inside of a real completion: here they print
            code = f"""
                compdef() {{ offer=$1 }}
                compadd() {{ shift; print -l -- "$@" }}
                _describe() {{ local each; for each in ${{(P)4}}; do print -r -- "${{each%%:*}}"; done }}
                _files() {{ print -l -- * }}
                source {path}
                words=({shlex.join(words)}); CURRENT={len(words)}
                $offer
            """
        case _:
            code = f"source {path}; complete -C {shlex.quote(line)}"
    return [each.split("\t")[0] for each in told(shell, code, folder) if each.startswith(words[-1])]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lmstudio-bridge un", ["uninstall"]),
        ("lmstudio-bridge do", ["doctor"]),
        ("lmstudio-bridge --ver", ["--version"]),
        ("lmstudio-bridge install c", ["claude-code", "claude-desktop", "cursor"]),
        ("lmstudio-bridge install cursor --sc", ["--scope"]),
        ("lmstudio-bridge install --scope ", ["local", "project", "user"]),
        ("lmstudio-bridge install --dry-run --max-access w", ["write"]),
        ("lmstudio-bridge run --acc", ["--access"]),
        ("lmstudio-bridge runs sh", ["show"]),
        ("lmstudio-bridge completion ", ["bash", "fish", "zsh"]),
        ("lmstudio-bridge eval --output a-", ["a-file"]),
        ("lmstudio-bridge run --model d", []),
    ],
)
def test_shell_offers_what_the_parser_takes(
    shell: str, line: str, offered: list[str], scripts: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "a-file").touch()

    found = completed(shell, scripts[shell], line, tmp_path)

    assert sorted(each for each in found if line[-1] != " " or each[0] != "-") == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_offered(shell: str, scripts: dict[str, Path], tmp_path: Path) -> None:
    (action,) = commands_of(build_parser())

    offered = completed(shell, scripts[shell], "lmstudio-bridge ", tmp_path)

    assert set(action.choices) <= set(offered)


def test_the_zsh_script_registers_itself_with_the_real_completion_system(
    scripts: dict[str, Path], tmp_path: Path
) -> None:
    evaluated = f'eval "$(cat {scripts["zsh"]})"'
    code = f"autoload -U compinit; compinit -u -D; {evaluated}; print $_comps[lmstudio-bridge]"

    assert told("zsh", code, tmp_path) == ["_lmstudio_bridge"]
