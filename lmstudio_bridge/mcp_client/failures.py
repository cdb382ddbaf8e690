"""Why a server could not be used, and what to do, as messages for the user.

Pure functions from a configuration and the bare facts to a `Failure`. Values of `env` and `headers` never
appear, even if the server repeats them.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from lmstudio_bridge.errors import DownstreamError, ServerStartError, SessionLostError
from lmstudio_bridge.messages import ServerConfig, program_name

SECRET_LENGTH = 6  # characters; shorter values ("1", "true") are hardly secrets, and hiding them would garble texts

_INSTALLS = {
    "npx": "Is Node.js installed?",
    "npm": "Is Node.js installed?",
    "node": "Is Node.js installed?",
    "bunx": "Is Bun installed?",
    "deno": "Is Deno installed?",
    "uvx": "Is uv installed?",
    "uv": "Is uv installed?",
    "pipx": "Is pipx installed?",
    "python": "Is Python installed under that name?",
    "python3": "Is Python installed under that name?",
    "docker": "Is Docker installed?",
}
_FETCHERS = frozenset(
    {
        *("npx", "npm", "pnpm", "pnpx", "yarn", "bunx", "bun", "deno", "uvx", "uv", "pipx"),
        *("docker", "podman", "nerdctl", "dnx", "nix", "go", "cargo"),
    }
)
"""Commands that download their server on the first start."""
SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "fish"})
NOT_INSTALLED = "is not installed yet, and was started without network"
_OFFLINE = ("ENOTCACHED", "the network was disabled")  # npm's and uv's words


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a session did not start, or ended: `reason` completes "MCP server 'x' ..."."""

    reason: str
    remedy: str = ""
    stderr_tail: str = ""

    def start_error(self, server: str) -> ServerStartError:
        """A new exception for each waiter: a shared one would collect all their tracebacks."""
        return ServerStartError(
            f"MCP server '{server}' {self.reason}.", server=server, stderr_tail=self.stderr_tail, remedy=self.remedy
        )

    def lost_error(self, server: str, tool: str) -> SessionLostError:
        """For the caller of a tool, which may have run."""
        return SessionLostError(
            f"MCP server '{server}' {self.reason} during the call of '{tool}'. "
            "The call may or may not have had effects: check before it is made again.",
            server=server,
            remedy=self.remedy or "The server is started again for the next call.",
        )

    def refused_error(self, server: str, tool: str, kind: type[DownstreamError]) -> DownstreamError:
        """For the caller of a tool, which did not run."""
        return kind(
            f"MCP server '{server}' {self.reason} during the call of '{tool}'. The call was not executed.",
            server=server,
            remedy=self.remedy,
        )


def installer_of(config: ServerConfig) -> str:
    """The command that downloads this server on its first start; "" if it needs none."""
    if config.transport != "stdio":
        return ""
    program, *args = config.launched
    behind = args[args.index("--") + 1 :][:1] if "--" in args else []  # op run -- npx -y foo
    words = " ".join(args).split() if program in SHELLS else behind  # sh -lc "npx -y foo"
    return next((name for name in (program, *map(program_name, words)) if name in _FETCHERS), "")


def target_of(config: ServerConfig) -> str:
    """The command or address; without arguments, user or query, which may contain secrets."""
    if config.transport == "stdio":
        return f"`{config.command}`"
    try:
        parts = urlsplit(config.url)
    except ValueError:  # http://[::1 and the like
        return "an invalid address"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def hide_secrets(text: str, config: ServerConfig) -> str:
    """The text without the values of the configuration's env and headers."""
    values = {*config.env.values(), *config.headers.values()}
    # A server that repeats the header value "Bearer abc" may leave "Bearer" out.
    values |= {word for value in config.headers.values() for word in value.split()}
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= SECRET_LENGTH and value != "Bearer":
            text = text.replace(value, "***")
    return text


def explain_trap(found: str, *, config: ServerConfig) -> Failure:
    """Why a program is not started that would run what the project has."""
    program = config.launched[0]
    other = "uvx" if program == "pipx" else "npx"
    return Failure(
        f"is not started, because {program} would run what is in {found}, which may come with the project",
        remedy=f"Start it with {other}, or give its entry a folder to start in (`cwd`).",
    )


def explain_spawn(exc: OSError | ValueError, *, config: ServerConfig, cwd: Path) -> Failure:
    """A command that could not be started at all."""
    where = f" in {config.source}" if config.source else ""
    if not os.path.isdir(cwd):  # Path.is_dir raises where a folder above may not be entered
        return Failure(
            f"could not be started: its folder {cwd} does not exist, or cannot be entered", f"Correct `cwd`{where}."
        )
    code = exc.errno if isinstance(exc, OSError) else None
    if code == errno.ENOENT and (first := _first_word(config.command)):
        return Failure(
            f"could not be started: its `command` is a whole command line, which begins with {first}",
            f'Split it{where}: `"command": "{first}"`, and each of the other words as a text in the list `args`.',
        )
    if code == errno.ENOENT and os.sep in config.command and os.path.isfile(cwd / config.command):
        return Failure(  # as in a virtual environment whose Python was removed
            f"could not be started: the program that the first line of {config.command} names does not exist",
            "Install that server again.",
        )
    if code == errno.ENOENT:
        hint = _INSTALLS.get(program_name(config.command), "Is it installed?")
        return Failure(
            f"could not be started: command not found: {config.command}",
            f"{hint} The PATH of the bridge is searched; a full path as `command`{where} always works.",
        )
    if code == errno.EACCES:
        return Failure(
            f"could not be started: {config.command} is not executable",
            f"Make it executable, or correct `command`{where}.",
        )
    words = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return Failure(f"could not be started with {target_of(config)}: {words}", f"Correct the entry{where}.")


def explain_exit(ending: str, *, config: ServerConfig, stderr_tail: str) -> Failure:
    """A server that ended before it was ready."""
    if installer_of(config) and any(words in stderr_tail for words in _OFFLINE):
        remedy = "" if config.confinement else "Run its command once in a terminal, with network."
        return Failure(f"({target_of(config)}) {NOT_INSTALLED}, so it cannot be downloaded", remedy)
    return Failure(
        f"({target_of(config)}) {ending or 'closed the connection'} before it was ready",
        "Running the same command in a terminal may show more.",
        hide_secrets(stderr_tail, config),
    )


def explain_silence(seconds: float, *, config: ServerConfig, stderr_tail: str = "") -> Failure:
    """A server that did not answer in time."""
    remedy = "If it needs longer, raise LMSTUDIO_BRIDGE_SERVER_START_TIMEOUT (seconds)."
    if installer := installer_of(config):
        remedy = f"`{installer}` may still be downloading it: run its command once in a terminal. {remedy}"
    elif config.transport == "http":
        remedy = 'If it is an older SSE server, set `"type": "sse"` in its entry.'
    started = "was started but " if config.transport == "stdio" else ""
    reason = f"({target_of(config)}) {started}did not answer within {seconds:g} seconds"
    return Failure(reason, remedy, hide_secrets(stderr_tail, config))


def explain_status(status: int, *, config: ServerConfig, words: str = "") -> Failure:
    """An HTTP answer that is an error."""
    where = f" in {config.source}" if config.source else ""
    target = target_of(config)
    said = f": {hide_secrets(words, config)}" if words else ""
    match status:
        case 401 | 403 if not any(name.lower() == "authorization" for name in config.headers):
            return Failure(
                f"({target}) requires sign-in (HTTP {status}){said}",
                f"Run {login_command(config)}, or set an `Authorization` header{where}.",
            )
        case 401 | 403:
            return Failure(
                f"({target}) refused our credentials (HTTP {status}){said}",
                f"Check the `headers` of this server{where}.",
            )
        case 402:
            return Failure(f"({target}) requires payment (HTTP 402){said}", "Check your plan at that service.")
        case 404 | 405 | 410:
            return explain_wrong_url(f"HTTP {status}{said}", config=config)
        case 429:
            return Failure(
                f"({target}) received too many requests (HTTP 429){said}",
                "Wait a few minutes and try again; if it happens often, check the limits of your plan at that service.",
            )
        case _ if status >= 500:
            return Failure(
                f"({target}) failed with HTTP {status}{said}",
                "Try again later; if that server is yours, check its log.",
            )
        case _:
            return Failure(f"({target}) answered with HTTP {status}{said}", f"Check `url` and `headers`{where}.")


def explain_refused_login(status: int, trouble: str, *, config: ServerConfig) -> Failure:
    """A server that does not take the login that the user has; `trouble` is why it could not be used."""
    target = target_of(config)
    if trouble:
        return Failure(
            f"({target}) cannot be used: {trouble}",
            f"Try again later. If that does not help, run {login_command(config)}.",
        )
    if status == 403:
        return Failure(
            f"({target}) accepts the login, but does not allow this request (HTTP 403)",
            f"Your account there may lack the permission; if the service asks what to allow when you sign in, run "
            f"{login_command(config)} again and allow it.",
        )
    return Failure(
        f"({target}) does not accept the login any more (HTTP 401): it has expired or was revoked",
        f"Run {login_command(config)} again.",
    )


def login_command(config: ServerConfig) -> str:
    """The command that signs in to this server."""
    return f"`lmstudio-bridge login {shlex.quote(config.name)}`"


def explain_wrong_url(words: str, *, config: ServerConfig) -> Failure:
    """Something answers at the URL, but it does not speak MCP, or speaks it over another transport."""
    where = f" in {config.source}" if config.source else ""
    return Failure(
        f"({target_of(config)}) is not an MCP endpoint: {hide_secrets(words, config)}",
        f'Check `url`{where}: it usually ends in /mcp, or in /sse with `"type": "sse"`.',
    )


def explain_header(*, config: ServerConfig) -> Failure:
    """A header that HTTP cannot transmit."""
    names = ", ".join(f"`{name}`" for name, value in config.headers.items() if not (name + value).isascii())
    where = f" in {config.source}" if config.source else ""
    return Failure(
        f"({target_of(config)}) cannot be reached: a header contains characters that are not ASCII",
        f"Correct {names or '`headers`'}{where}.",
    )


def explain_unreachable(words: str, *, config: ServerConfig) -> Failure:
    """A server that accepts no connection."""
    return Failure(
        f"({target_of(config)}) cannot be reached: {hide_secrets(words, config).rstrip('.')}",
        "Is it running, and is `url` right?",
    )


def explain_answer(words: str, *, config: ServerConfig, stderr_tail: str = "") -> Failure:
    """A server that answered with an error, or with something invalid."""
    return Failure(
        f"({target_of(config)}) could not be used; it said: {hide_secrets(words, config)}",
        "See the documentation of that server.",
        hide_secrets(stderr_tail, config),
    )


def _first_word(command: str) -> str:
    """The program in a whole command line; "" if the text is one program, perhaps with spaces in its path."""
    first, _, rest = command.strip().partition(" ")
    return first if rest and (first in _INSTALLS or shutil.which(first)) else ""
