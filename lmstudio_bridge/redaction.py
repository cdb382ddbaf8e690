"""Secrets out of texts, before they reach a log, a journal, a result or the model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

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


def secrets_of_environment(env: Mapping[str, str]) -> list[str]:
    """The values whose variables' names say that they are secret.

    Not all values: a folder that a server is given in `env` must stay readable in its results.
    """
    return [value for name, value in env.items() if _SECRET_NAME.search(name)]
