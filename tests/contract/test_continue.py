"""Nothing is lost: answers fetched again, runs gone on with, also after the bridge was killed."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from tests.lmstudio_sim.replies import CallReply, Stall, TextReply
from tests.support.desk import MODEL, Desk, assert_names
from tests.support.journals import events_of, read_journal
from tests.support.npm_servers import config_entry, npm_server
from tests.support.raw_client import Era, RawClient

pytestmark = [pytest.mark.npm, pytest.mark.asyncio(loop_scope="module")]

TASK = {"mcp_name": "filesystem", "task": "What is the code word?"}


async def read_resource(client: RawClient, uri: str) -> str:
    result = await client.request("resources/read", {"uri": uri})
    (content,) = result["contents"]
    text: str = content["text"]
    return text


async def test_a_finished_answer_can_be_fetched_again_without_asking_the_model(desk: Desk, era: Era) -> None:
    desk.sim.script(MODEL, TextReply("It is heron-42."))
    async with desk.bridge(era) as client:
        first = await client.call("autonomous_with_mcp", **TASK)
        asked = len(desk.chat_requests())
        run_id = first.run_id
        again = [
            await client.call("continue_run", run_id=each) for each in (run_id, f" {run_id}\n", run_id[-5:], "Last")
        ]

    assert {each.text for each in again} == {first.text}
    assert len(desk.chat_requests()) == asked == 1


async def test_a_finished_run_answers_a_follow_up_in_the_same_conversation(desk: Desk) -> None:
    desk.script_reading()
    async with desk.bridge() as client:
        first = await client.call("autonomous_with_mcp", mcp_name="filesystem", task="Which code word has notes.txt?")
    desk.sim.script(MODEL, TextReply("24-noreh"))
    async with desk.bridge(fresh=True) as client:  # another process: the bridge was restarted
        second = await client.call("continue_run", run_id=first.run_id, instructions="Now backwards.")

    assert second.said.startswith("24-noreh")
    assert "did not open" not in second.text, "it was opened before"
    assert second.run_id == first.run_id
    before, after = desk.chat_requests()[-2:]
    assert after.messages[: len(before.messages)] == before.messages
    assert after.messages[len(before.messages) :] == [
        {"role": "assistant", "content": "It is heron-42."},
        {"role": "user", "content": "Now backwards."},
    ]


async def test_a_run_that_met_its_round_limit_goes_on_where_it_stopped(desk: Desk) -> None:
    desk.script_reading("I only read it so far.")
    async with desk.bridge() as client:
        first = await client.call("autonomous_with_mcp", **TASK, max_rounds=2)
        desk.sim.script(MODEL, TextReply("It is heron-42."))
        second = await client.call("continue_run", run_id=first.run_id)

    assert "round limit" in first.text
    assert second.said.startswith("It is heron-42.")
    messages = desk.chat_requests()[-1].messages
    assert [message["role"] for message in messages[-2:]] == ["assistant", "user"]
    assert any("heron-42" in str(message["content"]) for message in messages if message["role"] == "tool")


async def test_after_a_kill_in_mid_call_the_model_is_told_that_it_may_have_happened(desk: Desk) -> None:
    """Never repeated by itself: the call may have had effects."""
    slow = desk.project / "slow.py"
    slow.write_text(SLOW_SERVER, encoding="utf-8")
    log = desk.project / "calls.log"
    desk.configure(slow={"command": "python3", "args": [str(slow), str(log)]})
    desk.sim.script(MODEL, CallReply(("slow__deploy", {"version": "7"}), ("slow__deploy", {"version": "8"})))
    async with desk.bridge(fresh=True, checked=False) as client:
        number = await client.start_call("autonomous_with_write_access", mcp_names=["slow"], task="Deploy 7, then 8.")
        await client.wait_for_progress(number, "written to the log")
        client.process.kill()
        await client.process.wait()
    (journal,) = (desk.home / "runs").glob("*.jsonl")
    desk.sim.script(MODEL, TextReply("Version 7 may be deployed; 8 is not."))

    async with desk.bridge() as client:
        answer = await client.call("continue_run", run_id=journal.stem)

    assert answer.said.startswith("Version 7 may be deployed")
    results = desk.results()
    assert ["may or may not have taken effect" in results[0], "had no effect" in results[1]] == [True, True]
    assert log.read_text(encoding="utf-8") == "deploy 7\n"


SLOW_SERVER = """
import json, sys

def send(message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)

for line in sys.stdin:
    message = json.loads(line)
    params = message.get("params", {})
    match message.get("method"):
        case "initialize":
            info = {"name": "slow", "version": "1"}
            result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            schema = {"type": "object", "properties": {"version": {"type": "string"}}, "required": ["version"]}
            result = {"tools": [{"name": "deploy", "inputSchema": schema}]}
        case "tools/call":
            with open(sys.argv[1], "a") as log:
                print("deploy", params["arguments"]["version"], file=log)
            token = params["_meta"]["progressToken"]
            progress = {"progressToken": token, "progress": 1, "message": "written to the log"}
            send({"method": "notifications/progress", "params": progress})
            sys.stdin.read()  # until the bridge is gone
        case _:
            continue
    send({"id": message["id"], "result": result})
"""


async def test_a_run_that_was_killed_while_its_servers_started_begins_anew(desk: Desk) -> None:
    desk.configure(filesystem={"command": "python3", "args": ["-c", "import sys; sys.stdin.read()"]})
    async with desk.bridge(fresh=True, checked=False) as client:
        number = await client.start_call("autonomous_with_mcp", **TASK)
        run_id = (await client.wait_for_progress(number, "run ")).split()[1]
        client.process.kill()
        await client.process.wait()
    desk.configure(filesystem=config_entry(npm_server("filesystem"), str(desk.project)))
    desk.sim.script(MODEL, TextReply("It is heron-42."))

    async with desk.bridge() as client:
        answer = await client.call("continue_run", run_id=run_id, instructions="In one word.")

    assert answer.said.startswith("It is heron-42.")
    assert desk.chat_requests()[-1].messages[-1]["content"] == f"{TASK['task']}\n\nIn one word."


async def test_a_run_under_way_is_not_worked_on_twice(desk: Desk) -> None:
    release = asyncio.Event()
    desk.sim.script(MODEL, TextReply("It is heron-42.", faults=(Stall(until=release),)))
    async with desk.bridge() as client:
        number = await client.start_call("autonomous_with_mcp", **TASK)
        message = await client.wait_for_progress(number, "run ")
        run_id = message.split()[1]
        await desk.sim.wait_for_request(path="/v1/chat/completions")
        meanwhile = await client.call("continue_run", run_id=run_id)
        without_id = await client.call("continue_run")
        pages = [await read_resource(client, f"lmstudio://runs{which}") for which in ("", f"/{run_id}")]
        release.set()
        answer = await client.answer_of(number)
        afterwards = await client.call("continue_run", run_id=run_id)

    assert_names(meanwhile, f"Run {run_id} is still running")
    assert without_id.text == meanwhile.text
    assert "| in progress |" in pages[0]
    assert "- ended: in progress\n" in pages[1]
    assert "The bridge ended" not in pages[1]
    assert answer.text == afterwards.text


@pytest.mark.parametrize("given", [{}, {"run_id": "last"}])
async def test_without_a_run_id_the_newest_run_of_this_project_goes_on(desk: Desk, given: dict[str, str]) -> None:
    """After Esc, the host's model has read no run id."""
    desk.sim.script(MODEL, TextReply("Old."), TextReply("never", faults=(Stall(),)))
    async with desk.bridge() as client:
        await client.call("autonomous_with_mcp", **TASK)
        number = await client.start_call("autonomous_with_mcp", mcp_name="filesystem", task="Look again.")
        await desk.sim.wait_for_request(2, path="/v1/chat/completions")
        run_id = (await client.wait_for_progress(number, "run ")).split()[1].rstrip(":")
        await client.cancel(number)
        await run_ended(desk, run_id)
        desk.sim.script(MODEL, TextReply("It is heron-42."))
        answer = await client.call("continue_run", **given)

    assert answer.said.startswith("It is heron-42.")
    assert answer.run_id == run_id


async def test_several_runs_that_were_interrupted_together_are_listed(desk: Desk) -> None:
    desk.sim.script(MODEL, *[TextReply("never", faults=(Stall(),))] * 2)
    tasks = ["Look here.", "Look there."]
    async with desk.bridge() as client:
        calls = [await client.start_call("autonomous_with_mcp", mcp_name="filesystem", task=task) for task in tasks]
        await desk.sim.wait_for_request(2, path="/v1/chat/completions")
        for number in calls:
            await client.cancel(number)
        run_ids = [path.stem for path in desk.journals()]
        for run_id in run_ids:
            await run_ended(desk, run_id)
        answer = await client.call("continue_run")

    assert_names(answer, "Several runs were in progress at the same time", "Say with run_id", *tasks)
    for run_id in run_ids:
        assert re.search(rf"^- {run_id} \(cancelled, \d{{4}}-\d\d-\d\d \d\d:\d\d\): Look ", answer.text, re.MULTILINE)


async def test_runs_of_other_projects_are_not_meant_by_last(desk: Desk) -> None:
    desk.sim.script(MODEL, TextReply("It is heron-42."))
    elsewhere = desk.project / "elsewhere"
    elsewhere.mkdir()
    async with desk.bridge() as client:
        run_id = (await client.call("autonomous_with_mcp", **TASK)).run_id
    async with desk.bridge(CLAUDE_PROJECT_DIR=str(elsewhere)) as client:
        answer = await client.call("continue_run")
        listed = await client.request("resources/list", {})
        runs = await read_resource(client, "lmstudio://runs")

    assert_names(answer, "There is no earlier run of this project")
    assert not [each for each in listed["resources"] if run_id in each["uri"]]
    assert f"| {desk.project} | 1 | {run_id} |" in runs


async def test_the_newest_runs_are_listed_as_resources_of_their_own(desk: Desk, era: Era) -> None:
    """Claude Code expands `@` mentions of these only."""
    desk.sim.script(MODEL, TextReply("It is heron-42."))
    async with desk.bridge(era) as client:
        if era == "2026-07-28":
            wanted = {"notifications": {"resourcesListChanged": True}}
            await client.start("subscriptions/listen", wanted)
        run_id = (await client.call("autonomous_with_mcp", **TASK)).run_id
        told = [line["method"] for line in client.lines if "method" in line]
        listed = await client.request("resources/list", {})

    [run] = [each for each in listed["resources"] if each["uri"] == f"lmstudio://runs/{run_id}"]
    assert run["title"] == TASK["task"]
    assert "notifications/resources/list_changed" in told


async def run_ended(desk: Desk, run_id: str) -> None:
    """Wait until the journal says so."""
    async with asyncio.timeout(60):
        while not events_of(read_journal(desk.home / "runs" / f"{run_id}.jsonl"), "RunFinished"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("run_id", ["20200101-000000-none0", "../../etc/passwd", "x/../y"])
async def test_an_unknown_run_id_is_a_clear_error(desk: Desk, run_id: str) -> None:
    async with desk.bridge() as client:
        answer = await client.call("continue_run", run_id=run_id)

    assert answer.is_error
    assert "run" in answer.text
    assert "result" in answer.text, "says where run ids are to be found"


async def test_a_deadline_gives_the_text_so_far_and_the_run_can_go_on(desk: Desk) -> None:
    desk.sim.script(
        MODEL,
        CallReply(("filesystem__read_text_file", {"path": desk.notes}), text="I look at the notes first."),
        TextReply("never", faults=(Stall(),)),
    )
    async with desk.bridge() as client:
        stopped = await client.call("autonomous_with_mcp", **TASK, timeout=5)
        desk.sim.script(MODEL, TextReply("It is heron-42."))
        answer = await client.call("continue_run", run_id=stopped.run_id)

    assert not stopped.is_error
    assert "I look at the notes first." in stopped.text
    assert "The run timed out" in stopped.text
    assert answer.said.startswith("It is heron-42.")


async def test_a_long_answer_is_cut_at_a_paragraph_and_stands_whole_in_its_resource(desk: Desk, era: Era) -> None:
    """Claude Code puts results over 50,000 characters into a file."""
    paragraphs = [f"Paragraph {number}. " + "word " * 150 for number in range(120)]
    desk.sim.script(MODEL, TextReply("\n\n".join(paragraphs)))
    async with desk.bridge(era) as client:
        answer = await client.call("autonomous_with_mcp", **TASK)
        uri = f"lmstudio://runs/{answer.run_id}"
        whole = await read_resource(client, uri)

    assert 40_000 < len(answer.text) < 50_000
    assert uri in answer.text
    shown = answer.text.partition("\n\n[The answer was cut here")[0]
    assert shown.rpartition("\n\n")[2].strip() in [paragraph.strip() for paragraph in paragraphs]
    assert paragraphs[-1].strip() in whole


async def test_the_report_for_programs_stands_in_meta(desk: Desk, era: Era) -> None:
    desk.script_reading()
    async with desk.bridge(era) as client:
        number = await client.start_call("autonomous_with_mcp", **TASK)
        result = await client.result_of(number)

    report: dict[str, Any] = result["_meta"]["lmstudio-bridge/report"]
    assert report.pop("seconds") > 0
    assert report.pop("usage")["prompt_tokens"] > 0
    assert report.pop("run_id") in result["content"][0]["text"]
    assert set(report.pop("grounding")) == {"sources", "missing", "coverage"}
    assert report.pop("changes")["files"] == []
    assert set(report.pop("saved")) == {"kept", "spent", "net"}
    assert report == {
        "stop": "answered",
        "model": MODEL,
        "servers": ["filesystem"],
        "rounds": 2,
        "calls": 1,
        "warnings": [],
        "sources": ["filesystem read_text_file"],
        "failed": [],
        "nothing_changed": False,
        "needed_write": [],
        "started": [],
        "not_started": [],
        "error": "",
    }


async def test_models_servers_and_runs_can_be_read_and_completed(desk: Desk, era: Era) -> None:
    desk.sim.script(MODEL, TextReply("It is heron-42."))
    async with desk.bridge(era) as client:
        answer = await client.call("autonomous_with_mcp", **TASK)
        listed = await client.request("resources/list", {})
        texts = {name: await read_resource(client, f"lmstudio://{name}") for name in ("models", "servers", "runs")}
        prompts = await client.request("prompts/list", {})
        prompt = await client.request("prompts/get", {"name": "delegate"})
        of_old = await client.request("prompts/get", {"name": "delegate", "arguments": {"task": "Summarize"}})
        run_id = answer.run_id
        pages = [await read_resource(client, f"lmstudio://runs/{each}") for each in (run_id, run_id[-5:])]
        completed = {
            typed: (
                await client.request(
                    "completion/complete",
                    {
                        "ref": {"type": "ref/resource", "uri": "lmstudio://runs/{run_id}"},
                        "argument": {"name": "run_id", "value": typed},
                    },
                )
            )["completion"]["values"]
            for typed in (run_id[:8], "zzz")
        }

    names = (*texts, f"runs/{run_id}")
    assert {entry["uri"] for entry in listed["resources"]} == {f"lmstudio://{name}" for name in names}
    assert f"| {MODEL} | llm | loaded | 32,768 |" in texts["models"]
    assert "| filesystem | stdio | usable; open, unused for " in texts["servers"]
    assert answer.run_id in texts["runs"]
    assert [entry["name"] for entry in prompts["prompts"]] == ["delegate"]
    assert not prompts["prompts"][0].get("arguments"), "Claude Code would give each only one word"
    assert "what I wrote after this command" in json.dumps(prompt)
    assert of_old["messages"] == prompt["messages"], "a host may know the arguments of an earlier version"
    assert pages[0] == pages[1]
    assert completed == {run_id[:8]: [run_id], "zzz": []}


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        ("off", "No run can be continued: LMSTUDIO_BRIDGE_JOURNAL is off."),
        ("audit", "Only audit lines are kept of runs: LMSTUDIO_BRIDGE_JOURNAL is audit."),
    ],
)
async def test_run_that_was_not_kept_says_why_it_cannot_be_continued(desk: Desk, keep: str, reason: str) -> None:
    desk.script_reading()
    async with desk.bridge(LMSTUDIO_BRIDGE_JOURNAL=keep) as client:
        answer = await client.call("autonomous_with_mcp", **TASK)
        again = await client.call("continue_run", run_id=answer.run_id)
        runs = await read_resource(client, "lmstudio://runs")

    assert answer.said.startswith("It is heron-42.")
    assert_names(again, reason)
    assert f"LMSTUDIO_BRIDGE_JOURNAL is {keep}" in runs
    kept = b"".join(path.read_bytes() for path in desk.journals())
    assert (b"CallFinished" in kept) is (keep == "audit")
    assert b"heron" not in kept
    assert b"notes.txt" not in kept
