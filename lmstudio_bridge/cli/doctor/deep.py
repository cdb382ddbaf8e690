"""A real call to the model: does it answer, how fast, and does it call a tool when it is told to?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from lmstudio_bridge.cli.doctor.checks import Check, failed_check
from lmstudio_bridge.errors import LLMError
from lmstudio_bridge.lmstudio.client import LLMClient
from lmstudio_bridge.messages import Completion, ToolSpec, UserMessage
from lmstudio_bridge.settings import Settings

_TOOL = ToolSpec("report_ready", "Say that you are ready.", {"type": "object", "properties": {}})
_PROMPT = "Call the tool report_ready now. Write nothing else."
_MAX_TOKENS = 1_024  # some models think first
_LIMIT = 300.0  # seconds for loading and answering


async def check_call(
    client: LLMClient, settings: Settings, *, limit: float = _LIMIT, clock: Callable[[], float] = time.monotonic
) -> Check:
    """One round with one tool; a model that is not in memory is loaded first, as a run would."""
    began = clock()
    try:
        async with asyncio.timeout(limit):
            completion = await _call(client, settings)
    except LLMError as exc:
        return failed_check("deep", "Model call", exc)
    except TimeoutError:
        return Check(
            "deep",
            "Model call",
            "failed",
            f"The model gave no answer within {limit:g} s.",
            "Look at LM Studio: does it still load or think? Choose a smaller model.",
        )
    seconds = clock() - began
    tokens = completion.usage.completion_tokens if completion.usage else 0
    speed = f", {tokens / seconds:.0f} tokens/s" if tokens and seconds > 0 else ""
    took = f"{seconds:.1f} s{speed}"
    if [call.name for call in completion.calls] == [_TOOL.name]:
        return Check("deep", "Model call", "ok", f"{completion.model} called the tool that it was told to ({took})")
    if completion.calls:
        found = f"{completion.model} called {', '.join(call.name for call in completion.calls)} ({took})."
    elif completion.text or completion.reasoning:
        found = f"{completion.model} answered with text where it was told to call a tool ({took})."
    else:
        return Check(
            "deep",
            "Model call",
            "failed",
            f"{completion.model} answered with nothing ({took}).",
            "Try another build of the model, and look at LM Studio's server log.",
        )
    remedy = "Small models often do; the bridge then binds calls by a grammar (LMSTUDIO_BRIDGE_CALLS=grammar)."
    return Check("deep", "Model call", "warning", found, remedy)


async def _call(client: LLMClient, settings: Settings) -> Completion:
    choice = await client.validator.resolve(None)
    if choice.info.loaded is False and choice.source == "/api/v1/models":
        wanted = min(settings.context_length, choice.info.max_context_length or settings.context_length)
        await client.load_model(choice.name, context_length=wanted)
        choice = await client.validator.resolve(choice.wanted)
    return await client.stream_chat_completion(
        [UserMessage(_PROMPT)], model=choice.name, tools=[_TOOL], max_tokens=_MAX_TOKENS
    )
