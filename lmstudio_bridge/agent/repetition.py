"""Detects that a model repeats itself, and says which step to take against it.

Seen with small models: the same call 20 to 50 times over. A reminder alone is known to fail, taking
the repeated turns out of the history helps (prime-agent #1326, hermes-agent #6784, opencode #28596).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from lmstudio_bridge.agent.prompts import REPEATED_CALL, REPEATED_CALLS, REPEATED_ERROR

_SAME_ERRORS = 3  # the same error of the same tool in a row, whatever the arguments
_LONGEST_CYCLE = 3  # turns
_FORGIVE_AFTER = 4  # new turns in a row after which the next repetition is answered mildly again


class Step(IntEnum):
    """What to do about a repetition, each stronger than the one before."""

    REMIND = 1
    PRUNE = 2
    REMOVE_TOOL = 3
    ANSWER_NOW = 4


@dataclass(frozen=True, slots=True)
class MadeCall:
    """A call with its result, as far as it matters for telling whether it is the same."""

    name: str
    arguments: str
    result: str
    is_error: bool
    found_nothing: bool = False
    known: bool = field(default=False, compare=False)  # the result holds nothing that was not read before


@dataclass(frozen=True, slots=True)
class Repetition:
    """What was noticed: `turns` of the newest are repetitions, `tools` are the ones that were called in them."""

    step: Step
    turns: int
    tools: tuple[str, ...]
    text: str


class RepetitionDetector:
    """Watches the turns of one run.

    `first_step` is stronger for models that don't heed reminders. For them any call counts that was made before with
    the same result, or that brought nothing new: they go through the same files again in place of an answer.
    """

    def __init__(self, *, first_step: Step = Step.REMIND) -> None:
        self._first_step = first_step
        self._made: set[tuple[str, str, str]] = set()  # name, arguments and result
        self.turns: list[tuple[MadeCall, ...]] = []  # with calls, without those that were forgotten
        self._taken: set[str] = set()
        self._seen: set[tuple[MadeCall, ...]] = set()
        self._step = first_step
        self._new_turns = 0

    def add_turn(self, calls: Sequence[MadeCall]) -> Repetition | None:
        """Take the next turn with its results; what was noticed, if anything."""
        turn = tuple(calls)
        self.turns.append(turn)
        found = self._repetition() or self._same_error() or self._nothing_new(turn)
        self._made.update((call.name, call.arguments, call.result) for call in turn)
        self._new_turns = 0 if turn in self._seen else self._new_turns + 1
        if self._new_turns >= _FORGIVE_AFTER:
            self._step = self._first_step
        self._seen.add(turn)
        if found is None:
            return None
        turns, text = found
        self._new_turns = 0
        tools = tuple(sorted({call.name for call in turn}))
        brought_nothing = all(call.is_error or call.found_nothing for call in turn)
        if self._step == Step.ANSWER_NOW and brought_nothing and not self._taken.issuperset(tools):
            step = Step.REMOVE_TOOL  # nothing is known yet that could be answered with; another tool may do it
        else:
            step = self._step
            self._step = Step(min(self._step + 1, Step.ANSWER_NOW))
        if step == Step.REMOVE_TOOL:
            self._taken.update(tools)
        return Repetition(step, turns, tools, text)

    def forget_turns(self, count: int) -> None:
        """The newest turns were taken out of the history."""
        if count:
            del self.turns[-count:]

    def _nothing_new(self, turn: Sequence[MadeCall]) -> tuple[int, str] | None:
        """Whether a model that does not heed reminders has made a call again that worked, or read the same again."""
        if self._first_step != Step.ANSWER_NOW or any(call.is_error or call.found_nothing for call in turn):
            return None
        if all(call.known or (call.name, call.arguments, call.result) in self._made for call in turn):
            return 1, REPEATED_CALL.format(names=", ".join(dict.fromkeys(call.name for call in turn)))
        return None

    def _repetition(self) -> tuple[int, str] | None:
        for period in range(1, _LONGEST_CYCLE + 1):
            repeated = self._repeated_turns(period)
            if repeated:
                names = ", ".join(dict.fromkeys(call.name for turn in self.turns[-period:] for call in turn))
                return repeated, (REPEATED_CALL if period == 1 else REPEATED_CALLS).format(names=names)
        return None

    def _repeated_turns(self, period: int) -> int:
        """How many of the newest turns are whole repetitions of the `period` turns before them."""
        cycle = self.turns[-period:]
        end = len(self.turns) - period
        while end >= period and self.turns[end - period : end] == cycle:
            end -= period
        return len(self.turns) - period - end

    def _same_error(self) -> tuple[int, str] | None:
        newest = self.turns[-_SAME_ERRORS:]
        if len(newest) < _SAME_ERRORS or not all(len(turn) == 1 and turn[0].is_error for turn in newest):
            return None
        if len({(turn[0].name, turn[0].result) for turn in newest}) > 1:
            return None
        return 1, REPEATED_ERROR.format(name=newest[0][0].name, times=_SAME_ERRORS)
