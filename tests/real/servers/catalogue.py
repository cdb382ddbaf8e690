"""The servers: how each is started, and calls that show whether the bridge gets along with it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.real.servers.installs import install_npm, install_pypi

TOOLS = Path(__file__).parent / "tools.json"
"""The tools of each server, with its own mark: whether it says that a tool only reads. Written by
`python -m scripts.tools.servers_page --record`."""

WORD = "heron-42"
"""What is looked for: it is in the project's notes.txt, and in every page of the web server on this machine."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the model, and a part of the result that it reads."""

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    result: str = WORD


@dataclass(frozen=True, slots=True)
class Server:
    """One server; `about` is what its users must know.

    `args` and `env` are those of its entry, `files` what else lies in the project. `web` is what a web server on this
    machine answers to every request, in place of the service behind the server. `{project}`, `{web}` and `{port}` in
    these and in the calls stand for the project's folder, and for the address and port of that web server.

    `writes` must be refused with read access and run with write access; then `reads` must run with read access.
    `refused` are refused too, and not tried with write access. A run leaves out the tools that are `not_offered`:
    deprecated, or done by a tool of the bridge's own. `requires` is what an installation from PyPI needs besides the
    package. `sandbox` is what it needs in the sandbox to do all of this, as in lmstudio-bridge.toml.
    """

    registry: Literal["npm", "PyPI"]
    package: str
    version: str
    about: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    web: str = WORD
    reads: tuple[Call, ...] = ()
    writes: tuple[Call, ...] = ()
    refused: tuple[Call, ...] = ()
    not_offered: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    sandbox: str = "true"

    def prepare(self, project: Path) -> None:
        """Make the project a git repository with what the server works on."""
        project.mkdir(exist_ok=True)
        subprocess.run(["git", "init", "--quiet", str(project)], check=True)
        for name, text in self.files.items():
            file = project / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")

    def entry(self, project: Path, web: str) -> dict[str, Any]:
        """Its entry in a `.mcp.json`; it is installed if it is not."""
        if self.registry == "npm":
            command, *rest = install_npm(self.package, self.version)
        else:
            command, *rest = install_pypi(self.package, self.version, requires=self.requires)
        more: dict[str, Any] = filled({"args": list(self.args), "env": dict(self.env)}, project=project, web=web)
        return {"command": command, "args": [*rest, *more["args"]], "env": more["env"]}


def filled(value: Any, *, project: Path, web: str) -> Any:
    """The value with what its placeholders stand for."""
    text = json.dumps(value)
    for name, meant in {"project": str(project), "web": web, "port": web.rpartition(":")[2]}.items():
        text = text.replace(f"{{{name}}}", json.dumps(meant)[1:-1])
    return json.loads(text)


_COLLECTION = {"connectionId": "c", "database": "d", "collection": "words"}
_NOTES = {"path": "{project}/notes.txt"}

SERVERS: Mapping[str, Server] = {
    "filesystem": Server(
        "npm",
        "@modelcontextprotocol/server-filesystem",
        "2026.8.31",
        "It keeps to the folders in its arguments, and the bridge to those and the project.",
        args=("{project}",),
        not_offered=("read_file", "read_multiple_files"),
        reads=(Call("read_text_file", _NOTES), Call("read_text_file", {"path": "{project}/new.txt"}, "new")),
        writes=(Call("write_file", {"path": "{project}/new.txt", "content": "new"}, ""),),
    ),
    "memory": Server(
        "npm",
        "@modelcontextprotocol/server-memory",
        "2026.8.31",
        "It keeps everything in one file: `MEMORY_FILE_PATH`.",
        env={"MEMORY_FILE_PATH": "{project}/memory.jsonl"},
        reads=(Call("read_graph"),),
        writes=(
            Call("create_entities", {"entities": [{"name": "code", "entityType": "word", "observations": [WORD]}]}),
        ),
    ),
    "everything": Server(
        "npm",
        "@modelcontextprotocol/server-everything",
        "2026.8.31",
        "It is for tests of MCP clients. Its `get-env` shows the environment, in which the bridge puts no secrets.",
        reads=(Call("echo", {"message": WORD}), Call("get-structured-content", {"location": "Chicago"}, "temperature")),
        writes=(Call("gzip-file-as-resource", {"name": "a.gz", "data": "data:text/plain,a"}, "a.gz"),),
    ),
    "sequential-thinking": Server(
        "npm",
        "@modelcontextprotocol/server-sequential-thinking",
        "2026.8.31",
        reads=(
            Call(
                "sequentialthinking",
                {"thought": WORD, "nextThoughtNeeded": False, "thoughtNumber": 1, "totalThoughts": 1},
                "thoughtHistoryLength",
            ),
        ),
    ),
    "git": Server(
        "PyPI",
        "mcp-server-git",
        "2026.10.19",
        reads=(Call("git_status", {"repo_path": "{project}"}, "notes.txt"),),
        writes=(Call("git_add", {"repo_path": "{project}", "files": ["notes.txt"]}, "staged"),),
        sandbox='{ write = ["~/project/.git"] }',
    ),
    "time": Server(
        "PyPI",
        "mcp-server-time",
        "2026.10.19",
        reads=(
            Call(
                "convert_time",
                {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"},
                "21:00",
            ),
        ),
    ),
    "fetch": Server(
        "PyPI",
        "mcp-server-fetch",
        "2026.10.24",
        "It marks its tool as reading. An address can carry away what was read: deny `fetch/*` where that matters.",
        args=("--allow-private-ips",),
        reads=(Call("fetch", {"url": "{web}/page"}),),
        sandbox="{ network = true }",
    ),
    "sqlite": Server(
        "PyPI",
        "mcp-server-sqlite",
        "2025.4.25",
        "It doesn't start with version 2 of the MCP SDK: `uvx --with 'mcp<2' mcp-server-sqlite`. In the sandbox, its "
        "file must exist before a read-only run.",
        args=("--db-path", "{project}/words.db"),
        reads=(Call("list_tables", {}, "words"), Call("read_query", {"query": "SELECT count(*) AS n FROM words"}, "n")),
        writes=(Call("create_table", {"query": "CREATE TABLE words (word TEXT)"}, "created"),),
        refused=(Call("write_query", {"query": "DELETE FROM words"}),),
        requires=("mcp<2",),
        files={"words.db": ""},
    ),
    "motherduck": Server(
        "PyPI",
        "mcp-server-motherduck",
        "1.1.0",
        "Where it marks its queries as reading, they run with read access, and paths in their SQL are not judged: deny "
        "`motherduck/execute_query` where that matters.",
        args=("--db-path", "{project}/words.duckdb", "--read-write"),
        reads=(Call("list_tables", {}, "words"),),
        writes=(Call("execute_query", {"sql": "CREATE TABLE words (word TEXT)"}, ""),),
        refused=(Call("execute_query", {"sql": "SELECT * FROM read_text('{project}/../.claude.json')"}),),
    ),
    "postgres": Server(
        "npm",
        "@modelcontextprotocol/server-postgres",
        "0.6.2",
        "Its last version is from 2024.",
        args=("postgresql://127.0.0.1:{port}/words",),
        refused=(Call("query", {"sql": "COMMIT; DROP TABLE words"}),),
        sandbox="{ network = true }",
    ),
    "mongodb": Server(
        "npm",
        "mongodb-mcp-server",
        "3.0.4",
        env={"MDB_MCP_TELEMETRY": "disabled"},
        refused=(
            Call("aggregate", {**_COLLECTION, "pipeline": [{"$match": {}}, {"$out": "words"}]}),
            Call("aggregate-db", {"connectionId": "c", "database": "d", "pipeline": [{"$merge": {"into": "words"}}]}),
            Call(
                "export",
                {
                    **_COLLECTION,
                    "exportTitle": "t",
                    "exportTarget": [{"name": "find", "arguments": {"filter": {}}}],
                },
            ),
        ),
        sandbox="{ network = true }",
    ),
    "excel": Server(
        "PyPI",
        "excel-mcp-server",
        "2.2.2",
        args=("stdio",),
        reads=(Call("read_range", {"path": "{project}/words.xlsx", "sheet": "Sheet1"}),),
        writes=(
            Call("create_workbook", {"path": "{project}/words.xlsx"}, ""),
            Call("write_range", {"path": "{project}/words.xlsx", "sheet": "Sheet1", "at": "A1", "rows": [[WORD]]}, ""),
        ),
    ),
    "markitdown": Server(
        "PyPI",
        "markitdown-mcp",
        "0.0.1a8",
        reads=(Call("convert_to_markdown", {"uri": "file://{project}/notes.txt"}),),
        refused=(Call("convert_to_markdown", {"uri": "{web}/page"}),),
    ),
    "obsidian": Server(
        "PyPI",
        "mcp-obsidian",
        "0.2.3",
        "It needs Obsidian's Local REST API plugin.",
        env={
            "OBSIDIAN_API_KEY": "key",
            "OBSIDIAN_PROTOCOL": "http",
            "OBSIDIAN_HOST": "127.0.0.1",
            "OBSIDIAN_PORT": "{port}",
        },
        reads=(Call("obsidian_get_file_contents", {"filepath": "/Notes/words.md"}),),
        writes=(Call("obsidian_append_content", {"filepath": "Notes/words.md", "content": WORD}, "appended"),),
        sandbox="{ network = true }",
    ),
    "notion": Server(
        "npm",
        "@notionhq/notion-mcp-server",
        "2.5.2",
        env={"NOTION_TOKEN": "ntn_key", "BASE_URL": "{web}"},
        web=json.dumps({"object": "user", "name": WORD}),
        reads=(Call("API-get-self"), Call("API-post-search", {"query": WORD})),
        refused=(Call("API-delete-a-block", {"block_id": "0"}),),
        sandbox="{ network = true }",
    ),
    "github": Server(
        "npm",
        "@modelcontextprotocol/server-github",
        "2025.4.8",
        "GitHub's own server is remote, and has marks.",
        env={"GITHUB_PERSONAL_ACCESS_TOKEN": "key"},
        refused=(Call("create_issue", {"owner": "o", "repo": "r", "title": "t"}),),
        sandbox="{ network = true }",
    ),
    "gitlab": Server(
        "npm",
        "@zereight/mcp-gitlab",
        "2.1.64",
        "With so many tools, name those that are needed in its own settings, or `hide` others.",
        env={"GITLAB_PERSONAL_ACCESS_TOKEN": "key", "GITLAB_API_URL": "{web}/api/v4"},
        web=json.dumps({"id": 1, "name": WORD, "path_with_namespace": "o/r", "file_path": "src/x.ts"}),
        reads=(Call("get_project", {"project_id": "1"}),),
        refused=(Call("download_attachment", {"project_id": "1", "secret": "s", "filename": "a.txt"}),),
        sandbox="{ network = true }",
    ),
    "slack": Server(
        "npm",
        "@modelcontextprotocol/server-slack",
        "2025.4.25",
        env={"SLACK_BOT_TOKEN": "xoxb-key", "SLACK_TEAM_ID": "T1"},
        refused=(Call("slack_post_message", {"channel_id": "C1", "text": WORD}),),
        sandbox="{ network = true }",
    ),
    "brave-search": Server(
        "npm",
        "@modelcontextprotocol/server-brave-search",
        "0.6.2",
        "Its last version is from 2024; Brave's own is `@brave/brave-search-mcp-server`.",
        env={"BRAVE_API_KEY": "key"},
        sandbox="{ network = true }",
    ),
    "duckduckgo": Server(
        "PyPI",
        "duckduckgo-mcp-server",
        "0.7.0",
        refused=(Call("fetch_content", {"url": "{web}/page"}),),
        sandbox="{ network = true }",
    ),
    "tavily": Server(
        "npm",
        "tavily-mcp",
        "0.2.22",
        env={"TAVILY_API_KEY": "tvly-key"},
        refused=(Call("tavily_extract", {"urls": ["{web}/page"]}),),
        sandbox="{ network = true }",
    ),
    "firecrawl": Server(
        "npm",
        "firecrawl-mcp",
        "3.26.0",
        not_offered=("firecrawl_extract", "firecrawl_research_search_github"),
        env={"FIRECRAWL_API_KEY": "fc-key", "FIRECRAWL_API_URL": "{web}"},
        web=json.dumps({"success": True, "data": {"markdown": WORD, "metadata": {}}}),
        reads=(Call("firecrawl_scrape", {"url": "{web}/page", "formats": ["markdown"]}),),
        refused=(Call("firecrawl_scrape", {"url": "{web}/page", "actions": [{"type": "click", "selector": "a"}]}),),
        sandbox="{ network = true }",
    ),
    "context7": Server(
        "npm",
        "@upstash/context7-mcp",
        "4.1.1",
        env={"CONTEXT7_API_URL": "{web}"},
        reads=(Call("query-docs", {"libraryId": "/mongodb/docs", "query": WORD}),),
        sandbox="{ network = true }",
    ),
    "aws-docs": Server(
        "PyPI",
        "awslabs.aws-documentation-mcp-server",
        "1.2.3",
        sandbox="{ network = true }",
    ),
    "playwright": Server(
        "npm",
        "@playwright/mcp",
        "0.0.83",
        "Opening a page needs write access. Reading tools that are given a `filename` count as writing.",
        refused=(
            Call("browser_snapshot", {"filename": "{project}/.mcp.json"}),
            Call("browser_take_screenshot", {"filename": "page.png"}),
            Call("browser_console_messages", {"level": "info", "filename": "log.txt"}),
            Call("browser_network_requests", {"static": False, "filename": "log.txt"}),
        ),
        sandbox="{ network = true }",
    ),
    "chrome-devtools": Server(
        "npm",
        "chrome-devtools-mcp",
        "1.11.0",
        "Opening a page needs write access.",
        args=("--no-usage-statistics",),
        refused=(Call("take_snapshot", {"pageId": 1, "filePath": "{project}/page.txt"}),),
        sandbox="{ network = true }",
    ),
    "puppeteer": Server(
        "npm",
        "@modelcontextprotocol/server-puppeteer",
        "2025.5.12",
        sandbox="{ network = true }",
    ),
    "eslint": Server(
        "npm",
        "@eslint/mcp",
        "0.3.13",
        files={
            "eslint.config.js": 'module.exports = [{ rules: { "no-undef": "error" } }];\n',
            "words.js": "heron();\n",
        },
        writes=(Call("lint-files", {"filePaths": ["{project}/words.js"]}, "no-undef"),),
    ),
    "desktop-commander": Server(
        "npm",
        "@wonderwhy-er/desktop-commander",
        "0.2.52",
        "It runs any command, which needs write access.",
        not_offered=("read_multiple_files",),
        files={"../.claude-server-commander/config.json": '{"telemetryEnabled": false}'},
        reads=(Call("read_file", _NOTES),),
        writes=(Call("write_file", {"path": "{project}/new.txt", "content": "new"}, ""),),
        refused=(Call("start_process", {"command": "true", "timeout_ms": 1000}),),
    ),
}
