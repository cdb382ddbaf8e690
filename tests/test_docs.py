"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from lmstudio_bridge.cli import build_parser
from lmstudio_bridge.settings import Settings

ROOT = Path(__file__).parent.parent


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_setting_stands_in_the_table_with_its_meaning() -> None:
    rows = [line for line in read("docs/settings.md").splitlines() if line.startswith("| `")]
    wanted = []
    for field in Settings.model_fields.values():
        assert isinstance(field.json_schema_extra, dict)
        variables = field.json_schema_extra["env"]
        assert isinstance(variables, list)
        wanted.append(f"| {', '.join(f'`{name}`' for name in variables)} | {field.description} |")
    assert [row.rpartition(" | ")[0] + " |" for row in rows] == wanted


def test_every_variable_that_the_readme_names_is_a_setting() -> None:
    known = {"LMSTUDIO_HOST", "LMSTUDIO_PORT"}
    for field in Settings.model_fields.values():
        assert isinstance(field.json_schema_extra, dict)
        known |= set(map(str, field.json_schema_extra["env"]))  # type: ignore[arg-type]  # a list, see above
    named = set(re.findall(r"`([A-Z][A-Z_]{4,})`", read("README.md")))
    assert named <= known


def test_the_scripts_that_the_readme_names_are_there_and_executable() -> None:
    named = set(re.findall(r"^(scripts/\w+)", read("README.md"), flags=re.MULTILINE))
    assert named == {"scripts/demo", "scripts/test"}
    for name in named:
        assert (ROOT / name).stat().st_mode & 0o111


def test_the_shell_commands_of_the_readme_are_understood() -> None:
    lines = re.findall(r"^lmstudio-bridge (.+)$", read("README.md"), flags=re.MULTILINE)
    assert lines
    for line in lines:
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line)]
        assert build_parser().parse_args(words).command == words[0]
