"""Which servers there are for a project, and which of them may start: real files in a clean home."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lmstudio_bridge.errors import McpConfigError, ServerNotConfiguredError, ServerNotTrustedError
from lmstudio_bridge.mcp_client.approvals import EntryStore, KnownEntry
from lmstudio_bridge.mcp_client.discovery import ServerCatalog, load_servers


@dataclass(frozen=True)
class Machine:
    """A home folder and a project with an `.mcp.json`, in which nothing else is said yet."""

    home: Path
    project: Path

    def write(self, path: str, content: object) -> Path:
        """A file below the home folder; JSON unless it is a text."""
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return file

    def claude(self, entry: object = None, /, *, folder: Path | None = None, **root: Any) -> Path:
        """`~/.claude.json`, with an entry for the project or another folder."""
        projects = {} if entry is None else {str(folder or self.project): entry}
        return self.write(".claude.json", {"projects": projects, **root})

    def load(self, *trusted: str, project: Path | None = None, **environ: str) -> ServerCatalog:
        return load_servers(
            explicit=None,
            project=project or self.project,
            environ={"HOME": str(self.home), **environ},
            trusted=trusted,
            home=self.home / "bridge",
        )


def servers(*names: str) -> dict[str, Any]:
    return {"mcpServers": {name: {"command": "run"} for name in names}}


def scopes(catalog: ServerCatalog) -> dict[str, str | None]:
    return {name: config.scope for name, config in catalog.servers.items()}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path / "home", tmp_path / "home" / "work" / "project")
    machine.write("work/project/.mcp.json", servers("files", "notes"))
    return machine


# Where servers come from.


def test_first_scope_that_has_a_name_wins_in_claude_codes_order(machine: Machine) -> None:
    """local > project > user, as Claude Code has it; LM Studio's own come last."""
    machine.write("work/project/.mcp.json", servers("a", "b"))
    machine.claude(servers("a"), **servers("a", "b", "c"))
    machine.write(".lmstudio/mcp.json", servers("a", "b", "c", "d"))
    catalog = machine.load("*")

    assert scopes(catalog) == {"a": "local", "b": "project", "c": "user", "d": "lmstudio"}
    assert [name for name, config in catalog.servers.items() if config.hides_own] == ["b"]
    assert {name: config.source for name, config in catalog.servers.items()} == {
        "a": machine.home / ".claude.json",
        "b": machine.project / ".mcp.json",
        "c": machine.home / ".claude.json",
        "d": machine.home / ".lmstudio" / "mcp.json",
    }
    assert catalog.paths == (
        machine.home / ".claude.json",
        machine.project / ".mcp.json",
        machine.home / ".lmstudio" / "mcp.json",
    )
    assert catalog.warnings == ()


def test_without_a_home_only_the_project_counts(machine: Machine) -> None:
    machine.claude(**servers("mine"))
    catalog = load_servers(explicit=None, project=machine.project, environ={}, trusted=["*"])

    assert scopes(catalog) == {"files": "project", "notes": "project"}


def test_local_scope_of_the_nearest_known_folder_counts(machine: Machine) -> None:
    """Claude Code keeps one entry for a repository, and may be started in a folder below."""
    below = machine.project / "src" / "deep"
    below.mkdir(parents=True)
    machine.claude(servers("mine"))

    assert scopes(machine.load(project=below)) == {"mine": "local"}


def test_local_scope_of_a_folder_above_ends_where_the_project_has_its_own_entry(machine: Machine) -> None:
    above = {str(machine.home): servers("of home"), str(machine.project): {"mcpServers": {}}}
    machine.write(".claude.json", {"projects": above})

    assert scopes(machine.load()) == {}


def test_project_that_is_reached_through_a_link_is_known_by_its_real_path(machine: Machine) -> None:
    machine.claude(servers("mine"))
    link = machine.home / "link"
    link.symlink_to(machine.project)

    assert scopes(machine.load(project=link)) == {"mine": "local"}


def test_moved_configuration_of_claude_code_is_followed(machine: Machine) -> None:
    machine.claude(**servers("old place"))
    machine.write("moved/.claude.json", servers("new place"))
    machine.write("moved/settings.json", {"enabledMcpjsonServers": ["files"]})
    catalog = machine.load(CLAUDE_CONFIG_DIR=str(machine.home / "moved"))

    assert scopes(catalog) == {"files": "project", "new place": "user"}


def test_older_place_of_lm_studios_file_counts_where_there_is_no_newer_one(machine: Machine) -> None:
    machine.write(".cache/lm-studio/mcp.json", servers("old"))
    assert scopes(machine.load()) == {"old": "lmstudio"}

    machine.write(".lmstudio/mcp.json", servers("new"))
    assert scopes(machine.load()) == {"new": "lmstudio"}


def test_cursors_notation_is_understood_in_lm_studios_file(machine: Machine) -> None:
    entry = {"url": "http://127.0.0.1:8000/${env:ROUTE}", "headers": {"X": "${userHome}"}}
    machine.write(".lmstudio/mcp.json", {"mcpServers": {"web": entry}})
    web = machine.load(ROUTE="mcp").servers["web"]

    assert (web.transport, web.url, web.headers) == ("http", "http://127.0.0.1:8000/mcp", {"X": str(machine.home)})


def test_explicit_file_is_trusted_and_everything_else_is_left_alone(machine: Machine) -> None:
    machine.claude(**servers("mine"))
    explicit = machine.write("mine.json", {"mcpServers": {}, "servers": {"chosen": {"command": "run"}}, "inputs": []})
    catalog = load_servers(explicit=explicit, project=machine.project, environ={"HOME": str(machine.home)})

    assert scopes(catalog) == {"chosen": "explicit"}
    assert catalog.paths == (explicit,)


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        ('{"projects": {},\n "x": }', "is not valid JSON: Expecting value at line 2, column 7."),
        ("[]", "is ignored: it is not a JSON object."),
        ('{"mcpServers": 7}', "has no object 'mcpServers'. It should look like"),
    ],
)
@pytest.mark.parametrize("name", [".claude.json", ".lmstudio/mcp.json"])
def test_broken_file_of_the_user_is_a_warning_and_hides_no_other(
    machine: Machine, name: str, content: str, warning: str
) -> None:
    broken = machine.write(name, content)
    other = ".lmstudio/mcp.json" if name == ".claude.json" else ".claude.json"
    machine.write(other, servers("mine"))
    catalog = machine.load("files")

    assert sorted(catalog.servers) == ["files", "mine"]
    (told,) = catalog.warnings
    assert told.startswith(f"{broken} {warning}")


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        ("{", "is not valid JSON: .* at line 1, column 2"),
        ("{\0}\0", "is not UTF-8 but UTF-16-LE. Save it as UTF-8; PowerShell"),
        ('{"mine": {"command": "theirs"}}', "has no object 'mcpServers'"),
        ('{"mcpServers": []}', "has no object 'mcpServers'"),
        ("7", "is ignored: it is not a JSON object"),
        ("{}", None),
        ('{"mcpServers": {}}', None),
    ],
)
def test_project_file_that_cannot_be_used_hides_no_server_of_the_user(
    machine: Machine, content: str, warning: str | None
) -> None:
    machine.claude(**servers("mine"))
    broken = machine.write("work/project/.mcp.json", content)
    catalog = machine.load("*")

    assert scopes(catalog) == {"mine": "user"}
    if warning is None:
        assert catalog.warnings == ()
    else:
        assert re.match(f"{re.escape(str(broken))} {warning}", "".join(catalog.warnings))
        with pytest.raises(ServerNotConfiguredError, match=warning):
            catalog.require("theirs")

    broken.unlink()
    broken.symlink_to("nothing")
    (broken.parents[1] / ".mcp.json").mkdir()
    catalog = machine.load("*")
    assert scopes(catalog) == {"mine": "user"}
    assert len(catalog.warnings) == 2
    assert all("is ignored: it is not a file, or a broken link." in each for each in catalog.warnings)


def test_state_with_a_trailing_comma_approves_nothing(machine: Machine) -> None:
    approving = json.dumps({"enabledMcpjsonServers": ["files"], "hasTrustDialogAccepted": True})
    machine.write(".claude.json", f'{{"projects": {{{json.dumps(str(machine.project))}: {approving},}}}}')
    machine.write("work/project/.claude/settings.local.json", {"enableAllProjectMcpServers": True})

    assert scopes(machine.load()) == {}


def test_odd_entries_for_projects_are_let_pass(machine: Machine) -> None:
    machine.write(".claude.json", {"projects": {str(machine.project): 7}, **servers("mine")})
    assert scopes(machine.load()) == {"mine": "user"}

    machine.write(".claude.json", {"projects": [], **servers("mine")})
    assert scopes(machine.load()) == {"mine": "user"}


# Who may start.


def test_project_server_that_nobody_approved_is_not_usable_and_says_how_to_approve_it(machine: Machine) -> None:
    file = machine.project / ".mcp.json"
    catalog = machine.load()

    assert scopes(catalog) == {}
    assert list(catalog.unapproved) == ["files", "notes"]
    with pytest.raises(ServerNotTrustedError) as caught:
        catalog.require("files")
    assert caught.value.message == f"MCP server 'files' is not approved yet: its command comes from {file}."
    assert caught.value.remedy == (
        f"Approve it in Claude Code (start `claude` in {machine.project} and answer its question; `claude mcp list` "
        f"shows its state), or run `lmstudio-bridge servers --approve files` in {machine.project}, or set "
        "LMSTUDIO_BRIDGE_TRUST=files for the bridge."
    )


@pytest.mark.parametrize(
    ("trusted", "usable"),
    [((), []), (("files",), ["files"]), (("Files",), []), (("*",), ["files", "notes"]), (("all",), ["files", "notes"])],
)
def test_bridges_own_setting_names_who_may_start(machine: Machine, trusted: tuple[str, ...], usable: list[str]) -> None:
    assert list(machine.load(*trusted).servers) == usable


@pytest.mark.parametrize(
    ("said", "usable"),
    [
        ({"enabledMcpjsonServers": ["files"]}, ["files"]),
        ({"enableAllProjectMcpServers": True}, ["files", "notes"]),
        ({"enableAllProjectMcpServers": "true"}, []),
        ({"enabledMcpjsonServers": "files"}, []),
        ({"enabledMcpjsonServers": ["files", 7, "gone"]}, ["files"]),
        ({"enableAllProjectMcpServers": True, "disabledMcpjsonServers": ["files"]}, ["notes"]),
        ({"enabledMcpjsonServers": ["files"], "disabledMcpjsonServers": ["files"]}, []),
    ],
)
@pytest.mark.parametrize("place", ["state", "user settings"])
def test_approval_in_claude_code_counts(machine: Machine, place: str, said: dict[str, Any], usable: list[str]) -> None:
    machine.claude(said if place == "state" else {})
    if place == "user settings":
        machine.write(".claude/settings.json", said)

    assert list(machine.load().servers) == usable


def test_checked_in_settings_of_a_project_approve_nothing(machine: Machine) -> None:
    """Neither does Claude Code before the folder is trusted; we never, since a pull may change them."""
    machine.claude({"hasTrustDialogAccepted": True})
    machine.write("work/project/.claude/settings.json", {"enableAllProjectMcpServers": True})

    assert scopes(machine.load()) == {}


@pytest.mark.parametrize("kind", ["archive", "link", "git file that leads nowhere", "untracked in git"])
def test_local_settings_of_a_project_approve_nothing_whatever_the_project_came_in(machine: Machine, kind: str) -> None:
    """A project can ship them in many ways, and nothing in it can be believed about that."""
    machine.claude({"hasTrustDialogAccepted": True})
    said = {"enableAllProjectMcpServers": True, "enabledMcpjsonServers": ["files"]}
    path = machine.project / ".claude" / "settings.local.json"
    if kind == "link":
        machine.write("work/project/config/shared.json", said)
        path.parent.mkdir()
        path.symlink_to(machine.project / "config" / "shared.json")
    else:
        machine.write("work/project/.claude/settings.local.json", said)
    if kind == "git file that leads nowhere":
        machine.write("work/project/.git", "gitdir: ../gone\n")
    if kind == "untracked in git":
        (machine.project / ".git").mkdir()
    catalog = machine.load()

    assert scopes(catalog) == {}
    with pytest.raises(ServerNotTrustedError) as caught:
        catalog.require("files")
    assert f"{path} approves it, which does not count: that file may have come with the project." in str(caught.value)
    assert caught.value.remedy == (
        f"If you know what it starts, run `lmstudio-bridge servers --approve files` in {machine.project}, or set "
        "LMSTUDIO_BRIDGE_TRUST=files for the bridge."
    )


def test_approval_above_the_file_says_nothing_about_its_servers(machine: Machine) -> None:
    """Who approved `files` of one folder has not seen what is called so in another."""
    machine.claude({"enabledMcpjsonServers": ["files"]}, folder=machine.home / "work")

    assert scopes(machine.load()) == {}


@pytest.mark.parametrize("place", ["state", "user settings", "own setting"])
def test_file_in_a_folder_above_does_not_take_a_name_that_is_approved_for_the_project(
    machine: Machine, place: str
) -> None:
    """Somebody else may have put it there, such as in /tmp."""
    below = machine.project / "src"
    below.mkdir()
    said = {"enabledMcpjsonServers": ["files"]}
    machine.claude(said if place == "state" else {}, folder=below)
    if place == "user settings":
        machine.write(".claude/settings.json", said)
    trusted = ["files"] if place == "own setting" else []
    catalog = machine.load(*trusted, project=below)

    assert scopes(catalog) == {}
    assert f"LMSTUDIO_BRIDGE_TRUST={machine.project}/.mcp.json:files" in catalog.refusal("files").remedy
    machine.write("work/project/src/.mcp.json", servers("files"))
    assert scopes(machine.load(*trusted, project=below)) == {"files": "project"}


def test_approval_for_the_folder_of_the_file_counts_below_it(machine: Machine) -> None:
    below = machine.project / "src"
    below.mkdir()
    machine.claude({"enabledMcpjsonServers": ["files"]})
    catalog = machine.load(project=below)

    assert scopes(catalog) == {"files": "project"}
    assert catalog.paths == (machine.home / ".claude.json", machine.project / ".mcp.json")


@pytest.mark.parametrize(
    ("trusted", "usable"),
    [
        ("{project}/.mcp.json:files", ["files"]),
        ("{project}:files", ["files"]),
        ("~/work/project:files", ["files"]),
        ("{project}/:*", ["files", "notes"]),
        ("{project}:other", []),
        ("{project}/src:files", []),
        ("project:files", []),
        (":files", []),
    ],
)
def test_own_setting_names_a_server_of_a_file_by_its_path(machine: Machine, trusted: str, usable: list[str]) -> None:
    below = machine.project / "src"
    below.mkdir()

    assert list(machine.load(trusted.format(project=machine.project), project=below).servers) == usable


@pytest.mark.parametrize(
    "change",
    [
        {"command": "evil"},
        {"args": ["-c", "evil"]},
        {"env": {"KEY": "1", "NODE_OPTIONS": "--require ./evil.js"}},
        {"env": {"KEY": "evil"}},
        {"cwd": "evil"},
        {"type": "http", "url": "http://evil"},
    ],
)
@pytest.mark.parametrize("by", ["state", "own setting"])
def test_approved_entry_that_has_changed_is_held_back_until_that_is_accepted(
    machine: Machine, by: str, change: dict[str, Any]
) -> None:
    entry = {"command": "run", "args": ["a"], "env": {"KEY": "1"}, "timeout": 5000}
    machine.write("work/project/.mcp.json", {"mcpServers": {"files": entry}})
    machine.claude({"enabledMcpjsonServers": ["files"]} if by == "state" else {})
    trusted = ["files"] if by == "own setting" else []
    assert scopes(machine.load(*trusted)) == {"files": "project"}
    file = machine.write("work/project/.mcp.json", {"mcpServers": {"files": {**entry, "timeout": 6000}}})
    assert scopes(machine.load(*trusted)) == {"files": "project"}

    machine.write("work/project/.mcp.json", servers())
    machine.load(*trusted)
    machine.write("work/project/.mcp.json", {"mcpServers": {"files": {**entry, **change}}})
    for _ in range(2):
        catalog = machine.load(*trusted)
        assert scopes(catalog) == {}
        with pytest.raises(ServerNotTrustedError, match=r"held back: its entry in .* has changed since") as caught:
            catalog.require("files")
        assert f"`lmstudio-bridge servers --approve files` in {machine.project}" in caught.value.remedy

    accepted = KnownEntry(digest=catalog.unapproved["files"].entry_digest, approved=True)
    EntryStore(machine.home / "bridge").record(file, {"files": accepted}, warnings=[])
    assert scopes(machine.load()) == {"files": "project"}


def test_a_link_takes_over_no_approval_of_another_project_and_hides_no_change(machine: Machine) -> None:
    file = machine.project / ".mcp.json"
    good = machine.write("work/good/.mcp.json", servers("files"))
    file.unlink()
    file.symlink_to(good)
    approved = KnownEntry(digest=machine.load().unapproved["files"].entry_digest, approved=True)
    EntryStore(machine.home / "bridge").record(good, {"files": approved}, warnings=[])
    assert scopes(machine.load()) == {}
    assert scopes(machine.load(f"{good}:files")) == {}

    assert scopes(machine.load("files")) == {"files": "project"}
    file.unlink()
    file.symlink_to(machine.write("work/project/other.json", {"mcpServers": {"files": {"command": "evil"}}}))
    assert scopes(machine.load("files")) == {}


def test_all_servers_of_the_project_may_start_also_when_they_change(machine: Machine) -> None:
    machine.load("*")
    machine.write("work/project/.mcp.json", {"mcpServers": {"files": {"command": "other"}}})

    assert scopes(machine.load("*")) == {"files": "project"}


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("ANTHROPIC_API_KEY", False),
        ("LM_API_TOKEN", False),
        ("env:LMSTUDIO_API_KEY", False),
        ("LMSTUDIO_BRIDGE_API_TOKEN", False),
        ("CLAUDE_CODE_MESSAGING_TOKEN", False),
        ("CLAUDE_PROJECT_DIR", True),
        ("MY_TOKEN", True),
    ],
)
def test_projects_server_is_not_given_the_keys_of_the_bridge_and_of_claude_code(
    machine: Machine, name: str, given: bool
) -> None:
    entry = {"command": "x", "args": [f"${{{name}}}", f"${{{name}:-none}}"], "env": {"KEY": f"${{{name}}}"}}
    file = machine.write("work/project/.mcp.json", {"mcpServers": {"files": entry}})
    machine.claude(mcpServers={"mine": entry})
    variable = name.removeprefix("env:")
    environ: dict[str, Any] = {variable: "s3cr3t"}
    catalog = machine.load("*", **environ)
    theirs, mine = catalog.servers["files"], catalog.servers["mine"]

    assert mine.args == ("s3cr3t", "s3cr3t")
    if given:
        assert (*theirs.args, theirs.env["KEY"]) == ("s3cr3t",) * 3
    else:
        assert (*theirs.args, theirs.env["KEY"]) == (f"${{{name}}}", "none", f"${{{name}}}")
        told = f"MCP server 'files' in {file}: {variable} is not given to a project's server"
        assert catalog.server_warnings["files"] == (told,)


def test_variable_with_another_value_is_no_change(machine: Machine) -> None:
    machine.write("work/project/.mcp.json", {"mcpServers": {"files": {"command": "x", "args": ["${TOKEN}"]}}})

    assert scopes(machine.load("files", TOKEN="1")) == {"files": "project"}
    assert scopes(machine.load("files", TOKEN="2")) == {"files": "project"}


@pytest.mark.parametrize("content", ["{", "[]", '{"a": {"b": "c"}}'])
def test_record_that_cannot_be_read_stops_instead_of_approving(machine: Machine, content: str) -> None:
    machine.write("bridge/approved.json", content)

    with pytest.raises(McpConfigError, match=r"The record of approved servers, .*approved\.json, cannot be read"):
        machine.load("files")


def test_record_that_cannot_be_written_is_a_warning(machine: Machine) -> None:
    machine.write("bridge", "a file")
    catalog = machine.load("notes")

    assert scopes(catalog) == {"notes": "project"}
    assert "A change to the entries in" in "".join(catalog.warnings)


@pytest.mark.parametrize("name", ["settings.json", "settings.local.json"])
def test_rejection_counts_wherever_it_stands_and_says_where(machine: Machine, name: str) -> None:
    path = machine.write(f"work/project/.claude/{name}", {"disabledMcpjsonServers": ["files"]})
    machine.claude({"enabledMcpjsonServers": ["files", "notes"]})
    catalog = machine.load("*")

    assert list(catalog.servers) == ["notes"]
    assert catalog.skipped == {"files": f"it is disabled in {path}."}
    with pytest.raises(ServerNotConfiguredError, match="'files' cannot be used: it is disabled in"):
        catalog.require("files")


def test_name_in_the_bridges_own_setting_outranks_a_rejection(machine: Machine) -> None:
    machine.claude({"disabledMcpjsonServers": ["files"]})

    assert scopes(machine.load("files")) == {"files": "project"}


def test_server_that_is_switched_off_in_claude_code_is_left_out(machine: Machine) -> None:
    """`/mcp` keeps servers of local and user scope in `disabledMcpServers`; LM Studio's are no business of it."""
    state = machine.claude({"disabledMcpServers": ["a", "b", "c"], **servers("a")}, **servers("b", "d"))
    machine.write(".lmstudio/mcp.json", servers("c"))
    catalog = machine.load()

    assert scopes(catalog) == {"d": "user", "c": "lmstudio"}
    assert catalog.skipped == {
        "a": f"it is disabled for this project in {state}.",
        "b": f"it is disabled for this project in {state}.",
    }
    assert scopes(machine.load("a")) == {"a": "local", "d": "user", "c": "lmstudio"}


def test_unapproved_entry_does_not_hide_the_users_own_server_of_that_name(machine: Machine) -> None:
    state = machine.claude(**servers("files"))
    file = machine.project / ".mcp.json"
    catalog = machine.load()

    assert scopes(catalog) == {"files": "user"}
    assert list(catalog.unapproved) == ["notes"]
    assert catalog.server_warnings == {
        "files": (f"MCP server 'files' is taken from {state}: its entry in {file} is not approved",)
    }


@pytest.mark.parametrize("entry", [7, {"command": "lmstudio-bridge"}, {"command": "x", "disabled": True}])
def test_unapproved_entry_that_cannot_be_used_hides_no_server_either(machine: Machine, entry: object) -> None:
    machine.write("work/project/.mcp.json", {"mcpServers": {"files": entry}})
    machine.claude(**servers("files"))

    assert scopes(machine.load()) == {"files": "user"}
    assert machine.load().skipped == {}


@pytest.mark.parametrize("end", [",}", "/* x */}", ""])
def test_broken_settings_are_a_warning_and_approve_nothing(machine: Machine, end: str) -> None:
    """Claude Code reads neither comments nor trailing commas there, so such a file approves nothing there, too."""
    path = machine.write(".claude/settings.json", f'{{"enableAllProjectMcpServers": true{end}')
    catalog = machine.load()

    assert scopes(catalog) == {}
    assert len(catalog.warnings) == 1
    assert str(path) in catalog.warnings[0]
    assert "line 1, column" in catalog.warnings[0]


def test_no_value_of_a_file_is_shown_by_the_catalog(machine: Machine) -> None:
    entry = {"command": "x", "args": ["s3cr3t"], "env": {"KEY": "s3cr3t"}, "headers": {"X": "s3cr3t"}}
    web = {"url": "https://s3cr3t@127.0.0.1/?k=s3cr3t", "headers": {"X": "s3cr3t"}}
    machine.write("work/project/.mcp.json", {"mcpServers": {"waiting": entry}})
    machine.claude(mcpServers={"mine": entry, "web": web, "bad": {**entry, "command": ["s3cr3t"]}})

    assert "s3cr3t" not in repr(machine.load())
