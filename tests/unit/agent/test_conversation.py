"""The history: what may be appended, so that no template refuses it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.agent.conversation import Conversation
from lmstudio_bridge.agent.prompts import EMPTY_TURN
from lmstudio_bridge.messages import AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage, UserMessage

SYSTEM = SystemMessage("Use tools.")
TASK = UserMessage("What is in a.txt?")
ANSWER = AssistantMessage("Hello.")


def calls(*ids: str) -> AssistantMessage:
    return AssistantMessage("", tuple(ToolCall(each, "fs__read", "{}") for each in ids))


@pytest.mark.parametrize(
    "messages",
    [
        (),
        (SYSTEM,),
        (SYSTEM, TASK),
        (TASK, ANSWER),
        (SYSTEM, TASK, ANSWER, TASK, ANSWER),
        (SYSTEM, TASK, calls("a"), ToolMessage("a", "x"), ANSWER, TASK),
        (
            SYSTEM,
            TASK,
            calls("a", "b"),
            ToolMessage("b", "x"),
            ToolMessage("a", "y"),
            calls("a"),
            ToolMessage("a", "z"),
        ),
    ],
)
def test_history_that_templates_take_is_kept_as_it_is(messages: tuple[Message, ...]) -> None:
    assert Conversation(messages).messages == messages


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ((SYSTEM, SYSTEM), "the system message must come first, and only once"),
        ((TASK, SYSTEM), "the system message must come first, and only once"),
        ((TASK, TASK), "user and assistant must take turns, the user first"),
        ((SYSTEM, ANSWER), "user and assistant must take turns, the user first"),
        ((TASK, ANSWER, ANSWER), "user and assistant must take turns, the user first"),
        ((TASK, ANSWER, calls("a")), "user and assistant must take turns, the user first"),
        ((TASK, calls("a"), ToolMessage("a", "x"), TASK), "user and assistant must take turns, the user first"),
        ((TASK, ToolMessage("a", "x")), "no open call has the id 'a'"),
        ((TASK, ANSWER, ToolMessage("a", "x")), "no open call has the id 'a'"),
        ((TASK, calls("a"), ToolMessage("b", "x")), "no open call has the id 'b'"),
        ((TASK, calls("a"), ToolMessage("a", "x"), ToolMessage("a", "x")), "no open call has the id 'a'"),
        ((TASK, calls("a", "b"), ToolMessage("a", "x"), ANSWER), "calls without a result: b"),
        ((TASK, calls("a", "b"), ANSWER), "calls without a result: a, b"),
        ((TASK, calls("a"), TASK), "calls without a result: a"),
        ((TASK, calls("a", "a")), "two calls of one turn have the same id: a, a"),
    ],
)
def test_message_that_templates_refuse_is_not_added(messages: tuple[Message, ...], problem: str) -> None:
    conversation = Conversation(messages[:-1])

    with pytest.raises(ValueError, match=problem):
        conversation.add(messages[-1])

    assert conversation.messages == messages[:-1]


def test_open_calls_are_those_of_the_last_turn_without_a_result() -> None:
    conversation = Conversation((SYSTEM, TASK))
    seen = [conversation.open_calls()]

    for message in (calls("a", "b", "c"), ToolMessage("b", "x"), ToolMessage("a", "x"), ToolMessage("c", "x"), ANSWER):
        conversation.add(message)
        seen.append(conversation.open_calls())

    assert seen == [(), ("a", "b", "c"), ("a", "c"), ("c",), (), ()]


def test_a_hint_is_not_the_task_though_it_is_longer() -> None:
    conversation = Conversation([UserMessage("What does a.md say?"), AssistantMessage("Hm."), UserMessage(EMPTY_TURN)])

    assert conversation.task() == "What does a.md say?"


def test_snapshot_of_the_history_does_not_grow() -> None:
    conversation = Conversation((SYSTEM, TASK))
    before = conversation.messages

    conversation.add(ANSWER)

    assert before == (SYSTEM, TASK)


@given(
    st.lists(
        st.sampled_from(
            [SYSTEM, TASK, ANSWER, calls("a"), calls("a", "b"), ToolMessage("a", "x"), ToolMessage("b", "")]
        ),
        max_size=15,
    )
)
def test_whatever_is_offered_the_history_stays_one_that_templates_take(offered: list[Message]) -> None:
    conversation = Conversation(())
    for message in offered:
        try:
            conversation.add(message)
        except ValueError:
            continue

    messages = conversation.messages
    assert SYSTEM not in messages[1:]
    turns = [each for each in messages if each is TASK or each is ANSWER]
    assert turns == ([TASK, ANSWER] * len(turns))[: len(turns)]
    assert Conversation(messages).messages == messages


@given(
    st.lists(
        st.sampled_from(
            [
                TASK,
                ANSWER,
                calls("a"),
                calls("a", "b"),
                ToolMessage("a", "a long result"),
                ToolMessage("b", ""),
                1,
                3,
                9,
            ]
        ),
        max_size=25,
    )
)
def test_what_a_history_knows_of_itself_is_what_its_messages_say(steps: list[Message | int]) -> None:
    """Numbers take so many messages away (odd ones), or shorten the results (multiples of three)."""
    conversation = Conversation((SYSTEM,))
    for step in steps:
        try:
            if not isinstance(step, int):
                conversation.add(step)
            elif step % 3:
                conversation.drop_last(min(step, len(conversation.messages) - 1))
            else:
                conversation.shrink(to_chars=step, compact=lambda message, call, room: f"{len(message.text)}")
        except ValueError:
            continue

    again = Conversation(conversation.messages)
    assert conversation.size() == again.size()
    assert takes(conversation) == takes(again)


def takes(conversation: Conversation) -> list[bool]:
    """Which messages the history would take next."""
    taken = []
    for message in (SYSTEM, TASK, ANSWER, calls("a"), ToolMessage("a", "x"), ToolMessage("b", "x")):
        try:
            conversation.add(message)
        except ValueError:
            taken.append(False)
        else:
            conversation.drop_last(1)
            taken.append(True)
    return taken


@pytest.mark.parametrize(
    ("sent", "kept"), [("", "{}"), ("{'a': 1.10}", '{"a": 1.10}'), ('{"a": "x', "{}"), (' { "a":1 }', ' { "a":1 }')]
)
def test_arguments_in_the_history_are_always_one_valid_object(sent: str, kept: str) -> None:
    conversation = Conversation((SYSTEM, TASK, AssistantMessage("", (ToolCall("a", "fs__read", sent),))))

    assert conversation.messages[-1] == AssistantMessage("", (ToolCall("a", "fs__read", kept),))
    assert conversation.size() == Conversation(conversation.messages).size()
