"""Configuration files as people write them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.errors import McpConfigError, ServerNotConfiguredError
from lmstudio_bridge.json_text import load_commented
from lmstudio_bridge.mcp_client.config import ConfigFile, starts_bridge
from lmstudio_bridge.mcp_client.discovery import ServerCatalog, load_servers, merge_files
from lmstudio_bridge.messages import ServerConfig


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def unusable(path: Path) -> McpConfigError:
    """Why this file, which was named, cannot be used."""
    with pytest.raises(McpConfigError) as caught:
        load_servers(explicit=path, project=path.parent, environ={})
    return caught.value


def load(folder: Path, entries: dict[str, Any], **environ: str) -> ServerCatalog:
    """The catalog of a project with these entries in its .mcp.json, all of them approved."""
    write(folder / ".mcp.json", {"mcpServers": entries})
    return load_servers(explicit=None, project=folder, environ=environ, trusted=["*"])


def load_one(folder: Path, entry: object, **environ: str) -> ServerConfig:
    catalog = load(folder, {"one": entry}, **environ)
    assert catalog.skipped == {}
    return catalog.servers["one"]


def test_entry_of_claude_code_is_read(tmp_path: Path) -> None:
    entry = {
        "type": "stdio",
        "command": "npx",
        "args": ["-y", "server", 8080],
        "env": {"PORT": 8080, "DEBUG": True, "NAME": "x"},
        "timeout": 90000,
        "alwaysLoad": True,
    }
    assert load_one(tmp_path, entry) == ServerConfig(
        name="one",
        transport="stdio",
        command="npx",
        args=("-y", "server", "8080"),
        env={"PORT": "8080", "DEBUG": "true", "NAME": "x"},
        timeout=90.0,
        source=tmp_path / ".mcp.json",
        scope="project",
    )


@pytest.mark.parametrize(
    ("entry", "transport"),
    [
        ({"command": "x"}, "stdio"),
        ({"command": "x", "args": None, "env": None, "headers": None}, "stdio"),
        ({"command": "x", "url": "http://127.0.0.1"}, "stdio"),
        ({"command": "x", "type": "local", "tools": ["*"]}, "stdio"),
        ({"url": "http://127.0.0.1"}, "http"),
        ({"url": "http://127.0.0.1", "type": "http"}, "http"),
        ({"url": "http://127.0.0.1", "type": "streamable-http"}, "http"),
        ({"url": "http://127.0.0.1", "type": "streamableHttp"}, "http"),
        ({"url": "http://127.0.0.1", "type": "remote"}, "http"),
        ({"url": "http://127.0.0.1", "type": "http-stream"}, "http"),
        ({"url": "http://127.0.0.1", "type": ""}, "http"),
        ({"url": "http://127.0.0.1", "type": "sse"}, "sse"),
        ({"url": "http://127.0.0.1", "type": "SSE"}, "sse"),
        ({"url": "http://127.0.0.1", "transport": "sse"}, "sse"),
        ({"url": "http://127.0.0.1", "transportType": "streamable-http"}, "http"),
        ({"serverUrl": "http://127.0.0.1"}, "http"),
        ({"httpUrl": "http://127.0.0.1", "url": "http://127.0.0.1/sse"}, "http"),
    ],
)
def test_transport_is_said_or_inferred(tmp_path: Path, entry: object, transport: str) -> None:
    assert load_one(tmp_path, entry).transport == transport


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (7, "it is not an object"),
        ({}, "it has neither 'command' nor 'url'"),
        ({"command": ""}, "it has neither 'command' nor 'url'"),
        ({"command": ["npx", "x"]}, "'command' must be a string"),
        ({"command": "x", "args": "-y"}, "'args' must be a list"),
        ({"command": "x", "env": {"KEY": ["secret"]}}, "'env.KEY' must be a string"),
        (
            {"command": "x", "args": ["a", {}], "timeout": "soon"},
            "'args.1' must be a string; 'timeout' must be a number",
        ),
        ({"url": 5}, "'url' must be a string"),
        ({"type": "http", "command": "x"}, "a server of type 'http' needs a 'url'"),
        ({"type": "stdio", "url": "x"}, "a stdio server needs a 'command'"),
        ({"type": "ws", "url": "x"}, "type 'ws' is not one of stdio, http, sse"),
        ({"url": "http://[::1"}, "its 'url' is not valid"),
        ({"url": "http://127.0.0.1:99999/mcp"}, "its 'url' is not valid"),
        ({"url": "localhost:3000/mcp"}, "its 'url' does not begin with http:// or https://"),
    ],
)
def test_malformed_entry_is_skipped_with_its_reason_and_spoils_no_other(
    tmp_path: Path, entry: object, reason: str
) -> None:
    catalog = load(tmp_path, {"bad": entry, "good": {"command": "x"}})

    assert list(catalog.servers) == ["good"]
    assert catalog.skipped == {"bad": f"its entry in {tmp_path / '.mcp.json'} is malformed: {reason}."}


@pytest.mark.parametrize("entry", [{"disabled": True}, {"enabled": False}, {"isActive": False}])
def test_disabled_entries_are_skipped(tmp_path: Path, entry: dict[str, Any]) -> None:
    on = {"command": "x", "disabled": False, "enabled": True}
    catalog = load(tmp_path, {"off": {"command": "x", **entry}, "on": on})

    assert list(catalog.servers) == ["on"]
    assert catalog.skipped == {"off": f"it is disabled in {tmp_path / '.mcp.json'}."}


@pytest.mark.parametrize("name", ["input:token", "command:pick.port", "config:python.path", "workspaceFolder:web"])
def test_what_only_vs_code_knows_is_not_passed_on_as_it_is(tmp_path: Path, name: str) -> None:
    text = f"${{{name}}}"
    web = {"url": "https://127.0.0.1", "headers": {"Authorization": f"Bearer {text}"}}
    catalog = load(tmp_path, {"a": {"command": "x", "args": [f"--at={text}"]}, "web": web})

    told = f"its entry in {tmp_path / '.mcp.json'} uses {text}, which only VS Code can fill in."
    assert catalog.skipped == {"a": told, "web": told}


@pytest.mark.parametrize("text", ["$A", "%A%"])
def test_variable_in_the_way_of_another_program_is_named(tmp_path: Path, text: str) -> None:
    catalog = load(tmp_path, {"a": {"command": "x", "env": {"KEY": text, "PASSWORD": "$B"}}}, A="1")

    (warning,) = catalog.server_warnings["a"]
    assert warning.endswith(f": {text} is passed on as it is; write ${{A}} for the variable")


def test_variables_are_expanded_everywhere(tmp_path: Path) -> None:
    text = "<${A}|${env:A}|${B:-b}|${A:-unused}|${EMPTY:-unused}|${B:-}|${config:-c}|$A|${}>"
    expanded = "<1|1|b|1|||c|$A|${}>"
    catalog = load(
        tmp_path,
        {
            "local": {"command": text, "args": [text], "env": {"${A}": text}, "cwd": "${A}"},
            "remote": {"url": text, "headers": {"X": text}},
        },
        A="1",
        EMPTY="",
    )
    local, remote = catalog.servers["local"], catalog.servers["remote"]

    assert (local.command, local.args, local.env) == (expanded, (expanded,), {"${A}": expanded})
    assert local.cwd == tmp_path / "1"
    assert (remote.url, remote.headers) == (expanded, {"X": expanded})
    assert catalog.server_warnings == {}


def test_unset_variable_stays_and_is_warned_about(tmp_path: Path) -> None:
    """As Claude Code 2.1.330 does."""
    catalog = load(tmp_path, {"one": {"command": "x", "args": ["${GONE}", "${env:ALSO}"]}})
    where = f"MCP server 'one' in {tmp_path / '.mcp.json'}"

    assert catalog.servers["one"].args == ("${GONE}", "${env:ALSO}")
    assert catalog.server_warnings == {
        "one": (
            f"{where}: the environment variable ALSO is not set",
            f"{where}: the environment variable GONE is not set",
        )
    }


def test_value_is_not_expanded_twice(tmp_path: Path) -> None:
    assert load_one(tmp_path, {"command": "${A}"}, A="${B}", B="no").command == "${B}"


@pytest.mark.parametrize(
    ("milliseconds", "seconds"), [(999, None), (1000, 1.0), (1001, 1.001), (60, None), (-5, None), (None, None)]
)
def test_timeout_is_milliseconds(tmp_path: Path, milliseconds: int | None, seconds: float | None) -> None:
    catalog = load(tmp_path, {"one": {"command": "x", "timeout": milliseconds}})

    assert catalog.servers["one"].timeout == seconds
    assert bool(catalog.server_warnings) is (milliseconds is not None and seconds is None)


@pytest.mark.parametrize("key", ["url", "serverUrl", "httpUrl"])
def test_address_is_read_under_each_name(tmp_path: Path, key: str) -> None:
    assert load_one(tmp_path, {key: "http://127.0.0.1/${A}"}, A="mcp").url == "http://127.0.0.1/mcp"


def test_folder_may_stand_below_the_home(tmp_path: Path) -> None:
    config = load_one(tmp_path, {"command": "~/x", "cwd": "~/work"}, HOME="/home/ada")

    assert config.cwd == Path("/home/ada/work")
    assert config.command == "~/x"


def test_words_of_cursor_and_vs_code_are_understood(tmp_path: Path) -> None:
    text = "${workspaceFolder}|${workspaceFolderBasename}|${userHome}|${env:workspaceFolder}|${CLAUDE_PROJECT_DIR}"
    config = load_one(tmp_path, {"command": "x", "args": [text]}, HOME="/home/ada")

    assert config.args == (f"{tmp_path}|{tmp_path.name}|/home/ada|${{env:workspaceFolder}}|{tmp_path}",)


def test_tools_of_an_entry_can_be_disabled(tmp_path: Path) -> None:
    config = load_one(tmp_path, {"command": "x", "disabledTools": ["a"], "excludeTools": ["b"]})
    assert [config.has_tool(name) for name in "abc"] == [False, False, True]

    config = load_one(tmp_path, {"command": "x", "includeTools": ["a", "b"], "excludeTools": ["b"]})
    assert [config.has_tool(name) for name in "abc"] == [True, False, False]


def test_list_of_disabled_tools_that_is_none_is_not_ignored(tmp_path: Path) -> None:
    catalog = load(tmp_path, {"one": {"command": "x", "disabledTools": "delete"}})

    assert "'disabledTools' must be a list" in catalog.skipped["one"]


def test_keys_that_allow_tools_in_other_programs_are_named_as_not_used(tmp_path: Path) -> None:
    catalog = load(tmp_path, {"one": {"command": "x", "autoApprove": ["a"], "alwaysAllow": ["a"], "trust": False}})

    assert [note.partition(";")[0] for note in catalog.remarks] == [
        f"MCP server 'one' in {tmp_path / '.mcp.json'}: '{key}' is not used" for key in ("autoApprove", "alwaysAllow")
    ]
    assert catalog.server_warnings == {}


@pytest.mark.parametrize("key", ["envFile", "enabledTools", "tools"])
def test_key_that_a_server_may_need_and_we_do_not_read_is_warned_about(tmp_path: Path, key: str) -> None:
    catalog = load(tmp_path, {"one": {"command": "x", key: "${workspaceFolder}/.env", "alwaysAllow": []}})

    assert catalog.server_warnings == {
        "one": (f"MCP server 'one' in {tmp_path / '.mcp.json'}: '{key}' is not supported",)
    }


# Files.


def test_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    write(tmp_path / ".mcp.json", '\ufeff{"mcpServers": {"a": {"command": "x"}}}')

    assert list(load_servers(explicit=None, project=tmp_path, environ={}, trusted=["*"]).servers) == ["a"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"mcpServers": {\n  "a": {},,\n}}', "at line 2, column 11"),
        ('{"mcpServers": {,}}', "at line 1, column 17"),
        ('{\n  /* two\n lines */ "mcpServers": x // y\n}', "at line 3, column 25"),
        ('{"a": "// no comment, }\n', "Unterminated string|Invalid control character"),
        ("", "at line 1, column 1"),
        ('{"mcpServers": {\n  /* "a": {}\n}}', "Unclosed comment starting at line 2, column 3"),
        ('{"mcpServers": {"a": "x /* y}}', "Unterminated string starting at line 1, column 22"),
        ("[]", "has no object 'mcpServers'"),
        ('{"flat": {"command": "x"}}', "has no object 'mcpServers'"),
        ('{"mcpServers": []}', "has no object 'mcpServers'"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5_000, "a number in it is too long"),
    ],
)  # fmt: skip
def test_named_file_that_cannot_be_used_is_an_error_with_a_remedy(tmp_path: Path, content: str, problem: str) -> None:
    path = write(tmp_path / "named.json", content)
    error = unusable(path)

    assert re.search(problem, error.message)
    assert str(path) in error.message
    assert error.remedy


def test_comments_and_trailing_commas_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / ".mcp.json",
        """// as VS Code writes it
        {"servers": { /* one
          more */ "web": {"url": "https://127.0.0.1//x", /* , } */}, // ]
          "files": {"command": "x", "args": ["a", "/*b*/", ",]", "\\"//", ], },
        }, }
        /* to the end""",
    )
    catalog = load_servers(explicit=path, project=tmp_path, environ={})

    assert catalog.servers["web"].url == "https://127.0.0.1//x"
    assert catalog.servers["files"].args == ("a", "/*b*/", ",]", '"//')


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(alphabet='a"\\/*,]}\n'),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='"/*,}', max_size=4), inner),
        max_leaves=8,
    )
)
def test_comments_change_no_value(value: object) -> None:
    assert load_commented(f"// first\n{json.dumps(value, indent=1)}/* last */") == value


@pytest.mark.parametrize(
    ("name", "content", "program"),
    [
        ("settings.json", '{"context_servers": {"a": {"command": "x"}}, /* Zed allows this */}', "Zed"),
        ("opencode.json", '{"mcp": {"a": {"type": "local", "command": ["x"]}}}', "opencode"),
        ("settings.json", '{"mcp": {"servers": {"a": {"command": "x"}}}}', "VS Code's settings.json"),
        ("settings.json", '{"amp.mcpServers": {"a": {"command": "x"}}}', "Amp"),
        ("config.toml", '[mcp_servers.a]\ncommand = "x"', "Codex (TOML)"),
        ("config.yaml", "mcpServers:\n  - name: a", "Continue or Goose (YAML)"),
        ("a.yml", "name: a", "Continue or Goose (YAML)"),
    ],
)
def test_format_of_another_program_is_refused_by_its_name(
    tmp_path: Path, name: str, content: str, program: str
) -> None:
    path = write(tmp_path / name, content)
    error = unusable(path)

    assert error.message.startswith(f"{path} is in the format of ")
    assert program in error.message
    assert "Copy the servers into a JSON file" in error.remedy


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_file_of_another_encoding_is_refused_by_its_name(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes('{"mcpServers": {}}'.encode(encoding))

    assert f"is not UTF-8 but {encoding.upper()}" in unusable(path).message
    assert "Save it as UTF-8" in unusable(path).remedy


@pytest.mark.parametrize(
    ("name", "problem"),
    [("x.json", "is not UTF-8 at line 2, byte 7"), ("gone.json", "does not exist"), ("", "cannot be read")],
)
def test_file_that_is_no_text_or_no_file_is_an_error(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "x.json").write_bytes(b'{\n"a": "\xff"}')

    assert problem in unusable(tmp_path / name).message


def test_first_file_that_mentions_a_name_decides(tmp_path: Path) -> None:
    def file(name: str, skipped: dict[str, str], *servers: str) -> ConfigFile:
        configs = {server: ServerConfig(server, "stdio", command=name) for server in servers}
        return ConfigFile(tmp_path / name, configs, skipped, dict.fromkeys(servers, (f"warning of {name}",)))

    catalog = merge_files(
        [file("near", {"off": "near"}, "both"), file("far", {"both": "far"}, "off", "far")], project=tmp_path
    )

    assert {name: config.command for name, config in catalog.servers.items()} == {"both": "near", "far": "far"}
    assert catalog.skipped == {"off": "near"}
    assert catalog.paths == (tmp_path / "near", tmp_path / "far")
    assert catalog.server_warnings == {"both": ("warning of near",), "far": ("warning of far",)}


# Names.


def test_required_server_is_found(tmp_path: Path) -> None:
    assert load(tmp_path, {"Files": {"command": "x"}}).require("Files").name == "Files"


def test_unknown_name_gets_near_ones_and_the_list(tmp_path: Path) -> None:
    catalog = load(tmp_path, {"Memory": {"command": "x"}, "files": {"command": "x"}})
    with pytest.raises(ServerNotConfiguredError) as caught:
        catalog.require("memori")

    assert caught.value.message == f"No MCP server named 'memori' is configured. Looked in: {tmp_path / '.mcp.json'}."
    assert caught.value.remedy == (
        "Did you mean 'Memory'? Configured: Memory, files. Servers that only Claude Code knows, by `--mcp-config` or "
        "from claude.ai, must also be in one of these files (`claude mcp add`)."
    )


def test_missing_project_file_is_named(tmp_path: Path) -> None:
    catalog = ServerCatalog(tmp_path)
    with pytest.raises(ServerNotConfiguredError) as caught:
        catalog.require("x")

    assert caught.value.message == (
        f"No MCP server named 'x' is configured. There is no .mcp.json in {tmp_path} or a parent folder, and no MCP "
        "server in the settings of Claude Code or LM Studio."
    )
    assert caught.value.remedy.startswith("Add one in Claude Code")


def test_a_broken_file_is_named_instead_of_where_no_server_is() -> None:
    assert ServerCatalog(Path("p"), warnings=("f is invalid.",)).looked == "f is invalid."
    assert ServerCatalog(Path("p"), warnings=("f is invalid.",), paths=(Path("g"),)).looked == (
        "f is invalid. Looked in: g."
    )
    with pytest.raises(ServerNotConfiguredError) as caught:
        ServerCatalog(Path("p"), warnings=("f is invalid.",)).require("x")
    assert caught.value.explain() == "No MCP server named 'x' is configured. f is invalid."


# Never ourselves.


@pytest.mark.parametrize(
    "line",
    [
        "lmstudio-bridge serve",
        "lmstudio_bridge",
        "/opt/bin/lmstudio-bridge",
        "C:\\tools\\lmstudio-bridge.exe",
        "uvx lmstudio-bridge",
        "uvx lmstudio-bridge@latest",
        "uvx lmstudio-bridge==0.1.0 serve",
        "uvx lmstudio-bridge[engine]>=1",
        "uvx --from /src/lmstudio-bridge lmstudio-bridge",
        "uvx --from git+https://127.0.0.1/x/lmstudio-bridge.git@main start",
        "uvx --from=lmstudio-bridge start",
        "uv run --directory /src/lmstudio-bridge start",
        "uv --directory /src/lmstudio-bridge run start",
        "pipx run lmstudio-bridge",
        "pipx run --spec ./lmstudio-bridge start",
        "python -m lmstudio_bridge",
        "python -X dev -m lmstudio_bridge serve",
        "python /src/lmstudio_bridge/__main__.py",
        "env X=1 /venv/bin/lmstudio-bridge",
    ],
)
def test_command_that_starts_the_bridge_is_recognised(line: str, tmp_path: Path) -> None:
    command, *args = line.split(" ")

    assert starts_bridge(command, tuple(args))
    asked = {"TOKEN": "${user_config.token}"}  # what only Claude Code can fill in does not matter
    catalog = load(tmp_path, {"me": {"command": command, "args": args, "env": asked}})
    assert catalog.skipped == {"me": f"its entry in {tmp_path / '.mcp.json'} starts the bridge itself."}


def test_shell_line_that_starts_the_bridge_is_recognised() -> None:
    assert starts_bridge("sh", ("-c", "cd /x && exec '/opt/lmstudio-bridge' serve"))


@pytest.mark.parametrize(
    "line",
    [
        "npx -y @modelcontextprotocol/server-filesystem /home/ada/lmstudio-bridge",
        "uvx mcp-server-git --repository /home/ada/src/lmstudio_bridge",
        "node /home/ada/lmstudio-bridge/servers/other.js",
        "my-lmstudio-bridge",
        "lmstudio-bridge-tools",
        "python -m lmstudio_bridge_extras",
        "sh -c echo",
    ],
)
def test_command_that_only_mentions_the_bridge_is_not_skipped(line: str) -> None:
    command, *args = line.split(" ")

    assert not starts_bridge(command, tuple(args))


def test_url_that_names_the_bridge_is_not_ourselves(tmp_path: Path) -> None:
    assert load_one(tmp_path, {"url": "http://127.0.0.1/lmstudio-bridge"}).transport == "http"


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"env": {"B": "2", "A": "1"}}, True),  # in another order
        ({"timeout": 5.0, "source": Path("elsewhere"), "scope": "user"}, True),
        ({"command": "bunx"}, False),
        ({"args": ("a b",)}, False),
        ({"args": ("b", "a")}, False),
        ({"env": {"A": "1", "B": "3"}}, False),
        ({"cwd": Path("/tmp")}, False),
        ({"headers": {"Authorization": "x"}}, False),
        ({"url": "http://127.0.0.1"}, False),
        ({"transport": "sse"}, False),
    ],
)
def test_digest_is_of_what_is_started_and_not_of_where_it_stands(change: dict[str, Any], same: bool) -> None:
    config = ServerConfig("one", "stdio", command="npx", args=("a", "b"), env={"A": "1", "B": "2"})

    assert (replace(config, **change).digest == config.digest) is same
