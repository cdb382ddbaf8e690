"""Where the CPU time of a process goes: `python -m scripts.tools.bench.sampling FILE MODULE [ARGUMENT...]`.

Runs a module as `python -m` would. From SIGUSR1 on it looks at the main thread's stack after every few milliseconds
of CPU time, which costs next to nothing and, other than a tracing profiler, does not make small functions look dear.
The counts go to FILE as JSON when the module ends.
"""

from __future__ import annotations

import json
import runpy
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

INTERVAL = 0.001  # seconds of CPU time between looks; the system makes it its own tick, mostly 4 ms
OWN = "lmstudio_bridge"
_ELSEWHERE = "(not under our code)"


@dataclass(slots=True)
class Samples:
    """Counts of looks: by the library whose code ran, and by the innermost function of ours that was waiting for it."""

    total: int = 0
    libraries: Counter[str] = field(default_factory=Counter)
    functions: Counter[str] = field(default_factory=Counter)
    under: Counter[str] = field(default_factory=Counter)
    """As `functions`, but each look counts for every function of ours on the stack."""

    def add(self, frame: FrameType | None) -> None:
        """Take one look at a stack, from its innermost frame on."""
        self.total += 1
        if frame is not None:
            self.libraries[_library(frame.f_code.co_filename)] += 1
        ours: dict[str, None] = {}
        while frame is not None:
            if (place := _place(frame)) is not None:
                ours[place] = None
            frame = frame.f_back
        self.functions[next(iter(ours), _ELSEWHERE)] += 1
        self.under.update(list(ours))

    def to_json(self) -> dict[str, Any]:
        """All counts."""
        return {"total": self.total, "libraries": self.libraries, "functions": self.functions, "under": self.under}


def _place(frame: FrameType) -> str | None:
    """`module:line function` of a frame in our own package."""
    _, found, rest = frame.f_code.co_filename.rpartition(f"/{OWN}/")
    return f"{rest}:{frame.f_code.co_firstlineno} {frame.f_code.co_name}" if found else None


def _library(filename: str) -> str:
    """The package that a source file belongs to; modules of the standard library by their own name."""
    _, found, rest = filename.rpartition("/site-packages/")
    if found:
        return rest.split("/", 1)[0]
    if f"/{OWN}/" in filename:
        return OWN
    _, found, rest = filename.rpartition("/lib/python")
    return rest.partition("/")[2].split("/", 1)[0].removesuffix(".py") if found else Path(filename).stem


def main() -> None:
    """Run the module under the timer."""
    file, module, *arguments = sys.argv[1:]
    samples = Samples()

    def look(_: int, frame: FrameType | None) -> None:
        samples.add(frame)

    def begin(_: int, __: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    signal.signal(signal.SIGPROF, look)
    signal.signal(signal.SIGUSR1, begin)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        Path(file).write_text(json.dumps(samples.to_json()), encoding="utf-8")


if __name__ == "__main__":
    main()
