"""Requests as bytes: whole JSON each time, and nothing encoded twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.lmstudio.http import ChatEncoder
from lmstudio_bridge.lmstudio.wire import chat_options_out, message_out, tool_out
from lmstudio_bridge.messages import (
    AssistantMessage,
    Image,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)

OPTIONS = chat_options_out(model="m", stream=True, tool_choice="auto", max_tokens=5)
CALL = AssistantMessage("", (ToolCall("a", "fs__read", '{"path": "ä"}'),))
HISTORY: tuple[Message, ...] = (SystemMessage("Use tools."), UserMessage("What is in a.txt?"), CALL)
RESULT = ToolMessage("a", 'half a character: \ud800, a quote: "')
LIST = ToolSpec("list", "Lists.", {"type": "object"})
READ = ToolSpec("read", "Reads.", {"type": "object"})


def test_request_holds_options_messages_and_tools() -> None:
    body = ChatEncoder().encode(OPTIONS, messages=[*HISTORY, RESULT], tools=[LIST])

    assert json.loads(body) == {
        **OPTIONS,
        "messages": [
            *map(message_out, HISTORY),
            {"role": "tool", "tool_call_id": "a", "content": 'half a character: ?, a quote: "'},
        ],
        "tools": [tool_out(LIST)],
    }


def test_request_without_tools_names_none() -> None:
    assert "tools" not in json.loads(ChatEncoder().encode(OPTIONS, messages=HISTORY, tools=()))


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from([*HISTORY, RESULT, UserMessage("x", (Image("QQ==", "image/png"),))])),
            st.lists(st.sampled_from([LIST, READ])),
        ),
        max_size=6,
    )
)
def test_bytes_of_a_request_do_not_depend_on_those_before(
    requests: list[tuple[list[Message], list[ToolSpec]]],
) -> None:
    encoder = ChatEncoder()

    for messages, tools in requests:
        fresh = ChatEncoder().encode(OPTIONS, messages=messages, tools=tools)
        assert encoder.encode(OPTIONS, messages=messages, tools=tools) == fresh


class CountedCalls(tuple[ToolCall, ...]):
    """Calls that count how often they were gone through."""

    walks = 0

    def __iter__(self) -> Iterator[ToolCall]:
        CountedCalls.walks += 1
        return super().__iter__()


class CountedSchema(dict[str, Any]):
    """A schema that counts how often it was written out."""

    walks = 0

    def items(self) -> Any:
        CountedSchema.walks += 1
        return super().items()


def test_message_and_tool_are_encoded_once_in_a_conversation() -> None:
    encoder = ChatEncoder()
    called = AssistantMessage("", CountedCalls(CALL.calls))
    tool = ToolSpec("list", "Lists.", CountedSchema(type="object"))
    messages: list[Message] = [*HISTORY[:2], called]

    for number in range(5):
        messages.append(ToolMessage("a", str(number)))
        encoder.encode(OPTIONS, messages=messages, tools=[tool])

    assert (CountedCalls.walks, CountedSchema.walks) == (1, 1)
