"""A command line in a terminal of its own, and what a person sees there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping
from pathlib import Path

import pexpect
import pexpect.fdpexpect

from tests.support.shell import LIMIT

ROWS, COLUMNS = 50, 200


def type_line(line: str, *, folder: Path, environ: Mapping[str, str]) -> tuple[int, str]:
    """Run a line in a terminal of its own, with `y` for every question; exit code, and what stands on the screen."""
    code, shown = type_line_raw(line, folder=folder, environ=environ)
    return code, without_codes(shown)


def type_line_raw(line: str, *, folder: Path, environ: Mapping[str, str], answer: str = "y") -> tuple[int, str]:
    """The same with another answer to every question, and with the terminal's codes."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        ["/bin/sh", "-c", line], cwd=folder, env=environ, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    terminal = pexpect.fdpexpect.fdspawn(ours, encoding="utf-8", timeout=LIMIT)
    shown = ""
    try:
        while terminal.expect([re.escape("[y/N] "), pexpect.EOF]) == 0:
            shown += f"{terminal.before}{terminal.after}"
            terminal.sendline(answer)
        return process.wait(LIMIT), f"{shown}{terminal.before}"
    finally:
        terminal.close()
        process.kill()
        process.wait()


def missing(seen: tuple[str, ...], shown: str) -> str:
    """The first line that should be seen and is not, or not in its place; … stands for anything. "" if all are."""
    place = 0
    for line in seen:
        found = re.compile(".*".join(map(re.escape, line.split("…")))).search(shown, place)
        if found is None:
            return line
        place = found.end()
    return ""


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", text)


def write_script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
