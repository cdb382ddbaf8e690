"""What a server gets of our environment, and what never."""

from __future__ import annotations

import os

import pytest

from lmstudio_bridge.mcp_client.launch import add_own, build_environment, find_withheld, read_depth, warn_of_withheld
from lmstudio_bridge.messages import ServerConfig
from tests.unit.mcp_client.pools import configure, open_test_pool

CANARY = "canary-8d1f"
NEVER = (
    *("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    *("CLAUDECODE", "CLAUDE_CODE_SESSION_ID", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_PROJECT_DIR"),
    *("LM_API_TOKEN", "LMSTUDIO_API_KEY", "LMSTUDIO_BRIDGE_API_TOKEN"),
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


def test_selectors_are_passed_on_because_a_server_would_work_on_something_else_without_them() -> None:
    """A run used the production cluster of `~/.kube/config`, although the shell had another KUBECONFIG (ours)."""
    environ = {
        "KUBECONFIG": "/home/me/test.yaml",
        "AWS_PROFILE": "test",
        "AWS_SECRET_ACCESS_KEY": CANARY,
        "GOOGLE_APPLICATION_CREDENTIALS": "/home/me/key.json",
        "DOCKER_HOST": "ssh://me@build",
        "AWS_ENDPOINT_URL_DYNAMODB": "http://localhost:8000",
        "FIRESTORE_EMULATOR_HOST": "localhost:8080",
        "HELM_KUBECONTEXT": "test",
        "PGHOST": f"postgres://me:{CANARY}@host",
        "PGPASSWORD": CANARY,
    }

    built = build_environment(environ)

    passed = {*environ} - {"AWS_SECRET_ACCESS_KEY", "PGHOST", "PGPASSWORD"}
    assert built.items() >= {(name, environ[name]) for name in passed}
    assert built["GOOGLE_APPLICATION_CREDENTIALS"] == "/home/me/key.json"
    assert CANARY not in str(built)


@pytest.mark.parametrize(
    ("args", "withheld"),
    [
        ("-y @modelcontextprotocol/server-github", ["GH_TOKEN", "GITHUB_TOKEN"]),
        ("-y @modelcontextprotocol/server-postgres", ["DATABASE_URL", "PGPASSWORD"]),
        ("-y @brave/brave-search-mcp-server", []),  # passed on by a setting
        ("awslabs.aws-api-mcp-server", ["AWS_SECRET_ACCESS_KEY"]),
        ("-y something-else", []),
        ("-y server-filesystem /home/me/lmstudio-bridge", []),  # LMSTUDIO_BASE_URL is the bridge's own
    ],
)
def test_other_variables_that_a_server_is_likely_to_want_are_named(args: str, withheld: list[str]) -> None:
    names = (
        *("GITHUB_TOKEN", "GH_TOKEN", "GH_HOST", "PGPASSWORD", "DATABASE_URL", "BRAVE_API_KEY"),
        *("AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "ANTHROPIC_API_KEY", "LMSTUDIO_BASE_URL", "MCP_TIMEOUT", "HOME"),
    )
    config = ServerConfig("it", "stdio", command="npx", args=tuple(args.split()), env={"AWS_OTHER": "x"})

    assert find_withheld(config, dict.fromkeys(names, "x"), passed=("BRAVE_*",)) == withheld


@pytest.mark.parametrize(
    ("args", "environ", "named"),
    [
        ("-y @modelcontextprotocol/server-postgres", {"DATABASE_URL": f"postgres://me:{CANARY}@host"}, "DATABASE_URL"),
        ("-y @modelcontextprotocol/server-postgres", {"PGHOST": f"postgres://me:{CANARY}@host"}, "PGHOST"),
        ("-y mcp-grafana", {"GRAFANA_URL": CANARY, "GRAFANA_ORG_ID": CANARY}, "GRAFANA_ORG_ID, GRAFANA_URL"),
        ("-y mcp-grafana", {f"GRAFANA_{n}_URL": CANARY for n in range(7)}, "GRAFANA_4_URL and 2 more"),
        ("run mcp/docker", {"DOCKER_HOST": f"tcp://me:{CANARY}@host"}, "DOCKER_HOST"),
        ("-y mcp-grafana", {"GRAFANA_TOKEN": CANARY, "GRAFANA_API_KEY": CANARY, "SENTRY_URL": CANARY}, ""),
        ("-y server-filesystem --shop ~/shop /home/me/shop C:\\shop", {"SHOP_DB": CANARY}, ""),
        ("/home/me/shop/server.js", {"SHOP_DB": CANARY}, "SHOP_DB"),
        ("awslabs.eks-mcp-server@latest", {"AWS_ACCESS_KEY_ID": CANARY}, "AWS_ACCESS_KEY_ID"),
        ("awslabs.eks-mcp-server@latest", {"AWS_ROLE_ARN": "arn:aws:iam::1:role/test"}, ""),  # it gets that
        ("-y @bytebase/dbhub", {"DATABASE_URL": CANARY}, "DATABASE_URL"),
        ("-y mcp-server-kubernetes", {"KUBECONFIG": "/home/me/test.yaml"}, ""),  # it gets that
    ],
)
def test_variables_that_choose_another_target_are_named_without_their_values(
    args: str, environ: dict[str, str], named: str
) -> None:
    config = ServerConfig("it", "stdio", command="npx", args=tuple(args.split()))

    warning = warn_of_withheld(config, environ)

    assert named in warning
    assert bool(warning) == bool(named)
    assert CANARY not in warning
