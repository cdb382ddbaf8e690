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
_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth|cookie|session|private|dsn|_pat\b", re.IGNORECASE)


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
        """`text` with every known secret replaced by a mark."""
        return self._pattern.sub(MARK, text) if self._pattern else text

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


def secrets_of_environment(env: Mapping[str, str]) -> list[str]:
    """The values whose variables' names say that they are secret.

    Not all values: a folder that a server is given in `env` must stay readable in its results.
    """
    return [value for name, value in env.items() if _SECRET_NAME.search(name)]
