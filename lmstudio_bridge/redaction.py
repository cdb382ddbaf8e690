"""Secrets out of texts, before they reach a log, a journal, a result or the model."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

T = TypeVar("T")

MARK = "[secret]"
_MIN_SECRET = 6  # characters; shorter values ("true", "8080") would tear honest text apart
_SECRET_NAME = re.compile(
    r"key|token|secret|passw|passphrase|(?:^|_)pass\b|_pwd\b|credential|auth|cookie|session|private|dsn|_pat\b",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")


class Redactor:
    """Replaces known secret values, also as they stand inside JSON."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spellings: set[str] = set()
        for secret in secrets:
            for value in (secret, secret.strip(), secret.partition(" ")[2].strip()):  # "Bearer abc" → "abc" too
                if len(value) >= _MIN_SECRET:
                    spellings |= {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
        longest_first = sorted(spellings, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if spellings else None

    def redact(self, text: str) -> str:
        """`text` with every known secret replaced by a mark; doing it twice changes nothing."""
        if self._pattern is None or not text:
            return text
        return MARK.join(self._redact_part(part, self._pattern) for part in text.split(MARK))

    def redact_fields(self, value: T) -> T:
        """A frozen dataclass with every text in its fields redacted, nested ones too."""
        if self._pattern is None:
            return value
        redacted: Any = self._redact_any(value)
        return cast(T, redacted)

    def _redact_any(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, tuple):
            return tuple(self._redact_any(item) for item in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return dataclasses.replace(value, **{name: self._redact_any(item) for name, item in fields.items()})
        return value

    @staticmethod
    def _redact_part(text: str, pattern: re.Pattern[str]) -> str:
        """One part between marks. Secrets that overlap go as one, so that none leaves its tail behind."""
        pieces: list[str] = []
        position = 0  # where the text that is not yet taken begins
        match = pattern.search(text)
        while match:
            start, end = match.span()
            search_from = start + 1
            while (match := pattern.search(text, search_from)) and match.start() < end:
                end, search_from = max(end, match.end()), match.start() + 1
            pieces += [text[position:start], MARK]
            position = end
        return "".join([*pieces, text[position:]])


def secrets_of_environment(env: Mapping[str, str]) -> list[str]:
    """The values whose variables' names say that they are secret, and passwords inside URLs.

    Not all values: a folder that a server is given in `env` must stay readable in its results.
    """
    named = [value for name, value in env.items() if _SECRET_NAME.search(name)]
    return [*named, *(password for value in env.values() for password in _URL_PASSWORD.findall(value))]
