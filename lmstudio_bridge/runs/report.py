"""What is told of runs, models and servers: RunReport for the caller, and tables and pages for people.

A report also says what the run spared its caller: an estimate in tokens, net of what the bridge itself costs. Counted
are the results of the calls that went well and the definitions of the tools that were called, each once: an agent that
had done the work itself would have read them. Against it stand the definitions of the bridge's own tools, once in a
session, the task, and all that comes back. Not counted, in favour of honesty: what such an agent would have written to
make the calls, and that it reads its whole context again with each of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from html import unescape
from itertools import takewhile
from pathlib import Path, PurePath
from textwrap import indent
from typing import TYPE_CHECKING, Any, get_args

from lmstudio_bridge import events
from lmstudio_bridge.agent.untrusted import without_delimiters
from lmstudio_bridge.errors import NoToolMayRunError
from lmstudio_bridge.lmstudio.models import ModelCatalog
from lmstudio_bridge.mcp_client.discovery import ServerCatalog
from lmstudio_bridge.mcp_client.logins import LoginStore
from lmstudio_bridge.messages import Access, UserMessage
from lmstudio_bridge.runs.item_rows import NO_CALLS, NONE_WORKED, item_rows, markdown_table, rows_as_json_lines
from lmstudio_bridge.runs.journal import Keep
from lmstudio_bridge.runs.resume import MAX_RUNS, StoredRun, newest_runs
from lmstudio_bridge.runs.tool_cache import ToolCache
from lmstudio_bridge.security.permissions import Permissions
from lmstudio_bridge.text import as_letters, clean_text, first_line, inert, one_line, quoted_name, shortened

if TYPE_CHECKING:  # it imports the MCP SDK: a second that commands like `runs` need not wait
    from lmstudio_bridge.mcp_client.pool import OpenServer

CHARS_PER_TOKEN = 4  # a rough average over English text, code and JSON
_DIGITS = 2  # that are shown of an estimate; more would be a claim
MAX_RESULT = 48_000  # characters; Claude Code puts results over 50,000 into a file

MODEL_COLUMNS = ("model", "kind", "state", "context", "slots", "trained for tools")
RUN_COLUMNS = ("run", "ended", "model", "tokens", "saved", "task")
SAVINGS_COLUMNS = ("day", "runs", "tokens kept from Claude", "cost of delegating", "saved")
_ALL_DAYS = "in all"  # sorts after every day
SERVER_COLUMNS = ("server", "transport", "state", "from")
_NOT_KEPT: dict[Keep, str] = {
    "full": "",
    "audit": "LMSTUDIO_BRIDGE_JOURNAL is audit: of new runs no task, answer or result is kept.",
    "off": "LMSTUDIO_BRIDGE_JOURNAL is off: new runs are not kept.",
}
_SHOWN_RESULT = 2_000  # characters of one tool result in a run's report

_BRACKETS = re.compile(r"(\[secret[^\[\]]{0,40}\])|[\[\]]")  # but for the placeholder of a secret
_SHOWN_NAME = 200  # characters of what others wrote in a line of ours
_SHOWN_FAILURES = 5  # calls that failed, a line each
_SHOWN_MISSING = 8  # facts in the line about what was not found
_SHOWN_MODEL = 80  # characters of its name in the last line
_FOOTER = 300  # characters of the last line
_MORE = 20  # of them, for how many tools are not named
_SHOWN_FAILED = 260  # characters of one call that failed, with its reason

_NOTHING_CHANGED: dict[Access, str] = {
    "write": "Nothing was changed.",
    "read": "Nothing was changed: this run could only read.",
}
_SHOWN_CHANGES = 8  # files in the line about what was changed
_SHOWN_DIFF = 40  # lines of it below the answer
_SHOWN_DIFF_LINE = 200  # characters of one
_LISTED_CHANGES = 200  # files for a program
_WASTED: tuple[events.Stop, ...] = ("failed", "cancelled")  # what such a run read spared its caller nothing
_NO_ANSWER = "The model gave no answer."
_HERE = "\ue0d6"  # a private character; stands for the answer
_LINE_END = re.compile("([\n\u2028\u2029])")
_REMOVED_LINE_END = re.compile(r"\r(?!\n)|[\x0b\x0c\x1c-\x1e\x85]")  # cleaning would join the lines
_BLANK = re.compile(r"[\s\u2800]*")
_MARKUP = re.compile(r"<[^<>]{0,200}>|!?\[\]\([^()]{0,200}\)")  # which is not seen where it is rendered
_BAR = re.compile(r"(?<=\w)[|\u2223\ufe31]")  # looks like an l
_NO_LETTERS = re.compile(r"[\W_]+")
_LAST_LINE = "localmodeloutput"
_DIGITS_AS_LETTERS = str.maketrans("10i", "lol")
_BEFORE = 3  # letters and digits that may be before it, as those of a list
_BRACKET = re.compile(r"""[^\w\s#*~`.>|:+"'{\u2022\u00b7\u2013\u2014\u2018\u201c\u201e-]|\{(?!\s*")""", re.ASCII)
"""A bracket, or what may look like one, but none of JSON."""
_GOES_ON = ("unver", "verif")
_LIKE_RUN = "".join(f"(?:{letter}|[^\\W\\x00-\\x7f])" for letter in "run")
_SIGNED = re.compile(rf"[\s*_`]*[\u00b7\u2022\u2219\u22c5\u30fb]|.*[^\w\s]\s*{_LIKE_RUN}\b\W*\w*\d")
_REST_OF_CELL = re.compile(r"[\s*_`]*\|")
_JOINED = 8  # lines that Markdown may show as one, and the beginning of our last one may be split over
_OWN_LINE = 200  # characters in which the beginning of a line is looked for
_OWN_LINES = re.compile(
    r"\[ ?(?:local model output|run \w|the (?:merged )?answer was cut)|note ?:|"
    r"merged from the answers|counted by the bridge ?:|not found in any answer ?:|"
    r"nothing was changed|also changed in|changed ?:|not changed ?:|undone since ?:|undo with ?:|"
    r"undo does not cover ?:|not found in anything that was read|failed ?:|and [\d,]+ more|read [\d,]+ of [\d,]+ |"
    r"the model's text so far ?:|the model gave no answer|"
    r"\[ ?words of the local|[\d,]+ calls? needed|servers started ?:"  # in results of earlier versions
)
"""Beginnings of what only the bridge says. Where they stand in an answer they are quoted, so that it forges none."""


@dataclass(frozen=True, slots=True)
class Savings:
    """Estimated tokens: `kept` the caller did not read, `spent` it read or wrote because of us."""

    kept: int
    spent: int

    @property
    def net(self) -> int:
        """What was saved; below zero where the call cost more than it spared."""
        return self.kept - self.spent

    def rounded(self) -> tuple[str, ...]:
        """What was kept, spent and saved with as many digits as an estimate has."""
        numbers = (self.kept, self.spent, self.net)
        return tuple(f"{round(number, _DIGITS - len(str(abs(number)))):,}" for number in numbers)


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a request went; `servers` are those whose tools were offered.

    `kept`: its journal has the answer. `can_undo`: what it changed can be put back, as far as copies were kept.
    """

    run_id: str
    outcome: events.Outcome
    servers: tuple[str, ...]
    kept: bool = True
    can_undo: bool = True

    def text(self, *, limit: int | None = None) -> str:
        """The report for a reader: what to know about the answer, the answer, and one line that says what it is.

        With a `limit` in characters the answer is cut at a paragraph to keep the whole within it.
        """
        answer = quoted(self.outcome.answer)
        whole = self._text(answer)
        if limit is None or len(whole) <= limit:
            return whole
        whereabouts = f"the whole is in the resource {run_uri(self.run_id)}" if self.kept else "journals are off"
        note = f"\n\n[The answer was cut here; {whereabouts}.]"
        room = limit - (len(whole) - len(answer)) - len(note)
        if room < 0:  # it is not the answer that is long
            return f"{whole[: limit - len(note) - len(self._footer()) - 2]}{note}\n\n{self._footer()}"
        return self._text(_cut_at_paragraph(answer, room) + note)

    def around_answer(self) -> tuple[str, str, str]:
        """The text before the answer, the answer, and the text after it; without an answer all is in the first."""
        answer = inert(quoted(self.outcome.answer)).strip("\n")
        if not answer or self.outcome.error:
            return self.text(), "", ""
        before, _, after = self._text(_HERE).partition(_HERE)  # the words of a short answer may stand before it, too
        return before, answer, after

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
            "failed": list(outcome.failed),
            "nothing_changed": outcome.nothing_changed,
            "changes": _changes_json(outcome.changes),
            "grounding": {
                "sources": list(outcome.rests_on),
                "missing": list(outcome.missing),
                "coverage": outcome.coverage,
            },
            "needed_write": list(outcome.needed_write),
            "started": list(outcome.started),
            "not_started": list(outcome.not_started),
            "error": outcome.error,
        }

    def as_json(self) -> dict[str, Any]:
        """The whole answer, and the report for a program."""
        return {"answer": self.outcome.answer, **self.structure()}

    def _text(self, answer: str) -> str:
        outcome = self.outcome
        head = "\n".join(self._head())
        if outcome.stop == "answered":
            parts = [head, answer]
        else:
            parts = [self._reason(), head, "The model's text so far:\n" + answer.strip("\n") if answer.strip() else ""]
        parts += self._changes()
        return inert("\n\n".join([*(part.strip("\n") for part in parts if part.strip()), self._footer()]))

    def _reason(self) -> str:
        """Why a run ended without an answer."""
        outcome, error = self.outcome, quoted(self.outcome.error)
        _, reason = events.STATES[outcome.stop]
        if not reason:
            return error
        if error and outcome.stop in ("context_full", "stuck"):  # how much room would be needed; why nothing was taken
            return f"{reason}\n{error}"
        return reason if outcome.answer else f"{reason} {_NO_ANSWER}"

    def _head(self) -> list[str]:
        """What to know before the answer is read, a line each."""
        outcome = self.outcome
        lines = [_nothing_changed(outcome)] if outcome.nothing_changed else []
        if outcome.missing:
            lines.append(f"Not found in anything that was read: {_listed(outcome.missing, most=_SHOWN_MISSING)}")
        lines += [f"Failed: {_in_line(failed, most=_SHOWN_FAILED)}" for failed in outcome.failed[:_SHOWN_FAILURES]]
        if (more := len(outcome.failed) - _SHOWN_FAILURES) > 0:
            lines.append(f"and {more} more")
        has_called = outcome.calls or outcome.called or outcome.failed or outcome.continued  # else the footer says it
        lines += [_in_line(outcome.coverage)] if outcome.coverage and has_called else []
        # Further lines of a note quote others: indented, they cannot be taken for lines of their own.
        return [*lines, *("\n  ".join(f"Note: {note}".splitlines()) for note in dict.fromkeys(outcome.notes))]

    def _changes(self) -> list[str]:
        """Which files were changed and how, with a small diff, and how to undo it."""
        outcome = self.outcome
        changed = shown_changes(outcome.changes)
        beside = [f"{_in_line(quoted_name(each.path))} ({each.source})" for each in _beside(outcome.changes)]
        also = [f"Also changed in the meantime, as git says: {_listed(beside, most=_SHOWN_CHANGES, show=str)}"]
        if not changed or not changed[0].path:  # the journal has only numbers
            return also if beside else []
        lines = [f"{'Undone since' if outcome.undone else 'Changed'}: {_listed_changes(changed)}"]
        if unchanged := [each for each in outcome.changes if each.kind == "unchanged"]:
            lines.append(f"Not changed: {_listed([each.path for each in unchanged], most=_SHOWN_CHANGES)}")
        if self.can_undo and not outcome.undone and any(each.kept for each in changed):
            lines.append(f"Undo with: lmstudio-bridge runs undo {self.run_id}")
            if outcome.not_kept:
                lines.append(f"Undo does not cover: {_listed(outcome.not_kept, most=_SHOWN_CHANGES, show=str)}")
        return ["\n".join([*lines, *(also if beside else [])]), self._short_diff(changed)]

    def _short_diff(self, changed: Sequence[events.FileChange]) -> str:
        """The changed lines in a fenced block; "" if there are none that can be shown."""
        # Without context, each line begins with a mark, so that none can look like one of ours.
        lines = [
            shortened(one_line(line), _SHOWN_DIFF_LINE)
            for each in changed
            for line in each.diff.split("\n")
            if line[:1] in ("-", "+", "@")
        ]
        if not lines:
            return ""
        hidden = len(lines) - _SHOWN_DIFF
        if hidden > 0:
            where = f"`lmstudio-bridge runs show {self.run_id} --diff` has them" if self.kept else "journals are off"
            lines[_SHOWN_DIFF:] = [f"… {hidden:,} more lines; {where}"]
        text = "\n".join(lines)
        return f"{_fence(text)}diff\n{text}\n{_fence(text)}"

    def _footer(self) -> str:
        """The last line: whose words the above are, and what they come from; without text of the model only the run."""
        if not self.outcome.answer.strip():
            return f"[run {self.run_id}]"
        return self._signed(self._called(room=_FOOTER - len(self._signed(""))))

    def _signed(self, *parts: str) -> str:
        model = named_in_line(self.outcome.model, most=_SHOWN_MODEL) or "no model"
        return f"[Local model output, unverified · {' · '.join((model, *parts))} · run {self.run_id}]"

    def _called(self, *, room: int) -> str:
        """The calls that worked, in at most that many characters."""
        called = [_unbroken(each) for each in self.outcome.called]
        if not called:
            if self.outcome.failed or self.outcome.calls:
                return NONE_WORKED
            if self.outcome.continued:
                return "no further tool calls"
            return shortened(f"{NO_CALLS}, {one_line(self.outcome.coverage)}".rstrip(", "), room)
        if len(whole := ", ".join(called)) <= room:
            return whole
        room -= _MORE
        shown = 1
        while shown < len(called) and len(", ".join(called[: shown + 1])) <= room:
            shown += 1
        text = ", ".join(called[:shown])
        text = text if len(text) <= room else f"{text[: room - 1]}…"
        more = len(called) - shown
        return f"{text} and {more} more" if more else text

    def savings(self) -> Savings:
        """What the run spared its caller, as an estimate; one that failed at once cost nothing, either."""
        if self.outcome.stop == "failed" and not (self.outcome.rounds or self.outcome.kept):
            return Savings(0, 0)
        spent = self.outcome.brief + len(self.text(limit=MAX_RESULT))
        kept = 0 if self.outcome.stop in _WASTED else self.outcome.kept
        return Savings(kept // CHARS_PER_TOKEN, spent // CHARS_PER_TOKEN)

    def saved(self) -> str:
        """What the run spared its caller, in a few words; "" for one that brought nothing, or cost as much."""
        savings = self.savings()
        kept, spent, _ = savings.rounded()
        return f"kept ~{kept} tokens out of Claude's context; delegating cost ~{spent}" if savings.net > 0 else ""


def shown_changes(changes: Iterable[events.FileChange]) -> list[events.FileChange]:
    """Those that changed something, without folders of which a file is told."""
    changed = [each for each in changes if each.kind not in ("unchanged", "beside")]
    parents = {parent for each in changed for path in (each.path, each.source) for parent in PurePath(path).parents}
    return [each for each in changed if PurePath(each.path) not in parents]


def _beside(changes: Iterable[events.FileChange]) -> list[events.FileChange]:
    """Those that no call named; the journal may have only their number."""
    return [each for each in changes if each.kind == "beside" and each.path]


def _listed_changes(changed: Sequence[events.FileChange]) -> str:
    more = f" and {len(changed) - _SHOWN_CHANGES} more" if len(changed) > _SHOWN_CHANGES else ""
    return ", ".join(map(_change_line, changed[:_SHOWN_CHANGES])) + more


def _change_line(change: events.FileChange) -> str:
    """A changed file and how it changed, as a part of a line of ours."""
    kind = {"changed": "", "moved": f"moved from {_in_line(quoted_name(change.source))}"}.get(change.kind, change.kind)
    added = f"+{change.added:,}" if change.added else ""
    removed = f"\N{MINUS SIGN}{change.removed:,}" if change.removed else ""
    counts = " ".join(part for part in (added, removed) if part)
    return f"{_in_line(quoted_name(change.path))} ({', '.join(part for part in (kind, counts) if part) or 'changed'})"


def _nothing_changed(outcome: events.Outcome) -> str:
    """That nothing was changed, with the files that calls which worked left as they were."""
    named = [each.path for each in outcome.changes if each.path and each.kind != "beside"]
    if not named:
        return _NOTHING_CHANGED[outcome.access]
    verb = "is as it was" if len(named) == 1 else "are as they were"
    return f"Nothing was changed: {_listed(named, most=_SHOWN_CHANGES)} {verb}."


def _changes_json(changes: Sequence[events.FileChange]) -> dict[str, Any]:
    shown = [*shown_changes(changes), *(each for each in changes if each.kind in ("unchanged", "beside"))]
    kinds: tuple[events.ChangeKind, ...] = get_args(events.ChangeKind)
    files = [
        {"path": each.path, "kind": each.kind, "added": each.added, "removed": each.removed, "source": each.source}
        for each in shown[:_LISTED_CHANGES]
    ]
    return {**{kind: sum(each.kind == kind for each in shown) for kind in kinds}, "files": files}


def diff_lines(told: Iterable[events.Event]) -> list[str]:
    """What a run changed, and what an undo put back, with whole diffs; empty if nothing was changed."""
    lines: list[str] = []
    for event in told:
        if isinstance(event, events.FilesChanged) and event.folder and (changed := shown_changes(event.changes)):
            lines += ["Undone:"] if event.is_undo else []
            for change in changed:
                lines += [_change_line(change), *([change.diff] if change.diff else [])]
        if isinstance(event, events.FilesChanged):
            lines += [f"{one_line(each.path)} ({each.source}, as git says)" for each in _beside(event.changes)]
    return lines


def _fence(text: str) -> str:
    """A fence of Markdown that nothing in the text closes."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))


def report_of(run: StoredRun) -> RunReport:
    if run.items:
        from lmstudio_bridge.runs.items_report import ItemsReport  # it is built on this module

        return ItemsReport(run.run_id, run.outcome, run.servers, items=run.items)
    return RunReport(run.run_id, run.outcome, run.servers)


def savings_rows(runs: Iterable[StoredRun]) -> list[list[str]]:
    """What the runs spared their callers, under `SAVINGS_COLUMNS`: by day, the newest first, and in all."""
    days: dict[str, list[Savings]] = {}
    for run in runs:
        savings = report_of(run).savings()
        for day in (run.time.partition(" ")[0], _ALL_DAYS):
            days.setdefault(day, []).append(savings)
    rows = []
    for day in sorted(days, reverse=True):
        whole = Savings(sum(each.kept for each in days[day]), sum(each.spent for each in days[day]))
        rows.append([day, str(len(days[day])), *(f"~{tokens}" for tokens in whole.rounded())])
    return [*rows[1:], *rows[:1]]


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


def _listed(names: Sequence[str], *, most: int, show: Callable[[str], str] = quoted_name) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(_in_line(show(name)) for name in names[:most])}{more}"


def quoted(text: str) -> str:
    """The text of a model or a server, of which no line looks like one of ours, and on which no host acts."""
    lines = _LINE_END.split(inert(clean_text(_REMOVED_LINE_END.sub("\n", text))[0]))
    return "".join(
        f"> {line}" if _looks_like_ours(line, lines[at + 2 : at + 2 * _JOINED : 2]) else line
        for at, line in enumerate(lines)
    )


def _looks_like_ours(line: str, below: Sequence[str]) -> bool:
    shown = as_letters(_BLANK.sub("", line, count=1)[:_OWN_LINE])
    if line.strip() and len(_NO_LETTERS.sub("", line)) <= len(_LAST_LINE) + _BEFORE:
        line = " ".join((line, *takewhile(str.strip, below)))
    return _OWN_LINES.match(shown) is not None or _looks_like_last_line(line[:_OWN_LINE])


def _looks_like_last_line(line: str) -> bool:
    """Whether a line begins as our last one, whatever is around and between the letters.

    A letter of another alphabet may look like any of ours. The words alone, without a bracket or what follows them in
    our line, are those of a sentence or of a table.
    """
    shown = as_letters(_BAR.sub("l", _MARKUP.sub("", unescape(line))))
    for start in range(_BEFORE + 1):
        parts = re.match(
            rf"((?:[\W_]*[^\W_]){{{start}}}[\W_]*)((?:[^\W_][\W_]*){{{len(_LAST_LINE) - 1}}}[^\W_])", shown
        )
        if not parts:
            return False
        letters = _NO_LETTERS.sub("", parts[2]).translate(_DIGITS_AS_LETTERS)
        others = [one for one, other in zip(letters, _LAST_LINE, strict=True) if one != other]
        if 2 * len(others) > len(_LAST_LINE) or any(each <= "\x7f" for each in others):
            continue
        before, after = parts[1], shown[parts.end() :]
        rest = _NO_LETTERS.sub("", after).translate(_DIGITS_AS_LETTERS).replace("l", "i")
        is_cell = "|" in before and not _REST_OF_CELL.match(after)
        if rest.startswith(_GOES_ON) or _BRACKET.search(before) or is_cell or _SIGNED.match(after):
            return True
    return False


def _in_line(text: str, *, most: int = _SHOWN_NAME) -> str:
    """What others wrote, as a part of a line of ours, which it cannot end."""
    return shortened(" ".join(text.split()), most)


def named_in_line(name: str, *, most: int = _SHOWN_NAME) -> str:
    """A name that others made, as a part of a line of ours: it can neither end the line nor its brackets."""
    return _in_line(_BRACKETS.sub(lambda found: found[1] or " ", name).replace("·", " "), most=most)


def _unbroken(called: str) -> str:
    """Calls of one tool as a part of the last line: what they are about cannot look like further calls."""
    name, opened, about = named_in_line(called).partition(" (")
    name, about = name.replace(", ", " "), about.rstrip(")").replace("), ", " ").replace(") and ", " ")
    return f"{name} ({about})" if opened else name


def models_text(catalog: ModelCatalog) -> str:
    """A table of the models: loaded or not, context, slots, tools."""
    rows = model_rows(catalog)
    return markdown_table(MODEL_COLUMNS, rows) if rows else "No models."


def model_rows(catalog: ModelCatalog) -> list[list[str]]:
    """One row a model, under `MODEL_COLUMNS`."""
    states = {True: "loaded", False: "not loaded", None: "not told"}
    rows = []
    for model in catalog.models:
        instances = model.instances or ()
        contexts = ", ".join(f"{instance.context_length:,}" for instance in instances if instance.context_length)
        slots = ", ".join(str(instance.parallel) for instance in instances if instance.parallel)
        most = f"up to {model.max_context_length:,}" if model.max_context_length else ""
        tools = {True: "yes", False: "no", None: ""}[model.trained_for_tool_use]
        rows.append([model.key, model.kind, states[model.loaded], contexts or most, slots, tools])
    return rows


def servers_text(
    catalog: ServerCatalog,
    permissions: Permissions,
    opened: Iterable[OpenServer],
    tool_cache: ToolCache,
    logins: LoginStore,
) -> str:
    """A table of the configured MCP servers, whether each is open, why one is left out, and which rules apply."""
    rows = server_rows(catalog, logins, opened)
    text = markdown_table(SERVER_COLUMNS, rows) if rows else "No MCP servers are configured."
    remedies = [catalog.refusal(name).remedy for name in sorted(catalog.unapproved)]
    unusable = unusable_servers(catalog, permissions, tool_cache)
    warnings = [*catalog.warnings, *permissions.warnings, *catalog.remarks, *unusable]
    rules = [f"- {line}" for line in permissions.lines()]
    return "\n".join(
        [text, "", *rules, *(f"\n{remedy}" for remedy in remedies), *(f"\nWarning: {each}" for each in warnings)]
    )


def unusable_servers(catalog: ServerCatalog, permissions: Permissions, tool_cache: ToolCache) -> list[str]:
    """A sentence for each server of whose tools, as it listed them last, none may run with read access."""
    found = []
    for config in catalog.servers.values():
        try:
            permissions.check_usable(tool_cache.known_tools(config) or ())
        except NoToolMayRunError as exc:
            found.append(exc.explain())
    return found


def server_rows(catalog: ServerCatalog, logins: LoginStore, opened: Iterable[OpenServer] = ()) -> list[list[str]]:
    """One row a configured server, under `SERVER_COLUMNS`; `opened` are those that a pool holds."""
    uses: dict[str, list[str]] = {}
    for server in opened:
        use = f"open, used by {server.users}" if server.users else f"open, unused for {server.idle:.0f} s"
        uses.setdefault(server.server, []).append(use)
    for name, config in catalog.servers.items():
        if logins.has(config):
            uses.setdefault(name, []).insert(0, "logged in")
    rows = [
        [name, config.transport, "; ".join(["usable", *uses.get(name, ())]), f"{config.scope}: {config.source}"]
        for name, config in sorted(catalog.servers.items())
    ]
    rows += [
        [name, config.transport, catalog.held_because(config), f"{config.scope}: {config.source}"]
        for name, config in sorted(catalog.unapproved.items())
    ]
    return [*rows, *([name, "", f"left out: {reason}", ""] for name, reason in sorted(catalog.skipped.items()))]


def runs_text(folder: Path, *, project: str, keep: Keep = "full") -> str:
    """A table of the newest runs, this project's first, and whether more are added."""
    runs = newest_runs(folder, most=MAX_RUNS, first=project)
    rows = [[run.time, run.project, str(run.outcome.rounds), *run_row(run)] for run in runs]
    table = markdown_table(("time", "project", "rounds", *RUN_COLUMNS), rows) if rows else "No runs yet."
    return "\n\n".join(part for part in (_NOT_KEPT[keep], table) if part)


def run_row(run: StoredRun) -> list[str]:
    """One row, under `RUN_COLUMNS`: the tokens of the local model, and what it saved, below zero if it cost more."""
    outcome = run.outcome
    ended, tokens, saved = events.STATES[run.state][0], outcome.usage.total, report_of(run).savings().net
    return [run.run_id, ended, outcome.model, f"{tokens:,}", f"{saved:,}", first_line(run.task)]


def run_json(run: StoredRun) -> dict[str, Any]:
    """A run for a program: as in a result's `_meta`, with task, answer, and when it began."""
    report = report_of(run).structure()
    about = {"started_at": run.started_at, "finished": run.finished, "task": run.task, "answer": run.outcome.answer}
    rows = {"rows": item_rows(run.items, access=run.outcome.access)} if run.items else {}
    return {**report, **about, **rows, "project": run.project, **({"stop": run.state} if run.running else {})}


def run_text(run: StoredRun, *, delimited: bool = True, table: str = "") -> str:
    """The report of one run: the whole answer, and what was done for it; for people without the results' delimiters.

    Items are a row of JSON each, unless there is a `table` of them.
    """
    outcome = run.outcome
    lines = [
        f"# Run {run.run_id}",
        f"- started: {run.time}",
        *([f"- project: {run.project}"] if run.project else []),
        f"- ended: {events.STATES[run.state][0]}",
        f"- model: {outcome.model}",
        f"- MCP servers: {', '.join(run.servers)}",
        f"- {outcome.figures()}",
        *(f"- {saved}" for saved in [report_of(run).saved()] if saved),
        "\n## Task\n",
        run.task.strip("\n"),
        *_answer(run, table),
        *_evidence(outcome),
    ]
    if diff := "\n".join(diff_lines(run.events)):
        lines += ["\n## Changes\n", f"{_fence(diff)}diff", diff, _fence(diff)]
    if outcome.error:
        lines += ["\n## Error\n", outcome.error]
    lines.append(heading := "\n## What was done\n")
    arguments: dict[str, str] = {}
    first_user_turn = True
    for event in run.events:
        match event:
            case events.RoundFinished(number=number, reasoning=reasoning, calls=calls):
                lines.append(f"\n### Round {number}\n")
                lines += [] if calls else ["- no tool call"]
                lines += [f"reasoning: {_shortened(reasoning)}"] if reasoning else []
            case events.CallStarted(call_id=call_id, arguments=sent):
                arguments[call_id] = sent
            case events.CallFinished():
                failed = "failed: " if event.is_error else ""
                lines.append(
                    f"- {event.server} {event.tool} {arguments.get(event.call_id, '')} ({event.seconds:.1f} s)"
                )
                result = event.text if delimited else without_delimiters(event.text).strip("\n")
                lines.append(indent(f"{failed}{_shortened(result)}", "  "))
            case events.Warned(text=text) | events.JournalCut(reason=text) | events.ServerFailed(reason=text):
                lines.append(f"- note: {text}")
            case events.ServersChosen(left=left):
                lines.append(f"- servers started: {', '.join(event.explained())}")
                lines += [f"- not started at first: {', '.join(left)}"] if left else []
            case events.Noticed(notice=notice):
                lines.append(f"- {notice.kind}: {notice.text}")
            case events.MessageAdded(message=UserMessage(text)):
                lines += [] if first_user_turn else [f"- told the model: {text}"]
                first_user_turn = False
            case _:
                pass
    return "\n".join(lines[:-1] if lines[-1] is heading else lines)


def _answer(run: StoredRun, table: str) -> list[str]:
    """The answer, or a row for each item, under a heading."""
    answer = quoted(run.outcome.answer.strip("\n"))
    if run.items is None:
        return ["\n## Answer\n", answer or "(none)"]
    merged = ["\n## Merged answer\n", answer] if answer else []
    if table:
        return [*merged, "\n## Items\n", table]
    rows = rows_as_json_lines(item_rows(run.items, access=run.outcome.access))
    return [*merged, "\n## Items\n", f"{_fence(rows)}json", rows, _fence(rows)]


def _evidence(outcome: events.Outcome) -> list[str]:
    """What the answer rests on and what went wrong, under headings of their own."""
    parts = {
        "Failed calls": [*([_nothing_changed(outcome)] if outcome.nothing_changed else []), *outcome.failed],
        "Not found in anything that was read": outcome.missing,
        "Sources": [*outcome.rests_on, *([outcome.coverage] if outcome.coverage else [])],
        "Calls that worked": outcome.called,
    }
    return [
        line
        for title, lines in parts.items()
        if lines
        for line in (f"\n## {title}\n", *(f"- {_in_line(line)}" for line in lines))
    ]


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_RESULT else f"{text[:_SHOWN_RESULT]} … ({len(text):,} characters)"
