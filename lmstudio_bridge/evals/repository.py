"""A task's git repository: made with fixed people and dates, so that each run gets the same commits."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from lmstudio_bridge.evals.tasks import Commit

_GIT_SECONDS = 60.0
_FIRST_COMMIT = 1_750_000_000  # seconds since 1970; each commit is an hour after the one before


def make_repository(folder: Path, commits: Iterable[Commit], *, unstaged: Mapping[str, str]) -> None:
    """A repository with these commits on its branch main, and changes that are not staged.

    Raises:
        OSError: There is no git.
        subprocess.CalledProcessError: It failed.
    """
    folder.mkdir()
    run_git(folder, "init", "--quiet")
    run_git(folder, "symbolic-ref", "HEAD", "refs/heads/main")
    for name, value in (("user.name", "Eval"), ("user.email", "eval@localhost"), ("commit.gpgsign", "false")):
        run_git(folder, "config", name, value)
    if stream := b"".join(_stream(commits)):
        run_git(folder, "fast-import", "--quiet", stdin=stream)
        run_git(folder, "reset", "--quiet", "--hard")
    for name, text in unstaged.items():
        (folder / name).write_text(text, encoding="utf-8")


def run_git(folder: Path, *arguments: str, stdin: bytes = b"") -> str:
    """What git prints; without the user's own settings.

    Raises:
        OSError: There is no git.
        subprocess.CalledProcessError: It failed.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=environ, input=stdin, capture_output=True, timeout=_GIT_SECONDS, check=True
    )
    return done.stdout.decode("utf-8", "replace")


def _stream(commits: Iterable[Commit]) -> Iterable[bytes]:
    """The commits as `git fast-import` reads them: one process for any number."""
    for number, commit in enumerate(commits):
        who = f"{commit.author} <{commit.author.lower()}@localhost> {_FIRST_COMMIT + number * 3_600} +0000"
        yield f"commit refs/heads/main\nauthor {who}\ncommitter {who}\n".encode()
        yield _data(commit.message)
        for name, text in commit.files.items():
            yield f"M 100644 inline {name}\n".encode()
            yield _data(text)


def _data(text: str) -> bytes:
    encoded = text.encode("utf-8")
    return b"data %d\n%b\n" % (len(encoded), encoded)
