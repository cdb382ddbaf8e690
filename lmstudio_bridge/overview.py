"""What a person may want to read about the bridge's world: models, servers, runs. As Markdown text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lmstudio_bridge.agent.journal import Keep
from lmstudio_bridge.agent.resume import StoredRun, read_run
from lmstudio_bridge.downstream.config import ServerCatalog
from lmstudio_bridge.downstream.sessions import OpenServer
from lmstudio_bridge.errors import BridgeError, RunNotFoundError
from lmstudio_bridge.events import (
    CallFinished,
    CallStarted,
    JournalCut,
    MessageAdded,
    Noticed,
    RoundFinished,
    ServerFailed,
    ServersChosen,
    Warned,
)
from lmstudio_bridge.llm.models import ModelCatalog, ModelInfo
from lmstudio_bridge.messages import UserMessage
from lmstudio_bridge.permissions import Permissions
from lmstudio_bridge.report import RunReport

MAX_RUNS = 50  # the newest ones, in the list of runs
MODEL_COLUMNS = ("model", "kind", "state", "context", "slots", "trained for tools")
RUN_COLUMNS = ("run", "ended", "model", "tokens", "saved", "task")
SERVER_COLUMNS = ("server", "transport", "state", "from")
_NOT_KEPT: dict[Keep, str] = {
    "full": "",
    "audit": "LMSTUDIO_BRIDGE_JOURNAL is audit: of new runs no task, answer or result is kept.",
    "off": "LMSTUDIO_BRIDGE_JOURNAL is off: new runs are not kept.",
}
_SHOWN_TASK = 80  # characters of a task in the list of runs
_SHOWN_RESULT = 2_000  # characters of one tool result in a run's report


def models_text(catalog: ModelCatalog) -> str:
    """A table of the models: loaded or not, context, slots, tools."""
    return _table(MODEL_COLUMNS, model_rows(catalog), empty="No models.")


def model_json(model: ModelInfo) -> dict[str, Any]:
    """A model for a program; null is what LM Studio did not tell."""
    return dataclasses.asdict(model)


def model_rows(catalog: ModelCatalog) -> list[list[str]]:
    """One row a model, under `MODEL_COLUMNS`."""
    return [_model_row(model) for model in catalog.models]


def _model_row(model: ModelInfo) -> list[str]:
    states = {True: "loaded", False: "not loaded", None: "not told"}
    instances = model.instances or ()
    contexts = ", ".join(f"{instance.context_length:,}" for instance in instances if instance.context_length)
    slots = ", ".join(str(instance.parallel) for instance in instances if instance.parallel)
    most = f"up to {model.max_context_length:,}" if model.max_context_length else ""
    tools = {True: "yes", False: "no", None: ""}[model.trained_for_tool_use]
    return [model.key, model.kind, states[model.loaded], contexts or most, slots, tools]


def servers_text(catalog: ServerCatalog, permissions: Permissions, opened: Iterable[OpenServer]) -> str:
    """A table of the configured MCP servers, whether each is open, why one is left out, and which rules apply."""
    text = _table(SERVER_COLUMNS, server_rows(catalog, opened), empty="No MCP servers are configured.")
    remedies = [catalog.refusal(name).remedy for name in sorted(catalog.unapproved)]
    about = [each for told in catalog.server_warnings.values() for each in told]
    warnings = [*catalog.warnings, *permissions.warnings, *about]
    rules = [f"- {line}" for line in permissions.lines()]
    return "\n".join(
        [text, "", *rules, *(f"\n{remedy}" for remedy in remedies), *(f"\nWarning: {each}" for each in warnings)]
    )


def server_rows(catalog: ServerCatalog, opened: Iterable[OpenServer] = ()) -> list[list[str]]:
    """One row a configured server, under `SERVER_COLUMNS`; `opened` are those that a pool holds."""
    uses: dict[str, list[str]] = {}
    for server in opened:
        use = f"open, used by {server.users}" if server.users else f"open, unused for {server.idle:.0f} s"
        uses.setdefault(server.server, []).append(use)
    rows = [
        [name, config.transport, "; ".join(["usable", *uses.get(name, ())]), f"{config.scope}: {config.source}"]
        for name, config in sorted(catalog.servers.items())
    ]
    rows += [
        [name, config.transport, "not approved yet", f"{config.scope}: {config.source}"]
        for name, config in sorted(catalog.unapproved.items())
    ]
    return [*rows, *([name, "", f"left out: {reason}", ""] for name, reason in sorted(catalog.skipped.items()))]


def runs_text(folder: Path, *, keep: Keep = "full") -> str:
    """A table of the newest runs, and whether more are added."""
    rows = [run_row(run) for run in newest_runs(folder, most=MAX_RUNS)]
    table = _table(RUN_COLUMNS, rows, empty="No runs yet.")
    return "\n\n".join(part for part in (_NOT_KEPT[keep], table) if part)


def run_row(run: StoredRun) -> list[str]:
    """One row, under `RUN_COLUMNS`; tokens are the local model's, `saved` is net and an estimate."""
    outcome = run.outcome
    tokens = outcome.usage.prompt_tokens + outcome.usage.completion_tokens
    saved = RunReport(run.run_id, outcome, run.servers).savings().net
    ended = outcome.stop if run.finished else "not finished"
    return [run.run_id, ended, outcome.model, f"{tokens:,}", f"{saved:,}", _first_line(run.task)]


def run_json(run: StoredRun) -> dict[str, Any]:
    """A run for a program: as in a result's `_meta`, with task, answer, and when it began."""
    report = RunReport(run.run_id, run.outcome, run.servers).structure()
    about = {"started_at": run.started_at, "finished": run.finished, "task": run.task, "answer": run.outcome.answer}
    return {**report, **about}


def find_run(folder: Path, name: str) -> StoredRun:
    """The run of that id; "last" is the newest one.

    Raises:
        RunNotFoundError: There is none.
        SettingsError: It is no run id.
    """
    if name != "last":
        return read_run(folder, name)
    run = next(iter(newest_runs(folder, most=MAX_RUNS)), None)
    if run is None:
        raise RunNotFoundError(f"There are no runs in {folder}.", remedy="Do one first: lmstudio-bridge run …")
    return run


def newest_runs(folder: Path, *, most: int) -> Iterable[StoredRun]:
    """The newest runs whose journals can be read, newest first."""
    paths = sorted(folder.glob("*.jsonl"), key=_recency, reverse=True) if folder.is_dir() else []
    for path in paths[:most]:
        try:
            yield read_run(folder, path.stem)
        except BridgeError:
            continue


def _recency(journal: Path) -> tuple[str, int, str]:
    """Greater for a newer run. A name tells the second; of the runs of one, that which was written to last is newer."""
    try:
        written = journal.stat().st_mtime_ns
    except OSError:  # another bridge deletes it right now
        written = 0
    return journal.name[: len("yyyymmdd-hhmmss")], written, journal.name


def run_text(run: StoredRun) -> str:
    """The report of one run: the whole answer, and what was done for it."""
    outcome = run.outcome
    ended = outcome.stop if run.finished else "not finished (the bridge ended, or it is still under way)"
    lines = [
        f"# Run {run.run_id}",
        f"- started: {run.started_at}",
        f"- ended: {ended}",
        f"- model: {outcome.model}",
        f"- MCP servers: {', '.join(run.servers)}",
        f"- rounds: {outcome.rounds}, calls: {outcome.calls}, seconds: {outcome.seconds:.1f}",
        f"- {RunReport(run.run_id, outcome, run.servers).savings().in_words()}",
        "\n## Task\n",
        run.task,
        "\n## Answer\n",
        outcome.answer or "(none)",
    ]
    if outcome.error:
        lines += ["\n## Error\n", outcome.error]
    lines.append("\n## What was done\n")
    arguments: dict[str, str] = {}
    first_user_turn = True
    for event in run.events:
        match event:
            case RoundFinished(number=number, reasoning=reasoning):
                lines.append(f"### Round {number}")
                lines += [f"thought: {_shortened(reasoning)}"] if reasoning else []
            case CallStarted(call_id=call_id, arguments=sent):
                arguments[call_id] = sent
            case CallFinished():
                failed = "failed: " if event.is_error else ""
                lines.append(
                    f"- {event.server} {event.tool} {arguments.get(event.call_id, '')} ({event.seconds:.1f} s)"
                )
                lines.append(f"  {failed}{_shortened(event.text)}")
            case Warned(text=text) | JournalCut(reason=text) | ServerFailed(reason=text):
                lines.append(f"- note: {text}")
            case ServersChosen(left=left):
                lines.append(f"- servers started: {', '.join(event.explained())}")
                lines += [f"- not started at first: {', '.join(left)}"] if left else []
            case Noticed(notice=notice):
                lines.append(f"- {notice.kind}: {notice.text}")
            case MessageAdded(message=UserMessage(text)):
                lines += [] if first_user_turn else [f"- told the model: {text}"]
                first_user_turn = False
            case _:
                pass
    return "\n".join(lines)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_RESULT else f"{text[:_SHOWN_RESULT]} … ({len(text):,} characters)"


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= _SHOWN_TASK else f"{line[:_SHOWN_TASK]}…"


def _table(head: Sequence[str], rows: list[list[str]], *, empty: str) -> str:
    if not rows:
        return empty
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(head), ["---"] * len(head), *cells])
