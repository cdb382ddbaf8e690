"""The faults of the soak: at least two ways to meet every class of failure, and oddities that nobody must notice.

A fault takes the reply that the model would have given and makes of it what LM Studio sends instead.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.lmstudio_sim import errors
from tests.lmstudio_sim.leaks import LEAK_FORMATS
from tests.lmstudio_sim.replies import (
    BadFrame,
    Call,
    CallReply,
    Completion,
    CutSocket,
    DroppedCallReply,
    EndEarly,
    HtmlErrorReply,
    HttpReply,
    LeakReply,
    RateLimitReply,
    ReasoningReply,
    Reply,
    Stall,
    StreamError,
    StreamOptions,
    TextReply,
    Usage,
)
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.server import Simulator

OTHER_MODEL = "google/gemma-3-1b"
_LOSS_DELAY = 0.02  # seconds into a reply at which its instance goes


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a fault happens."""

    sim: Simulator
    request: SimRequest
    rng: random.Random


Spoil = Callable[[Completion, Scene], Reply]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to go wrong. `kind` is its class, "" for what must pass unnoticed."""

    name: str
    kind: str
    spoil: Spoil


def streamed(text: str) -> Spoil:
    """An `event: error` frame (E6), before the first token or after some, in all its forms."""

    def spoil(reply: Completion, scene: Scene) -> Reply:
        rng = scene.rng
        after = rng.choice((0, 0, 1, 2))
        error = StreamError(text, after_tokens=after, done=rng.random() < 0.5, duplicate=rng.random() < 0.5)
        return reply.altered(faults=(error,))

    return spoil


def refused(text: str) -> Spoil:
    """400 with a bare string (E1)."""
    return lambda reply, scene: HttpReply(400, errors.plain_error(text))


def answered(status: int, body: Any) -> Spoil:
    return lambda reply, scene: HttpReply(status, body)


def cut(*, before_headers: bool = False) -> Spoil:
    def spoil(reply: Completion, scene: Scene) -> Reply:
        reset = scene.rng.random() < 0.5
        after = 0 if before_headers else scene.rng.randint(1, 3)
        return reply.altered(faults=(CutSocket(after, before_headers=before_headers, reset=reset),))

    return spoil


def ended(reply: Completion, scene: Scene) -> Reply:
    return reply.altered(faults=(EndEarly(scene.rng.randint(0, 3)),))


def stalled(*, before_headers: bool) -> Spoil:
    return lambda reply, scene: reply.altered(
        faults=(Stall(before_headers=before_headers, after_tokens=0 if before_headers else 1),)
    )


def lost(take: Callable[[Simulator, str], object]) -> Spoil:
    """The instance goes in mid-reply, with all that is in flight on it."""

    def spoil(reply: Completion, scene: Scene) -> Reply:
        instance_id = scene.request.instance_id
        assert instance_id is not None

        def go() -> None:
            if instance_id in scene.sim.instances:
                take(scene.sim, instance_id)

        asyncio.get_running_loop().call_later(_LOSS_DELAY, go)
        return reply.altered(faults=(Stall(after_tokens=1),))

    return spoil


def lost_and_overtaken(sim: Simulator, instance_id: str) -> None:
    """An unload, and the load after it is overtaken by another."""
    text = f'Failed to load model "{instance_id}". Error: {errors.LOAD_CANCELED}'
    sim.script_path("/api/v1/models/load", HttpReply(400, errors.openai_error(text)))
    sim.unload(instance_id)


def leaked(reply: Completion, scene: Scene) -> Reply:
    """The calls stay in the text; an answer has none to leak."""
    if len(reply.calls) != 1:
        return reply
    in_reasoning = scene.rng.random() < 0.3
    return LeakReply(scene.rng.choice(LEAK_FORMATS), reply.calls[0], in_reasoning=in_reasoning)


def odd(reply: Completion, scene: Scene) -> Reply:
    """A stream as old builds and bad networks make it, with bad frames between the good ones."""
    rng = scene.rng
    options = StreamOptions(
        fragment_chars=rng.choice((1, 7, 40)),
        argument_fragment_chars=rng.choice((None, 1, 5)),
        interleave_calls=rng.random() < 0.5,
        repeat_role=rng.random() < 0.5,
        call_ids=rng.choice(("sent", "omitted", "empty")),
        empty_later_names=rng.random() < 0.5,
        usage_chunk=rng.random() < 0.5,
        done=rng.random() < 0.5,
        write_bytes=rng.choice((None, 3, 64)),
        line_end=rng.choice(("\n", "\r\n")),
    )
    bad = tuple(BadFrame(rng.randint(0, 3)) for _ in range(rng.randint(1, 3)))
    return reply.altered(stream=options, faults=bad)


def thinking(reply: Completion, scene: Scene) -> Reply:
    calls = tuple(Call(call.name, call.argument_text) for call in reply.calls)
    return reply.altered(calls=calls, reasoning="First I should think. ", text="\n\n" if calls else reply.text)


def limited(reply: Completion, scene: Scene) -> Reply:
    return RateLimitReply(scene.rng.choice((None, 0, 1, "soon", datetime.now(UTC))))


NO_QUERY = errors.template_failure(errors.NO_USER_QUERY)
ALTERNATE = errors.template_failure(errors.ROLES_MUST_ALTERNATE)
OVERFLOWS = errors.OVERFLOW_NUMBERED.format(needed=40_000, available=32_768)
OMITTED = (
    "Failed to generate a tool call (this tool call will be omitted from the response): Failed to parse tool call: "
    "Unexpected end of content."
)

FAULTS: tuple[Fault, ...] = (
    Fault("no answer, connection cut", "unreachable", cut(before_headers=True)),
    Fault("E7 with 200", "wrong_endpoint", answered(200, errors.unexpected_endpoint("POST", "/chat/completions"))),
    Fault("a web page", "wrong_endpoint", answered(200, "<html>Welcome</html>")),
    Fault("token wanted", "auth", answered(401, errors.native_error(errors.TOKEN_REQUIRED, code="invalid_api_key"))),
    Fault("not permitted", "auth", answered(403, errors.permission_denied("mcp/x"))),
    Fault("no model loaded", "no_model", answered(400, errors.openai_error(errors.NO_MODELS_LOADED, param="model"))),
    Fault("model unloaded, streamed", "model_lost", streamed(errors.MODEL_UNLOADED)),
    Fault("model reloaded, refused", "model_lost", refused(errors.MODEL_RELOADED)),
    Fault("model crashed, streamed", "model_lost", streamed(errors.MODEL_CRASHED)),
    Fault("channel error, refused", "model_lost", refused(errors.CHANNEL_ERROR)),
    Fault("fetch failed, streamed", "model_lost", streamed(errors.ENGINE_FETCH_FAILED)),
    Fault("terminated, refused", "model_lost", refused(errors.ENGINE_TERMINATED)),
    Fault("load overtaken", "model_lost", refused(errors.LOAD_CANCELED)),
    Fault("socket cut in mid-reply", "model_lost", cut()),
    Fault("stream ended early", "model_lost", ended),
    Fault("instance unloaded in flight", "model_lost", lost(lambda sim, name: sim.unload(name))),
    Fault("instance unloaded, load overtaken", "model_lost", lost(lost_and_overtaken)),
    Fault("instance reloaded in flight", "model_lost", lost(lambda sim, name: sim.reload(name, context_length=24_576))),
    Fault("instance crashed in flight", "model_lost", lost(lambda sim, name: sim.crash(name))),
    Fault("no slot came free, streamed", "busy", streamed(errors.SLOT_WAIT_FAILED)),
    Fault("Express's page", "busy", lambda reply, scene: HtmlErrorReply()),
    Fault("gateway's 503", "busy", answered(503, errors.openai_error("Loading model", type="unavailable_error"))),
    Fault("429", "rate_limited", limited),
    Fault("overflow, streamed", "overflow", streamed(OVERFLOWS)),
    Fault("overflow, refused", "overflow", refused(errors.OVERFLOW_PLAIN)),
    Fault("overflow while generating", "overflow", streamed(errors.CONTEXT_EXCEEDED)),
    Fault("template wants a user turn", "template", streamed(NO_QUERY)),
    Fault("template wants turns", "template", refused(ALTERNATE)),
    Fault("no grammar", "schema", streamed(errors.GRAMMAR_FAILED)),
    Fault("two types, MLX", "schema", refused(errors.MLX_TYPE_FAILED)),
    Fault("guardrail", "resources", refused(errors.LOAD_GUARDRAIL)),
    Fault("empty reply", "empty_turn", lambda reply, scene: TextReply("")),
    Fault("thought to the limit", "empty_turn", lambda reply, scene: ReasoningReply("I should think")),
    Fault("thought only", "empty_turn", lambda reply, scene: ReasoningReply("I should think", finish_reason="stop")),
    Fault("call dropped", "lost_tool_call", lambda reply, scene: DroppedCallReply()),
    Fault("call only announced", "lost_tool_call", lambda reply, scene: TextReply("Let me take the next one:")),
    Fault("call unreadable, streamed", "lost_tool_call", streamed(OMITTED)),
    Fault("another model answers", "substituted_model", lambda reply, scene: reply.altered(model=OTHER_MODEL)),
    Fault("silence before the reply", "stalled", stalled(before_headers=True)),
    Fault("silence within the reply", "stalled", stalled(before_headers=False)),
    Fault("messages refused", "bad_request", refused("'messages' field is required")),
    Fault("call leaked into the text", "", leaked),
    Fault("odd stream", "", odd),
    Fault("thinking before it", "", thinking),
)


def call_reply(run: str, steps: tuple[int, ...]) -> Completion:
    """The calls of one round."""
    calls = (Call("tokens__take", {"run": run, "step": step}) for step in steps)
    return CallReply(*calls, usage=Usage(100, 20))
