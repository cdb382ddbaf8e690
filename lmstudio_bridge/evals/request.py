"""The shell's words for an eval → an EvalRequest."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable

from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.evals.results import Loop
from lmstudio_bridge.evals.runner import EvalRequest
from lmstudio_bridge.evals.sandbox import SERVERS
from lmstudio_bridge.evals.suite import FAMILIES, make_suite


def read_request(args: argparse.Namespace) -> EvalRequest:
    """What `lmstudio-bridge eval` is asked for.

    Raises:
        SettingsError: A family or a server is none of the suite's, or a command is empty.
    """
    for family in args.family or ():
        if family not in FAMILIES:
            raise SettingsError(
                f"There is no family of tasks {family!r}.", remedy=f"The families are: {', '.join(FAMILIES)}."
            )
    loops: tuple[Loop, ...] = ("bridge", "baseline") if args.baseline else ("bridge",)
    return EvalRequest(
        make_suite(seed=args.seed, families=args.family or (), most=args.tasks),
        seed=args.seed,
        model=args.model,
        loops=loops,
        max_rounds=args.max_rounds,
        max_tokens=args.max_tokens,
        seconds=float(args.seconds),
        parallel=args.parallel,
        commands=read_commands(args.server),
    )


def read_commands(options: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The commands of all servers, with those that `NAME=COMMAND` options replace.

    Raises:
        SettingsError: An option names no server of the suite, or no command.
    """
    commands = dict(SERVERS)
    for option in options:
        name, _, command = option.partition("=")
        try:
            words = tuple(shlex.split(command))
        except ValueError:  # a quotation mark that is never closed
            words = ()
        if name not in SERVERS or not words:
            raise SettingsError(
                f"--server {option!r} does not say how a server of the suite is started.",
                remedy=f"Write it as NAME=COMMAND. The servers are: {', '.join(SERVERS)}.",
            )
        commands[name] = words
    return commands
