"""Claude Code's own rules: which tools and paths they forbid in a run, and what is said of the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from lmstudio_bridge.messages import Access, ServerTool
from lmstudio_bridge.security.access import Policy, Rule, Rules
from lmstudio_bridge.security.host_rules import HostRules, load_host_rules, name_in_claude_code
from lmstudio_bridge.security.workspace import make_workspace

READ = ServerTool("fs", "read_file", "", {"type": "object"}, read_only=True)
WRITE = ServerTool("fs", "write_file", "", {"type": "object"})


def settings(path: Path, **lists: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"permissions": lists}), encoding="utf-8")
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "home" / "project"
    folder.mkdir(parents=True)
    return folder


def load(project: Path, *, managed: Path | None = None, **environ: str) -> HostRules:
    environ = {"HOME": str(project.parent), **environ}
    return load_host_rules(project=project, environ=environ, managed=managed or project.parent / "none")


def policy(project: Path, *, access: Access = "write", rules: Rules | None = None) -> Policy:
    workspace = make_workspace([project], home=project.parent)
    return Policy(access, rules or Rules(), workspace, {"fs": project}, host=load(project))


def denied(project: Path, tool: ServerTool, path: str) -> bool:
    return not policy(project).check_call(tool, {"path": path}).allowed


@pytest.mark.parametrize(
    ("rule", "refused"),
    [
        ("mcp__fs", ["read_file", "write_file"]),
        ("mcp__fs__*", ["read_file", "write_file"]),
        ("mcp__fs__write_file", ["write_file"]),
        ("mcp__FS__Write_File", ["write_file"]),
        ("mcp__fs__write_*", ["write_file"]),
        ("mcp__*", ["read_file", "write_file"]),
        ("*", ["read_file", "write_file"]),
        ("mcp__f", []),
        ("mcp__fs__write", []),
        ("mcp__other__write_file", []),
        ("Bash(rm *)", []),
        ("Edit", []),
        ("WebFetch", []),
    ],
)
@pytest.mark.parametrize("verb", ["deny", "ask"])
def test_rules_for_tools(project: Path, rule: str, refused: Sequence[str], verb: str) -> None:
    settings(project / ".claude" / "settings.json", **{verb: [rule]})
    made = policy(project)

    assert [tool.name for tool in (READ, WRITE) if not made.check_call(tool, {}).allowed] == refused
    assert [tool.name for tool in (READ, WRITE) if not made.may_run(tool)] == refused
    assert made.host.unclear == ()


@pytest.mark.parametrize(
    ("rule", "path", "refused"),
    [
        ("Read(./.env)", ".env", "rw"),
        ("Read(.env)", ".ENV", "rw"),
        ("Read(.env)", "deep/er/.env", "rw"),
        ("Read(.env)", ".env.example", ""),
        ("Read(./secrets/**)", "secrets/a/b", "rw"),
        ("Read(secrets/)", "secrets/a/b", "rw"),
        ("Read(./secrets/**)", "other/secrets/a", ""),
        ("Read(*.pem)", "keys/a.pem", "rw"),
        ("Read(/src/*.py)", "src/a.py", "rw"),
        ("Read(/src/*.py)", "src/deep/a.py", ""),
        ("Read(~/project/a.txt)", "a.txt", "rw"),
        ("Read(../project/a.txt)", "a.txt", "rw"),
        ("Edit(src/**)", "src/a.py", "w"),
        ("Write(src/**)", "src/a.py", "w"),
        ("Edit(src/**)", "src/../src/a.py", "w"),
        ("Edit(src/**)", "docs/a.md", ""),
        ("Glob(src/**)", "src/a.py", ""),
    ],
)
def test_rules_for_paths(project: Path, rule: str, path: str, refused: str) -> None:
    settings(project / ".claude" / "settings.local.json", deny=[rule])

    found = [mark for mark, tool in (("r", READ), ("w", WRITE)) if denied(project, tool, path)]
    assert "".join(found) == refused


def test_absolute_patterns_and_links(project: Path) -> None:
    (project / "real.txt").write_text("x", encoding="utf-8")
    (project / "link.txt").symlink_to(project / "real.txt")
    settings(project / ".claude" / "settings.json", deny=[f"Read(/{project}/real.txt)"])

    assert denied(project, READ, "link.txt")
    assert denied(project, READ, str(project / "real.txt"))
    assert not denied(project, READ, "other.txt")


def test_every_settings_file_counts(project: Path, tmp_path: Path) -> None:
    managed = tmp_path / "managed"
    (project / ".git").mkdir()
    below = project / "below"
    below.mkdir()
    files = [
        settings(managed / "managed-settings.json", deny=["mcp__a"]),
        settings(managed / "managed-settings.d" / "10-more.json", deny=["mcp__b"]),
        settings(project.parent / ".claude" / "settings.json", deny=["mcp__c"]),
        settings(project / ".claude" / "settings.json", deny=["mcp__d"], allow=["mcp__a", "mcp__x"]),
        settings(below / ".claude" / "settings.local.json", ask=["mcp__e"]),
    ]
    elsewhere = settings(tmp_path / "moved" / "settings.json", deny=["mcp__f"])
    environ = {"HOME": str(project.parent)}

    rules = load_host_rules(project=below, environ=environ, managed=managed)
    moved = load_host_rules(project=below, environ={**environ, "CLAUDE_CONFIG_DIR": str(elsewhere.parent)})

    assert {(rule.source, rule.text) for rule in rules.rules} == {
        (path, f"mcp__{letter}") for path, letter in zip(files, "abcde", strict=True)
    }
    assert (elsewhere, "mcp__f") in {(rule.source, rule.text) for rule in moved.rules}


def test_deny_counts_before_ask_wherever_it_is(project: Path) -> None:
    settings(project / ".claude" / "settings.local.json", ask=["mcp__fs__write_file"])
    settings(project.parent / ".claude" / "settings.json", deny=["mcp__fs"])

    found = load(project).find_for_tool(WRITE)
    assert found is not None
    assert found.verb == "deny"


def test_what_asks_is_refused_and_says_how_to_allow_it(project: Path) -> None:
    path = settings(project / ".claude" / "settings.json", ask=["mcp__fs__write_file", "Read(.env)"])
    made = policy(project)

    decision = made.check_call(WRITE, {"path": "a.txt"})
    of_path = made.check_call(READ, {"path": ".env"})

    assert "ask the user before fs write_file, and nobody can be asked in a run" in decision.reason
    assert f'ask "mcp__fs__write_file" ({path}) counts as deny in a run' in decision.remedy
    assert 'add allow = ["fs/write_file"] to your lmstudio-bridge.toml' in decision.remedy
    assert "To allow it in runs, remove that rule" in of_path.remedy


def test_a_rule_of_the_users_own_answers_what_asks_and_not_what_denies(project: Path) -> None:
    allow = Rules((Rule("allow", "fs/write_file", "own.toml"),))
    path = project / ".claude" / "settings.json"

    settings(path, ask=["mcp__fs"])
    assert policy(project, rules=allow).check_call(WRITE, {}).allowed
    settings(path, deny=["mcp__fs"])
    assert not policy(project, rules=allow).check_call(WRITE, {}).allowed


@pytest.mark.parametrize(
    "rule",
    [
        *("mcp__fs__write_file(path:a)", "mcp__fs,mcp__git", "Read(", "", 7, "a b", None),
        *("Read()", "Read(!a)", "Read( .env)", "Read(./)", "Read(//)", "Edit(~)"),
    ],
)
def test_a_rule_that_is_not_understood_is_named(project: Path, rule: object) -> None:
    path = settings(project / ".claude" / "settings.json", deny=[rule])

    rules = load(project)

    assert rules.rules == ()
    assert rules.unclear == (f"{path}: the rule deny {json.dumps(rule)} is not understood.",)


@pytest.mark.parametrize(
    "root", [{"permissions": {"deny": {"a": ["mcp__fs"]}}}, {"permissions": {"deny": {"a": "b"}}}, [{}], None]
)
def test_settings_of_another_shape_are_named(project: Path, root: object) -> None:
    path = project / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_text(json.dumps(root), encoding="utf-8")

    rules = load(project)
    assert len(rules.unclear + rules.warnings) == 1


@pytest.mark.parametrize(
    ("matcher", "named"),
    [
        *(("mcp__fs__.*", True), ("*", True), ("", True), (".+", True), ("^mcp", True), ("Bash|mcp.*", True)),
        *(("Bash|Edit", False), ("Notebook.*|Edit", False)),
    ],
)
def test_hooks_that_would_see_calls_in_runs_are_named(project: Path, matcher: str, named: bool) -> None:
    path = project / ".claude" / "settings.json"
    path.parent.mkdir()
    hook = {"matcher": matcher, "hooks": [{"type": "command", "command": "check.sh"}]}
    path.write_text(json.dumps({"hooks": {"PreToolUse": [hook]}}), encoding="utf-8")

    said = f'{path}: the PreToolUse hook for "{matcher}" does not run for calls in runs.'
    assert load(project).unclear == ((said,) if named else ())


def test_a_file_that_cannot_be_read_is_a_warning(project: Path) -> None:
    path = project / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_text('{"permissions": ', encoding="utf-8")

    [warning] = load(project).warnings
    assert f"{path} cannot be read, so its rules do not hold in runs" in warning


def test_names_are_those_of_claude_code() -> None:
    assert name_in_claude_code(ServerTool("plugin:p:my srv.x", "a.b", "", {})) == "mcp__plugin_p_my_srv_x__a_b"
