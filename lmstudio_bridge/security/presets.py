"""What is known of well-known servers, as one table, and the rules that follow from it.

A well-known server is recognized by the package that its entry starts, not by its name, which anyone can choose.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from lmstudio_bridge.messages import ServerConfig
from lmstudio_bridge.security.access import PRESET, Rule, Rules


@dataclass(frozen=True, slots=True)
class Preset:
    """One well-known server; `why` explains the preset.

    `reads` are tools that may run with read access, `writes` those that write although their server marks them as
    reading, or do if an argument's text has something in it, as `writes_if` says. `only_if` maps one of the `reads` to
    an argument and what its text must match for that. `paths` maps a glob over the server's tools to the arguments
    that are paths, instead of those with the usual names. Each run starts a `fresh` server for itself.
    """

    why: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    writes_if: Mapping[str, tuple[str, re.Pattern[str]]] = field(default_factory=dict)
    only_if: Mapping[str, tuple[str, re.Pattern[str]]] = field(default_factory=dict)
    paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fresh: bool = False


_NO_PATHS: Mapping[str, tuple[str, ...]] = {"*": ()}
_BROWSER = "its open page belongs to one run, and no other run must click in it"
_OPENS_ADDRESSES = "it marks no tool; those that open any address are left out, because it can carry away what was read"
_QUERY_OF_DUCKDB = (
    r"\s*(?:from|select|with|values|table|show|describe|summarize|explain\s+(?:from|select|with))\b[^;]*;?\s*"
)
_POSTGRES_ACTS = (
    r"pg_(?:read|ls|stat_file|file|write|copy|sync|terminate|cancel|log_|reload|rotate|switch|promote|wal_replay|create"
    r"|drop|logical|replication_(?:slot_adv|origin_)|backup|start|stop|restore|import|export|stat_(?:reset|clear)|notify"
    r"|sleep|(?:try_)?advisory)|lo_|dblink|\w+_to_xml|xpath_table|crosstab|connectby|ts_(?:stat|rewrite)|set_config"
)
"""How functions of Postgres begin that read or write files of its host, run SQL in a text, or control it."""
_QUERY_OF_POSTGRES = re.compile(
    rf"(?!.*(?:\b(?:{_POSTGRES_ACTS})|u&\"))\s*(?:select|with|explain|show|table|values)\b[^;]*;?\s*",
    re.IGNORECASE | re.DOTALL,
)

_SERENA = Preset(
    "its name_path is a symbol in a file, such as /Class/method",
    paths=dict.fromkeys(
        ("*symbol*", "jet_brains_*", "find_implementations", "find_declaration", "search_for_pattern"),
        ("relative_path", "target_relative_path"),
    ),
)

# Tools as in the versions of November 2026, and those of older versions that had other names.
PRESETS: Mapping[str, Preset] = {
    "@modelcontextprotocol/server-filesystem": Preset(
        "versions before 2025.11 mark no tool",
        reads=(
            *("read_file", "read_text_file", "read_media_file", "read_multiple_files"),
            *("list_directory", "list_directory_with_sizes", "directory_tree"),
            *("search_files", "get_file_info", "list_allowed_directories"),
        ),
    ),
    "@modelcontextprotocol/server-memory": Preset(
        "versions before 2025.11 mark no tool; the user configures its only file, so no argument is a path",
        reads=("read_graph", "search_nodes", "open_nodes"),
        paths=_NO_PATHS,
    ),
    "@modelcontextprotocol/server-sequential-thinking": Preset(
        "it keeps thoughts in memory and touches nothing else", reads=("sequentialthinking",), paths=_NO_PATHS
    ),
    "@modelcontextprotocol/server-github": Preset(
        "it marks no tool; its paths are in repositories on GitHub, not on this machine",
        reads=(
            *("get_file_contents", "get_issue", "get_pull_request", "get_pull_request_comments"),
            *("get_pull_request_files", "get_pull_request_reviews", "get_pull_request_status"),
            *("list_commits", "list_issues", "list_pull_requests"),
            *("search_code", "search_issues", "search_repositories", "search_users"),
        ),
        paths=_NO_PATHS,
    ),
    "@modelcontextprotocol/server-postgres": Preset(
        "it marks no tool; its transactions only read, but a second statement could end them, and functions read files",
        reads=("query",),
        only_if={"query": ("sql", _QUERY_OF_POSTGRES)},
        paths=_NO_PATHS,
    ),
    "@modelcontextprotocol/server-slack": Preset(
        "it marks no tool",
        reads=(
            *("slack_list_channels", "slack_get_channel_history", "slack_get_thread_replies"),
            *("slack_get_users", "slack_get_user_profile"),
        ),
        paths=_NO_PATHS,
    ),
    "@modelcontextprotocol/server-brave-search": Preset(
        "it marks no tool", reads=("brave_web_search", "brave_local_search"), paths=_NO_PATHS
    ),
    "@brave/brave-search-mcp-server": Preset(
        "older versions mark no tool",
        reads=(
            *("brave_web_search", "brave_local_search", "brave_news_search", "brave_image_search"),
            *("brave_video_search", "brave_place_search", "brave_summarizer", "brave_llm_context"),
        ),
        paths=_NO_PATHS,
    ),
    "tavily-mcp": Preset(
        _OPENS_ADDRESSES,
        reads=("tavily_search", "tavily-search", "tavily_research"),
        paths=_NO_PATHS,
    ),
    "duckduckgo-mcp-server": Preset(_OPENS_ADDRESSES, reads=("search",), paths=_NO_PATHS),
    "firecrawl-mcp": Preset(
        "its scraping is not marked because of its actions, such as clicks",
        reads=("firecrawl_scrape",),
        only_if={"firecrawl_scrape": ("actions", re.compile(r"|\[\]|null"))},
        paths={"firecrawl_parse": ("filePath",), "*": ()},
    ),
    "@upstash/context7-mcp": Preset(
        "its libraries have names such as /mongodb/docs, which are not paths", paths=_NO_PATHS
    ),
    "@notionhq/notion-mcp-server": Preset(
        "it marks only what is sent with GET",
        reads=("API-post-search", "API-query-data-source", "API-post-database-query"),
        paths=_NO_PATHS,
    ),
    "mcp-obsidian": Preset(
        "it marks no tool; its paths are in the vault",
        reads=(
            *("obsidian_list_files_in_vault", "obsidian_list_files_in_dir", "obsidian_get_file_contents"),
            *("obsidian_batch_get_file_contents", "obsidian_simple_search", "obsidian_complex_search"),
            *("obsidian_search_by_tag", "obsidian_get_frontmatter", "obsidian_get_periodic_note"),
            *("obsidian_get_recent_periodic_notes", "obsidian_get_recent_changes", "read_notes", "search_notes"),
        ),
        paths=_NO_PATHS,
    ),
    "obsidian-mcp": Preset(
        "it marks no tool; its paths are in the vault",
        reads=("read-note", "search-vault", "list-available-vaults"),
        paths=_NO_PATHS,
    ),
    "awslabs.aws-documentation-mcp-server": Preset(
        "it marks no tool, and opens only addresses of AWS's documentation",
        reads=(
            *("read_documentation", "read_sections", "search_table", "search_documentation", "recommend"),
            "get_available_services",
        ),
        paths=_NO_PATHS,
    ),
    "markitdown-mcp": Preset(
        "it marks no tool; only files may be converted, because an address can carry away what was read",
        reads=("convert_to_markdown",),
        only_if={"convert_to_markdown": ("uri", re.compile(r"\s*(?:file|data):.*", re.IGNORECASE | re.DOTALL))},
    ),
    "mcp-server-sqlite": Preset(
        "it marks no tool, and takes nothing but SELECT for read_query",
        reads=("read_query", "list_tables", "describe_table"),
        paths=_NO_PATHS,
    ),
    "mcp-server-motherduck": Preset(
        "DuckDB's SQL can read any file and open any address, so its queries are not listed as reading; those that it "
        "marks count as writing unless they are one query: COPY writes files on its read-only connection, too",
        writes_if={"*query": ("sql", re.compile(rf"\A(?!{_QUERY_OF_DUCKDB}\Z)", re.IGNORECASE))},
    ),
    "github-mcp-server": Preset("its paths are in repositories on GitHub, not on this machine", paths=_NO_PATHS),
    "@kazuph/mcp-taskmanager": Preset(
        "it marks no tool", reads=("list_requests", "get_next_task", "open_task_details"), paths=_NO_PATHS
    ),
    "@eslint/mcp": Preset("it runs the project's eslint.config.js, so its tool is not listed as reading"),
    "mcp-server-git": Preset(
        "these pass nothing to git that it could read as options; in older versions git_diff and git_log write files",
        reads=("git_status", "git_diff_unstaged", "git_diff_staged"),
        paths={"*": ("repo_path", "files")},
    ),
    "mcp-server-time": Preset("it only tells the time", reads=("get_current_time", "convert_time"), paths=_NO_PATHS),
    "mcp-server-fetch": Preset(
        "its URLs are not paths; its tool is not listed as reading, because a URL can carry away what was read",
        paths=_NO_PATHS,
    ),
    "@playwright/mcp": Preset(_BROWSER, fresh=True, paths={"*": ("filename", "paths")}),
    "chrome-devtools-mcp": Preset(_BROWSER, fresh=True),
    "@modelcontextprotocol/server-puppeteer": Preset(_BROWSER, fresh=True),
    "@zereight/mcp-gitlab": Preset(
        "its downloads are marked as reading and save files; other paths are in repositories on GitLab",
        writes=("download_attachment", "download_job_artifacts"),
        paths={"upload_markdown": ("file_path",), "*": ("local_path",)},
    ),
    "@modelcontextprotocol/server-gitlab": Preset("its paths are in repositories on GitLab", paths=_NO_PATHS),
    "basic-memory": Preset(
        "its paths are in its own projects", paths={"create_memory_project": ("project_path",), "*": ()}
    ),
    **dict.fromkeys(("serena", "serena-agent", "serena-mcp-server"), _SERENA),
    **dict.fromkeys((f"git+https://github.com/oraios/serena{end}" for end in ("", ".git")), _SERENA),
    "mcp-server-kubernetes": Preset(
        "kubectl_context is marked as reading, and can choose another cluster for all programs of the user",
        writes_if={"kubectl_context": ("operation", re.compile("set"))},
    ),
    "mongodb-mcp-server": Preset(
        "export is marked as reading and saves a file; so is an aggregation, which can replace a collection",
        writes=("export",),
        writes_if={"aggregate*": ("pipeline", re.compile(r'"\$(?:out|merge)"\s*:'))},
        paths=_NO_PATHS,
    ),
}


_IMAGES: Mapping[str, str] = {
    **{
        f"mcp/{name}": f"@modelcontextprotocol/server-{name}"
        for name in ("filesystem", "memory", "github", "postgres", "slack", "brave-search", "puppeteer", "gitlab")
    },
    **{f"mcp/{name}": f"mcp-server-{name}" for name in ("sqlite", "git", "time", "fetch")},
    "mcp/sequentialthinking": "@modelcontextprotocol/server-sequential-thinking",
    "mcp/notion": "@notionhq/notion-mcp-server",
    "mcp/obsidian": "mcp-obsidian",
    "mcp/duckduckgo": "duckduckgo-mcp-server",
    "mcp/markitdown": "markitdown-mcp",
    "mcp/context7": "@upstash/context7-mcp",
    "mcp/aws-documentation": "awslabs.aws-documentation-mcp-server",
    "ghcr.io/github/github-mcp-server": "github-mcp-server",
    "mongodb/mongodb-mcp-server": "mongodb-mcp-server",
    "ghcr.io/oraios/serena": "serena",
    "mcp/playwright": "@playwright/mcp",
    "mcr.microsoft.com/playwright/mcp": "@playwright/mcp",
}
"""The container images of the same servers."""
_FLAGS_OF_RUN = re.compile(r"-[itdq]+|--(?:rm|init|interactive|tty|quiet|read-only)")
_OPTIONS_OF_RUN = frozenset(
    (
        *("-e", "--env", "--env-file", "-v", "--volume", "--mount", "--name", "--network", "--net", "-p", "--publish"),
        *("-w", "--workdir", "-u", "--user", "--platform", "--pull", "--add-host", "--memory", "--security-opt"),
    )
)
_LAUNCHERS = frozenset({"npm", "pnpm", "yarn", "bun", "uv", "pipx"})
_LAUNCHING = _LAUNCHERS | {"exec", "dlx", "x", "run", "tool"}
"""Words between such a command and the name of a package: `npm exec`, `uv tool run`."""
_FETCHERS = _LAUNCHERS | {"npx", "pnpx", "bunx", "uvx"}
"""What starts a package by its name; of other programs that is an argument."""
_PACKAGE_OPTIONS = frozenset({"--package", "--from", "--spec", "-p"})  # of uvx, -p is a version of Python
_OTHER_SOURCES = re.compile(r"--(?:registry|index(?:-url)?|default-index|extra-index-url|find-links|call)(?:=.*)?|-c")
"""Options with which a name may mean anything."""
_VALUE_OPTIONS = frozenset({"--python", "--directory", "--project", "--prefix", "--cwd", "-C", "--with", "--cache"})


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
            writing_if={f"{name}/{tool}": condition for tool, condition in preset.writes_if.items()},
            conditions={f"{name}/{tool}": condition for tool, condition in preset.only_if.items()},
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
    program, *args = config.launched
    if program in ("docker", "podman", "nerdctl"):
        return _IMAGES.get(_image_of(args))
    if re.fullmatch(r"python[\d.]*|py", program):
        modules = {package.replace("-", "_"): package for package in PRESETS}
        return modules.get(_module_of(args).removesuffix(".server"))
    return next((package for package in PRESETS if starts_package(config, package)), None)


def _image_of(args: Sequence[str]) -> str:
    """The image that `docker` starts, without its version; "" if that is not sure."""
    words = iter(args[1:] if args[:1] == ["run"] else ())
    for word in words:
        option, _, value = word.partition("=")
        if not word.startswith("-"):
            return re.sub(r"@.*|:[^/]*$", "", word.removeprefix("docker.io/"))
        if option in _OPTIONS_OF_RUN:
            value or next(words, "")
        elif not _FLAGS_OF_RUN.fullmatch(word):
            break  # it may have a value, or start another program
    return ""


def _module_of(args: Sequence[str]) -> str:
    """The module that `python -m` starts; "" if it starts something else."""
    flags = [*takewhile(re.compile(r"-[bBdEiIOPqsSuv]+").fullmatch, args)]
    before, module = (*args[len(flags) :], "", "")[:2]
    return module if before == "-m" else ""


def starts_package(config: ServerConfig, package: str) -> bool:
    """Whether the entry starts that package: by name, with a version, or by a path into an installed one.

    Only the word that names the program counts, not its arguments: `npx -y other @scope/package` starts `other`.
    """
    words_of = (config.command, *config.args)
    if config.transport != "stdio" or not any(package in word.replace("\\", "/") for word in words_of):
        return False  # the common case
    name = re.escape(package)
    folder = name.replace("/", r"[/\\]")
    installed = rf"(?:.*[/\\])?node_modules[/\\]{folder}(?:[/\\].*)?"
    version = r"(?:[@=][^:/\\]*)?"  # no address
    by_name = rf"(?:--?[\w-]+=)?{name}{version}|" if config.launched[0] in _FETCHERS else ""
    words = re.compile(rf"{by_name}{installed}", re.DOTALL)
    command = re.compile(rf"(?:.*[/\\])?{name}(?:\.\w+)?|{installed}", re.DOTALL)
    return bool(command.fullmatch(config.command)) or bool(words.fullmatch(_program(config)))


def _own_part(package: str) -> str:
    """What the programs of a package have in their names: `server-time` of `@scope/server-time@1`."""
    return re.split(r"(?:-agent|\.git)?(?:[@=<>~\[]|\Z)", package.lstrip("@").rpartition("/")[2])[0]


def _program(config: ServerConfig) -> str:
    """The word of a command line that names the package or the file to start; "" if there is none, or several."""
    named: list[str] = []
    before = ""
    program, *args = config.launched
    launches = program in _LAUNCHERS
    if program in _FETCHERS and any(map(_OTHER_SOURCES.fullmatch, args)):
        return ""
    for word in args:
        option, _, value = word.partition("=")
        if before in _PACKAGE_OPTIONS or (option in _PACKAGE_OPTIONS and value):
            package = value if option in _PACKAGE_OPTIONS else word
            named += [] if re.fullmatch(r"[\d.]+", package) else [package]
            before = ""
        elif word in _PACKAGE_OPTIONS or word in _VALUE_OPTIONS:
            before = word
        elif before or word.startswith("-"):
            before = ""
        elif launches and word in _LAUNCHING:
            launches = word == "tool"
        else:
            return word if not named else named[0] if len(named) == 1 and _own_part(named[0]) in word else ""
    return named[0] if len(named) == 1 else ""
