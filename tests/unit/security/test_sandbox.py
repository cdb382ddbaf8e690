"""How a server is started in a sandbox, as words; tests/contract/test_sandbox.py has the real ones."""

from __future__ import annotations

import ntpath
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest

import lmstudio_bridge
from lmstudio_bridge.errors import ServerStartError
from lmstudio_bridge.messages import ServerConfig
from lmstudio_bridge.security.sandbox import (
    EVERY,
    MAX_PROTECTED,
    START,
    Sandbox,
    Sandboxes,
    find_program,
    is_in,
    words_for_macos,
)
from lmstudio_bridge.settings import Surroundings
from tests.support.deep_folder import make_unreadable

PACKAGE = Path(os.path.realpath(lmstudio_bridge.__file__)).parent
PREFIX = Path(os.path.realpath(sys.prefix))

linux = pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is for Linux")


@dataclass
class Desk:
    """A home with a project in it; its `bin` is on the PATH, with a bubblewrap that does nothing."""

    home: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def project(self) -> Path:
        return self.home / "project"

    @property
    def around(self) -> Surroundings:
        return Surroundings(self.project, {"HOME": str(self.home), "PATH": str(self.home / "bin"), **self.environ})

    def install(self, path: Path, *, works: bool = True) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho 'bwrap: no namespaces' >&2; exit {0 if works else 1}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    def sandboxes(self, *, writes: bool = True, **chosen: Sandbox | None) -> Sandboxes:
        return Sandboxes(self.around, chosen=chosen, folders={"fs": (self.project,)}, writes=writes)

    async def words(self, config: ServerConfig, *, writes: bool = True, **chosen: Sandbox | None) -> tuple[str, ...]:
        confined = await self.sandboxes(writes=writes, **chosen).confine(config)
        assert confined.confinement is not None
        assert confined.digest != config.digest, "or it would share an open server that has another sandbox, or none"
        return confined.confinement.words


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    desk.project.mkdir()
    desk.install(tmp_path / "bin" / "bwrap")
    return desk


def stdio(command: str = "fs-server", *args: str, **more: object) -> ServerConfig:
    return replace(ServerConfig("fs", "stdio", command=command, args=args), **more)  # type: ignore[arg-type]


def shown(words: tuple[str, ...]) -> set[Path]:
    """What is mounted, with links resolved."""
    return {Path(os.path.realpath(after)) for word, after in pairwise(words) if re.fullmatch("--(ro-)?bind-fd", word)}


def bwrap_of(words: tuple[str, ...]) -> Path:
    return Path(next(word for word in words if word.endswith("/bwrap")))


def place(words: tuple[str, ...], *mount: object) -> int:
    """Where these words stand one after the other."""
    wanted = tuple(map(str, mount))
    [found] = [at for at in range(len(words)) if words[at : at + len(wanted)] == wanted]
    return found


@linux
async def test_what_is_more_exact_is_mounted_later(desk: Desk) -> None:
    git, deep = desk.project / ".git", desk.project / "a" / ".github" / "workflows"
    git.mkdir()
    deep.mkdir(parents=True)
    notes = desk.home / "notes"
    sandbox = Sandbox(read=(notes,), write=(git / "index",))

    words = await desk.words(stdio(), fs=sandbox)

    home = place(words, "--dir", desk.home)
    project = place(words, "--bind-fd", desk.project, desk.project)
    protected = place(words, "--ro-bind-fd", git, git)
    assert home < project < protected < place(words, "--bind-fd", git / "index", git / "index")
    assert project < place(words, "--ro-bind-fd", deep, deep)
    assert place(words, "--ro-bind-fd", notes, notes)
    assert bwrap_of(words) == desk.home / "bin" / "bwrap"
    assert words[-3:] == ("--chdir", str(desk.project), "--")


@linux
@pytest.mark.parametrize("named_by", ["workspace", "write"])
async def test_a_folder_that_is_named_by_a_link_is_mounted_once(desk: Desk, named_by: str) -> None:
    """So what is below it is protected by both its names."""
    work, link, git = desk.home / "work", desk.home / "link", desk.home / "work" / "app" / ".git"
    git.mkdir(parents=True)
    link.symlink_to("work")
    sandbox = Sandbox(write=(link,)) if named_by == "write" else Sandbox()
    sandboxes = replace(desk.sandboxes(writes=named_by == "workspace", fs=sandbox), folders={"fs": (link / "app",)})

    confined = (await sandboxes.confine(stdio())).confinement

    assert confined is not None
    place(confined.words, "--symlink", "work", link)
    assert not [word for word in confined.words if word.startswith(f"{link}/") and "-fd" in word]
    if named_by == "write":
        work_at = place(confined.words, "--bind-fd", work, work)
        assert work_at < place(confined.words, "--ro-bind-fd", work / "app", work / "app")
    else:
        app_at = place(confined.words, "--bind-fd", work / "app", work / "app")
        assert app_at < place(confined.words, "--ro-bind-fd", git, git)


@linux
@pytest.mark.parametrize("path", ["real/a", "link", "link/a", "missing"])
def test_what_has_become_a_link_is_not_mounted(tmp_path: Path, path: str) -> None:
    folder = Path(os.path.realpath(tmp_path))
    (folder / "real").mkdir()
    (folder / "real" / "a").touch()
    (folder / "link").symlink_to("real")
    words = ["/bin/echo", "--ro-bind-fd", str(folder / path), "/place", "--setenv", "A", "--ro-bind-fd", "--", "server"]

    done = subprocess.run([*START, "2", *words], capture_output=True, text=True, check=False)

    if "link" in path:
        assert f"{folder / path}: was changed while the sandbox was set up" in done.stderr
        assert not done.stdout
    else:
        held = r"--ro-bind-fd \d+ /place " if path != "missing" else ""
        assert re.fullmatch(f"{held}--setenv A --ro-bind-fd -- server\n", done.stdout)


@linux
async def test_in_a_read_run_nothing_can_be_written(desk: Desk) -> None:
    words = await desk.words(stdio(), writes=False, fs=Sandbox())

    assert not {"--bind", "--bind-try", "--bind-fd"} & {*words}
    assert place(words, "--ro-bind-fd", desk.project, desk.project)


@linux
@pytest.mark.parametrize("network", [False, True])
async def test_there_is_a_network_only_if_it_is_named(desk: Desk, network: bool) -> None:
    assert ("--unshare-net" in await desk.words(stdio(), fs=Sandbox(network))) != network


@linux
async def test_programs_are_seen_where_they_are_installed(desk: Desk) -> None:
    python = desk.install(desk.home / "pythons" / "3.11" / "bin" / "python3.11")
    venv = desk.home / "tools" / "fs"
    tool = desk.install(venv / "bin" / "fs-server")
    (venv / "bin" / "python").symlink_to("python3")
    (venv / "bin" / "python3").symlink_to(python)
    (desk.home / "bin" / "fs-server").symlink_to(tool)
    package = desk.install(desk.home / "node" / "node_modules" / "fs" / "index.js")
    data = desk.install(desk.home / "data")
    arguments = (str(package), f"--data={data}")
    installed = {venv / "bin", venv / "lib", venv / "pyvenv.cfg", python.parent, python.parents[1] / "lib"}

    for words in (
        await desk.words(stdio(str(tool), *arguments), fs=Sandbox()),
        await desk.words(stdio("fs-server", *arguments), fs=Sandbox()),
    ):
        assert installed | {package.parents[1], data} <= shown(words)
        assert not {desk.home, desk.home / "tools", desk.home / "node"} & shown(words)

    by_name = await desk.words(stdio("fs-server", *arguments, scope="project"))

    assert installed <= shown(by_name)
    assert not {package.parents[1], data} & shown(by_name), "a project's entry could name any file"
    by_path = await desk.words(stdio(str(tool), *arguments, scope="project"))
    assert not (installed | {package.parents[1], data}) & shown(by_path)


@linux
@pytest.mark.parametrize(("scope", "is_seen"), [("user", True), ("project", False)])
async def test_the_path_of_an_entry_of_the_users_own_counts(desk: Desk, scope: str, is_seen: bool) -> None:
    program = desk.install(desk.home / "tools" / "bin" / "fs-server")

    words = await desk.words(stdio(scope=scope, env={"PATH": str(program.parent)}), fs=Sandbox())

    assert (program.parent in shown(words)) == is_seen


@linux
async def test_a_file_in_the_workspace_that_the_entry_names_can_be_written(desk: Desk) -> None:
    data, script = desk.install(desk.project / "words.db"), desk.install(desk.project / "server" / "main.py")

    words = await desk.words(stdio("fs-server", str(script), "--db", str(data)), fs=Sandbox())

    assert place(words, "--bind-fd", desk.project, desk.project)
    assert not {str(data), str(script.parent)} & {*words}


@linux
async def test_caches_are_read_only_and_npm_gets_a_copy_of_its_index(desk: Desk) -> None:
    tool, index = desk.home / ".npm" / "_npx" / "a1" / "node_modules", desk.home / ".npm" / "_cacache" / "index-v5"
    wheels, interpreters = (desk.home / ".cache" / "uv" / name for name in ("wheels-v8", "interpreter-v5"))
    for folder in (tool, index, wheels, interpreters):
        folder.mkdir(parents=True)
    locks = [desk.install(wheels.parent / ".lock"), desk.install(tool.parent / "concurrency.lock")]

    words = await desk.words(stdio("npx", "-y", "fs"), fs=Sandbox())

    for folder in (tool, wheels):
        assert place(words, "--ro-bind-fd", folder, folder)
    assert place(words, "--ro-bind-fd", index, "/run/npm")
    assert not {*map(str, (interpreters, *locks))} & {*words}
    assert ("npm_config_offline", "true") in pairwise(words)
    assert words[-4:-2] == ("/bin/sh", "-c")


@linux
async def test_an_entry_runs_no_code_outside_of_the_sandbox(desk: Desk) -> None:
    """LD_PRELOAD would work on bubblewrap itself; one that the project has on the PATH is not taken."""
    desk.environ["PATH"] = f"{desk.project}/bin:bin:{desk.home}/bin"
    desk.install(desk.project / "bin" / "bwrap")

    confined = await desk.sandboxes().confine(stdio(scope="project", env={"LD_PRELOAD": "./a.so", "A": "b"}))

    assert confined.confinement is not None
    assert confined.confinement.inside == ("LD_PRELOAD",)
    assert confined.confinement.words[-3:] == ("--", "/usr/bin/env", "LD_PRELOAD=./a.so")
    assert bwrap_of(confined.confinement.words) == desk.home / "bin" / "bwrap"


@linux
@pytest.mark.parametrize(
    ("chosen", "scope", "is_confined"),
    [
        ({}, "user", False),
        ({}, "plugin", False),
        ({}, "project", True),
        ({EVERY: None}, "project", False),
        ({"fs": None}, "project", False),
        ({EVERY: Sandbox()}, "user", True),
        ({EVERY: Sandbox(), "fs": None}, "user", False),
        ({EVERY: None, "fs": Sandbox()}, "user", True),
        ({"other": Sandbox()}, "user", False),
    ],
)
async def test_the_user_chooses_and_else_only_a_projects_servers_are_in_a_sandbox(
    desk: Desk, chosen: dict[str, Sandbox | None], scope: str, is_confined: bool
) -> None:
    confined = await replace(desk.sandboxes(), chosen=chosen).confine(stdio(scope=scope))

    assert (confined.confinement is not None) == is_confined
    remote = ServerConfig("fs", "http", url="https://a.example/mcp", scope="project")
    assert await replace(desk.sandboxes(), chosen=chosen).confine(remote) is remote


@linux
@pytest.mark.parametrize(
    ("chosen", "is_confined", "is_told"),
    [
        ({}, True, False),
        ({"fs": None}, True, True),
        ({"fs": Sandbox(network=True)}, True, True),
        ({"fs": Sandbox()}, True, False),
        ({EVERY: None, "fs": Sandbox(network=True)}, True, True),
        ({EVERY: None}, False, False),
    ],
)
async def test_a_projects_server_gets_no_rule_of_the_users_own_of_that_name(
    desk: Desk, chosen: dict[str, Sandbox | None], is_confined: bool, is_told: bool
) -> None:
    sandboxes, config = replace(desk.sandboxes(), chosen=chosen), stdio(scope="project", hides_own=True)

    confined = (await sandboxes.confine(config)).confinement

    assert (confined is not None) == is_confined
    if confined is not None:
        assert "--unshare-net" in confined.words
        assert "To allow more, rename it" in confined.hint
    told = [*sandboxes.warn_of_hidden([config])]
    assert bool(told) == is_told
    assert all("The rule for fs below [sandbox] does not count here" in each for each in told)


@linux
@pytest.mark.parametrize("broken", ["missing", "failing", "in the project", "home in the workspace"])
async def test_without_a_sandbox_nothing_starts_that_should_be_in_one(desk: Desk, broken: str) -> None:
    program = desk.home / "bin" / "bwrap"
    if broken == "failing":
        desk.install(program, works=False)
    elif broken == "home in the workspace":
        desk.environ["HOME"] = str(desk.project)
    else:
        program.unlink()
        desk.environ["PATH"] = str(desk.project)
        desk.install(desk.project / "bwrap") if broken == "in the project" else None

    with pytest.raises(ServerStartError) as caught:
        await desk.sandboxes(fs=Sandbox()).confine(stdio())

    said = {"failing": "(bwrap: no namespaces)", "home in the workspace": "contains the home folder"}
    assert said.get(broken, "bubblewrap was not found. Install it") in caught.value.message
    assert "`fs = false` below [sandbox]" in caught.value.remedy
    of_project = stdio(scope="project")
    assert await desk.sandboxes().confine(of_project) is of_project, "by default: where there is one"
    told = [*desk.sandboxes().warn_of_unconfined([of_project, stdio()])]
    assert len(told) == (broken == "home in the workspace"), "of a system without one, `doctor` tells"
    assert all("fs of this project is started without a sandbox: the workspace contains" in each for each in told)
    assert [*desk.sandboxes(fs=None).warn_of_unconfined([of_project])] == [], "the user says so"


@linux
async def test_a_path_that_cannot_be_looked_at_is_a_reason(desk: Desk) -> None:
    with pytest.raises(ServerStartError, match="cannot be set up: File name too long: /aaa"):
        await desk.sandboxes(fs=Sandbox(read=(Path("/" + "a" * 300),))).confine(stdio())


@linux
async def test_the_users_own_links_are_followed_and_no_others(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    store = desk.home / "store"
    desk.install(store / "node_modules" / "fs" / "index.js")
    linked, between, of_project = desk.home / "tools", desk.home / "between", desk.project / "node_modules"
    linked.mkdir()
    between.mkdir()
    for link in (between / "node_modules", of_project):
        link.symlink_to(store / "node_modules")
    (linked / "node_modules").symlink_to("../between/node_modules")

    words = await desk.words(stdio("node", str(linked / "node_modules" / "fs" / "index.js")), fs=Sandbox())
    assert store / "node_modules" in shown(words)

    (desk.project / "sub").mkdir()
    (desk.home / "elsewhere").symlink_to(of_project)
    (desk.home / "turn").symlink_to("project/node_modules/../node_modules")
    monkeypatch.chdir(desk.project)
    ways = (".", "sub/..", desk.project, f"/{desk.project}", f"/proc/self/root{desk.project}", "/proc/self/cwd")
    others = (f"{desk.home}/elsewhere", f"{desk.home}/turn", f"{desk.project}/node_modules/fs/../..")
    for scope in ("user", "project"):
        for script in (*(f"{way}/node_modules/fs/index.js" for way in ways), *(f"{way}/fs/index.js" for way in others)):
            own = await desk.words(stdio("node", script, scope=scope), fs=Sandbox())
            assert not {store, *store.rglob("*")} & shown(own), script


@linux
@pytest.mark.parametrize(
    ("command", "args", "unseen"),
    [
        ("node", ["./start.js"], ""),
        ("node", ["{outside}/../project/start.js"], ""),
        ("node", ["{outside}/node_modules/a/index.js"], "{outside}/node_modules"),
        ("node", ["node_modules/a/index.js"], "{outside}/node_modules"),
        ("node", ["--data=../outside"], "{outside}"),
        ("../bin/tool", [], "{home}/bin"),
        ("./leads-outside", [], "{outside}"),
        ("./run", [], "{outside}/bin"),
        (".venv/bin/server", [], "{outside}/bin"),
    ],
)
async def test_a_projects_entry_and_links_show_nothing_and_the_reason_has_the_line_that_would(
    desk: Desk, command: str, args: list[str], unseen: str
) -> None:
    desk.environ["HOME"] = "/nonexistent"  # the project is not in it
    outside = desk.home / "outside"
    desk.install(outside / "node_modules" / "a" / "index.js")
    (desk.home / "package.json").write_text("{}", encoding="utf-8")
    (desk.project / "start.js").write_text("", encoding="utf-8")
    (desk.project / "leads-outside").symlink_to(outside)
    (desk.project / "node_modules").symlink_to(outside / "node_modules")
    desk.install(desk.home / "bin" / "tool")
    (desk.project / "run").symlink_to(desk.install(outside / "bin" / "tool"))
    desk.install(desk.project / ".venv" / "bin" / "server")
    (desk.project / ".venv" / "bin" / "python").symlink_to("../../../outside/bin/tool")
    config = stdio(command, *(each.format(outside=outside) for each in args), scope="project")

    confined = (await desk.sandboxes().confine(config)).confinement

    assert confined is not None
    assert not {path for path in shown(confined.words) if path.is_relative_to(desk.home)} - {desk.project}
    line = unseen.format(outside=outside, home=desk.home)
    if line:
        assert f"does not see {line}," in confined.hint
        assert "The project chose this path (.mcp.json, or a link): allow it only if you know why." in confined.hint
        assert f'`fs = {{ read = ["{line}"] }}`' in confined.hint, "only what is missing"
    else:
        assert '`fs = { network = true, read = ["~/folder"], write = [] }`' in confined.hint


@linux
async def test_the_reason_names_a_folder_to_start_in_that_is_not_seen(desk: Desk) -> None:
    (desk.home / "elsewhere").mkdir()

    confined = (await desk.sandboxes().confine(stdio(cwd=desk.home / "elsewhere", scope="project"))).confinement

    assert confined is not None
    assert f'`fs = {{ read = ["{desk.home}/elsewhere"] }}`' in confined.hint


@linux
@pytest.mark.parametrize("writes", [False, True])
async def test_what_the_user_names_is_not_replaced_by_a_link_of_the_project(desk: Desk, writes: bool) -> None:
    outside = desk.install(desk.home / "outside" / "a").parent
    (desk.project / "out").symlink_to(outside)

    named = (desk.project / "out",)
    sandbox = Sandbox(write=named) if writes else Sandbox(read=named)

    with pytest.raises(ServerStartError, match=r"a link in the workspace, .*, leads to .*/out\. Name the path"):
        await desk.words(stdio(), fs=sandbox)

    nested = replace(desk.sandboxes(fs=Sandbox()), folders={"fs": (desk.project, desk.project / "out")})
    confined = (await nested.confine(stdio())).confinement
    assert confined is not None
    assert outside not in shown(confined.words)
    assert str(desk.project / "out") not in confined.words


@linux
@pytest.mark.skipif(not Path("/bin").is_symlink(), reason="/bin is a folder")
async def test_below_a_link_nothing_is_mounted(desk: Desk) -> None:
    """Or bubblewrap ends with "Can't create file at /bin/sh"."""
    words = await desk.words(stdio("/bin/sh", scope="project"))

    assert place(words, "--symlink", os.readlink("/bin"), "/bin") > place(words, "--ro-bind-fd", "/usr", "/usr")
    assert "/bin/sh" not in words


@linux
@pytest.mark.parametrize("kind", ["folder", "file"])
async def test_a_link_that_a_mounted_folder_shows_is_not_made_again(desk: Desk, kind: str) -> None:
    """Or bubblewrap ends with "Can't create file at …", as for /etc/alternatives and the shims of mise."""
    data, shims = desk.home / "data", desk.home / ".local" / "share" / "mise" / "shims"
    desk.install(data / "tool")
    shims.mkdir(parents=True)
    link = shims / "node"
    link.symlink_to(data if kind == "folder" else data / "tool")
    desk.environ["PATH"] = f"{desk.home}/bin:{shims}"

    words = await desk.words(stdio("node"), fs=Sandbox(read=(link, data)))

    assert str(link) not in words
    place(words, "--ro-bind-fd", data, data)
    assert str(data / "tool") not in words, "what a mount above shows is not mounted again"


@linux
async def test_links_in_folders_that_any_server_may_write_are_not_followed(desk: Desk) -> None:
    secret, cache = desk.home / "secret", desk.home / ".npm" / "_cacache"
    secret.mkdir()
    cache.mkdir(parents=True)
    for name in ("index-v5", "content-v2"):
        (cache / name).symlink_to(secret)
    sandboxes = desk.sandboxes(fs=Sandbox(), other=Sandbox(write=(desk.home / ".npm",)))

    confined = (await sandboxes.confine(stdio("npx", "fs"))).confinement

    assert confined is not None
    assert not {str(secret), "/run/npm"} & {*confined.words}
    with pytest.raises(ServerStartError, match="a link in the workspace, or in a folder that servers may write"):
        await replace(sandboxes, chosen={**sandboxes.chosen, "fs": Sandbox(read=(cache / "index-v5",))}).confine(
            stdio()
        )


@linux
async def test_a_program_in_the_bin_of_the_home_folder_shows_nothing_beside_it(desk: Desk) -> None:
    desk.install(desk.home / "bin" / "fs-server")
    for name in ("lib", "conf"):
        (desk.home / name).mkdir()

    seen = shown(await desk.words(stdio(), fs=Sandbox()))

    assert desk.home / "bin" in seen
    assert not {desk.home / "lib", desk.home / "conf"} & seen


@linux
async def test_the_line_to_paste_has_all_that_is_missing_and_what_was_allowed_before(desk: Desk) -> None:
    python = desk.install(desk.home / "srv" / "py" / "bin" / "python3.11")
    (python.parents[1] / "lib").mkdir()
    odd = desk.install(desk.home / "data" / "a\x7fb")
    (desk.project / ".venv" / "bin").mkdir(parents=True)
    (desk.project / ".venv" / "bin" / "python").symlink_to(python)
    (desk.home / "notes").mkdir()
    before = Sandbox(network=True, read=(desk.home / "notes",), write=(desk.home / "tickets",))
    config = stdio(".venv/bin/python", "/", "--home=../", str(odd), scope="project")

    confined = (await desk.sandboxes(fs=before).confine(config)).confinement

    assert confined is not None
    [line] = re.findall(r"`(fs = \{.*?\})`", confined.hint)
    assert tomllib.loads(line)["fs"] == {
        "network": True,
        "read": [str(each) for each in (desk.home / "notes", odd, python.parent, python.parents[1] / "lib")],
        "write": [str(desk.home / "tickets")],
    }


@linux
async def test_no_socket_of_the_system_leads_to_the_network_and_nothing_to_what_is_roots(desk: Desk) -> None:
    words = await desk.words(stdio(), fs=Sandbox())

    assert not {"/nix", "/run", "/run/systemd/resolve"} & set(words), "Nix and systemd-resolved listen there"
    assert not {"/etc", "/etc/ssl", "/etc/pki"} & set(words), "a bridge that runs as root could read private keys"
    place(words, "--ro-bind-try", "/proc/sys", "/proc/sys")


def test_what_is_on_another_drive_is_not_in_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as windows:
        windows.setattr("os.path.realpath", os.fspath)
        windows.setattr("os.path.commonpath", ntpath.commonpath)  # which raises ValueError then
        is_there = is_in(Path(r"C:\Windows\System32"), Path(r"D:\work\project"))

    assert not is_there


@linux
async def test_bubblewrap_is_not_taken_from_where_servers_may_write_by_any_way_to_it(desk: Desk) -> None:
    folder, written = desk.home / "folder", desk.home / "written"
    for each in (desk.project, folder, written):
        desk.install(each / "bin" / "bwrap")
    (desk.home / "link").symlink_to(desk.project)
    ways = (desk.home / "link" / "bin", desk.home / "bin" / ".." / "project" / "bin", folder / "bin", written / "bin")
    desk.environ["PATH"] = ":".join(map(str, (*ways, desk.home / "bin")))
    chosen = {"fs": Sandbox(), "other": Sandbox(write=(written,))}
    sandboxes = replace(desk.sandboxes(writes=False, **chosen), folders={"fs": (desk.project,), "other": (folder,)})

    confined = (await sandboxes.confine(stdio())).confinement

    assert confined is not None
    assert bwrap_of(confined.words) == desk.home / "bin" / "bwrap"


@linux
@pytest.mark.parametrize(("repository", "found"), [("repository", "bin"), (".", "repository/node_modules/.bin")])
async def test_bubblewrap_is_not_taken_from_the_repository_around_the_project_unless_the_home_is_in_it(
    desk: Desk, repository: str, found: str
) -> None:
    (desk.home / repository / ".git").mkdir(parents=True)
    desk.install(desk.home / "repository" / "node_modules" / ".bin" / "bwrap")
    environ = {"HOME": str(desk.home), "PATH": f"{desk.home}/repository/node_modules/.bin:{desk.home}/bin"}

    assert find_program("bwrap", Surroundings(desk.home / "repository" / "part", environ)) == str(
        desk.home / found / "bwrap"
    )
    assert find_program("bwrap", Surroundings(Path("/"), environ)), "of the root, nothing is left out"


@linux
async def test_what_holds_a_protected_folder_cannot_be_moved_and_what_links_lead_to_is_protected(desk: Desk) -> None:
    hub, target = desk.project / ".github", desk.project / "config" / "claude"
    (hub / "workflows").mkdir(parents=True)
    target.mkdir(parents=True)
    (desk.project / ".claude").symlink_to("config/claude")
    (desk.project / ".zed").symlink_to(desk.home)
    (desk.project / ".idea").symlink_to(".")
    (desk.project / ".vscode").symlink_to("loop")
    (desk.project / "loop").symlink_to("loop")

    words = await desk.words(stdio(), fs=Sandbox())

    assert place(words, "--bind-fd", hub) < place(words, "--ro-bind-fd", hub / "workflows")
    place(words, "--ro-bind-fd", target)
    assert not {str(desk.project / name) for name in (".zed", ".idea", ".claude", ".vscode", "loop")} & {*words}
    assert desk.home not in shown(words)
    place(words, "--bind-fd", desk.project)  # and not once more, to be read


@linux
async def test_what_protected_names_lead_to_anywhere_in_the_workspace_is_held(desk: Desk) -> None:
    shared = desk.home / "shared"
    held = [shared / "hooks", shared / "CLAUDE.md"]
    held += [desk.project / name for name in ("node_modules/r/AGENTS.md", ".bare", "gh/workflows", "Node_Modules/.hg")]
    for path in (*held, desk.project / ".bare" / "worktrees" / "main", desk.project / "main"):
        path.mkdir(parents=True)
    (desk.project / ".git").write_text("gitdir: ./.bare\n", encoding="utf-8")
    (desk.project / "main" / ".git").write_text("gitdir: ../.bare/worktrees/main\n", encoding="utf-8")
    (desk.project / ".bare" / "worktrees" / "main" / "commondir").write_text("../..\n", encoding="utf-8")
    for name, target in (
        ("AGENTS.md", "node_modules/r/AGENTS.md"),
        ("CLAUDE.md", "../shared/CLAUDE.md"),
        ("GEMINI.md", ".bare/deep/rules.md"),
        (".husky", "../shared/hooks"),
        (".github", "gh"),
    ):
        (desk.project / name).symlink_to(target)
    sandboxes = replace(desk.sandboxes(fs=Sandbox()), folders={"fs": (desk.project, shared)})

    confined = (await sandboxes.confine(stdio())).confinement

    assert confined is not None
    for path in held:
        place(confined.words, "--ro-bind-fd", path)
    may = [Path(path) for word, path in pairwise(confined.words) if word == "--bind-fd"]
    assert not [path for path in may if {*path.parents} & {*held}], "nothing is writable in what is held"


@linux
async def test_a_bridge_that_is_installed_in_the_workspace_cannot_be_changed(desk: Desk) -> None:
    confined = (
        await replace(desk.sandboxes(fs=Sandbox()), folders={"fs": (PACKAGE.parent,)}).confine(stdio())
    ).confinement

    assert confined is not None
    place(confined.words, "--bind-fd", PACKAGE.parent, PACKAGE.parent)
    place(confined.words, "--ro-bind-fd", PACKAGE, PACKAGE)
    assert not PREFIX.is_relative_to(PACKAGE.parent) or place(confined.words, "--ro-bind-fd", PREFIX, PREFIX)


@linux
async def test_in_a_read_run_protected_files_are_held_in_what_write_names(desk: Desk) -> None:
    for name in (".git", "out/.github/workflows", "out/.claude"):
        (desk.project / name).mkdir(parents=True)
    out = desk.project / "out"

    whole = await desk.words(stdio(), writes=False, fs=Sandbox(write=(desk.project,)))
    part = await desk.words(stdio(), writes=False, fs=Sandbox(write=(out, out / ".claude")))

    assert place(whole, "--bind-fd", desk.project) < place(whole, "--ro-bind-fd", desk.project / ".git")
    assert place(part, "--ro-bind-fd", desk.project) < place(part, "--bind-fd", out / ".claude")
    assert place(part, "--bind-fd", out / ".github") < place(part, "--ro-bind-fd", out / ".github" / "workflows")
    assert str(desk.project / ".git") not in part
    written = desk.sandboxes(writes=False, fs=Sandbox(write=(out, desk.home / "notes"))).find_written()
    assert written == [out], "so that protected files are watched in this run"


@linux
async def test_a_server_is_started_anew_where_a_protected_file_was_replaced(desk: Desk) -> None:
    """What is mounted in the open one is the file from before."""
    file = desk.install(desk.project / "CLAUDE.md")
    sandboxes = desk.sandboxes(fs=Sandbox())
    before = await sandboxes.confine(stdio())

    assert (await sandboxes.confine(stdio())).digest == before.digest
    desk.install(desk.project / "new").replace(file)
    assert (await sandboxes.confine(stdio())).digest != before.digest


@linux
async def test_of_programs_and_settings_only_what_is_needed_is_seen(desk: Desk) -> None:
    seen = [".linuxbrew/bin", ".linuxbrew/etc/openssl@3", ".rye/shims", ".config/mise/config.toml", ".tool-versions"]
    unseen = [".linuxbrew/var", ".linuxbrew/etc", ".rye", ".rye/credentials", ".config/mise"]
    for path in (*seen, *unseen):
        (desk.home / path).mkdir(parents=True, exist_ok=True)

    words = await desk.words(stdio(), fs=Sandbox())

    assert {desk.home / path for path in seen} <= shown(words)
    assert not {desk.home / path for path in unseen} & shown(words)
    assert not [word for word in words if "jmxremote.password" in word]


@linux
async def test_more_protected_files_than_can_be_mounted_are_a_reason(desk: Desk) -> None:
    for number in range(MAX_PROTECTED):
        (desk.project / f"p{number}").mkdir()
        (desk.project / f"p{number}" / "AGENTS.md").touch()

    assert await desk.words(stdio(), fs=Sandbox())

    (desk.project / "AGENTS.md").touch()
    assert await desk.words(stdio(), writes=False, fs=Sandbox())
    with pytest.raises(
        ServerStartError, match=r"more than 1,000 protected files, such as .*AGENTS\.md\. Start"
    ) as found:
        await desk.words(stdio(), fs=Sandbox())
    assert "fs = false" in (found.value.remedy or "")


@linux
async def test_where_protected_files_cannot_all_be_found_nothing_starts_that_writes(desk: Desk) -> None:
    make_unreadable(desk.project)

    with pytest.raises(ServerStartError, match=r"project has more than .* or a folder that cannot be .* or only read"):
        await desk.words(stdio(), fs=Sandbox())

    assert await desk.words(stdio(), writes=False, fs=Sandbox())


def test_the_profile_for_macos(desk: Desk) -> None:
    git = desk.project / ".git"
    visible = {desk.project: True, desk.home / "notes": False, git: True}

    program, option, profile = words_for_macos(Sandbox(write=(git,)), visible, around=desk.around)

    assert (program, option) == ("/usr/bin/sandbox-exec", "-p")
    lines = profile.splitlines()
    in_order = [
        "(deny file-write*)",
        f'(deny file-read* (subpath "{desk.home}"))',
        f'(allow file-read* (subpath "{desk.home}/notes"))',
        f'(allow file-write* (subpath "{desk.project}"))',
        r'(deny file-write* (regex #"/\.[gG][iI][tT](/|$)"))',
        f'(allow file-write* (subpath "{git}"))',
        "(deny network*)",
    ]
    places = [max(at for at, line in enumerate(lines) if line == each) for each in in_order]
    assert places == sorted(places), "the last rule that fits counts"
    assert f'(allow file-write* (subpath "{desk.home}/notes"))' not in lines
