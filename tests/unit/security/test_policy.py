"""Which calls may run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lmstudio_bridge.messages import Access, Decision, JSONObject, ServerTool, Verdict
from lmstudio_bridge.security.access import Policy, Rule, Rules, Verb
from lmstudio_bridge.security.workspace import make_workspace

READING = Decision("allowed", rule="readOnlyHint")
WRITING = Decision("allowed", rule="access=write")
NO = Decision("needs_write", "fs write may change things, and this run has read access only.", "access=read")


@pytest.mark.parametrize(
    ("access", "read_only", "decision"),
    [
        ("write", True, READING),
        ("write", False, WRITING),
        ("write", None, WRITING),
        ("read", True, READING),
        ("read", False, NO),
        ("read", None, NO),
    ],
)
def test_read_access_runs_only_what_the_server_marks_as_read_only(
    access: Access, read_only: bool | None, decision: Decision
) -> None:
    """A tool without the mark counts as writing (MCP specification, readOnlyHint)."""
    assert Policy(access).check_call(ServerTool("fs", "write", read_only=read_only), {}) == decision


def test_access_is_to_read_unless_said_otherwise() -> None:
    assert Policy() == Policy("read")


@pytest.mark.parametrize(
    ("tool", "arguments", "allowed"),
    [
        (ServerTool("fs", "write_file"), {}, False),
        (ServerTool("fs", "change", read_only=False), {}, False),
        (ServerTool("fs", "list_issues"), {}, True),
        (ServerTool("fs", "list_issues"), {"output_file": "x.txt"}, False),
        (ServerTool("fs", "change", read_only=True), {}, True),
    ],
)
def test_no_rule_lets_a_tool_write_where_all_runs_may_only_read(
    tool: ServerTool, arguments: JSONObject, allowed: bool
) -> None:
    rules = Rules((Rule("allow", "fs/*", "mine"),))
    limited = Policy("read", rules, max_access="read")

    assert Policy("read", rules).check_call(tool, arguments).allowed
    decision = limited.check_call(tool, arguments)
    assert decision.allowed is allowed
    assert limited.may_run(tool) is (allowed or bool(arguments))
    if not allowed and not arguments:
        assert "LMSTUDIO_BRIDGE_MAX_ACCESS=read rules out whatever a rule allows" in decision.reason


# -- arguments that name an output file -----------------------------------------------------------

SNAPSHOT = {"properties": {"filename": {"type": "string", "description": "Save snapshot to markdown file."}}}
READS_FILE = {"properties": {"filename": {"type": "string"}}, "required": ["filename"]}
SEARCHES = {"properties": {"filename": {"type": "string", "description": "Name of the file to look for"}}}
SAVES_TO = {"properties": {"filePath": {"description": "A path to save the screenshot to."}}, "required": ["filePath"]}
READS_FROM = {"properties": {"filePath": {"description": "Path to the saved file, to read it and write a summary"}}}
NESTED = {
    "properties": {"options": {"anyOf": [{"$ref": "#/$defs/Options"}, {"type": "null"}]}},
    "$defs": {"Options": {**SAVES_TO, "required": ["filename"]}},
}
NEEDS_OUTPUT = {"properties": {"output_path": {"type": "string"}}, "required": ["output_path"]}
NEEDS_STORE = {
    "properties": {"store_path": {"type": "string", "description": "Path of the vector store"}},
    "required": ["store_path"],
}
FORMAT_OR_FILE = {"properties": {"output": {"description": "Output format, or the path of a file to write"}}}
OUTPUT_FORMAT = {"properties": {"output": {"type": "string", "enum": ["json", "wide"]}}}


@pytest.mark.parametrize(
    ("arguments", "schema", "argument"),
    [
        ({"filename": "a.md"}, SNAPSHOT, "filename"),
        ({"filename": "a.md"}, {}, "filename"),
        ({"fileName": "a.md"}, {}, "fileName"),
        ({"output": "a.md"}, {}, "output"),
        ({"outputFile": "a.md"}, {}, "outputFile"),
        ({"output_dir": "x"}, {}, "output_dir"),
        ({"outdir": "x"}, {}, "outdir"),
        ({"save_to": "x"}, {}, "save_to"),
        ({"save": True}, {}, "save"),
        ({"savePath": "x"}, {}, "savePath"),
        ({"download_path": "x"}, {}, "download_path"),
        ({"local_path": "x"}, {}, "local_path"),
        ({"export_path": "x"}, {}, "export_path"),
        ({"options": {"output_file": "x"}}, {}, "output_file"),
        ({"pages": [{"save_as": "x"}]}, {}, "save_as"),
        ({"write_to": "x"}, {}, "write_to"),
        ({"out": "x"}, {}, "out"),
        ({"file_out": "x"}, {}, "file_out"),
        ({"path_to_save": "x"}, {}, "path_to_save"),
        ({"writeToFile": True}, {}, "writeToFile"),
        ({"filePath": "a.png"}, SAVES_TO, "filePath"),
        *(
            ({name: "logs/a.md"}, {}, name)
            for name in (
                *("screenshotPath", "to_file", "append_to", "dest", "outputDir", "saveTo", "log_file", "download-dir"),
                *("dst", "dstPath", "destination", "extractTo", "copy_to", "file_to_write", "WRITE_TO", "tracePath"),
            )
        ),
        ({"rows": [[{"output_file": "x"}]]}, {}, "output_file"),
        ({"options": '{"inner": [{"saveTo": "x"}]}'}, {}, "saveTo"),
        ({"target": "a.md"}, {"properties": {"target": {"description": "File path to write the report to"}}}, "target"),
        ({"options": {"filePath": "a.png"}}, NESTED, "filePath"),
        ({"options": {"filename": "a.png"}}, NESTED, None),
        ({"log_file": "a.log"}, {"required": ["log_file"]}, None),
        ({"log_file": "a.log"}, {"properties": {"log_file": {"description": "The log to search"}}}, None),
        ({"target": "HEAD", "relative_to": "src/a.py", "replyTo": "x", "dest": "https://example.com/a"}, {}, None),
        ({"filePath": "a.png"}, READS_FROM, None),
        ({"path": "a"}, {"properties": {"path": {"description": "If set, it is saved to this file"}}}, "path"),
        ({"file": "a"}, {"properties": {"file": {"description": "Writes the log there"}}}, "file"),
        ({"revision": "--output=a.md"}, {}, "--output"),
        ({"output_path": "json", "into": "a.md"}, {}, "output_path"),
        ({"outputs": ["x", "a.md"]}, {}, "outputs"),
        ({"outputs": ["title", "url"], "output_currency": "EUR", "output": "extend"}, {}, None),
        ({"output": "image/png"}, {"properties": {"output": {"description": "Output format"}}}, None),
        ({"output": "table+"}, {"properties": {"output": {"description": "Output format"}}}, None),
        ({"filter": {"filename": "a.md"}, "where": '{"output_file": {"$ne": "x"}}'}, {}, None),
        ({"query": {"filePath": "a"}}, {"properties": {"query": SAVES_TO}}, "filePath"),
        *(
            ({name: "x"}, {"required": [name]}, name)
            for name in ("extract_dir", "dump_path", "copyPath", "record_file")
        ),
        ({"output": {"file": "page.md", "format": "md"}}, {}, "output"),
        ({"output": '{"format": "md", "filePath": "page"}'}, {}, "output"),
        ({"output": [{"type": "md", "out_dir": "x"}]}, {}, "output"),
        ({"output": {"fields": ["title"]}}, {"properties": {"output": {"description": "Fields to return"}}}, None),
        ({"output_url": "file:///a.md"}, {}, "output_url"),
        ({"save_url": "FILE:a.md"}, {}, "save_url"),
        ({"write": "a.md"}, {}, "write"),
        ({"append": "a.md"}, {}, "append"),
        ({"save": 1}, {}, "save"),
        ({"save_id": 1, "write_limit": 1, "destination": "example.com", "dest": "Washington D.C"}, {}, None),
        ({"output_name": "vpc_id", "output_index": "0", "output_key": "bucket.arn"}, {}, None),
        ({"output_name": "a.md"}, {}, "output_name"),
        ({"destination": "notes.md"}, {}, "destination"),
        ({"output_files": ["Makefile"]}, {}, "output_files"),
        ({"output_file": ["Makefile"]}, {}, "output_file"),
        ({"output": ["report"]}, {}, "output"),
        ({"output": "report.md"}, FORMAT_OR_FILE, "output"),
        (
            {"output": "shots/%d.png"},
            {"properties": {"output": {"description": "Format of the file's name"}}},
            "output",
        ),
        ({"options": ["HEAD", "--output", "a.md"]}, {}, "--output"),
        ({"target": "HEAD --output=a.md"}, {}, "--output"),
        ({"target": "HEAD --output a.md"}, {}, "--output"),
        ({"target": " --output Makefile"}, {}, "--output"),
        ({"options": ["--output", "Makefile"]}, {}, "--output"),
        ({"q": "how does git diff --output work", "keywords": ["use of --output here"]}, {}, None),
        ({"command": "get pods --output jsonpath={.items}", "more": "--output=custom-columns=A:.a.name"}, {}, None),
        ({"command": "get pods --output=yaml-stream", "more": ["--output", "jsonc"]}, {}, None),
        ({"output": ["hostid", "name"]}, {}, None),
        ({"output": ["title"]}, {"properties": {"output": {"description": "Fields to return"}}}, None),
        ({"output": ["Makefile"]}, {"properties": {"output": {"description": "Files, one a field"}}}, "output"),
        ({"output": ["report", "a.md"]}, {}, "output"),
        ({"store_path": "a"}, NEEDS_STORE, None),
        (
            {"store_path": "a"},
            {"properties": {"store_path": {"description": "Where the tools store results"}}},
            "store_path",
        ),
        ({"pattern": "--output=dist", "text": "--output=a is an option", "contents": ["--outdir=x"]}, {}, None),
        ({"args": ["--output=json", "--output-format=x", "--output", "wide"], "more": "--output=wide"}, {}, None),
        ({"path": "a"}, {"properties": {"path": {"description": "Path of the note stored in this vault"}}}, None),
        ({"path": "a"}, {"properties": {"path": {"description": "Write-ahead log to inspect"}}}, None),
        ({"export": "React.memo"}, {}, None),
        ({"export": "Report.json"}, {}, "export"),
        ({"into": "feature/x"}, {}, None),
        ({"into": "/tmp/x"}, {}, "into"),
        ({"export_as": "json", "output": "detailed"}, {}, None),
        ({"filename": "a.md"}, READS_FILE, None),
        ({"filename": "a.md"}, SEARCHES, None),
        ({"filename": ""}, SNAPSHOT, None),
        ({"output": "wide"}, OUTPUT_FORMAT, None),
        ({"output": "json"}, {}, None),
        ({"output_format": "x", "output_mode": "content"}, {}, None),
        ({"download_url": "https://example.com/a"}, {}, None),
        ({"save": False, "output": 3, "saved": "x"}, {}, None),
        ({"path": "a.md", "query": "output", "destination": "Rome"}, {}, None),
    ],
)
def test_a_call_that_names_an_output_file_writes_whatever_the_mark(
    arguments: JSONObject, schema: JSONObject, argument: str | None
) -> None:
    """Playwright's read-only tools overwrite the file that `filename` names (seen in 0.0.4x)."""
    tool = ServerTool("browser", "snapshot", read_only=True, input_schema=schema)
    decision = Policy("read").check_call(tool, arguments)

    if argument is None:
        assert decision == READING
        assert not Policy("read").writes(tool, arguments)
    else:
        assert decision.verdict == "needs_write"
        assert f"writes a file if it is given {argument!r}" in decision.reason
        assert Policy("read").writes(tool, arguments)
    assert Policy("write").check_call(tool, arguments).allowed
    assert Policy("read").may_run(tool)
    assert Policy("read").check_call(tool, {}) == READING


@pytest.mark.parametrize(
    ("tool", "argument", "verdict"),
    [
        *(("read_log", each, "allowed") for each in ("log_path", "trace_file", "reportPath", "logfile")),
        ("start_log", "log_path", "needs_write"),
        *(
            ("get_page", each, "needs_write")
            for each in ("to_file", "into_dir", "extract_dir", "saved_path", "store_path", "copy_path", "result_path")
        ),
        ("read_dump", "dump", "allowed"),
        ("make_dump", "dump", "needs_write"),
        *(
            (tool, each, "allowed")
            for tool, each in (
                *(("read_record", "record_path"), ("get_result", "result_file"), ("read_har", "har_path")),
                *(("get_video_info", "video_path"), ("read_results", "results_dir"), ("read_dump", "dump_path")),
            )
        ),
        ("make_dump", "dump_path", "needs_write"),
        ("get_extract", "extract_dir", "needs_write"),
        ("get_video_info", "result_path", "needs_write"),
    ],
)
def test_a_log_path_is_what_a_reading_tool_reads(tmp_path: Path, tool: str, argument: str, verdict: str) -> None:
    marked = ServerTool("fs", tool, read_only=True)

    assert Policy("read").check_call(marked, {argument: "a.log"}).verdict == verdict
    assert at_work(tmp_path).check_call(marked, {argument: ".mcp.json"}).verdict == "denied"


@pytest.mark.parametrize(
    ("arguments", "schema", "verdict"),
    [
        ({"extract_dir": ".git/hooks"}, {"required": ["extract_dir"]}, "denied"),
        ({"copy_path": ".mcp.json"}, {"properties": {"copy_path": {"description": "Path of the copy"}}}, "denied"),
        ({"log_path": ".mcp.json"}, {"required": ["log_path"]}, "denied"),
        ({"filters": {"output_file": ".mcp.json"}}, {}, "denied"),
        ({"filters": {"output_file": "a.md"}}, {}, "allowed"),
        ({"query": '{"output_path": ".mcp.json"}'}, {}, "denied"),
        ({"query": '{"output_path": "a.md"}'}, {}, "allowed"),
        ({"query": '{"url.path": "/api/users", "folder": "/Inbox"}'}, {}, "allowed"),
        ({"query": '{"path": "/no-such-folder/.mcp.json", "output_path": "x"}'}, {}, "denied"),
        ({"query": '{"path": "/etc/passwd"}'}, {}, "outside"),
        ({"options": "HEAD --output Jenkinsfile"}, {}, "denied"),
        ({"output": ["Jenkinsfile", "x"]}, {}, "denied"),
        ({"output": "CLAUDE.md"}, {"properties": {"output": {"description": "Format or file"}}}, "denied"),
        ({"outputs": ["Jenkinsfile"]}, {}, "denied"),
        ({"into": "CLAUDE.md"}, {}, "denied"),
        ({"options": ["--output", "CLAUDE.md"]}, {}, "denied"),
        ({"options": "HEAD --output=CLAUDE.md"}, {}, "denied"),
        *(({name: ".mcp.json"}, {}, "denied") for name in ("har", "storageState", "report", "sarif", "csv", "video")),
        ({"path": "CLAUDE.md", "max_results": 3, "include_snapshot": True}, {}, "allowed"),
        ({"filename": "CLAUDE.md"}, READS_FILE, "allowed"),
        ({"path": "CLAUDE.md", "output": "json"}, {}, "allowed"),
    ],
)
def test_a_tool_that_may_write_a_protected_file_is_not_known_to_read(
    tmp_path: Path, arguments: JSONObject, schema: JSONObject, verdict: str
) -> None:
    tool = ServerTool("fs", "search_notes", read_only=True, input_schema=schema)

    assert at_work(tmp_path).check_call(tool, arguments).verdict == verdict


@pytest.mark.parametrize(
    ("tool", "arguments", "described", "argument"),
    [
        # what a tool that makes files must be given, and what is beside a source
        ("download_file", {"remote_path": "b", "local_path": "a"}, None, "local_path"),
        ("sftp_get", {"remote_file": "b", "local_file": "a"}, None, "local_file"),
        ("fetch_url", {"url": "https://a.b/c", "filename": "a"}, None, "filename"),
        ("copy_here", {"source": "b", "local_path": "a"}, None, "local_path"),
        ("screenshot", {"filename": "a.png"}, None, "filename"),
        ("export_pdf", {"path": "a.pdf"}, None, "path"),
        ("save_page", {"path": "a.html"}, None, "path"),
        ("record_video", {"path": "a.webm"}, None, "path"),
        ("screenshot_page", {"image_path": "a.png"}, None, "image_path"),
        ("take_screenshot", {"target": "e12"}, None, None),
        ("get_attachment", {"id": "1", "filename": "a.pdf"}, None, "filename"),
        ("search_and_download", {"filename": "a.pdf"}, None, "filename"),
        ("get_page", {"to_file": "a"}, None, "to_file"),
        # what others must be given, they read
        *(
            (tool, {argument: "a.pdf"}, None, None)
            for tool, argument in (
                *(("read_file", "filename"), ("get_file_contents", "filename"), ("view", "path"), ("view", "filename")),
                *(("read_pdf", "path"), ("extract_text_from_pdf", "path"), ("pdf_to_text", "path")),
                *(("view_attachment", "filename"), ("analyze_screenshot", "path"), ("export_workbook", "path")),
                *(("read_export", "export_path"), ("read_output_file", "output_file"), ("get_trace", "trace_file")),
                *(("get_pdf", "path"), ("dump_ast", "path"), ("get_attachments", "path"), ("get_snapshots", "path")),
                *(("render_template", "path"), ("get_pdf_info", "filename"), ("get_backup", "backup_path")),
            )
        ),
        ("get_file_contents", {"repo_url": "https://a.b/c", "filename": "a"}, None, None),
        ("lint", {"source": "a = 1", "filename": "a.py"}, None, None),
        ("diff_files", {"from_file": "a", "to_file": "b"}, None, None),
        ("export_pdf", {"input_path": "a.md", "output_path": "b"}, None, "output_path"),
        # what the description says
        ("snap", {"filename": "a.png"}, "Filename of the screenshot", "filename"),
        ("get_page", {"filename": "a.png"}, "Filename of the screenshot", "filename"),
        ("fetch_object", {"local_path": "a"}, "Local destination path", "local_path"),
        ("export_note", {"path": "a.md"}, "Path of the note to export", None),
        ("list_symbols", {"filename": "a.py"}, "Filter by filename", None),
        ("search_code", {"filename": "a.py"}, "Name of the file", None),
        ("get_logs", {"filename": "a.log"}, "File name", "filename"),
        ("s3_get_object", {"bucket": "b", "key": "k", "local_path": "a"}, None, "local_path"),
        ("get_file", {"file_id": "1", "local_path": "a"}, "Local path", "local_path"),
        ("hash_file", {"local_path": "a"}, None, None),
        ("get_branches", {"local_path": "a"}, "Local path of the repository", None),
        ("get_exif", {"local_path": "a"}, None, None),
        ("get_symbols", {"filename": "a.py"}, "Only for this file", None),
        ("get_logs", {"filename": "a.log"}, "File name for the export. Only used if set", "filename"),
        ("get_note", {"export_to": "pdf"}, "Format to export to", None),
        ("get_logs", {"savename": "a.log"}, None, "savename"),
        ("get_logs", {"options": ["--save-to=a.log"]}, None, "--save-to"),
        ("pdf_to_images", {"output_prefix": "page"}, "Prefix", "output_prefix"),
        ("list_rows", {"csv_path": "a.csv"}, "Path of the CSV file that is written", "csv_path"),
        ("list_rows", {"path": "a.csv"}, "Where the rows are written", "path"),
        ("list_rows", {"csv": "a.csv"}, "If set, write the rows as CSV to this path", "csv"),
        ("make", {"output": ["LICENSE", "NOTICE"]}, "The files to create", "output"),
        ("make", {"output": ["report", "summary"]}, "Output files", "output"),
        ("host_list", {"output": "hostid"}, "Output format (extend or list of specific fields)", None),
        *(
            (tool, {argument: "a.x"}, f"Path to the {argument}", None)
            for tool, argument in (
                *(("analyze_log", "log_path"), ("transcribe", "video_path"), ("extract_text", "pdf_path")),
                *(("check_results", "results_file"), ("hash_file", "local_path")),
            )
        ),
        ("trace_page", {"har": "a.har"}, "Path to save the HAR file to", "har"),
        ("trace_page", {"trace": "a.zip"}, "Saves the trace there", "trace"),
        ("trace_page", {"trace": "on"}, "Saves the trace there", None),
        ("get_page", {"dirForAssetWrites": "assets"}, None, "dirForAssetWrites"),
        # names, and values
        *(
            ("make", {name: "a"}, None, name)
            for name in (
                *("outputlocation", "savelocation", "outputLocation", "downloads_dir", "local_output", "destdir"),
                *("write_to", "output", "out"),
            )
        ),
        *(
            ("make", {name: True}, None, name)
            for name in ("output_to_file", "write_to_disk", "save_results", "download", "write", "persist")
        ),
        (
            "make",
            {"output_to_file": False, "include_output_files": True, "overwrite": True, "can_export": True},
            "What to do",
            None,
        ),
        *(
            ("get_hosts", {"output": value}, None, None)
            for value in ("hostid", ["hostid"], "json", "text/html", "custom-columns=NAME:.metadata.name")
        ),
        *(("get_hosts", {name: "docs/html"}, None, name) for name in ("output", "write_to")),
        ("get_route", {"destination_location": "Rome", "destination": "Paris"}, None, None),
        ("get_hosts", {"append_to": "report"}, None, "append_to"),
        ("kubectl", {"args": ["get", "pods", "-o", "custom-columns=NAME:.metadata.name"]}, None, None),
        # a pipeline of MongoDB
        ("aggregate", {"pipeline": [{"$setWindowFields": {"output": {"n": {"$sum": 1}}}}]}, None, None),
        ("aggregate", {"pipeline": [{"$project": {"output_file": "$a", "m": {"$mergeObjects": "$b"}}}]}, None, None),
        ("aggregate", {"pipeline": [{"$match": {"filename": "a.md"}}, {"$out": "b"}]}, None, "$out"),
        ("aggregate", {"pipeline": '[{"$merge": {"into": "b"}}]'}, None, "$merge"),
        ("aggregate", {"pipeline": "[{$out: 'b'}]"}, None, "$out"),
    ],
)
def test_the_name_of_the_tool_and_what_is_beside_an_argument_say_whether_it_names_an_output_file(
    tmp_path: Path, tool: str, arguments: JSONObject, described: str | None, argument: str | None
) -> None:
    """Without a description, the tool must be given all of the arguments."""
    stated = {"description": described} if described else {"type": "string"}
    schema = {"properties": dict.fromkeys(arguments, stated), "required": [] if described else list(arguments)}
    marked = ServerTool("fs", tool, read_only=True, input_schema=schema)
    policy = replace(at_work(tmp_path), access="read")
    decision = policy.check_call(marked, arguments)

    if argument is None:
        assert decision == READING
        assert policy.may_run(marked)
    else:
        assert decision.verdict == "needs_write"
        assert f"writes a file if it is given {argument!r}" in decision.reason
        assert f'allow it by a rule: "fs/{tool}"' in decision.remedy


def test_what_only_a_tools_name_says_counts_for_servers_on_this_machine() -> None:
    schema = {"properties": {"filename": {"type": "string"}}, "required": ["filename"]}
    tool = ServerTool("fs", "get_attachment", read_only=True, input_schema=schema)

    assert Policy("read").check_call(tool, {"filename": "a.pdf"}) == READING


def test_a_tool_that_must_be_told_what_to_write_is_not_offered_to_read() -> None:
    tool = ServerTool("browser", "print", read_only=True, input_schema=NEEDS_OUTPUT)

    assert not Policy("read").may_run(tool)
    assert Policy("write").may_run(tool)


def test_a_default_that_names_an_output_file_counts_where_the_argument_is_absent() -> None:
    stated = {"default": "report.md", "description": "Where the report is saved"}
    tool = ServerTool("fs", "check", read_only=True, input_schema={"properties": {"output_path": stated}})

    assert Policy("read").check_call(tool, {}).verdict == "needs_write"
    assert Policy("read").check_call(tool, {"output_path": ""}) == READING


def test_where_the_person_can_be_asked_all_tools_may_be_offered_but_none_that_is_denied() -> None:
    policy = Policy("read", rules=Rules((Rule("deny", "fs/move", "file"),)), asks=True)

    assert policy.may_run(ServerTool("fs", "write"))
    assert not policy.may_run(ServerTool("fs", "move"))
    assert policy.check_call(ServerTool("fs", "write"), {}).verdict == "needs_write"


# -- rules --------------------------------------------------------------------------------------


def ruled(access: Access, *rules: tuple[Verb, str]) -> Policy:
    return Policy(access, Rules(tuple(Rule(verb, pattern, "mine") for verb, pattern in rules)))


@pytest.mark.parametrize(
    ("access", "rules", "verdict"),
    [
        ("read", [("allow", "fs/write")], "allowed"),
        ("read", [("allow", "fs/*")], "allowed"),
        ("read", [("allow", "fs/read")], "needs_write"),
        ("write", [("deny", "fs/write")], "denied"),
        ("write", [("deny", "*/wr*")], "denied"),
        ("write", [("hide", "fs/*")], "denied"),
        ("read", [("allow", "fs/write"), ("deny", "fs/*")], "denied"),
        ("write", [("deny", "fs/write"), ("allow", "fs/write")], "denied"),
        ("write", [("deny", "other/write")], "allowed"),
    ],
)
def test_a_rule_decides_before_access_and_deny_beats_allow(
    access: Access, rules: list[tuple[Verb, str]], verdict: Verdict
) -> None:
    assert ruled(access, *rules).check_call(ServerTool("fs", "write"), {}).verdict == verdict


def test_a_denied_tool_does_not_run_although_its_server_calls_it_reading() -> None:
    tool = ServerTool("fs", "read", read_only=True)

    assert ruled("write", ("deny", "fs/read")).check_call(tool, {}) == Decision(
        "denied", "the user's rules deny fs read.", 'deny "fs/read" (mine)'
    )


@pytest.mark.parametrize(
    ("verb", "tool", "verdict"),
    [
        ("deny", ServerTool("FS", "Write"), "denied"),
        ("deny", ServerTool("fs", "\uff57rite"), "denied"),  # a wide letter
        ("allow", ServerTool("FS", "Write"), "needs_write"),
        ("allow", ServerTool("f\u0455", "write"), "needs_write"),  # a Cyrillic letter
        ("allow", ServerTool("fs", "write/x"), "needs_write"),
        ("allow", ServerTool("fs/write", "x"), "needs_write"),
    ],
)
def test_a_look_alike_is_denied_with_its_model_and_never_allowed_with_it(
    verb: Verb, tool: ServerTool, verdict: Verdict
) -> None:
    assert ruled("read", (verb, "fs/write")).check_call(tool, {}).verdict == verdict


@pytest.mark.parametrize("verb", ["deny", "allow"])
@pytest.mark.parametrize(
    ("pattern", "tool"),
    [
        ("my [shop]/list", ServerTool("my [shop]", "list")),
        ("my [[]shop]/list", ServerTool("my [shop]", "list")),
        ("team/shop/list", ServerTool("team/shop", "list")),
        ("team/*/list", ServerTool("team/shop", "list")),
        ("shop/orders/list", ServerTool("shop", "orders/list")),
        ("shop/get[0]", ServerTool("shop", "get[0]")),
    ],
)
def test_names_with_a_slash_or_a_bracket_are_matched(verb: Verb, pattern: str, tool: ServerTool) -> None:
    assert ruled("read", (verb, pattern)).check_call(tool, {}).verdict == {"deny": "denied", "allow": "allowed"}[verb]


@pytest.mark.parametrize(
    ("pattern", "unused"),
    [
        ("fs/wirte", True),
        ("FS/wirte_*", True),
        ("fs/write", False),
        ("fs/*", False),
        ("*/wirte", False),
        ("b/x", False),
    ],
)
def test_a_rule_that_names_a_server_and_fits_none_of_its_tools_is_found(pattern: str, unused: bool) -> None:
    rules = ruled("read", ("deny", pattern)).rules

    assert bool(rules.find_unused("fs", [ServerTool("fs", "write")])) is unused


@pytest.mark.parametrize(("verb", "offered"), [("hide", False), ("deny", True), ("allow", True)])
def test_only_what_is_hidden_is_not_offered(verb: Verb, offered: bool) -> None:
    assert ruled("write", (verb, "fs/write")).offers(ServerTool("fs", "write")) is offered


# -- paths --------------------------------------------------------------------------------------

READ = ServerTool("fs", "read", read_only=True)
WRITE = ServerTool("fs", "write")


def at_work(project: Path, rules: Rules | None = None) -> Policy:
    """A policy that may write, with the project as the workspace of the server fs."""
    project.mkdir(exist_ok=True)
    workspace = make_workspace([project], home=project.parent / "home")
    return Policy("write", rules or Rules(), workspace, {"fs": project})


@pytest.mark.parametrize(
    "arguments",
    [
        *({"path": "a.txt"}, {"path": "{project}/sub/a.txt"}, {"path": "sub/../a.txt"}, {"path": "."}),
        *({"paths": ["a.txt", "{project}/b.txt"]}, {"uri": "file://{project}/a%20b.txt"}),
        *({"url": "https://example.com/a/b"}, {"content": "/etc/passwd", "query": "../.."}),
        *({"path": 7, "paths": None}, {"xpath": "//div[@id='a']", "price": "$5"}),
        {"files": [{"name": "a.txt", "content": "/* ~ */"}]},
        {"note_text": "/etc/passwd", "commit_message": "../x", "old_text": "~/a", "new_text": '["/etc"]'},
        {"input": "see a/b or ~10 items", "about": "~10 items", "amount": "$5", "rate": "% of /all", "class": "\\d+/x"},
        {"input": "Compare /a, /b and ../c, please.", "lines": "/a\n/b"},
        {"location": "sub/a.txt", "document": "{project}/a.txt", "filters": {"kind": "a/b"}},
        {"file_list": "a.txt, sub/b.txt", "items": '["a.txt", "{project}/b.txt"]'},
        {"file_type": "pdf", "file_content": "/etc/passwd", "profile": "default", "direction": "north"},
        {"database": "sqlite:///data.db", "server": "https://example.com/a", "store": "postgresql://host/db"},
        {"sources": ["https://example.com/a.git/.git/config"]},
        {"x": "@/components/Button", "y": "(/nowhere/a)", "z": "--path=/nowhere", "w": "see (/etc/passwd)", "v": "a=b"},
    ],
)
def test_paths_inside_the_workspace_may_be_used(tmp_path: Path, arguments: JSONObject) -> None:
    project = tmp_path / "project"

    assert at_work(project).check_call(WRITE, filled(arguments, project)) == WRITING


@pytest.mark.parametrize(
    "arguments",
    [
        *({"path": "/etc/passwd"}, {"path": "../other/a.txt"}, {"path": "sub/../../other"}),
        *({"path": "{project}/../other"}, {"path": "{project}-other/a.txt"}, {"path": "  /etc/passwd"}),
        *({"path": "'/etc/passwd'"}, {"path": "~/a.txt"}, {"path": "~root/a.txt"}, {"path": "a\0b"}),
        *({"path": "link/a.txt"}, {"path": "https://../../../../../../../../../../etc/passwd"}),
        *({"paths": ["a.txt", "/etc/passwd"]}, {"source": "a.txt", "destination": "/tmp/a.txt"}),
        *({"filePath": "/etc/passwd"}, {"output_file": "/etc/passwd"}, {"targetDirectory": "/etc"}),
        *({"edits": [{"file": {"path": "/etc/passwd"}}]}, {"files": {"../x": "text"}}),
        *({"uri": "file:///etc/passwd"}, {"uri": "FILE:///etc/passwd"}),
        *({"uri": "file://{project}/%2e%2e/x"}, {"anything": "file:///etc/passwd"}),
        *({"anything": "fi\nle:///etc/passwd"}, {"url": "\x01file:\\\\\\etc\\passwd"}),
        *({"url": "view-source:file:///etc/passwd"}, {"url": "file://[/etc/passwd"}),
        *({"uri": "file:~/a.txt"}, {"uri": "file://{project}/a?/../../x"}),
        *({"uri": "file://{project}/a#/../../x"}, {"path": "\ufeff/etc/passwd"}, {"path": "..\\..\\x"}),
        *({"path": "$HOME/a.txt"}, {"path": "${HOME}/a.txt"}, {"path": "%USERPROFILE%\\a.txt"}),
        *({"path": "inner/../../x"}, {"path2": "/etc/passwd"}, {"file_1": "/etc/passwd"}),
        *({"outdir": "/etc"}, {"files": [{"name": "/etc/passwd", "content": "x"}]}),
        *({"file_name": "/etc/passwd"}, {"pathname": "/etc/passwd"}, {"file_list": ["/etc/passwd"]}),
        *({"output": "/etc/passwd"}, {"save_to": "../x"}, {"location": "/etc"}, {"location": "/"}),
        *({"database": "/outside.db"}, {"database": "sqlite:////outside.db"}),
        *({"database_url": "jdbc:sqlite:/outside.db"}, {"store": "duckdb:///../outside.db"}),
        *({"document": "~"}, {"document": "~/a.md"}, {"document": "~root"}, {"document": "$HOME/a.md"}),
        *({"document": "C:\\Users\\me"}, {"document": "\\\\server\\share\\a"}, {"reference_doc": ".."}),
        *({"reference_doc": "a/../../b"}, {"reference_doc": "link/a.md"}, {"filters": {"from": "/etc"}}),
        *({"filters": {"/etc/passwd": 1}}, {"items": '["a.txt", "/outside"]'}),
        *({"items": '{"one": {"two": ["/outside"]}}'}, {"items": "a.txt, /outside"}),
        *({"items": "a.txt;/outside"}, {"paths": "a.txt, my notes, /outside"}, {"paths": "a.txt\n/outside"}),
        *({"file_path": '["/outside"]'}, {"files": "a.txt /outside"}, {"paths": "a.txt\t~/x"}),
        *({"items": "a.txt\n/etc/passwd"}, {"items": "a.txt|/etc/passwd"}, {"items": "[a.txt,/etc/passwd]"}),
        *({"items": "{/etc/passwd,a.txt}"}, {"items": '"[\\"/outside\\"]"'}, {"input": "@/etc/passwd"}),
        *({"input": "`/etc/passwd`"}, {"input": "--file=/etc/passwd"}, {"arguments": ["-o/etc/passwd"]}),
        *({"input": "%2Fetc%2Fpasswd"}, {"input": "..%2fx"}),
    ],
)
@pytest.mark.parametrize("tool", [READ, WRITE])
def test_paths_that_leave_the_workspace_are_refused(tmp_path: Path, tool: ServerTool, arguments: JSONObject) -> None:
    project = tmp_path / "project"
    policy = at_work(project)
    (project / "link").symlink_to(tmp_path)
    (project / "deep" / "er").mkdir(parents=True)
    (project / "inner").symlink_to(project / "deep" / "er")  # Node takes `..` out before it follows links

    assert policy.check_call(tool, filled(arguments, project)).verdict == "outside"


@pytest.mark.parametrize(
    ("arguments", "verdict"),
    [
        ({"route": "/no-such-folder/users"}, "allowed"),
        ({"filter": {"routes": ["/no-such-folder/users/{id}?page=1"]}}, "allowed"),
        ({"route": "/no-such-folder/../etc/passwd"}, "outside"),
        ({"route": "/no-such-folder/%2e%2e/etc/passwd"}, "outside"),
        ({"route": "/tmp/users"}, "outside"),  # this may be one
        ({"path": "/no-such-folder/users"}, "outside"),
        ({"route": " /no-such-folder/users"}, "outside"),
    ],
)
def test_a_route_of_a_web_server_is_no_path_for_a_call_that_reads(
    tmp_path: Path, arguments: JSONObject, verdict: Verdict
) -> None:
    policy = at_work(tmp_path / "project")

    assert policy.check_call(READ, arguments).verdict == verdict
    assert policy.check_call(WRITE, arguments).verdict == "outside"


def test_a_file_url_is_judged_also_where_a_preset_or_rule_names_the_paths(tmp_path: Path) -> None:
    policy = at_work(tmp_path / "project", Rules(arguments={"fs/*": frozenset()}))

    assert policy.check_call(READ, {"url": "file:///etc/passwd"}).verdict == "outside"
    assert policy.check_call(READ, {"url": "/etc/passwd", "body": "File: /etc/passwd is wrong"}).allowed


def filled(value: object, project: Path) -> dict[str, object]:
    """The arguments with the project's folder put in."""

    def fill(each: object) -> object:
        match each:
            case str():
                return each.replace("{project}", str(project))
            case dict():
                return {key: fill(item) for key, item in each.items()}
            case list():
                return [fill(item) for item in each]
            case _:
                return each

    got = fill(value)
    assert isinstance(got, dict)
    return got


def test_a_refusal_names_the_path_and_the_workspace(tmp_path: Path) -> None:
    decision = at_work(tmp_path).check_call(READ, {"path": "/etc/passwd"})

    assert (decision.verdict, decision.rule) == ("outside", "workspace")
    assert decision.reason == f"'/etc/passwd' is outside of what this run may touch ({tmp_path})."
    assert '"fs/read" = []' in decision.remedy


def test_paths_in_a_container_are_not_ours_but_protected_files_are_by_name(tmp_path: Path) -> None:
    policy = Policy("write", workspace=make_workspace([tmp_path]), local={"fs": None})

    assert policy.check_call(WRITE, {"path": "/projects/a.txt"}) == WRITING
    assert policy.check_call(READ, {"path": "/projects/.git/config"}) == READING
    refusal = policy.check_call(WRITE, {"path": "/projects/.git/config"})
    assert refusal.verdict == "denied"
    assert "[paths.arguments]" in refusal.remedy  # GitHub's own server in a container edits workflows on GitHub
    assert policy.places(WRITE, {"path": "/projects/a.txt"}) == ()


def test_a_rule_that_allows_a_tool_lets_it_nowhere_else(tmp_path: Path) -> None:
    policy = at_work(tmp_path, Rules((Rule("allow", "fs/*", "mine"),)))

    assert policy.check_call(WRITE, {"path": "/etc/passwd"}).verdict == "outside"


@pytest.mark.parametrize(
    "path",
    [
        ".git/hooks/post-checkout",
        ".claude/settings.json",
        ".MCP.json",
        "sub/.git",
        "link",
        ".git./config",
        ".husky/pre-commit",
        ".idea/workspace.xml",
        ".envrc",
        ".githooks",
        "Jenkinsfile",
        ".agents",
        ".gitmodules",
        "web/.npmrc",
        ".bashrc",
        ".profile",
        ".zshrc",
        ".codex/config.toml",
        ".zed/settings.json",
        "sub/opencode.json",
        ".windsurf/rules/a.md",
        ".zlogin",
        ".ssh/authorized_keys",
        ".devcontainer/devcontainer.json",
        ".github/workflows/ci.yml",
        "CLAUDE.md",
        "sub/AGENTS.md",
        ".claude-plugin/plugin.json",
        ".git::$DATA",
        ".mcp.json#L3",
        "sub/.mcp.json?raw=1",
        ".mcp.jso?",
        ".m*",
        "GIT~1/config",
        ".g\u200cit/config",
        ".bash_aliases",
        ".pre-commit-config.yaml",
        "sub/bunfig.toml",
        ".junie/guidelines.md",
    ],
)
def test_what_decides_about_programs_is_read_but_not_changed(tmp_path: Path, path: str) -> None:
    policy = at_work(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / ".mcp.json")

    assert policy.check_call(READ, {"path": path}) == READING
    assert policy.check_call(WRITE, {"path": path}).verdict == "denied"
    assert policy.check_call(WRITE, {"document": path}).verdict == "denied"
    assert policy.check_call(WRITE, {"items": json.dumps([path])}).verdict == "denied"
    assert policy.check_call(WRITE, {"content": path}) == WRITING
    assert policy.check_call(READ, {"filename": path}).verdict == "denied"  # although it is marked read-only


@pytest.mark.parametrize(
    "path", [".github/README.md", "workflows/a.yml", "claude.txt", ".gitignore", "AGENTS.md.bak", ".venv*", "*.md"]
)
def test_other_files_with_such_names_may_be_changed(tmp_path: Path, path: str) -> None:
    assert at_work(tmp_path).check_call(WRITE, {"path": path}) == WRITING


def test_a_page_with_such_an_address_may_be_opened(tmp_path: Path) -> None:
    arguments: JSONObject = {"url": "https://github.com/a/b/blob/main/.github/workflows/ci.yml"}

    assert at_work(tmp_path).check_call(WRITE, arguments) == WRITING


def test_a_preset_reads_protected_files_and_a_rule_that_allows_a_tool_does_not_free_them(tmp_path: Path) -> None:
    arguments: JSONObject = {"path": ".mcp.json"}

    for source, verdict in (("preset for a package", "allowed"), ("mine", "denied")):
        policy = at_work(tmp_path, Rules((Rule("allow", "fs/write", source),)))
        assert policy.check_call(WRITE, arguments).verdict == verdict


@pytest.mark.parametrize(
    ("tool", "rules", "verdict"),
    [
        ("take_picture", (), "denied"),
        ("snapshot", (), "denied"),
        ("get_page_screenshot", (), "denied"),
        ("read_text_file", (), "allowed"),
        ("get_file_info", (), "allowed"),
        ("git_diff", (), "allowed"),
        ("git_log", (), "allowed"),
        ("start_search", (), "allowed"),
        ("analyze", (Rule("allow", "fs/analyze", "mine"),), "allowed"),
        ("analyze", (Rule("allow", "fs/analyze", "preset for a package"),), "allowed"),
    ],
)
def test_a_mark_alone_opens_no_protected_file(tmp_path: Path, tool: str, rules: tuple[Rule, ...], verdict: str) -> None:
    """Playwright's marked tools wrote `.git/hooks/pre-commit`."""
    marked = ServerTool("fs", tool, read_only=True)
    for arguments in ({"place": ".git/hooks/pre-commit"}, {"source_path": ".mcp.json"}):
        decision = at_work(tmp_path, Rules(rules)).check_call(marked, arguments)
        assert decision.verdict == verdict
        assert verdict == "allowed" or f'allow it by a rule: "fs/{tool}"' in decision.remedy


@pytest.mark.parametrize(
    ("argument", "value", "known", "verdict"),
    [
        ("target", "--output=/etc/x", {"path"}, "outside"),
        ("target", "--output=.mcp.json", {"path"}, "denied"),
        ("target", "npm i --save-dev /usr/lib/jest", {"path"}, "allowed"),
        ("target", "--output=/etc/x", set(), "allowed"),  # a rule has lifted it
        ("message", "Use --output=/var/log/a.log", {"path"}, "allowed"),
    ],
)
def test_options_for_output_are_judged_whatever_the_known_path_arguments(
    tmp_path: Path, argument: str, value: str, known: set[str], verdict: str
) -> None:
    rules = Rules(arguments={"fs/*": frozenset(known)})
    assert at_work(tmp_path, rules).check_call(ServerTool("fs", "diff"), {argument: value}).verdict == verdict


def test_paths_of_a_server_elsewhere_are_not_judged(tmp_path: Path) -> None:
    tool = ServerTool("remote", "read", read_only=True)

    assert at_work(tmp_path).check_call(tool, {"path": "/docs/a.md"}) == READING


@pytest.mark.parametrize(
    ("rules", "verdict"),
    [
        (Rules(arguments={"fs/*": frozenset()}), "allowed"),
        (Rules(arguments={"other/*": frozenset()}), "outside"),
        (Rules(arguments={"fs/*": frozenset({"note"})}), "allowed"),
        (Rules(arguments={"fs/*": frozenset({"path"})}), "outside"),
        (Rules(arguments={"fs/*": frozenset()}, more_arguments={"fs/w*": frozenset({"path"})}), "outside"),
    ],
)
def test_rules_say_which_arguments_are_paths(tmp_path: Path, rules: Rules, verdict: Verdict) -> None:
    """What a project's file adds to them cannot be taken away (ours: it can only tighten)."""
    assert at_work(tmp_path, rules).check_call(WRITE, {"path": "/docs/a.md"}).verdict == verdict


def test_where_rules_name_the_paths_other_values_are_not_judged(tmp_path: Path) -> None:
    policy = at_work(tmp_path, Rules(arguments={"fs/*": frozenset({"file"})}))

    assert policy.check_call(WRITE, {"location": "/docs/a.md", "file": "a.txt"}) == WRITING
    assert policy.check_call(WRITE, {"location": "/docs/a.md", "file": "a.txt, /b"}).verdict == "outside"


def test_a_path_that_only_looks_like_one_is_not_a_place_to_watch(tmp_path: Path) -> None:
    arguments: JSONObject = {"path": "a.txt", "label": "b.txt", "content": "c.txt"}

    assert at_work(tmp_path).places(WRITE, arguments) == (tmp_path / "a.txt",)


def test_arguments_nested_too_deeply_to_look_through_are_refused(tmp_path: Path) -> None:
    arguments: dict[str, object] = {"path": "/etc/passwd"}
    for _ in range(40):
        arguments = {"a": arguments}

    assert at_work(tmp_path).check_call(WRITE, arguments).verdict == "denied"


def test_without_a_folder_in_the_workspace_no_path_may_be_used(tmp_path: Path) -> None:
    assert Policy("write", local={"fs": tmp_path}).check_call(WRITE, {"path": "a.txt"}).verdict == "outside"


@pytest.mark.parametrize(
    ("name", "read_only", "writes"),
    [
        ("write", None, True),
        ("write", False, True),
        ("write", True, False),
        ("wander", None, True),
        ("list_notes", None, False),
        ("sequentialthinking", None, False),
    ],
)
def test_calls_count_as_writing_unless_a_mark_a_preset_or_the_name_says_otherwise(
    name: str, read_only: bool | None, writes: bool
) -> None:
    preset = Rule("allow", "fs/sequentialthinking", "preset for a package")
    own = Rule("allow", "fs/write", "lmstudio-bridge.toml")

    assert Policy("read", Rules((own, preset))).writes(ServerTool("fs", name, read_only=read_only)) is writes


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [
        ((), True),
        (("mcp__*",), True),
        (("mcp__my_fs",), True),
        (("mcp__my_fs__*",), True),
        (("mcp__my_fs__read",), True),
        (("mcp__my_fs__rea",), False),
        (("mcp__my",), False),
        (("mcp__My_fs",), False),
        (("mcp__git",), False),
        (("mcp__*", "!mcp__my_fs__read"), False),
        (("mcp__my_fs", "!mcp__My_fs__Read"), False),
        (("mcp__my_fs", "!mcp__my_fs__write"), True),
    ],
)
def test_an_agent_has_no_tools_but_its_own(limit: tuple[str, ...], allowed: bool) -> None:
    tool = ServerTool("my fs", "read", read_only=True)
    policy = Policy("write", Rules((Rule("allow", "my fs/*", "mine"),)), limit=limit)

    assert policy.offers(tool) is allowed
    assert policy.may_run(tool) is allowed
    assert policy.check_call(tool, {}).allowed is allowed


def test_the_tools_of_an_agent_give_it_no_write_access() -> None:
    assert Policy("read", limit=("mcp__fs__write",)).check_call(ServerTool("fs", "write"), {}) == NO
