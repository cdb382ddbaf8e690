"""Old results in one line each: what they were of, how long, and where they can be read again."""

from __future__ import annotations

import pytest

from lmstudio_bridge.agent.conversation import Compactor, Conversation
from lmstudio_bridge.agent.result_store import ResultStore
from lmstudio_bridge.agent.untrusted import Delimiter
from lmstudio_bridge.events import ResultsShrunk
from lmstudio_bridge.messages import AssistantMessage, SystemMessage, ToolCall, ToolMessage, UserMessage
from tests.support.fakes import Recorder

DELIMITER = Delimiter("xkqvtzmw")
OPENING = (SystemMessage("Use tools."), UserMessage("What is in the files?"))


class Case:
    """A conversation with a result of each text, all of calls of fs__read."""

    def __init__(self, *texts: str, arguments: str = '{"path": "src/app.py", "head": 3}') -> None:
        self.conversation = Conversation(OPENING)
        self.store = ResultStore(1_000, delimiter=DELIMITER)
        self.recorder = Recorder()
        for number, text in enumerate(texts):
            self.conversation.add(AssistantMessage("", (ToolCall(f"c{number}", "fs__read", arguments),)))
            self.conversation.add(ToolMessage(f"c{number}", self.store.show(text)))

    async def compact(self, *, to_chars: int = 0) -> int:
        compactor = Compactor(self.conversation, store=self.store, tell=self.recorder.emit, delimiter=DELIMITER)
        return await compactor.compact(to_chars=to_chars)

    def results(self) -> list[str]:
        return [each.text for each in self.conversation.messages if isinstance(each, ToolMessage)]

    def read(self, name: str) -> str:
        answer = self.store.answer(ToolCall("c", "read_result", f'{{"id": "{name}", "offset": 0}}'))
        assert answer is not None
        return answer[0]


async def test_compacted_result_names_its_call_its_size_and_where_it_is_kept() -> None:
    given = Case("first " * 100, "last " * 100)

    assert await given.compact() == 2
    assert given.results() == [
        f"[fs__read src/app.py → {length} characters, not shown any more; "
        f'read_result(id="{name}", offset=0) gives them]'
        for name, length in (("r1", "600"), ("r2", "500"))
    ]
    assert given.read("r1").startswith(DELIMITER.wrap("first " * 100))


async def test_result_that_was_paged_keeps_its_id() -> None:
    given = Case("x" * 5_000)

    await given.compact()

    assert given.results()[0].endswith('read_result(id="r1", offset=0) gives them]')
    assert given.read("r1").startswith(DELIMITER.wrap("x" * 1_000))


async def test_newest_result_keeps_as_much_as_fits_inside_its_fence() -> None:
    given = Case("a" * 600, "b" * 600)
    room = given.conversation.size() - 600 - 100

    await given.compact(to_chars=room)

    first, newest = given.results()
    assert first.startswith("[fs__read")
    kept = newest.count("b")
    assert newest.startswith(DELIMITER.wrap("b" * kept) + "\n[fs__read")
    assert kept > 100
    assert room - 10 <= given.conversation.size() <= room


@pytest.mark.parametrize(("length", "compacted"), [(200, 0), (300, 1)])
async def test_result_that_a_line_would_not_shorten_much_stays(length: int, compacted: int) -> None:
    given = Case("x" * length)

    assert await given.compact() == compacted
    assert given.recorder.of(ResultsShrunk) == ([ResultsShrunk((3,), (given.results()[0],))] if compacted else [])


async def test_result_is_compacted_once() -> None:
    given = Case("x" * 600)

    assert [await given.compact(), await given.compact()] == [1, 0]


@pytest.mark.parametrize("arguments", ["", "{", "[1]", '{"n": 1}'])
async def test_call_without_a_telling_argument_goes_by_its_name(arguments: str) -> None:
    given = Case("x" * 600, arguments=arguments)

    await given.compact()

    assert given.results()[0].startswith("[fs__read → ")
