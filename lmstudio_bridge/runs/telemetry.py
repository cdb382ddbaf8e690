"""OpenTelemetry of runs, by the semantic conventions for generative AI: for those who set its variables.

`OTEL_EXPORTER_OTLP_ENDPOINT`, or that of one signal, names a receiver of OTLP over HTTP; the packages come with the
extra `otel`. Without both nothing of OpenTelemetry's SDK is imported. A run is a span `invoke_agent` with the spans
`chat` and `execute_tool` of its rounds and calls. Its parent is what the host's `traceparent` names: the MCP SDK (2.3)
makes that the current context of a call.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from lmstudio_bridge import DOCS, __version__, events
from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.text import one_line

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

logger = logging.getLogger(__name__)

_SIGNALS = ("TRACES", "METRICS")
_PROTOCOLS = ("", "http/protobuf")  # which is also the default
_FLUSH_LIMIT = 1.0  # seconds for the last spans, and for the last metrics, when the bridge ends
_EXPORT_DELAY = 1_000  # milliseconds until spans are sent; Claude Code ends its servers within one second
_CONTENT = ("true", "1", "span_only", "span_and_event")
_TOKEN_BUCKETS = [float(4**power) for power in range(14)]
_SECOND_BUCKETS = [0.01 * 2**power for power in range(14)]
"""Both as the conventions have them."""


def wanted_signals(environ: Mapping[str, str]) -> list[str]:
    """Which of traces and metrics are sent: those that the variables ask for, by a protocol that there is."""
    return [signal for signal, protocol in _asked_signals(environ).items() if protocol in _PROTOCOLS]


def telemetry_problem(environ: Mapping[str, str]) -> SettingsError | None:
    """Why something that the variables ask for is not sent."""
    asked = _asked_signals(environ)
    unsent = {signal.lower(): protocol for signal, protocol in asked.items() if protocol not in _PROTOCOLS}
    if unsent:
        protocols = " and ".join(dict.fromkeys(map(one_line, unsent.values())))
        return SettingsError(
            f"No {' and '.join(unsent)} are sent: OpenTelemetry's protocol {protocols} is not supported.",
            remedy="Set OTEL_EXPORTER_OTLP_PROTOCOL to http/protobuf, and the endpoint to the receiver's port for HTTP "
            "(usually 4318).",
        )
    if asked and not _is_installed():
        return SettingsError(
            f"No {' and '.join(map(str.lower, asked))} are sent: the extra lmstudio-bridge[otel] is not installed.",
            remedy=f"See {DOCS}/privacy.md.",
        )
    return None


def _asked_signals(environ: Mapping[str, str]) -> dict[str, str]:
    """The signals that have a receiver, each with its protocol."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return {}

    def otlp(signal: str, name: str) -> str:
        return environ.get(f"OTEL_EXPORTER_OTLP_{signal}_{name}") or environ.get(f"OTEL_EXPORTER_OTLP_{name}", "")

    return {
        signal: otlp(signal, "PROTOCOL")
        for signal in _SIGNALS
        if otlp(signal, "ENDPOINT") and "otlp" in re.split(r"[,\s]+", environ.get(f"OTEL_{signal}_EXPORTER") or "otlp")
    }


def _is_installed() -> bool:
    try:
        return all(map(find_spec, ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")))
    except ModuleNotFoundError:  # the package in which it would be
        return False


@asynccontextmanager
async def open_telemetry(environ: Mapping[str, str]) -> AsyncIterator[Telemetry | None]:
    """What watches runs, or None if nothing is asked for; leaving sends what is left, within a bound.

    OpenTelemetry itself reads the variables of the process, which `environ` must be.
    """
    wanted = wanted_signals(environ)
    providers: list[Any] = []
    telemetry = None
    if problem := telemetry_problem(environ):
        logger.warning("%s", problem.explain())
    if wanted and _is_installed():
        try:
            telemetry, providers = await anyio.to_thread.run_sync(_make, environ, wanted)
        except ValueError as exc:  # OpenTelemetry reads its variables strictly
            logger.warning("no telemetry, because a variable of OpenTelemetry is invalid: %s", exc)
    try:
        yield telemetry
    finally:
        ending = [threading.Thread(target=provider.shutdown, daemon=True) for provider in providers]
        for thread in ending:  # daemons, so that a receiver which does not answer keeps nothing running
            thread.start()
        with anyio.CancelScope(shield=True):
            for thread in ending:
                await anyio.to_thread.run_sync(thread.join, _FLUSH_LIMIT)


def _make(environ: Mapping[str, str], wanted: list[str]) -> tuple[Telemetry, list[Any]]:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    logging.getLogger("opentelemetry.util.re").disabled = True  # it quotes an invalid header, which may hold a key
    named = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": "lmstudio-bridge"}
    resource = Resource.create({**named, "service.version": __version__})
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    if "TRACES" in wanted:
        delay = None if environ.get("OTEL_BSP_SCHEDULE_DELAY") else _EXPORT_DELAY
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=delay))
    readers = [PeriodicExportingMetricReader(OTLPMetricExporter())] if "METRICS" in wanted else []
    meters = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
    content = environ.get("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "").lower() in _CONTENT

    def flush() -> None:  # a signal may end the bridge before the next interval of the reader
        threading.Thread(target=meters.force_flush, daemon=True).start()

    return Telemetry(tracers, meters, content=content, flush=flush if readers else None), [tracers, meters]


class Telemetry:
    """Makes spans and metrics of runs; `content`: also with tasks, answers, arguments and results."""

    def __init__(
        self, tracers: TracerProvider, meters: MeterProvider, *, content: bool = False, flush: Any = None
    ) -> None:
        self.tracer = tracers.get_tracer("lmstudio_bridge", __version__)
        self.content = content
        self.flush = flush
        meter = meters.get_meter("lmstudio_bridge", __version__)
        self.tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", explicit_bucket_boundaries_advisory=_TOKEN_BUCKETS
        )
        self.seconds = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", explicit_bucket_boundaries_advisory=_SECOND_BUCKETS
        )

    def watch(self, emit: events.Emit | None) -> events.Emit:
        """A sink for the events of one run, whose secrets are taken out already; it passes them on to `emit`."""
        run = _RunSpans(self)

        async def watch_and_pass_on(event: events.Event) -> None:
            run.take(event)
            if emit:
                await emit(event)

        return watch_and_pass_on


class _RunSpans:
    """The open spans of one run."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._run: Span | None = None
        self._chat: Span | None = None
        self._calls: dict[str, Span] = {}
        self._id = self._model = ""
        self._used = [0, 0]  # tokens in and out

    def take(self, event: events.Event) -> None:
        """Begin or end what the event begins or ends."""
        match event:
            case events.RunStarted() | events.RunContinued():
                self._id = event.run_id
                agent = (event.agent if isinstance(event, events.RunStarted) else "") or "lmstudio-bridge"
                self._run = self._start("invoke_agent", agent, {"gen_ai.agent.name": agent})
                task = event.task if isinstance(event, events.RunStarted) else event.instructions
                self._add_content(self._run, "gen_ai.input.messages", _message("user", task))
            case events.ModelChosen(model=model):
                self._model = model
            case events.RoundStarted():
                self._end(self._chat, "asked_again")
                self._chat = self._start("chat", self._model, {"gen_ai.request.model": self._model}, client=True)
            case events.RetryScheduled(attempt=attempt) if self._chat:
                self._chat.add_event("retry", {"attempt": attempt})
            case events.RoundFinished():
                self._end_chat(event)
            case events.CallStarted():
                self._calls[event.call_id] = call = self._start_call(event)
                self._add_content(call, "gen_ai.tool.call.arguments", event.arguments)
            case events.CallFinished():
                call = self._calls.pop(event.call_id) if event.call_id in self._calls else self._start_call(event)
                self._add_content(call, "gen_ai.tool.call.result", event.text)
                self._end(call, (event.verdict if not event.sent else "") or "tool_error" if event.is_error else "")
                if event.sent:
                    self._measure("execute_tool", event.seconds, {"gen_ai.tool.name": event.tool})
            case events.RunFinished():
                self._end_run(event)
            case _:
                pass

    def _start(self, operation: str, name: str, attributes: Mapping[str, Any], *, client: bool = False) -> Span:
        from opentelemetry.trace import SpanKind, set_span_in_context

        about = {**_about(operation), "gen_ai.conversation.id": self._id, **attributes}
        parent = set_span_in_context(self._run) if self._run else None  # None: the current context, the host's
        kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
        return self._telemetry.tracer.start_span(f"{operation} {name}", parent, kind, about)

    def _start_call(self, event: events.CallStarted | events.CallFinished) -> Span:
        tool = event.tool if event.server else "unknown"  # else the name of a tool that there is not: a model's words
        about = {"gen_ai.tool.name": tool, "gen_ai.tool.call.id": event.call_id, "mcp.server": event.server}
        return self._start("execute_tool", tool, about)

    def _end_chat(self, event: events.RoundFinished) -> None:
        chat, self._chat = self._chat, None
        if chat is None:
            return
        models = {"gen_ai.request.model": self._model, "gen_ai.response.model": event.model}
        chat.set_attributes({**models, "gen_ai.response.finish_reasons": [event.finish_reason]})
        if event.usage:
            counts = (event.usage.prompt_tokens, event.usage.completion_tokens)
            for index, (kind, count) in enumerate(zip(("input", "output"), counts, strict=True)):
                self._used[index] += count
                chat.set_attribute(f"gen_ai.usage.{kind}_tokens", count)
                self._telemetry.tokens.record(count, {**_about("chat"), **models, "gen_ai.token.type": kind})
        self._add_content(chat, "gen_ai.output.messages", _message("assistant", event.text))
        self._end(chat)
        self._measure("chat", event.seconds, models)

    def _end_run(self, event: events.RunFinished) -> None:
        for open_span in (self._chat, *self._calls.values()):
            self._end(open_span, event.stop)
        if self._run is None:
            return
        used = {"gen_ai.usage.input_tokens": self._used[0], "gen_ai.usage.output_tokens": self._used[1]}
        self._run.set_attributes({**used, "gen_ai.request.model": self._model, "lmstudio_bridge.stop": event.stop})
        self._add_content(self._run, "gen_ai.output.messages", _message("assistant", event.answer))
        self._end(self._run, "" if event.stop == "answered" else event.stop)
        self._measure("invoke_agent", event.seconds, {"gen_ai.request.model": self._model})
        if self._telemetry.flush:
            self._telemetry.flush()

    def _end(self, span: Span | None, error: str = "") -> None:
        from opentelemetry.trace import StatusCode

        if span is None:
            return
        if error:
            span.set_attribute("error.type", error)
            span.set_status(StatusCode.ERROR)
        span.end()

    def _measure(self, operation: str, seconds: float, attributes: Mapping[str, str]) -> None:
        self._telemetry.seconds.record(seconds, {**_about(operation), **attributes})

    def _add_content(self, span: Span, name: str, text: str) -> None:
        if self._telemetry.content and text:
            span.set_attribute(name, text)


def _about(operation: str) -> dict[str, str]:
    return {"gen_ai.operation.name": operation, "gen_ai.provider.name": "lm_studio"}


def _message(role: str, text: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}], ensure_ascii=False)
