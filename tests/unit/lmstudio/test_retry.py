"""Failures that say so are tried again: how often, after which pauses, how long, and what comes out in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge import errors
from lmstudio_bridge.lmstudio.retry import RetryPolicy, Sleep, retry_with_backoff
from lmstudio_bridge.messages import OnRetry, Retry
from tests.unit.lmstudio.clients import FakeTime

GONE = errors.LLMConnectionError("gone")
LIMITED = errors.LLMRateLimitError("slow down")


def limited(seconds: float | None) -> errors.LLMRateLimitError:
    return errors.LLMRateLimitError("slow down", retry_after=seconds)


def gone() -> errors.LLMError:
    return errors.LLMConnectionError("gone")


@dataclass(slots=True)
class Caller:
    """Something with a retried method that fails as scripted, and then succeeds."""

    failures: list[Exception]
    time: FakeTime = field(default_factory=FakeTime)
    retry_policy: RetryPolicy = field(default_factory=lambda: RetryPolicy(jitter=0.0))
    try_seconds: float = 0.0
    tries: int = 0

    @property
    def retry_sleep(self) -> Sleep:
        return self.time.sleep

    @property
    def retry_clock(self) -> Callable[[], float]:
        return self.time.clock

    @retry_with_backoff
    async def call(self, word: str, *, on_retry: OnRetry | None = None) -> str:
        """Says its word back."""
        self.tries += 1
        self.time.now += self.try_seconds
        if self.failures:
            raise self.failures.pop(0)
        return word

    @retry_with_backoff
    async def call_through(self) -> str:
        return await self.call("yes")


# -- the formula ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 16.0), (6, 30.0), (7, 30.0), (60, 30.0)]
)
def test_pauses_double_up_to_their_cap(attempt: int, seconds: float) -> None:
    assert RetryPolicy().pause(GONE, attempt=attempt, uniform=lambda: 0.0) == seconds


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1.0), (4, 8.0), (5, 15.0), (6, 15.0)])
def test_pauses_after_a_limit_have_a_cap_of_their_own(attempt: int, seconds: float) -> None:
    assert RetryPolicy().pause(LIMITED, attempt=attempt, uniform=lambda: 0.0) == seconds


@pytest.mark.parametrize(("drawn", "seconds"), [(0.0, 4.0), (0.5, 3.5), (1.0, 3.0)])
def test_jitter_takes_away_up_to_its_share(drawn: float, seconds: float) -> None:
    assert RetryPolicy(jitter=0.25).pause(GONE, attempt=3, uniform=lambda: drawn) == seconds


@given(st.integers(1, 100), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_a_pause_stays_between_its_share_and_its_cap(attempt: int, drawn: float, jitter: float, rate: bool) -> None:
    policy = RetryPolicy(jitter=jitter)
    error: errors.LLMError = LIMITED if rate else GONE
    whole = min(policy.rate_limit_cap if rate else policy.cap, policy.base * 2.0 ** (attempt - 1))

    pause = policy.pause(error, attempt=attempt, uniform=lambda: drawn)

    assert whole * (1 - jitter) <= pause <= whole


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (limited(0.0), 0.0),
        (limited(7.0), 7.0),
        (limited(15.0), 15.0),
        (limited(15.1), 15.0),
        (limited(-1.0), 0.0),
        (errors.ServerBusyError("busy", retry_after=29.0), 29.0),
        (errors.ServerBusyError("busy", retry_after=31.0), 30.0),
    ],
)
def test_retry_after_replaces_the_pause_up_to_the_cap(error: errors.LLMError, seconds: float) -> None:
    assert RetryPolicy().pause(error, attempt=1, uniform=lambda: 1.0) == seconds


# -- how often ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", range(7))
@pytest.mark.parametrize(("make", "most"), [(gone, 3), (lambda: limited(None), 5)], ids=["gone", "limited"])
async def test_a_passing_failure_gets_three_tries_and_a_limit_five(
    make: Callable[[], errors.LLMError], most: int, failures: int
) -> None:
    caller = Caller([make() for _ in range(failures)])

    if failures < most:
        assert await caller.call("yes") == "yes"
    else:
        with pytest.raises(type(make())):
            await caller.call("yes")
    tries = min(failures + 1, most)
    assert (caller.tries, caller.time.slept) == (tries, [1.0, 2.0, 4.0, 8.0][: tries - 1])


async def test_a_single_try_is_possible() -> None:
    caller = Caller([gone()], retry_policy=RetryPolicy(attempts=1))

    with pytest.raises(errors.LLMConnectionError):
        await caller.call("yes")

    assert (caller.tries, caller.time.slept) == (1, [])


@pytest.mark.parametrize(
    "error",
    [
        errors.ModelLostError("lost"),
        errors.LLMTimeoutError("silent"),
        errors.LLMConnectionError("gone", retryable=False),
        ValueError("ours"),
    ],
    ids=repr,
)
async def test_other_failures_come_out_at_once(error: Exception) -> None:
    caller = Caller([error])

    with pytest.raises(type(error)) as caught:
        await caller.call("yes")

    assert caught.value is error
    assert (caller.tries, caller.time.slept) == (1, [])


async def test_the_error_of_the_last_try_comes_out_and_is_done_with_retries() -> None:
    failures = [errors.LLMConnectionError(f"gone {number}") for number in (1, 2, 3)]
    caller = Caller([*failures])

    with pytest.raises(errors.LLMConnectionError) as caught:
        await caller.call("yes")

    assert caught.value is failures[2]
    assert caught.value.retryable is False


async def test_a_retried_method_that_calls_another_does_not_multiply_the_tries() -> None:
    caller = Caller([gone() for _ in range(20)])

    with pytest.raises(errors.LLMConnectionError):
        await caller.call_through()

    assert caller.tries == 3


# -- how long -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "tries"), [(2.9, 2), (3.0, 3), (3.1, 3)])
async def test_no_try_begins_later_than_the_total(total: float, tries: int) -> None:
    caller = Caller([gone() for _ in range(9)], retry_policy=RetryPolicy(jitter=0.0, total=total))

    with pytest.raises(errors.LLMConnectionError):
        await caller.call("yes")

    assert (caller.tries, caller.time.slept) == (tries, [1.0, 2.0][: tries - 1])


async def test_the_time_of_the_tries_counts_too() -> None:
    caller = Caller([gone() for _ in range(9)], try_seconds=60.0)

    with pytest.raises(errors.LLMConnectionError):
        await caller.call("yes")

    assert (caller.tries, caller.time.slept) == (2, [1.0])


# -- who is told ----------------------------------------------------------------------------------------------------


async def test_each_retry_is_told_before_its_pause() -> None:
    first, second = limited(5.0), gone()
    caller = Caller([first, second])
    told: list[tuple[Retry, list[float]]] = []

    async def on_retry(retry: Retry) -> None:
        told.append((retry, [*caller.time.slept]))

    await caller.call("yes", on_retry=on_retry)

    assert told == [(Retry(1, 5.0, first), []), (Retry(2, 2.0, second), [5.0])]
