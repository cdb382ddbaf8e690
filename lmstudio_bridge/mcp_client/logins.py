"""Where the user's logins to MCP servers are kept on this machine; `oauth` makes and uses them."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import filelock

from lmstudio_bridge.files import MEBIBYTE, make_folder, read_bounded, write_file
from lmstudio_bridge.messages import JSONObject, ServerConfig

logger = logging.getLogger(__name__)

_SERVICE = "lmstudio-bridge"  # of our entries in the keyring

Learn: TypeAlias = Callable[[Iterable[str]], None]


class LoginStore:
    """The logins, one file for each address of a server.

    `learn` is told the secrets in those that are used; `told` has them, too.

    What is secret is in the system's keyring if that keeps it, else in the file, which only its owner can read.
    Reading and writing may wait for the user to unlock the keyring.
    """

    def __init__(self, folder: Path, *, learn: Learn) -> None:
        self.told: set[str] = set()
        self._learn = learn
        self._folder = folder

    def learn(self, secrets: Iterable[str]) -> None:
        """Treat these as secrets from now on."""
        found = {secret for secret in secrets if secret}
        self.told |= found
        self._learn(found)

    def has(self, config: ServerConfig) -> bool:
        """Whether runs have a login for this server; the keyring is not asked."""
        return can_sign_in(config) and self.keeps(config.url)

    def keeps(self, url: str) -> bool:
        """Whether there is a login for that address; the user may log out while others use it."""
        return self._path(url).exists()

    def find(self, server: str) -> str:
        """The address of a login that was made under that name; "" if there is none."""
        for path in sorted(self._folder.glob("*.json")):
            public = _read_file(path)
            if public.get("server") == server:
                return str(public.get("url", ""))
        return ""

    def read(self, url: str) -> JSONObject | None:
        """The login for that address; None if there is none, or if it cannot be read, which is logged."""
        path = self._path(url)
        with suppress(OSError):  # as a copy from a backup may have lost its mode
            if path.is_file() and path.stat().st_mode & 0o077:
                path.chmod(0o600)
        try:
            kept: dict[str, Any] = json.loads(read_bounded(path, max_bytes=MEBIBYTE, follow_links=False))
            if entry := kept.pop("keyring_entry", ""):
                kept |= json.loads(_keyring().get_password(_SERVICE, entry) or "{}")
        except FileNotFoundError:
            return None
        except Exception as exc:  # noqa: BLE001  # each keyring has errors of its own
            # Not the error itself: it may quote the file.
            logger.warning("the login in %s cannot be read (%s)", path, type(exc).__name__)
            return None
        return kept

    def write(self, url: str, *, server: str, public: JSONObject, secret: JSONObject) -> bool:
        """Keep a login in place of the one before; whether its secrets are in the keyring.

        `server` is a name by which the user can tell its entry in the keyring.

        Raises:
            OSError: The file cannot be written.
        """
        entry = _read_file(self._path(url)).get("keyring_entry") or f"{server} {secrets.token_hex(4)}"
        in_keyring = _keep_in_keyring(entry, json.dumps(secret))
        content = {**public, "keyring_entry": entry} if in_keyring else {**public, **secret}
        make_folder(self._folder)
        write_file(self._path(url), json.dumps(content).encode(), flush=True)
        return in_keyring

    def forget(self, url: str) -> bool:
        """Delete the login for that address; False if there is none.

        Raises:
            OSError: The file cannot be deleted.
        """
        if entry := _read_file(self._path(url)).get("keyring_entry"):
            with suppress(Exception):  # without its file, an entry that the keyring does not delete is never used
                _keyring().delete_password(_SERVICE, entry)
        try:
            self._path(url).unlink()
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def try_lock(self, url: str) -> Iterator[bool]:
        """Whether this process may renew that login now; where files cannot be locked, it may."""
        lock = filelock.FileLock(
            self._path(url).with_suffix(".lock"), mode=0o600, thread_local=False, fallback_to_soft=False
        )
        may_renew = True
        try:
            lock.acquire(blocking=False)
        except (OSError, NotImplementedError) as exc:  # filelock's Timeout is an OSError
            may_renew = not isinstance(exc, filelock.Timeout)
        try:
            yield may_renew
        finally:
            lock.release()  # no effect if it is not held

    def _path(self, url: str) -> Path:
        return self._folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.json"


def can_sign_in(config: ServerConfig) -> bool:
    """Whether runs use a login for this server: it is remote, and its entry has no `Authorization` header."""
    return config.transport != "stdio" and not any(name.lower() == "authorization" for name in config.headers)


def _read_file(path: Path) -> dict[str, Any]:
    """What the file of a login holds; nothing if it cannot be read."""
    try:
        found = json.loads(read_bounded(path, max_bytes=MEBIBYTE, follow_links=False))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keyring() -> ModuleType:
    # Imported here because it takes 50 ms and looks for all keyrings of the system, which most users never need.
    import keyring

    return keyring


def _keep_in_keyring(entry: str, text: str) -> bool:
    """Whether the keyring has it now. Some systems have none; Windows takes no long text."""
    try:
        _keyring().set_password(_SERVICE, entry, text)
        return bool(_keyring().get_password(_SERVICE, entry) == text)
    except Exception as exc:  # noqa: BLE001  # each keyring has errors of its own
        logger.info("the keyring cannot be used (%s)", type(exc).__name__)
        return False
