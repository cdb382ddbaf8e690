"""Which failed requests are retried, when, and for how long: `@retry_with_backoff`, on tenacity.

What may be retried is decided where the error is raised (`LLMError.retryable`), never here.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from lmstudio_bridge.errors import LLMError, LLMRateLimitError
from lmstudio_bridge.messages import OnRetry, Retry

Sleep: TypeAlias = Callable[[float], Awaitable[None]]
"""`asyncio.sleep`, or a fake in tests."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often to try, and how long to wait in between.

    The pause before try `n + 1` is `min(cap, base * 2 ** (n - 1))` seconds, less a random share of
    up to `jitter`. The server's `Retry-After`, if there is one, replaces it. There is no retry
    that would begin more than `total` seconds after the start.
    """

    attempts: int = 3
    base: float = 1.0  # seconds
    cap: float = 30.0  # seconds
    jitter: float = 0.25  # share of the pause, so that clients do not retry in step
    rate_limit_attempts: int = 5
    rate_limit_cap: float = 15.0  # seconds; also the cap of Retry-After
    total: float = 120.0  # seconds

    def pause(self, error: LLMError, *, attempt: int, uniform: Callable[[], float]) -> float:
        """Seconds to wait after the failed try number `attempt` (from 1)."""
        cap = self.rate_limit_cap if isinstance(error, LLMRateLimitError) else self.cap
        if error.retry_after is not None:
            return min(cap, max(0.0, error.retry_after))
        return min(cap, self.base * 2.0 ** (attempt - 1)) * (1 - self.jitter * uniform())


class HasRetryPolicy(Protocol):
    """What an object must carry so that its methods can be decorated."""

    retry_policy: RetryPolicy
    retry_sleep: Sleep
    retry_clock: Callable[[], float]


def retry_with_backoff(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Retry an async method after failures that are `retryable`.

    The policy, the sleep and the clock are the object's own (`HasRetryPolicy`). A keyword argument `on_retry` of the
    method, if given, is called before each pause. The error of the last try is raised, no longer marked as retryable.
    """

    @wraps(method)
    async def retried(*args: P.args, **kwargs: P.kwargs) -> T:
        owner: HasRetryPolicy = args[0]  # type: ignore[assignment]  # a decorated method's first argument is its object
        on_retry: OnRetry | None = kwargs.get("on_retry")  # type: ignore[assignment]  # by name, if the method has it
        policy, clock = owner.retry_policy, owner.retry_clock
        started = clock()

        def wait(state: RetryCallState) -> float:
            return policy.pause(_error_of(state), attempt=state.attempt_number, uniform=random.random)

        def stop(state: RetryCallState) -> bool:
            is_limit = isinstance(_error_of(state), LLMRateLimitError)
            elapsed = clock() - started + state.upcoming_sleep
            attempts = policy.rate_limit_attempts if is_limit else policy.attempts
            return state.attempt_number >= attempts or elapsed > policy.total

        async def before_sleep(state: RetryCallState) -> None:
            if on_retry is not None:
                await on_retry(Retry(state.attempt_number, state.upcoming_sleep, _error_of(state)))

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda exc: isinstance(exc, LLMError) and exc.retryable),
            wait=wait,
            stop=stop,
            before_sleep=before_sleep,
            sleep=owner.retry_sleep,
            reraise=True,
        )
        try:
            return await retrying(method, *args, **kwargs)
        except LLMError as exc:
            exc.retryable = False  # an outer retry would multiply the tries
            raise

    return retried


def _error_of(state: RetryCallState) -> LLMError:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert isinstance(error, LLMError)
    return error
