"""The suite: all tasks of a seed, by family."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from random import Random

from lmstudio_bridge.evals import bulk_tasks, lookup_tasks, simple_tasks
from lmstudio_bridge.evals.tasks import Maker, Task

FAMILIES: Mapping[str, tuple[Maker, ...]] = {
    "one-call": simple_tasks.ONE_CALL,
    "several-calls": simple_tasks.SEVERAL_CALLS,
    "big-files": lookup_tasks.BIG_FILES,
    "edit-and-verify": simple_tasks.EDIT_AND_VERIFY,
    "two-servers": simple_tasks.TWO_SERVERS,
    "nothing-to-do": simple_tasks.NOTHING_TO_DO,
    "impossible": simple_tasks.IMPOSSIBLE_TASKS,
    "big-results": lookup_tasks.BIG_RESULTS,
    "structured": simple_tasks.STRUCTURED,
    "find-text": lookup_tasks.FIND_TEXT,
    "all-files": bulk_tasks.ALL_FILES,
    "edit-everywhere": bulk_tasks.EDIT_EVERYWHERE,
    "compare": lookup_tasks.COMPARE,
    "totals": bulk_tasks.TOTALS,
    "not-there": lookup_tasks.NOT_THERE,
    "schema": bulk_tasks.SCHEMA,
    "for-each": bulk_tasks.FOR_EACH,
}


def make_suite(*, seed: int, families: Iterable[str] = (), most: int | None = None) -> list[Task]:
    """The first `most` tasks of each of these families (default: all tasks of all families).

    A task depends only on the seed and its own name, so leaving out others does not change it.

    Raises:
        KeyError: Unknown family.
    """
    names = tuple(families) or tuple(FAMILIES)
    tasks: list[Task] = []
    for family in dict.fromkeys(names):
        for maker in FAMILIES[family][:most]:
            name = maker.__name__.replace("_", "-")
            task = maker(Random(f"{seed}/{family}/{name}"))
            servers = task.servers or tuple(sorted({call.server for call in task.solution.calls}))
            tasks.append(dataclasses.replace(task, name=f"{family}/{name}", family=family, servers=servers))
    return tasks
