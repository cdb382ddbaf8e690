"""Secrets are redacted in every form in which they come back."""

from __future__ import annotations

import base64
import json
import logging
import re
import sys
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.errors import ServerStartError
from lmstudio_bridge.events import RoundFinished, RunFinished, Warned
from lmstudio_bridge.messages import Image, ToolCall, Usage
from lmstudio_bridge.security.redact import MARK, RedactedStream, RedactingFormatter, Redactor


@pytest.mark.parametrize(
    ("secrets", "text", "redacted"),
    [
        ([], "hunter22", "hunter22"),
        (["hunter22"], "", ""),
        (["hunter22"], "no secret here", "no secret here"),
        (["hunter22"], "key=hunter22;", "key=[secret];"),
        (["hunter22"], "hunter22 hunter22hunter22", "[secret] [secret][secret]"),
        ([" hunter22\n"], "key=hunter22;", "key=[secret];"),
        (["Bearer hunter22"], "Authorization: Bearer hunter22", "Authorization: [secret]"),
        (["Bearer hunter22"], "the token hunter22 expired", "the token [secret] expired"),
        (['hun"ter\\22'], 'raw hun"ter\\22', "raw [secret]"),
        (['hun"ter\\22'], json.dumps({"key": 'hun"ter\\22'}), '{"key": "[secret]"}'),
        (["hünter22"], json.dumps({"key": "hünter22"}), '{"key": "[secret]"}'),
        (["hünter22"], json.dumps({"key": "hünter22"}, ensure_ascii=False), '{"key": "[secret]"}'),
        (["🗝🗝🗝🗝🗝🗝"], json.dumps("x🗝🗝🗝🗝🗝🗝"), '"x[secret]"'),
        (["line1\nline2"], json.dumps("line1\nline2"), '"[secret]"'),
        (["a.c*e+g"], "abcdefg a.c*e+g", "abcdefg [secret]"),
    ],
)
def test_secret_is_found_however_it_is_written(secrets: list[str], text: str, redacted: str) -> None:
    assert Redactor(secrets).redact(text) == redacted


@pytest.mark.parametrize(("secret", "found"), [("12345", False), ("123456", True), ("1234567", True)])
def test_value_too_short_to_be_a_secret_is_left_alone(secret: str, found: bool) -> None:
    assert (Redactor([secret]).redact(f"={secret}=") == "=[secret]=") is found


@pytest.mark.parametrize("secrets", [["hunter", "hunter22"], ["hunter22", "hunter"]])
def test_longer_secret_goes_before_the_one_inside_it(secrets: list[str]) -> None:
    assert Redactor(secrets).redact("hunter22 hunter") == "[secret] [secret]"


def test_secrets_that_overlap_leave_nothing_behind() -> None:
    assert Redactor(["abcdef", "defghi", "ghijkl"]).redact("-abcdefghijkl-") == "-[secret]-"


def test_secret_that_is_part_of_the_mark_does_not_tear_it_apart() -> None:
    redactor = Redactor(["secret"])

    assert redactor.redact(redactor.redact("my secret")) == "my [secret]"


def test_fields_of_a_value_are_redacted_however_deep_they_are() -> None:
    call = ToolCall("c1", "fs__login", '{"password": "hunter22"}')
    event = RoundFinished(1, "I use hunter22.", "", (call,), "stop", "tiny", Usage(1, 2, 3), 0.5)

    assert Redactor(["hunter22"]).redact_fields(event) == RoundFinished(
        1,
        "I use [secret].",
        "",
        (ToolCall("c1", "fs__login", '{"password": "[secret]"}'),),
        "stop",
        "tiny",
        Usage(1, 2, 3),
        0.5,
    )


secrets = st.lists(st.text('abé"\\', min_size=6, max_size=8), min_size=1, max_size=4)
texts = st.text('abé"\\', max_size=40)


@given(secrets, texts)
def test_exactly_the_secrets_are_replaced_and_a_second_time_changes_nothing(known: list[str], text: str) -> None:
    redactor = Redactor(known)

    once = redactor.redact(text)

    assert not any(secret in part for secret in known for part in once.split(MARK))
    assert redactor.redact(once) == once
    position = 0
    for part in once.split(MARK):  # what is left is the rest of the text, in the same order
        position = text.index(part, position) + len(part)


# -- encodings ----------------------------------------------------------------------------------

Encode = Callable[[str], str]


def _in_base64(before: int, *, url: bool = False) -> Encode:
    def encode(text: str) -> str:
        raw = b"x" * before + text.encode("utf-8", "surrogatepass") + b"and more"
        return (base64.urlsafe_b64encode(raw) if url else base64.b64encode(raw)).decode()

    return encode


ENCODINGS: dict[str, Encode] = {
    "plain": str,
    "json": json.dumps,
    "json as utf-8": lambda text: json.dumps(text, ensure_ascii=False),
    "json in json": lambda text: json.dumps(json.dumps([text])),
    "json in json in json": lambda text: json.dumps(json.dumps(json.dumps(text))),
    "json of php": lambda text: json.dumps(text).replace("/", "\\/"),
    "json of go": lambda text: json.dumps(text).replace("<", "\\u003c").replace("&", "\\u0026"),
    "python": repr,
    "address": lambda text: quote(text.encode("utf-8", "surrogatepass"), safe=""),
    "path of an address": lambda text: quote(text.encode("utf-8", "surrogatepass")),
    "form": lambda text: quote_plus(text.encode("utf-8", "surrogatepass")),
    "address, small letters": lambda text: re.sub(
        "%..", lambda match: match[0].lower(), quote(text.encode("utf-8", "surrogatepass"), safe="")
    ),
    "address in an address": lambda text: quote(quote(text.encode("utf-8", "surrogatepass"), safe="")),
    "hexadecimal": lambda text: text.encode("utf-8", "surrogatepass").hex(),
    "hexadecimal, capitals": lambda text: text.encode("utf-8", "surrogatepass").hex().upper(),
    **{f"base64 at {before}": _in_base64(before) for before in range(4)},
    **{f"base64 of addresses at {before}": _in_base64(before, url=True) for before in range(3)},
    "base64 in json": lambda text: json.dumps({"data": _in_base64(1)(text)}).replace("/", "\\/"),
    "base64 in an address": lambda text: quote(_in_base64(1)(text), safe=""),
    "json in base64": lambda text: base64.b64encode(json.dumps({"key": text}).encode()).decode(),
}
SECRETS = ["hunter22", "Tr0ub4dor&3", "pä/ss+wö?rd<x>", 'a "quoted\\" key', "k" * 40, "🗝🗝🗝🗝🗝🗝", "9f8e7d6c5b4a"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_secret_is_found_in_every_encoding(encoding: str, secret: str) -> None:
    encoded = ENCODINGS[encoding](secret)

    redacted = Redactor([secret]).redact(f"before: {encoded}, after")

    assert encoded.strip("\"'[]") not in redacted
    assert MARK in redacted
    assert redacted.startswith("before: ")
    assert redacted.endswith(", after")


any_secret = st.text(min_size=6, max_size=60).filter(lambda text: len(text.strip()) >= 6)


@given(any_secret, st.sampled_from(sorted(ENCODINGS)), st.text(max_size=20), st.text(max_size=20))
def test_no_secret_is_readable_in_what_is_left(secret: str, encoding: str, before: str, after: str) -> None:
    encoded = ENCODINGS[encoding](secret)

    redacted = Redactor([secret]).redact(f"{before}{encoded}{after}")

    assert secret not in redacted
    assert encoded not in redacted


@given(st.sampled_from([secret for secret in SECRETS if len(secret) >= 12 and " " not in secret]), st.data())
def test_secret_without_spaces_is_found_over_the_lines_that_it_fills(secret: str, data: st.DataObject) -> None:
    encoded = ENCODINGS[data.draw(st.sampled_from(["plain", "base64 at 1", "hexadecimal"]))](secret)
    width = data.draw(st.integers(4, len(encoded) - 1))
    end = data.draw(st.sampled_from(["\n", "\r\n", "\n    ", "\\n", "\\r\\n"]))
    broken = end.join(encoded[start : start + width] for start in range(0, len(encoded), width))

    redacted = Redactor([secret]).redact(f"a: {broken}")

    assert encoded not in redacted.replace(end, "")
    assert MARK in redacted


def test_base64_of_a_file_in_lines_gives_nothing_away() -> None:
    secret = "correct-horse-battery-staple-and-some-more-words-so-that-it-does-not-fit-one-line"
    file = base64.encodebytes(f"HOST=example.org\nKEY={secret}\nPORT=80\n".encode()).decode()

    redacted = Redactor([secret]).redact(file)

    assert "correct-horse" not in base64.b64decode(redacted.replace(MARK, "")).decode("utf-8", "replace")


def test_short_secret_is_not_put_together_from_two_lines() -> None:
    """It must not be found where a line ends in admin and the next begins with 1."""
    assert Redactor(["admin1"]).redact("user: admin\n1. first") == "user: admin\n1. first"


@pytest.mark.parametrize(("kept", "found"), [(9, False), (10, True), (11, True), (20, True)])
def test_beginning_of_a_secret_that_was_cut_is_a_secret_from_its_half_on(kept: int, found: bool) -> None:
    secret = "abcdefghij0123456789"

    assert (Redactor([secret]).redact(f"It said: {secret[:kept]}…") == "It said: [secret]…") is found


def test_beginning_of_an_address_is_no_secret() -> None:
    redactor = Redactor(["https://key@sentry.example.org/4711"])

    assert redactor.redact("https://key@sentry.example.org/docs") == "https://key@sentry.example.org/docs"


@given(st.text(max_size=200))
def test_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert Redactor(["hunter22-hunter22", "🗝🗝🗝🗝🗝🗝"]).redact(text) == text


def test_secrets_that_are_learned_later_are_found_from_then_on() -> None:
    redactor = Redactor(["hunter22"])
    assert redactor.redact("it is hunter33") == "it is hunter33"

    redactor.learn(["hunter33", "short"])

    assert redactor.redact("it is hunter33, hunter22, short") == "it is [secret], [secret], short"


def test_known_secret_goes_whole_where_a_key_shape_covers_only_a_part_of_it() -> None:
    key = "ghp_" + "a1" * 15

    assert Redactor([f"before {key}"]).redact(f"-before {key}-") == "-[secret]-"


def test_placeholder_of_a_key_is_not_torn_apart() -> None:
    redactor = Redactor(["github", "secret"])
    once = redactor.redact("ghp_" + "a1" * 15)

    assert re.fullmatch(r"\[secret:github-token …[0-9a-f]{4}\]", once)
    assert redactor.redact(once) == once


# -- pieces -------------------------------------------------------------------------------------


def _streamed(stream: RedactedStream, pieces: list[str]) -> str:
    return "".join([*(stream.feed(piece) for piece in pieces), stream.close()])


@st.composite
def split_texts(draw: st.DrawFn) -> tuple[str, str, list[str]]:
    """A secret, a text with it in some form, and the text in pieces."""
    secret = draw(st.sampled_from(SECRETS))
    encoding = draw(st.sampled_from(["plain", "json", "address", "base64 at 0", "base64 at 1", "hexadecimal"]))
    encoded = ENCODINGS[encoding](secret)
    text = draw(st.text(max_size=10)) + encoded + draw(st.text(max_size=10))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)))))
    return secret, text, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(split_texts())
def test_secret_in_pieces_does_not_come_out_whole(case: tuple[str, str, list[str]]) -> None:
    secret, text, pieces = case
    core = max(re.findall(r"[A-Za-z0-9🗝ä]{6,}", text), key=len, default=text)

    out = _streamed(Redactor([secret]).open_stream(), pieces)

    assert secret not in out
    assert MARK in out or core not in out


def test_at_most_three_characters_of_a_secret_in_pieces_go_out() -> None:
    assert _streamed(Redactor(["hunter22"]).open_stream(), list("my hunter22!")) == "my hun[secret]!"


@given(st.lists(st.text("abchunter2 ", max_size=8)))
def test_pieces_without_a_secret_come_out_whole(pieces: list[str]) -> None:
    assert _streamed(Redactor(["hunter2-hunter2"]).open_stream(), pieces) == "".join(pieces)


def test_piece_that_cannot_begin_a_secret_goes_out_at_once() -> None:
    assert Redactor(["hunter22"]).open_stream().feed("50 of 70 files, the hun") == "50 of 70 files, the hun"


# -- values, errors, logs --------------------------------------------------------------------------


def test_our_own_words_stay_although_they_are_secrets_too() -> None:
    end = RunFinished("cancelled", "cancelled", "", 1.0)

    assert Redactor(["cancelled"]).redact_fields(end) == RunFinished("cancelled", MARK, "", 1.0)


def test_words_of_our_own_texts_are_no_secrets() -> None:
    redactor = Redactor(["Answer", "answer-22"], own_words=["answer"])

    assert redactor.redact("The answer is answer-22.") == "The answer is [secret]."


def test_the_data_of_an_image_are_not_searched() -> None:
    assert Redactor(["hunter22"]).redact_fields(Image("hunter22", "image/hunter22")) == Image(
        "hunter22", "image/[secret]"
    )


def test_texts_and_names_in_a_schema_are_redacted() -> None:
    schema = {"properties": {"hunter22": {"default": "hunter22", "enum": ["a", "hunter22"], "maximum": 3}}}

    assert Redactor(["hunter22"]).redact_fields(schema) == {
        "properties": {MARK: {"default": MARK, "enum": ["a", MARK], "maximum": 3}}
    }


def test_error_says_nothing_secret_after_it_was_redacted() -> None:
    error = ServerStartError("It said hunter22.", server="fs", stderr_tail="key hunter22", remedy="Use hunter22.")

    Redactor(["hunter22"]).redact_error(error)

    assert "hunter22" not in f"{error.explain()} {error!r} {error}"


def test_log_entries_and_their_tracebacks_are_redacted() -> None:
    formatter = RedactingFormatter("%(levelname)s %(message)s", Redactor(["hunter22"]))
    try:
        raise ValueError("no such key: hunter22")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "failed with %s", ("hunter22",), sys.exc_info())

    lines = formatter.format(record).splitlines()

    assert (lines[0], lines[1]) == ("ERROR failed with [secret]", "Traceback (most recent call last):")
    assert lines[-1] == "ValueError: no such key: [secret]"


@pytest.mark.parametrize("value", [{"a": {"b": ["x", 1]}}, ("x", ["y"]), ["x"], "x", 1, None, Warned("careful")])
def test_a_value_without_secrets_is_returned_unchanged(value: object) -> None:
    assert Redactor(["hunter2-hunter2"]).redact_fields(value) is value
