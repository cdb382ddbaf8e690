"""The plain loop: what others do, and nothing of what the bridge does beyond it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lmstudio_bridge.evals.baseline import SYSTEM_PROMPT, run_plain_loop
from lmstudio_bridge.evals.sandbox import open_sandbox
from lmstudio_bridge.evals.suite import make_suite
from lmstudio_bridge.evals.tasks import Task
from lmstudio_bridge.events import Outcome
from lmstudio_bridge.messages import Message
from lmstudio_bridge.runs.autonomous import open_agent
from scripts.tools.engine.evals import EXAMPLES
from tests.lmstudio_sim.replies import CallReply, HttpReply, LeakReply, Reply, Stall, TextReply
from tests.unit.evals.desk import MODEL, Desk, installed_servers, open_desk

pytestmark = pytest.mark.npm

(TASK,) = make_suite(seed=1, families=["one-call"], most=1)
READ = ("filesystem__read_text_file", {"path": "notes.txt"})


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path) as desk:
        yield desk


async def run(
    desk: Desk,
    folder: Path,
    *replies: Reply,
    task: Task = TASK,
    rounds: int = 4,
    seconds: float = 60.0,
    examples: tuple[Message, ...] = (),
) -> Outcome:
    """What the plain loop makes of these replies; the last one is repeated."""
    desk.sim.script(MODEL, *replies)
    desk.sim.script_fn(MODEL, lambda _: replies[-1])
    with open_sandbox(folder / "box", task, commands=installed_servers()) as sandbox:
        settings = desk.settings.model_copy(update={"project": sandbox.folder, "mcp_config": sandbox.mcp_config})
        async with open_agent(settings, environ=desk.environ) as agent:
            return await run_plain_loop(
                task.text,
                client=agent.client,
                pool=agent.pool,
                servers=[agent.configured_servers().require(name) for name in task.servers],
                model=None,
                max_rounds=rounds,
                max_tokens=500,
                seconds=seconds,
                examples=examples,
                clock=lambda: 0.0,
            )


def sent(desk: Desk) -> list[list[tuple[str, str]]]:
    """Role and text of each message of each chat request."""
    chats = [request for request in desk.sim.requests if request.path == "/v1/chat/completions"]
    return [[(each["role"], str(each["content"])) for each in chat.messages] for chat in chats]


async def test_results_are_appended_until_a_reply_has_no_call(desk: Desk, tmp_path: Path) -> None:
    outcome = await run(desk, tmp_path, CallReply(READ), TextReply("It is that."))

    first, second = sent(desk)
    assert (outcome.stop, outcome.answer, outcome.model) == ("answered", "It is that.", MODEL)
    assert (outcome.rounds, outcome.calls) == (2, 1)
    assert outcome.usage.prompt_tokens > 0
    assert first == [("system", SYSTEM_PROMPT), ("user", TASK.text)]
    assert second[:2] == first
    assert second[3] == ("tool", TASK.files["notes.txt"])


async def test_worked_examples_are_turns_between_the_system_text_and_the_task(desk: Desk, tmp_path: Path) -> None:
    await run(desk, tmp_path, TextReply("It is that."), examples=EXAMPLES)

    ((system, *turns, task),) = sent(desk)
    assert (system, task) == (("system", SYSTEM_PROMPT), ("user", TASK.text))
    assert [role for role, _ in turns] == ["user", "assistant", "tool", "assistant"] * 2
    assert ("tool", "rain, 7 degrees") in turns


async def test_each_request_offers_all_tools_and_leaves_the_choice(desk: Desk, tmp_path: Path) -> None:
    await run(desk, tmp_path, CallReply(READ), rounds=2)

    chats = [request.json or {} for request in desk.sim.requests if request.path == "/v1/chat/completions"]
    assert [len(chat["tools"]) for chat in chats] == [14, 14]
    assert [chat.get("tool_choice", "auto") for chat in chats] == ["auto", "auto"]
    assert [chat["max_tokens"] for chat in chats] == [500, 500]


@pytest.mark.parametrize("rounds", [1, 2, 3])
async def test_a_model_that_repeats_itself_ends_at_the_limit(desk: Desk, tmp_path: Path, rounds: int) -> None:
    outcome = await run(desk, tmp_path, CallReply(READ), rounds=rounds)

    assert (outcome.stop, outcome.answer, outcome.rounds, outcome.calls) == ("round_limit", "", rounds, rounds)


async def test_a_call_that_leaked_into_the_text_is_taken_for_the_answer(desk: Desk, tmp_path: Path) -> None:
    """The bridge recovers it; a plain loop does not."""
    outcome = await run(desk, tmp_path, LeakReply("hermes", READ))

    assert (outcome.stop, outcome.calls, outcome.rounds) == ("answered", 0, 1)
    assert "<tool_call>" in outcome.answer


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("nowhere__read", {}), "Error: unknown tool nowhere__read"),
        ((READ[0], '{"path": '), "Error: the arguments are not JSON"),
        ((READ[0], "[1]"), "Error: the arguments are not an object"),
        ((READ[0], {"path": "none.txt"}), "Error: "),
    ],
)
async def test_what_goes_wrong_with_a_call_is_told_and_no_more(
    desk: Desk, tmp_path: Path, call: tuple[str, dict[str, str] | str], told: str
) -> None:
    outcome = await run(desk, tmp_path, CallReply(call), TextReply("I can't."))

    assert sent(desk)[1][3][1].startswith(told)
    assert (outcome.stop, outcome.rounds) == ("answered", 2)


async def test_an_error_of_the_server_ends_the_run(desk: Desk, tmp_path: Path) -> None:
    outcome = await run(desk, tmp_path, HttpReply(400, {"error": "no such thing"}))

    assert outcome.stop == "failed"
    assert "no such thing" in outcome.error


async def test_time_that_is_up_ends_the_run(desk: Desk, tmp_path: Path) -> None:
    outcome = await run(desk, tmp_path, TextReply("never", faults=(Stall(),)), seconds=1.0)

    assert (outcome.stop, outcome.error) == ("deadline", "The run reached its limit of 1 s.")
