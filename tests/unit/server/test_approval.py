"""Whom a run may ask, and what counts as a yes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mcp import MCPError
from mcp.types import ClientCapabilities, ElicitResult, InputRequiredResult

from lmstudio_bridge.messages import ServerTool
from lmstudio_bridge.server.approval import MAX_ASKING, MAX_QUESTIONS, HostedRun

WRITE = ServerTool("fs", "write")


class Host:
    """A host of the protocol before 2026-07-28, as its context shows it; None as an answer never comes."""

    def __init__(self, *answers: ElicitResult | MCPError | None, capabilities: dict[str, Any] | None = None) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.protocol_version = "2025-11-25"
        self.request_id = "1"
        self.client_capabilities = ClientCapabilities.model_validate(capabilities or {})
        self.session = self
        self.request_context = SimpleNamespace(lifespan_context=SimpleNamespace(asking={}))

    async def elicit_form(self, message: str, schema: object, request_id: str) -> ElicitResult:
        self.asked.append(message)
        answer = self.answers.pop(0)
        if isinstance(answer, MCPError):
            raise answer
        return answer or await asyncio.get_running_loop().create_future()


def hosted(host: Host, *, answer_limit: float = 60.0) -> HostedRun:
    return HostedRun(cast(Any, host), answer_limit=answer_limit)


@pytest.mark.parametrize(
    ("capabilities", "can"),
    [
        ({}, False),
        ({"elicitation": {}}, True),  # as in 2025-06-18
        ({"elicitation": {"form": {}}}, True),
        ({"elicitation": {"form": {}, "url": {}}}, True),
        ({"elicitation": {"url": {}}}, False),
    ],
)
def test_only_a_host_that_shows_forms_is_asked(capabilities: dict[str, Any], can: bool) -> None:
    assert hosted(Host(capabilities=capabilities)).can_ask is can


@pytest.mark.parametrize(
    "answer",
    [
        None,
        ElicitResult(action="cancel"),
        ElicitResult(action="decline", content={"all_calls": True}),
        MCPError(-32601, "Method not found"),
    ],
)
async def test_whatever_is_no_yes_is_a_refusal_and_ends_the_questions(answer: ElicitResult | MCPError | None) -> None:
    host = Host(answer)
    run = hosted(host, answer_limit=0.01)

    assert [await run.approve(WRITE, []) for _ in range(2)] == ["no", "no"]
    assert len(host.asked) == 1


async def test_a_run_asks_no_more_often_than_hosts_answer() -> None:
    host = Host(*[ElicitResult(action="accept", content={"all_calls": False})] * MAX_QUESTIONS)
    run = hosted(host)

    assert [await run.approve(WRITE, []) for _ in range(MAX_QUESTIONS + 1)] == ["yes"] * MAX_QUESTIONS + ["not_asked"]


async def test_all_calls_are_those_of_one_tool() -> None:
    host = Host(ElicitResult(action="accept", content={"all_calls": True}), ElicitResult(action="decline"))
    run = hosted(host)

    tools = [WRITE, WRITE, ServerTool("fs", "move"), WRITE]
    assert [await run.approve(tool, []) for tool in tools] == ["yes", "yes", "no", "yes"]
    assert len(host.asked) == 2


async def test_the_call_is_shown_whole_with_paths_and_short_arguments_first() -> None:
    host = Host(ElicitResult(action="decline"))
    names = ("content", "mode", "long", "destination_path")
    write = replace(WRITE, input_schema={"type": "object", "properties": {name: {} for name in names}})
    arguments = {
        "path": "/a",  # such a tool has none
        'path: "/b" · x': 1,
        **dict(zip(names, ("a\nb <system-reminder>", "w", "x" * 700 + "; end", "/work/a.md"), strict=True)),
    }
    await hosted(host).approve(write, [(name, json.dumps(value)) for name, value in arguments.items()])

    first, _, rest = host.asked[0].partition("\n")
    assert first == "Allow fs write? It may change something."
    assert rest.startswith('destination_path: "/work/a.md" · mode: "w" · content: "a\\nb &lt;system-reminder>"')
    assert "long: (707 characters) " in rest
    assert rest.replace("\n", " ").endswith('; end" · "path: \\"/b\\" \\u00b7 x": 1 · path: "/a"')
    assert len(rest) < 900


async def test_questions_of_hosts_that_never_call_again_do_not_pile_up() -> None:
    host = Host()
    host.protocol_version = "2026-07-28"
    asking = host.request_context.lifespan_context.asking
    asking.update((str(number), None) for number in range(MAX_ASKING))
    run = hosted(host)
    run.task = cast(Any, asyncio.create_task(run.approve(WRITE, [])))

    question = await run.attend(cast(Any, host))

    assert isinstance(question, InputRequiredResult)
    assert len(asking) == MAX_ASKING
    assert asking[str(question.request_state)] is run
    cast(Any, run.task).cancel()
