"""Every exception that lmstudio-bridge raises on purpose, as a tree.

* BridgeError
  x SettingsError
  x NestedBridgeError
  x RunNotFoundError
  x RunActiveError
  x NoToolMayRunError
  x LLMError
    + LLMTimeoutError
    + LLMConnectionError
    + LLMRateLimitError
    + LLMResponseError
      - ModelLostError
      - ModelSubstitutedError
      - ModelNotFoundError
      - ModelLoadError
      - ContextOverflowError
      - TemplateError
      - ToolsUnsupportedError
      - ToolSchemaError
      - LostToolCallError
      - ServerBusyError
      - AuthError
      - WrongEndpointError
  x DownstreamError
    + McpConfigError
    + ServerNotConfiguredError
    + ServerNotTrustedError
    + ServerStartError
    + SessionLostError
      - SessionExpiredError
    + CallRefusedError
    + ToolTimeoutError

A message says what happened and to what; the remedy says what the user can do about it.
Limits of a run (rounds, time, context) are outcomes, not exceptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

SHOWN_NAMES = 20  # in one message; there may be thousands


def listed(names: Sequence[str], *, between: str = ", ") -> str:
    """The first names, and the number of the others."""
    left_out = len(names) - SHOWN_NAMES
    return between.join([*names[:SHOWN_NAMES], *([f"and {left_out:,} more"] if left_out > 0 else [])])


class BridgeError(Exception):
    """The base of all our errors.

    `remedy` is one or two sentences for the user of the host: what to do next.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message

    def explain(self) -> str:
        """The message and the remedy as one text for people."""
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class SettingsError(BridgeError):
    """An environment variable, an option or a file of the user has an invalid value."""


class RunNotFoundError(BridgeError):
    """There is no run with this id, or its journal is unusable."""


class RunActiveError(BridgeError):
    """The run is in progress, here or in another process of the same user."""


class NestedBridgeError(BridgeError):
    """A bridge started by a bridge is asked to run a task, which could recurse forever."""


class NoToolMayRunError(BridgeError):
    """No tool of the servers may run with the access of the run."""


class LLMError(BridgeError):
    """A request to LM Studio failed.

    `kind` names the class of the failure, as in docs/contributing/lm-studio-errors.md. `detail` is the server's own
    text. `retryable` says whether the same request may be sent again after a pause; `retry_after` is the pause in
    seconds that the server asked for.
    """

    kind: ClassVar[str] = "error"
    retryable_by_kind: ClassVar[bool] = False
    detail_title: ClassVar[str] = "It said"

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        url: str = "",
        model: str | None = None,
        status: int | None = None,
        detail: str = "",
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.url = url
        self.model = model
        self.status = status
        self.detail = detail
        self.retryable = self.retryable_by_kind if retryable is None else retryable
        self.retry_after = retry_after

    def explain(self) -> str:
        """The message, where it happened, the server's own text, and the remedy."""
        where = [f"URL: {self.url}"] if self.url else []
        if self.model:
            where.append(f"model: {self.model}")
        if self.status is not None:
            where.append(f"HTTP status: {self.status}")
        lines = [self.message]
        if where:
            lines.append(" · ".join(where))
        if self.detail and self.detail not in self.message:
            lines.append(f"{self.detail_title}: {self.detail}")
        if self.remedy:
            lines.append(self.remedy)
        return "\n".join(lines)


class LLMTimeoutError(LLMError):
    """Nothing arrived within the timeout for connecting, for the first byte, or between two bytes.

    Retryable only while connecting: a request that timed out while LM Studio read the prompt would start over in
    another slot and might never finish.
    """

    kind = "stalled"
    detail_title = "Cause"


class LLMConnectionError(LLMError):
    """LM Studio could not be reached, or closed the connection before it answered."""

    kind = "unreachable"
    detail_title = "Cause"
    retryable_by_kind = True


class LLMRateLimitError(LLMError):
    """HTTP 429, from a gateway in front of LM Studio."""

    kind = "rate_limited"
    retryable_by_kind = True


class LLMResponseError(LLMError):
    """LM Studio answered with an error, or with something that is not a valid reply."""

    kind = "bad_request"


class ModelLostError(LLMResponseError):
    """The model was unloaded, reloaded or crashed, or the stream ended in the middle of a reply.

    The request had no side effects, so the round may be sent again once the model is back: not a blind retry, but a
    decision of the agent loop.
    """

    kind = "model_lost"


class ModelSubstitutedError(LLMResponseError):
    """The reply came from another model than requested (LM Studio reference, section 3.3)."""

    kind = "substituted_model"


class ModelNotFoundError(LLMResponseError):
    """The model does not exist."""

    kind = "no_model"


class ModelLoadError(LLMResponseError):
    """LM Studio could not load the model: memory guardrail, broken file, missing runtime."""

    kind = "resources"


class ContextOverflowError(LLMResponseError):
    """The prompt does not fit the loaded context; `needed` and `available` are tokens, if known."""

    kind = "overflow"

    def __init__(self, message: str, *, needed: int | None = None, available: int | None = None, **where: Any) -> None:
        super().__init__(message, **where)
        self.needed = needed
        self.available = available


class TemplateError(LLMResponseError):
    """The model's prompt template rejected the messages."""

    kind = "template"


class ToolsUnsupportedError(LLMResponseError):
    """The server takes no tools for this model; it may still bind a reply to a JSON Schema."""

    kind = "tools_unsupported"


class ToolSchemaError(LLMResponseError):
    """The engine could not turn a tool's schema into a grammar; one such tool fails the whole request."""

    kind = "schema"


class LostToolCallError(LLMResponseError):
    """The model tried to call a tool, but the server could not parse the call and dropped it."""

    kind = "lost_tool_call"


class ServerBusyError(LLMResponseError):
    """All slots stayed busy for too long, or the engine failed with a transient error."""

    kind = "busy"
    retryable_by_kind = True


class AuthError(LLMResponseError):
    """LM Studio requires an API token, or rejected the one it got."""

    kind = "auth"


class WrongEndpointError(LLMResponseError):
    """Something answers at the URL, but does not serve this route or does not speak this protocol."""

    kind = "wrong_endpoint"


class DownstreamError(BridgeError):
    """One of the user's MCP servers failed; `server` is its configured name."""

    def __init__(self, message: str, *, server: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.server = server


class McpConfigError(DownstreamError):
    """A configuration file is invalid."""


class ServerNotConfiguredError(DownstreamError):
    """The server is not configured."""


class ServerNotTrustedError(DownstreamError):
    """A project's file configures this server, but it was not approved."""


class ServerStartError(DownstreamError):
    """A server did not start or did not answer; `stderr_tail` is the end of its stderr."""

    def __init__(self, message: str, *, server: str, stderr_tail: str = "", remedy: str = "") -> None:
        super().__init__(message, server=server, remedy=remedy)
        self.stderr_tail = stderr_tail

    def explain(self) -> str:
        """The message, the end of the server's stderr, and the remedy."""
        tail = f"Its last output on stderr:\n{self.stderr_tail}" if self.stderr_tail else ""
        return "\n".join(part for part in (self.message, tail, self.remedy) if part)


class SessionLostError(DownstreamError):
    """A server went away during a call, which may or may not have had effects."""


class SessionExpiredError(SessionLostError):
    """A server no longer knows our session, and so did not execute the call."""


class CallRefusedError(DownstreamError):
    """A server does not take our credentials any more, and so did not execute the call."""


class ToolTimeoutError(DownstreamError):
    """A tool returned nothing within its timeout; the server was told to cancel the call."""
