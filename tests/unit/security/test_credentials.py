"""Which values of a configuration are secrets."""

from __future__ import annotations

import pytest

from lmstudio_bridge.security.secrets import (
    secrets_of_arguments,
    secrets_of_environment,
    secrets_of_headers,
    secrets_of_url,
)

SECRET_NAMES = (
    "API_KEY GITHUB_TOKEN client_secret PGPASSWORD DB_PASSWD SSH_PASSPHRASE DB_PASS PASS MYSQL_PWD GITHUB_PAT "
    "AWS_CREDENTIALS BASIC_AUTH COOKIE SENTRY_DSN PRIVATE_PEM DBPASS dbPass PASSCODE CONNECTION_STRING CONN_STR "
    "MYPWD DB_PW OTP MY_PAT GCP_CREDS BEARER JWT MNEMONIC JWT_SIGNING WEBHOOK_SIGNATURE PIN_CODE pinCode SALT "
    "HASH_SALT MASTER MASTER_KEY LICENSE_KEY XOXB SLACK_XOXP"
)
OTHER_NAMES = (
    "HOME PATH PWD OLDPWD BYPASS PATTERN ALLOWED_DIR LANG PATH_TO GIT_AUTHOR_NAME COMPASS PASSENGERS "
    "SHIPPING_CODE BASALT SPARK_MASTER"
)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        *((name, "hunter22", True) for name in SECRET_NAMES.split()),
        *((name, "/srv/data", False) for name in OTHER_NAMES.split()),
        ("MAX_TOKENS", "100000", False),
        ("TOKEN", "100000", True),
        ("MASTER", "correcthorse", True),
        ("MASTER", "spark://h:7077", False),
        ("SESSION_TIMEOUT", "600000", False),
        ("AUTH_MODE", "required", False),
        ("TOKEN_FILE", "/run/secrets/token", False),
        ("GOOGLE_APPLICATION_CREDENTIALS", "C:\\keys\\google.json", False),
        ("AWS_SECRET_ACCESS_KEY", "/abc/def+ghi", True),  # base64 may start with a slash
    ],
)
def test_a_variable_is_secret_by_its_name_unless_its_value_is_a_number_a_word_or_a_path(
    name: str, value: str, found: bool
) -> None:
    assert (secrets_of_environment({name: value}) == [value]) is found


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("postgres://me:hunter22@db/main", ["hunter22"]),
        ("https://:hunter22@host", ["hunter22"]),
        ("https://me:p%40ssword@host/mcp", ["p%40ssword", "p@ssword"]),
        ("https://x/mcp?api_key=hunter22&page=2", ["hunter22"]),
        ("https://host/api/mcp/s/0aF3kd93jd02kd93jd/mcp", ["0aF3kd93jd02kd93jd"]),
        ("https://host/9b2e4c1a-77d0-4a51-9d6e-0c1f2a3b4c5d/sse", ["9b2e4c1a-77d0-4a51-9d6e-0c1f2a3b4c5d"]),
        ("https://host/v1/model-context-protocol/servers", []),
        ("https://host/reports-of-2026/page", []),
        ("https://host:8080/a@b", []),
        ("https://me@host", []),
        ("https://host/a:b@c", []),
        ("http://[half", []),
    ],
)
def test_passwords_and_secret_parameters_of_a_url_are_secrets(url: str, found: list[str]) -> None:
    assert secrets_of_url(url) == found
    assert secrets_of_environment({"DATABASE_URL": url}) == found


def test_headers_are_secret_but_for_those_that_never_hold_one() -> None:
    headers = {"Accept": "application/json", "X-Custom": "hunter22", "authorization": "Bearer hunter33"}

    assert secrets_of_headers(headers) == ["hunter22", "Bearer hunter33"]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["server", "--api-key", "hunter22", "/srv/data"], ["hunter22"]),
        (["server", "--api-key=hunter22"], ["hunter22"]),
        (["run", "-e", "GITHUB_TOKEN=hunter22", "image"], ["hunter22"]),
        (["mcp-remote", "https://x", "--header", "Authorization: Bearer hunter22"], ["Bearer hunter22"]),
        (["postgres://me:hunter22@db/main"], ["hunter22"]),
        (["--url", "https://x/mcp?api_key=hunter22&page=2"], ["hunter22"]),
        (["run", "--env=API_KEY=hunter22"], ["hunter22"]),
        (["run", "-eAPI_KEY=hunter22"], ["hunter22"]),
        (["--header=Authorization: Bearer hunter22"], ["Bearer hunter22"]),
        (
            ["--config", '{"apiKey": "hunter22", "env": [{"DBPASS": "hunter33", "LANG": "C"}]}'],
            ["hunter22", "hunter33"],
        ),
        (['--config={"apiKey": "hunter22"}'], ["hunter22"]),
        (["--dsn-text", "Server=db;Uid=me;Pwd=hunter22;"], ["hunter22", "Server=db;Uid=me;Pwd=hunter22;"]),
        (["Server=db;Uid=me;Pwd=hunter22;"], ["hunter22"]),
        (["-u", "me:hunter22"], ["hunter22"]),
        (["-phunter22"], ["hunter22"]),
        (["-pSECRET"], ["SECRET"]),
        (["-c", "mysql -u me -phunter22 db"], ["hunter22"]),
        (["-p127.0.0.1:8080:80", "-p8080:8080", "-p65000", "-project", "-ppython3.11", "-p/srv/data1"], []),
        (["-profile2", "-port8080", "-pylint2", "-preset2x", "-pRELEASE", "-pPOSTGRES"], []),
        (["--master", "local[4]", "--master=spark://h:7077", "master=main", "--master", "release"], []),
        *(
            ([f"-p{it}"], [it])
            for it in ["arsenal1886", "riverside9", "roger123", "rod2024", "reston9x", "HUNTERTWO", "ort8080y"]
        ),
        (["/usr/bin/mysql", "-port8080", "-pRELEASE"], ["ort8080", "RELEASE"]),
        (["-c", "mysqldump -u me -pass1 db"], ["ass1"]),
        *(([it, "-phunter"], ["hunter"]) for it in ("mysql.exe", "mysqladmin", "/opt/bin/mariadb-dump", "sshpass")),
        *(([it, "-phunter", "-p3306:3306"], []) for it in ("mysql-mcp", "mysql_mcp_server", "MYSQL_HOST")),
        (["mysql", "-protocol", "tcp", "-prefix", "a", "-p127.0.0.1:3306:3306", "-phunter"], ["hunter"]),
        *(([it, "-password", "hunter22"], ["hunter22"]) for it in ("mysql", "mysql-mcp")),
        *((["--master", it], [it]) for it in ("tr0ub4dor.3", "aB3/xyz9==", "correct-horse-battery", "correcthorse")),
        (["--master", "10.0.0.1:5050", "--master", "db.example.com", "--master=yarn"], []),
        (["-c", "npx server --api-key hunter22"], ["hunter22"]),
        (["https://x/mcp#token=hunter22"], ["hunter22"]),
        (["https://abcdef0123456789abcd@sentry.example/1"], ["abcdef0123456789abcd"]),
        (["--config", '{"port": 80'], []),
        (["--token", "--verbose"], []),
        (["--root", "/srv/data", "--port", "8080"], []),
        (["--token-file", "/srv/token"], []),
        (["-y", "@scope/token-server", "."], []),
    ],
)
def test_secrets_of_a_command_line_are_told_by_their_names(arguments: list[str], found: list[str]) -> None:
    assert secrets_of_arguments(arguments) == found
