"""The workspace and the presets of a run, from the servers' entries and the rule files."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lmstudio_bridge.errors import NoToolMayRunError
from lmstudio_bridge.messages import JSONObject, Scope, ServerConfig, ServerTool
from lmstudio_bridge.security.access import Policy
from lmstudio_bridge.security.permissions import is_here, named_folders, read_permissions
from lmstudio_bridge.security.presets import PRESETS, is_fresh
from lmstudio_bridge.settings import Surroundings


def policy_of(*configs: ServerConfig, project: Path) -> Policy:
    return read_permissions(configs, project=project, environ={}).policy


def stdio(*args: str, name: str = "fs", **more: Any) -> ServerConfig:
    return ServerConfig(name, "stdio", command="npx", args=args, scope=more.pop("scope", "user"), **more)


# -- the workspace ------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["{notes}", "--root={notes}", "./notes", "../notes", "--repository {notes}"])
def test_folders_that_the_user_gave_to_a_server_are_in_the_workspace(tmp_path: Path, option: str) -> None:
    project, notes = tmp_path / "project", tmp_path / "notes"
    for folder in (project, notes, project / "notes"):
        folder.mkdir()
    args = option.format(notes=notes).split()
    policy = policy_of(stdio("server", *args), project=project)

    given = project / "notes" if option == "./notes" else notes
    assert policy.workspace.folders == (project, given)


@pytest.mark.parametrize(
    "config",
    [
        stdio("{notes}", scope="project"),
        stdio("--directory", "{notes}", "run"),
        stdio("--directory={notes}"),
        stdio("{notes}/none"),
        stdio("notes"),
        ServerConfig("web", "http", url="http://example.com", args=("{notes}",), scope="user"),
    ],
)
def test_other_words_of_an_entry_widen_nothing(tmp_path: Path, config: ServerConfig) -> None:
    """Least of all those of a project's file, which somebody else wrote (ours)."""
    project, notes = tmp_path / "project", tmp_path / "notes"
    for folder in (project, notes, project / "notes"):
        folder.mkdir()
    args = tuple(each.format(notes=notes) for each in config.args)
    filled = ServerConfig(config.name, config.transport, args=args, url=config.url, scope=config.scope)

    assert policy_of(filled, project=project).workspace.folders == (project,)


def test_folders_of_an_entry_are_found_in_arguments_and_variables(tmp_path: Path) -> None:
    for name in ("vault", "notes", "base"):
        (tmp_path / name).mkdir()
    config = stdio(
        "--vault=../vault", "notes", "x" * 5_000 + "/", env={"NOTES": "~/notes", "B": f"{tmp_path}/base", "C": "~/no"}
    )

    found = named_folders(config, Surroundings(tmp_path / "notes", {"HOME": str(tmp_path)}))

    assert {each.name for each in found} == {"vault", "notes", "base"}


def test_a_bridge_that_was_started_at_the_root_does_not_take_all_for_its_workspace() -> None:
    assert policy_of(project=Path("/")).workspace.folders == ()


@pytest.mark.parametrize(
    ("config", "local"),
    [
        (stdio(), True),
        (ServerConfig("fs", "http", url="http://127.0.0.1:8000/mcp"), True),
        (ServerConfig("fs", "sse", url="http://[::1]:8000/mcp"), True),
        (ServerConfig("fs", "http", url="http://localhost:8000/mcp"), True),
        (ServerConfig("fs", "http", url="http://LOCALHOST.:8000/mcp"), True),
        (ServerConfig("fs", "http", url="http://0.0.0.0:8000/mcp"), True),
        (ServerConfig("fs", "http", url="http://127.1:8000/mcp"), True),
        (ServerConfig("fs", "http", url="http://2130706433:8000/mcp"), True),
        (ServerConfig("fs", "http", url="http://[::ffff:127.0.0.1]:8000/mcp"), True),
        (ServerConfig("fs", "http", url="http://10.0.0.5:8000/mcp"), False),
        (ServerConfig("fs", "http", url="https://example.com/mcp"), False),
    ],
)
def test_paths_are_judged_where_the_server_is_on_this_machine(
    tmp_path: Path, config: ServerConfig, local: bool
) -> None:
    assert ("fs" in policy_of(config, project=tmp_path).local) is local


@pytest.mark.parametrize(
    ("command", "contained"),
    [
        ("npx -y mcp-remote@latest https://mcp.example.com/mcp --debug", True),
        ("npx -y mcp-remote http://localhost:3000/mcp", False),
        ("uvx mcp-proxy --transport=streamablehttp https://mcp.example.com/mcp", True),
        ("npx -y supergateway --streamableHttp https://mcp.example.com/mcp", True),
        ("uvx mcp-proxy http://localhost:3000/mcp", False),
        ("npx -y other mcp-remote https://mcp.example.com/mcp", False),
        ("docker run -i --rm mcp/filesystem /projects", True),
        ("/usr/bin/docker run -i mcp/filesystem /projects", True),
        ("sudo podman run -i mcp/filesystem", True),
        ("cmd /c docker.exe run -i mcp/filesystem", True),
        ("ssh host mcp-server", True),
        ("npx -y docker", False),
        ("node docker/server.js", False),
        ("dockerize run", False),
    ],
)
def test_servers_in_containers_and_remote_ones_have_own_paths(tmp_path: Path, command: str, contained: bool) -> None:
    first, *args = command.split()
    policy = policy_of(ServerConfig("fs", "stdio", command=first, args=tuple(args), scope="user"), project=tmp_path)
    verdict = policy.check_call(ServerTool("fs", "read", read_only=True), {"path": "/projects/a.txt"}).verdict

    assert verdict == ("allowed" if contained else "outside")


@pytest.mark.parametrize(
    ("package", "tool", "arguments", "verdict"),
    [
        ("github-mcp-server", "get_file_contents", {"path": "/"}, "allowed"),
        ("basic-memory", "list_directory", {"dir_name": "/"}, "allowed"),
        ("basic-memory", "create_memory_project", {"project_path": "/"}, "outside"),
        ("tavily-mcp", "tavily_map", {"select_paths": ["/docs/.*"]}, "allowed"),
        ("@zereight/mcp-gitlab", "get_file_contents", {"file_path": "/src/x.ts"}, "allowed"),
        ("@zereight/mcp-gitlab", "upload_markdown", {"file_path": "/src/x.ts"}, "outside"),
        ("@zereight/mcp-gitlab", "download_attachment", {"local_path": "/src"}, "outside"),
        ("@modelcontextprotocol/server-gitlab", "get_file_contents", {"file_path": "/src/x.ts"}, "allowed"),
        ("mcp-obsidian", "obsidian_get_file_contents", {"filepath": "/Notes/a.md"}, "allowed"),
        ("mongodb-mcp-server", "find", {"filter": {"page": "/home"}}, "allowed"),
        ("@playwright/mcp", "browser_network_requests", {"filter": "/api/.*user"}, "allowed"),
        ("@playwright/mcp", "browser_file_upload", {"paths": ["/etc/passwd"]}, "outside"),
        ("@upstash/context7-mcp", "query-docs", {"libraryId": "/mongodb/docs"}, "allowed"),
        ("firecrawl-mcp", "firecrawl_parse", {"filePath": "/etc/passwd"}, "outside"),
    ],
)
def test_paths_of_servers_that_are_about_something_else_are_not_judged(
    tmp_path: Path, package: str, tool: str, arguments: JSONObject, verdict: str
) -> None:
    policy = read_permissions(
        [stdio("-y", package, name="it")], project=tmp_path, environ={}, policy=Policy("write")
    ).policy

    assert policy.check_call(ServerTool("it", tool), arguments).verdict == verdict


# -- presets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("cmd", "/c npx -y mcp-server-time"),
        ("npm", "exec -- mcp-server-time"),
        ("uv", "tool run mcp-server-time"),
        ("uv", "--directory /srv run mcp-server-time"),
        ("uv.exe", "tool run --from mcp-server-time mcp-server-time --local-timezone UTC"),
        ("uvx", "mcp-server-time@1.0"),
        ("/usr/bin/env", "TZ=UTC uvx mcp-server-time"),
        ("python3.12", "-I -m mcp_server_time"),
        ("docker", "run -i --rm -e TZ --mount type=bind,src=/a,dst=/b mcp/time"),
        ("cmd.exe", "/c docker.exe run --env=TZ=UTC -i docker.io/mcp/time:latest --local-timezone UTC"),
        ("mcp-server-time", ""),
    ],
)
def test_a_well_known_server_is_known_behind_the_program_that_starts_it(
    tmp_path: Path, command: str, args: str
) -> None:
    config = ServerConfig("time", "stdio", command=command, args=tuple(args.split()))

    assert policy_of(config, project=tmp_path).check_call(ServerTool("time", "get_current_time"), {}).allowed


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("serena start-mcp-server", True),
        ("uvx --from serena-agent@latest serena start-mcp-server", True),
        ("uvx -p 3.13 --from git+https://github.com/oraios/serena@v1.0 serena start-mcp-server", True),
        ("uvx --from git+https://github.com/oraios/serena.git serena start-mcp-server", True),
        ("serena-mcp-server", True),
        ("uvx --from git+https://github.com/evil/serena serena start-mcp-server", False),
        ("uvx --from serena-agent-x serena start-mcp-server", False),
    ],
)
def test_a_symbol_of_serena_is_no_path(tmp_path: Path, line: str, allowed: bool) -> None:
    command, *args = line.split()
    policy = policy_of(ServerConfig("serena", "stdio", command=command, args=tuple(args)), project=tmp_path)
    tool = ServerTool("serena", "find_symbol", read_only=True)

    assert policy.check_call(tool, {"name_path": "/etc/bar", "relative_path": "a.py"}).allowed is allowed
    assert not policy.check_call(tool, {"name_path": "/etc/bar", "relative_path": "/etc/passwd"}).allowed
    search = ServerTool("serena", "search_for_pattern", read_only=True)
    assert policy.check_call(search, {"paths_include_glob": "/no-such-folder/**"}).allowed is allowed
    for other, argument in (("read_memory", "memory_file_name"), ("query_project", "tool_params_json")):
        value = '{"relative_path": "/etc/passwd"}' if "json" in argument else "/etc/passwd"
        assert policy.check_call(ServerTool("serena", other, read_only=True), {argument: value}).verdict == "outside"


@pytest.mark.parametrize(
    "line",
    [
        "docker run -i evil mcp/time",
        "docker run -i mcp/timely",
        "docker run -i example.com/mcp/time",
        "docker run -i --entrypoint sh mcp/time",
        "docker run --unknown evil mcp/time",
        "docker exec -i mcp/time",
        "docker run -e",
        "python evil.py -m mcp_server_time",
        "python -c evil() -m mcp_server_time",
        "python mcp_server_time",
        "python -m evil mcp_server_time",
        "./evil.sh mcp-server-time",
        "uvx --from mcp-server-time python evil.py",
        "npx -p mcp-server-time node evil.js",
        "uvx mcp-server-time@file:./evil",
        "uvx --index-url http://example.com mcp-server-time",
        "npx --registry=http://example.com mcp-server-time",
    ],
)
def test_another_program_gets_no_preset_for_what_its_arguments_say(tmp_path: Path, line: str) -> None:
    command, *args = line.split()
    config = ServerConfig("time", "stdio", command=command, args=tuple(args))

    assert not policy_of(config, project=tmp_path).check_call(ServerTool("time", "get_current_time"), {}).allowed


@pytest.mark.parametrize(
    ("host", "here"),
    [
        (socket.gethostname(), True),
        (socket.gethostname().upper(), True),
        (f"{socket.gethostname().partition('.')[0]}.local", True),
        (f"{socket.gethostname()}.example.com", False),
        ("127.0.0.2", True),
        ("localhost.localdomain", True),
        ("\uff11\uff12\uff17.0.0.1", True),
        ("192.0.2.1", False),
        ("[2001:db8::1]", False),
    ],
)
def test_own_names_and_addresses_are_this_machine(host: str, here: bool) -> None:
    assert is_here(f"http://{host}:8000/mcp") is here


def test_address_of_an_interface_is_this_machine() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with suppress(OSError):
            probe.connect(("192.0.2.1", 9))  # sends nothing
        own = probe.getsockname()[0]

    assert is_here(f"http://{own}/mcp")


@pytest.mark.parametrize(
    ("args", "verdict"),
    [
        (("-y", "@modelcontextprotocol/server-memory"), "allowed"),
        (("-y", "@modelcontextprotocol/server-memory@2025.4.25"), "allowed"),
        (("lib/node_modules/@modelcontextprotocol/server-memory/dist/index.js",), "allowed"),
        ((r"C:\npm\node_modules\@modelcontextprotocol\server-memory\dist\index.js",), "allowed"),
        (("-y", "@modelcontextprotocol/server-memory-evil"), "needs_write"),
        (("-y", "evil@modelcontextprotocol/server-memory"), "needs_write"),
        (("--package=@modelcontextprotocol/server-memory@1", "mcp-server-memory"), "allowed"),
        (("-y", "memory"), "needs_write"),
        (("--package", "@modelcontextprotocol/server-memory", "mcp-server-memory"), "allowed"),
        (("--python", "3.12", "@modelcontextprotocol/server-memory"), "allowed"),
        (("run", "@modelcontextprotocol/server-memory"), "needs_write"),  # a package of that name
        (("-y", "evil", "@modelcontextprotocol/server-memory"), "needs_write"),
        (("-y", "evil", "--name=@modelcontextprotocol/server-memory"), "needs_write"),
        (("-y", "evil", "node_modules/@modelcontextprotocol/server-memory/x.js"), "needs_write"),
        (("--package=evil", "@modelcontextprotocol/server-memory"), "needs_write"),
        (("--package=@modelcontextprotocol/server-memory", "--package=evil", "evil"), "needs_write"),
        (("-e", "evil()", "@modelcontextprotocol/server-memory"), "needs_write"),
        (("-y", "notes", "/home/me/@modelcontextprotocol/server-memory"), "needs_write"),
        (("-y", "notes", "--root=/home/me/@modelcontextprotocol/server-memory/"), "needs_write"),
    ],
)
def test_a_well_known_server_is_known_by_its_package_and_not_by_its_name(
    tmp_path: Path, args: tuple[str, ...], verdict: str
) -> None:
    policy = policy_of(stdio(*args, name="memory"), project=tmp_path)

    assert policy.check_call(ServerTool("memory", "read_graph"), {}).verdict == verdict
    assert policy.check_call(ServerTool("memory", "delete_entities"), {}).verdict == "needs_write"
    assert policy.check_call(ServerTool("other", "read_graph"), {}).verdict == "needs_write"


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("mcp-server-fetch", None),
        ("/usr/local/bin/mcp-server-fetch", None),
        ("C:\\tools\\mcp-server-fetch.exe", None),
        ("/home/me/mcp-server-fetch/serve", "outside"),
    ],
)
def test_a_folder_with_the_name_of_a_package_does_not_free_its_server_from_the_workspace(
    tmp_path: Path, command: str, place: str | None
) -> None:
    config = ServerConfig("web", "stdio", command=command, scope="user")
    decision = policy_of(config, project=tmp_path).check_call(
        ServerTool("web", "read", read_only=True), {"path": "/etc"}
    )

    assert decision.verdict == (place or "allowed")


def test_a_name_with_the_signs_of_a_glob_gets_rules_for_itself_alone(tmp_path: Path) -> None:
    policy = policy_of(stdio("@modelcontextprotocol/server-memory", name="*"), project=tmp_path)

    assert policy.check_call(ServerTool("*", "read_graph"), {}).verdict == "allowed"
    assert policy.check_call(ServerTool("other", "read_graph"), {}).verdict == "needs_write"


@pytest.mark.parametrize(
    ("package", "tool"), [("@zereight/mcp-gitlab", "download_attachment"), ("mongodb-mcp-server", "export")]
)
def test_tools_that_are_known_to_save_files_write_whatever_their_mark(tmp_path: Path, package: str, tool: str) -> None:
    policy = policy_of(stdio("-y", package, name="it"), project=tmp_path)
    marked = ServerTool("it", tool, read_only=True)

    assert policy.check_call(marked, {}).verdict == "needs_write"
    assert not policy.may_run(marked)
    assert policy.writes(marked)
    assert policy.check_call(ServerTool("it", "find", read_only=True), {}).allowed


@pytest.mark.parametrize(
    ("pipeline", "verdict"),
    [
        ([{"$match": {"to": "$out"}}, {"$group": {"all": {"$mergeObjects": "$x"}}}], "allowed"),
        ([{"$match": {}}, {"$out": "people"}], "needs_write"),
        ([{"$merge": {"into": "people"}}], "needs_write"),
        ('[{"$out": "people"}]', "needs_write"),
    ],
)
def test_aggregations_that_replace_a_collection_write_whatever_their_mark(
    tmp_path: Path, pipeline: object, verdict: str
) -> None:
    """`aggregate` of mongodb-mcp-server 3.0.4 has readOnlyHint, and runs `$out` for clients without elicitation."""
    policy = policy_of(stdio("-y", "mongodb-mcp-server", name="it"), project=tmp_path)
    tool = ServerTool("it", "aggregate", read_only=True)

    assert policy.may_run(tool)
    assert policy.check_call(tool, {"pipeline": pipeline}).verdict == verdict
    assert policy.writes(tool, {"pipeline": pipeline}) == (verdict == "needs_write")


def test_choosing_a_cluster_for_all_programs_writes_whatever_its_mark(tmp_path: Path) -> None:
    """`kubectl_context` of mcp-server-kubernetes has readOnlyHint, and its `set` changes ~/.kube/config."""
    policy = policy_of(stdio("-y", "mcp-server-kubernetes", name="it"), project=tmp_path)
    tool = ServerTool("it", "kubectl_context", read_only=True)

    assert policy.check_call(tool, {"operation": "list"}).allowed
    assert policy.check_call(tool, {"operation": "set", "name": "prod"}).verdict == "needs_write"


@pytest.mark.parametrize(
    ("sql", "verdict"),
    [
        ("SELECT copy FROM t;", "allowed"),
        ("from t select a", "allowed"),
        ("SUMMARIZE t", "allowed"),
        ("COPY (SELECT 1) TO 'a.txt'", "needs_write"),
        ("/* */ COPY t TO 'a.txt'", "needs_write"),
        ("SELECT 1; EXPORT DATABASE 'x'", "needs_write"),
        ("EXPLAIN ANALYZE COPY t TO 'a.txt'", "needs_write"),
        ("SET profiling_output = 'a.txt'", "needs_write"),
    ],
)
def test_sql_of_duckdb_that_may_write_files_writes_whatever_its_mark(tmp_path: Path, sql: str, verdict: str) -> None:
    """`execute_query` of mcp-server-motherduck 1.1.0 is marked on a read-only connection, where COPY writes files."""
    policy = policy_of(stdio("mcp-server-motherduck", name="it"), project=tmp_path)
    tool = ServerTool("it", "execute_query", read_only=True)

    assert policy.may_run(tool)
    assert policy.check_call(tool, {"sql": sql}).verdict == verdict


@pytest.mark.parametrize(
    ("package", "tool", "arguments", "verdict"),
    [
        ("@modelcontextprotocol/server-github@2025.4.8", "list_issues", {}, "allowed"),
        ("@modelcontextprotocol/server-github@2025.4.8", "create_issue", {}, "needs_write"),
        ("@modelcontextprotocol/server-postgres", "query", {"sql": "select 1;"}, "allowed"),
        ("@modelcontextprotocol/server-postgres", "query", {"sql": "COMMIT; DROP TABLE a"}, "needs_write"),
        ("@modelcontextprotocol/server-postgres", "query", {"sql": "SELECT 1; DROP TABLE a"}, "needs_write"),
        ("@modelcontextprotocol/server-postgres", "query", {"sql": "COPY a TO PROGRAM 'sh'"}, "needs_write"),
        ("@modelcontextprotocol/server-postgres", "query", {}, "needs_write"),
        *(
            ("@modelcontextprotocol/server-postgres", "query", {"sql": f"SELECT {call}"}, verdict)
            for call, verdict in (
                ("relname, pg_size_pretty(pg_table_size(oid)) FROM pg_class", "allowed"),
                ("* FROM pg_stat_activity", "allowed"),
                ("pg_read_file('/etc/passwd')", "needs_write"),
                ("\n pg_catalog.\"pg_ls_dir\"/**/('/')", "needs_write"),
                ("query_to_xml('SELECT pg_re'||'ad_file(''/etc/passwd'')', true, true, '')", "needs_write"),
                ("U&\"pg\\005fread_file\"('/etc/passwd')", "needs_write"),
                ("lo_export(1, '/tmp/a')", "needs_write"),
            )
        ),
        ("@modelcontextprotocol/server-slack", "slack_get_users", {}, "allowed"),
        ("@modelcontextprotocol/server-slack", "slack_post_message", {}, "needs_write"),
        ("@brave/brave-search-mcp-server", "brave_news_search", {}, "allowed"),
        ("tavily-mcp@0.2.22", "tavily_search", {}, "allowed"),
        ("tavily-mcp", "tavily_extract", {}, "needs_write"),
        ("duckduckgo-mcp-server", "search", {}, "allowed"),
        ("duckduckgo-mcp-server", "fetch_content", {}, "needs_write"),
        ("mcp-obsidian", "obsidian_get_file_contents", {"filepath": "/Notes/a.md"}, "allowed"),
        ("mcp-obsidian", "obsidian_delete_file", {"filepath": "a.md"}, "needs_write"),
        ("awslabs.aws-documentation-mcp-server@latest", "read_documentation", {}, "allowed"),
        ("markitdown-mcp", "convert_to_markdown", {"uri": "file:a.pdf"}, "allowed"),
        ("markitdown-mcp", "convert_to_markdown", {"uri": "file:///etc/passwd"}, "outside"),
        ("markitdown-mcp", "convert_to_markdown", {"uri": "https://example.com/?q=1"}, "needs_write"),
        ("mcp-server-sqlite", "read_query", {"query": "SELECT 1"}, "allowed"),
        ("mcp-server-sqlite", "write_query", {"query": "DELETE FROM a"}, "needs_write"),
        ("@eslint/mcp", "lint-files", {"filePaths": ["a.js"]}, "needs_write"),
        ("@kazuph/mcp-taskmanager", "list_requests", {}, "allowed"),
        ("@notionhq/notion-mcp-server", "API-post-search", {}, "allowed"),
        ("@notionhq/notion-mcp-server", "API-post-page", {}, "needs_write"),
        ("firecrawl-mcp", "firecrawl_scrape", {"url": "https://example.com"}, "allowed"),
        ("firecrawl-mcp", "firecrawl_scrape", {"actions": [{"type": "click"}]}, "needs_write"),
        ("mcp-server-motherduck", "execute_query", {"sql": "SELECT * FROM read_text('/etc/passwd')"}, "needs_write"),
    ],
)
def test_servers_that_mark_no_tool_have_presets_for_those_that_only_read(
    tmp_path: Path, package: str, tool: str, arguments: JSONObject, verdict: str
) -> None:
    policy = policy_of(stdio("-y", package, name="it"), project=tmp_path)

    assert policy.check_call(ServerTool("it", tool), arguments).verdict == verdict


def test_where_no_tool_may_run_the_rule_that_would_change_it_is_named(tmp_path: Path) -> None:
    around = {"HOME": str(tmp_path / "home")}
    own = tmp_path / "home" / ".config" / "lmstudio-bridge" / "lmstudio-bridge.toml"
    tools = [ServerTool("my [shop]", "list_orders"), ServerTool("my [shop]", "cancel_order")]

    with pytest.raises(NoToolMayRunError) as caught:  # of tools that all act, one is an example
        read_permissions([], project=tmp_path, environ=around).check_usable(
            [ServerTool("web", "click"), ServerTool("web", "evaluate")]
        )
    assert caught.value.remedy.endswith(f'single tools, by their names, into {own}: allow = ["web/click"]')
    with pytest.raises(NoToolMayRunError) as caught:
        read_permissions([], project=tmp_path, environ=around).check_usable(tools)
    assert caught.value.message == ("No tool of my [shop] may run with read access: none is marked as read-only.")
    before, rule = caught.value.remedy.split(f"{own}: ")
    assert before == "Use autonomous_with_write_access (in a shell: --access write), or put those that only read into "

    own.parent.mkdir(parents=True)
    own.write_text(rule, encoding="utf-8")
    permissions = read_permissions([], project=tmp_path, environ=around)
    permissions.check_usable(tools)
    assert [permissions.policy.may_run(tool) for tool in tools] == [True, False]


def test_each_server_of_which_no_tool_may_run_is_named(tmp_path: Path) -> None:
    permissions = read_permissions([], project=tmp_path, environ={"HOME": str(tmp_path)})
    tools = [ServerTool("fs", "read", read_only=True), ServerTool("shop", "list_orders"), ServerTool("fs", "write")]
    permissions.check_usable(tools)
    [told] = permissions.find_unusable(tools)

    assert told.startswith("No tool of shop may run with read access: none is marked as read-only. Use ")
    assert told.endswith('allow = ["shop/list_orders"]')


def test_where_the_marked_tools_must_write_that_is_the_reason(tmp_path: Path) -> None:
    schema = {"properties": {"output_path": {"type": "string"}}, "required": ["output_path"]}
    permissions = read_permissions([], project=tmp_path, environ={"HOME": str(tmp_path)})
    [told] = permissions.find_unusable([ServerTool("pages", "print", read_only=True, input_schema=schema)])

    assert told.startswith("No tool of pages may run with read access: those that are marked as read-only write files.")


def test_where_rules_deny_every_tool_the_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "lmstudio-bridge.toml").write_text('deny = ["shop/*"]', encoding="utf-8")
    permissions = read_permissions([], project=tmp_path, environ={}, policy=Policy("write"))

    with pytest.raises(NoToolMayRunError, match="No tool of shop may run: your rules deny them") as caught:
        permissions.check_usable([ServerTool("shop", "buy")])
    assert str(tmp_path / "lmstudio-bridge.toml") in caught.value.remedy


@pytest.mark.parametrize("tools", [[], [ServerTool("a", "list", read_only=True), ServerTool("a", "write")]])
def test_one_tool_that_may_run_is_enough(tmp_path: Path, tools: list[ServerTool]) -> None:
    read_permissions([], project=tmp_path, environ={}).check_usable(tools)


@pytest.mark.parametrize(
    ("scope", "believed"),
    [("user", True), ("local", True), ("explicit", True), ("plugin", True), ("lmstudio", True), ("project", False)],
)
def test_marks_are_believed_from_the_users_servers_only(tmp_path: Path, scope: Scope, believed: bool) -> None:
    """Somebody else wrote a project's entry, and may have written its server."""
    config = ServerConfig("it", "stdio", command="serve", scope=scope)
    marked = ServerTool("it", "list", read_only=True)
    permissions = read_permissions([config], project=tmp_path, environ={})
    decision = permissions.policy.check_call(marked, {})

    assert permissions.policy.may_run(marked) is believed
    assert decision.verdict == ("allowed" if believed else "needs_write")
    assert ("the mark of a project's server is not believed" in decision.reason) is not believed


def test_for_a_projects_server_a_rule_a_preset_or_write_access_is_needed(tmp_path: Path) -> None:
    around = {"HOME": str(tmp_path / "home")}
    own = tmp_path / "home" / ".config" / "lmstudio-bridge" / "lmstudio-bridge.toml"
    own.parent.mkdir(parents=True)
    config = ServerConfig("it", "stdio", command="serve", scope="project")
    known = stdio("@modelcontextprotocol/server-memory", name="memory", scope="project")
    tools = [ServerTool("it", "list", read_only=True), ServerTool("it", "make")]

    with pytest.raises(NoToolMayRunError, match="the marks of a project's servers do not count") as caught:
        read_permissions([config], project=tmp_path, environ=around).check_usable(tools)
    own.write_text(caught.value.remedy.partition(f"{own}: ")[2], encoding="utf-8")
    read = read_permissions([config, known], project=tmp_path, environ=around).policy
    write = read_permissions([config], project=tmp_path, environ={}, policy=Policy("write")).policy

    assert [read.may_run(tool) for tool in tools] == [True, False]
    assert read.may_run(ServerTool("memory", "read_graph"))
    assert write.may_run(tools[0])


def test_every_preset_has_its_reason_and_stands_in_the_documents() -> None:
    documents = (Path(__file__).parents[3] / "docs" / "contributing" / "presets.md").read_text(encoding="utf-8")

    assert all(preset.why and f"| `{package}` |" in documents for package, preset in PRESETS.items())


@pytest.mark.parametrize(
    ("named", "fresh"),
    [
        (None, {"browser"}),
        (("files",), {"files"}),
        (("files", "browser"), {"files", "browser"}),
        (("*",), {"files", "browser"}),
        (("none",), set()),
    ],
)
def test_a_browser_is_each_runs_own_unless_the_user_says_which_servers_are(
    named: tuple[str, ...] | None, fresh: set[str]
) -> None:
    files = stdio("@modelcontextprotocol/server-filesystem", name="files")
    browser = stdio("-y", "@playwright/mcp@latest", name="browser")

    assert {config.name for config in (files, browser) if is_fresh(config, named=named)} == fresh
