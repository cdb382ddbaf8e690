"""Claude Code's own rules: which tools and paths they forbid in a run, and what is said of the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PureWindowsPath

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
        ("mcp__fs__write_file()", ["write_file"]),  # with these brackets it is as without them
        ("mcp__fs(*)", ["read_file", "write_file"]),
        ("mcp__fs__", ["read_file", "write_file"]),
        ("MCP__fs__write_file", ["write_file"]),
        (" mcp__fs\u200b__write_file\n", ["write_file"]),
        ("mcp__*__write_file", ["write_file"]),
        ("*__write_file", ["write_file"]),
        ("mcp__fs__*_file", ["read_file", "write_file"]),
        ("Bash(rm *)", []),
        ("Bash(git push:*)", []),
        ('Bash(x "a (b)"; mcp__fs, Read(.env) | fs/*)', []),
        ("Task(mcp__fs)", []),
        ("Web*", []),
        ("Skill(a/*)", []),
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
        ("Glob(src/**)", "src/a.py", "rw"),
        ("Grep(src/**)", "src/a.py", "rw"),
        ("NotebookEdit(src/**)", "src/a.py", "w"),
        ("MultiEdit(src/**)", "src/a.py", "w"),
        ("read(.env)", ".env", "rw"),
        ("Read( .env )", ".env", "rw"),
        ("Read(././.env)", ".env", "rw"),
        ("Read(src//a.py)", "src/a.py", "rw"),
        ("Read(src/./a.py)", "src/a.py", "rw"),
        ("Read(src/x/../a.py)", "src/a.py", "rw"),
        ("Read(src/**)", "src", "rw"),
        ("Read(.)", "a.txt", "rw"),
        ("Read(./)", "a.txt", "rw"),
        ("Read(*)", "a.txt", "rw"),
        ("Read(**)", "src/a.py", "rw"),
        ("Read(~)", "a.txt", "rw"),
        ("Read(~/)", "a.txt", "rw"),
        ("Read(~/**)", "a.txt", "rw"),
        ("Read(~/x/../project/*.txt)", "a.txt", "rw"),
        ("Read(~\\project\\a.txt)", "a.txt", "rw"),
        ("Read(src\\*.py)", "src/a.py", "rw"),
        ("Read(.\\.env)", ".env", "rw"),
        ("Read(\\[x\\].txt)", "[x].txt", "rw"),
        ("Read(#a)", "#a", "rw"),
        ("Read(/)", "a.txt", "rw"),
        ("Read(//)", "a.txt", "rw"),
        ("Read(//**)", "a.txt", "rw"),
        ("Read(//**/.env)", ".env", "rw"),
        ("Read(\u00e9.txt)", "e\u0301.txt", "rw"),  # as macOS has it
        ("Read(a (b).txt)", "a (b).txt", "rw"),
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


def test_a_pattern_may_go_through_a_link_or_look_like_an_absolute_path(project: Path) -> None:
    real = project / "[real] #1"
    real.mkdir()
    (project.parent / "link").symlink_to(real)
    rules = ["Read(~/link/a.txt)", f"Read({real.as_posix().replace('[', '?')}/b.txt)", "Read(/c.txt)"]
    settings(project / ".claude" / "settings.json", deny=rules)

    assert [name for name in "abcd" if denied(project, READ, f"{real}/{name}.txt")] == ["a", "b"]
    assert denied(project, READ, "c.txt")
    assert load(project).unclear == ()


def test_a_project_may_have_a_name_like_a_pattern(tmp_path: Path) -> None:
    project = tmp_path / "home" / "[a] !b*"
    project.mkdir(parents=True)
    settings(project / ".claude" / "settings.json", deny=["Read(../.env)", "Read(sub/a.txt)", "Read(*.pem)"])

    found = [path for path in ("sub/a.txt", "x/b.pem", "a.txt") if denied(project, READ, path)]
    assert found == ["sub/a.txt", "x/b.pem"]
    assert load(project).find_for_paths([project.parent / ".env"], reads=True) is not None


@pytest.mark.parametrize(
    "rule",
    [
        "C:\\Users\\me\\**",
        "C:/Users/me/*.txt",
        "//c/Users/me/**",
        "/c:/Users/Me/a.txt",
        "c:\\",
        "//C/**/a.txt",
        "C:\\**",
    ],
)
def test_windows_paths(project: Path, rule: str) -> None:
    settings(project / ".claude" / "settings.json", deny=[f"Read({rule})"])
    rules = load(project)

    assert rules.find_for_paths([PureWindowsPath(r"C:\Users\me\a.txt")], reads=True) is not None
    assert rules.find_for_paths([PureWindowsPath(r"D:\Users\me\a.txt")], reads=True) is None
    assert rules.unclear == ()


def test_every_settings_file_counts(project: Path, tmp_path: Path) -> None:
    managed = tmp_path / "managed"
    (project / ".git").mkdir()
    below = project / "below"
    below.mkdir()
    files = [
        settings(managed / "managed-settings.json", deny=["mcp__a"]),
        settings(managed / "managed-settings.d" / "10-more.json", deny=["mcp__b"]),
        settings(project.parent / ".claude" / "settings.json", deny=["mcp__c"]),
        settings(project.parent / ".claude" / "remote-settings.json", deny=["mcp__g"]),
        settings(project / ".claude" / "settings.json", deny=["mcp__d"], allow=["mcp__a", "mcp__x"]),
        settings(below / ".claude" / "settings.local.json", ask=["mcp__e"]),
    ]
    elsewhere = settings(tmp_path / "moved" / "settings.json", deny=["mcp__f"])
    environ = {"HOME": str(project.parent)}

    rules = load_host_rules(project=below, environ=environ, managed=managed)
    moved = load_host_rules(project=below, environ={**environ, "CLAUDE_CONFIG_DIR": str(elsewhere.parent)})

    assert {(rule.source, rule.text) for rule in rules.rules} == {
        (path, f"mcp__{letter}") for path, letter in zip(files, "abcgde", strict=True)
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

    assert "ask the user before fs write_file, which counts as deny in a run" in decision.reason
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
    ("rule", "holds", "refused"),
    [
        ("mcp__fs__write_file(path:a)", "holds for all of mcp__fs__write_file", "w"),
        ("mcp__fs__write_file(", "holds for all of mcp__fs__write_file", "w"),
        ("mcp__fs__write_file (a)", "holds for all of mcp__fs__write_file", "w"),
        ("mcp__fs__write_{file,dir}", "holds for all of mcp__fs__write_*", "w"),
        ("mcp__f.s__write", "holds for all of mcp__f*", "rw"),
        ("mcp__git,mcp__fs", "holds for all of mcp__git and mcp__fs", "rw"),
        ("Bash(ls) mcp__fs", "holds for all of mcp__fs", "rw"),
        ("mcp__(x)", "holds for all of mcp__*", "rw"),
        ("*(.env)", "holds for every path and all of *", "rw"),
        ("Edit*(src/**)", "holds for writing to every path", "w"),
        ("mcp__*(.env)", "holds for all of mcp__*", "rw"),
        *((rule, "holds for every path", "rw") for rule in ("Read(", "Read()", "Read( )", "Read(!a)", "Read(./!a)")),
        *(
            (rule, "holds for every path", "rw")
            for rule in (
                "Read (a)",
                "Read(a),Edit(b)",
                "Read(/x/*/../a)",
                "Read([a)",
                "Read([z-a])",
                "Read([A-_])",
                "Read(a)|Edit(b)",
                "Read(a) Bash(b)",
                "Bash(a), Read(b)",
            )
        ),
        *(  # quotes, variables, alternatives, other forms of several tools, and patterns that take time without end
            (rule, "holds for every path", "rw")
            for rule in (
                'Read("./.env")',
                "Read($HOMES/a)",
                "Read($$/a)",
                "Read(~other/a)",
                "Read(a\nb)",
                f"Read({'{a,b}' * 9})",
                "Read(./a, ./b)",
                "Read(./.env:*)",
                "Read:./.env",
                "Read|Edit(./a)",
            )
        ),
        *((rule, "holds for every path", "rw") for rule in (f"Read({'*a' * 30}b)", f"Read(x/{'**/a/' * 9})")),
        (["Read(./.env)"], "holds for every path", "rw"),
        *(  # too long
            (rule, "holds for every path and all of mcp__*", "rw")
            for rule in (f"Read({'a' * 2_000})", f"Bash({'a' * 2_000})", f".{'*' * 20_000}x")
        ),
        ("Edit()", "holds for writing to every path", "w"),
        ("mcp__fs__.*", "holds for all of mcp__fs__*", "rw"),
        ("^mcp__fs__write.*$", "holds for all of mcp__fs__write*", "w"),
        ("\uff4dcp__fs.x", "holds for all of mcp__fs*", "rw"),
        ("mcp__.*__write_file", "holds for all of mcp__*", "rw"),
        ("mcp__fs__write file", "holds for all of mcp__fs__write*", "w"),
        (["mcp__fs"], "holds for all of mcp__fs*", "rw"),
        *((rule, "holds for all of mcp__*", "rw") for rule in ("mcp:fs", ".*", "MCP(fs)")),
        ("Bash(a), mcp__fs__write_file(b)", "holds for all of mcp__fs__write_file", "w"),
        ("edit, write", "holds for writing to every path", "w"),
        ("Edit(./a;b)", "holds for writing to every path", "w"),
        *(  # several rules in one text
            (rule, "holds for every path", "rw")
            for rule in (
                *(
                    "Bash(x);Read(./.env)",
                    "Bash(x) and Read(./.env)",
                    "Bash(x), Read (./.env)",
                    "Read(./a); Read(./.env)",
                ),
                *(
                    "Edit(./a), Read(./.env)",
                    "Bash(ls)&Read(./.env)",
                    "Bash(ls; Read(./.env)",
                    "Bash, Read",
                    "Read/.env",
                    "secrets/a.txt",
                    "secrets/",
                    "$HOME/.ssh",
                    "(Bash|Read)",
                ),
                "WebFetch(x)\nGrep(./a)",
            )
        ),
        *(  # brackets, variables and lists that Claude Code takes for parts of names
            (rule, "holds for every path", "rw")
            for rule in (
                *("Read(./secrets/{a,b)", "Read(./a}b)", "Read(//$HOME/project/.env)", "Read(./$FOO/.env)"),
                *("Read(.env|a.txt)", "Read(a, b)", "Read(./a;./b)", "Read(./a ./b)", "Read(./a and ./b)", "Read(a)b)"),
                *("Read(./%APPDATA%/a)", "Read(src/${X}/a)", "./secrets/**", "*.env", ".env", "~/.ssh/**", "C:\\\\a"),
            )
        ),
        ("Bash(ls);mcp__fs__write_file(*)", "holds for all of mcp__fs__write_file", "w"),
        ("Bash(x) and mcp__fs", "holds for all of mcp__fs", "rw"),
        ("Edit(./.env) mcp__fs__read_file(*)", "holds for every path and all of mcp__fs__read_file", "rw"),
        *(
            (rule, "holds for every path and all of mcp__*", "rw")
            for rule in ("Read(a), fs/*", "mcp__a | fs.* | Read(a)")
        ),
        ("mcp__fs__write_file(a); Read(b)", "holds for every path and all of mcp__fs__write_file", "rw"),
        *(
            (rule, "holds for all of mcp__*", "rw")
            for rule in (
                *(
                    ".*write.*",
                    ".*delete.*",
                    "fs.*",
                    "fs*",
                    "fs/*",
                    "*/*",
                    "fs/x",
                    "write_file",
                    "Bash(ls); fs/*",
                    ".+",
                ),
                *("MCPTool(fs)", "mcpServers(fs)", "tools: *", "servers: fs", "fs/write(x)", ["fs/*"]),
            )
        ),
        *(
            (rule, "does not hold in runs", "")
            for rule in (
                *("", 7, None, "a b", "Raed(.env)", "(a)", "rm -rf *", "Bash: git *", "https://*", "SearchMcpThings"),
                *('Bash(echo ")")', "Bash(a), Task(b)"),
            )
        ),
    ],
)
def test_a_rule_that_is_not_understood_is_named_and_forbids_all_it_could_be_about(
    project: Path, rule: object, holds: str, refused: str
) -> None:
    path = settings(project / ".claude" / "settings.json", deny=[rule])

    [said] = load(project).unclear
    assert said.startswith(f"{path}: the rule deny {json.dumps(rule)[:80]} is not understood, ")
    assert said.endswith(f" {holds}.")
    found = [mark for mark, tool in (("r", READ), ("w", WRITE)) if denied(project, tool, "any.txt")]
    assert "".join(found) == refused


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


def test_rules_hold_also_where_comments_and_trailing_commas_make_the_file_invalid(project: Path) -> None:
    path = project / ".claude" / "settings.json"
    path.parent.mkdir()
    path.write_text('// ours\n{"permissions": {"deny": ["Read(//srv/a)", "mcp__fs__read_file",]}}', encoding="utf-8")

    assert [rule.text for rule in load(project).rules] == ["Read(//srv/a)", "mcp__fs__read_file"]


@pytest.mark.parametrize("kind", ["invalid", "dead link"])
def test_a_file_that_cannot_be_read_is_a_warning(project: Path, kind: str) -> None:
    path = project / ".claude" / "settings.json"
    path.parent.mkdir()
    if kind == "dead link":
        path.symlink_to("nowhere")
    else:
        path.write_text('{"permissions": ', encoding="utf-8")

    [warning] = load(project).warnings
    assert f"{path} cannot be read, so its rules do not hold in runs" in warning


@pytest.mark.parametrize("rule", ["Read(./docs/**)", "Read(.env)", "Read(**/docs/*.html)"])
@pytest.mark.parametrize("folder", [True, False])
def test_rules_about_paths_are_not_about_pages_of_the_web(project: Path, rule: str, folder: bool) -> None:
    settings(project / ".claude" / "settings.json", deny=[rule])
    made = replace(policy(project), local={"fs": project if folder else None})

    for url in ("https://x.com/docs/a.html", "HTTP://x.com/.env"):
        assert made.check_call(READ, {"url": url}).allowed
        assert made.check_call(WRITE, {"url": url}).allowed
    assert not made.check_call(
        WRITE, {"url": f"file://{project}/{'docs/a.html' if 'docs' in rule else '.env'}"}
    ).allowed


@pytest.mark.parametrize(
    ("rule", "forbidden", "others"),
    [
        ("Read(**/*.{pem,key})", ["a.pem", "x/b.key"], ["a.txt"]),
        ("Read(~/project/.ssh/**)", [".ssh/a"], ["a"]),
        ("Read([a,;|$b].txt)", ["a.txt", "b.txt"], ["c.txt"]),
        ("Read(Tom and {Jerry}.txt)", ["Tom and {Jerry}.txt"], ["Tom"]),
        ("Read(*.{pem,key})", ["a.pem", "x/b.key", "a.{pem,key}"], ["a.pe", "pem", "a.txt"]),
        ("Read(src/{a,{b,c}.d}.py)", ["src/a.py", "src/b.d.py", "src/c.d.py"], ["src/b.py", "a.py"]),
        ("Read(./.env{,.local, .prod})", [".env", ".env.local", ".env.prod"], [".env.x"]),
        ("Read($HOME/project/x)", ["x"], ["y"]),
        *((f"Read({name}/x)", ["x"], ["y"]) for name in ("$PWD", "${CLAUDE_PROJECT_DIR}")),
        ("Read(${HOME}/project/x/**)", ["x", "x/y"], ["y"]),
        ("Read(%USERPROFILE%\\project\\x)", ["x"], ["y"]),
    ],
)
def test_what_shells_expand_is_expanded(project: Path, rule: str, forbidden: list[str], others: list[str]) -> None:
    settings(project / ".claude" / "settings.json", deny=[rule])

    assert load(project).unclear == ()
    assert [path for path in forbidden + others if denied(project, READ, path)] == forbidden


@pytest.mark.parametrize("rule", ["Read(./secrets/**)", "Read(/secrets/key)", "Read(secrets/k*)"])
@pytest.mark.parametrize(
    "path", ["secrets/key", "/projects/secrets/key", "/projects/a/../secrets/./key", "file:///data/me/secrets/key"]
)
def test_a_container_may_have_the_folder_under_any_name(project: Path, rule: str, path: str) -> None:
    settings(project / ".claude" / "settings.json", deny=[rule])
    made = replace(policy(project), local={"fs": None})

    assert not made.check_call(READ, {"path": path}).allowed
    assert made.check_call(READ, {"path": "/projects/src/key"}).allowed


def test_a_negated_class_of_characters_forbids_what_it_does_in_claude_code(project: Path) -> None:
    settings(project / ".claude" / "settings.json", deny=["Read(./[!C]onfig)"])

    assert denied(project, READ, "config")
    assert not denied(project, READ, "configs")


def test_names_are_those_of_claude_code() -> None:
    assert name_in_claude_code(ServerTool("plugin:p:my srv.x", "a.b", "", {})) == "mcp__plugin_p_my_srv_x__a_b"
