"""LM Studio and its models: is it there, is it the right one, and can the model do the work?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from operator import attrgetter
from pathlib import Path

import anyio

from lmstudio_bridge.agent.json_calls import choose_strategy
from lmstudio_bridge.cli.doctor.checks import Check, failed_check
from lmstudio_bridge.errors import AuthError, LLMConnectionError, LLMError, LLMTimeoutError
from lmstudio_bridge.json_text import load_or_none
from lmstudio_bridge.lmstudio.client import LLMClient
from lmstudio_bridge.lmstudio.models import ModelCatalog, ModelChoice, Source
from lmstudio_bridge.lmstudio.queue import DEFAULT_PARALLEL
from lmstudio_bridge.messages import ChatRequest, Completion, ToolSpec, UserMessage
from lmstudio_bridge.runs.preparation import SMALL_CONTEXT
from lmstudio_bridge.security.permissions import is_here
from lmstudio_bridge.security.sandbox import find_program
from lmstudio_bridge.settings import Settings, Surroundings
from lmstudio_bridge.text import counted

HOPELESS_CONTEXT = 2_048  # tokens; the tools of one server and the task need more
_ROOMY_CONTEXT = 16_384  # tokens; the recommended minimum

_GENERATIONS: Mapping[Source, str] = {
    "/api/v1/models": "LM Studio 0.4 or later",
    "/api/v0/models": "LM Studio before 0.4; the bridge can't load models",
    "/v1/models": "another OpenAI-compatible server; it reports no context length",
}
_LLAMA_CPP = "llama.cpp's server; it reports no context length"
_BY_HAND = "Load it in LM Studio by hand, or with `lms load {name} --context-length {tokens}`."
_TOOL = ToolSpec("report_ready", "Say that you are ready.", {"type": "object", "properties": {}})
_PROMPT = "Call the tool report_ready now. Write nothing else."
_MAX_TOKENS = 1_024  # some models think first
_CALL_TIMEOUT = 300.0  # seconds for loading and answering
_LMS_TIMEOUT = 5.0  # seconds for one command
_KILL_TIMEOUT = 1.0  # seconds for a killed command to exit


async def check_engine(client: LLMClient, settings: Settings, around: Surroundings) -> AsyncIterator[Check]:
    """Check the server, then the model that a call without a model name would use."""
    try:
        catalog = await client.validator.catalog(refresh=True)
    except LLMError as exc:
        yield _unreachable(exc, settings, around)
        return
    chat_models = catalog.chat_models()
    serves = any(model.served for model in chat_models)
    kind = _LLAMA_CPP if serves else _GENERATIONS[catalog.source]
    answers = f"{client.root_url} answers ({catalog.source}: {kind}), {counted(len(chat_models), 'chat model')}"
    known = [model.loaded for model in chat_models if model.loaded is not None]
    yield Check("lm_studio", "LM Studio", "ok", f"{answers}, {sum(known)} loaded" if known else answers)
    token = "set, not rejected" if settings.api_token else "not set, not required"
    yield Check("lm_studio", "API token", "ok", token)
    if not chat_models:
        yield _no_chat_model(catalog)
        return
    try:
        choice = await client.validator.resolve(None)
    except LLMError as exc:
        yield failed_check("model", "Model", exc)
        return
    jit = await _just_in_time(client, catalog)
    checks = list(_check_model(choice, settings, jit=jit))
    if catalog.source != "/v1/models" and is_here(settings.root_url):
        instance = choice.instance.id if choice.instance else None
        checks += [check async for check in check_lms(around, instance=instance)]
    for check in sorted(checks, key=attrgetter("area")):  # "lm_studio" comes before "model"
        yield check


def _unreachable(exc: LLMError, settings: Settings, around: Surroundings) -> Check:
    check = failed_check("lm_studio", "LM Studio", exc)
    if isinstance(exc, AuthError) and settings.api_token is None:
        found = f"{settings.root_url} requires an API token, and none is set."
        remedy = "Create one in LM Studio (Developer → Server Settings → Manage Tokens) and set LM_API_TOKEN."
        return Check("lm_studio", "API token", "failed", found, remedy)
    if isinstance(exc, AuthError):
        return Check("lm_studio", "API token", "failed", check.found, check.remedy)
    away = isinstance(exc, LLMConnectionError | LLMTimeoutError)
    if away and is_here(settings.root_url) and not is_installed(around):
        return Check(
            "lm_studio",
            "LM Studio",
            "failed",
            f"LM Studio does not answer at {settings.root_url}, and it does not seem to be installed here.",
            "Install it from https://lmstudio.ai, download a model marked for tool use, load it with a context of "
            f"{_ROOMY_CONTEXT:,} tokens or more, and start its server (Developer tab, or `lms server start`). "
            "To try the bridge without LM Studio, run scripts/demo in the bridge's repository.",
        )
    return check


def is_installed(around: Surroundings) -> bool:
    """Whether LM Studio seems to be installed: its command, its folder, or its app exists."""
    if find_program("lms", around):
        return True
    below = (".lmstudio", ".cache/lm-studio", "AppData/Local/Programs/LM Studio", "Applications/LM Studio.app")
    paths = [around.home / name for name in below] if around.home else []
    return any(path.exists() for path in (*paths, Path("/Applications/LM Studio.app")))


def _no_chat_model(catalog: ModelCatalog) -> Check:
    if catalog.models:
        names = ", ".join(model.key for model in catalog.models)
        found = f"There are only embedding models, which can't chat: {names}."
    else:
        found = "There are no models."
    remedy = "Download a chat model in LM Studio (one marked with the tool-use hammer works best) and load it."
    more = "" if catalog.source == "/api/v1/models" else " This server may list only loaded models."
    return Check("model", "Model", "failed", found, remedy + more)


async def _just_in_time(client: LLMClient, catalog: ModelCatalog) -> bool | None:
    """Whether LM Studio loads a model that a request names: only then does `/v1/models` list models not loaded.

    None if that is unknown (LM Studio reference, 3.1).
    """
    absent = {model.key for model in catalog.models if model.loaded is False}
    if not absent or catalog.source == "/v1/models":
        return None
    try:
        return bool(absent & await client.list_openai_names())
    except LLMError:
        return None


def _check_model(choice: ModelChoice, settings: Settings, *, jit: bool | None) -> Iterator[Check]:
    state = {True: "loaded", False: "not loaded", None: "load state unknown"}[choice.info.loaded]
    context = f", context {choice.context_length:,} tokens" if choice.context_length else ""
    most = f" of at most {choice.info.max_context_length:,}" if context and choice.info.max_context_length else ""
    yield Check("model", "Model", "ok", f"{choice.name} ({state}{context}{most})")
    if choice.info.loaded is False:
        yield _not_loaded(choice, settings, jit=jit)
    if len(choice.info.instances or ()) > 1:
        ids = ", ".join(instance.id for instance in choice.info.instances or ())
        yield Check("model", "Copies", "warning", f"It is loaded several times: {ids}.", "Unload all but one.")
    if choice.context_length is not None and choice.context_length < SMALL_CONTEXT:
        tiny = choice.context_length < HOPELESS_CONTEXT
        yield Check(
            "model",
            "Context",
            "failed" if tiny else "warning",
            f"{choice.context_length:,} tokens are {'too few for any task with tools' if tiny else 'few'}: "
            "tools and a few results fill the context window.",
            f"Unload it, then load it again with {_ROOMY_CONTEXT:,} tokens or more: "
            f"`lms load {choice.info.key} --context-length {_ROOMY_CONTEXT}`.",
        )
    strategy = choose_strategy(
        choice.info.key, trained_for_tool_use=choice.info.trained_for_tool_use, calls=settings.calls
    )
    if choice.info.trained_for_tool_use is False:
        remedy = "A model that LM Studio marks for tool use (the hammer) works better."
        yield Check("model", "Tool calls", "warning", strategy.in_words(), remedy)
    else:
        yield Check("model", "Tool calls", "ok", strategy.in_words())
    slots = settings.parallel or (choice.instance.parallel if choice.instance else None)
    yield Check("model", "Slots", "ok", f"{slots or DEFAULT_PARALLEL} requests at once")
    if jit and choice.info.loaded:
        yield Check(
            "model",
            "Just-in-time loading",
            "ok",
            "on. A model that was loaded this way is unloaded after some idle time, and when a request names another "
            'model ("Only Keep Last JIT Loaded Model"); a model that you load by hand stays loaded',
        )


def _not_loaded(choice: ModelChoice, settings: Settings, *, jit: bool | None) -> Check:
    name = choice.info.key
    by_hand = _BY_HAND.format(name=name, tokens=_ROOMY_CONTEXT)
    check = partial(Check, "model", "Loading")
    if choice.source == "/api/v1/models":
        wanted = choice.info.possible_context(settings.context_length)
        return check(
            "warning",
            f"{name} is not loaded. The first call loads it, with {wanted:,} tokens of context, and takes longer.",
            f"{by_hand} Then the first call is fast, and the model stays loaded.",
        )
    if jit is False:
        return check(
            "failed",
            f"{name} is not loaded, and just-in-time loading is off, so no call can load it.",
            f"{by_hand} Or turn on just-in-time loading (Developer → Server Settings).",
        )
    return check(
        "warning",
        f"{name} is not loaded. The first call loads it just in time, often with only 4,096 tokens of context.",
        by_hand,
    )


# -- a real call ------------------------------------------------------------------------------------------------


async def check_call(client: LLMClient, settings: Settings, *, limit: float = _CALL_TIMEOUT) -> Check:
    """One request with one tool: does the model answer, how fast, and does it call the tool?

    A model that is not loaded is loaded first, as in a run.
    """
    check = partial(Check, "deep", "Model call")
    began = time.monotonic()
    try:
        async with asyncio.timeout(limit):
            completion = await _call(client, settings)
    except LLMError as exc:
        return failed_check("deep", "Model call", exc)
    except TimeoutError:
        return check(
            "failed",
            f"The model did not answer within {limit:g} s.",
            "Check LM Studio: is the model still loading or generating? Try a smaller model.",
        )
    seconds = time.monotonic() - began
    tokens = completion.usage.completion_tokens if completion.usage else 0
    speed = f", {tokens / seconds:.0f} tokens/s" if tokens and seconds > 0 else ""
    took = f"{seconds:.1f} s{speed}"
    if [call.name for call in completion.calls] == [_TOOL.name]:
        return check("ok", f"{completion.model} called the requested tool ({took})")
    if completion.calls:
        found = f"{completion.model} called {', '.join(call.name for call in completion.calls)} ({took})."
    elif completion.text or completion.reasoning:
        found = f"{completion.model} answered with text instead of calling the requested tool ({took})."
    else:
        return check(
            "failed",
            f"{completion.model} returned an empty answer ({took}).",
            "Try another build of the model, and check LM Studio's server log.",
        )
    remedy = (
        "Small models often do this. The bridge then constrains calls with a grammar (LMSTUDIO_BRIDGE_CALLS=grammar)."
    )
    return check("warning", found, remedy)


async def _call(client: LLMClient, settings: Settings) -> Completion:
    choice = await client.validator.resolve(None)
    if choice.info.loaded is False and choice.source == "/api/v1/models":
        wanted = choice.info.possible_context(settings.context_length)
        await client.load_model(choice.name, context_length=wanted)
        choice = await client.validator.resolve(choice.wanted)
    return await client.stream_chat_completion(
        ChatRequest([UserMessage(_PROMPT)], tools=[_TOOL], max_tokens=_MAX_TOKENS), model=choice.name
    )


# -- lms --------------------------------------------------------------------------------------------------------


async def check_lms(around: Surroundings, *, instance: str | None, limit: float = _LMS_TIMEOUT) -> AsyncIterator[Check]:
    """What the command `lms` knows and HTTP does not: the version, and whether the loaded model `instance` expires.

    Best effort: nothing is reported if the command is missing, slow, or prints something else. The formats are those
    of `lms ps --json` and `lms daemon status --json` of August 2026.
    """
    command = find_program("lms", around)
    if command is None:
        return
    status = await _ask(command, "daemon", "status", "--json", environ=around.environ, limit=limit)
    if isinstance(status, dict) and isinstance(version := status.get("version"), str):
        yield Check("lm_studio", "LM Studio's version", "ok", version[:40])
    loaded = await _ask(command, "ps", "--json", environ=around.environ, limit=limit)
    for model in loaded if isinstance(loaded, list) else ():
        if not isinstance(model, dict) or model.get("identifier") != instance:
            continue
        idle = model.get("ttlMs")
        if isinstance(idle, int | float) and idle > 0:
            key = str(model.get("modelKey") or instance)
            yield Check(
                "model",
                "Idle time",
                "warning",
                f"{instance} was loaded just in time: it is unloaded after {idle / 60_000:.0f} minutes without a "
                'request and, with "Only Keep Last JIT Loaded Model", as soon as a request names another model.',
                f"Load it by hand to keep it loaded: `lms load {key}`.",
            )


async def _ask(command: str, *arguments: str, environ: Mapping[str, str], limit: float) -> object:
    """The JSON that the command prints; None if it fails or takes too long."""
    try:
        process = await asyncio.create_subprocess_exec(
            command,
            *arguments,
            env=dict(environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(limit):
            out, _ = await process.communicate()
    except TimeoutError:
        return None
    else:
        return load_or_none(out)
    finally:
        if process.returncode is None:
            process.kill()
            with anyio.move_on_after(_KILL_TIMEOUT, shield=True):
                await process.wait()
