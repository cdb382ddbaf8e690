"""How a request went, for a reader and as data: RunReport."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lmstudio_bridge.events import Outcome
from lmstudio_bridge.savings import Savings, estimate_savings

_OWN_LINES = re.compile(
    r"^[ \t]*(?:\[words of the local|\[run \w|Note:|[\d,]+ calls? needed|Servers started:|\[The answer was cut)",
    re.IGNORECASE | re.MULTILINE,
)
"""Beginnings of what only the bridge says. Where they stand in an answer they are quoted, so that it forges none."""

_BRACKETS = re.compile(r"(\[secret[^\[\]]{0,40}\])|[\[\]]")  # but for the placeholder of a secret
_SHOWN_NAME = 200  # characters of a name that others made
_SHOWN_SOURCES = 10  # tools that the line about sources names
_SHOWN_REFUSALS = 10  # calls that the line about refused ones names
_SHOWN_SERVERS = 10  # that the line about servers names, of each kind


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a request went; `servers` are those whose tools were offered. `kept`: its journal has the answer."""

    run_id: str
    outcome: Outcome
    servers: tuple[str, ...]
    kept: bool = True

    def text(self, *, limit: int | None = None) -> str:
        """The report for a reader: the answer, what to know about it, and one line of figures.

        With a `limit` in characters the answer is cut at a paragraph to keep the whole within it.
        """
        answer = _quoted(self.outcome.answer)
        whole = self._text(answer)
        if limit is None or len(whole) <= limit:
            return whole
        whereabouts = f"the whole is in the resource {run_uri(self.run_id)}" if self.kept else "journals are off"
        note = f"\n\n[The answer was cut here; {whereabouts}.]"
        room = limit - (len(whole) - len(answer)) - len(note)
        if room < 0:  # it is not the answer that is long
            return f"{whole[: limit - len(note) - len(self._end()) - 2]}{note}\n\n{self._end()}"
        return self._text(_cut_at_paragraph(answer, room) + note)

    def structure(self) -> dict[str, Any]:
        """The report for a program, as JSON values."""
        outcome, savings = self.outcome, self.savings()
        return {
            "run_id": self.run_id,
            "stop": outcome.stop,
            "model": outcome.model,
            "servers": list(self.servers),
            "rounds": outcome.rounds,
            "calls": outcome.calls,
            "usage": asdict(outcome.usage),
            "saved": {"kept": savings.kept, "spent": savings.spent, "net": savings.net},
            "seconds": round(outcome.seconds, 3),
            "warnings": list(outcome.warnings),
            "sources": list(outcome.sources),
            "needed_write": list(outcome.needed_write),
            "not_started": list(outcome.not_started),
            "error": outcome.error,
        }

    def _text(self, answer: str) -> str:
        outcome, error = self.outcome, _quoted(self.outcome.error)
        notes = [_indented(f"Note: {warning}") for warning in dict.fromkeys(outcome.warnings)]
        match outcome.stop:
            case "answered":
                parts = [answer, *notes]
            case "failed" | "cancelled":
                so_far = f"The model's text so far:\n{answer}" if answer else ""
                parts = [error, so_far, *notes]
            case _:
                parts = [answer or "The model gave no answer.", *notes, f"Note: {_STOP_NOTES[outcome.stop]}"]
                parts += [error] if outcome.stop == "context_full" else []  # how much would be needed
        return "\n\n".join([*(part for part in (*parts, self._choice(), self._refusals()) if part), self._end()])

    def _end(self) -> str:
        """The last two lines: whose words the above are, and the figures."""
        sources = self.outcome.sources
        called = f"it called {_listed(sources, most=_SHOWN_SOURCES)}" if sources else "it called no tool"
        return f"[words of the local model, to be checked; {called}]\n{self.figures()}"

    def _choice(self) -> str:
        """One line about the servers, where they were chosen for the task."""
        outcome = self.outcome
        if not (outcome.started or outcome.not_started):
            return ""
        left = _listed(outcome.not_started, most=_SHOWN_SERVERS)
        others = f"; not started, nothing in the task asks for them: {left}" if left else ""
        return f"Servers started: {_listed(outcome.started, most=_SHOWN_SERVERS) or 'none'}{others}"

    def _refusals(self) -> str:
        """One line about the calls that were refused because the run could only read."""
        refused = list(dict.fromkeys(self.outcome.needed_write))
        if not refused:
            return ""
        total = len(self.outcome.needed_write)
        return f"{_count(total, 'call')} needed access=write: {_listed(refused, most=_SHOWN_REFUSALS)}"

    def savings(self) -> Savings:
        """What the run spared its caller, as an estimate."""
        return estimate_savings(self.outcome, given_back=len(self.outcome.answer) + len(self.outcome.error))

    def figures(self) -> str:
        """One line: run id, model, rounds, calls, tokens of the local model, seconds, and what it saved."""
        outcome, usage = self.outcome, self.outcome.usage
        return (
            f"[run {self.run_id} · {outcome.model or 'no model'} · {_count(outcome.rounds, 'round')} · "
            f"{_count(outcome.calls, 'call')} · {usage.prompt_tokens + usage.completion_tokens:,} tokens · "
            f"{outcome.seconds:.1f} s · {self.savings().in_words()}]"
        )


_STOP_NOTES = {
    "round_limit": "the limit of rounds was reached; the answer is from what was known by then. A higher max_rounds "
    "or a smaller task helps.",
    "deadline": "the time for the run was up; this is the text so far. A smaller task helps.",
    "context_full": "the model's context was full; this is the text so far. Load the model with a larger context.",
    "stuck": "the model got stuck; this is the text so far. A smaller task or another model helps.",
}


def run_uri(run_id: str) -> str:
    """The MCP resource in which the whole of a run can be read."""
    return f"lmstudio://runs/{run_id}"


def _cut_at_paragraph(text: str, room: int) -> str:
    """The beginning of `text` within `room` characters, cut where a paragraph or at least a line ends."""
    head = text[:room]
    for end in ("\n\n", "\n", " "):
        if (cut := head.rfind(end)) > room // 2:
            return head[:cut]
    return head


def _listed(names: Sequence[str], *, most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(map(_named, names[:most]))}{more}"


def _quoted(text: str) -> str:
    return _OWN_LINES.sub(r"> \g<0>", text)


def _named(name: str) -> str:
    """A name that others made, as a part of a line of ours: it can neither end the line nor its brackets."""
    plain = " ".join(_BRACKETS.sub(lambda found: found[1] or " ", name).split())
    return plain if len(plain) <= _SHOWN_NAME else f"{plain[:_SHOWN_NAME]}…"


def _indented(text: str) -> str:
    """A note whose further lines, which quote others, cannot be taken for lines of their own."""
    return "\n  ".join(text.splitlines())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
