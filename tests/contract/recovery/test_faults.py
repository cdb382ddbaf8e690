"""What goes wrong in the middle of a run: once, twice in a row, and for good.

Each fault meets the second round, after a tool has run: what is sent again must not run it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.contract.recovery.bench import Bench, Trap, ask, ask_all, chat_models, is_right, open_bench
from tests.lmstudio_sim.errors import (
    CHANNEL_ERROR,
    ENGINE_FETCH_FAILED,
    MODEL_CRASHED,
    MODEL_UNLOADED,
    OVERFLOW_NUMBERED,
    OVERFLOW_PLAIN,
    ROLES_MUST_ALTERNATE,
    SLOT_WAIT_FAILED,
    plain_error,
    template_failure,
)
from tests.lmstudio_sim.replies import (
    CutSocket,
    DroppedCallReply,
    EndEarly,
    HttpReply,
    RateLimitReply,
    ReasoningReply,
    Reply,
    Stall,
    StreamError,
    TextReply,
)
from tests.lmstudio_sim.server import Simulator
from tests.support.raw_client import Answer

LLAMA_CPP = "The model produced output that does not match the expected peg-native format"
PARTIAL = "It seems to me that"
SPARE = "spare/model"
OVERFLOW = OVERFLOW_NUMBERED.replace("{needed}", "9000").replace("{available}", "4096")

MakeReply = Callable[[Simulator, str], Reply]


@dataclass(frozen=True)
class Fault:
    """A fault and what it must lead to.

    `note` stands in the result and in the progress once it was mended. `twice` and `lasting` are the
    requests that LM Studio may see (the round of the tool call not counted) and, where the run does not
    end in the right answer, words of how it ends instead.
    """

    make: MakeReply
    note: str
    twice: int | tuple[int, str]
    lasting: tuple[int, str]
    padding: int = 0


def partial_reply(fault: StreamError | CutSocket | EndEarly | Stall) -> TextReply:
    """A reply of which two pieces of text came before its fault."""
    return TextReply(f"{PARTIAL} the value might be this", faults=(fault,))


def crashing(sim: Simulator, model: str) -> TextReply:
    return partial_reply(Stall(until=Trap(partial(sim.crash, model)), after_tokens=2))


def unloading(sim: Simulator, model: str) -> TextReply:
    return TextReply("never", faults=(Stall(until=Trap(partial(sim.unload, model)), before_headers=True),))


def reloading(sim: Simulator, model: str) -> TextReply:
    return partial_reply(Stall(until=Trap(partial(sim.reload, model)), after_tokens=2))


def always(reply: Reply) -> MakeReply:
    return lambda sim, model: reply


LOST = (3, "unloaded, reloaded or crashed")
BROKEN_OFF = (3, "broke")
STUCK = (6, "The model got stuck")

FAULTS = {
    # The model is lost: got back and asked again, at most twice.
    "crash/in-mid-stream": Fault(crashing, MODEL_CRASHED, 3, LOST),
    "unload/before-the-first-token": Fault(unloading, MODEL_UNLOADED, 3, LOST),
    "reload/in-mid-stream": Fault(reloading, "Model reloaded.", 3, LOST),
    "refusal/unloaded": Fault(always(HttpReply(400, plain_error(MODEL_UNLOADED))), MODEL_UNLOADED, 3, LOST),
    "refusal/fetch-failed": Fault(
        always(HttpReply(400, plain_error(ENGINE_FETCH_FAILED))), ENGINE_FETCH_FAILED, 3, LOST
    ),
    "stream-error/channel": Fault(
        always(partial_reply(StreamError(CHANNEL_ERROR, after_tokens=2))), CHANNEL_ERROR, 3, LOST
    ),
    "stream/ends-early": Fault(always(partial_reply(EndEarly(after_tokens=2))), "broke off", 3, BROKEN_OFF),
    "stream/cut": Fault(always(partial_reply(CutSocket(after_tokens=2))), "incomplete", 3, BROKEN_OFF),
    "another-model": Fault(
        always(TextReply("I am somebody else.", model="thief/model")),
        "Another model answered: thief/model instead of another-model",
        3,
        (3, "Another model answered: thief/model instead of another-model"),
    ),
    # A tool call is lost: asked again, then the model is reminded.
    "lost-call/no-usage": Fault(always(DroppedCallReply()), "lost a tool call", 3, STUCK),
    "lost-call/no-usage-no-text": Fault(always(DroppedCallReply("")), "lost a tool call", 3, STUCK),
    "lost-call/announced": Fault(always(TextReply("Let me read it first:")), "announced a tool call", 3, STUCK),
    "lost-call/500": Fault(
        always(HttpReply(500, {"error": {"code": 500, "message": LLAMA_CPP, "type": "server_error"}})),
        "could not parse a tool call",
        5,  # the third and fourth ask for JSON instead of a native call, which this model does not heed
        (7, STUCK[1]),
    ),
    "lost-call/stream-error": Fault(
        always(TextReply("never", faults=(StreamError(LLAMA_CPP),))), "could not parse a tool call", 5, (7, STUCK[1])
    ),
    # The context is full: made shorter once.
    "overflow/with-numbers": Fault(
        always(TextReply("never", faults=(StreamError(OVERFLOW),))),
        "context is full",
        (2, "n_keep: 9000"),
        (2, "n_keep: 9000"),
        padding=2_000,
    ),
    "overflow/without-numbers": Fault(
        always(HttpReply(400, plain_error(OVERFLOW_PLAIN))),
        "context is full",
        (2, "does not fit into the context"),
        (2, "does not fit into the context"),
        padding=2_000,
    ),
    # The template refuses the messages: asked in plain turns, once.
    "template": Fault(
        always(TextReply("never", faults=(StreamError(template_failure(ROLES_MUST_ALTERNATE)),))),
        "plain turns",
        (2, "prompt template refused"),
        (2, "prompt template refused"),
    ),
    # All was thinking: more tokens or less effort, once; then the model is reminded.
    "thinking/length": Fault(always(ReasoningReply("Hm, the value")), "all reasoning", 3, STUCK),
    "thinking/stop": Fault(
        always(ReasoningReply("Hm", finish_reason="stop")), "all reasoning", (2, STUCK[1]), (2, STUCK[1])
    ),
    # The server is busy: asked again after a pause.
    "busy/refusal": Fault(always(HttpReply(400, plain_error(SLOT_WAIT_FAILED))), "too busy", 3, (3, "too busy")),
    "busy/stream-error": Fault(
        always(TextReply("never", faults=(StreamError(SLOT_WAIT_FAILED),))), "too busy", 3, (3, "too busy")
    ),
    "rate-limit": Fault(
        always(RateLimitReply(1)), "limiting the rate of requests", 3, (5, "limiting the rate of requests")
    ),
}


@dataclass(frozen=True)
class Seen:
    """How a run went: its end in words, what LM Studio and the tool saw, and whether the note was shown."""

    end: str
    requests: int
    calls: int
    note_in_result: bool
    note_in_progress: bool


async def run_all(bench: Bench, times: int | None) -> dict[str, Answer]:
    """Let every fault happen so often (None: for good), each to a run of its own, all at once."""
    sim = bench.sim
    for name, fault in FAULTS.items():
        replies = [fault.make(sim, name) for _ in range(times or 0)]
        lasting = None if times else partial(fault.make, sim, name)
        bench.work_on(name, *replies, padding=fault.padding, for_good=lasting)
    async with bench.bridge() as client:
        answers = await ask_all(client, list(FAULTS))
        bench.work_on(SPARE)
        assert is_right(await ask(client, SPARE), SPARE), "the server stays usable"
    return answers


def seen(bench: Bench, name: str, answer: Answer, *, end: str) -> Seen:
    note = FAULTS[name].note
    return Seen(
        "right" if is_right(answer, name) else end if end and end in answer.told else answer.text,
        len(bench.chats(name)) - 1,
        bench.looked_up(name),
        note in answer.told,
        any(note in message for message in answer.progress),
    )


async def test_a_fault_that_happens_once_costs_a_request_and_nothing_else(tmp_path: Path) -> None:
    async with open_bench(tmp_path, chat_models(*FAULTS, SPARE)) as bench:
        answers = await run_all(bench, 1)

        found = {name: seen(bench, name, answer, end="") for name, answer in answers.items()}
        assert found == {name: Seen("right", 2, 1, True, True) for name in FAULTS}
        assert_only_the_lost_were_loaded(bench, times=1)
        assert_changed_where_it_must_be(bench)


async def test_a_fault_that_happens_twice_in_a_row_is_mended_where_the_rule_allows(tmp_path: Path) -> None:
    async with open_bench(tmp_path, chat_models(*FAULTS, SPARE)) as bench:
        answers = await run_all(bench, 2)

        ends = {name: ("right", f.twice) if isinstance(f.twice, int) else f.twice[::-1] for name, f in FAULTS.items()}
        found = {name: seen(bench, name, answer, end=ends[name][0]) for name, answer in answers.items()}
        assert found == {name: Seen(end, requests, 1, True, True) for name, (end, requests) in ends.items()}
        assert_only_the_lost_were_loaded(bench, times=2)


async def test_a_fault_that_lasts_ends_in_one_clear_sentence(tmp_path: Path) -> None:
    async with open_bench(tmp_path, chat_models(*FAULTS, SPARE)) as bench:
        answers = await run_all(bench, None)

        found = {name: seen(bench, name, answer, end=FAULTS[name].lasting[1]) for name, answer in answers.items()}
        assert found == {
            name: Seen(fault.lasting[1], fault.lasting[0], 1, True, True) for name, fault in FAULTS.items()
        }
        assert_only_the_lost_were_loaded(bench, times=2)
        errors = {name for name, answer in answers.items() if answer.is_error}
        assert errors == {name for name, fault in FAULTS.items() if fault.lasting[1] != STUCK[1]}
        so_far = {name for name, answer in answers.items() if PARTIAL in answer.told}
        assert so_far == {"crash/in-mid-stream", "reload/in-mid-stream", "stream-error/channel", *BROKEN}


BROKEN = {name for name, fault in FAULTS.items() if fault.lasting == BROKEN_OFF}
GONE = {"crash/in-mid-stream", "unload/before-the-first-token"}  # the others are still in memory


def assert_only_the_lost_were_loaded(bench: Bench, *, times: int) -> None:
    """One load for each time that a model was gone, no second instances, and nothing unloaded."""
    assert {name: len(bench.loads(name)) for name in FAULTS} == {name: times if name in GONE else 0 for name in FAULTS}
    assert [instance for instance in bench.sim.instances if ":" in instance] == []
    assert [request for request in bench.sim.requests if request.path.endswith("/unload")] == []


def assert_changed_where_it_must_be(bench: Bench) -> None:
    """What would fail the same way is sent changed; everything else byte for byte as it was."""

    def sent(name: str) -> list[dict[str, Any]]:
        return [request.json or {} for request in bench.chats(name)[1:]]

    for name in ("overflow/with-numbers", "overflow/without-numbers"):
        refused, shortened = bench.chats(name)[1:]
        assert shortened.size_bytes < 0.75 * refused.size_bytes
    roles = [[message["role"] for message in body["messages"]] for body in sent("template")]
    assert roles == [["system", "user", "assistant", "tool"], ["user", "assistant", "user"]]
    assert [each["max_tokens"] for each in sent("thinking/length")] == [8_192, 16_384]
    assert [each.get("reasoning_effort") for each in sent("thinking/stop")] == [None, "low"]
    unchanged = {name for name in FAULTS if not name.startswith(("overflow/", "template", "thinking/"))}
    assert {name for name in unchanged if bench.chats(name)[1].body == bench.chats(name)[2].body} == unchanged
