"""What a run changed: its files as they were before the first call that writes to them, compared when it ends.

An undo puts back what was there, where nobody changed it since. What is there is written as one short text: "" for
nothing, "folder", "private folder", "link TARGET", "file MODE SHA-256", or "file MODE SIZE:MTIME" for a file whose
content is not kept.

Until the run has ended, what was there is also on disk beside the copies: after a crash, the comparison is made later.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import anyio

from lmstudio_bridge.agent.options import Held
from lmstudio_bridge.agent.prompts import CHANGED_UNSEEN, FILE_CREATED, FILE_DELETED, FILE_MOVED, MORE_CHANGES
from lmstudio_bridge.agent.text_operations import show_changes
from lmstudio_bridge.events import (
    CallStarted,
    ChangeKind,
    Event,
    FileChange,
    FilesChanged,
    RunContinued,
    RunStarted,
)
from lmstudio_bridge.files import make_folder, open_beside, read_bounded, write_file
from lmstudio_bridge.intent import changes_files_by_name, makes_folder_by_name, takes_away_by_name
from lmstudio_bridge.messages import JSONObject, ServerTool
from lmstudio_bridge.runs.diffs import cut_lines, decode_text, make_diff
from lmstudio_bridge.runs.git_status import Entry, compare_status, read_status
from lmstudio_bridge.runs.journal import NOTE_SUFFIX
from lmstudio_bridge.security.access import Policy
from lmstudio_bridge.security.redact import holds_mark
from lmstudio_bridge.security.workspace import Workspace
from lmstudio_bridge.text import clean_text, counted, one_line

MAX_BYTES = 50_000_000  # of the copies of one run
MAX_IN_MEMORY = 10_000_000  # of those of a run that may leave none on disk
MAX_FILE = 10_000_000  # bytes of one copy
MAX_FILES = 1_000  # and folders, in a folder that is moved or deleted
MAX_READ = 200_000_000  # bytes that are read to compare
MAX_COMPARED = 4_000_000  # bytes of text that are compared by line; takes a second
MAX_DIFFS = 200_000  # characters of all diffs
MAX_TOLD_FILE = 250_000  # bytes of a file of which the model is told what a call did
MAX_TOLD_FILES = 10  # of one call
MAX_TOLD_LINES = 12  # of what a call did
MAX_TOLD = 1_000  # characters of it

_LETTER = r"[0-9A-Za-z_\u00c0-\u024f\u0370-\u052f]"  # of scripts with blanks between words
_ABSENT, _FOLDER, _PRIVATE, _UNKNOWN = "", "folder", "private folder", "unknown"
_FOLDERS = (_FOLDER, _PRIVATE)  # private ones are not for everybody, and restored for their owner only
_KEPT_FILE = re.compile(r"file [0-7]+ ([0-9a-f]{64})")
_FILE = re.compile(r"file [0-7]+ (?:[0-9a-f]{64}|\d+:\d+)")

_SECRET_NAME = "its name holds a secret"
_MAX_NOTE = 16 * 1024 * 1024

State: TypeAlias = str
Content: TypeAlias = Callable[[Path, State], bytes | None]


class Copies:
    """Copies of files, named after the SHA-256 of their content; in memory if there is no folder for them.

    They take `max_bytes` at most, each `max_file`.
    """

    def __init__(self, folder: Path | None, *, max_bytes: int = MAX_BYTES, max_file: int = MAX_FILE) -> None:
        self.max_file = max_file
        self._folder = folder
        self._note = folder.with_suffix(NOTE_SUFFIX) if folder else None
        self._max_bytes = max_bytes
        self._room: int | None = None
        self._in_memory: dict[str, bytes] = {}

    def add(self, data: bytes) -> bool:
        """Keep a content; whether there is a copy of it now."""
        digest = hashlib.sha256(data).hexdigest()
        if self.get(f"file 0 {digest}") is not None:
            return True
        try:
            if self._room is None:
                self._room = self._max_bytes - sum(self._sizes())
            if len(data) > min(self._room, self.max_file):
                return False
            if self._folder is None:
                self._in_memory[digest] = data
            else:
                make_folder(self._folder)
                write_file(self._folder / digest, data)
        except OSError:  # a full disk: nothing is kept, and the run goes on
            return False
        self._room -= len(data)
        return True

    def get(self, state: State) -> bytes | None:
        """The content of a file in that state; None if there is no copy, or a damaged one."""
        found = _KEPT_FILE.fullmatch(state)
        if found is None:
            return None
        if self._folder is None:
            return self._in_memory.get(found[1])
        try:
            data = read_bounded(self._folder / found[1], max_bytes=self.max_file, follow_links=False)
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == found[1] else None

    def write_note(self, text: str) -> None:
        """Keep a note beside the folder, if there is one; on a full disk there is none."""
        if self._note is not None:
            with suppress(OSError):
                make_folder(self._note.parent)
                write_file(self._note, text.encode())

    def read_note(self) -> str:
        """The note; "" if there is none."""
        try:
            return read_bounded(self._note, max_bytes=_MAX_NOTE, follow_links=False).decode() if self._note else ""
        except (OSError, UnicodeDecodeError):
            return ""

    def delete_note(self) -> None:
        """Delete the note, if there is one."""
        if self._note is not None:
            with suppress(OSError):
                self._note.unlink(missing_ok=True)

    def restores(self, state: State) -> bool:
        """Whether that state can be put back: not a link of whose target the journal has not every character."""
        is_link = state.startswith("link ") and not holds_mark(state)
        return state in (_ABSENT, *_FOLDERS) or is_link or self.get(state) is not None

    def _sizes(self) -> Iterator[int]:
        if self._folder is not None and self._folder.is_dir():
            yield from (each.lstat().st_size for each in self._folder.iterdir())


@dataclass(slots=True)
class _Seen:
    """What was there before a call: states by path, the paths that it named, and the folders of which all is known."""

    states: dict[Path, State] = field(default_factory=dict)
    named: set[Path] = field(default_factory=set)
    folders: set[Path] = field(default_factory=set)
    problems: dict[str, None] = field(default_factory=dict)
    is_complete: bool = True

    def to_json(self, folder: Path) -> str:
        """All of it, and the folder of the project."""
        value = {
            "folder": str(folder),
            "states": {str(path): state for path, state in self.states.items()},
            "named": sorted(map(str, self.named)),
            "folders": sorted(map(str, self.folders)),
            "problems": list(self.problems),
        }
        return json.dumps(value)


def _read_seen(note: str) -> tuple[Path, _Seen] | None:
    """The folder and what was seen, from a note; never complete: the call in progress may have done more."""
    try:
        value = json.loads(note)
        states = {Path(path): str(state) for path, state in value["states"].items()}
        named, folders = ({*map(Path, value[key])} & states.keys() for key in ("named", "folders"))
        return Path(value["folder"]), _Seen(states, named, folders, dict.fromkeys(value["problems"]), False)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def lost_changes(events: Sequence[Event]) -> bool:
    """Whether a run may have changed what its events do not tell: it never came to its end."""
    last = next((each for each in reversed(events) if isinstance(each, FilesChanged | RunStarted | RunContinued)), None)
    return not isinstance(last, FilesChanged)


def standing_changes(events: Iterable[Event]) -> tuple[FileChange, ...]:
    """What the turns of a run changed and no undo has put back; all of it where one has left something to put back."""
    standing: tuple[FileChange, ...] = ()
    undone: tuple[FileChange, ...] = ()
    for event in events:
        if isinstance(event, FilesChanged) and not event.is_partial:
            undid = standing or (() if undone else event.changes)  # of a run that was cut off before it could tell
            standing, undone = (undone, undid) if event.is_undo else (standing + event.changes, ())
    return standing


def may_have_changed(events: Iterable[Event]) -> bool:
    """Whether a turn of a run changed files, or may have because it was cut off."""
    events = list(events)
    return was_cut_off(events) or any(isinstance(event, FilesChanged) and event.changes for event in events)


def was_cut_off(events: Iterable[Event]) -> bool:
    """Whether a turn of a run was cut off after a writing call, and nobody compared the files since."""
    is_open = can_write = False
    for event in events:
        match event:
            case FilesChanged():  # a turn that goes on compares for those before it, if it comes that far
                is_open = False
            case RunStarted(access=access) | RunContinued(access=access):
                can_write = access == "write"
            case CallStarted(writes=writes):
                is_open |= bool(writes) or (writes is None and can_write)
            case _:
                pass
    return is_open


def recall_changes(copies: Copies, *, redact: Callable[[str], str]) -> FilesChanged | None:
    """What a run that was cut off changed: what was there before its calls, compared with what is there now.

    None if nothing was kept. What others changed since then cannot be told from what the run changed.
    """
    found = _read_seen(copies.read_note())
    if found is None:
        return None
    policy = Policy(workspace=Workspace((found[0],)))
    return ChangeRecorder(policy, copies=copies, redact=redact, goes_on=True).compare()


class ChangeRecorder:
    """Keeps what the writing calls of a run are about to change, and compares it at the end.

    Disk and comparison are left to threads, which only return what they found: a cancelled one may still be at work.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        copies: Copies,
        redact: Callable[[str], str],
        goes_on: bool = False,
        environ: Mapping[str, str] | None = None,
        untrusted: Collection[Path] = (),
        bases: Mapping[str, Collection[Path]] | None = None,
    ) -> None:
        """`goes_on`: the run was cut off before, and what was seen then counts.

        With an `environ`, git is asked, but none from the `untrusted` folders. `bases` are folders to which the paths
        of a server may be relative, unknown to the policy.
        """
        self._policy = policy
        self._copies = copies
        self._redact = redact
        self._folder = policy.workspace.folders[0] if policy.workspace.folders else Path(os.sep)
        earlier = _read_seen(copies.read_note()) if goes_on else None
        self._seen = earlier[1] if earlier else _Seen()
        self._calls: list[set[Path]] = []  # what each call named
        self._environ, self._untrusted = environ, untrusted
        self._bases = bases or {}
        self._elsewhere: set[Path] = set()  # what the calls may have meant instead of what they named here
        self._status: dict[Path, Entry] | None = None  # before the first call

    async def before_call(self, tool: ServerTool, arguments: JSONObject) -> Held:
        """Keep what the call is about to change, unless an earlier one has changed it; what is there now."""
        known = dict(self._seen.states)
        if not self._calls and self._environ is not None:
            self._status = await anyio.to_thread.run_sync(
                read_status, self._folder, self._environ, self._untrusted, abandon_on_cancel=True
            )
        found = await anyio.to_thread.run_sync(self._look, tool, arguments, known, abandon_on_cancel=True)
        self._calls.append(found.named)
        self._elsewhere |= self._find_elsewhere(tool, found.named)
        self._seen.states.update(found.states)
        self._seen.named |= found.named
        self._seen.folders |= found.folders
        self._seen.problems.update(found.problems)
        self._seen.is_complete &= found.is_complete
        note = self._seen.to_json(self._folder)
        await anyio.to_thread.run_sync(self._copies.write_note, note, abandon_on_cancel=True)
        return await anyio.to_thread.run_sync(_read_held, found.named, abandon_on_cancel=True)

    async def effect(self, tool: ServerTool, held: Held) -> str | None:
        """What a call did to the text files that it named: "" if nothing, None if nothing can be said."""
        return await anyio.to_thread.run_sync(self._effect, tool, held, abandon_on_cancel=True)

    async def left(self, held: Held, edits: Collection[tuple[str, str]]) -> tuple[str, str] | None:
        """The text that an edit took away and that still stands elsewhere in a file, and that file."""
        return await anyio.to_thread.run_sync(self._left, held, edits, abandon_on_cancel=True)

    def _left(self, held: Held, edits: Collection[tuple[str, str]]) -> tuple[str, str] | None:
        for path in held:
            text = self._readable(look_at(path, max_bytes=MAX_TOLD_FILE)[1]) or ""
            for old, new in edits:
                if old.strip() and _as_words(old).search(_as_words(new).sub(" ", text) if new else text):
                    return old, one_line(self._name(path))
        return None

    async def holds(self, tool: ServerTool, arguments: JSONObject, text: str) -> bool | None:
        """Whether the file that the arguments name holds just this text; None if it is not on this machine."""
        return await anyio.to_thread.run_sync(self._holds, tool, arguments, text, abandon_on_cancel=True)

    async def finish(self) -> FilesChanged | None:
        """What was changed since; None if there was no writing call."""
        if not self._calls and not self._seen.states:
            return None
        return await anyio.to_thread.run_sync(self.compare, abandon_on_cancel=True)

    def forget(self) -> None:
        """The end of the run is recorded: what was kept for a crash is not needed any more."""
        self._copies.delete_note()

    def _holds(self, tool: ServerTool, arguments: JSONObject, text: str) -> bool | None:
        data = text.encode("utf-8", "surrogatepass")
        states = [look_at(place, max_bytes=len(data)) for place in self._policy.places(tool, arguments)]
        files = [content for state, content in states if _FILE.fullmatch(state)]
        return any(content == data for content in files) if files else None

    def _effect(self, tool: ServerTool, held: Held) -> str | None:
        now = {path: _look_as(path, state, max_bytes=MAX_TOLD_FILE) for path, (state, _) in held.items()}
        if now == held:
            files = [data for state, data in held.values() if not state.startswith("link ")]
            are_texts = bool(files) and all(data is not None and decode_text(data) is not None for data in files)
            is_here = not any(map(os.path.lexists, self._find_elsewhere(tool, held)))
            return "" if are_texts and is_here and changes_files_by_name(tool.name) else None
        before, after = ({path: state for path, (state, _) in each.items()} for each in (held, now))
        sources = _find_moves(before, after)
        lines: list[str] = []
        for path in sorted(path for path in held if held[path] != now[path] and path not in sources.values()):
            old, new = self._readable(held[path][1]), self._readable(now[path][1])
            name = one_line(self._name(path))
            if path in sources and new is not None:
                lines.append(FILE_MOVED.format(path=name, source=one_line(self._name(sources[path]))))
            elif before[path] == _ABSENT and new is not None:
                lines.append(FILE_CREATED.format(path=name, lines=counted(len(new.splitlines()), "line")))
            elif after[path] == _ABSENT and old is not None:
                lines.append(FILE_DELETED.format(path=name))
            elif old is not None and new is not None and held[path][1] != now[path][1]:
                lines += (show_changes(name, old, new) or CHANGED_UNSEEN.format(path=name)).split("\n")
        told = cut_lines(
            lines, MAX_TOLD, lambda left: MORE_CHANGES.format(lines=counted(left, "line")), most=MAX_TOLD_LINES
        )
        return told or None

    def _find_elsewhere(self, tool: ServerTool, places: Collection[Path]) -> set[Path]:
        """The same paths below the other bases of the server."""
        bases, folders = self._bases.get(tool.server, ()), self._policy.workspace.folders
        below = {each.relative_to(folder) for each in places for folder in folders if each.is_relative_to(folder)}
        return {Path(os.path.realpath(base / each)) for base in bases for each in below}.difference(places)

    def _readable(self, data: bytes | None) -> str | None:
        """What a model may read of a file; None if it is no text, or was not read."""
        text = None if data is None else decode_text(data)
        return None if text is None else self._redact(clean_text(text)[0])

    def _look(self, tool: ServerTool, arguments: JSONObject, known: Mapping[Path, State]) -> _Seen:
        seen = _Seen(is_complete=changes_files_by_name(tool.name))
        places = self._policy.places(tool, arguments)
        call = f"what {tool.server} {tool.name} did"
        for path in places:
            seen.named.add(path)
            for each in (*_missing_parents(path), path):
                if each not in known:
                    seen.states[each] = self._keep(each, seen, known)
            if not _is_folder(path) or makes_folder_by_name(tool.name):
                continue
            below = list_below(path) if takes_away_by_name(tool.name) else None
            if below is not None:
                seen.folders.add(path)
                seen.states.update({each: self._keep(each, seen, known) for each in below if each not in known})
            elif takes_away_by_name(tool.name):
                seen.problems[f"{self._name(path)} (too many files)"] = None
            else:
                seen.problems[call] = None
        if not places:
            seen.problems[call] = None
        seen.is_complete &= not seen.problems
        return seen

    def _keep(self, path: Path, seen: _Seen, known: Mapping[Path, State]) -> State:
        if any(known.get(each) == _ABSENT for each in path.parents):
            return _ABSENT  # it is in a folder that the run has made, perhaps by moving or copying another
        state, data = look_at(path, max_bytes=self._copies.max_file)
        if data is not None and not self._copies.add(data):
            state, data = look_at(path, max_bytes=-1)
        if _FILE.fullmatch(state) and data is None:
            seen.problems[f"{self._name(path)} (too large)"] = None
        elif state == _UNKNOWN:
            seen.problems[f"{self._name(path)} (not readable)"] = None
        return state

    def compare(self) -> FilesChanged:
        """What is different now."""
        before, named = dict(self._seen.states), frozenset(self._seen.named)
        problems, complete = dict(self._seen.problems), self._seen.is_complete
        room = MAX_READ
        after: dict[Path, State] = {}

        def look(path: Path, earlier: State) -> None:
            nonlocal room
            after[path], data = _UNKNOWN, None
            if room > 0:
                after[path], data = _look_as(path, earlier, max_bytes=self._copies.max_file)
                room -= len(data or b"")
            if after[path] == _UNKNOWN != earlier:
                problems[f"{self._name(path)} (not compared)"] = None
            elif after[path] != earlier and _holds_secret(path, self._redact):
                problems[f"{self._name(path)} ({_SECRET_NAME})"] = None

        for path, earlier in before.items():
            look(path, earlier)
        made = {path for path in named if not before[path] and after[path] in _FOLDERS}
        for folder in sorted(path for path in self._seen.folders | made if after[path] in _FOLDERS):
            below = list_below(folder)
            if below is None:
                problems[f"{self._name(folder)} (too many files)"] = None
            for path in below or ():
                if path not in before:
                    before[path] = _ABSENT
                    look(path, _ABSENT)
        # What is nowhere on this disk may be a path of the server's own, of which nothing is known.
        complete &= all(any(before[path] or after[path] for path in call) for call in self._calls)
        complete &= not any(map(os.path.lexists, self._elsewhere))
        # A copied file is not worth telling, nor is one of the same name in another folder of the workspace.
        without_effect = [call for call in self._calls if all(before[path] == after[path] for path in call)]
        changes = compare_states(
            before,
            after,
            folder=self._folder,
            contents=(
                lambda _, state: self._copies.get(state),
                lambda path, _: look_at(path, max_bytes=self._copies.max_file)[1],
            ),
            redact=self._redact,
            copies=self._copies,
            named=frozenset().union(*without_effect),
        )
        complete &= _UNKNOWN not in before.values() and _UNKNOWN not in after.values()
        status = None if self._status is None else read_status(self._folder, self._environ or {}, self._untrusted)
        if self._status is not None and status is None:
            problems["files that no call named (git could not list them)"] = None
            complete = False
        beside = self._beside(before, status)
        return FilesChanged(str(self._folder), (*changes, *beside), tuple(problems), complete)

    def _beside(self, known: Mapping[Path, State], status: Mapping[Path, Entry] | None) -> Iterator[FileChange]:
        """What git says was changed that no call named, in the workspace."""
        for path, change in compare_status(self._status or {}, status).items() if status is not None else ():
            if path not in known and path.is_relative_to(self._folder):
                yield FileChange(self._name(path), "beside", source=change, kept=False)

    def _name(self, path: Path) -> str:
        return _shown(path, self._folder)


def compare_states(
    before: Mapping[Path, State],
    after: Mapping[Path, State],
    *,
    folder: Path,
    contents: tuple[Content, Content],
    redact: Callable[[str], str],
    copies: Copies,
    named: frozenset[Path] = frozenset(),
) -> tuple[FileChange, ...]:
    """What became of each path, sorted; of those that are as they were only the `named` files.

    `contents` give what a file held before and after.
    """
    sources = _find_moves(before, after)
    moved = frozenset(sources.values())
    room, to_compare = MAX_DIFFS, MAX_COMPARED
    changes: list[FileChange] = []
    for path in sorted(before):
        was, now, name = before[path], after[path], _shown(path, folder)
        if _UNKNOWN in (was, now) or path in moved:
            continue
        if source := sources.get(path):
            kept = copies.restores(redact(now)) and not any(_holds_secret(each, redact) for each in (path, source))
            changes.append(FileChange(name, "moved", now, now, source=_shown(source, folder), kept=kept))
        elif was == now:
            if path in named and _FILE.fullmatch(was):
                changes.append(FileChange(name, "unchanged", was, now))
        else:
            kind: ChangeKind = "created" if not was else "changed" if now else "deleted"
            kept = copies.restores(redact(was)) and not _holds_secret(path, redact)
            change = FileChange(name, kind, was, now, kept=kept)
            old, new = (get(path, state) for get, state in zip(contents, (was, now), strict=True))
            size = len(old or b"") + len(new or b"")
            if (
                (old is not None or new is not None)
                and _is_read(was, old)
                and _is_read(now, new)
                and size <= to_compare
            ):
                to_compare -= size
                diff = make_diff(name, old, new, redact=redact)
                text = diff.text if len(diff.text) <= room else ""
                room -= len(text)
                change = replace(change, added=diff.added, removed=diff.removed, diff=text)
            changes.append(change)
    return tuple(changes)


def _find_moves(before: Mapping[Path, State], after: Mapping[Path, State]) -> dict[Path, Path]:
    """Where the files that are new were before: files with the same content that are gone."""
    gone: dict[State, list[Path]] = {}
    for path, state in before.items():
        if state not in (_ABSENT, *_FOLDERS, _UNKNOWN) and after[path] == _ABSENT:
            gone.setdefault(state, []).append(path)
    sources: dict[Path, Path] = {}
    for path, state in after.items():
        if before[path] == _ABSENT and (same := gone.get(state)):
            sources[path] = next((each for each in same if each.name == path.name), same[0])
            same.remove(sources[path])
    return sources


@dataclass(frozen=True, slots=True)
class Undo:
    """What an undo can put back: `steps` have what is there and what will be. `left` is left alone, with the reason.

    `is_partial`: some of it may be put back later. `is_revert`: an earlier partial undo is taken back, as nothing that
    it left alone can be put back now.
    """

    folder: Path
    steps: Mapping[Path, tuple[State, State]]
    changes: tuple[FileChange, ...]
    left: tuple[str, ...]
    is_partial: bool = False
    is_revert: bool = False


def plan_undo(events: Iterable[Event], *, copies: Copies, redact: Callable[[str], str]) -> Undo:
    """How to undo what a run changed, or its last undo. Of what is there now, a copy is kept for the next undo.

    What an undo left alone comes before taking that undo back.
    """
    told = [each for each in events if isinstance(each, FilesChanged) and each.folder]
    told = [event for event in told if event.changes or not event.is_undo]
    begin = _find_begin(told, len(told))
    if begin and all(event.is_undo for event in told[begin:]):
        begin = _find_begin(told, begin - 1, only_undos=True)
    plan = _plan(told[begin:], copies, redact)
    partial = told[_find_begin(told, len(told), only_undos=True) :]
    if not plan.steps and partial and partial != told[begin:]:
        revert = _plan(partial, copies, redact)
        plan = replace(revert, is_partial=True, is_revert=True) if revert.steps else plan
    return plan


def _find_begin(told: Sequence[FilesChanged], end: int, *, only_undos: bool = False) -> int:
    """Where the events before `end` begin that come after the last whole undo, or `only_undos` after the last run."""
    for number in range(end, 0, -1):
        event = told[number - 1]
        if (only_undos and not event.is_undo) or (event.is_undo and not event.is_partial):
            return number
    return 0


def _plan(told: Sequence[FilesChanged], copies: Copies, redact: Callable[[str], str]) -> Undo:
    folder = Path(told[-1].folder) if told else Path()
    left = dict.fromkeys(each for event in told if not event.is_undo for each in event.not_kept)
    lost = (each for event in told for each in event.changes if not each.kept)
    lost = (each for each in lost if holds_mark(f"{folder / each.path} {each.source}"))
    hidden = {folder / name for each in lost for name in (each.path, each.source) if name}
    steps: dict[Path, tuple[State, State]] = {}
    is_partial = False
    for path, (before, after) in _add_up(told).items():
        if path in hidden:  # the journal does not have it
            left[f"{_shown(path, folder)} ({_SECRET_NAME})"] = None
            continue
        now, data = _look_as(path, after, max_bytes=copies.max_file)
        if now == before:
            continue
        problem = ""
        if now != after:
            problem, is_partial = "changed since", True
        elif not copies.restores(before):
            problem = "no copy was kept"
        elif _FILE.fullmatch(now) and (data is None or not copies.add(data)):
            problem = "too large to keep a copy of what is there now"
        if problem:
            left[f"{_shown(path, folder)} ({problem})"] = None
        else:
            steps[path] = now, before
    for path in sorted(steps, key=lambda path: -len(path.parts)):
        if steps[path][0] in _FOLDERS and steps[path][1] not in _FOLDERS and not _will_be_empty(path, steps):
            left[f"{_shown(path, folder)} ({os.strerror(errno.ENOTEMPTY)})"] = None
            del steps[path]
    return Undo(folder, steps, _compare_steps(steps, folder, copies, redact), tuple(left), is_partial)


def _will_be_empty(folder: Path, steps: Mapping[Path, tuple[State, State]]) -> bool:
    try:
        return all(steps.get(folder / name, ("", "stays"))[1] == _ABSENT for name in os.listdir(folder))
    except OSError:
        return True  # which is told when it is tried


def apply_undo(undo: Undo, *, copies: Copies, redact: Callable[[str], str]) -> FilesChanged:
    """Put back what still is as it was planned for; what was done, and in `not_kept` what was left alone, and why."""
    done: dict[Path, tuple[State, State]] = {}
    left, is_partial = list(undo.left), undo.is_partial
    for path, (now, then) in sorted(undo.steps.items(), key=_order):
        try:
            if _look_as(path, now, max_bytes=copies.max_file)[0] != now:
                raise OSError(errno.EBUSY, "changed since")
            _put_back(path, now, then, copies)
            done[path] = now, then
        except OSError as exc:
            is_partial |= exc.errno == errno.EBUSY
            left.append(f"{_shown(path, undo.folder)} ({exc.strerror or exc})")
    changes = _compare_steps(done, undo.folder, copies, redact)
    return FilesChanged(str(undo.folder), changes, tuple(left), is_undo=True, is_partial=is_partial)


def _compare_steps(
    steps: Mapping[Path, tuple[State, State]], folder: Path, copies: Copies, redact: Callable[[str], str]
) -> tuple[FileChange, ...]:
    def content(_: Path, state: State) -> bytes | None:
        return copies.get(state)

    states = [{path: pair[side] for path, pair in steps.items()} for side in (0, 1)]
    return compare_states(*states, folder=folder, contents=(content, content), redact=redact, copies=copies)


def _add_up(events: Iterable[FilesChanged]) -> dict[Path, tuple[State, State]]:
    """What the events did to each path: before the first, after the last. What others did between is not undone."""
    total: dict[Path, tuple[State, State]] = {}
    for event in events:
        folder = Path(event.folder)
        for change in event.changes:
            if change.kind == "beside":
                continue
            steps = [(folder / change.path, change.before, change.after)]
            if change.kind == "moved":
                steps = [
                    (folder / change.source, change.before, _ABSENT),
                    (folder / change.path, _ABSENT, change.after),
                ]
            for path, before, after in steps:
                earlier = total.get(path)
                total[path] = (earlier[0] if earlier and earlier[1] == before else before), after
    return {path: (before, after) for path, (before, after) in total.items() if before != after}


def _order(step: tuple[Path, tuple[State, State]]) -> tuple[int, int]:
    """Files away first, then folders that have become empty, from the deepest; then folders from the top, and files."""
    path, (now, then) = step
    depth = len(path.parts)
    if then == _ABSENT:
        return (1, -depth) if now in _FOLDERS else (0, depth)
    return (2 if then in _FOLDERS else 3), depth


def _put_back(path: Path, now: State, then: State, copies: Copies) -> None:
    data = copies.get(then)
    if data is None and not copies.restores(then):
        raise OSError(errno.ENOENT, "its copy is gone")
    with open_beside(path) as (name, folder):
        if now in _FOLDERS:
            os.rmdir(name, dir_fd=folder)
        elif now and data is None:
            os.unlink(name, dir_fd=folder)
        if data is not None:
            write_file(Path(name), data, mode=int(then.split()[1], 8), flush=True, folder=folder)
        elif then in _FOLDERS:
            os.mkdir(name, 0o700 if then == _PRIVATE else 0o777, dir_fd=folder)
        elif then:
            os.symlink(then.removeprefix("link "), name, dir_fd=folder)


def look_at(path: Path, *, max_bytes: int) -> tuple[State, bytes | None]:
    """What is at a path, and the content of a file of at most `max_bytes`. Links are not followed. Never raises."""
    try:
        with open_beside(path) as (name, folder):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                return (_FOLDER if found.st_mode & 0o007 else _PRIVATE), None
            if stat.S_ISLNK(found.st_mode):
                return f"link {os.readlink(name, dir_fd=folder)}", None
            if not stat.S_ISREG(found.st_mode):
                return _UNKNOWN, None
            kind = f"file {stat.S_IMODE(found.st_mode):o}"
            if found.st_size > max_bytes:
                return f"{kind} {found.st_size}:{found.st_mtime_ns}", None
            data = read_bounded(Path(name), max_bytes=max_bytes, follow_links=False, folder=folder)
            return f"{kind} {hashlib.sha256(data).hexdigest()}", data
    except (FileNotFoundError, NotADirectoryError, ValueError):  # also a null byte in a name
        return _ABSENT, None
    except OSError as exc:
        return (_ABSENT if exc.errno == errno.ENAMETOOLONG else _UNKNOWN), None


def _as_words(text: str) -> re.Pattern[str]:
    """Finds the text, but not as a part of a longer word: `cat` is not in `category`.

    Scripts without blanks between words have no such limits.
    """
    before = rf"(?<!{_LETTER})" if re.match(_LETTER, text[0]) else ""
    after = rf"(?!{_LETTER})" if re.match(_LETTER, text[-1]) else ""
    return re.compile(f"{before}{re.escape(text)}{after}")


def _read_held(paths: set[Path]) -> Held:
    return {path: look_at(path, max_bytes=MAX_TOLD_FILE) for path in paths} if len(paths) <= MAX_TOLD_FILES else {}


def _look_as(path: Path, earlier: State, *, max_bytes: int) -> tuple[State, bytes | None]:
    """What is at a path, in the form of an earlier state; unknown if a link leads there now."""
    if Path(os.path.realpath(path.parent)) != path.parent:
        return _UNKNOWN, None
    was_read = not _FILE.fullmatch(earlier) or _KEPT_FILE.fullmatch(earlier)
    return look_at(path, max_bytes=max_bytes if was_read else -1)


def list_below(folder: Path) -> list[Path] | None:
    """All files and folders below a folder; None if they are more than `MAX_FILES`, or cannot be listed."""
    found: list[Path] = []
    pending = [folder]
    try:
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if len(found) == MAX_FILES:
                        return None
                    found.append(Path(entry.path))
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(found[-1])
    except OSError:
        return None
    return found


def _missing_parents(path: Path) -> Iterator[Path]:
    for parent in path.parents:
        if os.path.lexists(parent):
            return
        yield parent


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _is_read(state: State, content: bytes | None) -> bool:
    """Whether the content of a file in that state is there, if it is one."""
    return content is not None or not _FILE.fullmatch(state)


def _holds_secret(path: Path, redact: Callable[[str], str]) -> bool:
    return redact(str(path)) != str(path)


def _shown(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
