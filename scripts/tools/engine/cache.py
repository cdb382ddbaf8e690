"""How many prompt tokens a real engine evaluates for a run: the bridge's, and others that spoil the prompt cache.

What the model says comes from a script, so that each way asks the same questions; what is evaluated and what comes
out of the prompt cache is told by llama.cpp in the `timings` of each reply (`prompt_n`, `cache_n`).
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import anyio
import httpx

from lmstudio_bridge.agent.conversation import Conversation
from lmstudio_bridge.agent.json_calls import NATIVE, Strategy
from lmstudio_bridge.agent.loop import run
from lmstudio_bridge.agent.options import Limits, RunOptions
from lmstudio_bridge.agent.repetition import Step
from lmstudio_bridge.agent.tools import ToolSet
from lmstudio_bridge.agent.untrusted import TextFilters, new_delimiter
from lmstudio_bridge.lmstudio.tool_call_parsers import split_reasoning
from lmstudio_bridge.lmstudio.wire import chat_request_out
from lmstudio_bridge.messages import (
    ChatRequest,
    Completion,
    Delta,
    Message,
    OnNotice,
    OnRetry,
    ServerTool,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolResult,
    Usage,
    UserMessage,
)
from lmstudio_bridge.security.access import Policy
from scripts.tools.engine.server import TEMPLATES, open_engine
from scripts.tools.engine.weights import MODELS, fetch_and_show
from tests.support.fakes import Recorder

Way: TypeAlias = Literal["native", "grammar", "clock", "window"]
"""The bridge's two ways to ask, and two that are common elsewhere: the time of day in the system prompt, and a window
that moves over the last messages."""

WAYS: Mapping[Way, str] = {
    "grammar": "the bridge, JSON bound by a grammar",
    "native": "the bridge, native calls",
    "clock": "a loop with the time in its system prompt",
    "window": "a loop that keeps the last 8 messages",
}
_WINDOW = 8  # messages after the system prompt and the task
_REQUEST_SECONDS = 600.0
_WORDS = ("alder", "birch", "cedar", "elm", "fir", "hazel", "juniper", "larch", "maple", "oak", "pine", "rowan")
_READ = ServerTool(
    "fs",
    "read",
    "Reads a text file.",
    {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    read_only=True,
)


@dataclass(frozen=True, slots=True)
class Request:
    """Tokens of one request: its whole prompt, and what the engine evaluated of it."""

    prompt: int
    evaluated: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Prompt tokens of a run. `longest` is its longest prompt: the floor of a conversation that is only appended to."""

    requests: tuple[Request, ...]

    @property
    def evaluated(self) -> int:
        return sum(request.evaluated for request in self.requests)

    @property
    def longest(self) -> int:
        return max(request.prompt for request in self.requests)


@dataclass(slots=True)
class PuppetModel:
    """A `ChatModel` over a real engine: the engine reads each prompt, the words come from a script of so many calls."""

    http: httpx.AsyncClient
    name: str
    way: Way
    calls: int
    requests: list[Request] = field(default_factory=list)

    async def stream_chat_completion(
        self,
        request: ChatRequest,
        *,
        on_delta: Callable[[Delta], Awaitable[None]] | None = None,
        on_retry: OnRetry | None = None,
        on_notice: OnNotice,
    ) -> Completion:
        spoiled = replace(request, messages=self._spoiled(request.messages), max_tokens=1, temperature=0.0)
        body: dict[str, Any] = {**chat_request_out(spoiled, model=self.name), "stream": False, "tool_choice": "none"}
        del body["stream_options"]
        response = await self.http.post("/v1/chat/completions", json=body)
        response.raise_for_status()
        reply: dict[str, Any] = response.json()
        timings, usage = reply["timings"], reply["usage"]
        self.requests.append(Request(usage["prompt_tokens"], timings["prompt_n"]))
        return self._line(Usage(usage["prompt_tokens"], usage["completion_tokens"]))

    def _spoiled(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages as this way sends them."""
        match self.way:
            case "clock":
                system = SystemMessage(f"It is {8 + len(self.requests):02}:{len(self.requests):02}. {messages[0].text}")
                return [system, *messages[1:]]
            case "window":
                kept = list(messages[2:])[-_WINDOW:]
                while kept and isinstance(kept[0], ToolMessage):
                    kept.pop(0)
                return [*messages[:2], *kept]
            case _:
                return messages

    def _line(self, usage: Usage) -> Completion:
        number = len(self.requests)
        if number > self.calls:
            answer = json.dumps({"answer": "Done."}) if self.way == "grammar" else "Done."
            return Completion(answer, finish_reason="stop", usage=usage)
        arguments = json.dumps({"path": f"file{number}.txt"})
        if self.way == "grammar":
            return Completion(f'{{"call": "fs__read", "arguments": {arguments}}}', finish_reason="stop", usage=usage)
        call = ToolCall(f"c{number:08}", "fs__read", arguments)
        return Completion("", calls=(call,), finish_reason="tool_calls", usage=usage)


@dataclass(slots=True)
class Files:
    """A `ToolRunner` whose files are words by chance, the same ones for each run."""

    words: int
    random: random.Random = field(default_factory=lambda: random.Random(1))

    async def call_tool(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        on_progress: Callable[[str], Awaitable[None]] | None = None,
    ) -> ToolResult:
        return ToolResult(" ".join(self.random.choices(_WORDS, k=self.words)))


async def measure(way: Way, *, url: str, model: str, calls: int, words: int, context_length: int | None = None) -> Cost:
    """The cost of a run of so many calls, each with a result of so many words.

    With a `context_length` (tokens) the bridge compacts old results before it is full.
    """
    async with httpx.AsyncClient(base_url=url, timeout=_REQUEST_SECONDS, trust_env=False) as http:
        puppet = PuppetModel(http, model, way, calls)
        outcome = await run(
            Conversation((SystemMessage("You do a task by calling tools."), UserMessage("Read all the files."))),
            model=puppet,
            tools=Files(words),
            tool_set=ToolSet([_READ]),
            policy=Policy("read"),
            limits=Limits(calls + 2, 3_600, 20_000, context_length=context_length),
            emit=Recorder().emit,
            options=RunOptions(
                strategy=Strategy("grammar", Step.ANSWER_NOW, "asked for") if way == "grammar" else NATIVE,
                filters=TextFilters(split_reasoning=split_reasoning, delimiter=new_delimiter()),
            ),
        )
    assert outcome.stop == "answered", outcome
    return Cost(tuple(puppet.requests))


async def _main(options: argparse.Namespace) -> None:
    weights = MODELS[options.model]
    gguf = fetch_and_show(weights)
    template = TEMPLATES / weights.template if weights.template else None
    print(f"{options.model}, {options.calls} calls, results of {options.words} words\n")
    print("| way | requests | evaluated | over the floor |\n| --- | --- | --- | --- |")
    floor = 0
    for way, title in WAYS.items():
        for context in (None, options.context) if way in ("native", "grammar") else (None,):
            async with open_engine(
                gguf, alias=weights.name, chat_template=template, context_length=32_768, parallel=1
            ) as engine:
                cost = await measure(
                    way,
                    url=engine.url,
                    model=weights.name,
                    calls=options.calls,
                    words=options.words,
                    context_length=context,
                )
            if way in ("native", "grammar") and context is None:
                floor = cost.longest  # of the same prompts, only appended to
            compacted = f", results compacted to fit {context:,} tokens" if context else ""
            ratio = cost.evaluated / floor
            print(f"| {title}{compacted} | {len(cost.requests)} | {cost.evaluated:,} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m scripts.tools.engine.cache", description=__doc__)
    parser.add_argument("--model", choices=sorted(MODELS), default="qwen2.5-coder-0.5b")
    parser.add_argument("--calls", type=int, default=12, metavar="N", help="tool calls of a run (12)")
    parser.add_argument("--words", type=int, default=200, metavar="N", help="words of each result (200)")
    parser.add_argument("--context", type=int, default=4_096, metavar="TOKENS", help="context to compact for (4096)")
    anyio.run(_main, parser.parse_args())
