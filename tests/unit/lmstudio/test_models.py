"""When the list of models is asked for again, and who shares the answer."""

from __future__ import annotations

import asyncio

import pytest

from lmstudio_bridge.errors import LLMConnectionError, LLMError, ModelNotFoundError
from lmstudio_bridge.lmstudio.models import ModelCatalog, ModelValidator
from tests.unit.lmstudio.catalogs import GEMMA, QWEN, TTL, Server, catalog, validator
from tests.unit.lmstudio.clients import FakeTime, within

# -- the cached list ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age", "fetches"), [(TTL - 1, 1), (TTL, 2), (TTL + 1, 2)])
async def test_a_list_is_current_until_its_time_is_up(age: float, fetches: int) -> None:
    server, time = Server([catalog(QWEN)]), FakeTime()
    models = validator(server, time=time)

    await models.catalog()
    time.now += age

    assert await models.catalog() == catalog(QWEN)
    assert server.fetches == fetches


async def test_a_refresh_asks_even_if_the_clock_stood_still() -> None:
    """A clock of coarse ticks, as on Windows, may show the same time before and after."""
    server = Server([catalog(QWEN), catalog(QWEN, GEMMA)])
    models = validator(server)

    await models.catalog()

    assert await models.catalog(refresh=True) == catalog(QWEN, GEMMA)
    assert await models.catalog() == catalog(QWEN, GEMMA)
    assert server.fetches == 2


async def test_a_list_that_was_forgotten_is_asked_for_again() -> None:
    server = Server([catalog(QWEN), catalog(GEMMA)])
    models = validator(server)
    await models.catalog()

    models.forget()

    assert await models.catalog() == catalog(GEMMA)


async def test_a_list_that_was_under_way_when_it_was_forgotten_is_not_kept() -> None:
    server = Server([catalog(QWEN), catalog(GEMMA)], gate=(gate := asyncio.Event()))
    models = validator(server)
    first = asyncio.create_task(models.catalog())
    await within(server.asked.wait())

    models.forget()
    gate.set()

    assert await within(first) == catalog(QWEN)
    assert await models.catalog() == catalog(GEMMA)


async def start_waiters(models: ModelValidator, number: int) -> list[asyncio.Task[ModelCatalog]]:
    """Tasks that all wait for one list by the time this returns."""
    waiters = [asyncio.create_task(models.catalog()) for _ in range(number)]
    await asyncio.sleep(0)  # each runs to its first wait
    return waiters


async def test_fifty_waiters_share_one_fetch() -> None:
    server = Server([catalog(QWEN)], gate=(gate := asyncio.Event()))
    waiters = await start_waiters(validator(server), 50)
    assert (server.fetches, [each.done() for each in waiters]) == (1, [False] * 50)

    gate.set()

    assert await within(asyncio.gather(*waiters)) == [catalog(QWEN)] * 50
    assert server.fetches == 1


async def test_a_failing_fetch_is_shared_by_those_who_waited_and_not_cached() -> None:
    failure = LLMConnectionError("LM Studio is not reachable.")
    server = Server([failure, catalog(QWEN)], gate=(gate := asyncio.Event()))
    models = validator(server)
    waiters = await start_waiters(models, 50)

    gate.set()

    assert await within(asyncio.gather(*waiters, return_exceptions=True)) == [failure] * 50
    assert server.fetches == 1
    assert await models.catalog() == catalog(QWEN)


@pytest.mark.parametrize(("age", "fetches"), [(4, 1), (5, 2), (6, 2)])
async def test_a_caller_may_want_a_younger_list(age: float, fetches: int) -> None:
    server, time = Server([catalog(QWEN)]), FakeTime()
    models = validator(server, time=time)

    await models.catalog()
    time.now += age
    await models.catalog(max_age=5.0)

    assert server.fetches == fetches


@pytest.mark.parametrize("cancelled", [0, 1, 49])
async def test_a_waiter_that_is_cancelled_does_not_break_the_others(cancelled: int) -> None:
    server = Server([catalog(QWEN), catalog(GEMMA)], gate=(gate := asyncio.Event()))
    models = validator(server)
    waiters = await start_waiters(models, 50)

    waiters[cancelled].cancel()
    await within(asyncio.wait([waiters[cancelled]]))
    gate.set()

    others = [each for number, each in enumerate(waiters) if number != cancelled]
    assert await within(asyncio.gather(*others)) == [catalog(QWEN)] * 49
    assert waiters[cancelled].cancelled()
    assert server.fetches == (2 if cancelled == 0 else 1)


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_fetch_that_ends_without_a_list_does_not_hand_out_an_old_one(cancelled: bool) -> None:
    server = Server([catalog(QWEN), *([] if cancelled else [ZeroDivisionError()]), catalog(GEMMA)])
    models = validator(server)
    await models.catalog()
    models.forget()
    server.gate = asyncio.Event()
    first, second = await start_waiters(models, 2)

    if cancelled:
        first.cancel()
        await within(asyncio.wait([first]))
    server.gate.set()

    if not cancelled:
        with pytest.raises(ZeroDivisionError):
            await within(first)
    assert await within(second) == catalog(GEMMA)


# -- a name that is not in the list ---------------------------------------------------------------------------------


async def test_a_name_that_is_missing_from_a_cached_list_is_looked_up_in_a_fresh_one() -> None:
    server = Server([catalog(QWEN), catalog(QWEN, GEMMA)])
    models = validator(server)
    await models.catalog()

    assert (await models.resolve(GEMMA.key)).info == GEMMA
    assert server.fetches == 2


async def test_a_name_that_is_missing_from_a_fresh_list_is_refused_at_once() -> None:
    server = Server([catalog(QWEN)])

    with pytest.raises(ModelNotFoundError):
        await validator(server).resolve(GEMMA.key)

    assert server.fetches == 1


async def test_a_miss_while_the_server_is_down_says_that_it_is_down() -> None:
    failure = LLMConnectionError("LM Studio is not reachable.")
    server = Server([catalog(QWEN), failure])
    models = validator(server)
    await models.catalog()

    with pytest.raises(LLMError) as caught:
        await models.resolve(GEMMA.key)

    assert caught.value is failure
