"""The history of a run: appended to, rarely shrunk, and always in a form that strict templates take."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lmstudio_bridge.messages import AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage, UserMessage


class Conversation:
    """One system message, the task, then turns.

    Appending keeps the beginning of every request byte for byte the same, which is what the
    engine's prompt cache lives on.
    """

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages: list[Message] = []
        self._size = 0  # characters; kept, because a long history is asked for it in every round
        self._users_turn_was_last = False  # calls and their results are no turns of their own
        for message in messages:
            self.add(message)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole history, oldest first."""
        return tuple(self._messages)

    def task(self) -> str:
        """The newest thing that the user asked for, as far as it was not a hint of ours: the longest turn."""
        return max(
            (message.text for message in self._messages if isinstance(message, UserMessage)), key=len, default=""
        )

    def size(self) -> int:
        """Characters of the whole history."""
        return self._size

    def add(self, message: Message) -> None:
        """Append a message.

        Raises:
            ValueError: The history would become one that templates refuse: a late system message,
                a call left without its result, a result without its call, an id used twice in a
                turn, user and assistant not in turn.
        """
        open_calls = self.open_calls()
        match message:
            case SystemMessage():
                if self._messages:
                    raise ValueError("the system message must come first, and only once")
            case ToolMessage(call_id=call_id):
                if call_id not in open_calls:
                    raise ValueError(f"no open call has the id {call_id!r}")
            case UserMessage() | AssistantMessage():
                if open_calls:
                    raise ValueError(f"calls without a result: {', '.join(open_calls)}")
                if isinstance(message, UserMessage) is self._users_turn_was_last:
                    raise ValueError("user and assistant must take turns, the user first")
                ids = [call.id for call in message.calls] if isinstance(message, AssistantMessage) else []
                if len(set(ids)) < len(ids):
                    raise ValueError(f"two calls of one turn have the same id: {', '.join(ids)}")
        self._messages.append(message)
        self._size += _chars(message)
        self._users_turn_was_last = _users_turn_after(message, self._users_turn_was_last)

    def drop_last(self, count: int) -> None:
        """Take the newest messages out of the history."""
        if count:
            self._size -= sum(_chars(message) for message in self._messages[-count:])
            del self._messages[-count:]
            self._users_turn_was_last = False
            for message in self._messages:
                self._users_turn_was_last = _users_turn_after(message, self._users_turn_was_last)

    def open_calls(self) -> tuple[str, ...]:
        """The ids of the last turn's calls that have no result yet."""
        answered: set[str] = set()
        for message in reversed(self._messages):
            match message:
                case ToolMessage(call_id=call_id):
                    answered.add(call_id)
                case AssistantMessage(calls=calls):
                    return tuple(call.id for call in calls if call.id not in answered)
                case _:
                    return ()
        return ()

    def shrink(self, *, to_chars: int, fold: Callable[[ToolMessage, ToolCall, int], str]) -> dict[int, str]:
        """Fold tool results, oldest first, until the history has `to_chars` characters.

        `fold` gives the text that stands for a result, and may keep so many characters of it: none but
        of the newest, which goes last. Gives the places that changed with their new texts; none means
        that there was nothing to win.
        """
        calls: dict[str, ToolCall] = {}
        results: list[tuple[int, ToolMessage, ToolCall]] = []
        for place, message in enumerate(self._messages):
            if isinstance(message, AssistantMessage):
                calls = {call.id: call for call in message.calls}
            elif isinstance(message, ToolMessage):
                results.append((place, message, calls[message.call_id]))
        folded: dict[int, str] = {}
        for place, message, call in results:
            if self._size <= to_chars:
                break
            newest = place == results[-1][0]
            room = max(0, to_chars - (self._size - len(message.text))) if newest else 0
            text = fold(message, call, room)
            if len(text) < len(message.text):
                self.replace_result(place, text)
                folded[place] = text
        return folded

    def replace_result(self, place: int, text: str) -> None:
        """Put another text in the place of a tool result.

        Raises:
            ValueError: There is no tool result at that place.
        """
        message = self._messages[place] if 0 <= place < len(self._messages) else None
        if not isinstance(message, ToolMessage):
            raise ValueError(f"message {place} is no tool result")
        self._size += len(text) - len(message.text)
        self._messages[place] = ToolMessage(message.call_id, text)


def _users_turn_after(message: Message, before: bool) -> bool:
    """Whether the model is to speak after this message."""
    match message:
        case UserMessage():
            return True
        case AssistantMessage(calls=()):
            return False
        case _:
            return before


def _chars(message: Message) -> int:
    calls = message.calls if isinstance(message, AssistantMessage) else ()
    return len(message.text) + sum(len(call.name) + len(call.arguments) for call in calls)
