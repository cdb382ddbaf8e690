"""Schemas of tools, made ready once and kept from run to run: cleaned for the model, and prepared to check against."""

from __future__ import annotations

from dataclasses import dataclass

from lmstudio_bridge.agent.schemas import SchemaWork, object_schema
from lmstudio_bridge.agent.validation import SchemaChecker
from lmstudio_bridge.messages import JSONObject

_MAX_KNOWN = 1_000  # schemas; the tools of some dozen servers


@dataclass(slots=True)
class _Known:
    schema: JSONObject  # kept, so that nothing else can have its id
    parameters: JSONObject | None = None
    checker: SchemaChecker | None = None
    has_checker: bool = False


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

    def checker(self, schema: JSONObject) -> SchemaChecker | None:
        """What holds values against the schema; None where it cannot be used."""
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
