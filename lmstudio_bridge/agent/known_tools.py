"""What is made of a tool: each part once, when it is first needed, and kept from run to run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmstudio_bridge.agent.ranking import tool_words
from lmstudio_bridge.agent.schemas import EMPTY_CHARS, SchemaWork, parameter_names, sized_schema
from lmstudio_bridge.messages import JSONObject, ServerTool, ToolSpec

if TYPE_CHECKING:
    from lmstudio_bridge.agent.validation import SchemaChecker

MAX_KNOWN = 1_000  # tools; those of some dozen servers
MAX_KEPT_WORDS = 1_000  # of one tool; names of parameters could make it fifty times as many


@dataclass(frozen=True, slots=True)
class SizedSpec:
    """A tool as the model sees it, and how long its name, description and schema are (characters)."""

    spec: ToolSpec
    chars: int


@dataclass(slots=True, eq=False)
class KnownTool:
    """A tool under the name and with the words by which it is offered, and what was made of it so far."""

    name: str
    description: str
    schema: JSONObject
    _sized: SizedSpec | None = None
    _words: Sequence[str] = ()
    _checker: SchemaChecker | None = None
    _has_checker: bool = False
    _definition_chars: int = 0

    def sized(self, work: SchemaWork) -> SizedSpec:
        """The tool as the model sees it; takes `work` only where it was not made before."""
        if self._sized is not None:
            return self._sized
        parameters, chars = sized_schema(self.schema, work=work)
        sized = SizedSpec(
            ToolSpec(self.name, self.description, parameters), len(self.name) + len(self.description) + chars
        )
        if work.left > 0:  # else it may have been cut short for this run
            self._sized = sized
        return sized

    def words(self, work: SchemaWork) -> Sequence[str]:
        """What it is ranked by."""
        if not self._words:
            names = parameter_names(self.schema)
            if names is None:
                names = self.sized(work).spec.parameters["properties"]
            words = tool_words(self.name, self.description, names)
            if work.left <= 0 or len(words) > MAX_KEPT_WORDS:
                return words
            self._words = words
        return self._words

    def problem(self, arguments: Mapping[str, Any]) -> str | None:
        """What the schema says against arguments, in words.

        None also where it cannot be used, or where it would take too long to tell: their server judges them itself.
        """
        from lmstudio_bridge.agent.validation import SchemaChecker, UncheckedError

        if not self._has_checker:
            try:
                self._checker = SchemaChecker(self.schema)
            except ValueError:
                self._checker = None
            self._has_checker = True
        try:
            return self._checker.problem(arguments) if self._checker else None
        except UncheckedError:
            return None

    def schema_chars(self) -> int:
        """How long the schema is as its server gave it (characters)."""
        if not self._definition_chars:
            self._definition_chars = len(json.dumps(self.schema))
        return self._definition_chars


@dataclass(slots=True, eq=False)
class Offer:
    """A tool that one run may offer, cleaned only when it is looked at; all offers of a run share its `work`."""

    known: KnownTool
    _work: SchemaWork
    _sized: SizedSpec | None = None

    @property
    def name(self) -> str:
        """The name under which the model sees it."""
        return self.known.name

    @property
    def description(self) -> str:
        """What the model reads of it, apart from its schema."""
        return self.known.description

    @property
    def words(self) -> Sequence[str]:
        """What it is ranked by."""
        return self.known.words(self._work)

    @property
    def spec(self) -> ToolSpec:
        """The tool as the model sees it; the same one each time."""
        return self._make().spec

    @property
    def chars(self) -> int:
        """How long its name, description and schema are (characters)."""
        return self._make().chars

    @property
    def least_chars(self) -> int:
        """What `chars` is at least, known without a look at the schema."""
        return len(self.known.name) + len(self.known.description) + EMPTY_CHARS

    def _make(self) -> SizedSpec:
        if self._sized is None:
            self._sized = self.known.sized(self._work)
        return self._sized


class KnownTools:
    """Knows the tools of earlier runs again: an open session gives each run the very same schemas.

    A tool that has changed is made anew, and so is one that others have pushed out.
    """

    def __init__(self, make: Callable[[ServerTool], KnownTool]) -> None:
        self._make = make
        self._known: dict[tuple[str, str], tuple[ServerTool, KnownTool]] = {}

    def find(self, tool: ServerTool) -> KnownTool:
        """What is known of the tool."""
        key = (tool.server, tool.name)
        before, known = self._known.get(key, (None, None))
        if known is None or before is None or not _is_same(before, tool):
            known = self._make(tool)
            self._known[key] = (tool, known)
            if len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]
        return known


def chars_of(offers: Sequence[Offer], *, most: float) -> int:
    """How many characters they take together; if it is more than `most`, only that it is more."""
    taken = sum(offer.least_chars for offer in offers)
    for offer in offers:
        if taken > most:
            break
        taken += offer.chars - offer.least_chars
    return taken


def _is_same(one: ServerTool, other: ServerTool) -> bool:
    return one.input_schema is other.input_schema and one.description == other.description and one.title == other.title
