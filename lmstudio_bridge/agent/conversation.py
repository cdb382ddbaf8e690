"""The history of a run: appended to, rarely shrunk, and always in a form that strict templates take."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lmstudio_bridge.messages import AssistantMessage, Message, SystemMessage, ToolMessage, UserMessage


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

    def shrink(self, *, to_chars: int, note: Callable[[ToolMessage], str]) -> tuple[str, ...]:
        """Replace tool results by a short note, oldest first, until the history has `to_chars` characters.

        The newest result goes last, and only to the part that fits. Gives the ids of the calls whose
        results were replaced; none means that there was nothing to win. This is the one place where
        the history changes other than at its end: the engine must read it anew.
        """
        size = self.size()
        results = [number for number, message in enumerate(self._messages) if isinstance(message, ToolMessage)]
        shrunk: list[str] = []
        for number in results:
            if size <= to_chars:
                break
            message = self._messages[number]
            assert isinstance(message, ToolMessage)
            text = note(message)
            if number == results[-1] and (room := to_chars - (size - len(message.text))) > len(text):
                text = f"{message.text[: room - len(text)]}\n{text}"
            if len(text) < len(message.text):
                size += len(text) - len(message.text)
                self._size = size
                self._messages[number] = ToolMessage(message.call_id, text)
                shrunk.append(message.call_id)
        return tuple(shrunk)


def shrunk_note(message: ToolMessage) -> str:
    """What stands in the place of a result that was taken out."""
    return f"[{len(message.text):,} characters left out to save room; call the tool again if they are needed]"


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
