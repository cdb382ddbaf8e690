"""How a stdio server is started: what it gets of our environment, and how it is kept from what a project has in it."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise, takewhile
from pathlib import Path
from typing import NamedTuple

from lmstudio_bridge.mcp_client.failures import SHELLS
from lmstudio_bridge.messages import ServerConfig

DEPTH_VARIABLE = "LMSTUDIO_BRIDGE_DEPTH"
"""How many bridges are above a process; it stops a bridge that starts itself through a wrapper."""

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
        if program in SHELLS or " " in program:  # env -S "npx …"
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
    line = " ".join((program, *args)) if program in SHELLS or " " in program else ""
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
