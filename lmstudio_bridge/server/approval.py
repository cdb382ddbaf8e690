"""A run for a call of the host, which may have to ask the person first whether a call of its own may change something.

The question is a form elicitation of MCP. Up to the protocol of 2025-11-25 it is a request of ours while the call of
the host is open. In that of 2026-07-28 it is the answer to the call (`input_required`), and the host calls again with
what the person said; the run goes on in between.

Claude Code 2.1.332 declares elicitation in every session. It shows three lines of a question, also of a call in the
background, and one of a field's title; Esc is the answer `cancel`. With `-p` it answers `cancel` at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
from mcp import MCPError
from mcp.server.mcpserver import Context
from mcp.types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from mcp_types.version import is_version_at_least
from pydantic import ValidationError

from lmstudio_bridge.events import Emit, Event, RunStarted, Tally
from lmstudio_bridge.messages import Approval, ServerTool
from lmstudio_bridge.runs.progress import HEARTBEAT, open_progress
from lmstudio_bridge.text import as_shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

    from lmstudio_bridge.runs.report import RunReport
    from lmstudio_bridge.server.lifespan import App

logger = logging.getLogger(__name__)

ANSWER_LIMIT = 300.0  # seconds that the person has; the SDK takes an answer for twice as long
MAX_QUESTIONS = 8  # a run; clients call again at most ten times
MAX_ASKING = 100  # runs whose host may still call again
_SHOWN_VALUE = 600  # characters of an argument
_SHOWN_ARGUMENTS = 20
_SHOWN_NAME = 100
_WIDTH = 78  # Claude Code cuts words that are longer than its line
_WHERE = re.compile(r"path|file|folder|dir|source|dest|target|ur[il]", re.IGNORECASE)  # names of arguments
_INPUT_REQUIRED = "2026-07-28"  # the first protocol in which the question is an answer
_KEY = "approval"
_ALL_CALLS = "all_calls"


class HostedRun:
    """A run in a task of its own, which outlasts the call that started it while it waits for the person."""

    def __init__(
        self, context: Context[App, Any], *, heartbeat: float = HEARTBEAT, answer_limit: float = ANSWER_LIMIT
    ) -> None:
        self.task: asyncio.Task[RunReport] | None = None  # the run, set by who starts it
        self._context: Context[App, Any] | None = context  # of the call that is open now
        self._is_modern = is_version_at_least(context.protocol_version or "", _INPUT_REQUIRED)
        self._runs = context.request_context.lifespan_context.asking
        self._heartbeat = heartbeat
        self._show: Emit | None = None  # to the host, as progress of the open call
        self._tally = Tally()
        self._question: ElicitRequestFormParams | None = None
        self._asked = asyncio.Event()
        self._answer: asyncio.Future[ElicitResult | None] | None = None
        self._answer_limit = answer_limit
        self._count = 0
        self._refused = False
        self._allowed: set[tuple[str, str]] = set()  # server and tool

    @property
    def can_ask(self) -> bool:
        """Whether the host has said that it can show a form."""
        able = self._context.client_capabilities if self._context else None
        return bool(able and able.elicitation and (able.elicitation.form or not able.elicitation.url))

    async def emit(self, event: Event) -> None:
        self._tally.add(event)
        if self._show:
            await self._show(event)
        if isinstance(event, RunStarted) and self._context:  # its run is a resource now
            await self._context.notify_resources_changed()  # to hosts of the protocol 2026-07-28
            await self._context.session.send_resource_list_changed()  # to those before it

    async def attend(self, context: Context[App, Any]) -> RunReport | InputRequiredResult:
        """The report of the run, or its question: then the host calls again. If this is cancelled, so is the run.

        Raises:
            BridgeError: The run could not start.
        """
        assert self.task is not None
        self._context = context
        if self._answer is not None and not self._answer.done():
            given = (context.input_responses or {}).get(_KEY)
            self._answer.set_result(given if isinstance(given, ElicitResult) else None)

        async def send(counter: float, message: str) -> None:
            await context.report_progress(counter, None, as_shown(message))

        asked = asyncio.create_task(self._asked.wait())
        try:
            async with open_progress(send, heartbeat=self._heartbeat, tally=self._tally) as self._show:
                await asyncio.wait({self.task, asked}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.task.cancel()
            with anyio.CancelScope(shield=True):  # the run bounds its own clean-up
                await asyncio.wait({self.task})
            raise
        finally:
            self._show = None
            asked.cancel()
        if self._question is None or self.task.done():
            return await self.task
        question, self._question, self._context = self._question, None, None
        self._asked.clear()
        if len(self._runs) == MAX_ASKING:
            self._runs.pop(next(iter(self._runs)))  # the oldest: its host did not call again
        state = secrets.token_hex(8)
        self._runs[state] = self
        return InputRequiredResult(input_requests={_KEY: ElicitRequest(params=question)}, request_state=state)

    async def approve(self, tool: ServerTool, arguments: Sequence[tuple[str, str]]) -> Approval:
        """Whether the person allows the call; after a refusal or no answer, nothing more is asked in this run."""
        name = (tool.server, tool.name)
        if name in self._allowed:
            return "yes"
        if self._refused:
            return "no"
        if self._count == MAX_QUESTIONS:
            return "not_asked"
        self._count += 1
        answer = None
        with anyio.move_on_after(self._answer_limit):
            answer = await self._ask(_form(tool, arguments))
        self._answer = self._question = None
        if answer is None or answer.action != "accept":
            self._refused = True
            return "no"
        if answer.content and answer.content.get(_ALL_CALLS) is True:
            self._allowed.add(name)
        return "yes"

    async def _ask(self, question: ElicitRequestFormParams) -> ElicitResult | None:
        context = self._context
        if not self._is_modern:
            assert context is not None
            form = (question.message, question.requested_schema, context.request_id)
            try:
                answer: ElicitResult = await context.session.elicit_form(*form)
            except (MCPError, ValidationError) as exc:  # the host cannot do what it has declared
                logger.warning("the host did not answer a question: %s", exc)
                return None
            return answer
        self._answer = asyncio.get_running_loop().create_future()
        self._question = question
        self._asked.set()
        return await self._answer


async def drop_invalid_answers(context: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Middleware: an answer that is not valid counts as none, or the SDK refuses the call while its run still waits."""
    try:
        return await call_next(context)
    except ValidationError:
        params = dict(context.params or {})
        if params.pop("inputResponses", None) is None:
            raise
        return await call_next(replace(context, params=params))


def _form(tool: ServerTool, arguments: Sequence[tuple[str, str]]) -> ElicitRequestFormParams:
    """The question: the tool, then the arguments, with what is invisible made visible.

    Those that the tool has come first, and of them paths and short ones: a model can invent others to push them away.
    """
    known = tool.input_schema.get("properties") or {}
    order = sorted(arguments, key=lambda each: (each[0] not in known, not _WHERE.search(each[0]), len(each[1])))
    values = [
        f"{_visible(name if name.isidentifier() else json.dumps(name))}: {_visible(text)}" for name, text in order
    ]
    if len(values) > _SHOWN_ARGUMENTS:
        values[_SHOWN_ARGUMENTS:] = [f"… and {len(values) - _SHOWN_ARGUMENTS} more arguments"]
    called = f"{_visible(tool.server, _SHOWN_NAME)} {_visible(tool.name, _SHOWN_NAME)}"
    lines = textwrap.wrap(" · ".join(values), _WIDTH, break_on_hyphens=False)
    message = "\n".join([f"Allow {called}? It may change something.", *lines])
    also = {"type": "boolean", "title": "Allow all further calls of this tool in this run", "default": False}
    schema = {"type": "object", "properties": {_ALL_CALLS: also}}
    return ElicitRequestFormParams(message=as_shown(message), requested_schema=schema)


def _visible(text: str, most: int = _SHOWN_VALUE) -> str:
    """The text in one line, or both ends of a long one, with escapes for what is invisible or moves the cursor."""
    if len(text) > most:
        end = most // 3
        return f"({len(text):,} characters) {_visible(text[: most - end])} … {_visible(text[-end:])}"
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
