"""The suite: all tasks of a seed, by family."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from random import Random

from lmstudio_bridge.evals.families import (
    big_files,
    big_results,
    edit_and_verify,
    impossible,
    nothing_to_do,
    one_call,
    several_calls,
    structured,
    two_servers,
)
from lmstudio_bridge.evals.tasks import Task

FAMILIES = {
    module.__name__.rpartition(".")[2].replace("_", "-"): module.TASKS
    for module in (
        one_call,
        several_calls,
        big_files,
        edit_and_verify,
        two_servers,
        nothing_to_do,
        impossible,
        big_results,
        structured,
    )
}


def make_suite(*, seed: int, families: Iterable[str] = (), most: int | None = None) -> list[Task]:
    """The tasks of these families (of all, if none is named), of each the first `most`.

    A task depends on the seed and its own name only: leaving others out does not change it.

    Raises:
        KeyError: There is no such family.
    """
    names = tuple(families) or tuple(FAMILIES)
    tasks: list[Task] = []
    for family in dict.fromkeys(names):
        for maker in FAMILIES[family][:most]:
            name = maker.__name__.replace("_", "-")
            task = maker(Random(f"{seed}/{family}/{name}"))
            tasks.append(dataclasses.replace(task, name=f"{family}/{name}", family=family))
    return tasks
