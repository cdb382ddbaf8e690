"""Text of others is inert: nothing hidden, nothing that a host acts on, nothing that looks like a line of ours."""

from __future__ import annotations

import json

import pytest

from lmstudio_bridge.text import as_letters, as_shown, clean_text, inert, quoted_name, quoted_words

# Unicode 16, DerivedCoreProperties.txt, Default_Ignorable_Code_Point.
DEFAULT_IGNORABLE = [
    *(0xAD, 0x34F, 0x61C, 0x3164, 0xFEFF, 0xFFA0),
    *(0x115F, 0x1160, 0x17B4, 0x17B5),
    *range(0x180B, 0x1810),
    *range(0x200B, 0x2010),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xFE00, 0xFE10),
    *range(0xFFF0, 0xFFF9),
    *range(0x1BCA0, 0x1BCA4),
    *range(0x1D173, 0x1D17B),
    *range(0xE0000, 0xE1000),
]


@pytest.mark.parametrize("around", ["{}", "a{}b", " {} ", "1{}2", "[{}Local", "\N{CYRILLIC SMALL LETTER A}{}x"])
def test_nothing_that_is_ignored_by_default_is_left(around: str) -> None:
    left = [hex(code) for code in DEFAULT_IGNORABLE if chr(code) in clean_text(around.format(chr(code)))[0]]

    assert left == []


@pytest.mark.parametrize(
    "text",
    [
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian
        "\u0915\u094d\u200d\u0937 \u0dc1\u0dca\u200d\u0dbb\u0dd3",  # Hindi, Sinhala
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f\u200d\U0001f525 1\ufe0f\u20e3 \u2600\ufe0e",  # emoji
        "a\tb\r\nc",
    ],
)
def test_words_and_emoji_keep_their_joiners(text: str) -> None:
    assert clean_text(text) == (text, 0)


@pytest.mark.parametrize(
    "text",
    [
        "![x](https://evil/?q=1)",
        "see![](//evil/a.png)",
        "![a ![b](x.png) c](\n<https://evil>)",
        "![x](&#104;ttps://evil)",
        "![x](http\\://evil)",
        "![x][r]\n\nmore\n\n[r]: https://evil",
        "[![x](http://evil)](http://good)",
    ],
)
def test_no_remote_image_is_left(text: str) -> None:
    assert "![" not in inert(text)
    assert inert(text).replace("! [", "![") == text


TAGS = [
    "system-reminder",
    "system",
    "command-name",
    "local-command-stdout",
    "bash-stdout",
    "user-prompt-submit-hook",
    "task-notification",
    "ide_selection",
    "tool_use_error",
    "function_results",
    "invoke name='x'",
    "antml:invoke",
    "|im_start|",
    "img src=x",
    "iframe src='//evil'",
    "system_reminder",
    "channel source='x'",
    "teammate-message",
    "source srcset=x",
    "user-memory-input",
    "cross-session-message from='x'",
    "budget:token_budget",
    *(
        f"{name[0]}{dash}{name[1]}"
        for name in (("system", "reminder"), ("tool", "call"))
        for dash in "\u2010\u2011\u2013\u2212"
    ),
    "bash\u2011input",
    "user\u2011prompt\u2011submit\u2011hook",
    "system_message: obey",
    "system_message, priority=high",
    "system_message;",
    "tool_call=x",
    "system_reminder foo",
    "tool_call read_file",
    "tool_call or obey",
    "budget: 100",
    "function_calls:",
    "script src=x",
    "track kind=x src=x",
    "base href=x",
    "input type='image' src=x",
    "meta http-equiv=refresh content='0;x'",
    "style>@import 'x'; a{}",
    "style media=x>a {background: url(x)}",
]


@pytest.mark.parametrize("tag", TAGS)
def test_no_tag_that_hosts_act_on_is_left(tag: str) -> None:
    for form in ("<{}>", "</{}>", "< {}>", "<\u00ad{}>", "a\n<{}>\nb"):
        text = as_shown(form.format(tag))

        assert "<" not in text
        assert tag in text
        assert as_shown(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "vec![1, 2] and #![allow(dead_code)]\n\nSee [the docs](https://docs.rs).",
        "![logo](images/logo.png)",
        "if a < system and b <| c: <div> <user> <T> Vec<Toolbox> <webhook> <system.web> <commands>",
        "for (i = 0; i < task_count; i++) if (n<bash_max) {} #include <task_queue.h>",
        "<script setup>let a</script> <style scoped>a {}</style> <meta charset=x> <input type=text> <Track/>",
        "if i < total_tokens and j > 3 or a < command_len && b > c:\n    while x < tool_max:",
    ],
)
def test_code_stays_as_it_is(text: str) -> None:
    assert inert(text) == text


def test_json_stays_json() -> None:
    value = {"a": "![x](https://evil)", "b": "<system-reminder>"}

    assert json.loads(inert(json.dumps(value))) == {"a": "! [x](https://evil)", "b": "&lt;system-reminder>"}


@pytest.mark.parametrize(
    ("name", "shown"), [("a.py", "a.py"), ("a b", '"a b"'), ('a"b', '"a\'b"'), ("a\n\nb", '"a b"')]
)
def test_a_name_of_several_words_is_quoted(name: str, shown: str) -> None:
    assert quoted_name(name) == shown
    assert quoted_words('say "no"') == "\"say 'no'\""


@pytest.mark.parametrize(
    "text",
    [
        "[Local model output",
        "[L\N{CYRILLIC SMALL LETTER O}c\N{CYRILLIC SMALL LETTER A}l\u00a0model\u3000output",
        "\uff3b\uff2cocal  model \U0001d428utput",
        "[Lo\u0301cal\u2800model output",
    ],
)
def test_what_looks_alike_is_alike(text: str) -> None:
    assert as_letters(text) == "[local model output"
