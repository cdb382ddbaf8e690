"""What is known of well-known servers, as one table, and the rules that follow from it.

A well-known server is recognized by the package that its entry starts, not by its name, which anyone can choose.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from lmstudio_bridge.messages import ServerConfig
from lmstudio_bridge.security.access import PRESET, Rule, Rules


@dataclass(frozen=True, slots=True)
class Preset:
    """One well-known server; `reason` explains the preset.

    `reads` are tools that may run with read access, `writes` those that write although their server marks them as
    reading. `paths` maps a glob over the server's tools to the arguments that
    are paths, instead of those with the usual names. Each run starts a `fresh` server for itself.
    """

    reason: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fresh: bool = False


_BROWSER = "its open page belongs to one run, and no other run must click in it"

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
        "versions before 2025.11 mark no tool; the user configures its only file, so no argument is a path",
        reads=("read_graph", "search_nodes", "open_nodes"),
        paths={"*": ()},
    ),
    "@modelcontextprotocol/server-sequential-thinking": Preset(
        "it keeps thoughts in memory and touches nothing else", reads=("sequentialthinking",), paths={"*": ()}
    ),
    "@modelcontextprotocol/server-github": Preset(
        "its paths are in repositories on GitHub, not on this machine", paths={"*": ()}
    ),
    "mcp-server-git": Preset(
        "these pass nothing to git that it could read as options; in older versions git_diff and git_log write files",
        reads=("git_status", "git_diff_unstaged", "git_diff_staged"),
        paths={"*": ("repo_path", "files")},
    ),
    "mcp-server-time": Preset("it only tells the time", reads=("get_current_time", "convert_time"), paths={"*": ()}),
    "mcp-server-fetch": Preset(
        "its URLs are not paths; its tool is not listed as reading, because a URL can carry away what was read",
        paths={"*": ()},
    ),
    "@playwright/mcp": Preset(_BROWSER, fresh=True),
    "chrome-devtools-mcp": Preset(_BROWSER, fresh=True),
    "@modelcontextprotocol/server-puppeteer": Preset(_BROWSER, fresh=True),
    "@zereight/mcp-gitlab": Preset(
        "download_attachment is marked as reading and saves a file", writes=("download_attachment",)
    ),
    "mongodb-mcp-server": Preset("export is marked as reading and saves a file", writes=("export",)),
}


def preset_rules(configs: Iterable[ServerConfig]) -> Rules:
    """The rules for the well-known ones among these servers."""
    rules = Rules()
    for config in configs:
        package = _package_of(config)
        if package is None:
            continue
        preset, name = PRESETS[package], glob.escape(config.name)
        rules += Rules(
            tuple(Rule("allow", f"{name}/{tool}", f"{PRESET}{package}") for tool in preset.reads),
            writing=frozenset(f"{name}/{tool}" for tool in preset.writes),
            arguments={f"{name}/{tools}": frozenset(names) for tools, names in preset.paths.items()},
        )
    return rules


def is_fresh(config: ServerConfig, *, named: Collection[str] | None) -> bool:
    """Whether each run starts this server for itself: if the user named it or, by default, if its preset says so."""
    if named is not None:
        return config.name in named or "*" in named
    package = _package_of(config)
    return package is not None and PRESETS[package].fresh


def _package_of(config: ServerConfig) -> str | None:
    return next((package for package in PRESETS if _starts(config, package)), None)


def _starts(config: ServerConfig, package: str) -> bool:
    """Whether the entry starts that package: by name, with a version, or by a path into an installed one.

    A folder of the same name, such as a checkout that the server works in, does not count.
    """
    if config.transport != "stdio" or not any(package in word for word in (config.command, *config.args)):
        return False  # the common case
    name = re.escape(package)
    installed = rf"(?:.*[/\\])?node_modules[/\\]{name}(?:[/\\].*)?"
    words = re.compile(rf"(?:--?[\w-]+=)?{name}(?:[@=].*)?|{installed}", re.DOTALL)
    command = re.compile(rf"(?:.*[/\\])?{name}(?:\.\w+)?|{installed}", re.DOTALL)
    return bool(command.fullmatch(config.command)) or any(map(words.fullmatch, config.args))
