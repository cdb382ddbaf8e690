"""Finds the route of a request, checks token and body, and answers."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from urllib.parse import unquote

from tests.lmstudio_sim.catalogue import (
    list_native_models,
    list_openai_models,
    list_v0_models,
    load_model,
    unload_instance,
)
from tests.lmstudio_sim.errors import (
    MODEL_UNLOADED,
    TOKEN_REQUIRED,
    InstanceLostError,
    JsonObject,
    PredictionFailedError,
    RequestRefusedError,
    malformed_token,
    native_error,
    plain_error,
    unexpected_endpoint,
)
from tests.lmstudio_sim.framing import ChatFraming, Ids, Turn
from tests.lmstudio_sim.http import CutError, Exchange
from tests.lmstudio_sim.pieces import count_prompt_tokens, count_usage
from tests.lmstudio_sim.playback import LostStream, fail_stream, play_stream, play_whole, send_http_reply
from tests.lmstudio_sim.prompts import check_prompt
from tests.lmstudio_sim.replies import Completion, HttpReply, Usage
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.scripts import ReplyScript
from tests.lmstudio_sim.state import Instance, ModelState
from tests.lmstudio_sim.validation import check_chat

TOKEN_SHAPE = re.compile(r"sk-lm-[A-Za-z0-9]{8}:[A-Za-z0-9]{20}")
EMBEDDING_SIZE = 8


@dataclass(slots=True)
class Site:
    """What all routes share. `native` False means LM Studio before 0.4, None means some other server."""

    state: ModelState
    script: ReplyScript
    native: bool | None
    token: str | None
    lost_stream: LostStream
    ids: Ids = field(default_factory=Ids)


async def answer(site: Site, exchange: Exchange) -> None:
    """Answer one request, whatever it is."""
    try:
        await _route(site, exchange)
    except RequestRefusedError as refusal:
        await send_http_reply(exchange, HttpReply(refusal.status, refusal.body))
    except CutError:
        pass


async def _route(site: Site, exchange: Exchange) -> None:
    request = exchange.request
    path = unquote(request.path)
    scripted = site.script.take_for_path(path)
    if scripted is not None:
        await send_http_reply(exchange, scripted)
        return
    if (request.method, path) == ("GET", "/lmstudio-greeting") and site.native is not None:
        await _send(exchange, {"lmstudio": True})
        return
    _check_token(site, request)
    native = site.native is True
    before_native = site.native is not None
    match request.method, path:
        case "GET", "/v1/models":
            await _send(exchange, list_openai_models(site.state))
        case "GET", "/api/v0/models" if before_native:
            await _send(exchange, list_v0_models(site.state))
        case "GET", "/api/v1/models" if native:
            await _send(exchange, list_native_models(site.state))
        case "POST", "/api/v1/models/load" if native:
            await _send(exchange, await load_model(site.state, _native_body(request)))
        case "POST", "/api/v1/models/unload" if native:
            await _send(exchange, unload_instance(site.state, _native_body(request), cause=MODEL_UNLOADED))
        case "POST", "/v1/chat/completions":
            await _generate(site, exchange)
        case "POST", "/v1/embeddings":
            await _embed(site, exchange)
        case _ if before_native:
            await _send(exchange, unexpected_endpoint(request.method, request.path))
        case _:
            raise RequestRefusedError(404, {"detail": "Not Found"})


async def _send(exchange: Exchange, body: JsonObject) -> None:
    await send_http_reply(exchange, HttpReply(200, body))


def _check_token(site: Site, request: SimRequest) -> None:
    if site.token is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise RequestRefusedError(401, native_error(TOKEN_REQUIRED, code="invalid_api_key"))
    if given == site.token:
        return
    if TOKEN_SHAPE.fullmatch(given):
        raise RequestRefusedError(401, native_error("Invalid LM Studio API token provided.", code="invalid_api_key"))
    raise RequestRefusedError(401, native_error(malformed_token(given), code="invalid_api_key"))


def _body(request: SimRequest) -> JsonObject:
    if request.json is None:
        raise RequestRefusedError(400, plain_error("Request body is not a valid JSON object."))
    return request.json


def _native_body(request: SimRequest) -> JsonObject:
    if request.json is None:
        raise RequestRefusedError(400, native_error("Request body is not a valid JSON object.", code="invalid_value"))
    return request.json


async def _generate(site: Site, exchange: Exchange) -> None:
    request, body = exchange.request, _body(exchange.request)
    check_chat(body, old_build=site.native is False)
    instance: Instance | None = None
    framing: ChatFraming | None = None
    created = int(time.time())
    try:
        instance = await site.state.resolve(request.model, ttl_seconds=_ttl(body))
        request.instance_id = instance.id
        framing = ChatFraming(Turn(instance, Completion(), body, Usage(), created, site.ids))
        site.state.touch(instance)
        async with instance.hold_slot():
            renamed = {"developer": "system"}  # as the template sees them
            messages = [{**each, "role": renamed.get(each["role"], each["role"])} for each in request.messages]
            prompt_tokens = count_prompt_tokens(messages, tools=body.get("tools"))
            check_prompt(instance, messages, prompt_tokens=prompt_tokens, streams=request.streams)
            reply = site.script.take(request, request.model, instance.id, instance.model.key)
            request.started.set()
            if isinstance(reply, HttpReply):
                await send_http_reply(exchange, reply)
                return
            usage = count_usage(reply, prompt_tokens=prompt_tokens)
            framing = ChatFraming(Turn(instance, reply, body, usage, created, site.ids))
            if request.streams:
                await play_stream(exchange, reply, framing)
            else:
                await play_whole(exchange, reply, framing)
    except PredictionFailedError as error:
        if request.outcome != "pending":
            return  # everything was sent before the instance died
        lost = isinstance(error, InstanceLostError)
        if request.streams and framing is not None:
            await fail_stream(exchange, framing, error.message, lost_stream=site.lost_stream if lost else "error")
        else:
            await send_http_reply(exchange, HttpReply(400, plain_error(error.message)))
        if lost:
            request.outcome = "killed"
    finally:
        if instance is not None:
            site.state.touch(instance)


def _ttl(body: JsonObject) -> float | None:
    # Anything that is no positive number is taken without a word, and means the default (0.4.25).
    ttl = body.get("ttl")
    return float(ttl) if isinstance(ttl, int | float) and not isinstance(ttl, bool) and ttl > 0 else None


async def _embed(site: Site, exchange: Exchange) -> None:
    request, body = exchange.request, _body(exchange.request)
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RequestRefusedError(400, plain_error("'input' field must be a string or an array of strings"))
    try:
        instance = await site.state.resolve(request.model, type="embedding", ttl_seconds=_ttl(body))
        request.instance_id = instance.id
        async with instance.hold_slot():
            request.started.set()
            data = [
                {"object": "embedding", "embedding": _embedding(text, instance), "index": number}
                for number, text in enumerate(texts)
            ]
            usage = {"prompt_tokens": 0, "total_tokens": 0}
            await _send(exchange, {"object": "list", "data": data, "model": instance.id, "usage": usage})
    except PredictionFailedError as error:
        if request.outcome == "pending":
            await send_http_reply(exchange, HttpReply(400, plain_error(error.message)))
            request.outcome = "killed" if isinstance(error, InstanceLostError) else request.outcome


def _embedding(text: str, instance: Instance) -> list[float]:
    # Text beyond the context is cut without a word, so two texts that differ only there are the same.
    kept = text[: instance.context_length * 4]
    if groups := instance.model.meanings:
        words = re.findall(r"\w+", kept.lower())
        counts = [sum(word in group for word in words) for group in groups]
        counts.append(len(words) - sum(counts))
        length = sum(each * each for each in counts) ** 0.5 or 1.0
        return [each / length for each in counts]
    sums = [0] * EMBEDDING_SIZE
    for place, character in enumerate(kept):
        sums[place % EMBEDDING_SIZE] += ord(character)
    length = sum(each * each for each in sums) ** 0.5 or 1.0
    return [each / length for each in sums]
