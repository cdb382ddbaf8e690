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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from pathlib import Path

import lmstudio_bridge
from lmstudio_bridge.errors import ServerStartError, listed
from lmstudio_bridge.messages import Confinement, ServerConfig
from lmstudio_bridge.security.protected import MAX_WALKED, find_protected, find_targets
from lmstudio_bridge.security.workspace import MAX_PATH, PROTECTED, is_protected
from lmstudio_bridge.settings import Surroundings
from lmstudio_bridge.text import quoted_name, shortened

EVERY = "*"  # in place of a server's name
MAX_PROTECTED = 1_000  # files: bubblewrap takes 3 s to mount as many, 23 s for 3,000, and cannot mount 4,500

_OF_BREW = ("bin", "sbin", "lib", "opt", "Cellar", "share", "etc/ca-certificates", "etc/openssl@*")
_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store"),
    *(f"/home/linuxbrew/.linuxbrew/{each}" for each in _OF_BREW),
    *("/etc/java-*-openjdk/[!m]*", "/etc/java-*-openjdk/management/[!j]*"),  # jmxremote.password is there
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
    *("anaconda3", "miniforge3", "mambaforge", "micromamba", ".pixi", ".virtualenvs", ".local/share/hatch"),
    *(".cache/pypoetry/virtualenvs", ".local/share/virtualenvs", ".nvm", ".config/nvm", ".local/share/nvm", ".nodenv"),
    *("n", ".fnm", ".local/share/fnm", ".local/state/fnm_multishells", ".volta", ".proto", ".asdf", ".yarn", ".bun"),
    *(".local/share/mise", ".deno", ".npm-global/bin", ".npm-global/lib", ".local/share/pnpm", ".cargo/bin", "go/bin"),
    *(".dotnet/dotnet", ".dotnet/sdk", ".dotnet/shared", ".dotnet/host", ".dotnet/tools"),
    *(".nix-profile", ".sdkman/candidates", ".config/mise/config.toml", ".tool-versions"),
    *(".rye/py", ".rye/tools", ".rye/shims", ".rye/uv"),  # not its credentials
    *(f".linuxbrew/{each}" for each in _OF_BREW),
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
_SHOWN = 200  # characters of a path in an error
_MOST_LINKS = 40  # on the way to a file, as in Linux
_OWN = (Path(sys.prefix), Path(sys.base_prefix), Path(lmstudio_bridge.__file__).parent)  # what makes the sandbox
_MARKS = ("package.json", "pyproject.toml", "pyvenv.cfg")  # of a package's folder
_NO_FOLDER = Path("/proc")  # its links lead elsewhere in another process

_SECONDS = 10.0  # for bubblewrap to start
_NO_ANSWER = f"bubblewrap did not answer in {_SECONDS:.0f} seconds"
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
        if config.hides_own and self.chosen.get(config.name):
            return Sandbox()  # what the rule allows is for the user's own server of that name
        for name in (EVERY,) if config.hides_own else (config.name, EVERY):
            if name in self.chosen:
                return self.chosen[name]
        by_default = config.scope == "project" and sys.platform == "linux"  # the profile for macOS was never run
        return Sandbox() if by_default and self.find_problem(config) in ("", _NO_ANSWER) else None

    def find_problem(self, config: ServerConfig) -> str:
        """Why the server's sandbox cannot be set up, as the end of a sentence; "" if it can."""
        home, folders = self.around.home, self.folders[config.name]
        if home and any(is_in(home, folder) for folder in folders):
            return f"the workspace contains the home folder {home}. Start the bridge in a project's folder"
        return find_problem(self.around, self.untrusted)

    @property
    def untrusted(self) -> frozenset[Path]:
        """The folders that a server of the run may write, or that the project brings along."""
        written = (each for chosen in self.chosen.values() if chosen for each in chosen.write)
        return frozenset(Path(os.path.realpath(each)) for each in (*chain(*self.folders.values()), *written))

    def find_written(self) -> list[Path]:
        """What in the workspace the user lets servers of the run write, also if it only reads; real paths."""
        chosen = filter(None, (self.chosen.get(name, self.chosen.get(EVERY)) for name in self.folders))
        return _find_inside((path for each in chosen for path in each.write), chain(*self.folders.values()))

    def warn_of_hidden(self, configs: Iterable[ServerConfig]) -> Iterator[str]:
        """Which rules do not count, as a server of the project has the name of the user's own."""
        hiding = (each.name for each in configs if each.hides_own)
        for name in (each for each in hiding if self.chosen.get(each, Sandbox()) != Sandbox()):
            yield (
                f"The rule for {quoted_name(name)} below [sandbox] does not count here: this project's server has the "
                "name of one of your own. Rename one of them."
            )

    def warn_of_unconfined(self, configs: Iterable[ServerConfig]) -> Iterator[str]:
        """Which servers of the project start without the sandbox that the system has, and no rule says so."""
        for config in configs:
            is_chosen = EVERY in self.chosen or (config.name in self.chosen and not config.hides_own)
            is_unconfined = config.scope == "project" and config.transport == "stdio" and not self.find(config)
            if is_unconfined and not is_chosen and not find_problem(self.around, self.untrusted):
                problem = self.find_problem(config)
                yield f"{quoted_name(config.name)} of this project is started without a sandbox: {problem}."

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
        if problem := self.find_problem(config):
            raise _not_set_up(config, problem)
        try:
            view = self._look(config, sandbox)
            if sys.platform == "linux":
                words = _words_for_linux(config, sandbox, view, around=self.around)
            else:
                words = words_for_macos(
                    sandbox, {**dict.fromkeys(view.links, False), **view.mounts}, around=self.around
                )
            unseen = _find_unseen(config, view.mounts, around=self.around)
        except OSError as exc:
            raise _not_set_up(config, f"{exc.strerror or exc}: {shortened(str(exc.filename), _SHOWN)}") from exc
        inside = tuple(name for name in config.env if name.startswith(_LOADER))
        hint = hint_for(config, sandbox, unseen=unseen)
        held: list[tuple[int, int]] = []
        for path in view.held:
            with suppress(OSError):
                state = path.lstat()
                held.append((state.st_dev, state.st_ino))
        return replace(config, confinement=Confinement(words, hint, inside, tuple(held)))

    def _look(self, config: ServerConfig, sandbox: Sandbox) -> _View:
        """What the server sees.

        Only the user, and what the user installed, chooses what is seen outside of the workspace. No link is followed
        that was perhaps made by the project or by a server: those in a workspace and in what servers may write.
        """
        folders, home, around = self.folders[config.name], self.around.home, self.around
        view = _View(self.untrusted)
        npx_shell = Path(lmstudio_bridge.__file__).parent / "mcp_client" / "npx_shell.sh"
        own = {} if config.scope == "project" else {name: config.env[name] for name in ("PATH",) if name in config.env}
        with_own = Surroundings(around.project, {**around.environ, **own})
        installed = [
            _which(each, with_own, view.untrusted) for each in (config.command, "node", "python3") if os.sep not in each
        ]
        named = _find_named(config, around) if config.scope != "project" else ()  # a project could name anything
        programs = (*map(Path, filter(None, installed)), *named)
        usual = (
            *(path for each in _SYSTEM for path in Path(os.sep).glob(each.lstrip(os.sep))),
            *((path for each in (*_CACHES, *_PROGRAMS) for path in home.glob(each)) if home else ()),
            npx_shell,
        )
        needs = (_find_needs(each, home, untrusted=view.untrusted, but=view.untrusted) for each in programs)
        for path in chain(usual, *needs):
            view.show(path, inside=False)
        workspace = [real for each in folders if (real := view.show(each, writable=self.writes))]
        written = workspace if self.writes else _find_inside(sandbox.write, workspace)
        if written and sys.platform == "linux":
            view.held = _find_held(config, workspace, written)
            view.mounts |= view.held
        for path, writable in (*((each, False) for each in sandbox.read), *((each, True) for each in sandbox.write)):
            if not view.show(path, writable=writable):
                where = "in the workspace, or in a folder that servers may write,"
                raise _not_set_up(config, f"a link {where} leads to {path}. Name the path without that link")
        _follow(home or Path(os.sep), view.untrusted, view.links)
        return view


def _not_set_up(config: ServerConfig, problem: str) -> ServerStartError:
    return ServerStartError(
        f"MCP server '{config.name}' was not started, because its sandbox cannot be set up: {problem}.",
        server=config.name,
        remedy=f"To start it without one, put `{toml_key(config.name)} = false` below [sandbox] of your "
        "lmstudio-bridge.toml.",
    )


def hint_for(config: ServerConfig, sandbox: Sandbox, *, unseen: Iterable[Path] = ()) -> str:
    """What to do where the sandbox keeps a server from its work; `unseen` is what it names and does not see."""
    network = "" if sandbox.network else "without network, "
    key, paths = toml_key(config.name), list(map(str, unseen))
    shown = listed([quoted_name(each) for each in paths])
    missing = f"It does not see {shown}, which its entry names or leads to. " if paths else ""
    if paths and config.scope == "project":
        missing += "The project chose this path (.mcp.json, or a link): allow it only if you know why. "
    read, write = ([str(each) for each in given] for given in (sandbox.read, sandbox.write))
    line = {"network": sandbox.network or not paths, "read": [*read, *(paths or ["~/folder"])], "write": write}
    allowed = ", ".join(f"{name} = {_quoted(value)}" for name, value in line.items() if value or not paths)
    rename = "rename it, as one of your own servers has its name, and " if config.hides_own else ""
    return (
        f"{missing}It runs in a sandbox, {network}sees little but the workspace, and installs nothing: run its command "
        f"once in a terminal. To allow more, {rename}put one of these below [sandbox] of your lmstudio-bridge.toml: "
        f"`{key} = {{ {allowed} }}`, or `{key} = false` for no sandbox."
    )


def toml_key(name: str) -> str:
    """A name as a key in TOML."""
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else _quoted(name)


def _quoted(value: object) -> str:
    """A value for TOML, or text for a profile of macOS."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def find_problem(around: Surroundings, untrusted: Iterable[Path] = ()) -> str:
    """Why this system has no sandbox, as the end of a sentence; "" if it has one, which was tried.

    It is not taken from the `untrusted` folders.
    """
    if sys.platform == "darwin":
        return "" if os.path.exists(_SANDBOX_EXEC) else f"{_SANDBOX_EXEC} does not exist"
    if sys.platform != "linux":
        return "there is none for this system"
    program = find_program("bwrap", around, untrusted)
    if program is None:
        return f"bubblewrap was not found. {_INSTALL}"
    try:
        return _try_bubblewrap(program)
    except subprocess.TimeoutExpired:  # which is not remembered: the system was busy
        return _NO_ANSWER


def find_program(name: str, around: Surroundings, untrusted: Iterable[Path] = ()) -> str | None:
    """A program on the PATH to be run outside of any sandbox: none of the project's repository or of `untrusted`.

    The repository counts unless the home folder is in it.
    """
    repository = next((each for each in around.project.parents if os.path.lexists(each / ".git")), around.project)
    is_homes = around.home is not None and is_in(around.home, repository)
    return _which(name, around, untrusted if is_homes else (*untrusted, repository))


def _which(name: str, around: Surroundings, untrusted: Iterable[Path]) -> str | None:
    """A program on the PATH, but not one that the project brings along or that a server may have written."""
    left_out = (*([] if is_in(Path(os.sep), around.project) else [around.project]), *untrusted)
    folders = around.environ.get("PATH", "").split(os.pathsep)
    kept = [each for each in folders if os.path.isabs(each) and not any(is_in(Path(each), no) for no in left_out)]
    return shutil.which(name, path=os.pathsep.join(kept))


def is_in(path: Path, folder: Path) -> bool:
    """Whether a path is in a folder or is it, whatever links and `..` are in them."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


@cache
def _try_bubblewrap(program: str) -> str:
    words = [program, *_ISOLATED, "--unshare-net", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    words = [*START, str(len(words) + 1), *words, "--ro-bind-fd", "/usr", "/usr", "--", "true"]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except OSError as exc:
        return f"bubblewrap does not work here ({exc})"
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
    problem = f"bubblewrap does not work here ({said}); it may be too old, and containers often forbid it"
    return problem if done.returncode else ""


START = (sys.executable, "-I", "-S", str(Path(__file__).with_name("start_bwrap.py")))
_ISOLATED = (
    *("--unshare-user-try", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"),
    *("--die-with-parent", "--cap-drop", "ALL"),
)


@dataclass(slots=True)
class _View:
    """The files and folders that a server sees, by their real paths, True for those that it may change; and the links
    that lead to them. No link below an `untrusted` folder is followed.
    """

    untrusted: frozenset[Path]
    mounts: dict[Path, bool] = field(default_factory=dict)
    links: dict[Path, str] = field(default_factory=dict)
    held: Mapping[Path, bool] = field(default_factory=dict)

    def show(self, path: Path, *, writable: bool = False, inside: bool = True) -> Path | None:
        """The real path, which is seen from now on; None if it is not, for a link or as it is not to be `inside`."""
        links: dict[Path, str] = {}
        steps = _follow(path, self.untrusted, links)
        if not steps or not (inside or self.untrusted.isdisjoint((steps[-1], *steps[-1].parents))):
            return None
        self.links |= links
        self.mounts[steps[-1]] = writable
        return steps[-1]


def _find_named(config: ServerConfig, around: Surroundings) -> Iterator[Path]:
    """The paths that there are of those that the entry names."""
    for word in (config.command, *(each.rpartition("=")[2] for each in config.args)):
        path = (config.cwd or around.project) / word
        if os.sep in word and len(word) <= MAX_PATH and os.path.exists(path):
            yield path


def _find_needs(path: Path, home: Path | None, *, untrusted: frozenset[Path], but: frozenset[Path]) -> Iterator[Path]:
    """A file or folder with what it needs, wherever links lead but not into the folders `but`.

    Of a script that is its package, of a program its installation, also that of its virtual environment.
    """
    steps = _follow(path, untrusted, {})
    pythons = (_follow(each.with_name("python"), untrusted, {}) for each in steps if each.parent.name == "bin")
    for way in (steps, *pythons):
        for step in way if way and but.isdisjoint((way[-1], *way[-1].parents)) else ():
            if step.suffix in _CODE:
                yield _package(step, home)
            elif step.parent.name == "bin" and step.is_file():
                beside = () if home and is_in(home, step.parents[1]) else _BESIDE_BIN
                yield from (step.parent, *(step.parents[1] / each for each in beside))
            else:
                yield step


def _find_unseen(config: ServerConfig, mounts: Iterable[Path], *, around: Surroundings) -> list[Path]:
    """What the entry names, or needs for that, and is not seen."""
    seen, whole = frozenset(mounts), around.home or Path(os.sep)  # which is never offered
    needs = frozenset(
        real
        for path in (*_find_named(config, around), config.cwd or around.project)
        for each in _find_needs(path, around.home, untrusted=frozenset(), but=seen)
        if (real := Path(os.path.realpath(each))).exists() and not is_in(whole, real)
    )
    return sorted(each for each in needs - seen if (seen | needs).isdisjoint(each.parents))


def _follow(path: Path, untrusted: frozenset[Path], links: dict[Path, str]) -> tuple[Path, ...]:
    """A path, and where its links lead one after another; nothing if one of them is in an untrusted folder.

    What the links are, by their real places, is put into `links`.
    """
    root, left = Path(os.sep), list(path.parts[1:])
    steps, real = [root.joinpath(*left)], root
    while left:
        step = real / left.pop(0)
        if not step.is_symlink():
            real = step.parent.parent if step.name == os.pardir else step
        elif len(steps) > _MOST_LINKS or not untrusted.isdisjoint(step.parents) or _NO_FOLDER in step.parents:
            return ()
        else:
            target = Path(os.readlink(step))
            links[step] = str(target)
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


def _find_inside(paths: Iterable[Path], folders: Iterable[Path]) -> list[Path]:
    """Those of the paths that are in one of the folders, all by their real paths."""
    inside, real = [Path(os.path.realpath(each)) for each in folders], {Path(os.path.realpath(each)) for each in paths}
    return sorted(each for each in real if any(map(each.is_relative_to, inside)))


def _find_held(config: ServerConfig, workspace: Sequence[Path], written: Sequence[Path]) -> dict[Path, bool]:
    """The protected files and the bridge's own that are `written` to, and what holds them.

    Of a link, it is what it leads to in the workspace: the link cannot be held.
    """
    held: dict[Path, bool] = {}
    targets: list[Path] = []
    problem = ""
    for folder, path in ((each, path) for each in workspace for path in find_protected(each)):
        if path is None:
            problem = f"{folder} has more than {MAX_WALKED:,} files, or a folder that cannot be read"
            continue
        if os.path.realpath(path) == str(path):
            held[path] = False
        targets += find_targets(path, workspace)
    held |= dict.fromkeys(_find_inside(_OWN, workspace), False)
    outermost = {*held, *targets}
    held |= {each: False for each in targets if outermost.isdisjoint(each.parents)}
    # Or `.github` could be moved, with the `workflows` in it, and made anew: what is mounted cannot.
    holders = {each.parent: True for each in held if not is_protected(Path(each.name))}
    holders = {each: True for each in holders if held.keys().isdisjoint(each.parents)}
    found = {each: may for each, may in {**holders, **held}.items() if any(map(each.is_relative_to, written))}
    if len(found) > MAX_PROTECTED:
        problem = f"the workspace has more than {MAX_PROTECTED:,} protected files, such as {list(found)[-1]}"
    if problem:
        raise _not_set_up(config, f"{problem}. Start the bridge in a smaller folder, or only read")
    return found


def _words_for_linux(config: ServerConfig, sandbox: Sandbox, view: _View, *, around: Surroundings) -> tuple[str, ...]:
    """The words before the server's command: what is mounted where, folders before what is in them.

    Real paths are mounted once, and what a mount above shows is neither mounted nor linked again.
    """
    words = [find_program("bwrap", around, view.untrusted) or "bwrap", *_ISOLATED]
    words += [] if sandbox.network else ["--unshare-net"]
    words += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp"]  # a private one
    words += ["--ro-bind-try", "/proc/sys", "/proc/sys"]  # which root could write, and name a program for core dumps
    words += ["--dir", os.path.realpath(around.home)] if around.home else []
    mounts = [(path, path, writable) for path, writable in sorted(view.mounts.items())]
    of_npm = [around.home / _NPM_INDEX] if around.home and config.launched[0] in ("npx", "npm") else []
    index = [real for each in of_npm for real in _follow(each, view.untrusted, {})[-1:] if real.is_dir()]
    mounts += [(each, Path("/run/npm"), False) for each in index]
    sources = []
    for source, path, writable in mounts:
        above = next((each for each in path.parents if each in view.mounts), None)
        if writable or above is None or view.mounts[above]:
            sources.append(len(words) + 1)
            words += ["--bind-fd" if writable else "--ro-bind-fd", str(source), str(path)]
    for path, target in view.links.items():
        words += ["--symlink", target, str(path)] if view.mounts.keys().isdisjoint(path.parents) else []
    for name, value in {"TMPDIR": "/tmp", **_OFFLINE}.items():
        words += ["--setenv", name, value]
    words += ["--chdir", str(config.cwd or around.project), "--"]
    loader = [f"{name}={value}" for name, value in config.env.items() if name.startswith(_LOADER)]
    words += ["/usr/bin/env", *loader] if loader else []
    words += ["/bin/sh", "-c", _COPY_INDEX, "sh"] if index else []
    return (*START, ",".join(map(str, sources)), *words)


def words_for_macos(sandbox: Sandbox, visible: Mapping[Path, bool], *, around: Surroundings) -> tuple[str, ...]:
    """The words before the server's command: a profile, of which the last rule that fits counts."""
    places = [Path(temporary) for temporary in ("/dev", "/private/tmp", "/private/var/folders")]
    rules = ["(version 1)", "(allow default)", "(deny file-write*)"]
    home = around.home
    if home is not None:
        rules.append(f"(deny file-read* (subpath {_quoted(str(home))}))")
        places += [home / cache for cache in (".npm", ".cache/uv", "Library/Caches/uv")]  # npx and uv keep locks there
    rules += [f"(allow file-read* file-write* (subpath {_quoted(str(path))}))" for path in places]
    ordered = sorted(visible.items(), key=lambda item: item[0].parts)
    rules += [f"(allow file-read* (subpath {_quoted(str(path))}))" for path, _ in ordered]
    rules += [f"(allow file-write* (subpath {_quoted(str(path))}))" for path, writable in ordered if writable]
    names = ("".join(f"[{c}{c.upper()}]" if c.isalpha() else re.escape(c) for c in name) for name in sorted(PROTECTED))
    rules += [f'(deny file-write* (regex #"/{name}(/|$)"))' for name in names]
    rules += [f"(allow file-write* (subpath {_quoted(os.path.realpath(each))}))" for each in sandbox.write]
    rules += [] if sandbox.network else ["(deny network*)"]
    return (_SANDBOX_EXEC, "-p", "\n".join(rules))
