"""The command line: every command with its arguments, its `--help`, and the exit codes."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
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

_EXIT_CODES = {0: "success", 1: "failed, or you declined", 2: "invalid arguments or settings", 130: "interrupted"}
_NOT_DONE = "no complete answer, or a change that the task asked for was not made"
_RUN_ID = "run ID, its last five characters, or: last"
_MAX_WIDTH = 100  # columns; longer lines are hard to read
_MAX_NUMBER = 1_000_000


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

    def error(self, message: str) -> NoReturn:
        """Exit with the message, what may have been meant, and where the help is."""
        given = re.search(r"invalid choice: '([^']*)'|unrecognized arguments: (\S+)", message)
        near = get_close_matches(given[1] or given[2], self._words(), n=1) if given else []
        meant = f"Did you mean {near[0]!r}? " if near else ""
        super().error(f"{message}\n{meant}For help: {self.prog} --help")

    def _words(self) -> set[str]:
        """Every word that may stand on the command line."""
        own = [
            *self.commands,
            *(word for each in self.arguments for word in (*each.option_strings, *(each.choices or ()))),
        ]
        return {*own, *(word for command in self.commands.values() for word in command._words())}

    def open_commands(self, dest: str) -> Callable[..., CommandParser]:
        """A function that adds a command, with its name, its summary, and what `_texts` takes."""
        commands = self.add_subparsers(dest=dest, metavar=dest, title="commands")

        def add(name: str, summary: str, description: str, **kwargs: Any) -> CommandParser:
            command = self.commands[name] = commands.add_parser(name, help=summary, **_texts(description, **kwargs))
            command.summary = summary
            return command

        return add


def build_parser() -> CommandParser:
    """The parser of the whole command line; `command` is None where none was given."""
    description = """
    Hands tasks from Claude Code to a local model in LM Studio, which works on them with your other MCP servers.

    Start with `lmstudio-bridge install`. If something doesn't work, run `lmstudio-bridge doctor`. Without a command, it
    serves MCP on stdio; that is how Claude Code starts it.
    """
    parser = CommandParser(
        prog="lmstudio-bridge",
        description=_filled(description),
        epilog=_epilog(
            exit_codes={143: "ended by SIGTERM (129: by SIGHUP)", 141: "the reader of its output is gone"},
            variables=("LMSTUDIO_BASE_URL", "LM_API_TOKEN", "DEFAULT_MODEL", "NO_COLOR"),
        )
        + f"\n\ndocumentation:\n  {DOCS}/README.md",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, width=_width()),
    )
    parser.add_argument(
        "--version", action="version", version=f"lmstudio-bridge {__version__}", help="show the version and exit"
    )
    add = parser.open_commands("command")
    add(
        "serve",
        "serve MCP on stdio (the default)",
        """
        Serves MCP on stdin and stdout for the program that started it, such as Claude Code. Logs go to stderr.
        """,
        examples=(("lmstudio-bridge", "the same as lmstudio-bridge serve"),),
        variables=("LMSTUDIO_BASE_URL", "LM_API_TOKEN", "DEFAULT_MODEL", "LMSTUDIO_BRIDGE_LOG_LEVEL"),
    )
    _add_install(
        add(
            "install",
            "register the bridge in Claude Code or another program",
            """
            Adds the bridge to the file in which the program keeps its MCP servers. Shows the change as a diff, asks
            before writing it, and keeps a backup next to the file. Uses `claude mcp add-json` where it can.
            """,
            examples=(
                ("lmstudio-bridge install", "for Claude Code, in all folders"),
                ("lmstudio-bridge install --scope project", "for everyone who works on this project"),
                ("lmstudio-bridge install cursor --dry-run", "show what would be written for Cursor"),
                ("lmstudio-bridge install --base-url http://10.0.0.5:1234 --max-access read --yes", "from a script"),
                ("lmstudio-bridge install --env LM_API_TOKEN", "copy a variable of this shell, without showing it"),
            ),
            variables=("CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME"),
        )
    )
    doctor = add(
        "doctor",
        "check LM Studio, its models, the MCP servers and the registration",
        """
        Checks LM Studio, the model, the MCP servers (it starts each one), rules, journals, and the programs that start
        the bridge, with the settings of this shell. Says how to fix what is wrong, and changes nothing.

        --json prints {"format": 1, "version": ..., "ok": ..., "checks": [...]}; each check has "area", "name", "state"
        (ok, warning, failed), "found" and "remedy". Keys may be added; any other change has a new "format".
        """,
        examples=(("lmstudio-bridge doctor --deep", "with a real request to the model"),),
        exit_codes={0: "no problems, perhaps warnings"},
        variables=("LMSTUDIO_BASE_URL", "LM_API_TOKEN", "LMSTUDIO_BRIDGE_SERVER_START_TIMEOUT", "NO_COLOR"),
    )
    doctor.add_argument(
        "--deep", action="store_true", help="also have the model call a tool (loads the model if necessary)"
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON object instead")
    run = add(
        "run",
        "run one task from the shell",
        """
        Has the local model do a task with the tools of your MCP servers. Progress goes to stderr, the answer to stdout.
        Ctrl-C stops the run and keeps its work; `continue` resumes it.
        """,
        examples=(
            ('lmstudio-bridge run "List every TODO in src/ with its file" --mcp filesystem', "read and answer"),
            ('lmstudio-bridge run "Rename a.txt to b.txt" --mcp filesystem --access write', "change something"),
            ('lmstudio-bridge run "Who wrote most commits?" --mcp git --schema name.json --json', "for a program"),
            ("lmstudio-bridge run - --mcp filesystem < task.txt", "the task from stdin"),
            ('lmstudio-bridge run "Say in one line what {item} is for" --for-each "src/**/*.py"', "once for each file"),
        ),
        exit_codes={1: _NOT_DONE},
        variables=("LMSTUDIO_BASE_URL", "LM_API_TOKEN", "DEFAULT_MODEL", "LMSTUDIO_BRIDGE_RUN_TIMEOUT", "NO_COLOR"),
    )
    run.add_argument("task", type=_task, help="what to do; - reads it from stdin")
    run.add_argument(
        "--mcp",
        action="append",
        metavar="NAME",
        help="MCP server to use; can be repeated (default: those the task needs)",
    )
    run.add_argument(
        "--for-each",
        nargs="+",
        metavar="ITEM",
        help="do the task for each item, as {item}; a single ITEM is a glob of files",
    )
    run.add_argument("--combine", type=_task, metavar="TEXT", help="how to merge the answers at the end")
    run.add_argument("--combine-schema", metavar="FILE", help="JSON Schema for the merged answer")
    run.add_argument("--agent", metavar="NAME", help="subagent to act as: .claude/agents/NAME.md")
    _add_run_options(run)
    resume = add(
        "continue",
        "resume a run, or ask a follow-up question",
        """
        Resumes a run that ended early, or repeats the answer of a finished one. With instructions, it goes on from what
        the run found. Tool calls are never repeated automatically.
        """,
        examples=(
            ("lmstudio-bridge continue last", "resume the newest run"),
            ('lmstudio-bridge continue last "Now only those in src/"', "ask for something more"),
        ),
        exit_codes={1: _NOT_DONE},
        variables=("LMSTUDIO_BASE_URL", "LMSTUDIO_BRIDGE_HOME", "NO_COLOR"),
    )
    resume.add_argument("run_id", help=_RUN_ID)
    resume.add_argument("instructions", nargs="?", default="", help="what to do next")
    _add_run_options(resume)
    _add_runs(
        add(
            "runs",
            "list, show, undo and delete past runs",
            """
            Lists the newest runs, from the shell and from Claude Code.
            """,
            examples=(
                ("lmstudio-bridge runs", "the newest runs: how each ended, what it saved"),
                ("lmstudio-bridge runs show last", "the newest one in full"),
            ),
            variables=("LMSTUDIO_BRIDGE_HOME", "NO_COLOR"),
        )
    )
    status = add(
        "status",
        "show the run in progress, and what all runs saved",
        """
        Shows the newest run in progress (not on Windows), and the tokens that runs kept out of Claude's context, by day
        and in all.
        """,
        examples=(("lmstudio-bridge status --line", "for `statusLine` in Claude Code's settings"),),
        variables=("LMSTUDIO_BRIDGE_HOME",),
    )
    status.add_argument("--line", action="store_true", help="print only the run in progress, and never an error")
    models = add(
        "models",
        "list the models in LM Studio",
        """
        Lists the models in LM Studio: whether each is loaded, its context length and slots, and whether it is trained
        for tool use. Loads none.
        """,
        examples=(("lmstudio-bridge models --json", "for a program"),),
        variables=("LMSTUDIO_BASE_URL", "LM_API_TOKEN", "NO_COLOR"),
    )
    models.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    servers = add(
        "servers",
        "list the configured MCP servers",
        """
        Lists the configured MCP servers: the file that has each one, whether the bridge may use it, and whether there
        is a login. Starts none; `doctor` does that. An approval lapses when the entry changes.
        """,
        examples=(("lmstudio-bridge servers --approve files", "show what the project's `files` starts, and ask"),),
        variables=("LMSTUDIO_BRIDGE_MCP_CONFIG", "LMSTUDIO_BRIDGE_TRUST", "NO_COLOR"),
    )
    servers.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    servers.add_argument("--approve", metavar="NAME", help="approve this server of the project's .mcp.json")
    servers.add_argument("--yes", action="store_true", help="don't ask")
    login = add(
        "login",
        "sign in to an MCP server through the browser (OAuth)",
        """
        Signs in to a remote MCP server in the browser. The login is kept in the system's keyring, or in a file that
        only you can read; runs renew it. Servers with an `Authorization` header in their entry need none.
        """,
        examples=(
            ("lmstudio-bridge login notion", "sign in, and count the tools"),
            ("lmstudio-bridge login notion --no-browser --port 8765", "over ssh -L 8765:127.0.0.1:8765"),
        ),
        variables=("LMSTUDIO_BRIDGE_HOME", "PYTHON_KEYRING_BACKEND", "BROWSER"),
    )
    login.add_argument("server", help="name of the MCP server")
    login.add_argument("--no-browser", action="store_true", help="print the address instead of opening a browser")
    login.add_argument(
        "--port",
        type=_port,
        default=0,
        metavar="N",
        help="port for the reply from the browser (default: `oauth.callbackPort` of the entry, or a free one)",
    )
    login.add_argument(
        "--client-id",
        default="",
        metavar="ID",
        help="client that you registered, with redirect address http://localhost:PORT/callback (default: "
        "`oauth.clientId` of the entry)",
    )
    logout = add(
        "logout",
        "delete the login to an MCP server",
        """
        Deletes a login, and ends it at the service where programs may do that.
        """,
        examples=(("lmstudio-bridge logout notion", "runs can no longer use this server"),),
        variables=("LMSTUDIO_BRIDGE_HOME", "PYTHON_KEYRING_BACKEND"),
    )
    logout.add_argument("server", help="name of the MCP server")
    _add_eval(
        add(
            "eval",
            "measure how well a model does checkable tasks",
            f"""
            Has a model do tasks that code can check: {DOCS}/evals.md
            """,
            examples=(
                ("lmstudio-bridge eval --baseline", "all tasks, with the bridge and a plain loop"),
                ("lmstudio-bridge eval --family one-call --tasks 3 --json", "a quick look, for a program"),
            ),
            exit_codes={0: "measured, however good the model"},
            variables=("LMSTUDIO_BASE_URL", "LM_API_TOKEN", "DEFAULT_MODEL"),
        )
    )
    _add_host_arguments(
        add(
            "uninstall",
            "remove the bridge from Claude Code or another program",
            """
            Removes the bridge's entry, and nothing else. Shows the change as a diff, and asks before writing it. If the
            bridge is registered in several scopes, choose one with --scope.
            """,
            examples=(
                ("lmstudio-bridge uninstall", "from Claude Code"),
                ("lmstudio-bridge uninstall vscode --scope project --yes", "from .vscode/mcp.json, without asking"),
            ),
            variables=("CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME"),
        )
    )
    completion = add(
        "completion",
        "print a shell completion script",
        """
        Prints a script that completes commands, options, and the names of MCP servers, models and runs.
        """,
        examples=(
            ('eval "$(lmstudio-bridge completion bash)"', "in ~/.bashrc"),
            ('eval "$(lmstudio-bridge completion zsh)"', "in ~/.zshrc, after compinit"),
            ("lmstudio-bridge completion fish > ~/.config/fish/completions/lmstudio-bridge.fish", "once"),
        ),
        settings=False,
    )
    completion.add_argument("shell", nargs="?", choices=SHELLS, help="shell to print the script for")
    completion.add_argument("--names", choices=get_args(NameKind), help="print these names, for the script")
    return parser


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


# -- groups of arguments -----------------------------------------------------------------------------------------


def _add_run_options(parser: CommandParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="model name in LM Studio (default: a loaded model)")
    parser.add_argument(
        "--max-rounds",
        type=_rounds,
        metavar="N",
        help=f"maximum model requests (default: {DEFAULT_MAX_ROUNDS}; {DEFAULT_ITEM_ROUNDS} per item)",
    )
    parser.add_argument(
        "--max-tokens", type=_positive, metavar="N", help="maximum tokens per reply (default: chosen by context)"
    )
    parser.add_argument(
        "--timeout", type=_positive, metavar="S", help="seconds for the run; then you get the answer so far"
    )
    parser.add_argument(
        "--access",
        choices=("read", "write"),
        default="read",
        help="read: only tools marked read-only; write: also tools that may change things (default: %(default)s)",
    )
    parser.add_argument("--schema", metavar="FILE", help="JSON Schema for a JSON answer")
    parser.add_argument("--json", action="store_true", help="print answer and figures as JSON")


def _add_runs(parser: CommandParser) -> None:
    parser.add_argument(
        "--limit", type=_positive, default=20, metavar="N", help="maximum runs in the list (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    add = parser.open_commands("action")
    show = add(
        "show",
        "show one run in full",
        "Shows one run in full: task, answer, and each round with its calls and results.",
        examples=(
            ("lmstudio-bridge runs show last --html run.html", "as a web page with charts"),
            ("lmstudio-bridge runs show last --diff", "what it changed"),
            ("lmstudio-bridge runs show last --csv", "the rows of a run with --for-each"),
        ),
    )
    show.add_argument("run_id", help=_RUN_ID)
    show.add_argument("--json", action="store_true", dest="as_json", help="print task, answer and figures as JSON")
    show.add_argument("--html", metavar="FILE", help="write a web page that works offline")
    show.add_argument("--diff", action="store_true", help="print only what the run changed in files")
    show.add_argument("--jsonl", action="store_true", help="print a JSON object for each item")
    show.add_argument("--csv", action="store_true", help="print the items as CSV")
    undo = add(
        "undo",
        "put back the files that a run changed",
        """
        Puts back the files that a run changed, or reverts its last undo. Shows the change as a diff, and asks before
        writing it. Files that have changed since are left alone.
        """,
        examples=(("lmstudio-bridge runs undo last", "what the newest run changed"),),
    )
    undo.add_argument("run_id", help=_RUN_ID)
    undo.add_argument("--yes", action="store_true", help="don't ask")
    delete = add(
        "delete",
        "delete the journals of runs",
        "Deletes journals for good, after asking. Deleted runs can't be shown, continued or undone.",
        examples=(("lmstudio-bridge runs delete --older-than 30 --yes", "without asking"),),
    )
    delete.add_argument("run_ids", nargs="*", metavar="run_id", help=_RUN_ID)
    delete.add_argument("--older-than", type=_positive, metavar="DAYS", help="delete all runs older than this")
    delete.add_argument("--yes", action="store_true", help="don't ask")


def _add_install(parser: CommandParser) -> None:
    _add_host_arguments(parser)
    parser.add_argument("--base-url", metavar="URL", help="LM Studio's address (LMSTUDIO_BASE_URL)")
    parser.add_argument("--model", metavar="NAME", help="default model (DEFAULT_MODEL)")
    parser.add_argument(
        "--max-access",
        choices=("read", "write"),
        help="highest access of a run (LMSTUDIO_BRIDGE_MAX_ACCESS)",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="variable for the entry; can be repeated; without VALUE, copied from this shell",
    )
    parser.add_argument("--print", action="store_true", help="only print the JSON to paste")


def _add_host_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "host",
        nargs="?",
        choices=tuple(NAMES),
        default="claude-code",
        metavar="program",
        help=f"{', '.join(NAMES)} (default: claude-code)",
    )
    parser.add_argument(
        "--scope",
        choices=SCOPES["claude-code"],
        help="user: you, everywhere; local: you, in this folder (Claude Code only); project: everyone in this project",
    )
    parser.add_argument("--dry-run", action="store_true", help="only show the change")
    parser.add_argument("--yes", action="store_true", help="don't ask")


def _add_eval(parser: CommandParser) -> None:
    parser.add_argument("--model", metavar="NAME", help="model name in LM Studio (default: a loaded model)")
    parser.add_argument(
        "--family", action="append", metavar="F", help="family of tasks; can be repeated (default: all)"
    )
    parser.add_argument("--tasks", type=_positive, metavar="N", help="maximum tasks per family (default: all)")
    for name, default, metavar, text in (
        ("--max-rounds", 15, "N", "maximum model requests per task"),
        ("--max-tokens", 2_048, "N", "maximum tokens per reply"),
        ("--seconds", 300, "S", "maximum seconds per task"),
        ("--parallel", 1, "N", "tasks to run at once"),
    ):
        parser.add_argument(
            name, type=_positive, default=default, metavar=metavar, help=f"{text} (default: %(default)s)"
        )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="S",
        help="seed for the contents of the tasks (default: %(default)s)",
    )
    parser.add_argument("--baseline", action="store_true", help="also do each task with a plain loop")
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="command for an MCP server; can be repeated (default: npx or uvx)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("eval-results"),
        metavar="FOLDER",
        help="folder for results.json and results.html (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")


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


_rounds = partial(_whole_number, most=MAX_ROUNDS)
_port = partial(_whole_number, most=65_535)
_positive = partial(_whole_number, most=_MAX_NUMBER)


# -- texts of --help ---------------------------------------------------------------------------------------------


def _texts(description: str, **epilog: Any) -> dict[str, Any]:
    """What a command's parser says besides its arguments; `epilog` is what `_epilog` takes."""
    return {
        "description": _filled(description),
        "epilog": _epilog(**epilog),
        "formatter_class": partial(argparse.RawDescriptionHelpFormatter, width=_width()),
    }


def _epilog(
    *,
    examples: Sequence[tuple[str, str]] = (),
    exit_codes: Mapping[int, str] | None = None,
    variables: Sequence[str] = (),
    settings: bool = True,
) -> str:
    """`examples` are command lines, each with what it does; `exit_codes` differ from the usual ones.

    `variables` are the environment variables that matter most, and `settings` says whether the others matter too.
    """
    codes = _EXIT_CODES | dict(exit_codes or {})
    parts = []
    if examples:
        parts.append("examples:\n" + "\n".join(f"  {line}\n      {what}" for line, what in examples))
    parts.append("exit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in sorted(codes.items())))
    named = [*variables, *([f"all settings: {DOCS}/settings.md"] if settings else [])]
    if named:
        parts.append("environment:\n" + "\n".join(f"  {line}" for line in named))
    return "\n\n".join(parts)


def _filled(text: str) -> str:
    """The paragraphs of a text, wrapped to the width of the terminal."""
    paragraphs = textwrap.dedent(text).strip().split("\n\n")
    return "\n\n".join(
        textwrap.fill(" ".join(each.split()), _width(), break_long_words=False, break_on_hyphens=False)
        for each in paragraphs
    )


def _width() -> int:
    return min(shutil.get_terminal_size().columns - 2, _MAX_WIDTH)
