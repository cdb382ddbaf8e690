"""What composite tools do with texts: find, compare, replace, add up, calculate."""

from __future__ import annotations

import pytest

from lmstudio_bridge.agent import text_operations

ORDERS = 'customer,amount,day\nMeyer,10.50,2\nAbel,"1,200.00",3\nMeyer,0.30,4\nAbel,,5\n'


def test_lines_are_found_in_any_letter_case_and_by_any_of_the_texts() -> None:
    text = "one\n  # TODO: mend\nthree\nfixme later\n"
    assert list(text_operations.find_lines(text, text_operations.holds_any(["todo", "FIXME"]))) == [
        (2, "# TODO: mend"),
        (4, "fixme later"),
    ]


@pytest.mark.parametrize(
    ("line", "is_definition"),
    [("def load(path):", True), ("class Load:", True), ("LOAD = 3", True), ("x = load(y)", False), ("reload", False)],
)
def test_definitions_are_told_from_uses(line: str, is_definition: bool) -> None:
    assert text_operations.defines(line, ["load"]) is is_definition


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("// TODO", "# TODO: mend", ["'TODO'"]),
        ("all TODOs", "# todo: mend", ["'TODO'"]),
        ("gate, opening", "the opening of the gate", ["'gate' and 'opening'"]),
        ("function parse_1579", "def parse_1579(text):", ["'parse_1579'"]),
        ("the gate", "a door", []),
    ],
)
def test_a_text_that_is_nowhere_as_written_is_looked_for_by_its_words(text: str, line: str, found: list[str]) -> None:
    assert [words for words, matches in text_operations.looser_searches(text) if matches(line)][:1] == found


def test_a_word_is_replaced_where_it_is_whole_and_the_rest_is_counted() -> None:
    done = text_operations.replace_all("MAX = 1\nMAX_SIZE = MAX\n", "MAX", "LIMIT")
    assert (done.text, done.count, done.left) == ("LIMIT = 1\nMAX_SIZE = LIMIT\n", 2, 1)


def test_a_part_of_words_is_replaced_where_it_is_nowhere_whole() -> None:
    assert text_operations.replace_all("colours, colourful", "colour", "color").text == "colors, colorful"


def test_a_replacement_is_taken_to_the_letter() -> None:
    assert text_operations.replace_all("a.b a", "a", r"\1$&").text == r"\1$&.b \1$&"


def test_changed_lines_are_shown_without_context() -> None:
    assert text_operations.show_changes("a.py", "x\ny\nz\n", "x\nY\nz\n") == "+++ a.py\n@@ -2 +2 @@\n-y\n+Y"


def test_settings_are_compared_by_name_whatever_their_order() -> None:
    first = ("a.ini", "[web]\nport = 80\nhost = x\n[db]\nport = 1\n")
    second = ("b.ini", "[db]\nport = 2\n[web]\nhost = x\nport = 80\ndebug = yes\n")
    assert text_operations.find_differences(first, second).lines == [
        "db.port: 1 in a.ini, 2 in b.ini",
        "web.debug: in b.ini but not in a.ini (yes)",
    ]


def test_json_objects_are_compared_by_name() -> None:
    found = text_operations.find_differences(
        ("a.json", '{"a": 1, "b": {"c": [1]}}'), ("b.json", '{"b": {"c": [2]}, "a": 1}')
    )
    assert found.lines == ["b.c: [1] in a.json, [2] in b.json"]


def test_other_texts_are_compared_by_line() -> None:
    found = text_operations.find_differences(("a.md", "One.\nTwo.\nThree.\n"), ("b.md", "One.\n2.\nThree.\nFour.\n"))
    assert (found.count, found.lines) == (2, ["a.md:2: Two.\n  b.md:2: 2.", "in b.md but not in a.md: line 4: Four."])


def test_lists_are_compared_whatever_their_order() -> None:
    found = text_operations.find_differences(("a.txt", "Ada\nBo\nCy\n"), ("b.txt", "Dan\nCy\nAda\n"))
    assert (found.count, found.lines) == (2, ["in a.txt but not in b.txt: Bo", "in b.txt but not in a.txt: Dan"])


def test_tables_are_compared_by_their_first_column() -> None:
    found = text_operations.find_differences(
        ("a.csv", "item,price\nnut,1\nbolt,2\n"), ("b.csv", "item,price\nbolt,3\nnut,1\npin,4\n")
    )
    assert found.lines == ["bolt price: 2 in a.csv, 3 in b.csv", "pin price: in b.csv but not in a.csv (4)"]


def test_the_first_row_of_a_table_without_a_heading_is_a_row() -> None:
    found = text_operations.find_differences(("a.csv", "nut,1\nbolt,2\n"), ("b.csv", "nut,1\nbolt,3\n"))
    assert found.lines == ["bolt: 2 in a.csv, 3 in b.csv"]
    found = text_operations.find_differences(("a.csv", "nut,1,x\nbolt,2,y\n"), ("b.csv", "nut,1,x\nbolt,2,z\n"))
    assert found.lines == ["bolt in column 3: y in a.csv, z in b.csv"]


def test_a_value_in_place_of_a_column_is_the_condition() -> None:
    orders = "id,customer,amount\n1,Dora,4\n2,Kofi,2\n3,Kofi,9\n"
    assert text_operations.add_up(orders, "kofi") == "2 of 3 rows where customer=Kofi. Totals: id 5, amount 11"
    assert text_operations.add_up(orders, "amount", "1=1") == text_operations.add_up(orders, "amount")
    for column in ("Max", "total"):
        with pytest.raises(ValueError, match=f"no column '{column}'"):
            text_operations.add_up(orders, column)
    with pytest.raises(ValueError, match="no column '4'"):  # a number may stand anywhere
        text_operations.add_up(orders, "4")


def test_equal_texts_have_no_difference() -> None:
    assert text_operations.find_differences(("a", "x\n"), ("b", "x\n")) == text_operations.Differences(0, ())


@pytest.mark.parametrize(
    ("first", "second", "left_out"),
    [
        ("port = 1\n# one\n", "port = 1\n# two\n", "comments"),
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', "order or spacing"),
        ("Ada\nBo\n", "Bo\nAda\n", "order or spacing"),
        ("Some words.\n", "Some words.\r\n", "line ends"),
    ],
)
def test_what_was_not_compared_is_said_where_the_texts_differ_in_it(first: str, second: str, left_out: str) -> None:
    assert text_operations.find_differences(("a", first), ("b", second)) == text_operations.Differences(0, [], left_out)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('{"a.b": 1}', '{"a": {"b": 1}}'),
        ('{"a": 1, "a": 2}', '{"a": 2}'),
        ('{"a":' * 3_000 + "1" + "}" * 3_000, '{"a": 1}'),
    ],
)
def test_json_that_names_cannot_tell_apart_differs(first: str, second: str) -> None:
    assert text_operations.find_differences(("a.json", first), ("b.json", second)).count


def test_a_setting_with_much_white_space_is_read_at_once() -> None:
    value = f"a{' ' * 100_000}b"
    assert text_operations.find_differences(("a", f"k = {value}"), ("b", "k = 1")).lines == [f"k: {value} in a, 1 in b"]


@pytest.mark.parametrize(
    ("lines", "refused"), [(text_operations.MAX_COMPARED, False), (text_operations.MAX_COMPARED + 1, True)]
)
def test_texts_that_take_too_long_are_not_compared(lines: int, refused: bool) -> None:
    long = ("a", "\n".join(["a line of prose"] * lines))
    if refused:
        with pytest.raises(ValueError, match="too long"):
            text_operations.find_differences(long, ("b", "other"))
    else:
        assert text_operations.find_differences(long, ("b", long[1])) == text_operations.Differences(0, ())


def test_the_line_ends_of_a_text_are_kept() -> None:
    assert text_operations.replace_all("a\r\nb\r\n", "a\nb", "x\ny\nz").text == "x\r\ny\r\nz\r\n"


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("a,b\nx,1e9999999\ny,2\n", "Total of b: 2 (1 of 2 rows; 1 without a number left out)"),
        (f"a,b\nx,{10**99}\ny,0.5\n", f"Total of b: {10**99}.5 (2 of 2 rows)"),
        ("a,b\n" + ',"' * 50_000 + "1\n", "1 of 1 rows"),
        ('"a, b";c\nx;1,5\n', "Total of c: 1.5 (1 of 1 rows)"),
    ],
)
def test_hostile_numbers_and_quotes_are_no_trouble(text: str, total: str) -> None:
    assert text_operations.add_up(text, text.partition("\n")[0][-1]).startswith(total)


def test_a_cell_that_is_too_long_is_an_error_in_words() -> None:
    with pytest.raises(ValueError, match="could not be read as CSV"):
        text_operations.add_up(f"a,b\n{'x' * 200_000},1\n", "b")


def test_cells_are_shown_in_one_short_line() -> None:
    text = f'who,"sum\nof all {"x" * 100}"\nA,1\n'
    assert max(map(len, text_operations.add_up(text, f"sum\nof all {'x' * 100}").splitlines())) < 120


def test_a_column_is_added_up_exactly() -> None:
    assert text_operations.add_up(ORDERS, "Amount", "true") == (
        "Total of amount: 1210.80 (3 of 4 rows; 1 without a number left out)\nBy customer: Abel 1200.00, Meyer 10.80"
    )


@pytest.mark.parametrize(
    ("text", "column", "total"),
    [
        ("90920\n20165\n", "0", "Total of 1: 111085 (2 of 2 rows)"),
        ("90920\n20165\n", "", "Total of 1: 111085 (2 of 2 rows)"),
        ("1;20\n2;30\n", "2", "Total of 2: 50 (2 of 2 rows)"),
        ("2025,2026\n1,20\n2,30\n", "2026", "Total of 2026: 50 (2 of 2 rows)"),  # a heading after all
    ],
)
def test_numbers_without_a_heading_are_added_up(text: str, column: str, total: str) -> None:
    assert text_operations.add_up(text, column, "true").splitlines()[0] == total


def test_the_highest_and_lowest_numbers_of_files_are_told_with_their_files() -> None:
    texts = {"a.txt": "by: Ana\nscore: 900", "b.txt": "by: Bo\nscore: 1,100", "c.txt": "by: Cy\nscore: 900\n"}
    [told] = text_operations.find_extremes(texts)
    assert told == "score: highest 1100 in b.txt, lowest 900 in a.txt, c.txt"

    many = {f"{number}.txt": f"score: {number // 9}" for number in range(10)}
    assert text_operations.find_extremes(many) == ["score: highest 1 in 9.txt, lowest 0 in 9 files"]


@pytest.mark.parametrize(
    "texts",
    [
        ["n: 1", "n: 2"],  # two can be told apart
        ["n: 1", "n: 2", "m: 3"],
        ["n: 1", "n: 2", "n: three"],
        ["v: 1.9", "v: 1.10", "v: 1.2"],  # versions
        ["price: 10 $", "price: 9 \u20ac", "price: 8 $"],
        ["one", "two", "three"],
        ["a: 1\nb: 1\nc: 1\nd: 1"] * 3,
    ],
)
def test_no_numbers_are_ranked_that_may_not_be_comparable(texts: list[str]) -> None:
    assert text_operations.find_extremes({str(number): text for number, text in enumerate(texts)}) == []


@pytest.mark.parametrize(("where", "count"), [("", "4 of 4 rows"), ("name=meyer", "2 of 4 rows where customer=Meyer")])
def test_rows_are_counted_without_a_column(where: str, count: str) -> None:
    assert text_operations.add_up(ORDERS, " ", where) == count


@pytest.mark.parametrize("column", ["customer", "status"])
def test_rows_are_counted_where_the_column_has_no_numbers_or_is_not_there(column: str) -> None:
    assert text_operations.add_up(ORDERS, column, "customer=Abel") == "2 of 4 rows where customer=Abel. Totals: day 8"
    assert text_operations.add_up(ORDERS, column, "customer=Meyer").endswith("Totals: amount 10.80, day 6")


@pytest.mark.parametrize(
    "where", ["customer=meyer", "Customer = 'Meyer'", "customer == Meyer", "customer_name = 'Meyer'", "Meyer"]
)
def test_only_rows_that_are_asked_for_are_added_up(where: str) -> None:
    assert text_operations.add_up(ORDERS, "amount", where).endswith(": 10.80 (2 of 4 rows)")


@pytest.mark.parametrize(
    ("column", "where", "says"),
    [
        ("price", "", "the columns are: customer, amount, day"),
        ("total", "", "There is no column 'total'"),  # it is not for us to say which one is meant
        ("amount", "client=Zorn", "no column 'client'"),
        ("amount", "customer=Zorn", "The values of customer are: Abel, Meyer"),
        ("amount", "Zorn", "the columns are"),
        ("amount", "day > 0", "'day > 0' is not column=value; the columns are: customer, .*Leave where empty"),
        ("amount", "day >= 3", "'day >= 3' is not column=value"),
        ("amount", "highest", "'highest' is not column=value"),
    ],
)
def test_a_total_that_cannot_be_had_says_what_there_is(column: str, where: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        text_operations.add_up(ORDERS, column, where)


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("12.5*(3+4)", "12.5*(3+4) = 87.5"),
        ("0.1+0.2", "0.1+0.2 = 0.3"),
        ("1,234 + 1", "1234 + 1 = 1235"),
        ("3 \u00d7 4 =", "3 * 4 = 12"),
        ("99999999999.99*10", "99999999999.99*10 = 999999999999.9"),
        ("2^10", "2**10 = 1024"),
        ("sum(1, 2, 3)", "sum(1, 2, 3) = 6"),
        ("round(10/3, 2)", "round(10/3, 2) = 3.33"),
    ],
)
def test_expressions_are_calculated(expression: str, result: str) -> None:
    assert text_operations.calculate(expression) == result


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1/0",
        "9**9**9**9",
        "open",
        "'a'*10",
        "[1]*9",
        "().__class__",
        "__import__('os')",
        "1 if",
        "1" * 501,
        "1<2",
        "3999999**999999",
        "1e400",
    ],
)
def test_what_is_no_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        text_operations.calculate(expression)


@pytest.mark.parametrize(
    ("first", "second", "missing"),
    [
        ("Ada\nBo\nCy\n", "Cy\nDan\nAda\n", ["Bo"]),
        ("A=\nB=2\nC=3\n", "C=4\n", ["A", "B = 2"]),
        ('{"a": 1, "b": 2}', '{"a": 3}', ["b = 2"]),
        ("One.\nTwo lines.\n", "One.\n", ["Two lines."]),
        ("A=1\n", "A=2\nB=1\n", []),
    ],
)
def test_what_only_the_first_of_two_files_has_is_found(first: str, second: str, missing: list[str]) -> None:
    assert text_operations.find_missing(first, second) == missing


SWITCHES = '{\n  "debug": true,\n  "verbose": true,\n  "size": 5\n}\n'


@pytest.mark.parametrize(
    ("task", "changed"),
    [
        ("In settings.json, set debug to false. Tell me the size.", '"debug": false,\n  "verbose": true'),
        ("Turn verbose off.", '"debug": true,\n  "verbose": false'),
        ("Set debug and verbose to false.", None),
        ("Set all to false.", None),
        ("Set all but debug to false.", None),
    ],
)
def test_a_text_is_replaced_in_the_one_line_that_the_task_names(task: str, changed: str | None) -> None:
    replaced = text_operations.replace_where(SWITCHES, "true", "false", task)

    assert (replaced is None) if changed is None else (replaced is not None and changed in replaced.text)
