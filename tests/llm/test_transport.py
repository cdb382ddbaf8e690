"""Bytes to and from a server: what is sent along, what is never followed, and how much is read."""

from __future__ import annotations

import pytest

from lmstudio_bridge.errors import LLMResponseError, WrongEndpointError
from lmstudio_bridge.llm.transport import open_transport
from tests.llm.clients import within
from tests.lmstudio_sim.replies import HttpReply
from tests.lmstudio_sim.server import open_simulator

PATH = "/v1/models"


@pytest.mark.parametrize(("size", "allowed"), [(99, True), (100, True), (101, False)])
async def test_a_whole_reply_may_be_as_large_as_the_limit(size: int, allowed: bool) -> None:
    body = b'"' + b"x" * (size - 2) + b'"'
    async with open_simulator() as sim, open_transport(sim.url, max_body_bytes=100) as transport:
        sim.script_path(PATH, HttpReply(200, body))

        if allowed:
            assert await within(transport.request("GET", PATH)) == body
        else:
            with pytest.raises(LLMResponseError, match="larger than 100 bytes"):
                await within(transport.request("GET", PATH))


async def test_a_redirect_is_not_followed_with_the_token() -> None:
    async with open_simulator() as elsewhere, open_simulator() as sim:
        async with open_transport(sim.url, api_token="sk-lm-x") as transport:
            sim.script_path(PATH, HttpReply(307, "Moved.", {"Location": f"{elsewhere.url}{PATH}"}))

            with pytest.raises(WrongEndpointError):
                await within(transport.request("GET", PATH))

        assert elsewhere.requests == []


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_simulator() as proxy, open_simulator() as sim:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        async with open_transport(sim.url) as transport:
            await within(transport.request("GET", PATH))

        assert (len(sim.requests), proxy.requests) == (1, [])


@pytest.mark.parametrize(("token", "header"), [("sk-lm-x", "Bearer sk-lm-x"), ("", None), (None, None)])
async def test_a_token_is_sent_if_there_is_one(token: str | None, header: str | None) -> None:
    async with open_simulator() as sim, open_transport(sim.url, api_token=token) as transport:
        await within(transport.request("GET", PATH))

        assert sim.requests[0].headers.get("authorization") == header
