"""The stdio transport: child processes that speak MCP over stdin and stdout and always end with the bridge.

Each child leads a process group of its own, so that its own children end with it. That is POSIX only:
on Windows the SDK's transport is used, which ends processes with job objects.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from fnmatch import fnmatchcase
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCMessage, JSONRPCRequest

from lmstudio_bridge.mcp_client import failures
from lmstudio_bridge.mcp_client.failures import Failure
from lmstudio_bridge.mcp_client.json_size import MAX_MESSAGE, TOO_MANY, has_too_many_values
from lmstudio_bridge.mcp_client.repair import decode_line
from lmstudio_bridge.messages import ServerConfig

logger = logging.getLogger(__name__)

MAX_QUEUED = 4 * 1024 * 1024
"""Bytes of complete lines that wait to be read; above that, the pipe is not read any further."""

MAX_UNREAD = 4 * 1024 * 1024
"""Bytes of a server's requests, with some for each, whose answers wait because it does not read them."""

_MAX_ON_LOOP = 256 * 1024  # bytes of a line; larger ones are parsed in a thread
_LINE_COST = 200  # bytes that a line takes beside its own
REQUEST_COST = 4_000  # bytes that a request takes beside its own, with the task that answers it

STDERR_LINES = 40
STDERR_LINE = 500  # bytes; longer lines, such as progress bars, are cut here

EOF_GRACE = 0.5  # seconds to exit after stdin was closed
TERM_GRACE = 0.5  # seconds to exit after SIGTERM
KILL_GRACE = 2.0  # seconds for the event loop to notice the exit after SIGKILL
EXIT_GRACE = 0.5  # seconds for a server that closed its output to exit, so that its exit code can be reported
READ_GRACE = 0.2  # after the exit, for its last words

DEPTH_VARIABLE = "LMSTUDIO_BRIDGE_DEPTH"
"""How many bridges are above a process; it stops a bridge that starts itself through a wrapper."""

_NEWLINES = re.compile(rb"\n{2,}")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

_INHERITED = frozenset(
    {
        # What the MCP SDK lets a stdio server inherit, on POSIX and on Windows.
        *("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"),
        *("APPDATA", "HOMEDRIVE", "HOMEPATH", "LOCALAPPDATA", "PATHEXT", "PROCESSOR_ARCHITECTURE"),
        *("SYSTEMDRIVE", "SYSTEMROOT", "USERNAME", "USERPROFILE"),
        # What a server also needs to reach the network, and to write files and dates as its user does.
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
        *("LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP"),
    }
)
_INHERITED_PREFIXES = ("LC_", "XDG_")
SELECTORS = frozenset(
    {
        *("KUBECONFIG", "KUBE_CONFIG_PATH", "KUBE_CONTEXT", "KUBE_NAMESPACE", "HELM_KUBECONTEXT", "HELM_NAMESPACE"),
        "TALOSCONFIG",
        *("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CONFIG_FILE"),
        *("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"),
        *("AWS_SHARED_CREDENTIALS_FILE", "AWS_SDK_LOAD_CONFIG", "AWS_ENDPOINT_URL", "AWS_CA_BUNDLE"),
        *("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION"),
        *("CLOUDSDK_CONFIG", "CLOUDSDK_ACTIVE_CONFIG_NAME", "CLOUDSDK_CORE_PROJECT", "CLOUDSDK_CORE_ACCOUNT"),
        *("AZURE_CONFIG_DIR", "AZURE_SUBSCRIPTION_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_ID"),
        *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "CONTAINER_HOST"),
        *("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE", "PGSERVICEFILE", "PGPASSFILE", "PGSSLMODE"),
        *("GH_HOST", "GITLAB_HOST", "VAULT_ADDR", "VAULT_NAMESPACE", "CONSUL_HTTP_ADDR", "NOMAD_ADDR", "TF_WORKSPACE"),
        *("NOMAD_REGION", "NOMAD_NAMESPACE", "PULUMI_STACK", "ARM_SUBSCRIPTION_ID", "MYSQL_HOST", "MYSQL_TCP_PORT"),
        *("DATABRICKS_HOST", "DATABRICKS_CONFIG_PROFILE", "OCI_CLI_PROFILE", "OS_CLOUD", "RCLONE_CONFIG"),
    }
)
_SELECTOR_FAMILIES = re.compile(r"AWS_ENDPOINT_URL_\w+|\w+_EMULATOR_HOST")  # without them: the real service
"""Variables that say which cluster, account or database is meant, and hold no secret themselves.

Without them a server would not fail, but work on the default: `~/.kube/config` in place of `KUBECONFIG`.
"""

_CREDENTIALS = re.compile(r"(?<!ssh)://[^/\s]*@|://[^/\s@]*:[^/\s]*@")  # in DOCKER_HOST; ssh://me@host has none
_TARGET = re.compile(
    r"\w*(?:HOST|URL|URI|DSN|ADDR|ADDRESS|ENDPOINT|PROFILE|PROJECT|REGION|CONTEXT|CONFIG|NAMESPACE|ACCOUNT|CLUSTER"
    r"|DATABASE|DB|ORG|WORKSPACE|TENANT|SUBSCRIPTION|INSTANCE|SERVER|SITE|DOMAIN|BUCKET|STACK|ENV|ENVIRONMENT)"
    r"(?:_(?:ID|NAME|FILE|PATH|DIR))?|AWS_(?:ACCESS_KEY_ID|VAULT)"  # without the key, that of the default profile
)
"""Names of variables that say what a server works on."""
_OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "aws": ("awslabs", "eks", "ecs", "s3", "dynamodb", "cloudwatch", "cloudformation"),
    "gh": ("github",),
    "pg": ("postgres", "postgresql"),
    "postgres": ("postgresql",),
    "database": ("postgres", "postgresql", "mysql", "sqlite", "database", "dbhub"),
    "tf": ("terraform",),
    "arm": ("azure", "terraform"),
    "gcp": ("google", "gcloud"),
    "kube": ("kubernetes", "k8s", "kubectl"),
    "google": ("gcp", "gcloud", "gdrive", "gmail"),
    "container": ("podman",),
    "dd": ("datadog",),
    "hf": ("huggingface",),
}
"""What servers call the service whose variables begin so."""
_NO_NAME = re.compile(r"-[^=]*|(?:[~./]|[A-Za-z]:)(?!.*\.(?:[cm]?[jt]s|py)\Z).*", re.DOTALL)
"""Arguments that do not name the server: options, and folders that it works on."""
_NO_SERVICE = frozenset(
    {"mcp", "npm", "node", "npx", "uv", "uvx", "python", "home", "user", "path", "server", "docker", "lmstudio"}
)

_SHOWN_NAMES = 5  # variables in a warning

_NEVER = frozenset({"LM_API_TOKEN", "LMSTUDIO_API_KEY", "LMSTUDIO_BRIDGE_API_TOKEN"})
_NEVER_PREFIXES = ("ANTHROPIC_", "CLAUDE")

_GIT_SAFETY = {"safe.bareRepository": "explicit", "core.fsmonitor": "false", "core.hooksPath": os.devnull}
_PYTHON_SERVERS = frozenset({"mcp_server_git", "mcp_server_fetch", "mcp_server_time", "mcp_server_sqlite"})
"""Modules that the documentation of these servers starts with `python -m`."""


class _Launcher(NamedTuple):
    """A program that starts packages, with the subcommands that do; how it is kept from the project.

    `first` are words behind its name, `then` behind the subcommand. `only_if` is how an argument must begin. `instead`
    is another program for it. Where nothing helps, `traps` are what it must not find in the project.
    """

    program: str
    commands: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    then: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    only_if: tuple[str, ...] = ("",)
    instead: str = ""
    traps: tuple[str, ...] = ()


_SHELL = () if sys.platform == "win32" else ("--script-shell", str(Path(__file__).with_name("npx_shell.sh")))
_NPX = ("--prefix", "{root}", *_SHELL)
_BUN_TRAPS = ("node_modules", "bunfig.toml", ".npmrc", ".env", ".env.local", ".env.development", ".env.production")
_LAUNCHERS = (
    _Launcher("npx", first=_NPX),
    _Launcher("npm", ("exec", "x"), _NPX),
    _Launcher("pnpm", ("dlx",), ("-C", "{root}")),
    _Launcher("pnpx", first=("-C", "{root}", "dlx"), instead="pnpm"),
    _Launcher("yarn", ("dlx",), env={"YARN_IGNORE_PATH": "1", "YARN_RC_FILENAME": ".yarnrc-of-nobody.yml"}),
    _Launcher(
        "deno",
        ("run", "x", "serve"),
        then=("--no-config", "--node-modules-dir=none"),
        env={"DENO_NO_PACKAGE_JSON": "1"},
        only_if=("npm:", "jsr:", "https:"),
    ),
    _Launcher("uv", ("run",), then=("--no-project", "--no-config"), only_if=("--with", "--script", "/")),
    _Launcher("bunx", traps=_BUN_TRAPS),
    _Launcher("bun", ("x",), traps=_BUN_TRAPS),
    _Launcher("pipx", ("run",), traps=("__pypackages__",)),
)
_SUBCOMMANDS = frozenset({"run", "exec", "x", "dlx", "serve", "start", "test", "task", "tool", "create", "init"})
_OWN_FOLDER = ("--prefix", "--directory", "--project", "--no-project", "-C", "--dir", "--cwd")  # says where it looks
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "fish"})
_Pipe = TypeVar("_Pipe", asyncio.ReadTransport, asyncio.WriteTransport)


def build_environment(environ: Mapping[str, str], *, passed: Iterable[str] = ()) -> dict[str, str]:
    """What every server gets of our environment: a small base, `SELECTORS`, and the variables that `passed` names.

    Claude Code gives its servers, and so the bridge, its whole environment, with its API key and its
    session (seen in 2.1.330). None of that is passed on.
    """
    # On Windows these names are case-insensitive.
    inherited = {name for name in environ if name.upper() in _INHERITED} if sys.platform == "win32" else _INHERITED
    base = {
        name: value
        for name, value in environ.items()
        if (name in inherited or name.startswith(_INHERITED_PREFIXES)) and not value.startswith("()")
    }
    base |= {
        name: value
        for name, value in environ.items()
        if (name in SELECTORS or _SELECTOR_FAMILIES.fullmatch(name)) and not _CREDENTIALS.search(value)
    }
    return base | passed_variables(environ, passed) | {DEPTH_VARIABLE: str(read_depth(environ) + 1)}


def find_withheld(config: ServerConfig, environ: Mapping[str, str], *, passed: Iterable[str] = ()) -> list[str]:
    """The names of variables that a stdio server does not get, and by their names is likely to want."""
    if config.transport != "stdio":
        return []
    given = {*build_environment(environ, passed=passed), *config.env}
    named = (config.name, config.command, *(word for word in config.args if not _NO_NAME.fullmatch(word)))
    words = set(re.findall(r"[a-z0-9]+", " ".join(named).casefold()))

    def is_wanted(name: str) -> bool:
        service = "pg" if name.startswith("PG") else name.partition("_")[0].casefold()
        is_service = service not in _NO_SERVICE or name in SELECTORS
        return is_service and not words.isdisjoint({service, *_OTHER_NAMES.get(service, ())})

    return sorted(
        name
        for name in environ
        if name not in given and name not in _NEVER and not name.startswith(_NEVER_PREFIXES) and is_wanted(name)
    )


def warn_of_withheld(config: ServerConfig, environ: Mapping[str, str], *, passed: Iterable[str] = ()) -> str:
    """A warning that names those of `find_withheld` without which the server may work on another target; or ""."""
    names = [name for name in find_withheld(config, environ, passed=passed) if _TARGET.fullmatch(name)]
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return (
        f"MCP server {config.name} may work on another target than your shell, because it does not get "
        f"{', '.join(names[:_SHOWN_NAMES])}{more}. LMSTUDIO_BRIDGE_PASS_ENV passes variables on."
    )


def passed_variables(environ: Mapping[str, str], passed: Iterable[str]) -> dict[str, str]:
    """The variables that match these names and patterns (`AWS_*`); never Claude Code's or LM Studio's token."""
    patterns = tuple(passed)
    return {
        name: value
        for name, value in environ.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
        and name.upper() not in _NEVER
        and not name.upper().startswith(_NEVER_PREFIXES)
    }


def add_own(environ: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The environment with a server's own `env`, which may set everything except the depth of the bridge."""
    return {**environ, **own, DEPTH_VARIABLE: environ.get(DEPTH_VARIABLE, "1")}


def add_git_safety(env: Mapping[str, str]) -> dict[str, str]:
    """The environment with settings that keep git from running what a repository brings along.

    Without them `git status` runs the `core.fsmonitor` of a committed folder that looks like a bare repository. They
    follow the GIT_CONFIG_* that are there; a key that is set there is left alone.
    """
    count = env.get("GIT_CONFIG_COUNT", "0") or "0"
    if not (count.isascii() and count.isdigit()) or len(count) > 4:
        return dict(env)  # git will say so
    there = {env.get(f"GIT_CONFIG_KEY_{number}", "").casefold() for number in range(int(count))}
    missing = [(key, value) for key, value in _GIT_SAFETY.items() if key.casefold() not in there]
    added = {"GIT_CONFIG_COUNT": str(int(count) + len(missing))}
    for number, (key, value) in enumerate(missing, start=int(count)):
        added |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return {**env, **added}


def add_python_safety(env: Mapping[str, str], config: ServerConfig) -> dict[str, str]:
    """The environment in which `python -m` imports nothing from its working directory.

    Otherwise a repository's `mcp_server_git.py` or `click.py` would run. An entry for one project may mean a module of
    the user's own, in that project; then only well-known servers are kept from it.
    """
    modules = {after for option, after in pairwise(config.args) if option == "-m"}
    is_for_all = config.scope in ("user", "lmstudio") and config.cwd is None
    is_safe = modules & _PYTHON_SERVERS or (modules and is_for_all)
    return {**env, "PYTHONSAFEPATH": "1"} if is_safe else dict(env)


def keep_from_project(
    config: ServerConfig, env: Mapping[str, str], *, project: Path
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The command line and the environment with which a program in `_LAUNCHERS` takes nothing from the project.

    Otherwise npx would run the package that the repository is or has in `node_modules`, find `node` and `git` there,
    and ask the registry that its `.npmrc` names. The working directory stays the project, because relative paths depend
    on it. Entries of projects and plugins, and those with a folder of their own, stay as they are.
    """
    words = (config.command, *config.args)
    program, *args = config.launched
    if not _is_guarded(config, args):
        return words, dict(env)
    start = len(words) - len(args) - 1
    for launcher in _LAUNCHERS:
        first = tuple(word.replace("{root}", project.anchor) for word in launcher.first)
        if program in _SHELLS or " " in program:  # env -S "npx …"
            line = shlex.join((launcher.instead or launcher.program, *first)).replace("\\", r"\\")
            words = tuple(_launches(launcher).sub(line, word) for word in words)
        elif program == launcher.program and (at := _find_command(launcher, args)) is not None:
            name = words[start] if not launcher.instead else str(Path(words[start]).with_name(launcher.instead))
            return (*words[:start], name, *first, *args[:at], *launcher.then, *args[at:]), {**env, **launcher.env}
    return words, dict(env)


def find_trap(config: ServerConfig, *, project: Path, home: str | None) -> str:
    """What in the project a program would use that has no option against it; "" if there is nothing."""
    program, *args = config.launched
    if not _is_guarded(config, args):
        return ""
    line = " ".join((program, *args)) if program in _SHELLS or " " in program else ""
    for launcher in _LAUNCHERS:
        if _launches(launcher).search(line) or (
            program == launcher.program and _find_command(launcher, args) is not None
        ):
            folders = [folder for folder in (project, *project.parents) if str(folder) != home]
            found = (folder / name for folder in folders for name in launcher.traps if (folder / name).exists())
            return str(next(found, ""))
    return ""


def _is_guarded(config: ServerConfig, args: Sequence[str]) -> bool:
    """Whether the entry is the user's and leaves open where its program looks for packages."""
    before = takewhile(lambda word: word in _SUBCOMMANDS or not re.match(r"[\w@]", word), args)
    named = any(word.partition("=")[0] in _OWN_FOLDER for word in before)
    return config.scope not in ("project", "plugin") and config.cwd is None and not named


def _find_command(launcher: _Launcher, args: Sequence[str]) -> int | None:
    """The place behind the subcommand; None if these arguments start no package."""
    if not any(word.startswith(launcher.only_if) for word in args):
        return None
    at = next((place for place, word in enumerate(args) if word in _SUBCOMMANDS), None)
    if at is not None and args[at] in launcher.commands:
        return at + 1
    return 0 if not launcher.commands or (at is None and launcher.only_if != ("",)) else None


def _launches(launcher: _Launcher) -> re.Pattern[str]:
    """Finds the program in a line for a shell."""
    command = rf"\s+(?:-\S+\s+)*(?:{'|'.join(launcher.commands)})\s" if launcher.commands else r"\s"
    return re.compile(rf"(?<![\w.-]){launcher.program}(?={command})")


def read_depth(environ: Mapping[str, str]) -> int:
    """How many bridges are above us; 0 if the variable is missing or not a number."""
    text = environ.get(DEPTH_VARIABLE, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


class StdioTransport:
    """Starts one server; can be opened once.

    `exit_reason` says how the server went away, as the end of a sentence. If `detects_exit`, it is set
    before the streams end, so that whoever waits for an answer wakes up knowing it.
    """

    detects_exit = sys.platform != "win32"

    def __init__(
        self, config: ServerConfig, *, children: ChildProcesses, project: Path, environ: Mapping[str, str]
    ) -> None:
        self.exit_reason = ""
        self._config = config
        self._children = children
        self._cwd = config.cwd or project
        own = {"CLAUDE_PROJECT_DIR": str(project), **config.env}  # Claude Code sets it, too
        env = add_python_safety(add_git_safety(add_own(environ, own)), config)
        command, self._env = keep_from_project(config, env, project=project)
        if config.confinement is not None:
            command = (*config.confinement.words, *command)
            self._env = {name: value for name, value in self._env.items() if name not in config.confinement.inside}
        self._command, *self._args = command
        self._trap = find_trap(config, project=project, home=environ.get("HOME"))
        self._child: ChildProcess | None = None
        self._unread = 0  # bytes of its requests since it last took something from its input

    @property
    def stderr_tail(self) -> str:
        """The last lines that the server wrote to stderr."""
        return self._child.stderr_tail if self._child else ""

    @asynccontextmanager
    async def open_streams(self) -> AsyncIterator[tuple[Any, Any]]:
        """Start the server, and yield streams to read messages from and to write them to.

        Leaving the block ends the server and its children.
        """
        if self._trap:
            raise ValueError(self._trap)
        if sys.platform == "win32":
            server = StdioServerParameters(command=self._command, args=self._args, env=self._env, cwd=self._cwd)
            async with stdio_client(server) as streams:
                yield streams
            return
        async with self._children.open_child(self._command, self._args, env=self._env, cwd=self._cwd) as child:
            self._child = child
            arrived, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
            write, leaving = anyio.create_memory_object_stream[SessionMessage](0)
            async with read, write, anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive, child, arrived)
                tasks.start_soon(self._send, child, leaving)
                yield read, write
                tasks.cancel_scope.cancel()

    def explain(self, exc: BaseException) -> Failure | None:
        """Why the server could not be started, if the transport knows."""
        if self._trap:
            return failures.explain_trap(self._trap, config=self._config)
        if self.exit_reason:
            return failures.explain_exit(self.exit_reason, config=self._config, stderr_tail=self.stderr_tail)
        if self.detects_exit and self._child is None and isinstance(exc, OSError | ValueError):
            return failures.explain_spawn(exc, config=self._config, cwd=self._cwd)
        return None

    async def _receive(self, child: ChildProcess, arrived: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        with suppress(anyio.BrokenResourceError):  # the session has ended
            async with arrived:
                async for line in child.lines():
                    if len(line) < _MAX_ON_LOOP:
                        messages = _decode(line)
                    else:  # so that others go on meanwhile
                        messages = await anyio.to_thread.run_sync(_decode, line, abandon_on_cancel=True)
                    if messages is None:
                        self.exit_reason = f"wrote a message with {TOO_MANY}"
                        return
                    if not messages:
                        child.keep_line(line)
                    for message in messages:
                        if isinstance(message, JSONRPCRequest):
                            self._unread += len(line) + REQUEST_COST
                            if self._unread > MAX_UNREAD:
                                self.exit_reason = "sends requests and does not read the answers"
                                return
                        await arrived.send(SessionMessage(message))
                await self._note_exit(child, "closed its output")

    async def _send(self, child: ChildProcess, leaving: MemoryObjectReceiveStream[SessionMessage]) -> None:
        async with leaving:
            async for item in leaving:
                try:  # in ASCII, because some servers take U+2028 for the end of a line
                    text = json.dumps(item.message.model_dump(by_alias=True, mode="json", exclude_unset=True))
                except (ValueError, RecursionError) as exc:  # it repeats something strange that the server sent
                    logger.warning("a message for MCP server %s cannot be encoded: %s", self._config.name, exc)
                    continue
                try:
                    await child.write(text.encode() + b"\n")
                    self._unread = 0
                except BrokenPipeError:
                    await self._note_exit(child, "does not read its input any more")
                    child.stop_reading()
                    return

    async def _note_exit(self, child: ChildProcess, otherwise: str) -> None:
        if not self.exit_reason:
            if await child.wait_exited(EXIT_GRACE):
                await child.wait_read(READ_GRACE)
            self.exit_reason = child.exit_reason or otherwise


class ChildProcesses:
    """The children that one pool has started."""

    def __init__(self) -> None:
        self._live: set[ChildProcess] = set()

    @asynccontextmanager
    async def open_child(
        self, command: str, args: Sequence[str], *, env: Mapping[str, str], cwd: Path
    ) -> AsyncIterator[ChildProcess]:
        """Start a command; leaving the block ends it together with its process group.

        Raises:
            OSError: the command cannot be started.
            ValueError: a NUL byte in the command, its arguments or its environment.
        """
        child = ChildProcess(self._live)
        try:
            with anyio.CancelScope(shield=True):  # a half-started process could not be ended properly
                await asyncio.get_running_loop().subprocess_exec(
                    lambda: child, command, *args, env=dict(env), cwd=cwd, start_new_session=True
                )
            try:
                yield child
            finally:
                with anyio.CancelScope(shield=True):
                    await child.end()
        finally:
            child.kill_now()

    def kill_all(self) -> None:
        """Kill every child and its group at once, without waiting: for signal handlers."""
        for child in list(self._live):
            child.kill_now()


class ChildProcess(asyncio.SubprocessProtocol):
    """One child: lines in, lines out, the end of its stderr, and how it exited.

    A protocol, and not `asyncio.create_subprocess_exec`: before Python 3.12.5 the `wait` of that one does
    not return as long as a grandchild holds the pipes, so that a dead server would look alive.
    """

    def __init__(self, live: set[ChildProcess]) -> None:
        self._live = live
        self._transport: asyncio.SubprocessTransport | None = None
        self._lines: deque[bytes] = deque()
        self._queued = 0  # bytes in _lines
        self._stdout = LineSplitter(MAX_MESSAGE)
        self._stdout_ended = False
        self._stderr = LineSplitter(STDERR_LINE)
        self._stderr_lines: deque[str] = deque(maxlen=STDERR_LINES)
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._stdin_lost = False
        self._exited = asyncio.Event()
        self._read = asyncio.Event()  # to the end
        self._group_killed = False

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its process group."""
        assert self._transport is not None
        return self._transport.get_pid()

    @property
    def stderr_tail(self) -> str:
        """The last lines of its stderr, and what it wrote to stdout that was not a message."""
        partial = [self._stderr.rest] if self._stderr.rest else []
        return "\n".join([*self._stderr_lines, *map(_readable, partial)][-STDERR_LINES:])

    @property
    def exit_reason(self) -> str:
        """How it ended, as the end of a sentence; empty while it runs."""
        if self._stdout.overflowed:
            return f"wrote a line of more than {MAX_MESSAGE // (1024 * 1024)} MiB"
        code = self._transport.get_returncode() if self._transport else None
        if code is None:
            return "closed its output" if self._stdout_ended else ""
        if code < 0:
            with suppress(ValueError):
                return f"was killed by {signal.Signals(-code).name}"
        return f"exited with code {code}"

    def keep_line(self, line: bytes) -> None:
        """Keep a line of stdout that was not a message in `stderr_tail`."""
        self._stderr_lines.append(_readable(line))

    async def lines(self) -> AsyncIterator[bytes]:
        """The lines of its stdout, without line ends, until it closes it; for one reader."""
        while True:
            while not self._lines:
                if self._stdout_ended:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            line = self._lines.popleft()
            self._queued -= len(line) + _LINE_COST
            if self._queued <= MAX_QUEUED:
                self._pipe(1, asyncio.ReadTransport).resume_reading()
            yield line

    async def write(self, data: bytes) -> None:
        """Write to its stdin; waits while the pipe is full.

        Raises:
            BrokenPipeError: it does not read any more.
        """
        pipe = self._pipe(0, asyncio.WriteTransport)
        if not self._stdin_lost and not pipe.is_closing():
            pipe.write(data)
            await self._writable.wait()
        if self._stdin_lost or pipe.is_closing():
            raise BrokenPipeError

    def stop_reading(self) -> None:
        """End `lines` after what has arrived so far."""
        self._stdout_ended = True
        self._arrived.set()

    async def wait_exited(self, seconds: float) -> bool:
        """Whether it exited within that time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._exited.wait()
        return self._exited.is_set()

    async def wait_read(self, seconds: float) -> bool:
        """Whether it exited and all that it wrote was read within that time; another process may hold its pipes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._read.wait()
        return self._read.is_set()

    async def end(self) -> None:
        """Close its stdin, then SIGTERM, then SIGKILL to the whole group: about one second at most."""
        self._pipe(0, asyncio.WriteTransport).close()
        # Read on and drop it: a server that is stuck writing would never see its stdin close.
        self.stop_reading()
        self._lines.clear()
        self._pipe(1, asyncio.ReadTransport).resume_reading()
        if not await self.wait_exited(EOF_GRACE):
            self._signal_group(signal.SIGTERM)
            await self.wait_exited(TERM_GRACE)
        self._kill_group()
        await self.wait_exited(KILL_GRACE)

    def kill_now(self) -> None:
        """Kill it and its group without waiting; may be called again."""
        self._kill_group()
        self._live.discard(self)
        if self._transport is not None:
            self._transport.close()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._live.add(self)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._stderr_lines.extend(_readable(line) for line in self._stderr.feed(data))
            return
        if self._stdout_ended:
            return
        lines = self._stdout.feed(data)
        if self._stdout.overflowed:
            self.stop_reading()
            return
        self._queue(lines)
        if self._queued > MAX_QUEUED:
            self._pipe(1, asyncio.ReadTransport).pause_reading()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 0:
            self._stdin_lost = True
            self._writable.set()
        elif fd == 1:
            self._end_output()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def process_exited(self) -> None:
        self._kill_group()  # a grandchild that holds the pipes would keep `lines` from ending
        self._exited.set()
        asyncio.get_running_loop().call_later(READ_GRACE, self._give_up_reading)

    def connection_lost(self, exc: Exception | None) -> None:
        self._read.set()

    # Helpers.

    def _give_up_reading(self) -> None:
        """End `lines` although a grandchild in a session of its own holds the pipes; a pause keeps what is in them."""
        if self._queued > MAX_QUEUED and not self._stdout_ended:
            asyncio.get_running_loop().call_later(READ_GRACE, self._give_up_reading)
        else:
            self._end_output()

    def _end_output(self) -> None:
        if not self._stdout_ended:
            self._queue([self._stdout.rest] if self._stdout.rest else [])
            self.stop_reading()

    def _queue(self, lines: list[bytes]) -> None:
        self._lines.extend(lines)
        self._queued += sum(map(len, lines)) + _LINE_COST * len(lines)
        if lines:
            self._arrived.set()

    def _pipe(self, fd: int, kind: type[_Pipe]) -> _Pipe:
        assert self._transport is not None
        return cast(_Pipe, self._transport.get_pipe_transport(fd))

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _kill_group(self) -> None:
        """SIGKILL to the group, once: afterwards another process may get its number."""
        if self._transport is not None and not self._group_killed:
            self._group_killed = True
            self._signal_group(signal.SIGKILL)


class LineSplitter:
    """Splits bytes into lines, in linear time; empty lines, and what exceeds `limit` bytes of a line, are dropped."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self.overflowed = False

    @property
    def rest(self) -> bytes:
        """What has arrived since the last line end."""
        return b"".join(self._parts)

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that these bytes complete, without line ends."""
        *ends, rest = _NEWLINES.sub(b"\n", data).split(b"\n")
        lines = []
        for end in ends:
            self._keep(end)
            if self._parts:
                lines.append(self.rest)
            self._parts.clear()
            self._size = 0
        self._keep(rest)
        return lines

    def _keep(self, piece: bytes) -> None:
        room = self._limit - self._size
        if len(piece) > room:
            self.overflowed = True
            piece = piece[:room]
        if piece:
            self._parts.append(piece)
            self._size += len(piece)


def _decode(line: bytes) -> list[JSONRPCMessage] | None:
    """The messages in a line, if any; None if it must not be parsed."""
    if has_too_many_values(line):
        return None
    try:
        return decode_line(line)
    except ValueError:
        return []


def _readable(line: bytes) -> str:
    text = _ANSI.sub("", line[:STDERR_LINE].decode("utf-8", "replace")).rstrip()
    return text.rpartition("\r")[2]  # the last state of a progress bar
