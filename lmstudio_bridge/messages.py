"""The vocabulary that all packages share: messages, tools, calls, results, usage, servers.

Frozen values without behavior, and the Protocols through which `agent` sees the model, the tools and the policy.
`lmstudio.wire` turns requests into LM Studio's JSON; `mcp_client` makes tool results from MCP servers' answers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal, Protocol, TypeAlias

from lmstudio_bridge.errors import LLMError

JSONObject: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the model sees it; `parameters` is a JSON Schema of type object."""

    name: str
    description: str
    parameters: JSONObject


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asked for.

    `arguments` is the model's own text. Where it is one valid JSON object it is replayed in the history byte for
    byte, so that the engine's prompt cache keeps working.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image from a tool result; `data` is base64, `mime_type` for example image/png."""

    data: str
    mime_type: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model reads as the answer to a call: always text, never an exception.

    `changes` is what the bridge adds to the text: what the call did to files, which differs where the same call is
    made again.
    """

    text: str
    is_error: bool = False
    images: tuple[Image, ...] = ()
    changes: str = ""


@dataclass(frozen=True, slots=True)
class SystemMessage:
    """The instructions; one per conversation, first."""

    text: str


@dataclass(frozen=True, slots=True)
class UserMessage:
    """A turn of the user: the task, or a hint of ours; images only for models that see."""

    text: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class AssistantMessage:
    """A turn of the model, without its reasoning."""

    text: str
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolMessage:
    """The result of one call; `call_id` is the id of a call in the assistant message before."""

    call_id: str
    text: str


Message: TypeAlias = SystemMessage | UserMessage | AssistantMessage | ToolMessage


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a model is asked, and how.

    `max_tokens` is for the reply; None leaves it to the server, as with `temperature` and
    `reasoning_effort`. `response_schema` is a JSON Schema that the engine binds the text of the reply to.
    """

    messages: Sequence[Message]
    tools: Sequence[ToolSpec] = ()
    max_tokens: int | None = None
    temperature: float | None = None
    reasoning_effort: str | None = None
    response_schema: JSONObject | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or several completions, as LM Studio counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total(self) -> int:
        """Of prompts and replies."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """One whole reply of the model.

    `model` is the name in the reply: the id of the instance that answered. `usage` is None where
    the server sent none. `finish_reason` is the server's own word: stop, length or tool_calls. With `is_explicit`, the
    text stood where constrained JSON has the answer, and nothing else.
    """

    text: str
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish_reason: str = ""
    model: str = ""
    usage: Usage | None = None
    is_explicit: bool = False


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of a tool call: `name` on its first piece, a fragment of its arguments on any."""

    index: int
    name: str = ""
    arguments: str = ""


Delta: TypeAlias = TextDelta | ReasoningDelta | CallDelta

OnDelta: TypeAlias = Callable[[Delta], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something on the way to a reply that the person who waits should know.

    `queue` and `loading` explain a silence; a `recovery` is a fault that was mended, and is worth a
    line in the result; a `strategy` is the way in which the model is asked or understood.
    """

    kind: Literal["queue", "loading", "recovery", "strategy"]
    text: str


OnNotice: TypeAlias = Callable[[Notice], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ServerTool:
    """A tool as its MCP server lists it.

    `read_only` is the server's own readOnlyHint: None where it does not say (the MCP specification then means "may
    write"). `hints` are its other annotations that say yes or no. `input_schema` is always an object schema, repaired
    if need be. `doubted` says that the mark is new on a tool that was without it before; `read_only` is False then.
    """

    server: str
    name: str
    description: str = ""
    input_schema: JSONObject = field(default_factory=lambda: {"type": "object", "properties": {}})
    read_only: bool | None = None
    title: str = ""
    hints: Mapping[str, bool] = field(default_factory=dict)
    doubted: bool = False


class ChatModel(Protocol):
    """A model to talk to; `lmstudio_bridge.lmstudio.session` has one."""

    async def stream_chat_completion(
        self,
        request: ChatRequest,
        *,
        on_delta: OnDelta | None = None,
        on_retry: OnRetry | None = None,
        on_notice: OnNotice,
    ) -> Completion:
        """One whole reply. Raises `LLMError`."""


class ToolRunner(Protocol):
    """Runs tools; `lmstudio_bridge.mcp_client.pool.Lease` is one."""

    async def call_tool(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        on_progress: Callable[[str], Awaitable[None]] | None = None,
    ) -> ToolResult:
        """The result of one call. Raises `DownstreamError`."""


Verdict: TypeAlias = Literal["", "allowed", "needs_write", "denied", "outside"]
"""The policy's decision about a call; "" where it was not asked, as for bad arguments and the bridge's own tools."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a call may run; `reason` is a sentence for the model and the user where it may not.

    `rule` is what decided: one of the user's rules, or the name of a built-in one. `remedy` is for the user only: the
    setting that would allow the call.
    """

    verdict: Verdict
    reason: str = ""
    rule: str = ""
    remedy: str = ""

    @property
    def allowed(self) -> bool:
        return self.verdict == "allowed"


class CallPolicy(Protocol):
    """Decides which calls may run; `lmstudio_bridge.security.access.Policy` is one."""

    def check_call(self, tool: ServerTool, arguments: JSONObject) -> Decision:
        """The decision for one call of this tool."""

    def may_run(self, tool: ServerTool) -> bool:
        """Whether calls of this tool can be allowed at all."""

    def writes(self, tool: ServerTool, arguments: JSONObject | None = None) -> bool:
        """Whether its calls, or the one with these arguments, count as changing something, in what is told of a run."""


Approval: TypeAlias = Literal["yes", "no", "not_asked"]
"""What a person says about a call; "no" also if no answer came in time, "not_asked" if there were enough questions."""


class Approver(Protocol):
    """Asks the person whether a call may run that needs write access; `lmstudio_bridge.server.approval` has one."""

    async def approve(self, tool: ServerTool, arguments: Sequence[tuple[str, str]]) -> Approval:
        """Whether it may; the `arguments` are names and values, as JSON without secrets."""


@dataclass(frozen=True, slots=True)
class Retry:
    """A retry that is about to happen."""

    attempt: int  # the number of the try that failed, from 1
    wait: float  # seconds
    error: LLMError


OnRetry: TypeAlias = Callable[[Retry], Awaitable[None]]


Access: TypeAlias = Literal["read", "write"]
"""What the tools of a run may do: only read, or also change things."""

Transport: TypeAlias = Literal["stdio", "http", "sse"]

Scope: TypeAlias = Literal["explicit", "local", "project", "user", "plugin", "lmstudio"]
"""How the file was found that a server stands in; the names are Claude Code's own, where it has one."""

_WRAPPERS = frozenset(  # `/c` of cmd among them
    {"sudo", "env", "cmd", "c", "wsl", "nice", "nohup", "time", "timeout", "exec", "command", "setsid", "corepack"}
)


def program_name(command: str) -> str:
    """The name of a program, without its folder and `.exe` or `.cmd`."""
    return PurePath(command.replace("\\", "/")).name.lower().removesuffix(".exe").removesuffix(".cmd")


@dataclass(frozen=True, slots=True)
class Confinement:
    """How a server is started in a sandbox: the words before its command, and what to do where it needs more.

    `inside` are the variables of its entry that the words set, and that what makes the sandbox must not get.
    `held` says which files its protected ones are: one that was replaced is not held by a server that is open already.
    """

    words: tuple[str, ...]
    hint: str = ""
    inside: tuple[str, ...] = ()
    held: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One configured server, ready to be opened: variables are expanded, the transport is known.

    `timeout` is seconds for each call, None where the file does not say. `source` is the file that it stands in. Of the
    server's tools, runs have `only_tools` (None: all) without the `disabled_tools`. `notes` say what of the entry is
    not used; nothing need be done about them. `entry_digest` is that of what decides in the entry, before variables are
    expanded; values of `env` count, because `NODE_OPTIONS` can run code. `client_id` and `callback_port` are for
    signing in (OAuth): a client that the user has registered, and the port to which the browser is sent back.
    `confinement` is its sandbox, if it is started in one. A project's server that `hides_own` takes the place of
    one of the user's that has its name. The representation leaves out what may hold secrets.
    """

    name: str
    transport: Transport
    command: str = ""
    args: tuple[str, ...] = field(default=(), repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: Path | None = None
    url: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float | None = None
    source: Path | None = None
    scope: Scope | None = None
    disabled: bool = False
    only_tools: tuple[str, ...] | None = None
    disabled_tools: tuple[str, ...] = ()
    client_id: str = field(default="", repr=False)
    callback_port: int = 0
    notes: tuple[str, ...] = field(default=(), repr=False)
    entry_digest: str = field(default="", compare=False, repr=False)
    confinement: Confinement | None = field(default=None, repr=False)
    hides_own: bool = False

    @property
    def launched(self) -> tuple[str, ...]:
        """The name of the program and its arguments, behind what only starts it: `cmd /c`, `env A=b`, `sudo`."""
        words = (self.command, *self.args)
        while len(words) > 1 and (program_name(words[0]) in _WRAPPERS or re.match(r"\w+=|-|\d+\Z", words[0])):
            words = words[1:]
        return (program_name(words[0]), *words[1:])

    def has_tool(self, name: str) -> bool:
        """Whether runs may have the tool of that name, as far as the entry says."""
        return name not in self.disabled_tools and (self.only_tools is None or name in self.only_tools)

    @property
    def digest(self) -> str:
        """Of all that decides what is started or reached, as hexadecimal SHA-256; where it stands does not count."""
        headers, env = sorted(self.headers.items()), sorted(self.env.items())
        cwd = None if self.cwd is None else str(self.cwd)
        confined = (self.confinement.words, self.confinement.held) if self.confinement else ()
        parts = [self.transport, self.command, self.args, env, cwd, self.url, headers, confined]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def is_deeper(value: object, levels: int) -> bool:
    """Whether a JSON value has more levels than that; a plain value has none."""
    if isinstance(value, Mapping):
        return levels == 0 or any(is_deeper(child, levels - 1) for child in value.values())
    if isinstance(value, list | tuple):
        return levels == 0 or any(is_deeper(child, levels - 1) for child in value)
    return False


def resolve_tool_name(name: str, offered: Collection[str]) -> str | None:
    """The offered tool that a model means by a name; None if there is none, or more than one.

    Models put a namespace before the name (`functions.f`) or a number behind it (`f:0`), write it in other letters or
    with other separators, or leave the server out (`read_file` for `fs__read_file`).
    """
    if name in offered:
        return name
    plain = re.sub(r":\d+$", "", name.partition("<|")[0].strip().strip("`'\""))
    for prefix in ("functions.", "function.", "tools.", "tool.", "default_api.", "assistant.", "mcp__"):
        plain = plain.removeprefix(prefix)
    if plain in offered:
        return plain
    if (spelled := re.sub(r"[^a-z0-9_]+", "_", plain.lower())) in offered:
        return spelled
    wanted = plain_letters(plain)
    if not wanted:
        return None
    same = [each for each in offered if plain_letters(each) == wanted]
    if not same:
        same = [each for each in offered if plain_letters(each.partition("__")[2]) == wanted]
    return same[0] if len(same) == 1 else None


def plain_letters(name: str) -> str:
    """A name without case and separators."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())
