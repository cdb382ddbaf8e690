"""The command line as commands.toml describes it: a parser for it, its `--help`, and the exit codes."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from string import Template
from typing import Any, Literal, NoReturn, TypeAlias, get_args

from lmstudio_bridge import DOCS, __version__
from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.runs.request import DEFAULT_ITEM_ROUNDS, DEFAULT_MAX_ROUNDS, MAX_ROUNDS, MAX_TASK

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2  # argparse's own
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells expect

Host: TypeAlias = Literal["claude-code", "claude-desktop", "cursor", "vscode", "lm-studio"]
HostScope: TypeAlias = Literal["user", "local", "project"]

NAMES: Mapping[Host, str] = {
    "claude-code": "Claude Code",
    "claude-desktop": "Claude Desktop",
    "cursor": "Cursor",
    "vscode": "VS Code",
    "lm-studio": "LM Studio",
}
SCOPES: Mapping[Host, tuple[HostScope, ...]] = {
    "claude-code": ("user", "local", "project"),
    "claude-desktop": ("user",),
    "cursor": ("user", "project"),
    "vscode": ("user", "project"),
    "lm-studio": ("user",),
}
"""Who the entry is for: the user everywhere, the user in this folder, or everyone who works on the project."""

SHELLS = ("bash", "zsh", "fish")
NameKind: TypeAlias = Literal["servers", "models", "runs"]
NAMED: Mapping[str, NameKind] = {
    "mcp": "servers",
    "approve": "servers",
    "server": "servers",
    "model": "models",
    "run_id": "runs",
    "run_ids": "runs",
}
"""Which names the shells complete for an argument."""

_EXIT_CODES = {
    "0": "success",
    "1": "failed, or you declined",
    "2": "invalid arguments or settings",
    "130": "interrupted",
}
_ALL_SETTINGS = f"all settings: {DOCS}/settings.md"
_MAX_WIDTH = 100  # columns; longer lines are hard to read


class CommandParser(argparse.ArgumentParser):
    """A parser that also lists what was added to it: docs/commands.md and shell completion are made from that.

    All texts are plain ASCII, so that every terminal can show them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.arguments: list[argparse.Action] = []
        self.commands: dict[str, CommandParser] = {}
        self.summary = ""
        super().__init__(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        action = super().add_argument(*args, **kwargs)
        self.arguments.append(action)
        return action

    def format_help(self) -> str:
        """The help, with each command and its summary in columns, which argparse gets wrong before Python 3.13."""
        beside = " " * (max(map(len, self.commands), default=0) + 4)
        rows = (
            textwrap.fill(
                each.summary, _width(), initial_indent=f"  {name}".ljust(len(beside)), subsequent_indent=beside
            )
            for name, each in self.commands.items()
        )
        listed = "".join(f"{row}\n" for row in rows)
        return re.sub(r"(?<=\ncommands:\n)  \w+\n(?: {4}.*\n)+", lambda _: listed, super().format_help())

    def error(self, message: str) -> NoReturn:
        """Exit with the message, what may have been meant, and where the help is."""
        given = re.search(r"invalid choice: '([^']*)'|unrecognized arguments: (\S+)", message)
        word = (given[1] or given[2]) if given else ""
        above = next((name for name, command in self.commands.items() if word in command.commands), "")
        near = [f"{above} {word}"] if above else get_close_matches(word, self._words(), n=1)
        meant = f"Did you mean {near[0]!r}? " if near else ""
        if message.endswith("required: TASK"):  # --for-each takes all words that follow it
            meant = "TASK comes first, before --for-each. "
        super().error(f"{message}\n{meant}For help: {self.prog} --help")

    def _words(self) -> set[str]:
        """Every word that may stand on the command line."""
        own = [
            *self.commands,
            *(word for each in self.arguments for word in (*each.option_strings, *(each.choices or ()))),
        ]
        return {*own, *(word for command in self.commands.values() for word in command._words())}


def build_parser() -> CommandParser:
    """The parser of the whole command line; `command` is None where none was given."""
    texts = Template(Path(__file__).with_name("commands.toml").read_text(encoding="utf-8"))
    commands = tomllib.loads(
        texts.safe_substitute(docs=DOCS, max_rounds=DEFAULT_MAX_ROUNDS, item_rounds=DEFAULT_ITEM_ROUNDS)
    )
    groups = commands.pop("groups")
    description = """
    Hands tasks from Claude Code to a local model in LM Studio, which works on them with your other MCP servers.

    Start with `lmstudio-bridge install`. If something doesn't work, run `lmstudio-bridge doctor`. Without a command, it
    serves MCP on stdio; that is how Claude Code starts it.
    """
    parser = CommandParser(
        prog="lmstudio-bridge",
        description=_filled(description),
        epilog=_epilog(
            exit_codes={"143": "ended by SIGTERM (129: by SIGHUP)", "141": "the reader of its output is gone"},
            variables=("LMSTUDIO_BASE_URL", "LM_API_TOKEN", "DEFAULT_MODEL", "NO_COLOR", _ALL_SETTINGS),
        )
        + f"\n\ndocumentation:\n  {DOCS}/README.md",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=_width()),
    )
    parser.add_argument(
        "--version", action="version", version=f"lmstudio-bridge {__version__}", help="show the version and exit"
    )
    _add_commands(parser, "command", commands, groups)
    return parser


def _add_commands(
    parser: CommandParser, dest: str, commands: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Mapping[str, Any]]
) -> None:
    """Add commands as commands.toml has them; `dest` gets the name of the one that is called."""
    subparsers = parser.add_subparsers(dest=dest, metavar=dest, title="commands")
    for name, told in commands.items():
        command = parser.commands[name] = subparsers.add_parser(
            name,
            help=told["summary"],
            description=_filled(told["description"]),
            epilog=_epilog(
                examples=told.get("examples", ()),
                exit_codes=told.get("exit_codes", {}),
                variables=[*told.get("variables", ()), *([_ALL_SETTINGS] if told.get("settings", True) else [])],
            ),
            formatter_class=parser.formatter_class,
        )
        command.summary = told["summary"]
        for argument, options in {**told.get("arguments", {}), **groups.get(told.get("group", ""), {})}.items():
            named: dict[str, Any] = {"type": _TYPES[options["type"]]} if "type" in options else {}
            if isinstance(options.get("choices"), str):
                named["choices"] = _CHOICES[options["choices"]]
            command.add_argument(argument, **{**options, **named})
        if "commands" in told:
            _add_commands(command, "action", told["commands"], groups)


def current_folder() -> Path:
    """The working directory of the shell.

    Raises:
        SettingsError: It was removed, or cannot be accessed.
    """
    try:
        return Path.cwd()
    except OSError as exc:
        raise SettingsError(
            f"The current folder cannot be used: {exc.strerror}.",
            remedy="Start the bridge in a folder that exists and that you can access.",
        ) from exc


# -- types of arguments ------------------------------------------------------------------------------------------


def _task(text: str) -> str:
    """A task, or what to do with the answers of all items."""
    if not 1 <= len(text) <= MAX_TASK:
        raise argparse.ArgumentTypeError(f"must have 1 to {MAX_TASK:,} characters, not {len(text):,}")
    return text


def _whole_number(text: str, *, most: int) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"not a whole number from 1 to {most}: {text!r}")
    return int(text)


_TYPES: Mapping[str, Callable[[str], Any]] = {
    "task": _task,
    "rounds": partial(_whole_number, most=MAX_ROUNDS),
    "port": partial(_whole_number, most=65_535),
    "positive": partial(_whole_number, most=1_000_000),
    "int": int,
    "path": Path,
}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "hosts": tuple(NAMES),
    "scopes": SCOPES["claude-code"],
    "shells": SHELLS,
    "names": get_args(NameKind),
}


# -- texts of --help ---------------------------------------------------------------------------------------------


def _epilog(*, examples: Iterable[Sequence[str]] = (), exit_codes: Mapping[str, str], variables: Sequence[str]) -> str:
    """`examples` are command lines, each with what it does; `exit_codes` differ from the usual ones."""
    codes = {**_EXIT_CODES, **exit_codes}
    listed = {
        "examples": [f"{line}\n      {what}" for line, what in examples],
        "exit codes": [f"{code:<4} {codes[code]}" for code in sorted(codes, key=int)],
        "environment": variables,
    }
    return "\n\n".join(
        f"{title}:\n" + "\n".join(f"  {line}" for line in lines) for title, lines in listed.items() if lines
    )


def _filled(text: str) -> str:
    """The paragraphs of a text, wrapped to the width of the terminal."""
    paragraphs = textwrap.dedent(text).strip().split("\n\n")
    return "\n\n".join(
        textwrap.fill(" ".join(each.split()), _width(), break_long_words=False, break_on_hyphens=False)
        for each in paragraphs
    )


def _width() -> int:
    return min(shutil.get_terminal_size().columns - 2, _MAX_WIDTH)
