"""The path of a tool call stays short: the tool that prints it fails when one is too long."""

from __future__ import annotations

import subprocess
import sys

from tests.support.shell import LIMIT, ROOT


def test_few_functions_stand_between_a_tool_call_and_the_model_or_a_server() -> None:
    command = [sys.executable, "-m", "scripts.tools.call_path"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
