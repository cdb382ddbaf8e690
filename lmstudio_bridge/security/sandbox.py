"""An MCP server in the sandbox of the system: bubblewrap on Linux, sandbox-exec on macOS.

It sees the workspace, the system's folders and its own program; by default no network. The server is started with more
words before its command, and `mcp_client` starts it as any other.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from pathlib import Path

import lmstudio_bridge
from lmstudio_bridge.errors import ServerStartError
from lmstudio_bridge.messages import Confinement, ServerConfig
from lmstudio_bridge.security.protected import find_protected
from lmstudio_bridge.security.workspace import PROTECTED, is_protected
from lmstudio_bridge.settings import Surroundings

EVERY = "*"  # in place of a server's name
MAX_PROTECTED = 1_000  # files: bubblewrap takes 3 s to mount as many, 23 s for 3,000, and cannot mount 4,500

_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store"),
    "/home/linuxbrew/.linuxbrew",
    *("/nix/var/nix/profiles", "/run/systemd/resolve/resolv.conf", "/run/systemd/resolve/stub-resolv.conf"),
    *("/etc/alternatives", "/etc/ca-certificates", "/etc/ca-certificates.conf", "/etc/crypto-policies", "/etc/fonts"),
    *("/etc/gai.conf", "/etc/group", "/etc/host.conf", "/etc/hosts", "/etc/ld.so.cache", "/etc/ld.so.conf"),
    *("/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types", "/etc/nsswitch.conf", "/etc/os-release", "/etc/passwd"),
    *("/etc/pki/ca-trust", "/etc/pki/tls/cert.pem", "/etc/pki/tls/certs", "/etc/pki/tls/openssl.cnf", "/etc/protocols"),
    *("/etc/resolv.conf", "/etc/services", "/etc/ssl/cert.pem", "/etc/ssl/certs", "/etc/ssl/openssl.cnf"),
    *("/etc/static", "/etc/timezone"),
)
"""No folders with sockets: over those of systemd-resolved and Nix a server would reach the network. No private keys."""
_PROGRAMS = (
    *(".local/bin", ".local/lib", ".local/share/uv/python", ".local/share/pipx", ".local/pipx", ".pyenv", "miniconda3"),
    *("anaconda3", "miniforge3", ".nvm", ".fnm", ".local/share/fnm", ".volta", ".asdf", ".local/share/mise", ".bun"),
    *(".deno", ".npm-global", ".local/share/pnpm", ".cargo/bin", "go/bin", ".dotnet", ".linuxbrew", ".nix-profile"),
    ".sdkman/candidates",
)
"""Folders with programs below the home folder."""
_BESIDE_BIN = ("conf", "lib", "lib32", "lib64", "libexec", "pyvenv.cfg")  # what programs need of an installation
_CACHES = (
    *(".npm/_npx/*/node_modules", ".npm/_npx/*/package*.json", ".npm/_cacache/content-v2"),
    *(".cache/uv/archive-v*", ".cache/uv/wheels-v*", ".cache/uv/simple-v*", ".cache/uv/sdists-v*", ".cache/uv/git-v*"),
    *(".cache/uv/environments-v*/[!.]*", ".local/share/uv/tools/[!.]*", ".cache/ms-playwright", ".cache/puppeteer"),
)
"""What launchers such as npx have downloaded: to be read, or one server could change what another one runs.

The folders around are private and can be written, because npx and uv keep locks and temporary files there.
"""
_NPM_INDEX = ".npm/_cacache/index-v5"  # npm rewrites it while it reads, and so gets a copy
_COPY_INDEX = 'mkdir -p ~/.npm/_cacache && cp -r /run/npm/. ~/.npm/_cacache/index-v5; exec "$@"'
_OFFLINE = {"npm_config_offline": "true", "npm_config_update_notifier": "false", "UV_OFFLINE": "1"}
_LOADER = ("LD_", "DYLD_", "GLIBC_TUNABLES", "GCONV_PATH", "LOCPATH")
"""Begins of variables with which an entry would run code in bwrap itself, and so outside of the sandbox."""
_SANDBOX_EXEC = "/usr/bin/sandbox-exec"
_CODE = frozenset({".js", ".mjs", ".cjs", ".ts", ".mts", ".py"})
_LONGEST = 4_096  # characters of a path
_MOST_LINKS = 40  # on the way to a file, as in Linux
_MARKS = ("package.json", "pyproject.toml", "pyvenv.cfg")  # of a package's folder
_NO_FOLDER = Path("/proc")  # its links lead elsewhere in another process

_INSTALL = "Install it (`apt install bubblewrap`, `dnf install bubblewrap`)"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What a server may have besides the workspace: the network, and files and folders to read and to write."""

    network: bool = False
    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Sandboxes:
    """Which servers of a run start in a sandbox.

    `chosen` maps names, or `EVERY`, to what the user chose; None is no sandbox. `folders` are the workspace of each
    server, which it may change if the run `writes`.
    """

    around: Surroundings
    chosen: Mapping[str, Sandbox | None] = field(default_factory=dict)
    folders: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    writes: bool = False

    def find(self, config: ServerConfig) -> Sandbox | None:
        """The sandbox that the server is to be started in; None for a project's server where the system has none."""
        if config.transport != "stdio":
            return None
        if config.name in self.chosen or EVERY in self.chosen:
            return self.chosen.get(config.name, self.chosen.get(EVERY))
        by_default = config.scope == "project" and sys.platform == "linux"  # the profile for macOS was never run
        return Sandbox() if by_default and not self.find_problem(config) else None

    def find_problem(self, config: ServerConfig) -> str:
        """Why the server's sandbox cannot be set up, as the end of a sentence; "" if it can."""
        home, folders = self.around.home, self.folders[config.name]
        if home and any(
            real.is_relative_to(each) for real in _both(home) for folder in folders for each in _both(folder)
        ):
            return f"the workspace contains the home folder {home}. Start the bridge in a project's folder"
        return find_problem(self.around)

    async def confine(self, config: ServerConfig) -> ServerConfig:
        """The server, to be started in its sandbox if it has one.

        Raises:
            ServerStartError: The sandbox cannot be set up.
        """
        return await asyncio.to_thread(self._confine, config)

    def _confine(self, config: ServerConfig) -> ServerConfig:
        sandbox = self.find(config)
        if sandbox is None:
            return config
        problem = self.find_problem(config)
        if problem:
            raise _not_set_up(config, problem)
        folders, around = self.folders[config.name], self.around
        visible, roots = _find_visible(config, sandbox, folders=folders, writes=self.writes, around=around)
        if sys.platform == "linux":
            words = _words_for_linux(config, sandbox, visible, roots=roots, around=around)
        else:
            words = words_for_macos(config, sandbox, visible, around=around)
        inside = tuple(name for name in config.env if name.startswith(_LOADER))
        hint = hint_for(config, sandbox, unseen=_find_unseen(config, visible, around=self.around))
        return replace(config, confinement=Confinement(words, hint, inside))


def _not_set_up(config: ServerConfig, problem: str) -> ServerStartError:
    return ServerStartError(
        f"MCP server '{config.name}' was not started, because its sandbox cannot be set up: {problem}.",
        server=config.name,
        remedy=f"To start it without one, put `{toml_key(config.name)} = false` below [sandbox] of your "
        "lmstudio-bridge.toml.",
    )


def hint_for(config: ServerConfig, sandbox: Sandbox, *, unseen: Path | None = None) -> str:
    """What to do where the sandbox keeps a server from its work; `unseen` is what it names and does not see."""
    network = "" if sandbox.network else "without network, "
    key = toml_key(config.name)
    missing = f"It does not see {unseen}, which its entry names or leads to. " if unseen else ""
    read = json.dumps(str(unseen or "~/folder"), ensure_ascii=False)
    return (
        f"{missing}It runs in a sandbox, {network}sees little but the workspace, and installs nothing: run its command "
        "once in a terminal. To allow more, put one of these below [sandbox] of your lmstudio-bridge.toml: "
        f"`{key} = {{ network = true, read = [{read}], write = [] }}`, or `{key} = false` for no sandbox."
    )


def toml_key(name: str) -> str:
    """A name as a key in TOML."""
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name)


def find_problem(around: Surroundings) -> str:
    """Why this system has no sandbox, as the end of a sentence; "" if it has one, which was tried."""
    if sys.platform == "darwin":
        return "" if os.path.exists(_SANDBOX_EXEC) else f"{_SANDBOX_EXEC} does not exist"
    if sys.platform != "linux":
        return "there is none for this system"
    program = _which("bwrap", around)
    return _try_bubblewrap(program) if program else f"bubblewrap was not found. {_INSTALL}"


def _which(name: str, around: Surroundings) -> str | None:
    """A program on the PATH, but not one that the project brings along."""
    folders = around.environ.get("PATH", "").split(os.pathsep)
    kept = [each for each in folders if os.path.isabs(each) and not _is_in(Path(each), around.project)]
    return shutil.which(name, path=os.pathsep.join(kept))


def _is_in(path: Path, folder: Path) -> bool:
    """Whether a path is in a folder or is it, whatever links and `..` are in them."""
    return os.path.commonpath((os.path.realpath(folder), os.path.realpath(path))) == os.path.realpath(folder)


@cache
def _try_bubblewrap(program: str) -> str:
    words = [*START, program, *_ISOLATED, "--unshare-net", "--ro-bind", "/", "/", "--ro-bind-held", "/usr", "/usr"]
    words += ["--proc", "/proc", "--dev", "/dev", "--", "true"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"bubblewrap does not work here ({exc})"
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
    return (
        f"bubblewrap does not work here ({said}); it may be too old, and containers often forbid it"
        if done.returncode
        else ""
    )


START = (sys.executable, "-I", "-S", str(Path(__file__).with_name("start_bwrap.py")))
_ISOLATED = (
    *("--unshare-user-try", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"),
    *("--die-with-parent", "--cap-drop", "ALL"),
)


def _find_visible(
    config: ServerConfig, sandbox: Sandbox, *, folders: Iterable[Path], writes: bool, around: Surroundings
) -> tuple[dict[Path, bool], dict[Path, Path]]:
    """The files and folders that the server sees, besides those of the system; True for those that it may change.

    Then the folders in which links are not followed, each with its real path.

    Only the user, and what the user installed, chooses what is seen outside of the workspace. No link is followed that
    was perhaps made by the project or by a server: those in the workspace and in what servers may write.
    """
    untrusted = frozenset(Path(os.path.realpath(each)) for each in (*folders, *sandbox.write, _NO_FOLDER))
    followed = [_follow(each, untrusted) for each in folders]
    workspace = [step for steps in followed for step in steps]
    followed += [_follow(each, untrusted) for each in sandbox.write]
    npx_shell = Path(lmstudio_bridge.__file__).parent / "mcp_client" / "npx_shell.sh"
    programs = [npx_shell, *_find_programs(config, around, untrusted)]
    programs += [around.home / each for each in _PROGRAMS] if around.home else []
    visible = {each: False for path in programs for each in _follow_outside(path, untrusted)}
    visible |= dict.fromkeys(workspace, writes)
    if writes and sys.platform == "linux":
        protected = dict.fromkeys(each for folder in workspace for each in _find_held(folder))
        # Or `.github` could be moved, with the `workflows` in it, and made anew: what is mounted cannot.
        holders = {each.parent: True for each in protected if not is_protected(Path(each.name))}
        if len(protected) + len(holders) > MAX_PROTECTED:
            problem = f"the workspace has more than {MAX_PROTECTED:,} protected files, such as {list(protected)[-1]}"
            raise _not_set_up(config, f"{problem}. Start the bridge in a smaller folder, or only read")
        visible |= {**holders, **dict.fromkeys(protected, False)}
    for named, writable in (*((each, False) for each in sandbox.read), *((each, True) for each in sandbox.write)):
        steps = _follow(named, untrusted)
        if not steps:
            raise _not_set_up(config, f"a link in the workspace leads to {named}. Name the path without that link")
        visible |= dict.fromkeys(steps, writable)
    return visible, {step: steps[-1] for steps in followed for step in steps}


def _find_programs(config: ServerConfig, around: Surroundings, untrusted: frozenset[Path]) -> Iterator[Path]:
    """What the user has installed for the server: programs on the PATH, and what the user's own entries name.

    A project's entry and files could name anything, so of them only the command's name counts.
    """
    cwd = config.cwd or around.project
    programs = [_which(each, around) for each in (config.command, "node", "python3") if os.sep not in each]
    if config.scope != "project":
        programs += [str(cwd / config.command)] if os.sep in config.command else []
        for word in config.args:
            path = cwd / word.rpartition("=")[2]
            if os.sep in word and len(word) <= _LONGEST and os.path.exists(path):
                steps = _follow_outside(path, untrusted)
                yield from (_package(each, around.home) if path.suffix in _CODE else each for each in steps)
    for program in filter(None, programs):
        steps = _follow_outside(Path(program), untrusted)
        pythons = (_follow_outside(each.with_name("python"), untrusted) for each in steps)  # of virtual environments
        for step in chain(steps, *pythons):
            if step.parent.name == "bin":
                yield from (step.parent, *(step.parents[1] / each for each in _BESIDE_BIN))
            else:
                yield step


def _follow_outside(path: Path, untrusted: frozenset[Path]) -> tuple[Path, ...]:
    """As `_follow`; nothing if it leads into an untrusted folder."""
    steps = _follow(path, untrusted)
    return steps if steps and untrusted.isdisjoint((steps[-1], *steps[-1].parents)) else ()


def _follow(path: Path, untrusted: frozenset[Path]) -> tuple[Path, ...]:
    """A path, and where its links lead one after another; nothing if one of them is in an untrusted folder."""
    root, left = Path(os.sep), list(path.parts[1:])
    steps, real = [root.joinpath(*left)], root
    while left:
        step = real / left.pop(0)
        if not step.is_symlink():
            real = step.parent.parent if step.name == os.pardir else step
        elif len(steps) > _MOST_LINKS or not untrusted.isdisjoint(step.parents):
            return ()
        else:
            target = Path(os.readlink(step))
            real, parts = (root, target.parts[1:]) if target.is_absolute() else (real, target.parts)
            left = [*parts, *left]
            steps.append(real.joinpath(*left))
    return (*(each for each in dict.fromkeys(steps) if os.pardir not in each.parts and each != real), real)


def _package(script: Path, home: Path | None) -> Path:
    """The folder of a script's package, with what it depends on."""
    parts = script.parts
    if "node_modules" in parts:
        return Path(*parts[: parts.index("node_modules") + 1])
    around = (each for each in script.parents if any((each / mark).exists() for mark in _MARKS))
    place = next(around, script.parent)
    return script if home and home.is_relative_to(place) else place


def _find_unseen(config: ServerConfig, visible: Iterable[Path], *, around: Surroundings) -> Path | None:
    """The first file or folder that the entry names or that its links lead to, and that is not seen."""
    command = (config.cwd or around.project) / config.command
    seen = {*map(Path, _SYSTEM), *visible}
    for word in (command, command.with_name("python"), *config.args):
        path = (config.cwd or around.project) / str(word).rpartition("=")[2]
        if os.sep in str(word) and len(str(word)) <= _LONGEST and os.path.exists(path):
            real = Path(os.path.realpath(path))
            if seen.isdisjoint((real, *real.parents)):
                return _package(real, around.home) if real.suffix in _CODE else real
    return None


def _find_held(folder: Path) -> Iterator[Path]:
    """The protected files that can be mounted: of a link, what it leads to in the folder. The link cannot be held."""
    real = Path(os.path.realpath(folder))
    for path in find_protected(folder):
        inside = os.path.relpath(os.path.realpath(path), real)
        if not path.is_symlink():
            yield path
        elif inside != os.curdir and not inside.startswith(os.pardir) and not is_protected(Path(inside)):
            yield folder / inside


def _both(path: Path) -> tuple[Path, ...]:
    """A path as it was given, and with links resolved."""
    return tuple(dict.fromkeys((path, Path(os.path.realpath(path)))))


def _words_for_linux(
    config: ServerConfig,
    sandbox: Sandbox,
    visible: Mapping[Path, bool],
    *,
    roots: Mapping[Path, Path],
    around: Surroundings,
) -> tuple[str, ...]:
    """The words before the server's command: what is mounted where, folders before what is in them."""
    mounts = {**dict.fromkeys(map(Path, _SYSTEM), False), **visible}
    home = around.home
    words = [*START, _which("bwrap", around) or "bwrap", *_ISOLATED]
    words += [] if sandbox.network else ["--unshare-net"]
    words += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp"]  # a private one
    words += ["--ro-bind-try", "/proc/sys", "/proc/sys"]  # which root could write, and name a program for core dumps
    copies_index = False
    if home is not None:
        words += ["--dir", str(home)]
        mounts = {**dict.fromkeys((path for each in _CACHES for path in home.glob(each)), False), **mounts}
        index = home / _NPM_INDEX
        if copies_index := config.launched[0] in ("npx", "npm") and index.is_dir():
            words += ["--ro-bind", str(index), "/run/npm"]
    links = {path for path in mounts if path.is_symlink() and len(path.parts) == 2}  # /bin and /lib, mostly
    for path, writable in sorted(mounts.items(), key=lambda item: item[0].parts):
        if path in links:
            words += ["--symlink", os.readlink(path), str(path)]
        elif links.isdisjoint(path.parents):  # what is below a link is mounted where the link leads
            root = next((each for each in (path, *path.parents) if each in roots), None)
            source, how = (roots[root] / path.relative_to(root), "held") if root else (path, "try")
            words += [f"--bind-{how}" if writable else f"--ro-bind-{how}", str(source), str(path)]
    loader = {name: value for name, value in config.env.items() if name.startswith(_LOADER)}
    for name, value in {"TMPDIR": "/tmp", **_OFFLINE, **loader}.items():
        words += ["--setenv", name, value]
    words += ["--chdir", str(config.cwd or around.project), "--"]
    return (*words, "/bin/sh", "-c", _COPY_INDEX, "sh") if copies_index else tuple(words)


def words_for_macos(
    config: ServerConfig, sandbox: Sandbox, visible: Mapping[Path, bool], *, around: Surroundings
) -> tuple[str, ...]:
    """The words before the server's command: a profile, of which the last rule that fits counts."""
    places = [Path(temporary) for temporary in ("/dev", "/private/tmp", "/private/var/folders")]
    rules = ["(version 1)", "(allow default)", "(deny file-write*)"]
    home = around.home
    if home is not None:
        rules.append(f"(deny file-read* (subpath {_quoted(home)}))")
        places += [home / cache for cache in (".npm", ".cache/uv", "Library/Caches/uv")]  # npx and uv keep locks there
    rules += [f"(allow file-read* file-write* (subpath {_quoted(path)}))" for path in places]
    ordered = sorted(visible.items(), key=lambda item: item[0].parts)
    rules += [f"(allow file-read* (subpath {_quoted(path)}))" for path, _ in ordered]
    rules += [f"(allow file-write* (subpath {_quoted(path)}))" for path, writable in ordered if writable]
    names = ("".join(f"[{c}{c.upper()}]" if c.isalpha() else re.escape(c) for c in name) for name in sorted(PROTECTED))
    rules += [f'(deny file-write* (regex #"/{name}(/|$)"))' for name in names]
    rules += [f"(allow file-write* (subpath {_quoted(each)}))" for named in sandbox.write for each in _both(named)]
    rules += [] if sandbox.network else ["(deny network*)"]
    return (_SANDBOX_EXEC, "-p", "\n".join(rules))


def _quoted(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)
