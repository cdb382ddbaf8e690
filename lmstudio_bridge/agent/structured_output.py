"""The answer in the form of a JSON Schema: asked for bound, checked, and asked for again with what is wrong."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from lmstudio_bridge.agent.arguments import read_json
from lmstudio_bridge.agent.prompts import SHAPE_AGAIN, SHAPE_ANSWER
from lmstudio_bridge.messages import AssistantMessage, JSONObject, Message, UserMessage

_TRIES = 3  # requests: one, and two repairs


class ShapeError(ValueError):
    """The model gave no value that fits; the text says what was wrong with the last one."""


async def ask_for_shape(
    schema: JSONObject, *, ask: Callable[[], Awaitable[str]], add: Callable[[Message], Awaitable[None]]
) -> str:
    """The answer as JSON text that fits the schema. `ask` sends the conversation, `add` appends to it.

    Raises:
        ShapeError: None of the replies fits.
    """
    from lmstudio_bridge.agent.validation import check_value

    hint = SHAPE_ANSWER.format(schema=json.dumps(schema, ensure_ascii=False))
    problem = ""
    for _ in range(_TRIES):
        await add(UserMessage(hint))
        text = await ask()
        await add(AssistantMessage(text))
        try:
            value = read_json(text)
        except ValueError as exc:
            problem = str(exc)
        else:
            problem = check_value(schema, value) or ""
            if not problem:
                return json.dumps(value, ensure_ascii=False)
        hint = SHAPE_AGAIN.format(problem=problem)
    raise ShapeError(f"The model's answer could not be brought into the form of the output_schema: {problem}")
