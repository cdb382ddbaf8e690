"""The profile of a warm process: samples of its stack while it does run after run, and where they say the time goes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.tools.bench.figures import BRIDGE, FLOOR
from scripts.tools.bench.subjects import Desk, Subject, open_bridge, open_line

_SHOWN = 25  # rows of a table
_SHOWN_IN_DOCUMENT = 12
_SAMPLER = "scripts.tools.bench.sampling"


@dataclass(frozen=True, slots=True)
class Profile:
    """Samples of one process, as counts; `cpu_per_round` in ms."""

    subject: str
    total: int
    cpu_per_round: float
    libraries: Mapping[str, int]
    functions: Mapping[str, int]
    under: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """All counts."""
        return {
            "subject": self.subject,
            "total": self.total,
            "cpu_per_round_ms": self.cpu_per_round,
            "libraries": dict(self.libraries),
            "functions": dict(self.functions),
            "under": dict(self.under),
        }

    def tables(self) -> list[tuple[str, list[tuple[str, str, str]]]]:
        """Titles, and rows of a share, ms per round, and what it is."""
        found = [("by library whose code ran", self.libraries)]
        if self.subject == BRIDGE:
            found.append(("by innermost function of ours, with what it called in libraries", self.functions))
            found.append(("by function of ours, with all below it", self.under))
        return [(title, self._rows(counts)) for title, counts in found]

    def _rows(self, counts: Mapping[str, int]) -> list[tuple[str, str, str]]:
        best = sorted(counts.items(), key=lambda item: -item[1])[:_SHOWN]
        total = max(self.total, 1)
        return [
            (f"{100 * count / total:.1f} %", f"{self.cpu_per_round * count / total:.3f}", name) for name, count in best
        ]

    @property
    def heading(self) -> str:
        return f"Profile of the {self.subject}: {self.cpu_per_round:.2f} ms CPU per round, {self.total} samples"

    def lines(self) -> list[str]:
        """For a terminal."""
        found = [self.heading]
        for title, rows in self.tables():
            found += ["", f"{title} (share, ms per round):"]
            found += [f"{share:>7}  {ms:>6}  {name}" for share, ms, name in rows]
        return found

    def markdown(self) -> list[str]:
        """For a document."""
        found = [f"### {self.heading}"]
        for title, rows in self.tables():
            found += ["", f"| share | ms per round | {title} |", "| --- | --- | --- |"]
            found += [f"| {share} | {ms} | `{name}` |" for share, ms, name in rows[:_SHOWN_IN_DOCUMENT]]
        return found


async def measure_profile(desk: Desk, *, rounds: int, runs: int, tell: Callable[[str], None]) -> list[Profile]:
    """The profiles of the bridge and of the floor, each after a run to warm up."""

    def sampled(file: Path, module: str) -> tuple[str, ...]:
        return (sys.executable, "-m", _SAMPLER, str(file), module)

    files = {name: desk.folder / f"samples-{name}.json" for name in (BRIDGE, FLOOR)}
    openers: dict[str, AbstractAsyncContextManager[Subject]] = {
        BRIDGE: open_bridge(desk, command=sampled(files[BRIDGE], "lmstudio_bridge")),
        FLOOR: open_line(desk, FLOOR, sampled(files[FLOOR], "scripts.tools.bench.loops.floor")),
    }
    profiles: list[Profile] = []
    for name, opener in openers.items():
        tell(f"profile of the {name}")
        async with opener as subject:
            await subject.run(1, rounds=rounds)
            os.kill(subject.pid, signal.SIGUSR1)  # the sampler begins
            await desk.model.watch(subject.pid)
            await desk.model.record()
            for _ in range(runs):
                await subject.run(1, rounds=rounds)
            requests = await desk.model.record()
        samples = json.loads(await asyncio.to_thread(files[name].read_text, encoding="utf-8"))
        cpu = (requests[-1].cpu - requests[0].cpu) / (rounds * runs) * 1_000
        counts = {key: samples[key] for key in ("libraries", "functions", "under")}
        profiles.append(Profile(name, samples["total"], cpu, **counts))
    return profiles
