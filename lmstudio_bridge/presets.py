"""What is known of well-known MCP servers: tools that only read, arguments that are paths, state that is one run's.

A server is known by the package that its entry starts, not by its name, which anyone can choose.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from lmstudio_bridge.agent.rules import Rule, Rules
from lmstudio_bridge.downstream.config import ServerConfig


@dataclass(frozen=True, slots=True)
class Preset:
    """One well-known server; `reason` says why what stands here is so.

    `reads` are tools that may run in a run that only reads. `paths` says for a glob over the server's
    tools which arguments are paths, in place of the usual names. Each run starts a `fresh` one for itself.
    """

    reason: str
    reads: tuple[str, ...] = ()
    paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fresh: bool = False


PRESETS: Mapping[str, Preset] = {
    "@modelcontextprotocol/server-filesystem": Preset(
        "versions before 2025.11 mark no tool",
        reads=(
            "read_file",
            "read_text_file",
            "read_media_file",
            "read_multiple_files",
            "list_directory",
            "list_directory_with_sizes",
            "directory_tree",
            "search_files",
            "get_file_info",
            "list_allowed_directories",
        ),
    ),
    "@modelcontextprotocol/server-memory": Preset(
        "versions before 2025.11 mark no tool; its one file is named by the user, so that no argument is a path",
        reads=("read_graph", "search_nodes", "open_nodes"),
        paths={"*": ()},
    ),
    "@modelcontextprotocol/server-sequential-thinking": Preset(
        "it keeps thoughts in its memory and touches nothing else", reads=("sequentialthinking",), paths={"*": ()}
    ),
    "@modelcontextprotocol/server-github": Preset(
        "its paths are in a repository on GitHub, not on this machine", paths={"*": ()}
    ),
    "mcp-server-git": Preset(
        "these take no words that git could read as options; older versions let git_diff and git_log write files so",
        reads=("git_status", "git_diff_unstaged", "git_diff_staged"),
        paths={"*": ("repo_path", "files")},
    ),
    "mcp-server-time": Preset("it only tells the time", reads=("get_current_time", "convert_time"), paths={"*": ()}),
    "mcp-server-fetch": Preset(
        "its addresses are no paths; it is not in the list of reading tools, because an address can carry away what "
        "was read",
        paths={"*": ()},
    ),
    "@playwright/mcp": Preset("its open page is one run's, and no other must click in it", fresh=True),
    "chrome-devtools-mcp": Preset("its open page is one run's, and no other must click in it", fresh=True),
    "@modelcontextprotocol/server-puppeteer": Preset(
        "its open page is one run's, and no other must click in it", fresh=True
    ),
}


def preset_rules(configs: Iterable[ServerConfig]) -> Rules:
    """The rules for those of the servers that are well known."""
    rules = Rules()
    for config in configs:
        package = _package_of(config)
        if package is None:
            continue
        preset, name = PRESETS[package], glob.escape(config.name)
        rules += Rules(
            tuple(Rule("allow", f"{name}/{tool}", f"known of {package}") for tool in preset.reads),
            arguments={f"{name}/{tools}": frozenset(names) for tools, names in preset.paths.items()},
        )
    return rules


def is_fresh(config: ServerConfig, *, named: Collection[str] | None) -> bool:
    """Whether each run starts this server for itself: as the user named them or, where nobody did, as is known."""
    if named is not None:
        return config.name in named or "*" in named
    package = _package_of(config)
    return package is not None and PRESETS[package].fresh


def _package_of(config: ServerConfig) -> str | None:
    return next((package for package in PRESETS if _starts(config, package)), None)


def _starts(config: ServerConfig, package: str) -> bool:
    """Whether the entry starts that package: by name, with a version, or by a path into an installed one.

    A folder that is only called so, such as a checkout that a server may work in, is none.
    """
    if config.transport != "stdio" or not any(package in word for word in (config.command, *config.args)):
        return False  # most are none, and this is asked for every run
    name = re.escape(package)
    installed = rf"(?:.*[/\\])?node_modules[/\\]{name}(?:[/\\].*)?"
    words = re.compile(rf"(?:--?[\w-]+=)?{name}(?:[@=].*)?|{installed}", re.DOTALL)
    command = re.compile(rf"(?:.*[/\\])?{name}(?:\.\w+)?|{installed}", re.DOTALL)
    return bool(command.fullmatch(config.command)) or any(map(words.fullmatch, config.args))
