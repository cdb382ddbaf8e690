"""What a run spared its caller: an estimate in tokens, net of what the bridge itself costs.

Counted for the caller are the results of the calls that went well and the definitions of the tools that were
called, each once: an agent that had done the work itself would have read them. Against it stand the definitions of
the bridge's own tools, the task, and all that comes back. Not counted, in favour of honesty: what such an agent would
have written to make the calls, and that it reads its whole context again with each of them.

How a request went, for a reader and as data: RunReport.

What a person may want to read about the bridge's world: models, servers, runs. As Markdown text.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmstudio_bridge.errors import BridgeError, RunNotFoundError
from lmstudio_bridge.events import (
    CallFinished,
    CallStarted,
    JournalCut,
    MessageAdded,
    Noticed,
    Outcome,
    RoundFinished,
    ServerFailed,
    ServersChosen,
    Warned,
)
from lmstudio_bridge.lmstudio.models import ModelCatalog, ModelInfo
from lmstudio_bridge.mcp_client.discovery import ServerCatalog
from lmstudio_bridge.mcp_client.pool import OpenServer
from lmstudio_bridge.messages import UserMessage
from lmstudio_bridge.runs.journal import Keep
from lmstudio_bridge.runs.resume import StoredRun, read_run
from lmstudio_bridge.security.permissions import Permissions

CHARS_PER_TOKEN = 4  # a rough average over English text, code and JSON
_DIGITS = 2  # that are shown of an estimate; more would be a claim
OWN_TOOLS = 5_900  # characters of our own tool definitions; tests/contract/test_server.py holds them below 6,000


@dataclass(frozen=True, slots=True)
class Savings:
    """Estimated tokens: `kept` the caller did not read, `spent` it read or wrote because of us."""

    kept: int
    spent: int

    @property
    def net(self) -> int:
        """What was saved; below zero where the call cost more than it spared."""
        return self.kept - self.spent

    def in_words(self) -> str:
        """A few words for a line of figures."""
        about = round(abs(self.net), _DIGITS - len(str(abs(self.net))))
        if self.net < 0:
            return f"cost the caller about {about:,} tokens more than it saved"
        return f"saved the caller about {about:,} tokens"


def estimate_savings(outcome: Outcome, *, given_back: int) -> Savings:
    """What a run saved that ended like this, where `given_back` characters went to the caller."""
    spent = OWN_TOOLS + outcome.brief + given_back
    return Savings(outcome.kept // CHARS_PER_TOKEN, spent // CHARS_PER_TOKEN)


_OWN_LINES = re.compile(
    r"^[ \t]*(?:\[(?:local model output|words of the local)|"  # the second: in results of earlier versions
    r"\[run \w|Note:|[\d,]+ calls? needed|Servers started:|\[The answer was cut)",
    re.IGNORECASE | re.MULTILINE,
)
"""Beginnings of what only the bridge says. Where they stand in an answer they are quoted, so that it forges none."""

_BRACKETS = re.compile(r"(\[secret[^\[\]]{0,40}\])|[\[\]]")  # but for the placeholder of a secret
_SHOWN_NAME = 200  # characters of a name that others made
_SHOWN_SOURCES = 10  # tools that the line about sources names
_SHOWN_REFUSALS = 10  # calls that the line about refused ones names
_SHOWN_SERVERS = 10  # that the line about servers names, of each kind


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a request went; `servers` are those whose tools were offered. `kept`: its journal has the answer."""

    run_id: str
    outcome: Outcome
    servers: tuple[str, ...]
    kept: bool = True

    def text(self, *, limit: int | None = None) -> str:
        """The report for a reader: the answer, what to know about it, and one line of figures.

        With a `limit` in characters the answer is cut at a paragraph to keep the whole within it.
        """
        answer = _quoted(self.outcome.answer)
        whole = self._text(answer)
        if limit is None or len(whole) <= limit:
            return whole
        whereabouts = f"the whole is in the resource {run_uri(self.run_id)}" if self.kept else "journals are off"
        note = f"\n\n[The answer was cut here; {whereabouts}.]"
        room = limit - (len(whole) - len(answer)) - len(note)
        if room < 0:  # it is not the answer that is long
            return f"{whole[: limit - len(note) - len(self._end()) - 2]}{note}\n\n{self._end()}"
        return self._text(_cut_at_paragraph(answer, room) + note)

    def structure(self) -> dict[str, Any]:
        """The report for a program, as JSON values."""
        outcome, savings = self.outcome, self.savings()
        return {
            "run_id": self.run_id,
            "stop": outcome.stop,
            "model": outcome.model,
            "servers": list(self.servers),
            "rounds": outcome.rounds,
            "calls": outcome.calls,
            "usage": asdict(outcome.usage),
            "saved": {"kept": savings.kept, "spent": savings.spent, "net": savings.net},
            "seconds": round(outcome.seconds, 3),
            "warnings": list(outcome.warnings),
            "sources": list(outcome.sources),
            "needed_write": list(outcome.needed_write),
            "not_started": list(outcome.not_started),
            "error": outcome.error,
        }

    def _text(self, answer: str) -> str:
        outcome, error = self.outcome, _quoted(self.outcome.error)
        notes = [_indented(f"Note: {warning}") for warning in dict.fromkeys(outcome.warnings)]
        match outcome.stop:
            case "answered":
                parts = [answer, *notes]
            case "failed" | "cancelled":
                so_far = f"The model's text so far:\n{answer}" if answer else ""
                parts = [error, so_far, *notes]
            case _:
                parts = [answer or "The model gave no answer.", *notes, f"Note: {_STOP_NOTES[outcome.stop]}"]
                if outcome.stop in ("context_full", "stuck"):  # how much room would be needed; why nothing was taken
                    parts.append(error)
        return "\n\n".join([*(part for part in (*parts, self._choice(), self._refusals()) if part), self._end()])

    def _end(self) -> str:
        """The last two lines: whose words the above are, and the figures."""
        sources = self.outcome.sources
        called = _listed(sources, most=_SHOWN_SOURCES) if sources else "none"
        return f"[Local model output; verify before relying on it. Tools called: {called}]\n{self.figures()}"

    def _choice(self) -> str:
        """One line about the servers, where they were chosen for the task."""
        outcome = self.outcome
        if not (outcome.started or outcome.not_started):
            return ""
        left = _listed(outcome.not_started, most=_SHOWN_SERVERS)
        others = f"; not started, nothing in the task asks for them: {left}" if left else ""
        return f"Servers started: {_listed(outcome.started, most=_SHOWN_SERVERS) or 'none'}{others}"

    def _refusals(self) -> str:
        """One line about the calls that were refused because the run could only read."""
        refused = list(dict.fromkeys(self.outcome.needed_write))
        if not refused:
            return ""
        total = len(self.outcome.needed_write)
        return f"{_count(total, 'call')} needed access=write: {_listed(refused, most=_SHOWN_REFUSALS)}"

    def savings(self) -> Savings:
        """What the run spared its caller, as an estimate."""
        return estimate_savings(self.outcome, given_back=len(self.outcome.answer) + len(self.outcome.error))

    def figures(self) -> str:
        """One line: run id, model, rounds, calls, tokens of the local model, seconds, and what it saved."""
        outcome, usage = self.outcome, self.outcome.usage
        return (
            f"[run {self.run_id} · {outcome.model or 'no model'} · {_count(outcome.rounds, 'round')} · "
            f"{_count(outcome.calls, 'call')} · {usage.prompt_tokens + usage.completion_tokens:,} tokens · "
            f"{outcome.seconds:.1f} s · {self.savings().in_words()}]"
        )


_STOP_NOTES = {
    "round_limit": "the limit of rounds was reached; the answer is from what was known by then. A higher max_rounds "
    "or a smaller task helps.",
    "deadline": "the time for the run was up; this is the text so far. A smaller task helps.",
    "context_full": "the model's context was full; this is the text so far. Load the model with a larger context.",
    "stuck": "the model got stuck; this is the text so far. A smaller task or another model helps.",
}


def run_uri(run_id: str) -> str:
    """The MCP resource in which the whole of a run can be read."""
    return f"lmstudio://runs/{run_id}"


def _cut_at_paragraph(text: str, room: int) -> str:
    """The beginning of `text` within `room` characters, cut where a paragraph or at least a line ends."""
    head = text[:room]
    for end in ("\n\n", "\n", " "):
        if (cut := head.rfind(end)) > room // 2:
            return head[:cut]
    return head


def _listed(names: Sequence[str], *, most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(map(_named, names[:most]))}{more}"


def _quoted(text: str) -> str:
    return _OWN_LINES.sub(r"> \g<0>", text)


def _named(name: str) -> str:
    """A name that others made, as a part of a line of ours: it can neither end the line nor its brackets."""
    plain = " ".join(_BRACKETS.sub(lambda found: found[1] or " ", name).split())
    return plain if len(plain) <= _SHOWN_NAME else f"{plain[:_SHOWN_NAME]}…"


def _indented(text: str) -> str:
    """A note whose further lines, which quote others, cannot be taken for lines of their own."""
    return "\n  ".join(text.splitlines())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
    ended = outcome.stop if run.finished else "not finished (the bridge ended, or it is still in progress)"
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
                lines += [f"reasoning: {_shortened(reasoning)}"] if reasoning else []
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
