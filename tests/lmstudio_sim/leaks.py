"""The notations in which models write tool calls, as they leak into the text when LM Studio fails to parse them."""

from __future__ import annotations

import json
from typing import Literal, get_args

from tests.lmstudio_sim.errors import JsonObject

LeakFormat = Literal[
    "hermes",
    "hermes_tools",
    "qwen_coder",
    "qwen_coder_headless",
    "glm",
    "harmony",
    "harmony_name",
    "gemma",
    "lfm",
    "mistral",
    "mistral_args",
    "minimax",
    "bare_json",
    "default",
]
LEAK_FORMATS: tuple[LeakFormat, ...] = get_args(LeakFormat)


def render_leak(format: LeakFormat, *, name: str, arguments: JsonObject) -> str:
    """The text a model of that family writes for a call of `name`."""
    text = json.dumps(arguments, ensure_ascii=False)
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    match format:
        case "hermes":
            return f"<tool_call>\n{call}\n</tool_call>"
        case "hermes_tools":
            return f"<tools>{call}</tools>"
        case "qwen_coder":
            return f"<tool_call>\n{_render_function(name, arguments)}\n</tool_call>"
        case "qwen_coder_headless":
            return f"{_render_function(name, arguments)}\n</tool_call>"
        case "glm":
            pairs = "".join(
                f"<arg_key>{key}</arg_key>\n<arg_value>{_plain(value)}</arg_value>\n"
                for key, value in arguments.items()
            )
            return f"<tool_call>{name}\n{pairs}</tool_call>"
        case "harmony":
            return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{text}<|call|>"
        case "harmony_name":
            return json.dumps({"name": f"{name}<|channel|>commentary", "arguments": arguments}, ensure_ascii=False)
        case "gemma":
            pairs = ",".join(
                f'{key}:<|"|>{value}<|"|>' if isinstance(value, str) else f"{key}:{json.dumps(value)}"
                for key, value in arguments.items()
            )
            return f"<|tool_call>call:{name}{{{pairs}}}<tool_call|>"
        case "lfm":
            pairs = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            return f"<|tool_call_start|>[{name}({pairs})]<|tool_call_end|>"
        case "mistral":
            return f"[TOOL_CALLS][{call}]"
        case "mistral_args":
            return f"[TOOL_CALLS]{name}[ARGS]{text}"
        case "minimax":
            pairs = "".join(
                f'<parameter name="{key}">{_plain(value)}</parameter>\n' for key, value in arguments.items()
            )
            return f'<minimax:tool_call>\n<invoke name="{name}">\n{pairs}</invoke>\n</minimax:tool_call>'
        case "bare_json":
            return call
        case "default":
            return f"[TOOL_REQUEST]{call}[END_TOOL_REQUEST]"


def _render_function(name: str, arguments: JsonObject) -> str:
    pairs = "".join(f"<parameter={key}>\n{_plain(value)}\n</parameter>\n" for key, value in arguments.items())
    return f"<function={name}>\n{pairs}</function>"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
