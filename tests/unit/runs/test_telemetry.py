"""Runs as OpenTelemetry sees them: spans, metrics, and no content unless it is asked for."""

from __future__ import annotations

import pytest

from lmstudio_bridge.events import (
    CallFinished,
    CallStarted,
    Event,
    ModelChosen,
    RoundFinished,
    RoundStarted,
    RunFinished,
    RunStarted,
)
from lmstudio_bridge.messages import Usage
from lmstudio_bridge.runs.telemetry import Telemetry, open_telemetry, telemetry_problem, wanted_signals
from tests.support.fakes import Recorder

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
EVENTS: tuple[Event, ...] = (
    RunStarted("r1", "The task.", ("fs",), 5, ""),
    ModelChosen("qwen", True, 8_192),
    RoundStarted(1, 5, 3),
    RoundFinished(1, "Thought.", "", (), "tool_calls", "qwen:2", Usage(100, 20), 1.5),
    CallStarted(1, "c1", "fs", "read", '{"path": "private.txt"}'),
    CallFinished(1, "c1", "fs", "read", "What was read.", False, True, 0.5, "allowed"),
    CallFinished(1, "c2", "fs", "write", "Not allowed.", True, False, 0, "needs_write"),
    RoundStarted(2, 5, 3),
    RunFinished("deadline", "The answer.", "", 3.0),
)


class Observed:
    """What came of these events."""

    def __init__(self, *, content: bool = False) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.telemetry = Telemetry(tracers, MeterProvider([self.reader]), content=content)
        self.passed = Recorder()

    async def tell(self, *events: Event) -> None:
        emit = self.telemetry.watch(self.passed.emit)
        for event in events:
            await emit(event)

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def points(self, name: str) -> list[tuple[str, float]]:
        """Operation, or the kind of token, and sum of each point of a metric."""
        data = self.reader.get_metrics_data()
        assert data is not None
        [metric] = [
            metric
            for each in data.resource_metrics
            for scope in each.scope_metrics
            for metric in scope.metrics
            if metric.name == name
        ]
        found = []
        for point in metric.data.data_points:
            attributes = dict(point.attributes or {})
            key = attributes.get("gen_ai.token.type") or attributes["gen_ai.operation.name"]
            found.append((str(key), float(getattr(point, "sum", 0))))
        return sorted(found)


async def test_a_run_is_a_tree_of_spans_with_tokens_and_errors() -> None:
    observed = Observed()
    await observed.tell(*EVENTS)

    spans = observed.spans()
    run, chat, call, refused = (
        spans[name] for name in ("invoke_agent lmstudio-bridge", "chat qwen", "execute_tool read", "execute_tool write")
    )
    assert len(observed.exporter.get_finished_spans()) == 5
    assert run.parent is None
    assert {span.parent.span_id for span in (chat, call, refused) if span.parent} == {run.context.span_id}
    first = observed.exporter.get_finished_spans()[0].attributes or {}
    assert (first["gen_ai.usage.input_tokens"], first["gen_ai.response.model"]) == (100, "qwen:2")
    assert (run.attributes or {})["gen_ai.usage.output_tokens"] == 20
    errors = [(span.attributes or {}).get("error.type") for span in (run, chat, call, refused)]
    assert errors == ["deadline", "deadline", None, "needs_write"]
    assert observed.points("gen_ai.client.token.usage") == [("input", 100.0), ("output", 20.0)]
    assert observed.points("gen_ai.client.operation.duration") == [
        ("chat", 1.5),
        ("execute_tool", 0.5),
        ("invoke_agent", 3.0),
    ]
    assert observed.passed.events == list(EVENTS)


@pytest.mark.parametrize("content", [False, True])
async def test_content_is_there_only_if_it_is_asked_for(content: bool) -> None:
    observed = Observed(content=content)
    unknown = CallFinished(1, "c3", "", "tell_private_txt", "No such tool.", True, False, 0)
    await observed.tell(*EVENTS[:-1], unknown, EVENTS[-1])

    told = "".join(span.to_json() for span in observed.exporter.get_finished_spans())
    assert "tell_private_txt" not in told
    texts = ("The task.", "Thought.", "private.txt", "What was read.", "The answer.")
    assert [text in told for text in texts] == [content] * len(texts)


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, []),
        (ENDPOINT, ["TRACES", "METRICS"]),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://localhost/v1/metrics"}, ["METRICS"]),
        ({**ENDPOINT, "OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "console, otlp"}, ["TRACES"]),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "console"}, ["METRICS"]),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "", "OTEL_METRICS_EXPORTER": "none"}, ["TRACES"]),  # empty is unset
        ({**ENDPOINT, "OTEL_SDK_DISABLED": " True "}, []),  # OpenTelemetry strips it, too
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, []),
        (
            {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            ["TRACES"],
        ),
    ],
)
def test_variables_say_what_is_sent(environ: dict[str, str], wanted: list[str]) -> None:
    assert wanted_signals(environ) == wanted


@pytest.mark.parametrize(
    ("environ", "unsent"),
    [
        ({}, ""),
        (ENDPOINT, ""),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ""),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ""),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_SDK_DISABLED": "true"}, ""),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "No traces and metrics are sent: "),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc"}, "No metrics are sent: "),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "protocol http/json is not supported"),
    ],
)
async def test_what_is_asked_for_and_not_sent_is_said_once(
    environ: dict[str, str], unsent: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_telemetry(environ):
        pass

    problem = telemetry_problem(environ)
    assert unsent in (problem.message if problem else "")
    assert [record.getMessage() for record in caplog.records if "are sent" in record.getMessage()] == (
        [problem.explain()] if problem else []
    )


async def test_nothing_is_watched_unless_a_receiver_is_named() -> None:
    async with open_telemetry({}) as telemetry:
        assert telemetry is None


async def test_invalid_variables_cost_the_telemetry_and_not_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many")

    async with open_telemetry(ENDPOINT) as telemetry:
        assert telemetry is None


async def test_key_in_an_invalid_header_is_not_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key very-secret-key")

    async with open_telemetry(ENDPOINT) as telemetry:
        assert telemetry is not None
    assert "very-secret-key" not in caplog.text
