"""Facts of an answer are found in what the run has seen, whatever they look like there, or they are reported."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.agent.grounding import Evidence, Grounding, Source, where_of

NOTES = """Meeting of 3 March 2025, 14:30
code: juniper-4781
Total: 1,234.50 EUR, 17 items, 8 GB
Contact ada@example.com, see https://example.com/a/b?x=1
MAX_RETRIES = 5, retryCount, config.v2.json
The gate opens
at dawn only.
"""


def having_read(where: str, text: str, given: str, task: str = "") -> Evidence:
    """What a run with this task knows that has read this text there."""
    evidence = Evidence(given, task)
    evidence.add(where, text)
    return evidence


def check(answer: str, *, task: str = "What does notes.txt say?") -> Grounding:
    evidence = Evidence(task)
    evidence.add("notes.txt", NOTES)
    evidence.add("fs list_directory", "[FILE] a.md\n[FILE] b.md\n[DIR] docs")
    return evidence.check(answer)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ("The code is **juniper-4781**.", 2),
        ("`JUNIPER-4781`", 2),
        ("It costs 1234.5 EUR.", 3),
        ("It costs €1,234.50.", 3),
        ("There are 17 of them.", 3),
        ("It was on 2025-03-03.", 1),
        ("It was on March 3, 2025.", 1),
        ("It was on 3 March.", 1),
        ("At 2:30 PM.", 1),
        ("At 14:30.", 1),
        ("Write to Ada@example.com.", 4),
        ("See https://example.com/a/b?x=1.", 4),
        ("MAX_RETRIES and the rest", 5),
        ("the variable retryCount", 5),
        ("in ./config.v2.json", 5),
        ('It says "the gate opens at dawn".', 6),
        ("It says \u201cThe gate \u2026 dawn only\u201d.", 6),
    ],
)
def test_a_fact_has_the_line_where_it_was_read(answer: str, line: int) -> None:
    grounding = check(answer)

    assert grounding.missing == ()
    assert [(source.where, source.line) for source in grounding.sources] == [("notes.txt", line)]


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("The code is juniper-4782.", "juniper-4782"),
        ("There are 4831 items.", "4831"),
        ("There are 4,831 items.", "4,831"),
        ("It costs 12.50 EUR.", "12.50"),
        ("It was on 2025-03-04.", "2025-03-04"),
        ("It was on 4 March 2025.", "4 March 2025"),
        ("It was on 3 March 2024.", "3 March 2024"),
        ("At 14:45.", "14:45"),
        ("Write to eve@example.com.", "eve@example.com"),
        ("See https://example.com/c.", "https://example.com/c"),
        ("MAX_TRIES is set", "MAX_TRIES"),
        ("the variable retryTotal", "retryTotal"),
        ("in docs/z.md", "docs/z.md"),
        ('It says "the gate never opens".', "the gate never opens"),
        ("Use `rm -rf build`.", "rm -rf build"),
        ('{"code": "juniper-1", "list": [17]}', "juniper-1"),
        ('{"total": 99}', "99"),
    ],
)
def test_a_fact_that_is_nowhere_is_missing(answer: str, missing: str) -> None:
    assert check(answer).missing == (missing,)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "The gate opens at dawn.",
        "There are 3 of them, e.g. the first and the 2nd.",
        "1. one\n2. two\n12. twelve",
        "It reads and/or writes; read/write access on GitHub in JavaScript.",
        "12 + 30 = 42",  # shown and right; its parts are looked up
        "It is called a.md, in docs/b.md.",
        "There are 17 items.",
        "I read notes.txt.",
        "A well-known, 5-digit, self-made thing: it's done.",
        "Tags are <think>, `</think>` and <br/>.",
        "The token is [secret], the other [secret:github-token \u2026a1b2].",
        "# 12 Heading\n\n- item",
    ],
)
def test_what_is_no_fact_or_can_be_counted_is_not_reported(answer: str) -> None:
    assert check(answer, task="Add 12 and 30. What does notes.txt say?").missing == ()


CODE = "class Store(Base):\n    def parse_config(self, path, strict=True):\n        return None\n\ndef main(): ...\n"


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("`parse_config()` joins them.", ()),
        ("`parse_config(path)`", ()),
        ("`Store.parse_config(path, strict=True)`", ()),
        ("`Store.parse_config()`, or Store.parse_config() for short", ()),
        ("`self.parse_config` and `Store::parse_config`", ()),
        ("`load_config()` joins them.", ("load_config()",)),
        ("`Store.load_config()`", ("Store.load_config()",)),
        ("`parse_conf()` and `parse_conf(path)`", ("parse_conf()", "parse_conf(path)")),
        ("`self.parse_conf`, Store.parse_conf", ("self.parse_conf", "Store.parse_conf")),
        ("`parse_config(folder)`", ("parse_config(folder)",)),
        ("`parse_config(strict=False)`", ("parse_config(strict=False)",)),
        ("`app.settings`", ("app.settings",)),  # a word that may stand anywhere
        ("`store.toml`", ("store.toml",)),
        ("`parse_config.py`", ("parse_config.py",)),
    ],
)
def test_a_function_is_known_by_its_name_and_those_of_its_arguments(answer: str, missing: tuple[str, ...]) -> None:
    assert having_read("app.py", CODE, "Review app.py.").check(answer).missing == missing


def test_what_the_task_says_needs_no_source() -> None:
    assert check("PORT_9 is not in app.toml.", task="Find PORT_9 in app.toml") == Grounding()


@pytest.mark.parametrize(
    ("answer", "missing"),
    [("17 + 8 = 25", ()), ("17 + 8 = 26", ("26",)), ("17 * 8 is 136", ()), ("17 - 8 + 2 = 13", ("13",))],
)
def test_only_a_shown_and_right_calculation_counts(answer: str, missing: tuple[str, ...]) -> None:
    assert check(answer).missing == missing


@pytest.mark.parametrize(("items", "missing"), [(11, ("12",)), (12, ()), (13, ("12",))])
def test_a_count_of_the_answers_own_items_is_right(items: int, missing: tuple[str, ...]) -> None:
    assert check("There are 12:\n" + "\n".join("- item" for _ in range(items))).missing == missing


def test_a_count_of_a_results_lines_is_right() -> None:
    evidence = Evidence("How many files?")
    evidence.add("fs list_directory", "\n".join(f"[FILE] {letter}.md" for letter in "abcdefghijk"))

    assert evidence.check("There are 11 files.").missing == ()
    assert evidence.check("There are 13 files.").missing == ("13",)


def test_text_inside_json_is_read_without_its_escapes() -> None:
    evidence = having_read("srv get", json.dumps({"text": 'path "C:\\data\\x.txt"\nkey-17 here'}), "Read it")

    assert evidence.check('It says key-17, in C:/data/x.txt, and "key-17 here".').missing == ()


def test_a_source_names_place_and_line() -> None:
    assert str(Source("juniper-4781", "notes.txt", 3)) == "juniper-4781 \u2190 notes.txt:3"


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ('{"path": "a.md"}', "a.md"),
        ('{"file_path": "b.md", "limit": 3}', "b.md"),
        ('{"query": "x"}', "fs search"),
        ("", "fs search"),
        ("not JSON", "fs search"),
        ("[1]", "fs search"),
    ],
)
def test_a_call_is_named_by_its_path(arguments: str, where: str) -> None:
    assert where_of("fs", "search", arguments) == where


@pytest.mark.parametrize(
    ("task", "answer", "missing"),
    [
        ("What is 17 + 25?", "42", ()),
        ("What is 17 + 25?", "It is 425.", ()),
        ("What is 17 + 25?", "It is 43.", ("43",)),
        ("Add 120 and 4.5.", "124.5", ()),
    ],
)
def test_the_result_of_two_numbers_of_the_task_is_right(task: str, answer: str, missing: tuple[str, ...]) -> None:
    assert Evidence(task).check(answer).missing == missing


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("价格是1,254.50欧元。", ("1,254.50",)),
        ("价格是1,234.50欧元。", ()),
        ("price,1277.50", ("1277.50",)),
        ("192.168.0.17", ("192.168.0.17",)),
        ("192.168.0.71, Version 3.11.7", ()),
        (r"C:\Users\bob\a.txt", (r"C:\Users\bob\a.txt",)),
        ("id:juniper-4871", ("juniper-4871",)),
        ("id=juniper\u20114781 in my\u2011file.md:12", ()),
    ],
)
def test_facts_are_looked_up_whatever_stands_around_them(answer: str, missing: tuple[str, ...]) -> None:
    evidence = Evidence("What is in a.md?")
    evidence.add(
        "a.md", "price: 1,234.50 EUR\nip: 192.168.0.71\npython 3.11.7\nid: juniper-4781\nsee my-file.md, line 12"
    )

    assert evidence.check(answer).missing == missing


def test_file_is_told_from_a_particle_that_is_written_to_its_name() -> None:
    evidence = Evidence("a.md의 색상은?")
    evidence.add_call("fs", "read_text_file", '{"path": "a.md"}', "teal")

    assert (evidence.coverage("a.md의 색상은?"), evidence.coverage("b.md의 색상은?")) == ("", "did not open b.md")


def listing(count: int) -> str:
    return "\n".join(f"[FILE] note{number}.md" for number in range(count)) + "\n[DIR] old"


@pytest.mark.parametrize(
    ("task", "read", "coverage"),
    [
        ("Summarize all files in docs", 2, "read 2 of 3 files in docs"),
        ("Summarize every note in docs", 1, "read 1 of 3 files in docs"),
        ("Summarize all files in docs", 3, ""),
        ("Summarize all files in docs", 0, "read 0 of 3 files in docs"),
        ("How large are all files in docs?", 0, ""),
        ("Fasse alle Dateien in docs zusammen.", 2, "read 2 of 3 files in docs"),
        ("What does note0.md say?", 1, ""),
    ],
)
def test_what_was_not_read_is_said_where_the_task_is_about_all_files(task: str, read: int, coverage: str) -> None:
    evidence = Evidence(task)
    evidence.add_call("fs", "list_directory", '{"path": "docs"}', listing(3))
    for number in range(read):
        evidence.add_call("fs", "read_text_file", json.dumps({"path": f"docs/note{number}.md"}), "text")
    evidence.add_call("fs", "read_text_file", '{"path": "docs/note2.md"}', "no such file", is_error=True)

    assert evidence.coverage(task) == coverage


@pytest.mark.parametrize(
    ("arguments", "coverage"),
    [
        ('{"path": "docs/one.txt"}', "did not open two.md"),
        ('{"paths": ["one.txt", "C:\\\\docs\\\\TWO.md"]}', ""),
        ('{"command": "cat one.txt two.md"}', ""),
        ('{"path": "both.txt", "content": "' + "x" * 500 + ' one.txt two.md"}', "did not open one.txt, two.md"),
        ('{"path": "both.txt", "content": "one.txt two.md"}', "did not open one.txt, two.md"),
        ("[1]", "did not open one.txt, two.md"),
    ],
)
def test_file_that_the_task_names_and_no_call_was_about_is_said(arguments: str, coverage: str) -> None:
    task = "Join one.txt and docs/two.md, e.g. as in Node.js on example.com."
    evidence = Evidence(task)
    evidence.add_call("fs", "do_it", arguments, "done")
    evidence.add_call("fs", "read_file", '{"path": "two.md"}', "no such file", is_error=True)
    evidence.add_call("fs", "list_directory", '{"path": "."}', "[FILE] one.txt\n[FILE] two.md")

    assert evidence.coverage(task) == coverage


def test_file_that_could_not_be_changed_is_not_said_to_be_unread() -> None:
    evidence = Evidence("Write out.md")
    evidence.add("fs", "something")
    evidence.add_failed_change('{"path": "docs/out.md", "content": "x"}')

    assert evidence.coverage("Write out.md") == ""


@pytest.mark.parametrize(
    ("task", "unread"),
    [
        ("Read a.txt. Write a new file both.txt with its line.", ("a.txt",)),
        ("Read a.txt and create the file 'both.txt'.", ("a.txt",)),
        ("Write the first line of it to both.txt.", ("both.txt",)),
        ("Write the line to both.txt.", ()),
        ("Save it as both.txt, after a.txt.", ("a.txt",)),
        ("Write what a.txt and both.txt say.", ("a.txt", "both.txt")),
    ],
)
def test_a_file_that_is_still_to_be_made_need_not_be_read(task: str, unread: tuple[str, ...]) -> None:
    assert Evidence(task).unread(task) == unread


def test_a_named_file_was_not_opened_where_no_tool_was_called() -> None:
    assert Evidence("x").coverage("Read one.txt") == "did not open one.txt"
    continued = Evidence("x")
    continued.add_earlier_call('{"path": "docs/one.txt"}')
    assert continued.coverage("Read one.txt and two.txt") == "did not open two.txt"
    assert Evidence("x").coverage("Read all files") == ""


def test_file_that_a_result_tells_of_was_opened() -> None:
    evidence = Evidence("x")
    evidence.add_call("git", "git_show", '{"revision": "HEAD"}', "diff --git a/one.txt b/one.txt")

    assert evidence.coverage("What changed in one.txt?") == ""


def test_several_files_may_be_read_by_one_call() -> None:
    evidence = Evidence("All files")
    evidence.add_call("fs", "list_directory", "{}", listing(3))
    evidence.add_call("fs", "read_multiple_files", '{"paths": ["note0.md", "note1.md"]}', "text")

    assert evidence.coverage("Read all files") == "read 2 of 3 files in ."


def test_what_a_call_that_worked_was_given_needs_no_source() -> None:
    evidence = Evidence("Write it")
    evidence.add_call("fs", "write_file", '{"path": "out/new_1.md", "content": "x-77"}', "done")
    evidence.add_call("fs", "write_file", '{"path": "out/new_2.md"}', "denied", is_error=True)

    assert evidence.check("I wrote x-77 to out/new_1.md and out/new_2.md.").missing == ("out/new_2.md",)


words = st.text(alphabet="abcdeXYZ0123456789-_./:,'\"`*()[]{} \n\u20ac\u201c\u201d\u00d7=+", max_size=80)


@given(words, words)
def test_what_was_read_to_the_letter_is_never_missing(text: str, more: str) -> None:
    assert having_read("x", f"{more}\n{text}\n{more}", "task").check(text).missing == ()


@given(words, words)
def test_any_text_can_be_checked(answer: str, seen: str) -> None:
    evidence = having_read("x", seen, seen)
    grounding = evidence.check(answer)

    assert not {source.fact for source in grounding.sources} & set(grounding.missing)


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("1 234 567 people", ()),
        ("1.2 million people", ()),
        ("1.23 million people", ()),
        ("about 1 million people", ()),
        ("1.24 million people", ("1.24 million",)),
        ("1 234 568 people", ("1 234 568",)),
        ("lines 12 345", ()),
        ("version 3.11", ()),
        ("10 lines", ("10",)),
    ],
)
def test_numbers_are_found_grouped_rounded_and_as_the_beginning_of_a_version(
    answer: str, missing: tuple[str, ...]
) -> None:
    evidence = having_read("a.txt", "people: 1,234,567\nlines 12 and 345\nPython 3.11.10\n" + "x\n" * 40, "How many?")

    assert evidence.check(answer).missing == missing


def test_an_answer_that_is_a_json_text_is_no_quotation() -> None:
    assert check('"The code is juniper-4781 and nothing else."').missing == ()


def test_only_numbers_of_the_task_itself_are_calculated_with() -> None:
    evidence = Evidence("Today is 2026-11-30. Folder 1.\nWhich value has it?", "Which value has it?")
    evidence.add("a.txt", "size: 73")

    assert evidence.check("The value is 10.").missing == ("10",)


@pytest.mark.parametrize(
    ("answer", "missing"),
    [("It is 2426.", ("max_retries",)), ("max_retries is not set.", ()), ("There is no such setting.", ())],
)
def test_a_name_that_the_task_asks_about_must_stand_in_a_result(answer: str, missing: tuple[str, ...]) -> None:
    task = "Which value does the setting max_retries have in server.ini?"
    assert having_read("server.ini", "wait = 2426\nport = 80", task, task).check(answer).missing == missing


@pytest.mark.parametrize(
    "task",
    [
        "Read my_notes.txt.",
        "Read src/my_module/a.py.",
        'Answer like this: {"total_amount": 0}',
        "Rename old_name to new_name.",
        "Say it in words.",
    ],
)
def test_names_of_files_and_of_keys_and_names_that_were_written_are_no_such_names(task: str) -> None:
    evidence = Evidence(task, task)
    evidence.add_call("fs", "edit", '{"path": "a.py", "old": "old_name", "new": "new_name"}', "done")

    assert evidence.check("All done.").missing == ()


CONTACTS = "Emil\n  phone: 778158\n\nLena\n  phone: 315291\n  fax: 738403\n"


@pytest.mark.parametrize(
    ("answer", "missing"),
    [("The fax number of Emil is 738403.", ("Emil with 738403",)), ("Emil has the phone 778158 and no fax.", ())],
)
def test_a_number_in_the_record_of_another_is_said(answer: str, missing: tuple[str, ...]) -> None:
    task = "What is the fax number of Emil in the file contacts.txt?"
    assert having_read("contacts.txt", CONTACTS, task, task).check(answer).missing == missing


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("Which numbers do Emil and Lena have?", CONTACTS),
        ("Which fax number is in the file?", CONTACTS),
        ("What is the fax of Emil?", "Emil, 778158, fax 738403\nLena, 315291\n"),
        ("What is the fax of Emil?", "Emil\n" + "text\n" * 20 + "\nfax 738403"),
    ],
)
def test_records_are_compared_only_where_the_task_names_one_of_them(task: str, text: str) -> None:
    assert having_read("contacts.txt", text, task, task).check("It is 738403.").missing == ()


@pytest.mark.parametrize(
    "piece",
    ["a", "1", "_", "a_", "a.", "1.", "1+", "1,", "1-", "{", '"', "`", "(", "\u201c", "fs__read", "'", "=", "**", "|"],
)
def test_a_long_text_of_one_piece_is_looked_through_in_linear_time(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    evidence = Evidence(text, text)
    for tool in ("read_text_file", "list_directory"):
        evidence.add_call("fs", tool, '{"path": "a"}', text)
    facts = 'the number 12345 and "a long quoted text here" in foo.py'
    assert evidence.check(facts).missing == ("12345", "a long quoted text here", "foo.py")
    Evidence("", "").check(text)
    assert not evidence.coverage("Read a.")


def test_a_diff_that_was_copied_in_one_line_is_read_word_by_word() -> None:
    evidence = Evidence("Rename it.")
    evidence.add("a.py", "-import MAPLE_LIMIT\n+import JUNIPER_LIMIT\n@@ -3 +3 @@\n-print(MAPLE_LIMIT)")
    answer = "Done: @@ -1 +1 @@-import MAPLE_LIMIT+import JUNIPER_LIMIT@@ -3 +3 @@-print(MAPLE_LIMIT)"

    assert evidence.check(answer).missing == ()


def test_a_name_of_the_task_is_not_missing_where_nothing_was_read() -> None:
    assert Evidence("Repeat the word quartz-3336.", "Repeat the word quartz-3336.").check("quartz-3336").missing == ()


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("The sum is 103896.", ()),
        ("That makes 1038.96 EUR, or 103,896 cents.", ("1038.96",)),
        ("The difference is 9,330.", ()),
        ("One is 83.5 % of the other.", ()),
        ("One is 83.52 % of the other.", ()),
        ("One is 84.5 % of the other.", ("84.5",)),
        ("The average is 51,948.", ()),
        ("The sum is 103897.", ("103897",)),
    ],
)
def test_what_two_numbers_give_that_were_read_is_right(answer: str, missing: tuple[str, ...]) -> None:
    evidence = having_read("numbers.txt", "47283\n56613\n", "Add the numbers in numbers.txt.")

    assert evidence.check(answer).missing == missing


def test_the_results_of_several_calls_may_be_added_up() -> None:
    evidence = Evidence("What do the three orders cost together?")
    for price in (1_204, 3_377, 918):
        evidence.add("shop price", f"The order costs {price} EUR.")

    assert evidence.check("Together 5,499 EUR.").missing == ()
    assert evidence.check("Together 5,498 EUR.").missing == ("5,498",)


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("All together: 20,500.", ()),
        ("The open ones: 10,300.", ()),
        ("The average of the open ones is 3433.33.", ()),
        ("The open ones: 12,400.", ("12,400",)),
    ],
)
def test_a_column_and_its_rows_with_a_word_of_the_task_may_be_added_up(answer: str, missing: tuple[str, ...]) -> None:
    rows = [("open", 4_100), ("done", 7_150), ("open", 2_083), ("done", 3_050), ("open", 4_117)]
    evidence = Evidence("What is the total of the open orders?")
    evidence.add("orders.csv", "state,amount\n" + "\n".join(f"{state},{amount}" for state, amount in rows))

    assert evidence.check(answer).missing == missing


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("42 pieces in all, 21 on average.", ()),
        ("43 pieces in all.", ("43",)),
        (r"\boxed{42}", ()),
        ("About 1,235 EUR, to be exact 1234.5.", ()),
        ("About 1,236 EUR.", ("1,236",)),
    ],
)
def test_a_table_within_a_text_is_added_up_and_numbers_are_rounded(answer: str, missing: tuple[str, ...]) -> None:
    evidence = Evidence("How many pieces are there, and for how much?")
    evidence.add(
        "a.md",
        "price: 1,234.50 EUR\ndate: 2026-03-04\n| name | qty |\n|---|---|\n| bolt | 12 |\n| nut | 30 |\n-a = 7\n",
    )

    assert evidence.check(answer).missing == missing


def test_from_many_numbers_no_two_are_chosen_to_fit() -> None:
    evidence = Evidence("How long is it?")
    evidence.add("log.txt", "\n".join(f"{number} of {number * number}" for number in range(11, 60)))

    assert evidence.check("It is 73 long.").missing == ("73",)


@pytest.mark.parametrize(
    ("task", "line", "missing"),
    [
        ("Which file defines the function render_61?", "a.py:9: print(render_61(4))", ("a definition of render_61",)),
        ("Which file defines the function render_61?", "a.py:9: def render_61(x):", ()),
        ("Which file defines the function render_61?", "a.c:9: static int render_61(int x) {", ()),
        ("Where is render_61 defined?", "a.py:9: render_61 = partial(draw, 4)", ()),
        ("Where is render_61 defined?", "a.py:9: if render_61 == 4:", ("a definition of render_61",)),
        ("Where is render_61 called?", "a.py:9: print(render_61(4))", ()),
        ("How is render_61 defined?", "render_61 is the sum of both", ()),
    ],
)
def test_a_place_where_a_name_is_only_used_does_not_define_it(task: str, line: str, missing: tuple[str, ...]) -> None:
    evidence = having_read("fs search", line, task, task)

    assert evidence.check("It is in line 9.").missing == missing
    assert evidence.check("It is not defined anywhere.").missing == ()


@pytest.mark.parametrize(
    ("task", "answer", "absent"),
    [
        ("Who made the commit that adds the spruce?", "Dora", ("spruce",)),
        ("Who made the commit that adds the spruce?", "No commit adds the spruce.", ()),
        ("Who made the commit that adds the maple?", "Dora", ()),  # it stands in a result
        ("Who made the commit that adds spruces?", "Dora", ()),  # the words are the model's
    ],
)
def test_what_no_commit_has_is_absent_from_an_answer_that_does_not_say_so(
    task: str, answer: str, absent: tuple[str, ...]
) -> None:
    evidence = having_read("git log", "Dora: Add the maple", task, task)
    evidence.add_found_nowhere(["spruce", "maple"])

    assert evidence.check(answer).absent == absent


@pytest.mark.parametrize(
    ("task", "missing"),
    [
        ("Tell me the badge number of Chen.", ("Chen",)),
        ("What is Chen's badge number?", ("Chen",)),
        ("Tell me the badge number of Kofi.", ()),
        ("How many badges of Monday are there?", ()),
        ("Tell me the number of Badge holders.", ()),
        ("Tell me the number in the file of Chen.txt.", ()),
        ("What is the badge number for Section 3?", ()),
        ("Tell me the badge number of Chen Kofi.", ()),
        ("Tell me the badge number of Chen Wei.", ("Chen",)),
        ("Tell me the number for Badges.", ()),
        ("What is the badge number of Project Kofi?", ()),
        ("What is the default number for Windows?", ()),
    ],
)
def test_a_number_for_a_person_who_stands_in_no_result_is_that_of_another(task: str, missing: tuple[str, ...]) -> None:
    evidence = Evidence(task, task)
    evidence.add_call("memory", "search", '{"query": "Chen"}', "[]")
    evidence.add("memory read_graph", '{"name": "Kofi", "badge": 7872}')

    assert evidence.check("7872").missing == missing
    assert evidence.check("There is no number 7872 for that name.").missing == ()


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        ("It is juniper-4781.", ()),
        ("It is juniper-478.", ("juniper-478",)),
        ("It is in src/juniper-478.", ("src/juniper-478",)),
        ("The version is v1.2.34.", ()),
        ("The version is v1.2.3.", ("v1.2.3",)),
        ("The commit is 2fdfab2.", ()),
    ],
)
def test_a_code_that_is_cut_within_its_number_is_another(answer: str, missing: tuple[str, ...]) -> None:
    evidence = having_read("a.txt", "juniper-4781\n1.2.34\n2fdfab2917d03b", "What is it?", "What is it?")

    assert evidence.check(answer).missing == missing


LOG = """Commit history:
Commit: 2fdfaba2
Date: 2025-06-15 17:06:40
Message: Add the thistle

Commit: 85b31d5c
Date: 2025-06-15 15:06:40
Message: Add the raven
"""


@pytest.mark.parametrize(
    ("task", "answer", "doubts"),
    [
        ("What is the message of the last commit?", "Add the raven", ("not of the newest: add the raven",)),
        ("What is the message of the last commit?", "Add the thistle", ()),
        ("What is the message of the last commit?", "Add the thistle, after `Add the raven`", ()),
        (
            "What is the message of the first commit?",
            "It is 'Add the thistle'.",
            ("not of the oldest: add the thistle",),
        ),
        ("First read the log. Which commit adds a raven?", "85b31d5c: Add the raven", ()),
        ("List the last two commits.", "Add the raven", ()),
        ("Which commit adds the raven?", "Add the raven", ()),
    ],
)
def test_a_value_of_a_record_with_another_date_is_said(task: str, answer: str, doubts: tuple[str, ...]) -> None:
    assert having_read("git log", LOG, task, task).doubts(answer, ()) == doubts


@pytest.mark.parametrize(
    ("answer", "doubts"), [("8734", ("did not calculate with 8722",)), ("17456", ()), ("It is unknown.", ())]
)
def test_a_number_of_the_task_that_was_left_out_is_said(answer: str, doubts: tuple[str, ...]) -> None:
    task = "Add 7678 and 1056. Then add 8722 to the sum."
    evidence = Evidence(task, task)
    evidence.add_call("math", "add", '{"a": 7678, "b": 1056}', "8734")

    assert evidence.doubts(answer, evidence.check(answer).sources) == doubts


@pytest.mark.parametrize(
    ("answer", "doubts"),
    [
        ("Dora, Goran, Kofi", ("also in new.txt: Dora, Kofi",)),
        ("- Goran\n- Kofi", ("also in new.txt: Kofi",)),
        ("Goran", ()),
        ("Only in old.txt: Goran. Only in new.txt: Dora", ()),
    ],
)
def test_items_that_the_task_excludes_are_said(answer: str, doubts: tuple[str, ...]) -> None:
    task = "Which names are in old.txt but not in new.txt?"
    evidence = Evidence(task, task)
    evidence.add("old.txt", "Goran\nKofi\n")
    evidence.add("new.txt", "Dora\nKofi\n")

    assert evidence.doubts(answer, ()) == doubts


@pytest.mark.parametrize(
    ("arguments", "coverage"),
    [
        ('{"path": "a.txt", "edits": [{"oldText": "", "newText": "b.txt"}]}', "did not open b.txt"),
        ('{"source": "a.txt", "destination": "b.txt"}', ""),
    ],
)
def test_a_new_name_must_have_been_given_to_a_call_as_a_name(arguments: str, coverage: str) -> None:
    evidence = Evidence("Rename the file a.txt to b.txt.")
    evidence.add_call("fs", "do_it", arguments, "done: b.txt")

    assert evidence.coverage("Rename the file a.txt to b.txt.") == coverage


def test_a_change_that_was_made_though_nothing_was_found_is_a_doubt() -> None:
    evidence = Evidence("x")
    evidence.add_blind_change("town.txt")

    assert evidence.doubts("Hana's Town", ()) == ("changed town.txt though nothing was found before",)


@pytest.mark.parametrize("text", ["1" * 1_000_001, f"0.{'0' * 1_000_001}1"])
def test_a_number_of_any_length_ends_no_run(text: str) -> None:
    assert having_read("a.txt", text, "What is the code?").check(f"It is 4831, not {text}.").missing[0] == "4831"
