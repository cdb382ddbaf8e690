"""The documentation matches the code."""

from __future__ import annotations

import ast
import asyncio
import itertools
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import get_args

import pytest

import lmstudio_bridge
from lmstudio_bridge import REPOSITORY
from lmstudio_bridge.agent.structured_output import OutputSchema
from lmstudio_bridge.cli.arguments import build_parser
from lmstudio_bridge.events import STATES, Outcome, Stop
from lmstudio_bridge.mcp_client.config import read_root
from lmstudio_bridge.mcp_client.launch import SELECTORS
from lmstudio_bridge.runs.report import RunReport
from lmstudio_bridge.server.tools import build_server
from lmstudio_bridge.settings import Surroundings, read_settings
from scripts.tools import servers_page, settings_page, tools_page

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INTO_REPOSITORY = (
    rf"^{PROJECT['urls']['Repository']}/blob/main/"
    rf"|^{PROJECT['urls']['Repository'].replace('github.com', 'raw.githubusercontent.com')}/main/"
)
PACKAGE = Path(lmstudio_bridge.__file__).parent  # elsewhere, where the installed wheel is tested
PAGES = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", *(f"docs/{page}" for page in PAGES))
GENERATED = {"commands.md", "servers.md", "settings.md", "tools.md"}
MAX_WORDS = 1_550

MAX_PICTURE = 200_000  # bytes
OTHERS = {
    # OpenTelemetry
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
    # the system
    "GIT_CONFIG_COUNT",
    "NO_COLOR",
    "PYTHON_KEYRING_BACKEND",
    "HTTPS_PROXY",
    "NO_PROXY",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    # Claude Code
    "CLAUDE_CONFIG_DIR",
    "MCP_TIMEOUT",
    "MCP_TOOL_TIMEOUT",
    "CLAUDE_CODE_MCP_TOOL_IDLE_TIMEOUT",
    "CLAUDE_CODE_MCP_AUTO_BACKGROUND_MS",
    # lmstudio-bridge-enhanced
    "WORKING_DIR",
    "MCP_WORKING_DIR",
    "MCP_FILESYSTEM_ROOT",
    "GITHUB_PERSONAL_ACCESS_TOKEN",
    "LMS_RETRY_BASE_DELAY",
    "LMS_RETRY_MAX_DELAY",
    "LMS_EXTRA_NUMERIC_PARAMS",
    "MODEL_REGISTRY_CACHE",
    # Ollama
    "OLLAMA_CONTEXT_LENGTH",
    # LiteLLM
    "LITELLM_MASTER_KEY",
    # the memory server
    "MEMORY_FILE_PATH",
    # a placeholder
    "RUN_ID",
}
"""Names in capitals that are not settings of the bridge."""


def spans(name: str) -> list[str]:
    """The code spans of a document."""
    return re.findall(r"`([^`\n]+)`", read(name))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_settings_page_is_up_to_date() -> None:
    """If not: `python -m scripts.tools.settings_page`."""
    assert read("docs/settings.md") == settings_page.page()


async def test_the_tools_page_is_up_to_date() -> None:
    """If not: `python -m scripts.tools.tools_page`."""
    assert read("docs/tools.md") == await tools_page.page()


def test_the_servers_page_is_up_to_date() -> None:
    """If not: `python -m scripts.tools.servers_page`."""
    assert read("docs/servers.md") == servers_page.page()


def test_the_tools_page_lists_every_key_of_the_report() -> None:
    outcome = Outcome("answered", "It is heron-42.", "tiny")
    assert list(tools_page.REPORT_KEYS) == list(RunReport("r1", outcome, ("fs",)).structure())
    assert all(f"`{stop}`" in tools_page.REPORT_KEYS["stop"] for stop in get_args(Stop))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_environment_variable_in_the_documents_exists(name: str) -> None:
    known = {"LMSTUDIO_HOST", "LMSTUDIO_PORT", *OTHERS, *SELECTORS, *settings_page.variables()}
    named = set(re.findall(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]\b", "\n".join(spans(name))))
    assert named - known == set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_shell_commands_in_the_documents_are_valid(name: str) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", read(name), flags=re.MULTILINE | re.DOTALL)
    for block in blocks:
        subprocess.run(["sh", "-n"], input=block, text=True, check=True)
    lines = [line for block in blocks for line in block.splitlines()]
    for line in (*lines, *(span for span in spans(name) if span.startswith("claude mcp add ") and " -- " in span)):
        words = shlex.split(line, comments=True)
        if words[:2] == ["claude", "mcp"] and words[2] == "add":
            name_and_options = words[3 : words.index("--")]
            words = words[words.index("--") + 1 :]  # what Claude Code will start
            assert ("lmstudio-bridge" in name_and_options) is (words[:1] == ["lmstudio-bridge"]), line
        elif words[:2] == ["claude", "mcp"] and words[2] == "add-json":
            entry = json.loads(words[-1])
            words = [entry["command"], *entry["args"]]
            assert words[:1] == ["lmstudio-bridge"], line
        words = words[3:] if words[:3] == ["uvx", "--from", f"git+{REPOSITORY}"] else words
        assert words[:1] != ["uvx"], "not on the index yet"
        words = list(itertools.takewhile(lambda word: word not in ("<", ">"), words))
        if words[:1] == ["lmstudio-bridge"] and words[1:] != ["--version"]:
            build_parser().parse_args(words[1:])  # exits if it does not understand


@pytest.mark.parametrize("name", DOCUMENTS)
def test_scripts_and_modules_in_the_documents_exist(name: str) -> None:
    text = read(name)
    scripts = [ROOT / path for path in re.findall(r"(?:^|`)(scripts/[\w-]+)(?=[ `\n])", text, flags=re.MULTILINE)]
    modules = [ROOT / module.replace(".", "/") for module in re.findall(r"python -m (scripts\.[\w.]+)", text)]
    assert [path for path in scripts if not path.stat().st_mode & 0o111] == []
    assert [path for path in modules if not (path.with_suffix(".py").exists() or path.is_dir())] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_json_in_the_documents_is_valid(name: str, tmp_path: Path) -> None:
    around = Surroundings(tmp_path, {"HOME": str(tmp_path)})
    for block in re.findall(r"^```json\n(.*?)^```", read(name), flags=re.MULTILINE | re.DOTALL):
        match json.loads(block):
            case {"mcpServers": entries}:
                found = read_root({"mcpServers": entries}, path=tmp_path / ".mcp.json", scope="project", around=around)
                assert set(found.servers) == set(entries), found
            case {"permissions": {"allow": [*rules]}}:
                assert all(str(rule).startswith("mcp__lmstudio-bridge__") for rule in rules)
            case {"env": dict() as variables}:
                assert set(variables) <= OTHERS
            case {"type": "object"} as schema:
                OutputSchema(schema)
            case other:
                raise AssertionError(f"nothing here reads {other}")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_kind_of_code_block_is_tested(name: str) -> None:
    """Pages of their own: test_rule_files loads the rules, test_gateway the proxy's configuration."""
    kinds = set(re.findall(r"^```(\w+)$", read(name), flags=re.MULTILINE))
    assert kinds <= {
        "sh",
        "json",
        "text",
        *{"docs/security.md": ["toml"], "docs/sandbox.md": ["toml"], "docs/gateway.md": ["yaml"]}.get(name, []),
    }


def anchors(text: str) -> set[str]:
    """The headings of a page, as a link names them."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_has_a_target(name: str) -> None:
    """Links into the repository from elsewhere are held against this checkout."""
    text = read(name)
    for target in re.findall(r"\]\(([^)\s]+)\)|^\[.+\]: (\S+)$", text, flags=re.MULTILINE):
        link = re.sub(INTO_REPOSITORY, "", "".join(target))
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.is_file(), link
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), link


def test_the_first_screen_of_the_readme_has_benefit_requirements_and_commands_that_work_today() -> None:
    screen = read("README.md").partition("\n[quick start]: ")[0]
    assert len(screen.splitlines()) <= 50
    for words in (
        "never enter Claude's context",
        "**You need**",
        f"uv tool install git+{REPOSITORY}\nlmstudio-bridge install\nlmstudio-bridge doctor\nlmstudio-bridge run ",
        "pip install .",
        "scripts/demo",
    ):
        assert words in screen
    assert "\nMIT license." in screen
    assert not re.search(r"^uvx lmstudio-bridge", read("README.md"), flags=re.MULTILINE), "not on the index yet"


def test_doctor_names_the_server_of_the_quick_start() -> None:
    [command] = re.findall(r"^claude mcp add .*$", read("docs/quick-start.md"), flags=re.MULTILINE)
    assert f"`{command}`" in literals()
    assert command in read("README.md")


def test_the_readme_has_no_relative_links() -> None:
    """The package index shows it too."""
    links = re.findall(r"\]\(([^)\s]+)\)|^\[.+\]: (\S+)$", read("README.md"), flags=re.MULTILINE)
    assert [link for pair in links for link in pair if link and not link.startswith("https://")] == []
    named = re.findall(r"(?<!!)\[([^\]]+)\](?![(:\[])", read("README.md"))
    assert [name for name in named if f"\n[{name}]: " not in read("README.md")] == []


def test_every_project_url_is_in_one_repository() -> None:
    urls = PROJECT["urls"]
    assert [url for url in urls.values() if not url.startswith(urls["Repository"])] == []


@pytest.mark.parametrize("folder", ["", "contributing/"])
def test_the_index_lists_every_page_once(folder: str) -> None:
    rows = re.findall(r"^\| \S.* \| \[(.+?)\]\(\1\) \|$", read(f"docs/{folder}README.md"), flags=re.MULTILINE)
    listed = [f"{folder}{row}" for row in rows]
    pages = [page for page in PAGES if page.rpartition("/")[0] == folder.rstrip("/")]
    assert sorted(listed) == [page for page in pages if page != f"{folder}README.md"]


@pytest.mark.parametrize("page", [page for page in PAGES if "/" not in page and page not in GENERATED])
def test_a_page_for_users_is_short(page: str) -> None:
    words = [word for word in read(f"docs/{page}").split() if word.strip("|-")]
    assert len(words) <= MAX_WORDS


def test_every_dependency_is_listed() -> None:
    listed = {
        name
        for row in re.findall(r"^\| (`.+?) \|", read("docs/contributing/dependencies.md"), flags=re.MULTILINE)
        for name in re.findall(r"`(.+?)`", row)
    }
    assert {re.split(r"[^\w-]", each)[0] for each in PROJECT["dependencies"]} <= listed


def test_every_picture_is_used_and_small() -> None:
    shown = {link for name in DOCUMENTS for link in re.findall(r"!\[.+?\]\(\S*?pictures/(.+?)\)", read(name))}
    pictures = {path.name: path.stat().st_size for path in (ROOT / "docs" / "pictures").iterdir()}
    assert set(pictures) == shown
    assert max(pictures.values()) < MAX_PICTURE


def literals() -> str:
    """Every text in the package's source, one a line, with … for what is put into it."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Constant(value=str() as text):
                    found.append(text)
                case ast.JoinedStr(values=values):
                    parts = (str(each.value) if isinstance(each, ast.Constant) else "…" for each in values)
                    found.append("".join(parts))
    return "\n".join(text.replace("\n", " ") for text in found)


def test_every_message_in_troubleshooting_is_in_the_code() -> None:
    rows = [line for line in read("docs/troubleshooting.md").splitlines() if re.match(r"- \*\w", line)]
    ours = "\n".join([literals(), *(f"{words[:1].upper()}{words[1:]}{end}" for words, end in STATES.values())])
    assert rows
    for row in rows:
        [quote] = re.findall(r"^- \*(.+?)\*:", row)
        pattern = "[^\n]*".join(re.escape(part) for part in re.split(r"\s?…\s?", quote))
        assert re.search(pattern, ours), quote


async def test_every_replacement_in_the_migration_page_exists() -> None:
    server = tools_page.build()
    tools = await server.list_tools()
    known = {tool.name for tool in tools} | {name for tool in tools for name in tool.input_schema["properties"]}
    known |= {str(each.uri) for each in await server.list_resources()} | settings_page.variables() | {"env"}
    known |= {"LMSTUDIO_HOST", "LMSTUDIO_PORT"}
    rows = re.findall(r"^\| (`.+) \| (.*) \|$", read("docs/moving.md"), flags=re.MULTILINE)
    same = {name for earlier, here in rows if here.startswith("the same") for name in re.findall(r"`(.+?)`", earlier)}
    named = {name for _, here in rows for name in re.findall(r"`(.+?)`", here)}
    commands = {name for name in named if name.startswith("lmstudio-bridge ")}
    for command in commands:
        build_parser().parse_args(command.split()[1:])  # exits if it does not understand
    assert same
    assert (same | named) - commands <= known


def test_every_path_in_the_architecture_exists() -> None:
    named = re.findall(r"`((?:lmstudio_bridge|tests)/\S+?)`", read("docs/contributing/architecture.md"))
    assert named
    places = {name: (PACKAGE.parent if name.startswith(PACKAGE.name) else ROOT) / name for name in named}
    assert [name for name, place in places.items() if not place.exists()] == []


def test_the_permission_rules_name_existing_tools() -> None:
    async def names() -> set[str]:
        settings = read_settings({}, cwd=ROOT)
        return {tool.name for tool in await build_server(settings, environ={}).list_tools()}

    named = set(re.findall(r"mcp__lmstudio-bridge__(\w+)", read("docs/claude-code.md")))
    assert named
    assert named <= asyncio.run(names())
