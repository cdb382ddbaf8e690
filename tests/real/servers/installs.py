"""Installs the servers, each into a folder of its own below the user's cache folder, where it is kept."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CACHE = Path.home() / ".cache" / "lmstudio-bridge" / "test-servers"

_LIMIT = 900.0  # seconds
_NO_BROWSERS = {"PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD": "1", "PUPPETEER_SKIP_DOWNLOAD": "1"}


def install_npm(package: str, version: str) -> list[str]:
    """The command line that starts this version of a package from npm, which is installed if it is not."""
    folder = CACHE / _plain(f"{package}-{version}")
    _install_once(
        folder, ["npm", "install", "--prefix", str(folder), "--no-progress", "--loglevel=error", f"{package}@{version}"]
    )
    installed = folder / "node_modules" / package
    scripts = json.loads((installed / "package.json").read_text(encoding="utf-8"))["bin"]
    script = scripts if isinstance(scripts, str) else next(iter(scripts.values()))
    return ["node", str(installed / script)]


def install_pypi(package: str, version: str, *, requires: Sequence[str] = ()) -> list[str]:
    """The command line that starts this version of a package from PyPI, which is installed if it is not.

    `requires` is installed with it.
    """
    folder = CACHE / _plain(f"{package}-{version}")
    uv = [sys.executable, "-m", "uv"]
    _install_once(
        folder,
        [*uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [*uv, "pip", "install", "--quiet", "--python", str(folder), f"{package}=={version}", *requires],
    )
    return [str(folder / "bin" / package)]


def _plain(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name).strip("-")


def _install_once(folder: Path, *commands: list[str]) -> None:
    done = folder / "installed"
    if done.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for command in commands:
        subprocess.run(command, check=True, env={**os.environ, **_NO_BROWSERS}, timeout=_LIMIT)
    done.touch()
