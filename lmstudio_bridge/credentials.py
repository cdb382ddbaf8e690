"""Which values of a configuration are secrets, and which must stay readable in results."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

_SECRET_NAME = re.compile(
    r"key(?!board)|token|secret|passw|passphrase|(?:^|[_-])pass\b|_pwd\b|credential|auth(?!ors?(?:\b|_)|ority)|cookie|session|private"
    r"|dsn|_pat\b",
    re.IGNORECASE,
)
_LIMIT_NAME = re.compile(r"tokens\b|max|limit|count|size|length|ttl|timeout|expir|port", re.IGNORECASE)
_FILE_NAME = re.compile(r"(?:file|path|dir|folder|sock|credentials)\Z", re.IGNORECASE)
_FILE = re.compile(r"(?:~?/|\.{1,2}/|[A-Za-z]:[\\/]).*")
_WORDS = re.compile(
    r"bearer|basic|oauth2?|enabled|disabled|required|optional|default|production|development", re.IGNORECASE
)
_HONEST_HEADER = re.compile(
    r"accept(?:-encoding|-language)?|cache-control|content-type|host|mcp-protocol-version|origin|referer|user-agent",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
_FLAG = re.compile(r"--?[A-Za-z][\w-]*")
_NAMED = re.compile(r"-{0,2}([A-Za-z][\w-]*)\s*[=:]\s*(?!/)(\S.*)", re.DOTALL)


def secrets_of_entry(
    *, env: Mapping[str, str], headers: Mapping[str, str], url: str, arguments: Iterable[str]
) -> list[str]:
    """The secrets in the entry of a server."""
    return [
        *secrets_of_environment(env),
        *secrets_of_headers(headers),
        *secrets_of_url(url),
        *secrets_of_arguments(arguments),
    ]


def secrets_of_environment(env: Mapping[str, str]) -> list[str]:
    """The values whose variables' names say that they are secret, and passwords inside URLs.

    Not all values: a folder that a server is given in `env` must stay readable in its results.
    """
    named = [value for name, value in env.items() if _is_secret(name, value)]
    return [*named, *(secret for value in env.values() for secret in _in_url(value))]


def secrets_of_headers(headers: Mapping[str, str]) -> list[str]:
    """The values of all headers but those that never hold a secret."""
    return [value for name, value in headers.items() if not _HONEST_HEADER.fullmatch(name)]


def secrets_of_arguments(arguments: Iterable[str]) -> list[str]:
    """What a command line gives away: `--api-key X`, `--token=X`, `-e API_KEY=X`, `--header "Authorization: X"`."""
    found: list[str] = []
    flag = ""
    for argument in arguments:
        found += _in_url(argument)
        if (named := _NAMED.fullmatch(argument)) and _is_secret(named[1], named[2]):
            found.append(named[2])
        elif flag and not argument.startswith("-") and _is_secret(flag, argument):
            found.append(argument)
        flag = argument.lstrip("-") if _FLAG.fullmatch(argument) else ""
    return found


def secrets_of_url(url: str) -> list[str]:
    """The password of an address, and those of its parameters whose names say that they are secret."""
    return list(_in_url(url))


def _in_url(text: str) -> Iterator[str]:
    if "://" not in text:
        return
    for password in _URL_PASSWORD.findall(text):
        yield from {password, unquote(password)}
    try:
        query = urlsplit(text).query
    except ValueError:
        return
    yield from (value for name, value in parse_qsl(query) if _is_secret(name, value))


def _is_secret(name: str, value: str) -> bool:
    if not _SECRET_NAME.search(name) or _WORDS.fullmatch(value.strip()):
        return False
    if value.strip().isdecimal() and _LIMIT_NAME.search(name):
        return False
    return not (_FILE_NAME.search(name) and _FILE.fullmatch(value.strip()))
