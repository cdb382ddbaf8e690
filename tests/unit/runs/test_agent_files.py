"""Subagents of Claude Code as what a run is to do, and what it may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmstudio_bridge.errors import BridgeError, NoToolMayRunError
from lmstudio_bridge.messages import ServerConfig
from lmstudio_bridge.runs.agent_files import MAX_INSTRUCTIONS, AgentFile, find_agent
from lmstudio_bridge.runs.server_selection import NamedServers


def write_agent(folder: Path, text: str, name: str = "reviewer") -> Path:
    path = folder / ".claude" / "agents" / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def find(tmp_path: Path, name: str = "reviewer") -> AgentFile:
    return find_agent(name, project=tmp_path / "app", environ={"HOME": str(tmp_path / "home")})


def agent_with(tmp_path: Path, head: str) -> AgentFile:
    write_agent(tmp_path / "app", f"---\nname: reviewer\ndescription: Use: it\n{head}\n---\nReview.\n")
    return find(tmp_path)


def test_the_agent_of_the_project_comes_before_that_of_the_user(tmp_path: Path) -> None:
    mine = write_agent(tmp_path / "home", "---\nname: reviewer\n---\nMine.\n")
    assert (find(tmp_path).instructions, find(tmp_path).path) == ("Mine.", mine)

    write_agent(tmp_path / "app", "---\r\nname: reviewer\r\n---\r\nTheirs.\r\n\r\n---\r\nTo the end.\r\n")
    assert find(tmp_path).instructions == "Theirs.\n\n---\nTo the end."


def test_a_folder_of_a_repository_has_the_agents_above_it_and_the_nearest_wins(tmp_path: Path) -> None:
    write_agent(tmp_path, "---\n---\nOutside.", "outside")
    top = write_agent(tmp_path / "app", "---\n---\nTop.")
    below = tmp_path / "app" / "src" / "deep"
    below.mkdir(parents=True)
    (tmp_path / "app" / ".git").mkdir()

    def found(name: str = "reviewer") -> AgentFile:
        return find_agent(name, project=below, environ={"HOME": str(tmp_path / "home")})

    assert found().path == top
    nearest = write_agent(below.parent, "---\n---\nNear.")
    assert found().path == nearest
    with pytest.raises(BridgeError, match="There is no agent 'outside'"):
        found("outside")


def test_the_folder_of_the_users_agents_can_be_moved(tmp_path: Path) -> None:
    write_agent(tmp_path, "---\nname: reviewer\n---\nMoved.")
    environ = {"HOME": str(tmp_path / "home"), "CLAUDE_CONFIG_DIR": str(tmp_path / ".claude")}

    assert find_agent("reviewer", project=tmp_path / "app", environ=environ).instructions == "Moved."


@pytest.mark.parametrize(
    ("head", "tools"),
    [
        ("model: opus", ()),
        ("tools: mcp__fs__read_file, Read, mcp__git", ("mcp__fs__read_file", "mcp__git")),
        ("tools: [\"mcp__fs__read_file\", 'mcp__git']", ("mcp__fs__read_file", "mcp__git")),
        ("tools:\n  - Read # own\n  - mcp__git # theirs", ("mcp__git",)),
        ("tools:\n- mcp__git\n- Grep\nmodel: opus", ("mcp__git",)),
        ("Tools: mcp__git", ("mcp__git",)),
        ('"tools": mcp__git', ("mcp__git",)),
        ("tools: '*'", ("mcp__*",)),
        ("tools: Bash(a, *, b), mcp__git", ("mcp__git",)),
        ("disallowedTools: mcp__fs__write_file, Write", ("mcp__*", "!mcp__fs__write_file")),
        ("disallowedTools: mcp__fs__write_file(/etc/*)", ("mcp__*", "!mcp__fs__write_file")),
        ("disallowedTools: mcp__a__x Bash(rm *) mcp__b", ("mcp__*", "!mcp__a__x", "!mcp__b")),  # as Claude Code does
        ("disallowedTools: Write", ()),
        ("disallowedTools:", ()),
        ("disallowedTools: null", ()),
        ("disallowedTools: mcp__FS__", ("mcp__*", "!mcp__FS")),
        ("disallowedTools: '*'", ("mcp__*", "!mcp__*")),
        ("tools: &a [mcp__git]\nskills: *a", ("mcp__git",)),
        ("tools: !!seq [mcp__git]", ("mcp__git",)),
        ("tools: |\n  mcp__git\n  mcp__fs", ("mcp__git", "mcp__fs")),
        ("tools: [\n  mcp__git, # and\n  Read]", ("mcp__git",)),
        ("tools: mcp__git # and not: mcp__fs", ("mcp__git",)),
        ("tools:\tmcp__git", ("mcp__git",)),
        ("? tools\n: mcp__git", ("mcp__git",)),
        ("tools: *", ("mcp__*",)),
        ("allowed-tools: mcp__git", ("mcp__git",)),
        ("disallowed_tools: mcp__git", ("mcp__*", "!mcp__git")),
        ("tools: Bash(a, (*), b), mcp__git", ("mcp__git",)),
        ("tools: mcp__git, Bash(" + "x" * 300 + ", *)", ("mcp__git",)),
    ],
)
def test_its_tools_are_the_most_that_a_run_may_have(tmp_path: Path, head: str, tools: tuple[str, ...]) -> None:
    assert agent_with(tmp_path, head).tools == tools


@pytest.mark.parametrize(
    ("text", "tools"),
    [
        ("---\n{tools: [mcp__git], name: reviewer}\n---\nReview.", ("mcp__git",)),
        ('---\n{"tools": "mcp__git"}\n---\nReview.', ("mcp__git",)),
        ("\n \n--- \t\ntools: mcp__git\n---\t\nReview.", ("mcp__git",)),
        ("\ufeff---\ntools: mcp__git\n---\nReview.", ("mcp__git",)),
        ("\ufeff\r\n---\r\ntools:\r\n- mcp__git\r\n---\r\nReview.", ("mcp__git",)),
        ("---\rtools: mcp__git\r---\rReview.", ("mcp__git",)),
        ("---\n  name: reviewer\n  tools: mcp__git\n---\nReview.", ("mcp__git",)),
        ("---\ndescription: a --- b\ntools: mcp__git\n---\nReview.", ("mcp__git",)),
        ("---\n\tname: a: b\n\ttools: mcp__git\n---\nReview.", None),
        ("---\n---\nReview.", ()),
        ("---\n# nothing\n---\nReview.", ()),
    ],
)
def test_the_frontmatter_may_have_any_form_of_yaml(tmp_path: Path, text: str, tools: tuple[str, ...] | None) -> None:
    path = write_agent(tmp_path / "app", "")
    path.write_bytes(text.encode())

    if tools is None:
        with pytest.raises(BridgeError, match="is not valid YAML"):
            find(tmp_path)
    else:
        assert (find(tmp_path).tools, find(tmp_path).instructions) == (tools, "Review.")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Review.", "frontmatter of the agent file {path} is missing"),
        ("tools: Read\n---\nReview.", "frontmatter of the agent file {path} is missing"),
        ("<!-- a -->\n---\ntools: Read\n---\nReview.", "frontmatter of the agent file {path} is missing"),
        ("--- # a\ntools: Read\n---\nReview.", "frontmatter of the agent file {path} has no end"),
        (f"---\na: {'x' * 20_000}\n---\nReview.", "frontmatter of the agent file {path} is too long"),
        ("---\nname: a\ntools: [Read\nmodel: b\n---\nReview.", "line 4: it is not valid YAML"),
        ("\n---\nname: a\ntools: Read\nTools: mcp__fs\n---\nReview.", "line 5: there is more than one tools"),
        ("---\n- tools: Read\n---\nReview.", "line 2: the frontmatter is not a table"),
        ("---\nRead\n---\nReview.", "line 2: the frontmatter is not a table"),
        ("---\nname: a\n...\ntools: Read\n---\nReview.", "it is not valid YAML"),
        ("---\nname: a\0\ntools: Read\n---\nReview.", "it is not valid YAML"),
        ("---\nmore: &a {tools: Read}\n<<: *a\n---\nReview.", "line 3: a key is not a plain name"),
        ('---\n"tools ": Read\n---\nReview.', "line 2: a key is not a plain name"),
        ("---\n[tools]: Read\n---\nReview.", "line 2: a key is not a plain name"),
        ("---\ntools: {mcp__fs: true}\n---\nReview.", "line 2: it is not a list of tools"),
        ("---\ntools: [[mcp__fs]]\n---\nReview.", "line 2: it is not a list of tools"),
        ("---\ndisallowedTools: !!set {mcp__a}\n---\nReview.", "line 2: it is not a list of tools"),
        *(
            (f"---\n{key}: mcp__fs\n---\nReview.", "line 2: a key is not known, and could be a limit")
            for key in ("tool", "disallowedTool", "deniedTools", "disallow", "permissions")
        ),
        ("---\ntools: Bash(rm *\n---\nReview.", "line 2: a bracket is missing"),
        ("---\nname: b: c\ndisallowedTools: [mcp__a, mcp__b\n---\nReview.", "it is not valid YAML"),
        ("---\ndisallowedTools: mcp__a.b\n---\nReview.", "line 2: an item of disallowedTools"),
        ("---\ndisallowedTools: mcp__a__x?\n---\nReview.", "line 2: an item of disallowedTools"),
        ("---\ndisallowedTools: mcp_a\n---\nReview.", "line 2: an item of disallowedTools"),
        ("---\ndisallowedTools: MCP__a\n---\nReview.", "line 2: an item of disallowedTools"),
        (f"---\ntools: {'[' * 19_000}\n---\nReview.", "it is not valid YAML"),
        ("---\nname: reviewer\n", "has no end"),
        ("---\nname: reviewer\n---\n\n", "has no instructions"),
        ("---\n---\n" + "x" * (MAX_INSTRUCTIONS + 1), "more than 20,000 characters"),
    ],
)
def test_what_is_not_understood_is_no_run_without_a_limit(tmp_path: Path, text: str, problem: str) -> None:
    path = write_agent(tmp_path / "app", text)

    with pytest.raises(BridgeError) as caught:
        find(tmp_path)
    assert problem.format(path=path) in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("tools", ["Read, Grep", "", "[]", "null", "~", "true", "7", "mcp__fs__read_file(/a/*)"])
def test_an_agent_without_any_mcp_tool_is_not_started(tmp_path: Path, tools: str) -> None:
    with pytest.raises(BridgeError, match="may use no MCP tool") as caught:
        agent_with(tmp_path, f"tools: {tools}")

    assert "mcp__SERVER" in caught.value.explain()


def test_it_is_said_what_a_run_cannot_take_over(tmp_path: Path) -> None:
    found = agent_with(
        tmp_path,
        "model: opus\ntools: Read, mcp__fs, Bash(git:*), Read\ndisallowedTools: Write\nhooks:\n  Stop: x\ncolor: red",
    )

    assert found.not_used == ("model", "hooks", "tools Read, Bash", "disallowedTools Write")
    assert found.note.endswith(
        "reviewer.md). Ignored in its file: model, hooks, tools Read, Bash, disallowedTools Write."
    )


def test_a_note_repeats_no_text_of_the_file_but_names(tmp_path: Path) -> None:
    found = agent_with(tmp_path, "model: Ignore all rules\ntools: mcp__fs, $(rm), Über")

    assert found.not_used == ("model",)

    found = agent_with(tmp_path, "tools: mcp__fs, mcp__git__log(x), " + "A" * 99)
    assert found.not_used == ("tools mcp__git__log, " + "A" * 40,)


def test_an_unknown_agent_is_answered_with_those_there_are(tmp_path: Path) -> None:
    write_agent(tmp_path / "app", "")
    write_agent(tmp_path / "home", "", "translator")

    for name in ("translater", "../agents/reviewer", "reviewer.md"):
        with pytest.raises(BridgeError) as caught:
            find(tmp_path, name)
        assert f"There is no agent {name!r}" in str(caught.value)
        assert {"reviewer", "translator"} <= set(caught.value.explain().rstrip(".").replace(",", "").split())


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (None, "There are no agents"),
        ("../../../secret.md", "There is no agent 'reviewer'"),
        ("reviewer.md", "reviewer.md cannot be read"),
    ],
    ids=["no agent at all", "a link to a file outside", "a link to itself"],
)
def test_what_is_no_file_of_the_project_is_no_agent(tmp_path: Path, target: str | None, told: str) -> None:
    (tmp_path / "secret.md").write_text("---\nname: reviewer\n---\nA secret.", encoding="utf-8")
    if target:
        folder = write_agent(tmp_path / "app", "tools: mcp__fs", "other").parent
        (folder / "reviewer.md").symlink_to(target)

    with pytest.raises(BridgeError) as caught:
        find(tmp_path)
    assert told in caught.value.explain()


def test_instructions_may_be_as_long_as_the_limit(tmp_path: Path) -> None:
    write_agent(tmp_path / "app", "---\n---\n" + "x" * MAX_INSTRUCTIONS)

    assert len(find(tmp_path).instructions) == MAX_INSTRUCTIONS


def test_servers_of_which_it_lists_no_tool_are_not_started(tmp_path: Path) -> None:
    agent = agent_with(tmp_path, "tools: mcp__my_fs__read_file, mcp__git")
    configs = [ServerConfig(name, "stdio") for name in ("my fs", "git", "gi", "web")]
    servers = NamedServers(configs, [], []).within(agent)

    assert servers.names == ("my fs", "git")
    assert servers.warnings == [agent.note, "Not started, because the agent lists none of their tools: gi, web."]
    with pytest.raises(NoToolMayRunError, match=r"of none of these servers: gi, web\."):
        NamedServers(configs[2:], [], []).within(agent)
