"""How much of a run its journal keeps, how large it gets, and how long journals stay."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lmstudio_bridge.errors import RunNotFoundError
from lmstudio_bridge.events import (
    AnswerChecked,
    CallFinished,
    CallProgress,
    CallStarted,
    Event,
    FileChange,
    FilesChanged,
    Generating,
    JournalCut,
    MessageAdded,
    RoundFinished,
    RunFinished,
    RunStarted,
    ServerFailed,
    Warned,
)
from lmstudio_bridge.messages import AssistantMessage, Image, SystemMessage, ToolCall, ToolMessage, Usage, UserMessage
from lmstudio_bridge.runs.autonomous import RunRecorder
from lmstudio_bridge.runs.journal import (
    PAUSE,
    Journal,
    JournalPruner,
    Keep,
    delete_journal,
    list_journals,
    open_journal,
    prune_journals,
    read_events,
)
from lmstudio_bridge.runs.resume import read_run, rebuild_conversation
from lmstudio_bridge.security.redact import Redactor
from lmstudio_bridge.security.secrets import secrets_of_environment
from tests.support.fakes import Recorder, keep_events

DAY = 86_400.0
START = RunStarted("r1", "find the word WORDS", ("fs",), 5, "2026-01-02T12:00:00+00:00")
END = RunFinished("answered", "WORDS", "", 1.0)
CALL = ToolCall("c1", "fs__read", '{"path": "WORDS"}')
RUN: list[Event] = [
    START,
    ServerFailed("memory", "It said WORDS."),
    Warned("WORDS"),
    MessageAdded(SystemMessage("WORDS")),
    MessageAdded(UserMessage("WORDS")),
    RoundFinished(1, "WORDS", "WORDS", (CALL,), "tool_calls", "tiny", Usage(1, 2, 3), 0.5),
    MessageAdded(AssistantMessage("", (CALL,))),
    CallStarted(1, "c1", "fs", "read", '{"path": "WORDS"}'),
    CallFinished(1, "c1", "fs", "read", "WORDS", False, True, 0.1, "allowed", "WORDS", "access=read", "3f2a"),
    MessageAdded(ToolMessage("c1", "WORDS")),
    AnswerChecked(("WORDS ← a.txt:1",), ("WORDS",), "read 1 of 2 files in WORDS/"),
    FilesChanged("/WORDS", (FileChange("WORDS", "changed", "link WORDS", "", 1, 2, "WORDS", "WORDS"),), ("WORDS",)),
    END,
]


def write(folder: Path, events: list[Event], *, keep: Keep = "full", max_bytes: int = 100_000) -> Path:
    return keep_events(folder, "r1", *events, keep=keep, max_bytes=max_bytes)


# -- audit and off ------------------------------------------------------------------------------


def test_audit_keeps_what_was_done_and_no_text(tmp_path: Path) -> None:
    path = write(tmp_path, RUN, keep="audit")

    assert b"WORDS" not in path.read_bytes()
    kinds = "JournalCut RunStarted ServerFailed RoundFinished CallStarted CallFinished FilesChanged RunFinished"
    assert " ".join(type(event).__name__ for event in read_events(path)) == kinds
    assert FilesChanged("", (FileChange("", "changed", added=1, removed=2, kept=False),)) in read_events(path)
    assert CallFinished(1, "c1", "fs", "read", "", False, True, 0.1, "allowed", "", "access=read") in read_events(path)
    assert b'"digest": "3f2a"' in path.read_bytes()


def test_nothing_is_written_where_journals_are_off(tmp_path: Path) -> None:
    write(tmp_path / "runs", RUN, keep="off")

    assert list_journals(tmp_path) == []


# -- size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "whole"), [(-1, False), (0, True), (1, True)])
def test_journal_is_cut_at_its_limit_and_still_has_its_end(tmp_path: Path, more: int, whole: bool) -> None:
    events: list[Event] = [START, Warned("a" * 100), Warned("b" * 100)]
    size = write(tmp_path / "measured", events).stat().st_size

    path = write(tmp_path / "cut", [*events, END], max_bytes=size + more)

    kept = read_events(path)
    cut = JournalCut(f"The journal reached its limit of {size + more:,} bytes; what came after is not in it.")
    assert kept == ([*events, END] if whole else [*events[:2], cut, END])


def test_nothing_but_the_end_comes_after_the_cut(tmp_path: Path) -> None:
    path = write(tmp_path, [START, *[Warned("a" * 100)] * 20, Warned("short"), END], max_bytes=1_000)

    kinds = [type(event) for event in read_events(path)]

    assert kinds[-2:] == [JournalCut, RunFinished]
    assert kinds.count(JournalCut) == 1
    assert b"short" not in path.read_bytes()


@pytest.fixture
def full_journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal on a device that is always full."""
    path = tmp_path / "r1.jsonl"
    with Path("/dev/full").open("ab", buffering=0) as full:
        yield Journal(path, file=full, level="full", clock=lambda: datetime.now(UTC), max_bytes=10_000)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
async def test_full_disk_is_told_once_to_who_waits_and_in_the_outcome(full_journal: Journal) -> None:
    recorder = Recorder()

    run_recorder = RunRecorder(full_journal, recorder.emit, redactor=Redactor())
    await run_recorder.tell(START)
    await run_recorder.tell(Warned("careful"))
    await run_recorder.tell(END)

    [cut] = [event for event in recorder.events if isinstance(event, JournalCut)]
    assert "No space left on device" in cut.reason
    assert run_recorder.tally.outcome().warnings == (cut.reason, "careful")


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize(("answer", "kept"), [("WORDS", 5), ("x" * 60_000, 60_000), ("\u20ac" * 60_000, 8_001)])
def test_full_disk_keeps_the_end_of_the_run_which_cannot_be_continued(tmp_path: Path, answer: str, kept: int) -> None:
    write(tmp_path, [START, MessageAdded(UserMessage("WORDS"))])
    script = (
        "import resource, sys; from pathlib import Path; from lmstudio_bridge.events import *;"
        "from lmstudio_bridge.runs.journal import *;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (RESERVE, RESERVE));"
        "journals = open_journal(Path(sys.argv[1]), 'r1');"
        "journal = journals.__enter__();"
        "[journal.keep(Warned('x' * 10_000)) for _ in range(9)];"
        "journal.keep(RunFinished('answered', eval(sys.argv[2]), '', 1.0));"
        "journals.__exit__(None, None, None)"
    )
    text = f"{answer[0]!r} * {len(answer)}" if len(set(answer)) == 1 else repr(answer)
    subprocess.run([sys.executable, "-c", script, str(tmp_path), text], check=True)

    run = read_run(tmp_path, "r1")

    assert (run.finished, len(run.outcome.answer), run.outcome.answer[:5]) == (True, kept, answer[:5])
    with pytest.raises(RunNotFoundError, match="cannot be written any more"):
        rebuild_conversation(run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r1.end", "r1.jsonl"]
    assert delete_journal(tmp_path, "r1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_no_run_begins_without_room_for_its_end(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from pathlib import Path; from lmstudio_bridge.runs.journal import *;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (RESERVE - 1, RESERVE - 1));"
        "open_journal(Path(sys.argv[1]), 'r1').__enter__()"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)

    assert "SettingsError: The journal of the run cannot be written" in ended.stderr
    assert not (tmp_path / "r1.reserve").exists()


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"UserMessage"', b'"UserMess\x00ge"'))


def mark(path: Path) -> None:
    """As where the disk was full; without the words."""
    path.with_suffix(".end").touch()


@pytest.mark.parametrize(
    ("keep", "max_bytes", "befall", "reason"),
    [
        ("audit", 9_999, None, "LMSTUDIO_BRIDGE_JOURNAL is audit"),
        ("full", 500, None, "reached its limit of 500 bytes"),
        ("full", 9_999, mark, "could not be written to its end"),
        ("full", 9_999, damage, r"Line 2 of its journal cannot be read"),
    ],
)
def test_run_whose_journal_is_not_whole_cannot_be_continued(
    tmp_path: Path, keep: Keep, max_bytes: int, befall: Callable[[Path], None] | None, reason: str
) -> None:
    said = [MessageAdded(UserMessage("WORDS")), MessageAdded(ToolMessage("c1", "x" * 1_000))]
    path = write(tmp_path, [START, *said, END], keep=keep, max_bytes=max_bytes)
    if befall:
        befall(path)

    with pytest.raises(RunNotFoundError, match=reason):
        rebuild_conversation(read_run(tmp_path, "r1"))


async def told_to_who_waits(folder: Path, redactor: Redactor, *events: Event, keep: Keep = "full") -> list[Event]:
    recorder = Recorder()
    with open_journal(folder, "r1", keep=keep) as journal:
        run_recorder = RunRecorder(journal, recorder.emit, redactor=redactor)
        for event in events:
            await run_recorder.tell(event)
    return recorder.events


@pytest.mark.parametrize("counts", [("", "", ""), ("1/3 ", "2/3 ", "3/3 "), ("0.5 ", "7 ", "1e+06 ")])
async def test_secret_in_pieces_of_progress_does_not_go_out(tmp_path: Path, counts: tuple[str, str, str]) -> None:
    redactor = Redactor(secrets_of_environment({"API_KEY": "hunter22-hunter22"}))
    pieces = zip(counts, ("the key is hunter", "22-hun", "ter22, 50%"), strict=True)

    told = await told_to_who_waits(
        tmp_path, redactor, *(CallProgress("c1", "fs", "read", f"{count}{piece}") for count, piece in pieces)
    )

    texts = [event.text for event in told if isinstance(event, CallProgress)]
    assert texts == [f"{counts[0]}the key is ", counts[1], f"{counts[2]}[secret], 50%"]


async def test_answer_that_is_being_written_shows_no_secret_and_no_beginning_of_one(tmp_path: Path) -> None:
    texts = [("It is hunter", "It is "), ("It is hunter22, I", "It is [secret], I"), ("", "")]
    written, shown = ([Generating(1, "answering", 1, 1.0, text) for text in each] for each in zip(*texts, strict=True))

    assert await told_to_who_waits(tmp_path, Redactor(["hunter22"]), *written) == shown


@pytest.mark.parametrize("keep", ["full", "audit", "off"])
async def test_who_waits_gets_no_secret_whatever_is_kept(tmp_path: Path, keep: Keep) -> None:
    def events(secret: str) -> list[Event]:
        return [Warned(secret), MessageAdded(UserMessage("look", (Image("data", secret),)))]

    told = await told_to_who_waits(tmp_path, Redactor(["hunter22"]), *events("hunter22"), keep=keep)
    assert told == events("[secret]")


# -- pruning ------------------------------------------------------------------------------------


def old_journal(folder: Path, number: int, *, age: float, size: int = 10) -> Path:
    """A journal that was last written to `age` days before day 100."""
    folder.mkdir(exist_ok=True)
    path = folder / f"20260102-120000-aaaa{number}.jsonl"
    path.write_bytes(b"x" * size)
    os.utime(path, ((100 - age) * DAY, (100 - age) * DAY))
    return path


def add_copies(journal: Path, size: int) -> Path:
    """Copies of files beside a journal; their folder."""
    copies = journal.with_suffix(".files")
    copies.mkdir()
    (copies / "a").write_bytes(b"x" * size)
    return copies


def test_copies_of_files_count_and_go_with_their_journal(tmp_path: Path) -> None:
    old, new = old_journal(tmp_path / "runs", 1, age=2), old_journal(tmp_path / "runs", 2, age=1)
    gone, kept = add_copies(old, 90), add_copies(new, 90)

    assert [size for _, size, _ in list_journals(tmp_path / "runs")] == [100, 100]
    assert prune(tmp_path / "runs", max_bytes=199) == [kept.name, new.name]
    assert (gone.exists(), kept.exists()) == (False, True)
    assert delete_journal(tmp_path / "runs", new.stem)
    assert not kept.exists()


def prune(folder: Path, *, days: float = 30, max_bytes: int = 1_000, most: int = 100) -> list[str]:
    """What is left."""
    prune_journals(folder, max_age=days * DAY, max_bytes=max_bytes, now=100 * DAY, most=most)
    return sorted(path.name for path in folder.iterdir())


def test_journals_go_when_they_are_too_old(tmp_path: Path) -> None:
    paths = [old_journal(tmp_path, number, age=age) for number, age in enumerate((29, 30, 31))]

    assert prune(tmp_path) == [path.name for path in paths[:2]]


@pytest.mark.parametrize(("max_bytes", "left"), [(19, [1]), (20, [0, 1]), (21, [0, 1]), (9, []), (30, [0, 1, 2])])
def test_oldest_journals_go_until_the_others_fit(tmp_path: Path, max_bytes: int, left: list[int]) -> None:
    paths = [old_journal(tmp_path, number, age=age) for number, age in enumerate((2, 1, 3))]

    assert prune(tmp_path, max_bytes=max_bytes) == [paths[number].name for number in left]


def test_files_of_others_and_links_stay(tmp_path: Path) -> None:
    target = old_journal(tmp_path / "elsewhere", 1, age=99)
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "20260102-120000-bbbbb.jsonl").symlink_to(target)
    (runs / "20260102-120000-ccccc.jsonl").mkdir()
    for name in ("notes.jsonl", "20260102-120000-ddddd.txt", ".20260102-120000-eeeee.jsonl"):
        (runs / name).write_text("x", encoding="utf-8")
        os.utime(runs / name, (0, 0))

    assert len(prune(runs, max_bytes=0)) == 5
    assert target.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_journal_of_a_run_under_way_stays_also_if_another_process_has_it(tmp_path: Path) -> None:
    path = old_journal(tmp_path, 1, age=99)
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with other:
        assert other.stdout is not None
        other.stdout.readline()
        under_way = prune(tmp_path)

    assert under_way == [path.name]
    assert prune(tmp_path) == []


def test_no_more_files_are_looked_at_than_allowed(tmp_path: Path) -> None:
    for number in range(5):
        old_journal(tmp_path, number, age=99)

    assert len(prune(tmp_path, most=2)) == 3


def test_folder_that_is_not_there_needs_no_pruning(tmp_path: Path) -> None:
    prune_journals(tmp_path / "none", max_age=1, max_bytes=1, now=1)


@pytest.mark.parametrize(("later", "left"), [(PAUSE - 1, 1), (PAUSE, 0), (PAUSE + 1, 0)])
async def test_runs_that_begin_soon_after_another_look_at_no_journals(tmp_path: Path, later: float, left: int) -> None:
    times = [1_000.0]
    pruner = JournalPruner(tmp_path, max_age=30 * DAY, max_bytes=1_000, clock=lambda: times[-1], now=lambda: 100 * DAY)
    old_journal(tmp_path, 1, age=31)
    await pruner.prune()
    assert list_journals(tmp_path) == []

    old_journal(tmp_path, 2, age=31)
    times.append(1_000.0 + later)
    await pruner.prune()

    assert len(list_journals(tmp_path)) == left


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted there")
async def test_journal_that_another_bridge_deletes_between_opening_and_locking_is_made_anew(tmp_path: Path) -> None:
    deleted: list[Path] = []

    class Deleted(type(Path())):  # type: ignore[misc]  # the class differs between systems
        def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
            if self.suffix == ".jsonl" and not deleted:
                deleted.append(self)
                self.unlink()
            return os.stat(self, follow_symlinks=follow_symlinks)

    keep_events(Deleted(tmp_path), "r1", END)

    assert deleted
    assert read_events(tmp_path / "r1.jsonl") == [END]
