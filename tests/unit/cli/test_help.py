"""--help of every command, the page made from it, and output where little can be shown."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from lmstudio_bridge import DOCS, REPOSITORY
from lmstudio_bridge.cli.arguments import build_parser
from lmstudio_bridge.cli.eval import read_request
from lmstudio_bridge.settings import Settings, variables_of
from scripts.tools.commands_page import PAGE, page, parsers
from tests.support.shell import LIMIT, ROOT, Shell

PARSERS = parsers()


def environment(folder: Path, **environ: str) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(ROOT), **environ}


def test_page_of_commands_is_what_the_parser_says() -> None:
    """Where it is not: `python -m scripts.tools.commands_page`."""
    assert PAGE.read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("words", PARSERS)
def test_help_is_complete_and_plain(words: str) -> None:
    parser = PARSERS[words]
    text = parser.format_help()

    assert text.isascii(), "for terminals that have nothing else"
    assert parser.description
    assert "\nexit codes:\n" in text
    assert not words or parser.commands or "\nexamples:\n" in text
    assert all(argument.help for argument in parser.arguments)
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("words", ["", "runs"])
def test_each_command_is_beside_its_summary(words: str) -> None:
    _, _, listed = PARSERS[words].format_help().partition("\ncommands:\n")
    rows = listed.partition("\n\n")[0].splitlines()
    assert [row.split(maxsplit=1) for row in rows] == [[k, each.summary] for k, each in PARSERS[words].commands.items()]


@pytest.mark.parametrize("words", PARSERS)
def test_examples_are_command_lines_that_the_parser_takes(words: str) -> None:
    for line in re.findall(r"^  (\S.*)\n      \S", PARSERS[words].epilog or "", flags=re.MULTILINE):
        plain = re.sub(r'^eval "\$\((.*)\)"$', r"\1", line).partition(" > ")[0].partition(" < ")[0]
        command, *arguments = shlex.split(plain)
        assert command == "lmstudio-bridge"
        args = build_parser().parse_args(arguments)  # exits if it does not understand
        if args.command == "eval":
            assert read_request(args).tasks


def test_a_family_may_be_written_with_underscores() -> None:
    args = build_parser().parse_args(["eval", "--family", "one_call"])
    assert {task.family for task in read_request(args).tasks} == {"one-call"}


@pytest.mark.parametrize("words", PARSERS)
def test_help_names_pages_by_addresses_that_a_user_has(words: str) -> None:
    pages = re.findall(r"\S*docs/[\w-]+\.md", PARSERS[words].format_help())
    assert all(page.startswith(f"{DOCS}/") and (ROOT / "docs" / Path(page).name).exists() for page in pages), pages


def test_the_repository_is_the_one_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Repository"] == REPOSITORY
    assert all(url.startswith(REPOSITORY) for url in project["urls"].values())


def test_variables_in_help_are_settings_or_well_known() -> None:
    known = {"LMSTUDIO_HOST", "LMSTUDIO_PORT", "NO_COLOR", "CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME"}
    known |= {"BROWSER", "PYTHON_KEYRING_BACKEND"}
    known |= {variable for field in Settings.model_fields for variable in variables_of(field)}
    for words, parser in PARSERS.items():
        _, _, told = (parser.epilog or "").partition("environment:\n")
        assert set(re.findall(r"^  ([A-Z_]+)$", told, flags=re.MULTILINE)) <= known, words


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("rnu x", "Did you mean 'run'? For help: lmstudio-bridge --help"),
        ("help", "Did you mean '--help'? "),
        ("undo last", "Did you mean 'runs undo'? For help: lmstudio-bridge --help"),
        ("runs shwo last", "Did you mean 'show'? For help: lmstudio-bridge runs --help"),
        ("install cursr", "Did you mean 'cursor'? "),
        ("run x --mpc fs", "Did you mean '--mcp'? "),
        ("run --for-each *.md task", "TASK comes first, before --for-each. "),
        ("xyzzy", "\nFor help: lmstudio-bridge --help"),
    ],
)
def test_a_typo_is_told_with_what_may_have_been_meant(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(line.split())

    assert told in capsys.readouterr().err


def test_help_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "42")
    text, _, epilog = build_parser().format_help().partition("exit codes:")
    assert max(map(len, text.splitlines())) <= 42
    assert "\n  130  interrupted\n" in epilog


# -- terminals and locales -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--help",), 0),
        (("install", "cursor", "--print", "--model", "größe-→-模型"), 0),
        (("run", "→", "--mcp", "größe-模型"), 1),
        (("nonsense-→",), 2),
        (("doctor",), 1),
    ],
)
async def test_no_locale_costs_the_answer(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    (tmp_path / "größe-模型").mkdir()
    narrow = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    given = {**narrow, "LMSTUDIO_BASE_URL": "http://127.0.0.1:9", "LMSTUDIO_BRIDGE_RETRY_ATTEMPTS": "1"}
    environ = environment(tmp_path, **given)

    got, out, err = await Shell(tmp_path / "größe-模型", environ).run(*arguments)

    assert (got, "Traceback" in out + err) == (code, False), out + err


@pytest.mark.parametrize("arguments", ["--help", "doctor", "completion bash", "install --dry-run"])
async def test_a_reader_that_goes_away_is_no_fault(tmp_path: Path, arguments: str) -> None:
    """As in `lmstudio-bridge doctor | head -1`."""
    line = f"set -o pipefail; {shlex.quote(sys.executable)} -m lmstudio_bridge {arguments} | true"
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", line),
        cwd=tmp_path,
        env=environment(tmp_path, LMSTUDIO_BASE_URL="ftp://x"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT):
        _, err = await process.communicate()

    assert (process.returncode, b"Broken" in err, b"Traceback" in err) == (141, False, False), err
