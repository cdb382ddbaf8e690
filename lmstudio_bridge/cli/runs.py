"""`lmstudio-bridge runs`: what was done: list, show, delete."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lmstudio_bridge.cli.arguments import EXIT_OK, EXIT_USAGE, Commands, positive
from lmstudio_bridge.cli.help import add_command

if TYPE_CHECKING:
    from lmstudio_bridge.runs.resume import StoredRun
    from lmstudio_bridge.security.redact import Redactor
    from lmstudio_bridge.settings import Settings

_DAY = 86_400  # seconds


def add_parser(commands: Commands) -> None:
    """Add what the command takes."""
    parser = add_command(
        commands,
        "runs",
        "list, show and delete what was done",
        """
        Shows the runs of before, from the shell and from Claude Code: `runs` lists the newest, `runs show` has the
        whole of one, `runs delete` takes journals away for good. A run under way is never deleted.
        """,
        examples=(
            ("lmstudio-bridge runs", "the newest runs, how each ended, and what it saved"),
            ("lmstudio-bridge runs show last", "task, answer, and each round with its calls"),
            ("lmstudio-bridge runs delete --older-than 30", "journals of more than 30 days"),
        ),
        variables=("LMSTUDIO_BRIDGE_HOME", "NO_COLOR"),
    )
    parser.add_argument("--limit", type=positive, default=20, metavar="N", help="most runs in the list (20)")
    parser.add_argument("--json", action="store_true", help="print one JSON list in place of the table")
    actions = parser.add_subparsers(dest="action", metavar="action")
    show = add_command(
        actions,
        "show",
        "the whole of one run",
        "Shows the whole of one run: task, answer, and each round with its calls and what they gave.",
        examples=(
            ("lmstudio-bridge runs show last", "the newest one"),
            ("lmstudio-bridge runs show last --html run.html", "as a page with pictures, for a browser"),
        ),
    )
    show.add_argument("run_id", help="its id, or: last")
    show.add_argument("--json", action="store_true", dest="as_json", help="print task, answer and figures as JSON")
    show.add_argument("--html", metavar="FILE", help="write one page for a browser; it needs no network")
    delete = add_command(
        actions,
        "delete",
        "delete journals",
        "Deletes journals of runs for good. They cannot be shown or gone on with after that.",
        examples=(("lmstudio-bridge runs delete --older-than 30", "all of more than 30 days"),),
    )
    delete.add_argument("run_ids", nargs="*", metavar="run_id", help="id of a run, or: last")
    delete.add_argument("--older-than", type=positive, metavar="DAYS", help="all that are older than so many days")


def run(settings: Settings, args: argparse.Namespace, _: Redactor) -> int:
    """Do what the action says."""
    folder = settings.home / "runs"
    match args.action:
        case "show":
            return _show(folder, args)
        case "delete":
            return _delete(folder, args)
        case _:
            return _list(folder, args)


def _list(folder: Path, args: argparse.Namespace) -> int:
    from lmstudio_bridge.cli.terminal import print_table
    from lmstudio_bridge.runs.report import RUN_COLUMNS, newest_runs, run_json, run_row

    runs = list(newest_runs(folder, most=args.limit))
    if args.json:
        print(json.dumps([run_json(stored) for stored in runs], ensure_ascii=False))
    else:
        print_table(sys.stdout, RUN_COLUMNS, map(run_row, runs), environ=os.environ, empty="No runs yet.")
    return EXIT_OK


def _show(folder: Path, args: argparse.Namespace) -> int:
    from lmstudio_bridge.runs.report import find_run, run_json, run_text
    from lmstudio_bridge.text import clean_text

    stored = find_run(folder, args.run_id)
    if args.html:
        _write_page(folder, stored, Path(args.html))
    elif args.as_json:
        print(json.dumps(run_json(stored), ensure_ascii=False))
    else:
        print(clean_text(run_text(stored))[0])
    return EXIT_OK


def _write_page(folder: Path, stored: StoredRun, target: Path) -> None:
    from lmstudio_bridge.errors import SettingsError
    from lmstudio_bridge.runs.html import render_run, tell_story
    from lmstudio_bridge.runs.journal import journal_path, read_timed_events

    story = tell_story(read_timed_events(journal_path(folder, stored.run_id)))
    try:
        target.write_text(render_run(stored, story), encoding="utf-8", errors="replace")
    except OSError as exc:
        problem = f"The page can't be written to {target}: {exc.strerror}."
        raise SettingsError(problem, remedy="Name another file with --html.") from exc
    print(target)


def _delete(folder: Path, args: argparse.Namespace) -> int:
    import time
    from contextlib import suppress

    from lmstudio_bridge.errors import RunActiveError
    from lmstudio_bridge.runs.journal import delete_journal, list_journals
    from lmstudio_bridge.runs.report import find_run

    if not args.run_ids and args.older_than is None:
        print("Name runs, or say --older-than DAYS.", file=sys.stderr)
        return EXIT_USAGE
    names, old = [find_run(folder, name).run_id for name in args.run_ids], list[str]()
    if args.older_than is not None:
        before = time.time() - args.older_than * _DAY
        old = [run_id for written, _, run_id in list_journals(folder) if written < before]
    names = list(dict.fromkeys(names))
    deleted = sum(delete_journal(folder, name) for name in names)
    for run_id in (each for each in old if each not in names):
        with suppress(RunActiveError):  # it is counted as one that stays
            deleted += delete_journal(folder, run_id)
    print(f"Deleted: {deleted} of {len({*names, *old})}.")
    return EXIT_OK
