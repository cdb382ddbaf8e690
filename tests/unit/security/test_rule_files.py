"""`lmstudio-bridge.toml`: the user's own counts, the project's can only tighten it, a broken one stops everything."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.security.access import Rule, Rules
from lmstudio_bridge.security.rule_files import FILE, RuleFiles, load_rules
from lmstudio_bridge.security.sandbox import EVERY, Sandbox

SECURITY = Path(__file__).parents[3] / "docs" / "security.md"


@dataclass
class Desk:
    """A user's home folder with a project in it."""

    home: Path

    @property
    def project(self) -> Path:
        return self.home / "work" / "project"

    @property
    def own(self) -> Path:
        return self.home / ".config" / "lmstudio-bridge" / FILE

    def write(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def load(self, **environ: str) -> RuleFiles:
        return load_rules(project=self.project, environ={"HOME": str(self.home), **environ})


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    desk.project.mkdir(parents=True)
    return desk


def test_without_files_there_are_no_rules(desk: Desk) -> None:
    assert desk.load() == RuleFiles()
    assert load_rules(project=desk.project, environ={}) == RuleFiles()


def test_the_users_file_says_what_runs_where_and_what_is_a_path(desk: Desk) -> None:
    own = desk.write(
        desk.own,
        """
        allow = ["git/git_log"]
        deny = ["*/delete_*", "fs/move"]
        hide = ["browser/*"]
        [paths]
        folders = ["~/notes", "/srv/shared"]
        [paths.arguments]
        "tickets/*" = []
        "backup/run" = ["what"]
        """,
    )

    assert desk.load() == RuleFiles(
        Rules(
            (
                Rule("hide", "browser/*", str(own)),
                Rule("deny", "*/delete_*", str(own)),
                Rule("deny", "fs/move", str(own)),
                Rule("allow", "git/git_log", str(own)),
            ),
            (desk.home / "notes", Path("/srv/shared")),
            {"tickets/*": frozenset(), "backup/run": frozenset({"what"})},
        ),
        (own,),
    )


def test_a_projects_file_can_only_tighten(desk: Desk) -> None:
    """It comes with somebody else's repository (ours)."""
    theirs = desk.write(
        desk.project.parent / FILE,
        """
        allow = ["*/*"]
        deny = ["fs/write"]
        [paths]
        folders = ["/"]
        [paths.arguments]
        "fs/*" = ["note"]
        """,
    )

    own = "It can only tighten the rules; put this into your own file."

    assert desk.load() == RuleFiles(
        Rules((Rule("deny", "fs/write", str(theirs)),), more_arguments={"fs/*": frozenset({"note"})}),
        (theirs,),
        (
            f"{theirs}: allow is ignored in a project's file. {own}",
            f"{theirs}: folders are ignored in a project's file. {own}",
        ),
    )


def test_the_users_rules_stand_before_those_of_the_nearest_project_file(desk: Desk) -> None:
    own = desk.write(desk.home / "elsewhere" / "lmstudio-bridge" / FILE, 'allow = ["fs/a"]')
    near = desk.write(desk.project / FILE, 'deny = ["fs/b"]')
    desk.write(desk.project.parent / FILE, 'deny = ["fs/c"]')

    got = desk.load(XDG_CONFIG_HOME=str(desk.home / "elsewhere"))

    assert got.rules.rules == (Rule("allow", "fs/a", str(own)), Rule("deny", "fs/b", str(near)))
    assert got.paths == (own, near)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("allow = [", 1, "not valid TOML"),
        ('deny = ["a/b"]\nallow = nonsense\n', 2, "not valid TOML"),
        ("\nalow = []", 2, "unknown setting 'alow'; expected one of hide, deny, allow, paths"),
        ('deny = "fs/write"', 1, "deny must be a list of strings"),
        ("deny = [1]", 1, "deny must be a list of strings"),
        ('deny = [\n  "fs/write",\n  "write",\n]', 3, "'write' must be a server, a \"/\" and a tool"),
        ('deny = ["fs/"]', 1, "'fs/' must be"),
        ("paths = 1", 1, "paths must be a table"),
        ("[paths]\nfolder = []", 2, "unknown setting 'folder'"),
        ('[paths]\nfolders = ["notes"]', 2, "the folder 'notes' must be an absolute path"),
        ("[paths]\narguments = 1", 2, "arguments must be a table"),
        ('[paths.arguments]\n"fs" = []', 2, "'fs' must be a server"),
        ('[paths.arguments]\n"fs/*" = "path"', 2, "fs/* must be a list of strings"),
        ('sandbox = "yes"', 1, "sandbox must be a table"),
        ("[sandbox]\nfs = 1", 2, "fs must be a table"),
        ("[sandbox]\nfs = { net = true }", 2, "unknown setting 'net'; expected one of network, read, write"),
        ('[sandbox]\nfs = { network = "no" }', 2, "network must be true or false"),
        ('[sandbox]\nfs = { read = "~/notes" }', 2, "read must be a list of strings"),
        ('[sandbox]\nfs = { write = ["notes"] }', 2, "the folder 'notes' must be an absolute path"),
    ],
)
@pytest.mark.parametrize("whose", ["own", "project"])
def test_what_is_no_rule_is_named_with_file_and_line(desk: Desk, whose: str, text: str, line: int, said: str) -> None:
    """Rules that were silently left out would allow what somebody meant to forbid (ours)."""
    path = desk.write(desk.own if whose == "own" else desk.project / FILE, text)

    with pytest.raises(SettingsError) as caught:
        desk.load()

    assert caught.value.message.startswith(f"{path}, line {line}: ")
    assert said in caught.value.message


def test_a_project_can_put_servers_into_a_sandbox_but_not_choose_what_is_seen_there(desk: Desk) -> None:
    desk.write(desk.own, '[sandbox]\nfs = false\nmail = { network = true, read = ["~/mail"], write = ["/tmp/a"] }')
    shared = desk.write(desk.project / FILE, "[sandbox]\nfs = true\ngit = true\nweb = { network = true }\nx = false")

    loaded = desk.load()

    assert loaded.rules.sandboxes == {
        "fs": None,
        "mail": Sandbox(True, (desk.home / "mail",), (Path("/tmp/a"),)),
        "git": Sandbox(),
    }
    [warning] = loaded.warnings
    assert warning.startswith(f"{shared}: of sandbox, only true counts in a project's file.")


@pytest.mark.parametrize(("text", "sandbox"), [("true", Sandbox()), ("false", None)])
def test_one_word_is_for_all_servers(desk: Desk, text: str, sandbox: Sandbox | None) -> None:
    desk.write(desk.own, f"sandbox = {text}")

    assert desk.load().rules.sandboxes == {EVERY: sandbox}


def test_the_example_in_the_documents_is_read(desk: Desk) -> None:
    [example] = re.findall(r"^```toml\n(.*?)^```", SECURITY.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    desk.write(desk.own, example)

    rules = desk.load().rules

    assert [rule.verb for rule in rules.rules] == ["hide", "deny", "allow"]
    assert rules.folders == (desk.home / "notes",)
    assert rules.sandboxes == {"git": Sandbox()}


def test_the_example_of_sandboxes_is_read(desk: Desk) -> None:
    page = SECURITY.with_name("sandbox.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    desk.write(desk.own, example)

    tickets = Sandbox(True, (desk.home / ".ticketsrc",), (desk.home / "tickets",))
    assert desk.load().rules.sandboxes == {"git": Sandbox(), "tickets": tickets, "weather": None}


def test_a_file_may_begin_with_a_byte_order_mark(desk: Desk) -> None:
    desk.write(desk.own, '\ufeffdeny = ["fs/write_file"]')

    assert [rule.verb for rule in desk.load().rules.rules] == ["deny"]


def test_a_file_that_is_no_text_is_an_error(desk: Desk) -> None:
    desk.write(desk.own, "").write_bytes(b"\xff\xfe")

    with pytest.raises(SettingsError, match="cannot be read"):
        desk.load()


@pytest.mark.parametrize("kind", ["dead link", "folder", "pipe", "loop"])
@pytest.mark.parametrize("whose", ["own", "project"])
def test_what_stands_in_the_place_of_a_rule_file_and_is_none_is_an_error(desk: Desk, whose: str, kind: str) -> None:
    """Ignored, it would allow what somebody meant to forbid."""
    path = desk.own if whose == "own" else desk.project / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "dead link":
            path.symlink_to("nowhere")
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to(path)

    with pytest.raises(SettingsError, match="cannot be read") as caught:
        desk.load()
    assert caught.value.message.startswith(str(path))


def test_a_dead_link_to_the_folder_of_the_rules_is_an_error(desk: Desk) -> None:
    desk.own.parent.parent.mkdir(parents=True)
    desk.own.parent.symlink_to("nowhere")

    with pytest.raises(SettingsError, match="cannot be read"):
        desk.load()


def test_a_configuration_folder_that_is_none_has_no_rules(desk: Desk) -> None:
    assert desk.load(XDG_CONFIG_HOME=os.devnull) == RuleFiles()


def test_a_link_to_a_rule_file_is_followed(desk: Desk) -> None:
    desk.own.parent.mkdir(parents=True)
    desk.own.symlink_to(desk.write(desk.home / "rules.toml", 'deny = ["a/b"]'))

    assert desk.load().rules.rules == (Rule("deny", "a/b", str(desk.own)),)
