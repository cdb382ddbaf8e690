"""Secrets out of texts, in every spelling in which they come back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.events import RoundFinished, Warned
from lmstudio_bridge.messages import ToolCall, Usage
from lmstudio_bridge.redaction import MARK, Redactor, secrets_of_environment


@pytest.mark.parametrize(
    ("secrets", "text", "redacted"),
    [
        ([], "hunter22", "hunter22"),
        (["hunter22"], "", ""),
        (["hunter22"], "no secret here", "no secret here"),
        (["hunter22"], "key=hunter22;", "key=[secret];"),
        (["hunter22"], "hunter22 hunter22hunter22", "[secret] [secret][secret]"),
        ([" hunter22\n"], "key=hunter22;", "key=[secret];"),
        (["Bearer hunter22"], "Authorization: Bearer hunter22", "Authorization: [secret]"),
        (["Bearer hunter22"], "the token hunter22 expired", "the token [secret] expired"),
        (['hun"ter\\22'], 'raw hun"ter\\22', "raw [secret]"),
        (['hun"ter\\22'], json.dumps({"key": 'hun"ter\\22'}), '{"key": "[secret]"}'),
        (["hünter22"], json.dumps({"key": "hünter22"}), '{"key": "[secret]"}'),
        (["hünter22"], json.dumps({"key": "hünter22"}, ensure_ascii=False), '{"key": "[secret]"}'),
        (["🗝🗝🗝🗝🗝🗝"], json.dumps("x🗝🗝🗝🗝🗝🗝"), '"x[secret]"'),
        (["line1\nline2"], json.dumps("line1\nline2"), '"[secret]"'),
        (["a.c*e+g"], "abcdefg a.c*e+g", "abcdefg [secret]"),
    ],
)
def test_secret_is_found_in_each_of_its_spellings(secrets: list[str], text: str, redacted: str) -> None:
    assert Redactor(secrets).redact(text) == redacted


@pytest.mark.parametrize(("secret", "found"), [("12345", False), ("123456", True), ("1234567", True)])
def test_value_too_short_to_be_a_secret_is_left_alone(secret: str, found: bool) -> None:
    assert (Redactor([secret]).redact(f"={secret}=") == "=[secret]=") is found


@pytest.mark.parametrize("secrets", [["hunter", "hunter22"], ["hunter22", "hunter"]])
def test_longer_secret_goes_before_the_one_inside_it(secrets: list[str]) -> None:
    assert Redactor(secrets).redact("hunter22 hunter") == "[secret] [secret]"


def test_secrets_that_overlap_leave_nothing_behind() -> None:
    assert Redactor(["abcdef", "defghi", "ghijkl"]).redact("-abcdefghijkl-") == "-[secret]-"


def test_secret_that_is_part_of_the_mark_does_not_tear_it_apart() -> None:
    redactor = Redactor(["secret"])

    assert redactor.redact(redactor.redact("my secret")) == "my [secret]"


def test_fields_of_a_value_are_redacted_however_deep_they_are() -> None:
    call = ToolCall("c1", "fs__login", '{"password": "hunter22"}')
    event = RoundFinished(1, "I use hunter22.", "", (call,), "stop", "tiny", Usage(1, 2, 3), 0.5)

    assert Redactor(["hunter22"]).redact_fields(event) == RoundFinished(
        1,
        "I use [secret].",
        "",
        (ToolCall("c1", "fs__login", '{"password": "[secret]"}'),),
        "stop",
        "tiny",
        Usage(1, 2, 3),
        0.5,
    )


def test_fields_stay_as_they_are_without_secrets() -> None:
    event = Warned("hunter22")

    assert Redactor([]).redact_fields(event) is event


secrets = st.lists(st.text('abé"\\', min_size=6, max_size=8), min_size=1, max_size=4)
texts = st.text('abé"\\', max_size=40)


@given(secrets, texts)
def test_no_secret_is_left_and_a_second_time_changes_nothing(known: list[str], text: str) -> None:
    redactor = Redactor(known)

    once = redactor.redact(text)

    assert not any(secret in part for secret in known for part in once.split(MARK))
    assert redactor.redact(once) == once


@given(secrets, texts)
def test_what_is_left_was_there_before_in_the_same_order(known: list[str], text: str) -> None:
    position = 0
    for part in Redactor(known).redact(text).split(MARK):
        position = text.index(part, position) + len(part)


@given(st.text(min_size=6, max_size=20), st.booleans())
def test_secret_of_any_letters_is_found_inside_json(secret: str, ascii_only: bool) -> None:
    text = json.dumps({"before": [secret], "after": 1}, ensure_ascii=ascii_only)

    assert json.loads(Redactor([secret]).redact(text)) == {"before": [MARK], "after": 1}


@pytest.mark.parametrize(
    "name",
    [
        "API_KEY",
        "GITHUB_TOKEN",
        "client_secret",
        "PGPASSWORD",
        "DB_PASSWD",
        "SSH_PASSPHRASE",
        "DB_PASS",
        "PASS",
        "MYSQL_PWD",
        "GITHUB_PAT",
        "AWS_CREDENTIALS",
        "BASIC_AUTH",
        "COOKIE",
        "SENTRY_DSN",
        "PRIVATE_PEM",
    ],
)
def test_variable_whose_name_says_so_is_a_secret(name: str) -> None:
    assert secrets_of_environment({name: "hunter22"}) == ["hunter22"]


@pytest.mark.parametrize(
    "name", ["HOME", "PATH", "PWD", "OLDPWD", "BYPASS", "PATTERN", "ALLOWED_DIR", "LANG", "PATH_TO"]
)
def test_variable_with_an_honest_name_is_none(name: str) -> None:
    assert secrets_of_environment({name: "/srv/data"}) == []


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("postgres://me:hunter22@db/main", ["hunter22"]),
        ("https://:hunter22@host", ["hunter22"]),
        ("https://host:8080/a@b", []),
        ("https://me@host", []),
        ("https://host/a:b@c", []),
    ],
)
def test_password_inside_a_url_is_a_secret(url: str, found: list[str]) -> None:
    assert secrets_of_environment({"DATABASE_URL": url}) == found
