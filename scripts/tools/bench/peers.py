"""The peers from PyPI: their versions, and an environment for each, made when it is asked for and kept."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.tools.bench.subjects import BenchError

PYTHONS = ("python3.13", "python3.12", "python3.14")
"""For a peer that doesn't run on our own Python."""

_INSTALL_LIMIT = 900.0  # seconds


@dataclass(frozen=True, slots=True)
class Peer:
    """A framework: what is installed, and the module that runs its loop. `python` is the least minor version of 3."""

    name: str
    requirements: tuple[str, ...]
    module: str
    python: int = 11

    def environment(self, cache: Path) -> Path:
        """The folder of its environment; another version has another one."""
        return cache / re.sub(r"[^a-z0-9.]+", "-", self.requirements[0].lower()).strip("-")

    def command(self, cache: Path) -> list[str]:
        """The command of its loop."""
        return [str(self.environment(cache) / "bin" / "python"), "-m", f"scripts.tools.bench.loops.{self.module}"]


PEERS = (
    Peer("pydantic-ai", ("pydantic-ai-slim[mcp,openai]==2.68.0",), "with_pydantic_ai"),
    Peer("openai-agents", ("openai-agents==0.24.0",), "with_openai_agents"),
    Peer("mcp-use", ("mcp-use==1.7.1", "langchain-openai==1.7.3"), "with_mcp_use"),
    Peer("fast-agent", ("fast-agent-mcp==0.10.46",), "with_fast_agent", python=12),
)


def cache_folder(home: Path) -> Path:
    """Where environments are kept."""
    return home / ".cache" / "lmstudio-bridge" / "bench"


def install(peer: Peer, cache: Path) -> None:
    """Make the environment of a peer, if it is not there.

    Raises:
        BenchError: It cannot be made; in pip's own words.
    """
    folder = peer.environment(cache)
    done = folder / "installed"
    if done.exists():
        return
    python = _find_python(peer.python)
    cache.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([python, "-m", "venv", str(folder)], [*pip, *peer.requirements]):
        try:
            made = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_LIMIT, check=False)
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise BenchError(f"{peer.name} cannot be installed: {exc}") from exc
        if made.returncode != 0:
            words = made.stderr.strip().splitlines()
            raise BenchError(f"{peer.name} cannot be installed: {words[-1][:300] if words else 'pip says nothing'}")
    done.touch()


def _find_python(minor: int) -> str:
    """Our own Python if it is new enough, else one that is.

    Raises:
        BenchError: There is none.
    """
    if sys.version_info >= (3, minor):
        return sys.executable
    for path in _other_pythons():
        check = f"import sys; sys.exit(sys.version_info < (3, {minor}))"
        if subprocess.run([path, "-c", check], capture_output=True, check=False).returncode == 0:
            return path
    raise BenchError(f"there is no Python 3.{minor} or later here")


def _other_pythons() -> Iterator[str]:
    for name in PYTHONS:
        for folder in os.get_exec_path():
            if found := shutil.which(name, path=folder):
                yield found
    yield from map(str, sorted(Path.home().glob(".pyenv/versions/3.*/bin/python")))


def versions(peer: Peer, cache: Path) -> str:
    """The versions that matter of what is installed, for a reader."""
    script = (
        "import sys, importlib.metadata as m\n"
        "found = {d.name.lower(): d.version for d in m.distributions()}\n"
        "shown = [f'{n} {found[n]}' for n in sys.argv[1:] if n in found]\n"
        "print('Python %d.%d' % sys.version_info[:2], *shown, sep=', ')"
    )
    names = [re.split(r"[\[=]", each)[0] for each in peer.requirements]
    command = [peer.command(cache)[0], "-c", script, *names, "mcp", "openai", "httpx", "pydantic"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
