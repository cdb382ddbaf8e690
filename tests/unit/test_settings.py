"""Every variable is read as users write it, and an invalid value is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.errors import SettingsError
from lmstudio_bridge.settings import Settings, normalize_root_url, read_settings

CWD = Path("/project")
TOKEN = "sk-lm-abcdefgh:abcdefghijklmnopqrst"


def read(**environ: str) -> Settings:
    return read_settings({"XDG_STATE_HOME": "/state", **environ}, cwd=CWD)


# -- the address ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("http://127.0.0.1:1234", "http://127.0.0.1:1234"),
        ("http://127.0.0.1:1234/", "http://127.0.0.1:1234"),
        ("http://127.0.0.1:1234/v1", "http://127.0.0.1:1234"),
        ("http://127.0.0.1:1234/v1/", "http://127.0.0.1:1234"),
        ("http://127.0.0.1:1234//v1//", "http://127.0.0.1:1234"),
        ("http://127.0.0.1:1234/api/v1", "http://127.0.0.1:1234"),
        ("http://127.0.0.1:1234/api/v1/", "http://127.0.0.1:1234"),
        ("http://127.0.0.1:1234/api/v0", "http://127.0.0.1:1234"),
        ("  http://127.0.0.1:1234/v1 \n", "http://127.0.0.1:1234"),
        ("127.0.0.1:1234", "http://127.0.0.1:1234"),
        ("127.0.0.1:1234/v1", "http://127.0.0.1:1234"),
        ("localhost", "http://localhost"),
        ("http://localhost/v1", "http://localhost"),
        ("HTTP://LocalHost:1234/v1", "http://LocalHost:1234"),
        ("https://lm.example.com/v1", "https://lm.example.com"),
        ("https://lm.example.com/lmstudio/v1", "https://lm.example.com/lmstudio"),
        ("https://lm.example.com/lmstudio/api/v1/", "https://lm.example.com/lmstudio"),
        ("https://lm.example.com/lmstudio/", "https://lm.example.com/lmstudio"),
        ("https://lm.example.com/myv1", "https://lm.example.com/myv1"),
        ("http://lm.example.com:1234/v1?x=1#y", "http://lm.example.com:1234"),
        ("http://[::1]:1234/v1", "http://[::1]:1234"),
        ("[::1]:1234", "http://[::1]:1234"),
        ("http://[fe80::1]", "http://[fe80::1]"),
        ("http://bücher.local", "http://bücher.local"),
        ("http://" + "x" * 63 + ".local.", "http://" + "x" * 63 + ".local."),
    ],
)
def test_an_address_is_normalized(text: str, root: str) -> None:
    assert normalize_root_url(text) == root
    assert read(LMSTUDIO_BASE_URL=text).root_url == root
    assert normalize_root_url(root) == root


@pytest.mark.parametrize(
    "text",
    [
        "ftp://127.0.0.1",
        "ws://127.0.0.1:1234",
        "http://",
        "http:///v1",
        "http://:1234",
        "http:127.0.0.1",
        "http:/127.0.0.1:1234",
        "http://127.0.0.1:0",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:abc",
        "http://my host:1234",
        "http://[::1",
        "http://here..there:1234",
        "http://.local",
        "http://" + "x" * 64 + ".local",
        "http://b\ue000cher.local",
        "::1",
        "/v1",
        "{{URL}}",
    ],
)
def test_an_invalid_address_is_refused_and_the_variable_named(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(LMSTUDIO_BASE_URL=text)

    assert caught.value.message == f"LMSTUDIO_BASE_URL is not an http or https address: {text!r}."
    assert "http://127.0.0.1:1234/v1" in caught.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        "http://me:secret@127.0.0.1:1234",
        "http://secret@127.0.0.1",
        "me:secret@127.0.0.1",
        "ftp://me:secret@host",
        "http://me:secret@host:99999",
    ],
)
def test_an_address_with_a_password_is_refused_without_telling_it(text: str) -> None:
    with pytest.raises(SettingsError, match="LMSTUDIO_BASE_URL contains a user name or a password") as caught:
        read(LMSTUDIO_BASE_URL=text)

    assert "secret" not in caught.value.explain()


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        root = normalize_root_url(text)
    except SettingsError:
        return
    assert root.startswith(("http://", "https://"))


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({}, "http://127.0.0.1:1234"),
        ({"LMSTUDIO_HOST": "10.0.0.5"}, "http://10.0.0.5:1234"),
        ({"LMSTUDIO_PORT": "4321"}, "http://127.0.0.1:4321"),
        ({"LMSTUDIO_PORT": "65534"}, "http://127.0.0.1:65534"),
        ({"LMSTUDIO_PORT": "65535"}, "http://127.0.0.1:65535"),
        ({"LMSTUDIO_HOST": "10.0.0.5", "LMSTUDIO_PORT": "4321"}, "http://10.0.0.5:4321"),
        ({"LMSTUDIO_HOST": "10.0.0.5:99", "LMSTUDIO_PORT": "4321"}, "http://10.0.0.5:99"),
        ({"LMSTUDIO_HOST": "http://10.0.0.5"}, "http://10.0.0.5:1234"),
        ({"LMSTUDIO_HOST": "http://10.0.0.5/v1/"}, "http://10.0.0.5:1234"),
        ({"LMSTUDIO_HOST": "https://10.0.0.5:99/v1"}, "https://10.0.0.5:99"),
        ({"LMSTUDIO_HOST": "http://10.0.0.5/lm/v1", "LMSTUDIO_PORT": "4321"}, "http://10.0.0.5:4321/lm"),
        ({"LMSTUDIO_HOST": "::1"}, "http://[::1]:1234"),
        ({"LMSTUDIO_HOST": "[::1]"}, "http://[::1]:1234"),
        ({"LMSTUDIO_HOST": "[::1]:99"}, "http://[::1]:99"),
        ({"LMSTUDIO_HOST": " "}, "http://127.0.0.1:1234"),
        ({"LMSTUDIO_BASE_URL": "http://a", "LMSTUDIO_HOST": "b", "LMSTUDIO_PORT": "x"}, "http://a"),
    ],
    ids=str,
)
def test_host_and_port_are_read_where_there_is_no_address(environ: dict[str, str], root: str) -> None:
    assert read(**environ).root_url == root


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({"LMSTUDIO_PORT": "x"}, "LMSTUDIO_PORT"),
        ({"LMSTUDIO_PORT": "0"}, "LMSTUDIO_PORT"),
        ({"LMSTUDIO_PORT": "65536"}, "LMSTUDIO_PORT"),
        ({"LMSTUDIO_PORT": "-1"}, "LMSTUDIO_PORT"),
        ({"LMSTUDIO_HOST": "http://10.0.0.5:abc"}, "LMSTUDIO_HOST"),
        ({"LMSTUDIO_HOST": "10.0.0.5:abc"}, "LMSTUDIO_HOST"),
        ({"LMSTUDIO_HOST": "my host"}, "LMSTUDIO_HOST"),
        ({"LMSTUDIO_HOST": "me:secret@host"}, "LMSTUDIO_HOST"),
    ],
    ids=str,
)
def test_an_invalid_host_or_port_is_refused_and_named(environ: dict[str, str], variable: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(**environ)

    assert caught.value.message.startswith(variable)
    assert "secret" not in caught.value.explain()


# -- the rest -------------------------------------------------------------------------------------------------------


def test_without_variables_everything_has_a_default() -> None:
    assert read() == Settings.model_validate({"project": CWD, "home": Path("/state/lmstudio-bridge")})


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("DEFAULT_MODEL", "qwen/qwen3-4b", "default_model", "qwen/qwen3-4b"),
        ("DEFAULT_MODEL", "", "default_model", None),
        ("CLAUDE_PROJECT_DIR", "/elsewhere", "project", Path("/elsewhere")),
        ("LMSTUDIO_BRIDGE_MCP_CONFIG", "/a/mcp.json", "mcp_config", Path("/a/mcp.json")),
        ("MCP_JSON_PATH", "/a/mcp.json", "mcp_config", Path("/a/mcp.json")),
        ("LMSTUDIO_BRIDGE_TRUST", "*", "trust", ("*",)),
        ("LMSTUDIO_BRIDGE_TRUST", " files, My Notes ,,", "trust", ("files", "My Notes")),
        ("LMSTUDIO_BRIDGE_FRESH", "browser, shell", "fresh", ("browser", "shell")),
        ("LMSTUDIO_BRIDGE_SERVER_IDLE", "0", "server_idle", 0.0),
        ("LMSTUDIO_BRIDGE_MAX_SERVERS", "1", "max_servers", 1),
        ("LMSTUDIO_BRIDGE_PASS_ENV", "AWS_*,TZ", "pass_env", ("AWS_*", "TZ")),
        ("LMSTUDIO_BRIDGE_MAX_ACCESS", "Read", "max_access", "read"),
        ("LMSTUDIO_BRIDGE_DEPTH", "1", "depth", 1),
        ("LMSTUDIO_BRIDGE_HOME", "~/x", "home", Path("~/x").expanduser()),
        ("LMSTUDIO_BRIDGE_CONNECT_TIMEOUT", "1.5", "connect_timeout", 1.5),
        ("LMSTUDIO_BRIDGE_FIRST_BYTE_TIMEOUT", " 30 ", "first_byte_timeout", 30.0),
        ("LMSTUDIO_BRIDGE_BETWEEN_BYTES_TIMEOUT", "30", "between_bytes_timeout", 30.0),
        ("LMSTUDIO_BRIDGE_RETRY_ATTEMPTS", "1", "retry_attempts", 1),
        ("LMS_MAX_RETRIES", "10", "retry_attempts", 10),
        ("LMSTUDIO_BRIDGE_MODEL_TTL", "0", "model_ttl", 0.0),
        ("LMSTUDIO_BRIDGE_SERVER_START_TIMEOUT", "9", "server_start_timeout", 9.0),
        ("LMSTUDIO_BRIDGE_TOOL_TIMEOUT", "9", "tool_timeout", 9.0),
        ("LMSTUDIO_BRIDGE_RUN_TIMEOUT", "86400", "run_timeout", 86400.0),
        ("LMSTUDIO_BRIDGE_HEARTBEAT", "0.2", "heartbeat", 0.2),
        ("LMSTUDIO_BRIDGE_LOG_LEVEL", "DEBUG", "log_level", "debug"),
    ],
)
def test_a_variable_sets_its_field(variable: str, value: str, field: str, expected: object) -> None:
    assert read(**{variable: value}) == read().model_copy(update={field: expected})


def test_relative_paths_start_at_the_working_folder() -> None:
    """Otherwise the parents of a project given as "." could not be searched."""
    settings = read(CLAUDE_PROJECT_DIR=".", MCP_JSON_PATH="a/mcp.json", LMSTUDIO_BRIDGE_HOME="state")

    assert [settings.project, settings.mcp_config, settings.home] == [CWD, CWD / "a" / "mcp.json", CWD / "state"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LMSTUDIO_BRIDGE_CONNECT_TIMEOUT", "0"),
        ("LMSTUDIO_BRIDGE_CONNECT_TIMEOUT", "-1"),
        ("LMSTUDIO_BRIDGE_CONNECT_TIMEOUT", "soon"),
        ("LMSTUDIO_BRIDGE_FIRST_BYTE_TIMEOUT", "nan"),
        ("LMSTUDIO_BRIDGE_BETWEEN_BYTES_TIMEOUT", "inf"),
        ("LMSTUDIO_BRIDGE_RUN_TIMEOUT", "86401"),
        ("LMSTUDIO_BRIDGE_MODEL_TTL", "-1"),
        ("LMSTUDIO_BRIDGE_RETRY_ATTEMPTS", "0"),
        ("LMSTUDIO_BRIDGE_RETRY_ATTEMPTS", "11"),
        ("LMSTUDIO_BRIDGE_RETRY_ATTEMPTS", "2.5"),
        ("LMS_MAX_RETRIES", "many"),
        ("LMSTUDIO_BRIDGE_LOG_LEVEL", "loud"),
        ("LMSTUDIO_BRIDGE_MAX_ACCESS", "all"),
        ("CLAUDE_PROJECT_DIR", "~nobody-of-that-name/x"),
        ("LMSTUDIO_BRIDGE_HOME", "~nobody-of-that-name/x"),
        ("MCP_JSON_PATH", "~nobody-of-that-name/x"),
    ],
)
def test_an_invalid_value_is_refused_and_the_variable_named(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(**{variable: value})

    assert variable in caught.value.message
    assert "Input" not in caught.value.message, "those are pydantic's words"
    assert variable in caught.value.remedy


def test_the_first_of_two_variables_wins_unless_it_is_empty() -> None:
    assert read(LMSTUDIO_BRIDGE_MCP_CONFIG="/a", MCP_JSON_PATH="/b").mcp_config == Path("/a")
    assert read(LMSTUDIO_BRIDGE_MCP_CONFIG=" ", MCP_JSON_PATH="/b").mcp_config == Path("/b")


def test_a_setting_cannot_be_changed() -> None:
    settings = read()

    with pytest.raises(ValueError, match="frozen"):
        settings.root_url = "http://elsewhere"


# -- the token ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["LM_API_TOKEN", "LMSTUDIO_API_KEY", "LMSTUDIO_BRIDGE_API_TOKEN"])
def test_the_token_is_read_and_never_shown(variable: str) -> None:
    settings = read(**{variable: f" {TOKEN}\n"})

    assert settings.api_token is not None
    assert settings.api_token.get_secret_value() == TOKEN
    for shown in (repr(settings), str(settings), settings.model_dump_json(), f"{settings.model_dump()}"):
        assert "sk-lm" not in shown


@pytest.mark.parametrize("token", ["sk-lm-ä", "sk-lm-a b", "sk-lm-a\nb", "sk-lm-\x7f"])
def test_a_token_that_no_header_can_hold_is_refused_without_telling_it(token: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(LMSTUDIO_API_KEY=token)

    assert "LMSTUDIO_API_KEY" in caught.value.message
    assert "sk-lm" not in caught.value.explain()


def test_a_bad_value_elsewhere_does_not_show_the_token() -> None:
    with pytest.raises(SettingsError) as caught:
        read(LM_API_TOKEN=TOKEN, LMSTUDIO_BRIDGE_LOG_LEVEL="loud")

    assert "sk-lm" not in caught.value.explain()
    assert "sk-lm" not in f"{caught.value.__cause__}"


# -- the home folder ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "home"),
    [
        ({"XDG_STATE_HOME": "/state"}, "/state/lmstudio-bridge"),
        ({}, "~/.local/state/lmstudio-bridge"),
        ({"XDG_STATE_HOME": "/state", "LMSTUDIO_BRIDGE_HOME": "/mine"}, "/mine"),
    ],
    ids=str,
)
def test_journals_go_to_the_users_state_folder(environ: dict[str, str], home: str) -> None:
    assert read_settings(environ, cwd=CWD).home == Path(home).expanduser()


@pytest.mark.parametrize(
    ("value", "said"),
    [("0", "must be greater than 0."), ("1e9", "must be at most 86,400."), ("x", "must be a number.")],
)
def test_bounds_are_said_as_people_write_numbers(value: str, said: str) -> None:
    with pytest.raises(SettingsError, match=f"it {said}"):
        read_settings({"LMSTUDIO_BRIDGE_RUN_TIMEOUT": value}, cwd=Path("/"))
