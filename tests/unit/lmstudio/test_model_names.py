"""Which model a name means, and which models may answer for it.

Names follow docs/lm-studio.md, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lmstudio_bridge.errors import ModelNotFoundError
from lmstudio_bridge.lmstudio.models import ModelChoice, ModelInfo, ModelInstance
from tests.unit.lmstudio.catalogs import GEMMA, NOMIC, QWEN, Server, catalog, loaded, resolve, validator

# -- resolution -----------------------------------------------------------------------------------------------------

ROOMY = ModelInstance("my-qwen", 32768)
TIGHT = ModelInstance("qwen/qwen3-4b:2", 4096)


@pytest.mark.parametrize("name", [None, "", " ", "default", "Default"])
@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([GEMMA, loaded(QWEN)], QWEN.key),
        ([loaded(GEMMA), loaded(QWEN)], QWEN.key),
        ([loaded(GEMMA), QWEN], GEMMA.key),
        ([QWEN], QWEN.key),
        ([NOMIC, QWEN], QWEN.key),
        ([ModelInfo("only")], "only"),
    ],
    ids=["the loaded", "loaded and trained", "loaded rather than trained", "the only", "the only to chat", "unknown"],
)
async def test_without_a_name_the_best_model_is_chosen(
    name: str | None, models: Sequence[ModelInfo], expected: str
) -> None:
    assert (await resolve(name, *models)).info.key == expected


@pytest.mark.parametrize("name", [None, "", "default"])
async def test_without_a_name_the_default_model_goes_first(name: str | None) -> None:
    assert (await resolve(name, loaded(QWEN), GEMMA, default_model=GEMMA.key)).name == GEMMA.key


@pytest.mark.parametrize("default_model", ["default", " ", ""])
async def test_a_default_model_called_default_is_none(default_model: str) -> None:
    assert (await resolve(None, loaded(QWEN), GEMMA, default_model=default_model)).name == QWEN.key


async def test_a_name_goes_before_the_default_model() -> None:
    assert (await resolve(QWEN.key, QWEN, GEMMA, default_model=GEMMA.key)).name == QWEN.key


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([QWEN, GEMMA], "No model was named, none is loaded, and there are several to choose from."),
        ([ModelInfo(QWEN.key), ModelInfo(GEMMA.key)], "No model was named, and the server offers several."),
    ],
    ids=["none loaded", "not told which is loaded"],
)
async def test_without_a_name_several_models_are_listed(models: Sequence[ModelInfo], message: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        await resolve(None, *models)

    assert caught.value.message == message
    assert f"{QWEN.key}, {GEMMA.key}" in caught.value.explain()


@pytest.mark.parametrize("models", [[], [NOMIC]], ids=["nothing", "only an embedding model"])
async def test_without_a_chat_model_the_user_is_told_to_get_one(models: Sequence[ModelInfo]) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        await resolve(None, *models)

    assert "no chat model" in caught.value.message
    assert "Download one" in caught.value.remedy


Q8 = "qwen/qwen3-4b@q8_0"
NAMES: dict[str, tuple[str, ModelInfo, str, str]] = {
    "key": (QWEN.key, QWEN, QWEN.key, QWEN.key),
    "key in other letters": ("QWEN/Qwen3-4B", QWEN, QWEN.key, QWEN.key),
    "key with spaces around it": (f" {QWEN.key} ", QWEN, QWEN.key, QWEN.key),
    "key@quant": (Q8, QWEN, Q8, Q8),
    "key@quant in other letters": ("qwen/qwen3-4b@Q8_0", QWEN, Q8, Q8),
    "bare name": ("qwen3-4b", QWEN, QWEN.key, QWEN.key),
    "bare name in other letters": ("Qwen3-4B", QWEN, QWEN.key, QWEN.key),
    "bare name@quant": ("qwen3-4b@q8_0", QWEN, Q8, Q8),
    "key@quant where variants are not told": (f"{GEMMA.key}@q8", GEMMA, f"{GEMMA.key}@q8", f"{GEMMA.key}@q8"),
    "key:2 that is gone": ("qwen/qwen3-4b:2", QWEN, QWEN.key, QWEN.key),
    "key of a loaded model": (QWEN.key, loaded(QWEN), QWEN.key, QWEN.key),
    "key of a model under its own identifier": (QWEN.key, loaded(QWEN, ROOMY), "my-qwen", QWEN.key),
    "identifier": ("my-qwen", loaded(QWEN, ROOMY), "my-qwen", QWEN.key),
    "key of a model with two instances": (QWEN.key, loaded(QWEN, TIGHT, ROOMY), "my-qwen", QWEN.key),
    "key:2 of a model with two instances": (TIGHT.id, loaded(QWEN, ROOMY, TIGHT), TIGHT.id, QWEN.key),
    "key:3 that is gone": ("qwen/qwen3-4b:3", loaded(QWEN, ROOMY, TIGHT), "my-qwen", QWEN.key),
    "selected variant of a loaded model": (f"{QWEN.key}@q4_k_m", loaded(QWEN), QWEN.key, f"{QWEN.key}@q4_k_m"),
    "other variant of a loaded model": (Q8, loaded(QWEN), Q8, Q8),
}


@pytest.mark.parametrize(("name", "model", "sent", "wanted"), NAMES.values(), ids=NAMES)
async def test_a_name_is_resolved_to_what_the_server_understands(
    name: str, model: ModelInfo, sent: str, wanted: str
) -> None:
    other = ModelInfo("mistral/ministral-8b", instances=())

    choice = await resolve(name, other, model)

    instance = next((each for each in model.instances or () if each.id == sent), None)
    assert choice == ModelChoice(sent, model, instance, "/api/v1/models", wanted)
    assert choice.context_length == (instance.context_length if instance else None)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("qwen/qwen3-4", "Did you mean qwen/qwen3-4b"),
        ("Qwen/Qwen3-4B-Instruct", "Did you mean qwen/qwen3-4b"),
        ("qwen/qwen3-4b@q5", "Did you mean qwen/qwen3-4b or qwen/qwen3-4b@q8_0 or qwen/qwen3-4b@q4_k_m?"),
        ("MY-QWEN", "Did you mean my-qwen"),
        ("gpt-4o", "Available: "),
    ],
)
async def test_an_unknown_name_is_refused_with_the_near_ones(name: str, near: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        await resolve(name, loaded(QWEN, ROOMY), GEMMA, NOMIC)

    assert caught.value.message == f"LM Studio has no model named {name!r}."
    assert caught.value.remedy.startswith(near)
    assert f"Available: {QWEN.key}, {GEMMA.key}." in caught.value.remedy


async def test_a_bare_name_that_two_publishers_use_is_refused() -> None:
    twins = [ModelInfo(f"{publisher}/qwen3-4b", instances=()) for publisher in ("qwen", "unsloth")]

    with pytest.raises(ModelNotFoundError):
        await resolve("qwen3-4b", *twins)


async def test_a_long_list_is_shortened() -> None:
    models = [ModelInfo(f"m{number}", instances=()) for number in range(25)]

    with pytest.raises(ModelNotFoundError) as caught:
        await resolve("x", *models)

    assert caught.value.remedy.endswith("m18, m19, and 5 more.")


@pytest.mark.parametrize(
    ("models", "remedy"),
    [([NOMIC, QWEN], f"Available: {QWEN.key}."), ([NOMIC], "LM Studio has no chat model: download one there.")],
    ids=["with others", "alone"],
)
async def test_an_embedding_model_cannot_chat(models: Sequence[ModelInfo], remedy: str) -> None:
    with pytest.raises(ModelNotFoundError, match="is an embedding model; it cannot chat") as caught:
        await resolve(NOMIC.key, *models)

    assert caught.value.remedy == remedy


# -- who may answer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model", "answered", "accepted"),
    [
        (QWEN.key, QWEN, "qwen/qwen3-4b", True),
        (QWEN.key, QWEN, "QWEN/qwen3-4b", True),
        (QWEN.key, QWEN, "qwen/qwen3-4b:2", True),
        (QWEN.key, QWEN, "qwen/qwen3-4b@q4_k_m", True),
        (QWEN.key, QWEN, "", True),
        (QWEN.key, QWEN, "google/gemma-3-1b", False),
        (QWEN.key, QWEN, "google/gemma-3-1b:2", False),
        (QWEN.key, QWEN, "qwen/qwen3-4b-2507", False),
        (QWEN.key, QWEN, "qwen/qwen3-4b:x", False),
        ("my-qwen", loaded(QWEN, ROOMY), "my-qwen", True),
        ("my-qwen", loaded(QWEN, ROOMY), "my-qwen:2", True),
        ("my-qwen", loaded(QWEN, ROOMY), "your-qwen", False),
        ("google/gemma-3-1b@q8", GEMMA, "google/gemma-3-1b@q8", True),
    ],
)
async def test_only_the_chosen_model_may_answer(name: str, model: ModelInfo, answered: str, accepted: bool) -> None:
    choice = await resolve(name, model)

    assert choice.answers_as(answered) is accepted


async def test_any_name_is_accepted_from_a_server_that_does_not_tell_instances() -> None:
    models = validator(Server([catalog(ModelInfo("local"), source="/v1/models")]))

    choice = await models.resolve("local")

    assert choice.answers_as("/models/some-file.gguf")
