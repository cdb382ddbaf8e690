"""Goes through the whole chain, link by link, and lets no secret out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from lmstudio_bridge.cli.doctor.checks import Check, failed_check
from lmstudio_bridge.cli.doctor.deep import check_call
from lmstudio_bridge.cli.doctor.engine import check_engine
from lmstudio_bridge.cli.doctor.machine import check_journals, check_settings, check_versions
from lmstudio_bridge.cli.doctor.programs import check_programs
from lmstudio_bridge.cli.doctor.servers import check_catalog, check_rules, check_servers
from lmstudio_bridge.errors import DownstreamError, SettingsError
from lmstudio_bridge.runs.autonomous import DynamicAutonomousAgent, open_agent
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.security.secrets import secrets_of_environment
from lmstudio_bridge.settings import Settings, Surroundings


async def examine(
    settings: Settings,
    *,
    environ: Mapping[str, str],
    redactor: Redactor,
    tell: Callable[[Check], None],
    deep: bool = False,
) -> None:
    """Make every check, in the order of the chain, and tell each at once; with `deep` also a real call to the model."""
    redactor.learn(secrets_of_environment(environ))
    for check in (check_versions(), *check_settings(settings, environ)):
        tell(redactor.redact_fields(check))
    once = settings.model_copy(update={"retry_attempts": 1})  # who asks what is wrong need not wait for retries
    async with open_agent(once, environ=environ, redactor=redactor) as agent:
        async for check in check_chain(agent, settings, environ=environ, deep=deep):
            tell(check)
    for check in (check_journals(settings), *check_programs(Surroundings(settings.project, environ))):
        tell(redactor.redact_fields(check))


async def check_chain(
    agent: DynamicAutonomousAgent, settings: Settings, *, environ: Mapping[str, str], deep: bool = False
) -> AsyncIterator[Check]:
    """What needs an open agent: LM Studio, its model, the MCP servers, the rules."""
    around = Surroundings(settings.project, environ)
    redactor = agent.redactor
    redactor.learn(secrets_of_environment(environ))
    reachable = True
    async for check in check_engine(agent.client, settings, around):
        reachable = reachable and not (check.state == "failed" and check.name in ("LM Studio", "API token", "Model"))
        yield redactor.redact_fields(check)
    if deep and reachable:
        yield redactor.redact_fields(await check_call(agent.client, settings))
    try:
        catalog = agent.configured_servers()
    except DownstreamError as exc:
        yield redactor.redact_fields(failed_check("servers", "MCP servers", exc))
        return
    for check in (*check_catalog(catalog), *check_rules(agent, [*catalog.servers.values()])):
        yield redactor.redact_fields(check)
    async for check in check_servers(agent, catalog):
        yield redactor.redact_fields(check)


def check_without_settings(error: SettingsError) -> list[Check]:
    """What can be said where the settings cannot be used."""
    return [check_versions(), failed_check("bridge", "Settings", error)]
