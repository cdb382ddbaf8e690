"""The task of every run, which the stand-in for LM Studio reads to know whose request it has before it."""

from __future__ import annotations

import re

MODEL = "bench-model"
SERVER = "bench"  # name of the MCP server
TOOL = "echo"  # name of its tool
ANSWER = "All steps are done."

PATTERN = re.compile(rb"\[bench run (\d+), (\d+) rounds\]")


def task_of(number: int, *, rounds: int) -> str:
    """The task of one run; a round is one call of the tool, and its result."""
    return f"[bench run {number}, {rounds} rounds] Take the steps one after the other, and say when all are done."
