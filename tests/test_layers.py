"""The layers of docs and design as data, and every import of the package held against them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lmstudio_bridge

PACKAGE = lmstudio_bridge.__name__
ROOT = Path(lmstudio_bridge.__file__).parent

LAYERS: tuple[tuple[str, ...], ...] = (
    # "" is the package; packages hold a docstring only
    (
        "",
        "agent",
        "llm",
        "downstream",
        "evals",
        "evals.families",
        "commands",
        "doctor",
        "errors",
        "messages",
        "nesting",
        "bounded_files",
        "host_input",
        "credentials",
        "key_shapes",
        "spellings",
        "request",
        "agent.fence",
        "collector",
        "ending",
    ),
    (
        "settings",
        "events",
        "retry",
        "redaction",
        "private_files",
        "places",
        "llm.models",
        "llm.slots",
        "llm.turns",
        "downstream.config",
        "downstream.content",
        "downstream.recursion",
        "downstream.processes",
        "downstream.places",
        "agent.prompts",
        "agent.ranking",
        "agent.tool_names",
        "agent.schemas",
        "agent.results",
        "agent.arguments",
        "agent.validation",
        "agent.stuck",
        "agent.rules",
        "agent.paths",
        "hosts",
        "json_text",
        "replacement",
        "commands.terminal",
    ),
    ("agent.known_tools", "agent.late_validation"),
    (
        "llm.wire",
        "llm.failures",
        "llm.dialects",
        "downstream.catalogues",
        "downstream.entries",
        "downstream.environment",
        "downstream.failures",
        "commands.arguments",
        "agent.policy",
        "agent.toolbox",
        "agent.chat",
        "agent.conversation",
        "agent.progress",
        "agent.event_lines",
        "pages",
        "agent.grammar",
        "agent.recovery",
        "agent.strategy",
        "agent.shelf",
        "agent.selection",
        "savings",
        "agent.choice",
        "presets",
    ),
    ("agent.journal",),
    (
        "llm.accumulate",
        "llm.encoding",
        "llm.connections",
        "llm.responses",
        "downstream.changes",
        "downstream.transports",
        "agent.reserve",
        "agent.resume",
        "agent.folding",
        "report",
        "agent.pruning",
        "named_servers",
        "record",
        "agent.probing",
        "agent.shaping",
        "rule_files",
        "commands.help",
    ),
    ("agent.calls", "agent.rounds", "llm.transport"),
    ("permissions", "llm.client", "downstream.connections", "downstream.claude_files", "agent.loop"),
    ("llm.loading", "downstream.owners", "downstream.trust"),
    ("downstream.discovery", "downstream.sessions"),
    ("host_files",),
    ("registration",),
    ("commands.surroundings",),
    ("commands.registering", "commands.display", "commands.progress_lines"),
    ("llm.pinned", "similarity", "shown_tools"),
    ("opening",),
    ("preparation",),
    ("autonomous",),
    ("overview", "run_story", "commands.working"),
    ("run_page",),
    ("evals.tasks", "evals.words"),
    ("evals.repository",),
    ("evals.checks",),
    (
        "evals.sandbox",
        "evals.families.big_files",
        "evals.families.big_results",
        "evals.families.edit_and_verify",
        "evals.families.impossible",
        "evals.families.nothing_to_do",
        "evals.families.one_call",
        "evals.families.several_calls",
        "evals.families.structured",
        "evals.families.two_servers",
    ),
    ("evals.suite",),
    ("evals.baseline", "evals.results"),
    ("evals.page", "evals.runner"),
    ("evals.request",),
    ("service", "answers"),
    ("app", "resources"),
    ("server",),
    ("doctor.checks",),
    ("doctor.lms",),
    ("doctor.machine", "doctor.engine", "doctor.servers", "doctor.programs", "doctor.deep"),
    ("doctor.examination",),
    (
        "commands.serve",
        "commands.continuing",
        "commands.models",
        "commands.runs",
        "commands.servers",
        "commands.doctor",
        "commands.run",
        "commands.eval",
        "commands.install",
        "commands.uninstall",
        "commands.completion",
    ),
    ("cli",),
    ("__main__",),
)
"""Each row may import the rows above it, and nothing of its own row."""

LIBRARIES: dict[str, tuple[str, ...]] = {
    "tenacity": ("retry",),
    "json_repair": ("agent.arguments",),
    "jsonschema": ("agent.validation",),
    "referencing": ("agent.validation",),
    "httpcore": ("llm.connections", "llm.transport"),
    "httpx2": ("downstream.transports",),
    "mcp.client": ("downstream.transports",),
    "mcp.shared": ("downstream.connections", "downstream.transports"),
    "mcp.server": ("server", "resources"),
    "mcp.types": ("downstream.connections", "downstream.transports", "server", "resources", "answers"),
    "mcp_types": ("downstream.connections",),
    "pydantic": (
        "settings",
        "llm.wire",
        "downstream.catalogues",
        "downstream.entries",
        "downstream.transports",
        "agent.validation",
        "server",
        "resources",
        "similarity",
    ),
    "pydantic_core": ("agent.validation",),
    "rich": ("commands.display", "commands.doctor", "commands.terminal"),
    "anyio": ("*",),
}
"""Which modules may import a library or a part of one; the standard library is free."""

PRINTING = re.compile(r"cli$|commands\.")
"""Modules that may print: the shell's face. Everywhere else stdout belongs to the protocol."""

MAX_LINES = 400

LAYER_OF = {module: number for number, row in enumerate(LAYERS) for module in row}


def sources() -> dict[str, str]:
    """The source of every module, by its name without the package's."""
    found: dict[str, str] = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path.read_text(encoding="utf-8")
    return found


def imports_of(source: str) -> Iterator[str]:
    """Every name that is imported, wherever the import stands: `a.b` for `import a.b` and `from a import b`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                yield from (f"{'.' * level}{module or ''}.{alias.name}" for alias in names)


def violations(module: str, source: str) -> list[str]:
    """What is wrong with a module, in words."""
    if module not in LAYER_OF:
        return [f"{module} is not in the table"]
    found: list[str] = []
    for name in imports_of(source):
        top = name.partition(".")[0]
        if not top:
            found.append(f"{module} imports {name} relatively")
        elif top == PACKAGE:
            inside = name.removeprefix(PACKAGE).removeprefix(".")
            target = inside if inside in LAYER_OF else inside.rpartition(".")[0]
            if target not in LAYER_OF:
                found.append(f"{module} imports {name}, which is not in the table")
            elif LAYER_OF[target] >= LAYER_OF[module]:
                found.append(f"{module} imports {target}, which is not in a lower layer")
        elif top not in sys.stdlib_module_names:
            rule = next((key for key in LIBRARIES if f"{name}.".startswith(f"{key}.")), None)
            if rule is None or not {module, "*"} & set(LIBRARIES[rule]):
                found.append(f"{module} imports {name}")
    tree = ast.parse(source)
    if not ast.get_docstring(tree):
        found.append(f"{module} has no docstring")
    if not PRINTING.match(module) and any(isinstance(node, ast.Name) and node.id == "print" for node in ast.walk(tree)):
        found.append(f"{module} prints")
    if (lines := len(source.splitlines())) > MAX_LINES:
        found.append(f"{module} has {lines} lines")
    return found


MODULES = sources()


def test_every_module_stands_in_the_table_and_every_row_exists() -> None:
    assert set(MODULES) == set(LAYER_OF)
    assert len(LAYER_OF) == sum(map(len, LAYERS))


def test_library_is_allowed_only_to_modules_that_use_it() -> None:
    used = {
        (rule, module)
        for module, source in MODULES.items()
        for name in imports_of(source)
        for rule in LIBRARIES
        if f"{name}.".startswith(f"{rule}.")
    }
    allowed = {(rule, module) for rule, modules in LIBRARIES.items() for module in modules if module != "*"}

    assert allowed - used == set()


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_to_its_layer(module: str) -> None:
    assert violations(module, MODULES[module]) == []


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("agent.")])
def test_agent_knows_neither_http_nor_mcp(module: str) -> None:
    tops = {name.partition(".")[0] for name in imports_of(MODULES[module])}

    assert not tops & {"httpcore", "httpx2", "mcp", "mcp_types"}


# -- the checker itself -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "line", "violation"),
    [
        ("events", "from lmstudio_bridge.messages import Usage", None),
        ("events", "import asyncio, json.decoder", None),
        ("events", "import anyio.abc", None),
        ("retry", "from tenacity import AsyncRetrying", None),
        ("server", "from mcp.types import TextContent", None),
        ("cli", "print(1)", None),
        ("commands.run", "print(1)", None),
        ("cli", "from lmstudio_bridge import __version__", None),
        ("agent.loop", "from lmstudio_bridge.agent import policy", None),
        (
            "events",
            "from lmstudio_bridge.retry import Retry",
            "events imports retry, which is not in a lower layer",
        ),
        (
            "agent.policy",
            "from lmstudio_bridge.agent import loop",
            "agent.policy imports agent.loop, which is not in a lower layer",
        ),
        (
            "agent.loop",
            "def f():\n    import lmstudio_bridge.server",
            "agent.loop imports server, which is not in a lower layer",
        ),
        (
            "agent.loop",
            "if TYPE_CHECKING:\n    from lmstudio_bridge.llm.client import LLMClient",
            "agent.loop imports llm.client, which is not in a lower layer",
        ),
        ("cli", "import lmstudio_bridge.nowhere.x", "cli imports lmstudio_bridge.nowhere.x, which is not in the table"),
        ("events", "from . import messages", "events imports ..messages relatively"),
        ("agent.loop", "async def f():\n    import httpcore", "agent.loop imports httpcore"),
        ("llm.transport", "import httpx2", "llm.transport imports httpx2"),
        ("downstream.sessions", "from mcp import ClientSession", "downstream.sessions imports mcp.ClientSession"),
        ("server", "from mcp.client.stdio import stdio_client", "server imports mcp.client.stdio.stdio_client"),
        ("events", "from pydantic import BaseModel", "events imports pydantic.BaseModel"),
        ("events", "import requests", "events imports requests"),
        ("server", "def f():\n    print('x')", "server prints"),
        ("server", "show = print", "server prints"),
        ("server", "\n" * 400, "server has 401 lines"),
    ],
)
def test_checker_finds_what_breaks_a_rule(module: str, line: str, violation: str | None) -> None:
    assert violations(module, f'"""A module."""\n{line}') == ([violation] if violation else [])


def test_checker_finds_a_module_that_nobody_placed() -> None:
    assert violations("nowhere", '"""A module."""') == ["nowhere is not in the table"]


def test_checker_finds_a_missing_docstring() -> None:
    assert violations("events", "import json") == ["events has no docstring"]


@pytest.mark.parametrize(("lines", "found"), [(399, []), (400, []), (401, ["events has 401 lines"])])
def test_checker_counts_lines(lines: int, found: list[str]) -> None:
    assert violations("events", '"""A module."""' + "\n" * (lines - 1) + "#") == found
