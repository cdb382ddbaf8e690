"""`lmstudio-bridge models`, `servers` and `runs`: what there is, as tables, JSON or pages."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path

from rich.cells import cell_len

from lmstudio_bridge.cli.arguments import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from lmstudio_bridge.cli.terminal import open_console, print_formatted, print_table, refusal
from lmstudio_bridge.errors import RunActiveError, RunNotFoundError, SettingsError
from lmstudio_bridge.events import FilesChanged
from lmstudio_bridge.files import open_private
from lmstudio_bridge.mcp_client.approvals import EntryStore, KnownEntry
from lmstudio_bridge.mcp_client.discovery import ServerCatalog, servers_of_settings
from lmstudio_bridge.mcp_client.logins import LoginStore
from lmstudio_bridge.runs import changes, journal, report
from lmstudio_bridge.runs.item_rows import item_rows, rows_as_csv, rows_as_json_lines
from lmstudio_bridge.runs.resume import LAST, StoredRun, find_run, item_runs, newest_runs, running_runs
from lmstudio_bridge.runs.tool_cache import ToolCache
from lmstudio_bridge.security.permissions import read_permissions
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.security.secrets import secrets_of_entry
from lmstudio_bridge.settings import Settings
from lmstudio_bridge.text import as_shown, clean_text, one_line

_DAY = 86_400  # seconds
_SHOWN_DAYS = 7


async def show_models(settings: Settings, args: argparse.Namespace, redactor: Redactor) -> int:
    """List the models in LM Studio."""
    from lmstudio_bridge.runs.autonomous import open_agent  # imports the MCP SDK: a second that `runs` need not wait

    async with open_agent(settings, environ=os.environ, redactor=redactor) as agent:
        catalog = await agent.client.validator.catalog(refresh=True)
    if args.json:
        print(json.dumps([asdict(model) for model in catalog.models], ensure_ascii=False))
    else:
        print_table(report.MODEL_COLUMNS, report.model_rows(catalog), empty="LM Studio has no models.")
    return EXIT_OK


def show_servers(settings: Settings, args: argparse.Namespace, redactor: Redactor) -> int:
    """List the configured MCP servers, or approve one; warnings about the configuration files go to stderr."""
    catalog = servers_of_settings(settings, environ=os.environ)
    if args.approve is not None:
        return _approve(catalog, args, redactor, home=settings.home)
    rows = report.server_rows(catalog, LoginStore(settings.home / "logins", learn=redactor.learn))
    if args.json:
        print(json.dumps([dict(zip(report.SERVER_COLUMNS, row, strict=True)) for row in rows], ensure_ascii=False))
    else:
        empty = "No MCP server can be used." if catalog.warnings else "No MCP servers are configured."
        print_table(report.SERVER_COLUMNS, rows, empty=empty)
    remedies = [catalog.refusal(name).remedy for name in sorted(catalog.unapproved)]
    try:
        permissions = read_permissions(catalog.servers.values(), project=settings.project, environ=os.environ)
        unusable = report.unusable_servers(catalog, permissions, ToolCache(settings.home / "catalogues"))
    except SettingsError as exc:  # a rule file cannot be used
        unusable = [exc.explain()]
    for line in (*catalog.warnings, *catalog.remarks, *remedies, *unusable):
        print(one_line(line), file=sys.stderr)
    return EXIT_OK


def _approve(catalog: ServerCatalog, args: argparse.Namespace, redactor: Redactor, *, home: Path) -> int:
    config = catalog.unapproved.get(args.approve) or catalog.require(args.approve)
    if config.scope != "project" or config.source is None:
        print(f"{config.name} needs no approval: it comes from {config.source}, not from a project.", file=sys.stderr)
        return EXIT_OK
    redactor.learn(secrets_of_entry(config))
    starts = shlex.join([config.command, *config.args]) if config.transport == "stdio" else config.url
    print(clean_text(redactor.redact(f"{config.name} in {config.source}: {one_line(starts)}"))[0])
    if config.env:
        print(clean_text(f"It sets {', '.join(sorted(config.env))}.")[0])
    if not args.yes and (refused := refusal("Approve it?", done="approved", use="approve it")):
        return refused
    trouble: list[str] = []
    known = KnownEntry(digest=config.entry_digest, approved=True)
    EntryStore(home).record(config.source, {config.name: known}, warnings=trouble)
    print(*(trouble or ["Approved until its entry changes."]), file=sys.stderr)
    return EXIT_FAILED if trouble else EXIT_OK


def show_runs(settings: Settings, args: argparse.Namespace, redactor: Redactor) -> int:
    """List, show, undo or delete runs, as `args.action` says."""
    folder = settings.home / "runs"
    match args.action:
        case "show":
            return _show_run(folder, args)
        case "undo":
            return _undo_run(settings, args, redactor)
        case "delete":
            return _delete_runs(folder, args)
        case _:
            return _list_runs(folder, args)


def _list_runs(folder: Path, args: argparse.Namespace) -> int:
    runs = list(newest_runs(folder, most=args.limit))
    if args.json:
        print(json.dumps([report.run_json(stored) for stored in runs], ensure_ascii=False))
    else:
        print_table(report.RUN_COLUMNS, map(report.run_row, runs), empty="No runs yet.")
        print_savings(folder)
    return EXIT_OK


def print_savings(folder: Path) -> None:
    """A table of what the stored runs spared Claude on each of the newest days and in all; nothing without runs."""
    rows = report.savings_rows(run for run in newest_runs(folder, most=sys.maxsize) if not run.running)
    if rows:
        print()
        shown = [*rows[:-1][:_SHOWN_DAYS], rows[-1]]
        print_table(report.SAVINGS_COLUMNS, shown, empty="")


def _show_run(folder: Path, args: argparse.Namespace) -> int:
    stored = find_run(folder, args.run_id)
    if args.html:
        _write_page(folder, stored, Path(args.html))
    elif args.as_json:
        print(json.dumps(report.run_json(stored), ensure_ascii=False))
    elif args.jsonl or args.csv:
        if stored.items is None:
            print("This run has no items: it was not started with for_each.", file=sys.stderr)
            return EXIT_FAILED
        rows = item_rows(stored.items, access=stored.outcome.access)
        print(clean_text(rows_as_csv(rows) if args.csv else rows_as_json_lines(rows))[0].rstrip("\n"))
    elif args.diff:
        events = [event for run in (stored, *item_runs(folder, stored)) for event in run.events]
        print(clean_text("\n".join(report.diff_lines(events)) or "This run changed no files.")[0])
    else:
        _print_run(stored)
    return EXIT_OK


def _print_run(stored: StoredRun) -> None:
    """The whole run; items as rows of JSON, or in a terminal as a table, if it fits and every reason and note, too."""
    if stored.items and sys.stdout.isatty():
        before, table, _ = report.report_of(stored).around_answer()
        rows = item_rows(stored.items, access=stored.outcome.access)
        told = (one_line(each) for row in rows for each in (row["reason"], *row["notes"]))
        if _width(table) <= open_console(sys.stdout, environ=os.environ).width and all(each in before for each in told):
            text = report.run_text(stored, delimited=False, table=before + table)
            print_formatted(*map(as_shown, text.partition(table)), stream=sys.stdout)
            return
    print(as_shown(report.run_text(stored, delimited=False)))


def _width(table: str) -> int:
    """How many columns of a terminal a table in Markdown takes, with all cells in one line."""
    lines = (line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table.splitlines())
    return sum(max(map(cell_len, cells)) + len(" | ") for cells in zip_longest(*lines, fillvalue=""))


def _undo_run(settings: Settings, args: argparse.Namespace, redactor: Redactor) -> int:
    from lmstudio_bridge.runs.autonomous import configured_secrets, read_servers  # as in `show_models`

    folder = settings.home / "runs"
    stored = find_run(folder, args.run_id)
    settings = settings.model_copy(update={"project": Path(stored.project or settings.project)})  # what is shown is its
    read_servers(settings, environ=os.environ, redactor=redactor)
    redactor.learn(configured_secrets(settings, os.environ))
    writing = [
        run.run_id
        for run in running_runs(folder)
        if run.project == stored.project and run.outcome.access == "write" and not run.run_id.startswith(stored.run_id)
    ]
    if writing:
        print(f"Still running, and changing files in the same folder: {', '.join(writing)}.", file=sys.stderr)
        if args.yes:
            print("Nothing was undone. Wait until it has ended.", file=sys.stderr)
            return EXIT_FAILED
    if stored.items:
        return _undo_items(folder, stored, args, redactor)
    code = _undo_one(folder, stored, redactor, yes=args.yes)
    if journal.is_item_run(stored.run_id):
        with suppress(RunNotFoundError, RunActiveError):
            _tell_undone(folder, stored.run_id.rpartition("-")[0])
    return code


def _tell_undone(folder: Path, run_id: str) -> None:
    """Keep in the journal of a run over many items what of theirs is put back now."""
    undone = [
        int(run.run_id.rpartition("-")[2])
        for run in item_runs(folder, find_run(folder, run_id))
        if changes.may_have_changed(run.events)
        and not (changes.standing_changes(run.events) or changes.was_cut_off(run.events))
    ]
    with journal.open_journal(folder, run_id) as opened:
        opened.keep(FilesChanged("", (), is_undo=True, undone=tuple(undone)))


def _undo_items(folder: Path, stored: StoredRun, args: argparse.Namespace, redactor: Redactor) -> int:
    """Undo what all items changed, the last first; if all is undone, take that back."""
    journal.check_not_active(folder, stored.run_id)
    items = item_runs(folder, stored)
    lost = [run for run in items if run.cut and run.outcome.access == "write" and changes.lost_changes(run.events)]
    known = [run for run in lost if changes.Copies(journal.copies_folder(folder, run.run_id)).read_note()]
    changed = [run for run in items if changes.may_have_changed(run.events) or run in known]
    standing = [
        run
        for run in reversed(changed)
        if changes.standing_changes(run.events) or changes.was_cut_off(run.events) or run in known
    ]
    to_undo = [run for run in standing if not _only_reverts(folder, run, redactor)]
    runs = to_undo or changed
    _say_folder(*(event.folder for run in runs for event in run.events if isinstance(event, FilesChanged)))
    print(
        clean_text(
            "\n".join(line for run in runs for line in report.diff_lines(run.events)) or "There is nothing to undo."
        )[0]
    )
    # A revert is no reason to tell again what no undo covers.
    others = [run for run in items if run not in changed] if to_undo or not changed else []
    told = (event for run in others for event in run.events if isinstance(event, FilesChanged))
    left = dict.fromkeys(each for event in told for each in event.not_kept)
    left |= {f"what run {run.run_id} changed is not known: {run.cut}": None for run in others if run in lost}
    _say_left(left)
    if not runs:
        return EXIT_FAILED if left else EXIT_OK
    if not args.yes and (refused := _refuses_undo()):
        return refused
    code = max(_undo_one(folder, run, redactor, yes=True, whole=stored.run_id) for run in runs)
    _tell_undone(folder, stored.run_id)
    return EXIT_FAILED if left else code


def _only_reverts(folder: Path, run: StoredRun, redactor: Redactor) -> bool:
    """Whether nothing can be put back that the last undo of a run left alone."""
    last = next((event for event in reversed(run.events) if isinstance(event, FilesChanged)), None)
    if last is None or not last.is_partial:
        return False
    copies = changes.Copies(journal.copies_folder(folder, run.run_id), max_bytes=2 * changes.MAX_BYTES)
    return changes.plan_undo(run.events, copies=copies, redact=redactor.redact).is_revert


def _refuses_delete(given: Sequence[str], run_ids: Sequence[str]) -> int:
    """Why these runs may not be deleted, as an exit code; `EXIT_OK` if they may."""
    if sys.stdin.isatty():
        print("\n".join(run_ids))
    elif LAST not in given:  # a script that names what it deletes
        return EXIT_OK
    runs = "these runs" if len(run_ids) > 1 else "this run"
    return refusal(f"Delete {runs} permanently?", done="deleted", use="delete it")


def _refuses_undo() -> int:
    return refusal("Put these files back?", done="undone", use="undo it")


def _undo_one(folder: Path, stored: StoredRun, redactor: Redactor, *, yes: bool, whole: str = "") -> int:
    """Undo what a run changed, which may be that of an item of the `whole`; if all is undone, take that back."""
    journal.check_not_active(folder, stored.run_id)
    # Of what an undo takes away there are copies, too.
    copies = changes.Copies(journal.copies_folder(folder, stored.run_id), max_bytes=2 * changes.MAX_BYTES)
    events = list(stored.events)
    recalled = None
    if changes.was_cut_off(events) or (changes.lost_changes(events) and (stored.cut or not stored.finished)):
        reason = stored.cut or "The bridge ended before the run did."
        recalled = changes.recall_changes(copies, redact=redactor.redact)
        if recalled is not None:
            events.append(recalled)
            more = " What came after that is not known and was left alone." if stored.cut else ""
            print(f"{reason}{more} Changes that others made since then are undone, too.", file=sys.stderr)
        elif not any(isinstance(event, FilesChanged) for event in events):
            print(f"It is not known what this run changed: {reason}", file=sys.stderr)
            return EXIT_FAILED
    is_part = bool(recalled and stored.cut)
    plan = changes.plan_undo(events, copies=copies, redact=redactor.redact)
    planned = FilesChanged(str(plan.folder), plan.changes)
    _say_folder(planned.folder if plan.steps or plan.left else "")
    print(clean_text("\n".join(report.diff_lines([planned])) or "There is nothing to undo.")[0])
    _say_left(plan.left)
    if not plan.steps:
        return EXIT_FAILED if plan.left or is_part else EXIT_OK
    if not yes and (refused := _refuses_undo()):
        return refused
    with journal.open_journal(folder, stored.run_id) as opened:
        done = changes.apply_undo(plan, copies=copies, redact=redactor.redact)
        if done.changes:
            # No diffs: what was a secret then need not be known as one any more.
            named = tuple(replace(each, diff="") for each in done.changes)
            # What was recalled is not in the journal, so that the next undo could not try it again.
            done = replace(done, changes=named, is_partial=done.is_partial and recalled is None)
            opened.keep(redactor.redact_fields(done))
    _say_left(each for each in done.not_kept if each not in plan.left)
    again = f"To revert this: lmstudio-bridge runs undo {whole or stored.run_id}"
    print(opened.trouble or f"Undone: {len(done.changes)} of {len(plan.changes)}. {again}", file=sys.stderr)
    return EXIT_FAILED if done.not_kept or opened.trouble or is_part else EXIT_OK


def _say_folder(*folders: str) -> None:
    """Name the folders of the files that follow, unless it is where the user is."""
    for folder in sorted({*folders} - {"", ".", os.getcwd()}):
        print(f"In {one_line(folder)}:", file=sys.stderr)


def _say_left(reasons: Iterable[str]) -> None:
    for reason in reasons:
        print(f"Left alone: {one_line(reason)}", file=sys.stderr)


def _write_page(folder: Path, stored: StoredRun, target: Path) -> None:
    from lmstudio_bridge.runs.html import item_cells, render_run, tell_story  # only this needs jinja2

    story = tell_story(journal.read_timed_events(journal.journal_path(folder, stored.run_id)))
    try:
        with open(target, "w", encoding="utf-8", errors="replace", opener=open_private) as file:
            file.write(render_run(stored, story, item_cells(folder, stored)))
    except OSError as exc:
        problem = f"The page can't be written to {target}: {exc.strerror}."
        raise SettingsError(problem, remedy="Name another file with --html.") from exc
    print(target)


def _delete_runs(folder: Path, args: argparse.Namespace) -> int:
    if not args.run_ids and args.older_than is None:
        print("Name runs to delete, or use --older-than DAYS.", file=sys.stderr)
        return EXIT_USAGE
    named = {find_run(folder, name).run_id for name in args.run_ids}
    old: set[str] = set()
    if args.older_than is not None:
        oldest = time.time() - args.older_than * _DAY
        old = {
            run_id
            for written, _, run_id in journal.list_journals(folder)
            if written < oldest and not journal.is_item_run(run_id)
        }
    if not args.yes and (named or old) and (refused := _refuses_delete(args.run_ids, sorted(named | old))):
        return refused
    deleted = sum(journal.delete_journal(folder, run_id) for run_id in named)
    for run_id in old - named:
        with suppress(RunActiveError):  # counted as not deleted
            deleted += journal.delete_journal(folder, run_id)
    print(f"Deleted: {deleted} of {len(named | old)}.")
    return EXIT_OK
