"""What the MCP face offers, done by the agent: runs with their progress, texts to read, names to complete.

Imports all that a run needs; `app` imports it when the tools have been listed, or at first need.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import assert_never

from lmstudio_bridge.agent.progress import Send, open_progress
from lmstudio_bridge.agent.resume import read_run
from lmstudio_bridge.autonomous import DynamicAutonomousAgent, open_agent
from lmstudio_bridge.overview import MAX_RUNS, models_text, newest_runs, run_text, runs_text, servers_text
from lmstudio_bridge.redaction import Redactor
from lmstudio_bridge.report import RunReport
from lmstudio_bridge.request import ContinueRequest, RunRequest
from lmstudio_bridge.settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    """An open agent, and what it does for a host."""

    agent: DynamicAutonomousAgent
    heartbeat: float
    """Seconds between two progress messages when nothing new happens."""

    async def run(self, request: RunRequest | ContinueRequest, *, send: Send) -> RunReport:
        """Do what is asked; `send` gets the progress.

        Raises:
            BridgeError: It could not begin or go on.
        """
        async with open_progress(send, heartbeat=self.heartbeat) as emit:
            match request:
                case RunRequest():
                    return await self.agent.execute(request, emit=emit)
                case ContinueRequest():
                    return await self.agent.continue_run(request, emit=emit)
                case _:
                    assert_never(request)

    async def models(self) -> str:
        """The models of LM Studio, as they are right now; raises LLMError."""
        return models_text(await self.agent.client.validator.catalog(refresh=True))

    def servers(self) -> str:
        """The MCP servers, which of them are open, and the rules for them; raises McpConfigError and SettingsError."""
        catalog = self.agent.configured_servers()
        permissions = self.agent.permissions(catalog.servers.values())
        return servers_text(catalog, permissions, self.agent.pool.opened())

    def runs(self) -> str:
        """The newest runs."""
        return runs_text(self.agent.runs_folder, keep=self.agent.keeps)

    def run_report(self, run_id: str) -> str:
        """The whole of one run; raises RunNotFoundError."""
        return run_text(read_run(self.agent.runs_folder, run_id))

    async def names(self, argument: str) -> list[str]:
        """What an argument of a prompt or a resource may be; raises BridgeError."""
        match argument:
            case "model":
                return [model.key for model in (await self.agent.client.validator.catalog()).chat_models()]
            case "server":
                return sorted(self.agent.configured_servers().servers)
            case "run_id":
                return [run.run_id for run in newest_runs(self.agent.runs_folder, most=MAX_RUNS)]
            case _:
                return []


@asynccontextmanager
async def open_service(settings: Settings, *, environ: Mapping[str, str], redactor: Redactor) -> AsyncIterator[Service]:
    """The service with its agent; enter and leave it in the same task."""
    async with open_agent(settings, environ=environ, redactor=redactor) as agent:
        yield Service(agent, settings.heartbeat)
