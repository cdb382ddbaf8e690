"""One task for many items: each has a run of its own, all have a row, and no work is lost or done twice."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections import Counter
from functools import partial
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

import pytest

from tests.lmstudio_sim.replies import CallReply, CutSocket, HttpReply, Reply, Stall, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.support.desk import MODEL, Desk, assert_names, open_desk
from tests.support.processes import SLOPPY
from tests.support.raw_client import Answer, RawClient
from tests.support.shell import LIMIT, Shell

pytestmark = [pytest.mark.npm, pytest.mark.asyncio(loop_scope="module")]

TASK = "Which code is in the file {item}?"
ALL: dict[str, Any] = {"mcp_name": "filesystem", "task": TASK, "for_each": "f*.txt"}


def make_files(desk: Desk, count: int) -> list[str]:
    """Files with a code each, in the order of their names."""
    names = [f"f{number:03}.txt" for number in range(1, count + 1)]
    for name in names:
        (desk.project / name).write_text(f"The code is c{name[1:4]}.\n", encoding="utf-8")
    return names


def item_of(request: SimRequest) -> str:
    """The file that the conversation is about."""
    task = next(str(message["content"]) for message in request.messages if message["role"] == "user")
    found = re.search(r"f\d{3}\.txt", task)
    assert found, task
    return found[0]


def read_and_tell(request: SimRequest) -> Reply:
    """A model that reads the file and says its code."""
    name = item_of(request)
    if any(message["role"] == "tool" for message in request.messages):
        return TextReply(f"The code is c{name[1:4]}.")
    return CallReply(("filesystem__read_text_file", {"path": name}))


def cursed(name: str, request: SimRequest) -> Reply:
    """The same, but LM Studio refuses one item."""
    refusal = HttpReply(400, json.dumps({"error": "This item is cursed."}).encode())
    return refusal if item_of(request) == name else read_and_tell(request)


def only_the_first(request: SimRequest) -> Reply:
    """The same for the first item; for the others it never comes to an answer."""
    return read_and_tell(request) if item_of(request) == "f001.txt" else TextReply("x", faults=(Stall(),))


def newest_run(desk: Desk) -> str:
    """The only run over many: the names of its items' journals are longer."""
    return min((path.stem for path in desk.journals()), key=len)


async def continue_cancelled(desk: Desk, client: RawClient) -> Answer:
    """Go on with a run whose call was cancelled, which ends on its own time."""
    async with asyncio.timeout(LIMIT):
        while not table_of(answer := await client.call("continue_run", run_id=newest_run(desk))):
            pass
    return answer


async def kill(client: RawClient) -> None:
    client.process.kill()
    await client.process.wait()


def table_of(answer: Answer) -> list[list[str]]:
    """The rows of the table, without its head."""
    lines = [line for line in answer.text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def shell_of(desk: Desk) -> Shell:
    return Shell(desk.project, {**os.environ, **desk.environ})


async def in_shell(desk: Desk, *arguments: str) -> str:
    """What a command prints."""
    code, out, err = await shell_of(desk).run(*arguments)
    assert code == 0, err
    return out


def assert_in_order(text: str, *parts: str) -> None:
    at = [text.find(part) for part in parts]
    assert min(at) >= 0, text
    assert at == sorted(at), text


async def rows_of(desk: Desk, run_id: str) -> list[dict[str, Any]]:
    out = await in_shell(desk, "runs", "show", run_id, "--jsonl")
    return [json.loads(line) for line in out.splitlines()]


def merges(request: SimRequest) -> bool:
    """Whether the answers of the items are to be merged."""
    return "These are the answers for" in str(request.messages[-1]["content"])


def answers_given(desk: Desk) -> Counter[str]:
    """How often each item got its last reply."""
    return Counter(
        item_of(request)
        for request in desk.chat_requests()
        if request.completed
        and request.status == 200
        and any(message["role"] == "tool" for message in request.messages)
    )


async def test_two_hundred_files_are_two_hundred_rows_though_one_request_in_ten_fails(desk: Desk) -> None:
    names = make_files(desk, 200)
    asked = 0

    def act(request: SimRequest) -> Reply:
        nonlocal asked
        asked += 1
        if asked % 10 == 0:
            return TextReply("The code is", faults=(CutSocket(after_tokens=1),))
        return read_and_tell(request)

    desk.sim.script_fn(MODEL, act)
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_mcp", **ALL)

    assert not answer.is_error
    assert answer.text.startswith("200 of 200 items done")
    assert len(answer.text) <= 48_000
    rows = table_of(answer)
    assert [row[0] for row in rows] == names
    assert [row[1:3] for row in rows] == [["done", f"The code is c{name[1:4]}."] for name in names]
    assert all(name in row[3] for name, row in zip(names, rows, strict=True)), "what each rests on"
    assert answers_given(desk) == Counter(names), "no item twice"
    whole = await rows_of(desk, answer.run_id)
    assert [(row["item"], row["status"]) for row in whole] == [(name, "done") for name in names]
    assert any(re.fullmatch(r"\d+ of 200( · .*)?", message) for message in answer.progress)


@pytest.mark.parametrize(("environ", "slots"), [({}, 4), ({"LMSTUDIO_BRIDGE_PARALLEL": "64"}, 64)])
async def test_as_many_items_run_at_once_as_the_model_has_slots(
    desk: Desk, environ: dict[str, str], slots: int
) -> None:
    names = make_files(desk, slots + 2)
    go = asyncio.Event()
    desk.sim.script_fn(MODEL, lambda request: TextReply("No code.", faults=(Stall(until=go),)))
    desk.environ = desk.environ | environ
    async with desk.bridge() as client:
        number = await client.start_call("autonomous_with_mcp", **ALL)
        await desk.sim.wait_for_request(slots, path="/v1/chat/completions")
        await client.wait_for_progress(number, f"0 of {slots + 2} · {slots} at once")
        assert sorted(map(item_of, desk.chat_requests())) == names[:slots]
        go.set()
        await client.answer_of(number)


async def test_a_run_that_starts_meanwhile_gets_the_next_slot_that_is_free(desk: Desk) -> None:
    make_files(desk, 12)
    go = asyncio.Event()

    def act(request: SimRequest) -> Reply:
        if "Say hello." in str(request.messages):
            return TextReply("Hello.")
        return TextReply("No code.", faults=(Stall(until=go),))

    desk.sim.script_fn(MODEL, act)
    async with desk.bridge() as client:
        many = await client.start_call("autonomous_with_mcp", **ALL)
        await desk.sim.wait_for_request(4, path="/v1/chat/completions")
        one = await client.start_call("autonomous_with_mcp", mcp_name="filesystem", task="Say hello.")
        await client.wait_for_progress(one, f"queued for {MODEL}: position 1")
        go.set()
        assert "Hello." in (await client.answer_of(one)).text
        await client.answer_of(many)

    asked = ["Say hello." in str(request.messages) for request in desk.chat_requests()]
    assert asked.index(True) == 4


async def test_writing_items_run_one_after_another(desk: Desk) -> None:
    make_files(desk, 3)
    desk.sim.script_fn(MODEL, read_and_tell)
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_write_access", task=TASK, for_each="f*.txt")

    assert answer.text.startswith("3 of 3 items done")
    requests = [item_of(request) for request in desk.chat_requests()]
    assert [item for item, _ in groupby(requests)] == ["f001.txt", "f002.txt", "f003.txt"]
    assert len(requests) == 6


async def test_all_items_begin_with_the_same_bytes(desk: Desk) -> None:
    make_files(desk, 6)
    desk.sim.script_fn(MODEL, read_and_tell)
    async with desk.bridge() as client:
        await client.call("autonomous_discover_and_execute", task=TASK, for_each="f*.txt")

    requests = desk.chat_requests()
    assert len({json.dumps(request.messages[0]) for request in requests}) == 1
    _, *others = requests
    assert len(others) == 5, "one request for each: the file was read before the first"
    assert len({json.dumps((request.json or {}).get("tools")) for request in others}) == 1
    prompts = [json.dumps([(request.json or {}).get("tools"), *request.messages]) for request in requests]
    for place, request in enumerate(requests[1:], start=1):
        cached = max(
            sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompts[place], each, strict=False)))
            for each in prompts[:place]
        )
        new = len(json.dumps(request.messages[1:]))
        assert len(prompts[place]) - cached <= 1.1 * new, "an engine with a prompt cache reads only what is new"


async def test_an_item_that_fails_is_told_first_and_never_looks_like_a_success(desk: Desk) -> None:
    make_files(desk, 3)
    desk.sim.script_fn(MODEL, partial(cursed, "f002.txt"))
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_mcp", **ALL)
        assert not answer.is_error
        lines = answer.text.splitlines()
        assert lines[0] == "2 of 3 items done · 1 failed"
        assert lines[1].startswith("Failed: f002.txt: ")
        assert "cursed" in lines[1]
        assert [row[:3] for row in table_of(answer)][1] == ["f002.txt", "failed", ""]
        assert answer.report["stop"] == "partial"
        assert answer.report["items"] == {"total": 3, "done": 2, "failed": 1, "not_done": 0}

        desk.sim.script_fn(MODEL, read_and_tell)
        refused = await client.call("continue_run", run_id=answer.run_id, output_schema={"type": "object"})
        again = await client.call("continue_run", run_id=answer.run_id)

    assert_names(refused, "keeps the output_schema with which it began", "start the task again")
    assert again.text.splitlines()[0] == "3 of 3 items done"
    assert "2 items were done before and are not done again; this time: f002.txt" in again.text
    assert answers_given(desk) == Counter(["f001.txt", "f002.txt", "f003.txt"])


async def test_rows_fit_the_schema_and_can_be_had_as_csv(desk: Desk) -> None:
    make_files(desk, 2)
    schema = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}

    def act(request: SimRequest) -> Reply:
        if (request.json or {}).get("response_format"):
            return TextReply(json.dumps({"code": f"c{item_of(request)[1:4]}"}))
        return read_and_tell(request)

    desk.sim.script_fn(MODEL, act)
    arguments = {"task": "Which code is in it?", "for_each": ["f001.txt", "f002.txt"], "output_schema": schema}
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_mcp", mcp_name="filesystem", **arguments)
        resource = await client.request("resources/read", {"uri": f"lmstudio://runs/{answer.run_id}"})

    assert "| item | status | code | rests on |" in answer.text
    assert [row[2] for row in table_of(answer)] == ["c001", "c002"]
    assert [row["answer"] for row in await rows_of(desk, answer.run_id)] == [{"code": "c001"}, {"code": "c002"}]
    assert (await in_shell(desk, "runs", "show", "last", "--csv")).splitlines()[:1] == [
        "item,status,reason,code,rests on"
    ]
    assert '"answer": {"code": "c002"}' in resource["contents"][0]["text"]


async def test_the_run_pauses_when_five_items_in_a_row_fail_for_the_same_reason(desk: Desk) -> None:
    make_files(desk, 30)
    desk.sim.script_fn(MODEL, lambda _: HttpReply(401, b'{"error": {"message": "bad key"}}'))
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_mcp", **ALL)
        assert answer.is_error
        assert_names(answer, "0 of 30 items done", "Paused: ", "in a row failed for the same reason")
        assert len(desk.chat_requests()) < 10
        desk.sim.script_fn(MODEL, read_and_tell)
        again = await client.call("continue_run", run_id=answer.run_id)

    assert again.text.startswith("30 of 30 items done")


async def test_a_server_that_dies_makes_no_item_done_and_pauses_the_run(desk: Desk) -> None:
    """An item that had a call that worked, or that needed none, is done."""
    tools = [
        {"name": name, "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
        for name in ("pid", "die")
    ]
    habits = json.dumps({"pages": [{"tools": tools}]})
    desk.configure(sloppy={"command": sys.executable, "args": [str(SLOPPY), habits, str(desk.project)]})
    plans = {"f001.txt": ["pid", "die"], "f002.txt": []}

    def act(request: SimRequest) -> Reply:
        made = [str(message.get("tool_calls")) for message in request.messages]
        left = [tool for tool in plans.get(item_of(request), ["die"]) if f"sloppy__{tool}" not in str(made)]
        return CallReply((f"sloppy__{left[0]}", {})) if left else TextReply("There is no code.")

    desk.sim.script_fn(MODEL, act)
    items = make_files(desk, 9)
    async with desk.bridge() as client:  # with write access, they run one after another
        arguments = {"mcp_names": ["sloppy"], "task": TASK, "for_each": items}
        answer = await client.call("autonomous_with_write_access", **arguments)
        plans.update((item, ["pid"]) for item in items)
        again = await client.call("continue_run", run_id=answer.run_id)

    assert answer.text.startswith("2 of 9 items done · 5 failed · 2 not done · 1 with calls that failed\n")
    assert "Paused: 5 items in a row failed for the same reason. No tool call worked: " in answer.text
    assert [row[1] for row in table_of(answer)][:3] == ["done, calls failed", "done", "failed"]
    assert again.text.startswith("9 of 9 items done")


async def test_a_kill_repeats_no_finished_item(desk: Desk) -> None:
    names = make_files(desk, 10)
    killed_after = 5
    asked = 0

    def act(request: SimRequest) -> Reply:
        nonlocal asked
        asked += 1
        return read_and_tell(request) if asked <= killed_after else TextReply("never", faults=(Stall(),))

    desk.sim.script_fn(MODEL, act)
    async with desk.bridge(fresh=True, checked=False) as client:
        await client.start_call("autonomous_with_mcp", **ALL)
        await desk.sim.wait_for_request(killed_after + 1, path="/v1/chat/completions")
        await kill(client)
    parent = newest_run(desk)
    before = {row["item"] for row in await rows_of(desk, parent) if row["status"] == "done"}
    desk.sim.script_fn(MODEL, read_and_tell)
    async with desk.bridge() as client:
        answer = await client.call("continue_run", run_id=parent)
        again = await client.call("continue_run", run_id=parent)

    assert [row[:3] for row in table_of(answer)] == [[name, "done", f"The code is c{name[1:4]}."] for name in names]
    assert table_of(again) == table_of(answer)
    given = answers_given(desk)
    assert all(given[name] == 1 for name in before)
    assert set(given) == set(names)


async def test_a_writing_run_that_is_killed_again_and_again_repeats_nothing(desk: Desk) -> None:
    """Nor where a request in ten fails; of the item that was under way each time, it is told that it may have happened.

    At last the model is gone: all two hundred would take half a minute.
    """
    names, log = make_files(desk, 200), desk.project / "log"
    tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("raw", "hold")]
    habits = json.dumps({"pages": [{"tools": tools}], "log": str(log)})
    desk.configure(sloppy={"command": sys.executable, "args": ["-S", str(SLOPPY), habits, str(desk.project)]})
    asked = killed_at = 0
    moment = under_way = run_id = ""

    def act(request: SimRequest) -> Reply:
        nonlocal asked, under_way
        asked += 1
        is_due, name = asked > killed_at + 8, item_of(request)
        has_called = any(message["role"] == "tool" for message in request.messages)
        if asked % 10 == 0:
            return TextReply("I have", faults=(CutSocket(after_tokens=1),))
        if is_due and moment == "never":
            return HttpReply(401, b'{"error": {"message": "bad key"}}')
        if is_due and moment == ("before the answer" if has_called else "before the call"):
            under_way = name
            return TextReply("never", faults=(Stall(),))
        if has_called:
            return TextReply("Told.")
        if is_due and moment == "during the call":
            under_way = name
        arguments = {"item": name, "result": {"content": [{"type": "text", "text": "Told."}]}}
        return CallReply((f"sloppy__{'hold' if under_way else 'raw'}", arguments))

    def calls() -> Counter[str]:
        """How often the server was called for each item."""
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        made = [line["params"] for line in map(json.loads, lines) if line.get("method") == "tools/call"]
        return Counter(params["arguments"]["item"] for params in made)

    async def rows() -> list[dict[str, Any]]:
        async with desk.bridge() as client:
            found = await client.request("resources/read", {"uri": f"lmstudio://runs/{run_id}"})
        return [json.loads(line) for line in found["contents"][0]["text"].splitlines() if line.startswith('{"item"')]

    desk.sim.script_fn(MODEL, act)
    finished: set[str] = set()
    tool = "autonomous_with_write_access"
    start: dict[str, Any] = {"mcp_names": ["sloppy"], "task": "Tell {item}", "for_each": "f*.txt"}
    for moment in ("before the call", "before the answer", "during the call"):
        killed_at, under_way = asked, ""
        async with desk.bridge(fresh=True, checked=False) as client:
            await client.start_call(tool, **start)
            async with asyncio.timeout(LIMIT):
                while not under_way or calls()[under_way] < (moment != "before the call"):  # noqa: ASYNC110  # a log
                    await asyncio.sleep(0.01)
            await kill(client)
        run_id = newest_run(desk)
        start = {"run_id": run_id, "task": "Go on."}
        told = await rows()
        assert [row["item"] for row in told] == names
        assert [row["item"] for row in told if "may have changed something" in row["reason"]] == [under_way]
        done = {row["item"] for row in told if row["status"] == "done"}
        assert done > finished
        finished = done
    held, moment, killed_at, under_way = under_way, "never", asked, ""
    async with desk.bridge() as client:
        answer = await client.call(tool, **start)

    assert "Paused: 5 items in a row failed" in answer.text
    status = {row["item"]: (row["status"], row["reason"]) for row in await rows()}
    assert all(status[name] == ("done", "") for name in finished)
    assert sum(each == ("done", "") for each in status.values()) > len(finished)
    assert status[held][0] == "failed"
    assert "may have had effects" in status[held][1]
    assert max(calls().values()) == 1
    code, _, err = await shell_of(desk).run("runs", "undo", run_id, "--yes")
    assert (code, "Left alone: what sloppy raw did" in err) == (1, True)
    assert all(answers_given(desk)[name] == 1 for name in finished)


async def test_a_writing_item_that_was_under_way_may_have_happened(desk: Desk) -> None:
    """Its call is not repeated by itself; the model and the caller are told."""
    make_files(desk, 2)

    def act(request: SimRequest) -> Reply:
        name = item_of(request)
        if any(message["role"] == "tool" for message in request.messages):
            return TextReply("never", faults=(Stall(),)) if name == "f002.txt" else TextReply("Written.")
        return CallReply(("filesystem__write_file", {"path": str(desk.project / name), "content": "new\n"}))

    desk.sim.script_fn(MODEL, act)
    async with desk.bridge(fresh=True, checked=False) as client:
        await client.start_call(
            "autonomous_with_write_access", mcp_names=["filesystem"], task="Write new into {item}", for_each="f*.txt"
        )
        await desk.sim.wait_for_request(4, path="/v1/chat/completions")
        await kill(client)
    parent = newest_run(desk)
    first, second = await rows_of(desk, parent)
    assert first["status"] == "done"
    assert (second["status"], second["answer"]) == ("not_done", None)
    assert "may have changed something" in second["reason"]

    desk.sim.script_fn(MODEL, lambda _: TextReply("It is written."))
    async with desk.bridge() as client:
        asked = len(desk.chat_requests())
        answer = await client.call("autonomous_with_write_access", run_id=parent, task="Go on.")
        refused = await client.call("continue_run", run_id=parent, instructions="Now the others.")

    assert "Note: The instructions were not used" in answer.text
    assert_names(refused, "All items of run", f"{parent}-1")
    assert [row[1] for row in table_of(answer)] == ["done", "done"]
    (request,) = desk.chat_requests()[asked:]
    assert [message["role"] for message in request.messages].count("tool") == 1, "the conversation goes on"


async def test_the_time_limit_keeps_what_is_done(desk: Desk) -> None:
    make_files(desk, 3)
    desk.sim.script_fn(MODEL, only_the_first)
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_mcp", **ALL, timeout=3)

    assert answer.text.startswith("1 of 3 items done · 2 not done")
    assert "reached its limit of 3 s" in answer.text
    assert "continue_run with run_id" in answer.text
    assert [row[1] for row in table_of(answer)] == ["done", "not_done", "not_done"]


async def test_what_is_cancelled_can_be_continued(desk: Desk) -> None:
    names = make_files(desk, 3)
    desk.sim.script_fn(MODEL, only_the_first)
    async with desk.bridge() as client:
        number = await client.start_call("autonomous_with_mcp", **ALL)
        await client.wait_for_progress(number, "1 of 3")
        await client.cancel(number)
        desk.sim.script_fn(MODEL, read_and_tell)
        answer = await continue_cancelled(desk, client)

    assert [row[:2] for row in table_of(answer)] == [[name, "done"] for name in names]
    assert answers_given(desk)["f001.txt"] == 1


async def test_the_answers_are_merged_at_the_end_with_counts_of_the_bridge(desk: Desk) -> None:
    make_files(desk, 4)

    def act(request: SimRequest) -> Reply:
        if merges(request):
            return TextReply("Codes: c001, c002, c004 and c777.")
        return cursed("f003.txt", request)

    desk.sim.script_fn(MODEL, act)
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_mcp", **ALL, combine="List the codes.")
        run_id = answer.run_id
        resource = await client.request("resources/read", {"uri": f"lmstudio://runs/{run_id}"})

    assert answer.text.startswith("3 of 4 items done · 1 failed\nFailed: f003.txt: ")
    assert len(table_of(answer)) == 4
    merged = answer.text.partition("Merged from the answers of 3 of 4 items:\n")[2]
    assert merged.startswith(
        "Not found in any answer: c777\n\nCodes: c001, c002, c004 and c777.\n\n[Local model output"
    )
    assert answer.report["items"]["merged"] == 3
    assert "## Merged answer\n\nCodes: c001" in resource["contents"][0]["text"].replace("\n\n\n", "\n\n")
    (request,) = [each for each in desk.chat_requests() if merges(each)]
    asked = request.messages[-1]["content"]
    assert_in_order(asked, "3 of 4 items", "\nf001.txt: The code is c001.\n", "\nf004.txt: ", "\n\nList the codes.")
    assert "f003" not in asked
    assert not (request.json or {}).get("tools")
    journal = (desk.journals()[0].parent / f"{run_id}.jsonl").read_text(encoding="utf-8")
    events = map(json.loads, journal.splitlines())
    assert [event["items"] for event in events if event["type"] == "ItemsCombined"] == [3, 3]


async def test_many_rows_are_merged_in_a_small_context(tmp_path: Path) -> None:
    """As many levels as it takes, and the bridge itself is not held up by the length of what it merges."""
    fields = [f"field_{number:02}" for number in range(12)]
    schema = {"type": "object", "properties": {field: {"type": "string"} for field in fields}}

    def act(request: SimRequest) -> Reply:
        if merges(request):
            return TextReply("Merged.")
        return TextReply(json.dumps({field: f"what {item_of(request)} says of {field}" for field in fields}))

    async with open_desk(tmp_path, context_length=4_096) as desk:
        desk.sim.script_fn(MODEL, act)
        arguments = {"mcp_name": "filesystem", "task": "Fill in {item}", "output_schema": schema, "combine": "Sum up"}
        items = [f"ticket f{number:03}.txt" for number in range(1, 61)]
        async with desk.bridge(fresh=True) as client:
            answer = await client.call("autonomous_with_mcp", for_each=items, **arguments)

    assert "Merged from the answers of 60 of 60 items:" in answer.text
    assert "\nMerged.\n" in answer.text


async def test_answers_that_could_not_be_merged_are_kept_and_only_the_merge_is_made_good(desk: Desk) -> None:
    names = make_files(desk, 3)
    schema = {"type": "object", "properties": {"codes": {"type": "integer"}}, "required": ["codes"]}

    def act(request: SimRequest) -> Reply:
        return HttpReply(400, b'{"error": "No."}') if merges(request) else read_and_tell(request)

    desk.sim.script_fn(MODEL, act)
    async with desk.bridge() as client:
        arguments = {**ALL, "combine": "How many codes are there?", "combine_schema": schema}
        answer = await client.call("autonomous_with_mcp", **arguments)
        assert not answer.is_error
        assert answer.report["stop"] == "partial"
        assert answer.text.startswith("3 of 3 items done\nThe answers could not be merged: LM Studio refused")
        assert "continue_run with run_id" in answer.text
        assert [row[:2] for row in table_of(answer)] == [[name, "done"] for name in names]

        asked = len(desk.chat_requests())
        desk.sim.script_fn(MODEL, lambda request: TextReply('{"codes": 3}'))
        again = await client.call("continue_run", run_id=answer.run_id)
        assert len(desk.chat_requests()) == asked + 1
        once_more = await client.call("continue_run", run_id=answer.run_id)

    assert again.report["stop"] == "answered"
    assert '\n\n{"codes": 3}\n\n[Local' in again.text
    assert once_more.text.partition("\n")[2] == again.text.partition("\n")[2]
    assert len(desk.chat_requests()) == asked + 1


async def test_a_merge_that_was_cancelled_is_all_that_is_left_to_do(desk: Desk) -> None:
    names = make_files(desk, 2)

    def act(request: SimRequest) -> Reply:
        return TextReply("x", faults=(Stall(),)) if merges(request) else read_and_tell(request)

    desk.sim.script_fn(MODEL, act)
    async with desk.bridge() as client:
        number = await client.start_call("autonomous_with_mcp", **ALL, combine="List them.")
        await client.wait_for_progress(number, "Merging the answers of 2 items")
        await client.cancel(number)
        desk.sim.script_fn(MODEL, lambda request: TextReply("Both." if merges(request) else "Not again."))
        answer = await continue_cancelled(desk, client)

    assert answer.text.startswith("2 of 2 items done")
    assert "\n\nBoth.\n\n" in answer.text
    assert answers_given(desk) == Counter(names)


@pytest.mark.parametrize(
    ("for_each", "named"),
    [
        ("*.nothing", ["'*.nothing'", "no file matches"]),
        ("../*", ["leads out of the folder"]),
        ([], ["for_each"]),
        (["x"] * 1_001, ["at most 1,000"]),
        (["x", ""], ["1 to 2,000 characters"]),
    ],
)
async def test_bad_items_are_named_before_anything_starts(desk: Desk, for_each: Any, named: list[str]) -> None:
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_mcp", **{**ALL, "for_each": for_each})
    assert_names(answer, *named)
    assert desk.journals() == []


async def test_runs_lists_the_run_and_not_its_items_and_delete_takes_them_along(desk: Desk) -> None:
    make_files(desk, 2)
    desk.sim.script_fn(MODEL, read_and_tell)
    async with desk.bridge() as client:
        answer = await client.call("autonomous_with_mcp", **ALL)
        runs = await client.request("resources/read", {"uri": "lmstudio://runs"})
    run_id = answer.run_id
    text = runs["contents"][0]["text"]
    assert run_id in text
    assert f"{run_id}-1" not in text
    assert len(desk.journals()) == 3
    await in_shell(desk, "runs", "delete", run_id)
    assert desk.journals() == []


async def test_what_the_items_changed_is_undone_with_their_run(desk: Desk) -> None:
    """Also where an item only wrote in an attempt that failed, and was gone on with without write access."""
    names = make_files(desk, 3)
    refusals = Counter({"f002.txt": 1, "f003.txt": 2})

    def act(request: SimRequest) -> Reply:
        name = item_of(request)
        if any(message["role"] == "tool" for message in request.messages):
            refusals[name] -= 1
            return HttpReply(400, b'{"error": "No."}') if refusals[name] >= 0 else TextReply("Written.")
        places = [name, *(["extra.txt"] if name == "f001.txt" else [])]
        calls = ({"path": str(desk.project / each), "content": "new\n"} for each in places)
        return CallReply(*(("filesystem__write_file", call) for call in calls))

    desk.sim.script_fn(MODEL, act)
    async with desk.bridge() as client:
        answer = await client.call(
            "autonomous_with_write_access", mcp_names=["filesystem"], task="Write new into {item}", for_each="f*.txt"
        )
        run_id = answer.run_id
        assert answer.text.startswith("2 of 3 items done · 1 failed")
        answer = await client.call("continue_run", run_id=run_id)
    assert answer.text.startswith("3 of 3 items done")
    assert "Changed: extra.txt, f001.txt, f002.txt, f003.txt" in answer.text
    assert f"Undo with: lmstudio-bridge runs undo {run_id}" in answer.text
    assert (await in_shell(desk, "runs", "show", run_id, "--diff")).count("+new") == 4
    # What one of them left alone is tried again; where that can't be put back, all of it is taken back together.
    (desk.project / "f001.txt").write_text("mine\n", encoding="utf-8")
    for code, done in ((1, True), (0, False), (1, True)):
        assert (await shell_of(desk).run("runs", "undo", run_id, "--yes"))[0] == code
        assert (desk.project / "extra.txt").exists() != done
        assert ((desk.project / "f002.txt").read_text(encoding="utf-8") == "new\n") != done
    assert "Undone since" not in await in_shell(desk, "continue", run_id)
    (desk.project / "f001.txt").write_text("new\n", encoding="utf-8")
    await in_shell(desk, "runs", "undo", run_id, "--yes")
    await in_shell(desk, "runs", "undo", f"{run_id}-2", "--yes")  # and this is made again
    again = await in_shell(desk, "continue", run_id)
    assert "Changed: f002.txt\n" in again
    assert f"Undo with: lmstudio-bridge runs undo {run_id}" in again
    assert (
        f"To revert this: lmstudio-bridge runs undo {run_id}\n"
        in (await shell_of(desk).run("runs", "undo", run_id, "--yes"))[2]
    )
    again = await in_shell(desk, "continue", run_id)
    assert "Undone since: extra.txt, f001.txt, f002.txt, f003.txt" in again
    assert "Undo with" not in again
    assert [(desk.project / name).read_text(encoding="utf-8") for name in names] == [
        f"The code is c{name[1:4]}.\n" for name in names
    ]


@pytest.mark.parametrize("tool", ["autonomous_with_mcp", "autonomous_with_write_access"])
async def test_what_an_item_asks_for_is_not_the_task(desk: Desk, tool: str) -> None:
    """A ticket that wishes for a change is only to be labeled."""
    desk.sim.script_fn(MODEL, lambda _: TextReply("A wish."))
    server = {"mcp_name": "filesystem"} if tool == "autonomous_with_mcp" else {"mcp_names": ["filesystem"]}
    async with desk.bridge() as client:
        answer = await client.call(tool, **server, task="Which label fits this ticket?", for_each=["Please add a bar"])

    assert answer.text.startswith("1 of 1 items done\n\n| item")


async def test_from_the_shell_the_rows_and_the_exit_code_tell_what_is_done(desk: Desk) -> None:
    make_files(desk, 2)
    desk.sim.script_fn(MODEL, partial(cursed, "f002.txt"))
    command = ["run", TASK, "--for-each", "f001.txt", "f002.txt", "--mcp", "filesystem", "--access", "write", "--json"]
    code, out, err = await shell_of(desk).run(*command)
    assert (code, "done: partly done" in err) == (1, True)
    assert [row["status"] for row in json.loads(out)["rows"]] == ["done", "failed"]
    desk.sim.script_fn(MODEL, read_and_tell)
    text = await in_shell(desk, "continue", "last", "--access", "write")
    assert text.startswith("2 of 2 items done")
