"""What a run spared its caller: an estimate in tokens, net of what the bridge itself costs.

Counted for the caller are the results of the calls that went well and the definitions of the tools that were
called, each once: an agent that had done the work itself would have read them. Against it stand the definitions of
the bridge's own tools, the task, and all that comes back. Not counted, in favour of honesty: what such an agent would
have written to make the calls, and that it reads its whole context again with each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmstudio_bridge.events import Outcome

CHARS_PER_TOKEN = 4  # a rough average over English text, code and JSON
_DIGITS = 2  # that are shown of an estimate; more would be a claim
OWN_TOOLS = 5_900  # characters of the bridge's own tool definitions; tests/test_server.py holds them below 6,000


@dataclass(frozen=True, slots=True)
class Savings:
    """Estimated tokens: `kept` the caller did not read, `spent` it read or wrote because of us."""

    kept: int
    spent: int

    @property
    def net(self) -> int:
        """What was saved; below zero where the call cost more than it spared."""
        return self.kept - self.spent

    def in_words(self) -> str:
        """A few words for a line of figures."""
        about = round(abs(self.net), _DIGITS - len(str(abs(self.net))))
        if self.net < 0:
            return f"cost the caller about {about:,} tokens more than it saved"
        return f"saved the caller about {about:,} tokens"


def estimate_savings(outcome: Outcome, *, given_back: int) -> Savings:
    """What a run saved that ended like this, where `given_back` characters went to the caller."""
    spent = OWN_TOOLS + outcome.brief + given_back
    return Savings(outcome.kept // CHARS_PER_TOKEN, spent // CHARS_PER_TOKEN)
