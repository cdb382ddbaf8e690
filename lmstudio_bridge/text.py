"""Text made by others, made fit to show: invisible characters, terminal codes, lone surrogates, pydantic's errors."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from typing import Any

_JOINED = r"\u0590-\u1cff\ua800-\uabff\ufb1d-\ufdff\ufe70-\ufefc\U00011000-\U00011fff"  # scripts that use joiners
_PICTURE = r"\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
_UNSEEN = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # terminal: colors, cursor
    r"|\x1b\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)"  # terminal: titles, links
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufff9-\ufffb]"  # control characters except tab and line breaks
    r"|\r(?!\n)"  # writes over its own line
    # Unicode's Default_Ignorable_Code_Point: zero width, direction of writing, fillers, tags. Kept are joiners within
    # words of scripts that need them and within emoji, and the selector that makes a character an emoji.
    r"|[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164]"
    r"|[\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    rf"|(?<![{_JOINED}{_PICTURE}\ufe0f])[\u200c\u200d]|[\u200c\u200d](?![{_JOINED}{_PICTURE}])"
    rf"|(?<![{_PICTURE}])[\ufe0e\ufe0f](?!\u20e3)"
)
_BLANK_LINE = re.compile(r"(\n[ \t]*\n)")
_REMOTE = re.compile(r"\]\(\s*<?(?:[^\s)>]{0,200}[:&\\]|//)")  # entities and backslashes can hide a scheme
_DASH = r"[-\u2010-\u2015\u2212\ufe58\ufe63\uff0d]"
_NO_MORE = r"(?=[^\n>]{0,300}(?:\n|\Z))"  # no tag ends in this line
_HOST_TAG = re.compile(
    # Not a comparison, as in `i<task_count;`, `x < tool_max:` and `i < total_tokens and j > 3`.
    rf"<(?![\s/]{{0,8}}\w+\b(?!{_DASH})(?:[;)\]}}](?![\s/]*>)|\.\w|\[|&&|\|\||(?:[^\w\s/>:]|:(?!\w)){_NO_MORE}))"
    rf"(?!\s{{1,8}}\w+\b(?!{_DASH}|:\w|[\s/]*>|\s+[\w-]+\s*=(?!=))"
    rf"(?:{_NO_MORE}|\s+(?:and|or|if|else|&&|\|\||[+*%?])\s[^>\n]{{0,300}}\s>=?\s))"
    r"(?=[\s/]{0,8}(?:"
    # What Claude Code and others put around what is not the user's text, and models around calls and turns.
    + (
        r"(?:system|user-prompt|command|local-command|bash|ide|tool|function|task)(?:_|-)|system[\s/]{0,8}>"
        r"|user-memory-input|cross-session-message|agent-message|remote-review|tick>|available_skills|budget:"
        r"|total_tokens|channel\s|teammate-message|fork-|policy_spec|background-task|mcp-|new-diagnostics"
        r"|persisted-output|antml:|invoke\b|\|\w{1,40}\|"
    ).replace("-", _DASH)
    + rf"|(?:[a-z]|{_DASH}){{1,30}}{_DASH}hook\b|claude(?:\w|{_DASH}){{0,30}}>"
    # What loads something where it is rendered.
    r"|(?:img|image|i?frame|video|audio|embed|picture|object|link|svg|source)[\s/]"
    r"|(?:(?:script|track)[\s/][^<]{0,300}\bsrc|base[\s/][^<]{0,300}\bhref)\s*="
    r"|input[\s/][^<]{0,300}\bimage\b|meta[\s/][^<]{0,300}\brefresh\b|style[\s/>][^<]{0,1000}(?:@import|\burl\()))",
    re.IGNORECASE,
)
_LOOK_ALIKES = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u04bb\u051b\u051d\u03bf\u03b1\u03b5\u03b9\u03bd\u03c1\u03c5\u0131\u0432\u043a\u043c\u043d\u0442"
    "\u03ba\u03c4\u03b7\u2019\u04cf\u01c0\u0585\u057d\u0251\u0454\u03c3\u00f8\u1d00\u1d04\u1d05\u1d07\u029f\u1d0d\u0274\u1d0f\u1d18\u0280\u1d1b\u1d1c\u03c2",
    "aeopcyxijsdhqwoaeivpuibkmhtktn'llouaeooacdelmnoprtuc",
)
"""Letters of other alphabets that look like Latin ones, and those."""

_REASONS = {
    "string_type": "must be a string",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "literal_error": "must be {expected}",
    "greater_than": "must be greater than {gt:,.10g}",
    "greater_than_equal": "must be at least {ge:,.10g}",
    "less_than_equal": "must be at most {le:,.10g}",
}


def explain_invalid(error: Mapping[str, Any]) -> str:
    """What is wrong with a value, of which pydantic made this error, after the name of the value."""
    known = _REASONS.get(error["type"])
    if known:
        return known.format(**error.get("ctx", {}))
    return f"is invalid: {error['msg'].removeprefix('Value error, ')}"


def clean_text(text: str) -> tuple[str, int]:
    """The text without what is invisible to a reader but read by a model or a terminal; and the number of removals."""
    if text.isascii() and text.isprintable():
        return text, 0
    return _UNSEEN.subn("", text)


def one_line(text: str) -> str:
    """The text in one line, without anything that could move the cursor."""
    return " ".join(clean_text(text)[0].split())


def local_time(moment: str) -> str:
    """An ISO 8601 time to the minute, in local time; any other text as it is."""
    try:
        return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return moment


def inert(text: str) -> str:
    """The text without what its host would act on by itself: remote images, and tags that hosts give a meaning.

    What remains can be read, and JSON stays JSON; doing it twice changes nothing more.
    """
    if "![" in text:
        parts = _BLANK_LINE.split(text)  # an image ends with its paragraph, but its address may stand elsewhere
        defined = "]:" in text
        text = "".join(part.replace("![", "! [") if defined or _REMOTE.search(part) else part for part in parts)
    return _HOST_TAG.sub("&lt;", text) if "<" in text else text


def quoted_name(text: str) -> str:
    """A name or words of others, as a part of a line of ours: in quotes, unless it is a single word."""
    words = one_line(text)
    return f'"{words.replace(chr(34), chr(39))}"' if " " in words or '"' in words else words


def quoted_words(text: str) -> str:
    """Words of others in quotes, as a part of a line of ours."""
    return f'"{one_line(text).replace(chr(34), chr(39))}"'


def as_letters(text: str) -> str:
    """The text as it looks, in small letters: in the standard form, without marks, with one space between words.

    Letters of other alphabets that look like Latin ones become these.
    """
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text.replace("\u2800", " "))
        text = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return " ".join(text.casefold().translate(_LOOK_ALIKES).split())


def shortened(text: str, most: int) -> str:
    """The text, cut after that many characters if it is longer; an ellipsis says so."""
    return text if len(text) <= most else f"{text[:most]}…"


def counted(number: int, noun: str) -> str:
    """The number with its noun, such as "1 file" and "2 files"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def first_line(text: str, most: int = 80) -> str:
    """The first line of a text, as its title in a list."""
    return shortened(text.strip().partition("\n")[0], most)


def repair_surrogates(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates replaced, so that it can be encoded."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def as_utf8(text: str) -> str:
    """The text with "?" for lone surrogates: UTF-8 cannot encode them, and the MCP SDK's writer would fail.

    They come from JavaScript programs that truncate text: in errors of LM Studio, in names, in old journals.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def as_shown(text: str) -> str:
    """The text for a host: cleaned, inert and safe to encode."""
    return as_utf8(inert(clean_text(text)[0]))
