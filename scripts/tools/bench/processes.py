"""What the system tells of other processes: their CPU time and their memory (Linux)."""

from __future__ import annotations

import time
from pathlib import Path

_CPUCLOCK_SCHED = 2  # of <linux/posix-timers_types.h>: the scheduler's own count, in nanoseconds


def cpu_clock(pid: int) -> int:
    """The id of the clock of a process's CPU time, all its threads together, as clock_getcpuclockid(3) makes it."""
    return (~pid << 3) | _CPUCLOCK_SCHED


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used so far; that of its children is not in it.

    Raises:
        OSError: There is no such process.
    """
    return time.clock_gettime(cpu_clock(pid))


def peak_memory(pid: int) -> float:
    """The most memory (MiB, resident) that a process had at once; that of its children is not in it.

    Raises:
        OSError: There is no such process.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
