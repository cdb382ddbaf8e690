"""The files below .github: they parse, call what there is, and may do no more than they must."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.wheels import ROOT

GITHUB = ROOT / ".github"
FILES = sorted(GITHUB.rglob("*.yml"))
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))


def read(path: Path) -> dict[Any, Any]:
    """The mapping in a file. YAML reads the key `on` as True."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def jobs_of(path: Path) -> dict[str, dict[str, Any]]:
    jobs: dict[str, dict[str, Any]] = read(path)["jobs"]
    return jobs


def steps() -> Iterator[dict[str, Any]]:
    """Every step of every job."""
    for path in WORKFLOWS:
        for job in jobs_of(path).values():
            yield from job["steps"]


def test_these_are_the_files() -> None:
    names = [path.relative_to(GITHUB).as_posix() for path in FILES]

    assert names == [
        *("ISSUE_TEMPLATE/bug.yml", "ISSUE_TEMPLATE/config.yml", "ISSUE_TEMPLATE/idea.yml"),
        "dependabot.yml",
        *("workflows/bench.yml", "workflows/ci.yml", "workflows/release.yml", "workflows/weekly.yml"),
    ]
    assert all(read(path) for path in FILES)


def test_scripts_tests_and_markers_that_a_workflow_names_are_there() -> None:
    runs = "\n".join(step["run"] for step in steps() if "run" in step)
    runs += "\n" + "\n".join(
        include["tests"]
        for include in jobs_of(GITHUB / "workflows/ci.yml")["portable"]["strategy"]["matrix"]["include"]
    )
    scripts = {ROOT / name for name in re.findall(r"(?:^|\s)(scripts/[\w-]+)", runs)}
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    markers = {line.partition(":")[0] for line in options["markers"]}
    named = {word for marks in re.findall(r'-m "([^"]+)"', runs) for word in marks.split()} - {"not", "and", "or"}

    assert len(scripts) > 5
    assert [path for path in scripts if not os.access(path, os.X_OK)] == []
    assert [name for name in re.findall(r"tests/[\w./]+", runs) if not (ROOT / name).exists()] == []
    assert named <= markers


def test_bench_may_be_given_only_options_that_it_has() -> None:
    source = (ROOT / "scripts" / "tools" / "bench" / "__main__.py").read_text(encoding="utf-8")
    choices = read(GITHUB / "workflows" / "bench.yml")[True]["workflow_dispatch"]["inputs"]["options"]

    assert choices["default"] in choices["options"]
    assert [word for choice in choices["options"] for word in choice.split() if f'"{word}"' not in source] == []


def test_every_action_is_pinned_to_a_commit_and_says_its_version() -> None:
    """A tag can be moved to other code."""
    used = [
        line.strip() for path in WORKFLOWS for line in path.read_text(encoding="utf-8").splitlines() if "uses:" in line
    ]

    assert len(used) == sum("uses" in step for step in steps())
    assert [line for line in used if not re.fullmatch(r"- uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []
    assert len({line.partition("@")[0] for line in used}) == len(set(used))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_job_is_bounded_and_may_write_nothing_unless_it_says_so(path: Path) -> None:
    assert read(path)["permissions"] in ({}, {"contents": "read"})
    assert [name for name, job in jobs_of(path).items() if not 0 < job["timeout-minutes"] <= 120] == []
    checkouts = [
        step for job in jobs_of(path).values() for step in job["steps"] if "/checkout@" in step.get("uses", "")
    ]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_only_the_job_that_publishes_can_and_it_runs_no_code_of_ours() -> None:
    granted = {
        (path.stem, name, right)
        for path in WORKFLOWS
        for name, job in jobs_of(path).items()
        for right, level in job.get("permissions", {}).items()
        if level == "write"
    }
    job = jobs_of(GITHUB / "workflows" / "release.yml")["pypi"]

    assert granted == {("release", "pypi", "id-token"), ("release", "github", "contents")}
    assert job["environment"] == "pypi"
    assert not any("run" in step for step in job["steps"])
    assert job["steps"][-1]["with"] == {"attestations": True}


def test_nothing_of_an_event_is_put_into_a_shell_command() -> None:
    """A branch can be called `$(…)`; variables of the environment are taken as they are."""
    allowed = {"matrix.tests"}

    put_in = {name for step in steps() for name in re.findall(r"\$\{\{ *([\w.]+) *\}\}", step.get("run", ""))}

    assert put_in <= allowed


def test_dependabot_looks_where_there_is_something() -> None:
    manifests = {"pip": "pyproject.toml", "npm": "package.json", "github-actions": ".github/workflows/ci.yml"}
    watched = {
        f"{place.strip('/')}/{manifests[update['package-ecosystem']]}".lstrip("/")
        for update in read(GITHUB / "dependabot.yml")["updates"]
        for place in update.get("directories") or [update["directory"]]
    }

    assert watched == {
        *("pyproject.toml", ".github/workflows/ci.yml", "tests/package.json"),
        *("tests/real/claude_code/package.json", "tests/real/conformance/package.json"),
    }
    assert [name for name in watched if not (ROOT / name).is_file()] == []


# -- the notes of a release ---------------------------------------------------------------------------------------

CHANGES = """\
# Changelog

## 0.2.0 - 2026-12-01

### Fixed
- It works.

## 0.1.10 - 2026-11-01

- Older.

## Unreleased

- Not yet.
"""


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A checkout with just what `scripts/release-notes` reads."""
    for name, text in {
        "scripts/release-notes": (ROOT / "scripts" / "release-notes").read_text(encoding="utf-8"),
        "lmstudio_bridge/__init__.py": '"""It."""\n\n__version__ = "0.2.0"\n',
        "CHANGELOG.md": CHANGES,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def notes(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", "scripts/release-notes", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_release_has_the_notes_of_its_version(release: Path) -> None:
    got = notes(release, "v0.2.0")

    assert (got.returncode, got.stdout.strip()) == (0, "### Fixed\n- It works.")


@pytest.mark.parametrize("tag", [(), ("v0.1.10",), ("0.2.0",), ("v0.2.00",)])
def test_tag_of_another_version_is_no_release(release: Path, tag: tuple[str, ...]) -> None:
    got = notes(release, *tag)

    assert (got.returncode, got.stdout) == (1, "")
    assert "the version is 0.2.0" in got.stderr


@pytest.mark.parametrize("changes", [CHANGES.replace("0.2.0 - ", "0.2.0"), CHANGES.replace("0.2.0", "0.2.0rc1"), ""])
def test_version_that_the_change_log_does_not_date_is_no_release(release: Path, changes: str) -> None:
    (release / "CHANGELOG.md").write_text(changes, encoding="utf-8")

    got = notes(release, "v0.2.0")

    assert (got.returncode, got.stdout) == (1, "")
    assert "## 0.2.0 - DATE" in got.stderr
