"""docs/settings.md, made from `Settings`: `python -m scripts.tools.settings_page` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from lmstudio_bridge.settings import Settings, variables_of

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
_HEAD = """\
# Settings

All settings are optional environment variables. Commands use those of your shell; for Claude Code,
`lmstudio-bridge install --env NAME=VALUE` writes them into its entry. `lmstudio-bridge doctor` shows what is set.

An empty variable counts as not set. If several are named, the first that is set wins. Seconds are above 0 and at most
86,400, unless said otherwise. `LMSTUDIO_HOST` and `LMSTUDIO_PORT` are `LMSTUDIO_BASE_URL` in two parts.

"""
_MOST_SECONDS = 86_400
_NOT_FIXED = {"project": "the working folder", "home": "`~/.local/state/lmstudio-bridge`"}
"""Defaults that depend on where the bridge is started."""


def variables() -> set[str]:
    """Every variable that sets something."""
    return {name for field in Settings.model_fields for name in variables_of(field)}


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(f"{row}\n" for row in _rows())


def _rows() -> Iterator[str]:
    schema = Settings.model_json_schema()["properties"]
    for name, field in Settings.model_fields.items():
        named = ", ".join(f"`{variable}`" for variable in variables_of(name))
        default = _NOT_FIXED.get(name) or _default(field.default)
        told = "; ".join(filter(None, [_values(schema[name]), f"default {default}" if default else ""]))
        yield f"- {named}{f' ({told})' if told else ''}: {field.description}"


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
    if (given.get("exclusiveMinimum"), most) == (0, _MOST_SECONDS):
        return ""  # said once, above the list
    if "exclusiveMinimum" in given:
        return f"above {given['exclusiveMinimum']:g}, up to {most:,.0f}"
    if least is None:
        return ""
    return f"{least:g} to {most:,.0f}" if most is not None else f"{least:g} or more"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
