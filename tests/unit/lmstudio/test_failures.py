"""Every known failure gets its class, keeps the server's words, says what to do, and is retried or not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge import errors
from lmstudio_bridge.lmstudio.client import LLMClient, open_client
from lmstudio_bridge.lmstudio.failures import MAX_DETAIL, error_from_response, error_from_text, parse_retry_after
from lmstudio_bridge.messages import ChatRequest, Completion
from tests.unit.lmstudio.clients import NO_JITTER, QUESTION, QWEN, FakeTime, within
from tests.unit.lmstudio.failure_table import FAILURES, Failure
from tests.unit.lmstudio.stream_table import OVERFLOW_TOKENS, STREAMED_FAILURES

CHAT = "/v1/chat/completions"
ROOT = "http://127.0.0.1:1234"
URL = ROOT + CHAT
NOON = datetime(2026, 10, 1, 12, 0, 0, tzinfo=UTC)

each_failure = pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)


def check_explanation(error: errors.LLMError, failure: Failure) -> None:
    told = error.explain()
    assert failure.words[:MAX_DETAIL] in told
    assert error.remedy
    assert error.remedy in told


def tries_of(failure: Failure) -> int:
    if not failure.retryable:
        return 1
    return NO_JITTER.rate_limit_attempts if failure.error is errors.LLMRateLimitError else NO_JITTER.attempts


# -- what a reply stands for ----------------------------------------------------------------------------------------


@each_failure
def test_a_failed_reply_becomes_the_error_of_its_class(failure: Failure) -> None:
    error = error_from_response(failure.status, failure.body, url=URL, model="m")

    assert error is not None
    assert (type(error), error.kind, error.retryable) == (failure.error, failure.kind, failure.retryable)
    assert (error.url, error.model, error.status) == (URL, "m", failure.status)
    check_explanation(error, failure)


@pytest.mark.parametrize(("text", "needed", "available"), OVERFLOW_TOKENS)
def test_an_overflow_tells_the_tokens_that_the_server_names(
    text: str, needed: int | None, available: int | None
) -> None:
    error = error_from_text(text, url=URL)

    assert isinstance(error, errors.ContextOverflowError)
    assert (error.needed, error.available) == (needed, available)


def test_an_overflow_of_llama_cpp_tells_the_tokens_of_its_own_fields() -> None:
    body = {"error": {"code": 400, "message": "exceeds the available context size", "n_prompt_tokens": 9, "n_ctx": 8}}

    error = error_from_response(400, json.dumps(body).encode(), url=URL)

    assert isinstance(error, errors.ContextOverflowError)
    assert (error.needed, error.available) == (9, 8)


@pytest.mark.parametrize(
    "body",
    [{"choices": []}, {"error": None, "output": []}, {"error": "", "data": []}, {"type": "message"}, [1], {}],
    ids=str,
)
def test_a_success_is_no_error(body: object) -> None:
    assert error_from_response(200, json.dumps(body).encode(), url=URL) is None


@pytest.mark.parametrize(("length", "kept"), [(MAX_DETAIL - 1, -1), (MAX_DETAIL, 0), (MAX_DETAIL + 1, 0)])
def test_the_servers_words_are_kept_up_to_a_limit(length: int, kept: int) -> None:
    assert len(error_from_text("x" * length, url=URL).detail) == MAX_DETAIL + kept


def test_rules_look_at_words_beyond_what_is_kept() -> None:
    assert isinstance(error_from_text("x" * MAX_DETAIL + " context length", url=URL), errors.ContextOverflowError)


@given(st.integers(100, 599), st.one_of(st.binary(), st.text().map(str.encode)), st.one_of(st.none(), st.text()))
def test_whatever_a_server_sends_is_a_success_or_one_of_our_errors(
    status: int, body: bytes, retry_after: str | None
) -> None:
    error = error_from_response(status, body, url=URL, retry_after=retry_after, now=NOON)

    assert error is None or isinstance(error, errors.BridgeError)
    assert error is None or error.remedy


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["error", "message", "code", "type", "detail"]), inner)
    ),
    max_leaves=8,
)


@given(st.sampled_from([200, 400, 404, 429, 500]), json_values)
def test_an_error_of_any_shape_is_one_of_ours(status: int, body: object) -> None:
    error = error_from_response(status, json.dumps(body).encode(), url=URL)

    assert error is None or isinstance(error.explain(), str)
    assert error is not None or status == 200


# -- Retry-After ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        ("1.5", 1.5),
        ("0", 0.0),
        ("-3", 0.0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Thu, 01 Oct 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Oct 2026 12:00:30", 30.0),
        ("Thu, 01 Oct 2026 11:59:00 GMT", 0.0),
        ("Thu, 99 Oct 2026 11:59:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value: str | None, seconds: float | None) -> None:
    """RFC 9110, 10.2.3."""
    assert parse_retry_after(value, now=NOON) == seconds


@given(st.text())
def test_retry_after_never_breaks(value: str) -> None:
    seconds = parse_retry_after(value, now=NOON)

    assert seconds is None or seconds >= 0


def test_retry_after_of_a_busy_gateway_is_kept() -> None:
    error = error_from_response(503, b'{"error":"overloaded"}', url=URL, retry_after="4")

    assert isinstance(error, errors.ServerBusyError)
    assert error.retry_after == 4.0


# -- over HTTP ------------------------------------------------------------------------------------------------------


async def ask(client: LLMClient) -> Completion:
    return await within(client.stream_chat_completion(ChatRequest(QUESTION), model=QWEN))


@asynccontextmanager
async def open_fast_client() -> AsyncIterator[LLMClient]:
    async with open_client(ROOT, retry_policy=NO_JITTER, sleep=FakeTime().sleep) as client:
        yield client


@each_failure
async def test_failed_reply_to_a_stream_request_is_retried_only_if_that_helps(
    failure: Failure, respx_mock: respx.MockRouter
) -> None:
    headers = {"Content-Type": failure.content_type}
    route = respx_mock.post(URL).respond(failure.status, content=failure.body, headers=headers)
    async with open_fast_client() as client:
        with pytest.raises(errors.LLMError) as caught:
            await ask(client)

    assert (type(caught.value), route.call_count) == (failure.error, tries_of(failure))
    assert (caught.value.url, caught.value.model) == (URL, QWEN)
    check_explanation(caught.value, failure)


TOKEN = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"I"},"finish_reason":null}]}\n\n'


@pytest.mark.parametrize("failure", STREAMED_FAILURES, ids=lambda failure: failure.name)
async def test_error_in_a_stream_is_retried_only_if_that_helps_and_never_after_the_first_token(
    failure: Failure, respx_mock: respx.MockRouter
) -> None:
    headers = {"Content-Type": failure.content_type}
    route = respx_mock.post(URL).respond(content=failure.body, headers=headers)
    async with open_fast_client() as client:
        with pytest.raises(errors.LLMError) as before:
            await ask(client)

        assert (type(before.value), route.call_count) == (failure.error, tries_of(failure))
        assert (before.value.url, before.value.model) == (URL, QWEN)
        check_explanation(before.value, failure)

        calls = route.call_count
        route.respond(content=TOKEN + failure.body, headers=headers)
        with pytest.raises(errors.LLMError) as after:
            await ask(client)

    assert (type(after.value), after.value.retryable, route.call_count - calls) == (failure.error, False, 1)


Use = Callable[[LLMClient], Awaitable[object]]
USES: dict[str, tuple[str, Use, int]] = {
    "list_models": ("/v1/models", lambda client: client.list_models(), 3),
    "stream_chat_completion": (CHAT, ask, 3),
    "embed": ("/v1/embeddings", lambda client: client.embed(["x"], model=QWEN), 1),
}


@pytest.mark.parametrize(("path", "use", "tries"), USES.values(), ids=USES)
async def test_every_method_checks_what_a_200_holds_and_those_that_a_run_needs_retry_when_the_server_is_busy(
    path: str, use: Use, tries: int, respx_mock: respx.MockRouter
) -> None:
    respx_mock.get(path__regex="^/api/v[01]/models$").respond(404, json={})
    route = respx_mock.route(path=path)
    async with open_fast_client() as client:
        for body in ({"error": "Unexpected endpoint or method. (POST /x)"}, {"status": "ok"}):
            route.respond(json=body)
            with pytest.raises(errors.WrongEndpointError) as caught:
                await within(use(client))

            assert next(iter(body.values())) in caught.value.explain()
            assert caught.value.url == ROOT + path

        calls = route.call_count
        route.respond(503, json={"error": "overloaded"})
        with pytest.raises(errors.ServerBusyError):
            await within(use(client))

    assert route.call_count - calls == tries
