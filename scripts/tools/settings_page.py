"""docs/settings.md, made from `Settings`: `python -m scripts.tools.settings_page` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from lmstudio_bridge.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
_HEAD = """\
# Settings

All are environment variables of the bridge's process, and all may be left out. In Claude Code they go into `env` of the
server's entry: `uvx lmstudio-bridge install --env NAME=VALUE` puts them there, or `-e` does:
`claude mcp add lmstudio-bridge -e LM_API_TOKEN=… -- uvx lmstudio-bridge`. The commands take those of your shell.

An empty variable counts as not set. Where a row has two, the first that is set counts. `LMSTUDIO_HOST` and
`LMSTUDIO_PORT` are `LMSTUDIO_BASE_URL` in two parts, and count where that one is not set. `lmstudio-bridge doctor`
shows what is set, and what it can't use.

| variable | meaning | values | default |
|---|---|---|---|
"""
_NOT_FIXED = {"project": "the working folder", "home": "`~/.local/state/lmstudio-bridge`"}
"""Defaults that depend on where the bridge is started."""


def variables() -> set[str]:
    """Every variable that sets something."""
    return {name for field in Settings.model_fields for name in _variables(field)}


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(f"{row}\n" for row in _rows())


def _rows() -> Iterator[str]:
    schema = Settings.model_json_schema()["properties"]
    for name, field in Settings.model_fields.items():
        named = ", ".join(f"`{variable}`" for variable in _variables(name))
        default = _NOT_FIXED.get(name) or _default(field.default)
        yield f"| {named} | {field.description} | {_values(schema[name])} | {default} |"


def _variables(name: str) -> list[str]:
    extra = Settings.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    named = extra["env"]
    assert isinstance(named, list)
    return [str(each) for each in named]


def _default(value: object) -> str:
    match value:
        case None | () | "":
            return ""
        case float() | int():
            return f"{value:g}"
        case _:
            assert value is not PydanticUndefined
            return f"`{value}`"


def _values(schema: dict[str, Any]) -> str:
    """What may be given: the choices, or the least and the most of a number."""
    given: dict[str, Any] = next((each for each in schema.get("anyOf", []) if each.get("type") != "null"), schema)
    if "enum" in given:
        return ", ".join(f"`{each}`" for each in given["enum"])
    least, most = given.get("minimum"), given.get("maximum")
    if "exclusiveMinimum" in given:
        return f"above {given['exclusiveMinimum']:g}, up to {most:,.0f}"
    if least is None:
        return ""
    return f"{least:g} to {most:,.0f}" if most is not None else f"{least:g} or more"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
