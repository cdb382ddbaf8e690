"""The items of a run over many: a list, or the files of the workspace that a glob names."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path

from pathspec import GitIgnoreSpec

from lmstudio_bridge.errors import BridgeError
from lmstudio_bridge.files import MEBIBYTE, read_bounded

MAX_ITEMS = 1_000
MAX_ITEM = 2_000  # characters
MAX_ALTERNATIVES = 100
MAX_LOOKED_AT = 200_000  # files and folders; a glob that starts in a home folder must end
PLACEHOLDER = "{item}"
_FILE, _FOLDER = "\0", "\0\0"  # marks after a path, which no name has
_LEFT_OUT = frozenset({".git", "node_modules"})
_MISLEADING = re.compile(  # control characters, breaks of lines, no Unicode, direction of writing, invisible tags
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]"
)
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")


def item_task(task: str, item: str) -> str:
    """The task for one item, which stands where the task says {item}, or else at its end."""
    return task.replace(PLACEHOLDER, item) if PLACEHOLDER in task else f"{task}\n\n{item}"


def is_file(folder: Path, item: str) -> bool:
    """Whether the item names a file in the folder, relative to it."""
    try:
        return not Path(item).is_absolute() and ".." not in Path(item).parts and (folder / item).is_file()
    except (OSError, ValueError):  # too long, or no possible name
        return False


def resolve_items(given: Sequence[str] | str, *, folder: Path) -> tuple[str, ...]:
    """The items of a list as they are, or the files in `folder` that a glob names, sorted, relative to it.

    Only names are looked at. `**` stands for any folders, `{a,b}` for one of its parts; a wildcard does not stand for a
    leading dot. What `.gitignore` files name is left out, as are `.git`, `node_modules` and symbolic links.

    Raises:
        BridgeError: There are none or too many, or the glob leads out of the folder.
    """
    items = _files(given, folder) if isinstance(given, str) else tuple(given)
    source = f"the glob {given!r} in {folder}" if isinstance(given, str) else "the list"
    if not items:
        missing = f"no file matches {source}" if isinstance(given, str) else "the list is empty"
        raise BridgeError(
            f"for_each has no items: {missing}.",
            remedy="Check the glob and the folder (files ignored by git are skipped), or give a list.",
        )
    if len(items) > MAX_ITEMS:
        raise BridgeError(
            f"for_each takes at most {MAX_ITEMS:,} items, and {source} names {len(items):,}.",
            remedy="Split them into several calls.",
        )
    if isinstance(given, str) and (odd := [item for item in items if _MISLEADING.search(item)]):
        raise BridgeError(  # it would stand in the task, where the model takes it for the user's words
            f"A file that the glob {given!r} names has line breaks or control characters in its name: {odd[0][:80]!r}.",
            remedy="Rename it, or leave it out of the glob.",
        )
    if bad := [item for item in items if not item.strip() or len(item) > MAX_ITEM]:
        raise BridgeError(
            f"An item of for_each must have 1 to {MAX_ITEM:,} characters: {bad[0][:80]!r}.",
            remedy="Put what all items share into the task, and let it name long texts by their file.",
        )
    return items


_Rules = tuple[tuple[int, GitIgnoreSpec], ...]
"""The .gitignore files that apply in a folder: how deep the folder of each is, and what it says."""


def _files(glob: str, folder: Path) -> tuple[str, ...]:
    patterns = []
    for each in {glob, *_alternatives(glob)}:  # braces may also be part of a name
        relative = each.removeprefix(f"{folder.as_posix()}/")
        pattern = [part for part in relative.split("/") if part not in ("", ".")]
        if relative.startswith(("/", "~")) or ".." in pattern:
            raise BridgeError(
                f"The glob {glob!r} of for_each leads out of the folder {folder}.",
                remedy="Give a glob of files below that folder, such as src/**/*.py, or a list.",
            )
        patterns.append([part for part, next_part in pairwise([*pattern, ""]) if not part == next_part == "**"])
    return tuple(
        sorted("/".join(parts) for parts in _walk(folder) if any(_fits(parts, pattern) for pattern in patterns))
    )


def _alternatives(glob: str) -> list[str]:
    """The globs that one with braces stands for, as in a shell: `*.{py,md}` for `*.py` and `*.md`."""
    globs = [glob]
    while match := next(filter(None, map(_BRACES.search, globs)), None):
        before, after = match.string[: match.start()], match.string[match.end() :]
        globs.remove(match.string)
        globs += [f"{before}{part}{after}" for part in match[1].split(",")]
        if len(globs) > MAX_ALTERNATIVES:
            raise BridgeError(
                f"The braces of the glob {glob[:80]!r} stand for more than {MAX_ALTERNATIVES} globs.",
                remedy="Give a simpler glob, or a list.",
            )
    return globs


def _walk(folder: Path) -> Iterator[tuple[str, ...]]:
    """The files below a folder that no .gitignore names, each as the parts of its path."""
    looked_at = 0
    stack: list[tuple[tuple[str, ...], _Rules]] = [((), ())]
    while stack:
        parts, rules = stack.pop()
        try:
            with os.scandir(folder.joinpath(*parts)) as found:
                entries = list(found)
        except OSError:  # no permission, or just deleted
            continue
        looked_at += len(entries)
        if looked_at > MAX_LOOKED_AT:
            raise BridgeError(
                f"The folder {folder} has more than {MAX_LOOKED_AT:,} files, too many to look for those of for_each.",
                remedy="Start the bridge in a smaller folder, or give a list.",
            )
        if any(entry.name == ".gitignore" and entry.is_file(follow_symlinks=False) for entry in entries):
            rules = (*rules, (len(parts), _read_rules(folder.joinpath(*parts, ".gitignore"))))
        for entry in entries:
            path = (*parts, entry.name)
            if entry.name in _LEFT_OUT:
                continue
            if entry.is_dir(follow_symlinks=False):
                if not _is_ignored(path, rules, is_folder=True):
                    stack.append((path, rules))
            elif entry.is_file(follow_symlinks=False) and not _is_ignored(path, rules, is_folder=False):
                yield path


def _read_rules(path: Path) -> GitIgnoreSpec:
    """The rules of a .gitignore file; those that are not valid are skipped, as git does."""
    valid: list[str] = []
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # about `[[:alpha:]]`, from `re`
        with suppress(OSError):
            text = read_bounded(path, max_bytes=MEBIBYTE).decode("utf-8-sig", "surrogateescape")
            for line in filter(None, map(_exact_rule, text.split("\n"))):
                with suppress(ValueError, re.error):
                    GitIgnoreSpec.from_lines([line])
                    valid.append(line)
        return GitIgnoreSpec.from_lines(valid)


def _exact_rule(line: str) -> str:
    """A line of a .gitignore file as a rule for paths with a mark at their end; "" if it says nothing.

    To pathspec, a rule that fits a folder fits all that is in it, too. To git it does not: of `*` and `!*/`, the first
    fits `a/b.txt`, the second only `a`. With a mark of a file or a folder after the path, a rule fits only the whole.
    """
    rule = line.removesuffix("\r")
    kept = rule.rstrip(" ")
    if (len(kept) - len(kept.rstrip("\\"))) % 2:  # the first space is escaped; without one, the rule is invalid
        kept += rule[len(kept) : len(kept) + 1] or "\\"
    kept = "" if kept.startswith("#") else kept
    negation = kept[: kept.startswith("!")]
    pattern = kept[len(negation) :]
    mark = _FOLDER if pattern.endswith("/") else f"{_FILE}*"
    pattern = pattern.removesuffix("/")
    if not pattern:
        return ""
    place = "/" if "/" in pattern else "**/"
    below = "/*" if pattern.endswith("/**") else ""  # it does not fit the folder itself
    return f"{negation}{place}{pattern.removeprefix('/')}{below}/{mark}"


def _is_ignored(path: tuple[str, ...], rules: _Rules, *, is_folder: bool) -> bool:
    for depth, spec in reversed(rules):  # the rules of the nearest folder count first
        verdict = spec.check_file("/".join((*path[depth:], _FOLDER if is_folder else _FILE))).include
        if verdict is not None:
            return verdict
    return False


def _fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path fits a glob without `**` in a row, both in parts."""
    fitting = {0}  # how many parts of the glob the path so far may stand for
    for name in path:
        fitting |= _behind_stars(fitting, pattern)
        stay = {at for at in fitting if pattern[at : at + 1] == ["**"] and not name.startswith(".")}
        fitting = stay | {at + 1 for at in fitting - stay if at < len(pattern) and _fits_name(name, pattern[at])}
    return len(pattern) in fitting | _behind_stars(fitting, pattern)


def _behind_stars(fitting: set[int], pattern: Sequence[str]) -> set[int]:
    """`**` may also stand for nothing."""
    return {at + 1 for at in fitting if pattern[at : at + 1] == ["**"]}


def _fits_name(name: str, pattern: str) -> bool:
    if pattern == "**" or (name.startswith(".") and not pattern.startswith(".")):
        return False
    return name == pattern or fnmatchcase(name, pattern)  # brackets may also be part of a name
