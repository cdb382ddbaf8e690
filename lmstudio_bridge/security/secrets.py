"""Which values of a configuration are secret, and what the keys of well-known services look like.

Other values must stay readable in results, such as a folder in `env`. The shapes of keys come from the services' own
pages about their tokens. Each pattern starts with a fixed text, has no part that can match in two ways, and is tried
only if that text occurs: the time is linear to the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from lmstudio_bridge.messages import ServerConfig

_SECRET_NAME = re.compile(
    r"key(?!board)|token|secret|passw|passphrase|passcode|(?<!by)(?<!com)pass\b|_pwd\b|credential|auth(?!ors?(?:\b|_)|ority)|cookie|session|private"
    r"|dsn|(?:\b|_)(?:pat|pw|pin|otp|sig)\b|(?<=\w)(?<!old)pwd\b|creds?\b|bearer|jwt|mnemonic|signature|signing|(?:\b|_)salt\b"
    r"|(?:\b|_)pin_?code\b|\Amaster\Z|(?:\b|_)xox[a-z]\b|conn(?:ection)?[_-]?str",
    re.IGNORECASE,
)
_CONNECTION_NAME = re.compile(r"conn(?:ection)?[_-]?str", re.IGNORECASE)
_LIMIT_NAME = re.compile(r"tokens\b|max|limit|count|size|length|ttl|timeout|expir|port", re.IGNORECASE)
_FILE_NAME = re.compile(r"(?:file|path|dir|folder|sock|credentials)\Z", re.IGNORECASE)
_FILE = re.compile(r"(?:~?/|\.{1,2}/|[A-Za-z]:[\\/]).*")
_PUBLIC_VALUE = re.compile(
    r"bearer|basic|oauth2?|enabled|disabled|required|optional|default|production|development", re.IGNORECASE
)
_PUBLIC_HEADER = re.compile(
    r"accept(?:-encoding|-language)?|cache-control|content-type|host|mcp-protocol-version|origin|referer|user-agent",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
_PASSWORD_PART = re.compile(r"(?:password|passwd|pwd|(?:account|access)key|secret)\s*=\s*([^;\s'\"]+)", re.IGNORECASE)
"""In a connection string: `Server=db;Uid=me;Pwd=hunter22`."""
_TOKEN_PART = re.compile(r"(?=(?:[^0-9]*[0-9]){3})(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9_~-]{16,}")
"""A part of a URL's path that only a key looks like, as in `https://mcp.example.com/s/TOKEN/mcp`."""
_LOGINS = ("u", "user")  # as in curl: name and password with a colon between them
_P_WORDS = (
    r"(?:ackages?|ages?|arallel|arams?|ass(?:word)?|ath|eers?|ids?|ipe|ixels?|lugins?|ool|orts?"
    r"|re(?:cision|fix|set|view)|rint|riority|ro(?:cess|cs|file|gress|ject|mpt|to|tocol|xy)|y|ylint|ytest|python)"
)
_JOINED_PASSWORD = re.compile(
    rf"-p(?!{_P_WORDS}\d+x?\Z|(?:DEBUG|DEFAULT|DEVELOPMENT|POSTGRES|PRODUCTION|RELEASE|STAGING)\Z)"
    r"((?=[^\s\d]*\d)(?=[^\sA-Za-z]*[A-Za-z])[^\s:/=.\\]{6,}|[A-Z]{6,})"
)
"""As in `-phunter22`: no port, path or known word, and no option with a number, such as `-profile2`."""
_MYSQL = re.compile(
    r"(?:.*[/\\])?(?:mysql|mysql(?:admin|binlog|check|dump|import|pump|sh|show|slap)"
    r"|mariadb|mariadb-(?:admin|binlog|check|dump|import|show|slap)|sshpass)(?:\.exe)?",
    re.IGNORECASE,
)
_MYSQL_PASSWORD = re.compile(rf"-p(?!{_P_WORDS}(?:=.*)?\Z|(?:[\d.]+:)?\d+:\d+\Z)(\S{{4,}})")
"""Of these programs it is always one, but for whole options, and ports of a container with such a name."""
_PUBLIC_MASTER = re.compile(
    r"\w*://.*|local(?:\[.*\])?|yarn|mesos|main|master|release|stable|develop(?:ment)?|trunk|true|false|[01]"
    r"|\d+(?:\.\d+){3}|[a-z0-9.-]+:\d{2,5}|(?:[a-z0-9-]+\.)+(?:com|org|net|io|dev|local|internal|lan|example|test)",
    re.IGNORECASE,
)
"""A branch, a host, or a master of Spark."""
_FLAG = re.compile(r"--?[A-Za-z][\w-]*")
_NAMED = re.compile(r"-{0,2}([A-Za-z][\w-]*)\s*[=:]\s*(?!/)(\S.*)", re.DOTALL)


def secrets_of_entry(config: ServerConfig) -> list[str]:
    """The secrets in the configuration of a server."""
    return [
        *secrets_of_environment(config.env),
        *secrets_of_headers(config.headers),
        *secrets_of_url(config.url),
        *secrets_of_arguments((config.command, *config.args)),
    ]


def secrets_of_environment(env: Mapping[str, str]) -> list[str]:
    """The values of variables with secret names, and the secrets in URLs, connection strings and JSON."""
    named = [value for name, value in env.items() if _is_secret(name, value)]
    return [*named, *(secret for value in env.values() for secret in secrets_of_arguments([value]))]


def _secrets_in(text: str) -> list[str]:
    """The secrets in a URL, a connection string, or JSON; none of other text."""
    found = [*secrets_of_url(text), *_PASSWORD_PART.findall(text)]
    if " -" in text:  # a command line, as for `sh -c`
        found += secrets_of_arguments(text.split())
    if text.lstrip()[:1] in ("{", "["):
        with suppress(ValueError, RecursionError):
            found += _secrets_of_json(json.loads(text))
    return found


def _secrets_of_json(value: object) -> Iterator[str]:
    """The values of members with secret names, however deep they are."""
    match value:
        case dict():
            for name, member in value.items():
                if isinstance(member, str) and _is_secret(name, member):
                    yield member
                yield from _secrets_of_json(member)
        case list():
            for member in value:
                yield from _secrets_of_json(member)
        case str():
            yield from secrets_of_url(value)


def secrets_of_headers(headers: Mapping[str, str]) -> list[str]:
    """The values of all headers except those that never contain a secret."""
    return [value for name, value in headers.items() if not _PUBLIC_HEADER.fullmatch(name)]


def secrets_of_arguments(arguments: Iterable[str]) -> list[str]:
    """The secrets in a command line: `--api-key X`, `--token=X`, `-e API_KEY=X`, `--header "Authorization: X"`.

    Also `--env=API_KEY=X`, `--config '{"apiKey": "X"}'` and `-pX`.
    """
    found: list[str] = []
    flag, password = "", _JOINED_PASSWORD
    for argument in arguments:
        found += _secrets_in(argument)
        if _MYSQL.fullmatch(argument):
            password = _MYSQL_PASSWORD
        elif joined := password.fullmatch(argument):
            found.append(joined[1])
        named = _NAMED.fullmatch(argument)
        if named and not _is_secret(named[1], named[2]):
            found += _secrets_in(named[2])
            named = _NAMED.fullmatch(named[2])
        if named and _is_secret(named[1], named[2]):
            found.append(named[2])
        elif flag and not argument.startswith("-") and _is_secret(flag, argument):
            found.append(argument)
        elif flag in _LOGINS and ":" in argument:
            found.append(argument.partition(":")[2])
        flag = argument.lstrip("-") if _FLAG.fullmatch(argument) else ""
    return list(dict.fromkeys(found))


def secrets_of_url(url: str) -> list[str]:
    """The password of a URL, also decoded, parameters with secret names, and parts of the path that look like keys.

    None of other text.
    """
    if "://" not in url:
        return []
    passwords = [
        form for password in _URL_PASSWORD.findall(url) for form in dict.fromkeys((password, unquote(password)))
    ]
    try:
        parts = urlsplit(url)
        query = parse_qsl(f"{parts.query}&{parts.fragment}")
    except ValueError:
        return passwords
    tokens = [part for part in (*parts.path.split("/"), parts.username or "") if _TOKEN_PART.fullmatch(part)]
    return [*passwords, *tokens, *(value for name, value in query if _is_secret(name, value))]


def _is_secret(name: str, value: str) -> bool:
    if not _SECRET_NAME.search(name) or _PUBLIC_VALUE.fullmatch(value.strip()):
        return False
    if name.casefold() == "master" and _PUBLIC_MASTER.fullmatch(value.strip()):
        return False
    if "://" in value and _CONNECTION_NAME.search(name):
        return False  # what is secret in a URL is found there
    if value.strip().isdecimal() and _LIMIT_NAME.search(name):
        return False
    return not (_FILE_NAME.search(name) and _FILE.fullmatch(value.strip()))


_WORD = "[A-Za-z0-9]"
_DASHED = "[A-Za-z0-9_-]"
_TOKEN_CHAR = "[A-Za-z0-9._~+/=-]"  # RFC 6750, 2.1


@dataclass(frozen=True, slots=True)
class KeyShape:
    """One kind of key. Text without any of `starts` contains none. Group 1 of `pattern`, if any, is the key.

    With `in_word` it may follow a letter or a digit.
    """

    kind: str
    starts: tuple[str, ...]
    pattern: str
    in_word: bool = False


def _prefixed(kind: str, prefix: str, rest: str) -> KeyShape:
    return KeyShape(kind, (prefix,), re.escape(prefix) + rest)


_HAS_DIGIT = "(?=[A-Za-z_-]{0,64}[0-9])"  # hyphenated words have none

SHAPES: tuple[KeyShape, ...] = (
    _prefixed("anthropic-key", "sk-ant-", f"{_DASHED}{{16,}}"),
    _prefixed("api-key", "sk-", f"(?:(?:proj|svcacct|admin|or|lm)-{_HAS_DIGIT}{_DASHED}{{16,}}(?::{_DASHED}{{8,}})?"
              f"|{_HAS_DIGIT}{_WORD}{{20,}})"),
    *(_prefixed("github-token", f"gh{kind}_", f"{_WORD}{{20,}}") for kind in "pousr"),
    _prefixed("github-token", "github_pat_", "[A-Za-z0-9_]{20,}"),
    *(_prefixed("gitlab-token", f"gl{kind}-", f"{_HAS_DIGIT}{_DASHED}{{20,}}")
      for kind in ("pat", "dt", "rt", "cbt", "ptt", "soat", "oas")),
    *(_prefixed("slack-token", f"xox{kind}-", "[A-Za-z0-9-]{10,}") for kind in "abceprs"),
    _prefixed("slack-token", "xoxd-", "[A-Za-z0-9%+/=-]{10,}"),
    _prefixed("slack-token", "xapp-", "[A-Za-z0-9-]{10,}"),
    _prefixed("slack-webhook", "hooks.slack.com/services/", "([A-Za-z0-9/]{20,})"),
    *(_prefixed("aws-key", kind, "[A-Z0-9]{16}(?![A-Za-z0-9])") for kind in ("AKIA", "ASIA")),
    KeyShape("aws-secret", ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY", "SecretAccessKey"), (
        r"(?:aws_secret_access_key|AWS_SECRET_ACCESS_KEY|SecretAccessKey)\\?[\"']?\s{0,3}[:=]\s{0,3}\\?[\"']?"
        r"([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+])")),
    KeyShape("azure-key", ("AccountKey=", "SharedAccessKey="), r"Key=([A-Za-z0-9+/=]{32,})", in_word=True),
    _prefixed("google-key", "AIza", f"{_DASHED}{{35}}"),
    _prefixed("google-token", "ya29.", f"{_DASHED}{{20,}}"),
    _prefixed("google-secret", "GOCSPX-", f"{_DASHED}{{20,}}"),
    _prefixed("npm-token", "npm_", f"{_WORD}{{30,}}"),
    _prefixed("pypi-token", "pypi-Ag", f"{_DASHED}{{40,}}"),
    _prefixed("huggingface-token", "hf_", f"{_WORD}{{30,}}"),
    *(_prefixed("stripe-key", kind, f"{_WORD}{{16,}}") for kind in ("sk_live_", "sk_test_", "rk_live_", "rk_test_")),
    _prefixed("sendgrid-key", "SG.", rf"{_DASHED}{{16,}}+\.{_DASHED}{{16,}}"),
    _prefixed("docker-token", "dckr_pat_", f"{_DASHED}{{20,}}"),
    _prefixed("api-key", "gsk_", f"{_WORD}{{30,}}"),  # Groq
    _prefixed("api-key", "tvly-", f"{_HAS_DIGIT}{_DASHED}{{20,}}"),  # Tavily
    KeyShape("jwt", ("eyJ",), (  # matching again within a word would be quadratic
        rf"(?:(?<!{_DASHED})|(?<=\\[nrt])|(?<=%[0-9A-Fa-f]{{2}}))"
        rf"eyJ{_DASHED}{{8,}}+\.{_DASHED}{{8,}}+\.{_DASHED}{{8,}}+"), in_word=True),
    KeyShape("bearer-token", ("earer ",), (
        rf"earer +(?=[A-Za-z._~+/=-]{{0,64}}[0-9])({_TOKEN_CHAR}{{16,}})"), in_word=True),
    KeyShape("basic-login", ("uthorization",), (
        rf"uthorization\\?[\"']?\s{{0,3}}[:=]\s{{0,3}}\\?[\"']?(?:[Bb]asic|[Tt]oken|[Bb]earer) +({_TOKEN_CHAR}{{8,}})"),
        in_word=True),
    KeyShape("private-key", ("PRIVATE KEY",), (
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:[A-Za-z0-9+/=:,.()\s\\]|-(?!----))*+(?:-----END [A-Z0-9 ]{0,60}-----)?"), in_word=True),
    KeyShape("password", ("://",), (
        r"://[^/\s:@\"'<>\\]{0,128}:([^/\s:@\"'<>\\${*][^/\s@\"'<>\\]{0,255})@"), in_word=True),
)  # fmt: skip

_STARTS = [(start, number) for number, shape in enumerate(SHAPES) for start in shape.starts]

# In JSON and URLs, an escape may precede the key, and ends in a letter or a digit.
_WORD_BEFORE = re.compile(r"(?<!\\)[A-Za-z0-9]\Z|\\[^nrtbf]\Z")
_ESCAPE_BEFORE = re.compile(r"%[0-9A-Fa-f]{2}\Z|\\u[0-9A-Fa-f]{4}\Z")
_LONGEST_ESCAPE = 6  # characters


def find_keys(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and kind of every key of a known shape; they may overlap."""
    for number in dict.fromkeys([number for start, number in _STARTS if start in text]):
        shape = SHAPES[number]
        pattern = re.compile(shape.pattern)  # `re` caches it; most processes need few of them
        for match in pattern.finditer(text):
            if shape.in_word or _may_begin(text, match.start()):
                yield *match.span(pattern.groups), shape.kind


def _may_begin(text: str, position: int) -> bool:
    """Whether a key may start here: not in the middle of a word."""
    before = text[max(0, position - _LONGEST_ESCAPE) : position]
    return not _WORD_BEFORE.search(before) or bool(_ESCAPE_BEFORE.search(before))
