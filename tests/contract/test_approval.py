"""A call that needs write access in a run that only reads: the host's person is asked, through the MCP SDK's client."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from mcp import Client, StdioServerParameters
from mcp.client import ClientRequestContext
from mcp.types import CallToolResult, ElicitRequestParams, ElicitResult, TextContent

from tests.lmstudio_sim.replies import CallReply, TextReply
from tests.support.desk import MODEL, Desk, open_desk
from tests.support.raw_client import base_environment, modern_meta
from tests.support.shell import Shell

pytestmark = pytest.mark.npm

YES = ElicitResult(action="accept", content={})
ALL = ElicitResult(action="accept", content={"all_calls": True})
NO = ElicitResult(action="decline")


@dataclass
class Person:
    """Somebody in front of a host, and what they were asked; says the next answer, then NO."""

    client: Client
    answers: list[ElicitResult]
    asked: list[str] = field(default_factory=list)

    async def delegate(self, task: str, *answers: ElicitResult) -> CallToolResult:
        """A run that only reads, with these answers; what was asked before is forgotten."""
        self.answers[:] = answers
        self.asked.clear()
        return await self.client.call_tool("autonomous_with_mcp", {"mcp_name": "filesystem", "task": task})


@asynccontextmanager
async def open_host(desk: Desk, mode: Literal["legacy", "2026-07-28"]) -> AsyncIterator[Person]:
    answers: list[ElicitResult] = []
    asked: list[str] = []

    async def elicit(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        del context  # the SDK passes it by name
        asked.append(params.message)
        return answers.pop(0) if answers else NO

    bridge = StdioServerParameters(
        command=sys.executable, args=["-m", "lmstudio_bridge"], env={**base_environment(), **desk.environ}
    )
    async with Client(bridge, mode=mode, elicitation_callback=elicit) as client:
        yield Person(client, answers, asked)


def said(result: CallToolResult) -> str:
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))


def writes(*paths: Path, content: str = "new") -> list[CallReply | TextReply]:
    """A model that writes these files, one after another, and says that it is done."""
    calls: list[CallReply | TextReply] = [
        CallReply(("filesystem__write_file", {"path": str(path), "content": content})) for path in paths
    ]
    return [*calls, TextReply("It is done.")]


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_person_decides_about_a_call_of_a_run_that_only_reads(
    tmp_path: Path, mode: Literal["legacy", "2026-07-28"]
) -> None:
    """The legacy protocol asks while the call is open, the newer one answers the call with the question."""
    async with open_desk(tmp_path) as desk, open_host(desk, mode) as person:
        one, two, three = (desk.project / name for name in ("one.md", "two.md", "three.md"))

        desk.sim.script(MODEL, *writes(one, content="a\u202eb\x1b[2J" + "x" * 1_000))
        result = await person.delegate("Write one.md.", YES)
        [question] = person.asked
        assert "not available in this run" not in desk.chat_requests()[0].messages[0]["content"]
        assert one.read_text(encoding="utf-8").startswith("a")
        assert said(result).startswith("It is done.\n\nChanged: one.md (created, +1)\n")
        assert question.startswith("Allow filesystem write_file? It may change something.\npath: ")
        shown = question.replace("\n", "")
        assert f'path: "{one}"' in shown
        assert "content: (1,0" in shown, "how much of it is not shown"
        assert "\\u202eb\\u001b[2Jxxx" in shown, "what is invisible is"
        [journal] = desk.journals()
        assert '"rule":"approved during the run"' in journal.read_text(encoding="utf-8").replace('": "', '":"')

        if mode == "legacy":
            code, out, _ = await Shell(desk.project, desk.environ).run("runs", "undo", "last", "--yes")
            assert (code, one.exists()) == (0, False), out

        desk.sim.script(MODEL, *writes(two, three))
        await person.delegate("Write two.md and three.md.", YES, YES)
        assert len(person.asked) == 2, "each call is asked about"
        two.unlink()
        desk.sim.script(MODEL, *writes(two, three, one))
        await person.delegate("Write all of them.", ALL)
        assert (len(person.asked), two.exists()) == (1, True)

        one.unlink()
        desk.sim.script(MODEL, *writes(one, two))
        result = await person.delegate("Write one.md and two.md.", NO, YES)
        assert (len(person.asked), one.exists()) == (1, False), "after a no, nothing more is asked"
        assert said(result).startswith("Nothing was changed: this run could only read.\nFailed: write_file ")
        assert "needs write access, and was not approved" in said(result)

        desk.sim.script(MODEL, *writes(desk.project / ".mcp.json"), TextReply("Well."))
        await person.delegate("Write .mcp.json.", YES)
        assert person.asked == [], "what only the user changes is not asked about"
        assert not (desk.project / ".mcp.json").exists()


async def test_question_without_an_answer_ends_with_an_invalid_one_or_with_the_host(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
        desk.sim.script(MODEL, *writes(desk.project / "one.md"), *writes(desk.project / "one.md"))
        async with desk.bridge("2026-07-28") as client:
            meta = modern_meta()
            meta["io.modelcontextprotocol/clientCapabilities"] = {"elicitation": {"form": {}}}
            arguments = {"mcp_name": "filesystem", "task": "Write one.md."}
            call = {"name": "autonomous_with_mcp", "arguments": arguments, "_meta": meta}
            await client.send_request("call", "tools/call", call)
            asked = await client.result_of("call")
            assert asked["resultType"] == "input_required"
            assert asked["inputRequests"]["approval"]["method"] == "elicitation/create"

            answer = {"inputResponses": {"approval": {"action": "perhaps"}}, "requestState": asked["requestState"]}
            await client.send_request("answer", "tools/call", {**call, **answer})
            answered = await client.result_of("answer")
            assert answered["content"][0]["text"].startswith("Nothing was changed")

            await client.send_request("again", "tools/call", call)
            assert (await client.result_of("again"))["resultType"] == "input_required"
            assert await client.close_stdin() == 0

        journal = desk.journals()[-1]
        assert json.loads(journal.read_text(encoding="utf-8").splitlines()[-1])["stop"] == "cancelled"
