"""`scripts/demo` without its model: the scripted stand-in says that it is one, and all else is real."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.npm_servers import npm_server
from tests.support.shell import LIMIT, ROOT
from tests.support.terminal import missing, type_line

pytestmark = pytest.mark.npm


def test_demo_in_a_terminal_shows_what_happens_the_answers_and_where_its_report_is(tmp_path: Path) -> None:
    packages = next(folder for folder in Path(npm_server("filesystem")[1]).parents if folder.name == "node_modules")
    (tmp_path / "servers").mkdir()
    (tmp_path / "servers" / "node_modules").symlink_to(packages)
    environ = {**os.environ, "LMSTUDIO_BRIDGE_CACHE": str(tmp_path), "TERM": "xterm-256color"}

    code, shown = type_line(
        f"{shlex.quote(sys.executable)} -m scripts.tools.engine.demo --simulator", folder=ROOT, environ=environ
    )

    assert code == 0, shown
    told = [
        "SCRIPTED: no real model runs",
        '$ lmstudio-bridge run "',
        "Starting",
        "of 5",
        "\N{HEAVY CHECK MARK} notes/",
    ]
    told += ["5 of 5 items done", "(A scripted answer.", "kept ~", "Report: ", "Check: "]
    assert not missing(tuple(told), shown), shown
    assert f"Report: {(tmp_path / 'demo.html').as_uri()}" in shown
    assert "A scripted answer." in (tmp_path / "demo.html").read_text(encoding="utf-8")


def test_demo_needs_nothing_that_only_the_developers_have(tmp_path: Path) -> None:
    """`scripts/demo` installs the bridge and the engine, and no tools of development."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    names = {canonical(re.split(r"[<>=~!\[; ]", each)[0]) for each in groups["dev"]}
    hidden = sorted(
        package
        for package, distributions in packages_distributions().items()
        if {canonical(distribution) for distribution in distributions} <= names
    )
    assert {"respx", "pytest"} <= set(hidden)
    for package in hidden:
        (tmp_path / f"{package}.py").write_text("raise ImportError(__name__)", encoding="utf-8")
    code = "import scripts.tools.engine.demo, scripts.tools.engine.server, tests.lmstudio_sim.server"

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def canonical(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
