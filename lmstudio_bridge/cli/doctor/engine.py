"""LM Studio and its models: is it there, is it the right one, and can the model do the work?"""

from __future__ import annotations

import ipaddress
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from lmstudio_bridge.agent.json_calls import choose_strategy
from lmstudio_bridge.cli.doctor.checks import Check, failed_check
from lmstudio_bridge.cli.doctor.lms import check_lms
from lmstudio_bridge.errors import AuthError, LLMConnectionError, LLMError, LLMTimeoutError
from lmstudio_bridge.lmstudio.client import LLMClient
from lmstudio_bridge.lmstudio.models import ModelCatalog, ModelChoice, Source
from lmstudio_bridge.lmstudio.queue import DEFAULT_PARALLEL
from lmstudio_bridge.runs.preparation import SMALL_CONTEXT
from lmstudio_bridge.settings import Settings, Surroundings

HOPELESS_CONTEXT = 2_048  # tokens; the tools of one server and the task take more
_ROOMY_CONTEXT = 16_384  # tokens; what we advise

_GENERATIONS: Mapping[Source, str] = {
    "/api/v1/models": "LM Studio 0.4 or later",
    "/api/v0/models": "LM Studio before 0.4, which can't be told to load a model",
    "/v1/models": "another OpenAI-like server, or an LM Studio before 0.3.6; it tells no context length",
}
_BY_HAND = "Load it in LM Studio by hand, or with `lms load {name} --context-length {tokens}`."


async def check_engine(client: LLMClient, settings: Settings, around: Surroundings) -> AsyncIterator[Check]:
    """Look at the server, then at the model that a call without a name would get."""
    try:
        catalog = await client.validator.catalog(refresh=True)
    except LLMError as exc:
        yield _unanswered(exc, settings, around)
        return
    chat_models = catalog.chat_models()
    yield Check(
        "lm_studio",
        "LM Studio",
        "ok",
        f"{client.root_url} answers ({catalog.source}: {_GENERATIONS[catalog.source]}), "
        f"{len(chat_models)} chat model{'s' * (len(chat_models) != 1)}, "
        f"{sum(bool(model.loaded) for model in chat_models)} loaded",
    )
    token = "given, and not refused" if settings.api_token else "none given, none wanted"
    yield Check("lm_studio", "API token", "ok", token)
    if not chat_models:
        yield _nothing_to_chat_with(catalog)
        return
    try:
        choice = await client.validator.resolve(None)
    except LLMError as exc:
        yield failed_check("model", "Model", exc)
        return
    jit = await _just_in_time(client, catalog)
    for check in _look_at(choice, settings, jit=jit):
        yield check
    if catalog.source != "/v1/models" and is_here(settings.root_url):
        async for check in check_lms(around.environ, instance=choice.instance.id if choice.instance else None):
            yield check


def _unanswered(exc: LLMError, settings: Settings, around: Surroundings) -> Check:
    check = failed_check("lm_studio", "LM Studio", exc)
    if isinstance(exc, AuthError) and settings.api_token is None:
        return Check(
            "lm_studio",
            "API token",
            "failed",
            f"{settings.root_url} wants an API token, and none is given.",
            "Create one in LM Studio (Developer → Server Settings → Manage Tokens) and put it into LM_API_TOKEN.",
        )
    if isinstance(exc, AuthError):
        return Check("lm_studio", "API token", "failed", check.found, check.remedy)
    away = isinstance(exc, LLMConnectionError | LLMTimeoutError)
    if away and is_here(settings.root_url) and not is_installed(around):
        return Check(
            "lm_studio",
            "LM Studio",
            "failed",
            f"LM Studio does not answer at {settings.root_url}, and it does not seem to be installed here.",
            "Get it from https://lmstudio.ai, download a model that it marks for tool use, load it with a context of "
            f"{_ROOMY_CONTEXT:,} tokens or more, and start its server (Developer tab, or `lms server start`). "
            "To see the bridge at work without it: scripts/demo in the bridge's repository.",
        )
    return check


def is_here(url: str) -> bool:
    """Whether an address is one of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_installed(around: Surroundings) -> bool:
    """Whether there is any trace of LM Studio: its command, its folder, its app."""
    if shutil.which("lms", path=around.environ.get("PATH", "")):
        return True
    below = (".lmstudio", ".cache/lm-studio", "AppData/Local/Programs/LM Studio", "Applications/LM Studio.app")
    places = [around.home / name for name in below] if around.home else []
    return any(path.exists() for path in (*places, Path("/Applications/LM Studio.app")))


def _nothing_to_chat_with(catalog: ModelCatalog) -> Check:
    if catalog.models:
        names = ", ".join(model.key for model in catalog.models)
        found = f"There are only embedding models, which can't chat: {names}."
    else:
        found = "There is no model."
    return Check(
        "model",
        "Model",
        "failed",
        found,
        "Download a chat model in LM Studio (one marked with the tool-use hammer works best) and load it."
        + (
            ""
            if catalog.source == "/api/v1/models"
            else " It may also be that none is loaded, and only those are told."
        ),
    )


async def _just_in_time(client: LLMClient, catalog: ModelCatalog) -> bool | None:
    """Whether LM Studio loads a model that a request names: only then `/v1/models` has those that are not loaded.

    None where that cannot be told (LM Studio reference, 3.1).
    """
    absent = {model.key for model in catalog.models if model.loaded is False}
    if not absent or catalog.source == "/v1/models":
        return None
    try:
        return bool(absent & await client.list_openai_names())
    except LLMError:
        return None


def _look_at(choice: ModelChoice, settings: Settings, *, jit: bool | None) -> Iterator[Check]:
    state = {True: "loaded", False: "not loaded", None: "load state not told"}[choice.info.loaded]
    context = f", context {choice.context_length:,} tokens" if choice.context_length else ""
    most = f" of at most {choice.info.max_context_length:,}" if context and choice.info.max_context_length else ""
    yield Check("model", "Model", "ok", f"{choice.name} ({state}{context}{most})")
    if choice.info.loaded is False:
        yield _not_loaded(choice, settings, jit=jit)
    if len(choice.info.instances or ()) > 1:
        ids = ", ".join(instance.id for instance in choice.info.instances or ())
        yield Check("model", "Copies", "warning", f"It is in memory several times: {ids}.", "Unload all but one.")
    if choice.context_length is not None and choice.context_length < SMALL_CONTEXT:
        tiny = choice.context_length < HOPELESS_CONTEXT
        yield Check(
            "model",
            "Context",
            "failed" if tiny else "warning",
            f"{choice.context_length:,} tokens are {'too few for any task with tools' if tiny else 'few'}: "
            "tools and a few results fill them.",
            f"Unload it, and load it again with {_ROOMY_CONTEXT:,} tokens or more: "
            f"`lms load {choice.info.key} --context-length {_ROOMY_CONTEXT}`.",
        )
    strategy = choose_strategy(
        choice.info.key, trained_for_tool_use=choice.info.trained_for_tool_use, calls=settings.calls
    )
    untrained = choice.info.trained_for_tool_use is False
    yield Check(
        "model",
        "Tool calls",
        "warning" if untrained else "ok",
        f"{strategy.calls}, because {strategy.reason}",
        "A model that LM Studio marks for tool use (the hammer) does better." if untrained else "",
    )
    slots = settings.parallel or (choice.instance.parallel if choice.instance else None)
    yield Check("model", "Slots", "ok", f"{slots or DEFAULT_PARALLEL} requests at once")
    if jit and choice.info.loaded:
        yield Check(
            "model",
            "Just-in-time loading",
            "ok",
            "on. A model that was loaded this way is unloaded after idle time, and when a request names another one "
            "(«Only Keep Last JIT Loaded Model»); a model that you load by hand is not",
        )


def _not_loaded(choice: ModelChoice, settings: Settings, *, jit: bool | None) -> Check:
    name = choice.info.key
    by_hand = _BY_HAND.format(name=name, tokens=_ROOMY_CONTEXT)
    if choice.source == "/api/v1/models":
        wanted = min(settings.context_length, choice.info.max_context_length or settings.context_length)
        return Check(
            "model",
            "Loading",
            "warning",
            f"{name} is not in memory. The first call loads it, with {wanted:,} tokens of context, and takes longer.",
            f"{by_hand} Then it is there at once, and stays.",
        )
    if jit is False:
        return Check(
            "model",
            "Loading",
            "failed",
            f"{name} is not in memory, and just-in-time loading is off, so no call can load it.",
            f"{by_hand} Or turn on just-in-time loading (Developer → Server Settings).",
        )
    return Check(
        "model",
        "Loading",
        "warning",
        f"{name} is not in memory. The first call loads it just in time, often with only 4,096 tokens of context.",
        by_hand,
    )
