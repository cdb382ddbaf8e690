"""The environment of a server's process: little of ours, and nothing of Claude Code's.

Claude Code hands its whole environment to the servers that it starts, and so to us: its API key and
its session with it (seen in 2.1.330).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from lmstudio_bridge.downstream.recursion import DEPTH_VARIABLE, read_depth

_INHERITED = frozenset(
    {
        # What the MCP SDK lets a stdio server inherit, on POSIX and on Windows.
        *("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"),
        *("APPDATA", "HOMEDRIVE", "HOMEPATH", "LOCALAPPDATA", "PATHEXT", "PROCESSOR_ARCHITECTURE"),
        *("SYSTEMDRIVE", "SYSTEMROOT", "USERNAME", "USERPROFILE"),
        # What a server needs on top to reach the network, and to write files and dates as its user does.
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
        *("LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP"),
    }
)
_INHERITED_PREFIXES = ("LC_", "XDG_")
_NEVER = frozenset({"LM_API_TOKEN", "LMSTUDIO_API_KEY"})
_NEVER_PREFIXES = ("ANTHROPIC_", "CLAUDE")


def build_environment(environ: Mapping[str, str], *, passed: Iterable[str] = ()) -> dict[str, str]:
    """What every server gets of our environment: a small clean base, and what `passed` names."""
    # Windows does not tell upper from lower case in these names.
    inherited = {name for name in environ if name.upper() in _INHERITED} if sys.platform == "win32" else _INHERITED
    built = {
        name: value
        for name, value in environ.items()
        if (name in inherited or name.startswith(_INHERITED_PREFIXES)) and not value.startswith("()")
    }
    return built | passed_variables(environ, passed) | {DEPTH_VARIABLE: str(read_depth(environ) + 1)}


def passed_variables(environ: Mapping[str, str], passed: Iterable[str]) -> dict[str, str]:
    """The variables that these names and patterns (`AWS_*`) pick; never Claude Code's, nor LM Studio's token."""
    patterns = tuple(passed)
    return {
        name: value
        for name, value in environ.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
        and name.upper() not in _NEVER
        and not name.upper().startswith(_NEVER_PREFIXES)
    }


def add_own(environ: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The environment with a server's own `env`, which may set everything but how deep the bridge stands."""
    return {**environ, **own, DEPTH_VARIABLE: environ.get(DEPTH_VARIABLE, "1")}
