"""Old journals go, so that their folder keeps within an age and a size.

Several bridges may do it at once, and the folder may hold files of others: only journals that nobody
has open are deleted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path

from lmstudio_bridge.agent.journal import hold_journal
from lmstudio_bridge.errors import RunActiveError

logger = logging.getLogger(__name__)

PAUSE = 60.0  # seconds in which nothing is pruned again: a look costs time for each journal that there is
MAX_FILES = 10_000  # that are looked at; a folder with more gets smaller by the next runs
_JOURNAL = re.compile(r"(\d{8}-\d{6}-[a-z0-9]{5})\.jsonl")  # what `new_run_id` gives; other files are not ours


class JournalPruner:
    """Prunes a folder for runs that begin, but not for each of many.

    `max_age` and `pause` are seconds. `clock` is monotonic, `now` gives seconds since the epoch.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_age: float,
        max_bytes: int,
        pause: float = PAUSE,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._max_age = max_age
        self._max_bytes = max_bytes
        self._pause = pause
        self._clock = clock
        self._now = now
        self._due = float("-inf")

    async def prune(self) -> None:
        """As `prune_journals`, unless somebody began with it less than a pause ago."""
        if self._clock() < self._due:
            return
        self._due = self._clock() + self._pause
        await asyncio.to_thread(
            prune_journals, self._folder, max_age=self._max_age, max_bytes=self._max_bytes, now=self._now()
        )


def prune_journals(folder: Path, *, max_age: float, max_bytes: int, now: float, most: int = MAX_FILES) -> None:
    """Delete the journals that nobody wrote to for `max_age` seconds, then the oldest until all take `max_bytes`.

    `now` is seconds since the epoch. What cannot be read or deleted is let be.
    """
    journals = list_journals(folder, most=most)
    total = sum(size for _, size, _ in journals)
    for written, size, run_id in journals:
        if now - written <= max_age and total <= max_bytes:
            break
        if _delete(folder, run_id):
            total -= size


def list_journals(folder: Path, *, most: int = MAX_FILES) -> list[tuple[float, int, str]]:
    """When each was last written to (seconds since the epoch), its bytes, and its run; the oldest first."""
    journals: list[tuple[float, int, str]] = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in islice(entries, most):
            if (name := _JOURNAL.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):  # another bridge deletes it right now
                    found = entry.stat(follow_symlinks=False)
                    journals.append((found.st_mtime, found.st_size, name[1]))
    return sorted(journals)


def _delete(folder: Path, run_id: str) -> bool:
    try:
        with hold_journal(folder, run_id) as path:
            path.unlink()
    except (RunActiveError, OSError) as exc:
        logger.debug("the journal of run %s stays: %s", run_id, exc)
        return False
    return True
