"""What a caller wants done, and how it went: RunRequest and RunReport."""

from __future__ import annotations

from dataclasses import dataclass

from lmstudio_bridge.events import Outcome

DEFAULT_MAX_ROUNDS = 50
MAX_TASK = 10_000  # characters


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a caller wants done.

    `servers` are names of configured MCP servers; None means all that can be used. `max_tokens` is
    for one reply of the model; None lets us choose by its context.
    """

    task: str
    servers: tuple[str, ...] | None = None
    max_rounds: int = DEFAULT_MAX_ROUNDS
    max_tokens: int | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a request went; `servers` are those whose tools were offered."""

    run_id: str
    outcome: Outcome
    servers: tuple[str, ...]

    def text(self) -> str:
        """The report for a reader: the answer, what to know about it, and one line of figures."""
        outcome = self.outcome
        notes = [f"Note: {warning}" for warning in outcome.warnings]
        match outcome.stop:
            case "answered":
                parts = [outcome.answer, *notes]
            case "failed" | "cancelled":
                so_far = f"The model's text so far:\n{outcome.answer}" if outcome.answer else ""
                parts = [outcome.error, so_far, *notes]
            case _:
                parts = [outcome.answer or "The model gave no answer.", *notes, f"Note: {_STOP_NOTES[outcome.stop]}"]
        return "\n\n".join([*(part for part in parts if part), self.figures()])

    def figures(self) -> str:
        """One line: run id, model, rounds, calls, tokens, seconds."""
        outcome, usage = self.outcome, self.outcome.usage
        return (
            f"[run {self.run_id} · {outcome.model or 'no model'} · {_count(outcome.rounds, 'round')} · "
            f"{_count(outcome.calls, 'call')} · {usage.prompt_tokens + usage.completion_tokens:,} tokens · "
            f"{outcome.seconds:.1f} s]"
        )


_STOP_NOTES = {
    "round_limit": "the limit of rounds was reached; the answer is from what was known by then. A higher max_rounds "
    "or a smaller task helps.",
    "deadline": "the time for the run was up; this is the text so far. A smaller task helps.",
    "context_full": "the model's context was full; this is the text so far. Load the model with a larger context.",
    "stuck": "the model got stuck; this is the text so far. A smaller task or another model helps.",
}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
