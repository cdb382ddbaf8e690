"""The plugin in the real Claude Code: from the checkout, with the options that it asks for."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tests.lmstudio_sim.replies import TextReply
from tests.real.claude_code.anthropic_api import text, use
from tests.real.claude_code.host import NEEDED, READING, WRITING, open_host
from tests.support.desk import MODEL

PLUGIN = Path(__file__).parents[3] / "plugin"
TOOLS = "mcp__plugin_lmstudio-bridge_lmstudio-bridge__"
TOKEN = "sk-lm-of-the-option"

pytestmark = NEEDED


def uvx(folder: Path, environ: dict[str, str]) -> Path:
    """A folder with a `uvx` that starts the bridge of this checkout, whatever it is asked for."""
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environ.items())
    program = folder / "bin" / "uvx"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{exports}exec {sys.executable} -m lmstudio_bridge\n", encoding="utf-8")
    program.chmod(0o755)
    return program.parent


async def test_plugin_is_valid_and_installed_from_the_checkout_its_tools_work(tmp_path: Path) -> None:
    async with open_host(tmp_path, with_bridge=False) as host:
        address = host.desk.environ.pop("LMSTUDIO_BASE_URL")
        host.path = f"{uvx(tmp_path, host.desk.environ)}:{host.path}"
        await host.run("plugin", "validate", "--strict", "--profile", "directory", str(PLUGIN))
        await host.run("plugin", "marketplace", "add", str(PLUGIN))
        options = ("--config", f"base_url={address}", "--config", f"api_token={TOKEN}")
        await host.run("plugin", "install", "lmstudio-bridge@lmstudio-bridge", *options)

        host.desk.sim.script(MODEL, TextReply("It is done."))
        host.api.turns = [[use(f"{TOOLS}autonomous_with_mcp", mcp_name="filesystem", task="Look.")], [text("Well.")]]
        await host.ask("Delegate it.", prefix=TOOLS)

        [request] = host.desk.chat_requests()
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        assert "It is done." in str(host.api.results()[-1]["content"])
        tools = [tool["name"] for tool in host.api.requests[-1]["tools"] if tool["name"].startswith(TOOLS)]
        assert set(tools) == {TOOLS + name for name in (*READING, WRITING)}
        assert "lmstudio-bridge:local-worker" in str(host.api.requests[-1])
