"""The routes that list, load and unload models: /v1/models, /api/v0/models, /api/v1/models."""

from __future__ import annotations

import time

from tests.lmstudio_sim.errors import (
    JsonObject,
    PredictionFailedError,
    RequestRefusedError,
    native_error,
)
from tests.lmstudio_sim.models import SimModel
from tests.lmstudio_sim.state import Instance, ModelState

LOAD_KEYS = frozenset(
    {
        "model",
        "context_length",
        "eval_batch_size",
        "flash_attention",
        "num_experts",
        "offload_kv_cache_to_gpu",
        "echo_load_config",
    }
)


def list_openai_models(state: ModelState) -> JsonObject:
    """GET /v1/models: with JIT all downloaded models, without it the loaded instances."""
    names = list(state.models) if state.jit else list(state.instances)
    data = [{"id": name, "object": "model", "owned_by": "organization_owner"} for name in names]
    return {"object": "list", "data": data}


def list_v0_models(state: ModelState) -> JsonObject:
    """GET /api/v0/models."""
    return {"object": "list", "data": [_v0_entry(state, model) for model in state.models.values()]}


def list_native_models(state: ModelState) -> JsonObject:
    """GET /api/v1/models."""
    return {"models": [_native_entry(state, model) for model in state.models.values()]}


async def load_model(state: ModelState, body: JsonObject) -> JsonObject:
    """POST /api/v1/models/load: always one more instance.

    Raises:
        RequestRefusedError: unknown keys, no such model, or the load failed.
    """
    _check_keys(body, allowed=LOAD_KEYS, required="model")
    context_length = body.get("context_length")
    if context_length is not None and (not isinstance(context_length, int) or context_length < 1):
        raise RequestRefusedError(
            400, native_error("Expected a positive integer", code="invalid_value", param="context_length")
        )
    model = state.find_model(str(body["model"]))
    if model is None:
        text = f"Model '{body['model']}' not found."
        raise RequestRefusedError(
            404, native_error(text, type="model_not_found", code="model_not_found", param="model")
        )
    begun = time.monotonic()
    try:
        instance = await state.load(model, context_length=context_length)
    except PredictionFailedError as error:
        text = f'Failed to load model "{model.key}". Error: {error.message}'
        raise RequestRefusedError(500, native_error(text, type="internal_error", code="unknown")) from None
    result: JsonObject = {
        "type": model.type,
        "instance_id": instance.id,
        "load_time_seconds": round(time.monotonic() - begun, 3),
        "status": "loaded",
    }
    if body.get("echo_load_config"):
        result["load_config"] = _config(instance)
    return result


def unload_instance(state: ModelState, body: JsonObject, *, cause: str) -> JsonObject:
    """POST /api/v1/models/unload; requests in flight die of `cause`.

    Raises:
        RequestRefusedError: unknown keys, or no such instance (the 404 is inferred).
    """
    _check_keys(body, allowed=frozenset({"instance_id"}), required="instance_id")
    instance_id = str(body["instance_id"])
    if instance_id not in state.instances:
        text = f"Model instance '{instance_id}' not found."
        raise RequestRefusedError(
            404, native_error(text, type="model_not_found", code="model_not_found", param="instance_id")
        )
    state.remove(instance_id, cause=cause)
    return {"instance_id": instance_id}


def _check_keys(body: JsonObject, *, allowed: frozenset[str], required: str) -> None:
    unknown = [key for key in body if key not in allowed]
    if unknown:
        keys = ", ".join(f"'{key}'" for key in unknown)
        raise RequestRefusedError(400, native_error(f"Unrecognized key(s) in object: {keys}", code="unrecognized_keys"))
    if required not in body:
        raise RequestRefusedError(400, native_error("Required", code="missing_required_parameter", param=required))
    if not isinstance(body[required], str):
        raise RequestRefusedError(400, native_error("Expected string", code="invalid_value", param=required))


def _v0_entry(state: ModelState, model: SimModel) -> JsonObject:
    loaded = [instance for instance in state.instances.values() if instance.model is model]
    loading = any(load.model is model for load in state.loads)
    kind = "embeddings" if model.type == "embedding" else "vlm" if model.vision else "llm"
    entry: JsonObject = {
        "id": model.key,
        "object": "model",
        "type": kind,
        "publisher": model.publisher,
        "arch": model.architecture,
        "compatibility_type": model.format,
        "quantization": model.quantization,
        "state": "loaded" if loaded else "loading" if loading else "not-loaded",
        "max_context_length": model.max_context_length,
    }
    if loaded:
        entry["loaded_context_length"] = loaded[0].context_length
    if model.trained_for_tool_use:
        entry["capabilities"] = ["tool_use"]
    return entry


def _native_entry(state: ModelState, model: SimModel) -> JsonObject:
    instances = [instance for instance in state.instances.values() if instance.model is model]
    entry: JsonObject = {
        "type": model.type,
        "publisher": model.publisher,
        "key": model.key,
        "display_name": model.name,
        "quantization": {"name": model.quantization, "bits_per_weight": 4},
        "size_bytes": model.size_bytes,
        "params_string": "4B",
        "loaded_instances": [{"id": instance.id, "config": _config(instance)} for instance in instances],
        "max_context_length": model.max_context_length,
        "format": model.format,
        "variants": [model.variant],
        "selected_variant": model.variant,
    }
    if model.type == "llm":
        entry |= {"architecture": model.architecture, "capabilities": model.capabilities(), "description": None}
    return entry


def _config(instance: Instance) -> JsonObject:
    if instance.model.type == "embedding":
        return {"context_length": instance.context_length}
    return {
        "context_length": instance.context_length,
        "eval_batch_size": 512,
        "parallel": instance.parallel,
        "flash_attention": True,
        "offload_kv_cache_to_gpu": True,
    }
