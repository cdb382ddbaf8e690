"""Schemas of tools, made ready once and kept from run to run: cleaned for the model, and prepared to check against."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from lmstudio_bridge.agent.schemas import SchemaWork, object_schema
from lmstudio_bridge.messages import JSONObject

if TYPE_CHECKING:
    from lmstudio_bridge.agent.validation import SchemaChecker

_VALIDATION = "lmstudio_bridge.agent.validation"
_MAX_KNOWN = 1_000  # schemas; the tools of some dozen servers


@dataclass(slots=True)
class _Known:
    schema: JSONObject  # kept, so that nothing else can have its id
    parameters: JSONObject | None = None
    checker: SchemaChecker | None = None
    has_checker: bool = False


async def load_validation() -> None:
    """Import what checks values, in a thread, before the first call needs it.

    It takes longer than all else of ours that a call needs, and no server needs it to start: so the first run does
    it while its servers start.
    """
    if _VALIDATION not in sys.modules:
        await anyio.to_thread.run_sync(importlib.import_module, _VALIDATION)


async def check_schema(schema: JSONObject) -> str | None:
    """What is wrong with a schema that a caller gave us, as `validation` says it."""
    await load_validation()
    from lmstudio_bridge.agent import validation

    return validation.check_schema(schema)


class KnownSchemas:
    """Knows a schema again by its identity: an open session gives each run the very same ones."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}

    def parameters(self, schema: JSONObject, *, work: SchemaWork) -> JSONObject:
        """The schema in the form that every engine takes; takes `work` only where it is not known."""
        known = self._entry(schema)
        if known.parameters is not None:
            return known.parameters
        parameters = object_schema(schema, work=work)
        if work.left > 0:  # else it may have been cut short for this run
            known.parameters = parameters
        return parameters

    def problem(self, schema: JSONObject, value: Any) -> str | None:
        """What the schema says against a value, in words.

        None also where it cannot be used, or where it would take too long to tell.
        """
        from lmstudio_bridge.agent.validation import UncheckedError

        checker = self.checker(schema)
        try:
            return checker.problem(value) if checker else None
        except UncheckedError:
            return None

    def checker(self, schema: JSONObject) -> SchemaChecker | None:
        """What holds values against the schema; None where it cannot be used."""
        from lmstudio_bridge.agent.validation import SchemaChecker

        known = self._entry(schema)
        if not known.has_checker:
            try:
                known.checker = SchemaChecker(schema)
            except ValueError:
                known.checker = None
            known.has_checker = True
        return known.checker

    def _entry(self, schema: JSONObject) -> _Known:
        known = self._known.get(id(schema))
        if known is None:
            known = self._known[id(schema)] = _Known(schema)
            if len(self._known) > _MAX_KNOWN:
                del self._known[next(iter(self._known))]
        return known
