"""OpenTelemetry of a run as a receiver of OTLP over HTTP gets it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.desk import MODEL, open_desk
from tests.support.raw_client import modern_meta

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

pytestmark = pytest.mark.npm

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TOKEN = "sk-lm-0123456789abcdef"


@asynccontextmanager
async def open_receiver() -> AsyncIterator[tuple[str, list[tuple[str, bytes]]]]:
    """Its address, and the path and body of what it got."""
    got: list[tuple[str, bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        [length] = [line.split(":")[1] for line in head.split("\r\n") if line.lower().startswith("content-length:")]
        got.append((head.split(" ")[1], await reader.readexactly(int(length))))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", got


async def test_a_run_is_traced_below_the_hosts_span_without_secrets(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk, open_receiver() as (address, got):
        desk.script_reading()
        async with desk.bridge(
            "2026-07-28",
            OTEL_EXPORTER_OTLP_ENDPOINT=address,
            OTEL_EXPORTER_OTLP_COMPRESSION="none",
            OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="true",
            LM_API_TOKEN=TOKEN,
        ) as client:
            arguments = {"mcp_name": "filesystem", "task": f"Which code word has notes.txt? Not {TOKEN}."}
            meta = {**modern_meta(), "traceparent": f"00-{TRACE}-{PARENT}-01"}
            call = {"name": "autonomous_with_mcp", "arguments": arguments, "_meta": meta}
            await client.send_request("call", "tools/call", call)
            await client.result_of("call")
            assert await client.close_stdin() == 0

    requests = [ExportTraceServiceRequest.FromString(body) for path, body in got if path == "/v1/traces"]
    spans = [
        span for each in requests for part in each.resource_spans for scope in part.scope_spans for span in scope.spans
    ]
    [run] = [span for span in spans if span.name == "invoke_agent lmstudio-bridge"]
    assert (run.trace_id.hex(), run.parent_span_id.hex()) == (TRACE, PARENT)
    assert sorted(span.name for span in spans if span.parent_span_id == run.span_id) == [
        *[f"chat {MODEL}"] * 2,
        "execute_tool read_text_file",
    ]
    sent = b"".join(body for _, body in got)
    assert b"heron-42" in sent
    assert b"gen_ai.client.token.usage" in sent
    assert TOKEN.encode() not in sent
