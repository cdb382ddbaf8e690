"""A keyring in the file that TEST_KEYRING names. PYTHON_KEYRING_BACKEND selects it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError


class FileKeyring(KeyringBackend):
    """One file for all entries."""

    priority = 1

    def get_password(self, service: str, username: str) -> str | None:
        return self._entries().get(f"{service}/{username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self._write({**self._entries(), f"{service}/{username}": password})

    def delete_password(self, service: str, username: str) -> None:
        entries = self._entries()
        if entries.pop(f"{service}/{username}", None) is None:
            raise PasswordDeleteError(username)
        self._write(entries)

    @property
    def _path(self) -> Path:
        return Path(os.environ["TEST_KEYRING"])

    def _entries(self) -> dict[str, str]:
        entries: dict[str, str] = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
        return entries

    def _write(self, entries: dict[str, str]) -> None:
        self._path.write_text(json.dumps(entries), encoding="utf-8")
