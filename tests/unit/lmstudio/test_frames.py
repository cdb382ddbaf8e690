"""Streams cut anywhere give the same reply; bad frames are passed over; no frame grows without end."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.errors import LLMError, LLMResponseError, WrongEndpointError
from lmstudio_bridge.lmstudio.stream import MAX_BAD_FRAMES, Accumulator, ChunkDecoder, Frame, FrameDecoder
from lmstudio_bridge.lmstudio.wire import ChatIn
from lmstudio_bridge.messages import CallDelta, Completion, Delta, ReasoningDelta, TextDelta, ToolSpec
from tests.unit.lmstudio.chunks import DONE, RECORDED, RECORDED_REPLY, chunk, encode


def decode(pieces: Iterable[bytes]) -> tuple[Completion, list[Delta], bool]:
    """The reply that the pieces of a stream make, its deltas, and whether it ended as it should."""
    decoder, accumulator = ChunkDecoder(), Accumulator(tools=[ToolSpec("list_files", "", {})], new_id=lambda: "new")
    deltas: list[Delta] = []
    for piece in pieces:
        for each in decoder.feed(piece):
            deltas += accumulator.add(each)
    for each in decoder.flush():
        deltas += accumulator.add(each)
    return accumulator.completion(), deltas, accumulator.finished and decoder.done


def test_a_recorded_stream_becomes_its_deltas_and_one_reply() -> None:
    reply, deltas, ended = decode([encode(RECORDED) + DONE])

    assert (reply, ended) == (RECORDED_REPLY, True)
    assert deltas == [
        ReasoningDelta("\n"),
        ReasoningDelta("Ich müßte 📁"),
        TextDelta("\n\n"),
        CallDelta(0, "list_files", ""),
        CallDelta(0, "", '{"path":'),
        CallDelta(0, "", '"./größe 📁"}'),
    ]


# -- cut anywhere ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_stream_cut_at_any_byte_gives_the_same_reply(line_end: str) -> None:
    wire = encode(RECORDED, line_end=line_end) + DONE
    whole = decode([wire])

    for position in range(len(wire) + 1):
        assert decode([wire[:position], wire[position:]]) == whole
    assert whole[0] == RECORDED_REPLY


@given(st.sampled_from(["\n", "\r\n"]), st.sets(st.integers(1, 2200)))
def test_a_stream_cut_at_many_bytes_gives_the_same_reply(line_end: str, cuts: set[int]) -> None:
    wire = encode(RECORDED, line_end=line_end) + DONE
    borders = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]

    pieces = [wire[start:end] for start, end in pairwise(borders)]

    assert decode(pieces) == decode([wire])


def test_a_stream_that_comes_byte_by_byte_gives_the_same_reply() -> None:
    wire = encode(RECORDED) + DONE

    assert decode([wire[at : at + 1] for at in range(len(wire))]) == decode([wire])


def test_a_stream_that_stops_before_its_finish_reason_is_never_a_reply() -> None:
    wire = encode(RECORDED)
    finish = wire.index(b'"finish_reason": "tool_calls"')

    for position in range(finish):
        decoder, accumulator = ChunkDecoder(), Accumulator()
        for each in (*decoder.feed(wire[:position]), *decoder.flush()):
            accumulator.add(each)
        assert (accumulator.finished, decoder.done) == (False, False)


def test_a_character_cut_between_its_utf_16_halves_is_joined() -> None:
    """Node cuts strings between UTF-16 units, and then writes each half as an escape."""
    halves = [{"content": "a\ud83d"}, {"content": "\udcc1b"}, {"reasoning": "\ud83d"}, {"reasoning": "\udcc1"}]
    wire = b"".join(b"data: " + json.dumps(chunk(half)).encode() + b"\n\n" for half in halves)

    reply, deltas, _ = decode([wire])

    assert (reply.text, reply.reasoning) == ("a📁b", "📁")
    assert deltas == [TextDelta("a"), TextDelta("📁b"), ReasoningDelta("📁")]


# -- frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "frames"),
    [
        (b"data: a\n\ndata: b\n\n", [Frame("", b"a"), Frame("", b"b")]),
        (b"data:a\n\n", [Frame("", b"a")]),
        (b"data:  a\n\n", [Frame("", b" a")]),
        (b"data: a\ndata: b\n\n", [Frame("", b"a\nb")]),
        (b"event: error\ndata: a\n\ndata: b\n\n", [Frame("error", b"a"), Frame("", b"b")]),
        (b": ping\n\nid: 7\nretry: 5\ndata: a\n\n", [Frame("", b"a")]),
        (b"\n\n\ndata: a\n\n\n\n", [Frame("", b"a")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [Frame("", b"a"), Frame("", b"b")]),
        (b"data: a", [Frame("", b"a")]),
        (b"data: a\r", [Frame("", b"a")]),
        (b"event: error\n\ndata: a\n\n", [Frame("", b"a")]),
        (b"", []),
    ],
)
def test_an_event_stream_becomes_frames(wire: bytes, frames: list[Frame]) -> None:
    """WHATWG HTML, 9.2.6."""
    decoder = FrameDecoder()

    assert [*decoder.feed(wire), *decoder.flush()] == frames


@pytest.mark.parametrize("bad", ['{"id":"chatcmpl-', "[1]", "5", "null", '{"choices": 5}', "\ufffd", '"x"'])
def test_a_bad_frame_between_good_ones_is_passed_over(bad: str) -> None:
    good = encode([chunk({"content": "a"})])

    reply, _, ended = decode([good, f"data: {bad}\n\n".encode(), good, encode([chunk(finish="stop")]), DONE])

    assert (reply, ended) == (Completion("aa", finish_reason="stop", model="m"), True)


@pytest.mark.parametrize("bad", [b"\xff\xfe", b"[" * 100_000], ids=["no UTF-8", "nested without end"])
def test_a_frame_of_no_text_or_without_bottom_is_passed_over(bad: bytes) -> None:
    reply, *_ = decode([b"data: " + bad + b"\n\n", encode([chunk({"content": "a"})])])

    assert reply.text == "a"


@pytest.mark.parametrize(("bad", "broken"), [(MAX_BAD_FRAMES - 1, False), (MAX_BAD_FRAMES, False), (101, True)])
def test_too_many_bad_frames_are_no_stream_of_lm_studio(bad: int, broken: bool) -> None:
    decoder = ChunkDecoder()
    wire = b"data: {oops\n\n" * bad

    if not broken:
        assert list(decoder.feed(wire)) == []
        return
    with pytest.raises(WrongEndpointError) as caught:
        list(decoder.feed(wire))
    assert caught.value.detail == "{oops"


def test_empty_frames_are_no_bad_frames() -> None:
    decoder = ChunkDecoder(max_bad_frames=0)

    assert [*decoder.feed(b"data:\n\ndata: \n\n: still here\n\n"), *decoder.flush()] == []


def test_what_follows_done_is_not_read() -> None:
    reply, *_ = decode([encode([chunk({"content": "a"}, finish="stop")]), DONE, encode([chunk({"content": "b"})])])

    assert reply.text == "a"


def test_chunks_before_an_error_in_the_same_piece_are_not_lost() -> None:
    seen: list[ChatIn] = []

    with pytest.raises(LLMError):
        seen.extend(each for each in ChunkDecoder().feed(encode([chunk({"content": "a"}), {"error": "Oops."}])))

    assert seen == [ChatIn.model_validate(chunk({"content": "a"}))]


@pytest.mark.parametrize(
    ("wire", "foreign", "other"),
    [
        (b"", False, ""),
        (b'data: {"status": "ok"}\n\n', True, '{"status": "ok"}'),
        (b'data: {"id":"chatcmpl-', False, ""),
        (b'data: {"type":"ping"}\n\ndata: {"choices":[]}\n\n', False, '{"type":"ping"}'),
        (b'data: {"type":"ping"}\n\ndata: [DONE]\n\n', False, '{"type":"ping"}'),
    ],
)
def test_a_stream_of_other_json_is_known_as_foreign(wire: bytes, foreign: bool, other: str) -> None:
    decoder = ChunkDecoder()

    for _ in (*decoder.feed(wire), *decoder.flush()):
        pass

    assert (decoder.foreign, decoder.other) == (foreign, other)


# -- bounded memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", [b"data: %b\n\n", b"data: %b\n", b"data: %b", b": %b"], ids=repr)
@pytest.mark.parametrize(("size", "allowed"), [(99, True), (100, True), (101, False)])
def test_a_frame_may_be_as_large_as_the_limit(wire: bytes, size: int, allowed: bool) -> None:
    decoder = FrameDecoder(max_bytes=100)
    line = wire % (b"x" * (size - len(wire.rstrip(b"\n")) + 2))

    if allowed:
        list(decoder.feed(line))
    else:
        with pytest.raises(LLMResponseError, match="larger than 100 bytes"):
            list(decoder.feed(line))


def test_a_frame_of_endless_empty_lines_is_refused() -> None:
    decoder = FrameDecoder(max_bytes=100)

    with pytest.raises(LLMResponseError):
        list(decoder.feed(b"data:\n" * 100))


def test_many_frames_within_the_limit_are_read() -> None:
    decoder = FrameDecoder(max_bytes=10)

    assert list(decoder.feed(b"data: abc\n\n" * 100)) == [Frame("", b"abc")] * 100
