"""What a server gets of our environment, and what never."""

from __future__ import annotations

import json
import os

import pytest

from lmstudio_bridge.mcp_client.stdio import add_own, build_environment, read_depth
from tests.unit.mcp_client.pools import configure, open_test_pool

CANARY = "canary-8d1f"
NEVER = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDECODE",
    "CLAUDE_CODE_SESSION_ID",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_PROJECT_DIR",
    "LM_API_TOKEN",
    "LMSTUDIO_API_KEY",
)


@pytest.mark.parametrize(
    "passed", [(), ("*",), ("ANTHROPIC_*", "CLAUDE*", "LM*"), NEVER, ("[A-Z]*",)], ids=lambda passed: ",".join(passed)
)
async def test_real_server_never_sees_what_belongs_to_claude_code_or_lm_studio(passed: tuple[str, ...]) -> None:
    environ = {"PATH": os.environ["PATH"], **dict.fromkeys(NEVER, CANARY)}
    async with open_test_pool(environ=environ, pass_env=passed) as pool:
        await pool.open_server(configure())
        seen = (await pool.call_tool("sloppy", "env", {})).text

    assert CANARY not in seen


async def test_real_server_gets_what_is_passed_and_its_own_env_even_where_it_is_forbidden_otherwise() -> None:
    environ = {"PATH": os.environ["PATH"], "AWS_REGION": "x", "AWS_PROFILE": "y", "OTHER": "z", "MORE": CANARY}
    async with open_test_pool(environ=environ, pass_env=("AWS_*", "OTHER")) as pool:
        await pool.open_server(configure(env={"ANTHROPIC_API_KEY": "its own", "AWS_REGION": "its own"}))
        seen = json.loads((await pool.call_tool("sloppy", "env", {})).text)["env"]

    seen.pop("LC_CTYPE", None)  # Python sets it for itself
    assert seen == {
        "PATH": os.environ["PATH"],
        "AWS_REGION": "its own",
        "AWS_PROFILE": "y",
        "OTHER": "z",
        "ANTHROPIC_API_KEY": "its own",
        "LMSTUDIO_BRIDGE_DEPTH": "1",
    }


@pytest.mark.parametrize(
    ("text", "depth"), [("0", 0), ("1", 1), ("41", 41), ("", 0), ("-1", 0), ("x", 0), ("²", 0)]
)  # fmt: skip
def test_depth_is_counted_up(text: str, depth: int) -> None:
    environ = {"LMSTUDIO_BRIDGE_DEPTH": text}

    assert read_depth(environ) == depth
    assert build_environment(environ) == {"LMSTUDIO_BRIDGE_DEPTH": str(depth + 1)}


def test_server_cannot_set_the_depth_back() -> None:
    built = build_environment({"LMSTUDIO_BRIDGE_DEPTH": "1"}, passed=("*",))

    assert add_own(built, {"LMSTUDIO_BRIDGE_DEPTH": "0", "A": "b"}) == {"LMSTUDIO_BRIDGE_DEPTH": "2", "A": "b"}


def test_shell_functions_are_not_handed_on() -> None:
    assert "TERM" not in build_environment({"TERM": "() { echo; }"})
