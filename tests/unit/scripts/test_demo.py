"""`scripts/demo` without its model: the scripted stand-in says that it is one, and all else is real."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.npm_servers import npm_server
from tests.support.shell import LIMIT, ROOT

pytestmark = pytest.mark.npm


def test_demo_shows_progress_calls_answer_and_where_its_report_is(tmp_path: Path) -> None:
    packages = next(folder for folder in Path(npm_server("filesystem")[1]).parents if folder.name == "node_modules")
    (tmp_path / "servers").mkdir()
    (tmp_path / "servers" / "node_modules").symlink_to(packages)

    done = subprocess.run(
        [sys.executable, "-m", "scripts.tools.engine.demo", "--simulator"],
        cwd=ROOT,
        env={**os.environ, "LMSTUDIO_BRIDGE_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=LIMIT,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    told = ["SCRIPTED: no real model runs", "Task, ", "Progress:", "servers: filesystem", "Calls of tools:"]
    told += ["ok: filesystem read_text_file", "(A scripted answer.", "Savings: kept ~", "Report: ", "Check: "]
    assert re.search(".*".join(map(re.escape, told)), done.stdout, flags=re.DOTALL), done.stdout
    assert f"Report: {(tmp_path / 'demo.html').as_uri()}\n" in done.stdout
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
