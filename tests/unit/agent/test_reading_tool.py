"""Which tool reads the file of a task before the first request."""

from __future__ import annotations

import pytest

from lmstudio_bridge.agent.first_call import reading_tool
from lmstudio_bridge.messages import ToolSpec


def spec(name: str, *required: str) -> ToolSpec:
    properties = {each: {"type": "string"} for each in required}
    return ToolSpec(name, name, {"type": "object", "properties": properties, "required": list(required)})


FILES = (spec("fs__read_file", "path"), spec("fs__read_text_file", "path"), spec("fs__get_file_info", "path"))


@pytest.mark.parametrize(
    ("task", "tools", "found"),
    [
        ("Which code is in the file notes/a.txt?", FILES, ("fs__read_text_file", "path")),
        ("Which code is in the file notes/a.txt?", (*FILES, spec("other__read_file", "file")), None),
        ("How large is the file notes/a.txt?", FILES, None),
        ("Which label fits this ticket?", FILES, None),
        ("Which code is in the file notes/a.txt?", (spec("fs__read_file", "path", "head"),), None),
        ("Which code is in the file notes/a.txt?", (), None),
    ],
)
def test_a_file_is_read_first_where_one_server_can_and_nothing_else_fits(
    task: str, tools: tuple[ToolSpec, ...], found: tuple[str, str] | None
) -> None:
    assert reading_tool(task, tools) == found
