"""The names under which the model sees tools: `server__tool`, of `[a-z0-9_]`, at most 64 long, and unique.

LM Studio normalises other names on their way to the model, and dots, hyphens and long names get lost there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container

from lmstudio_bridge.messages import ServerTool

MAX_NAME = 64  # characters
_OTHERS = re.compile(r"[^a-z0-9_]+")


def plain_name(name: str) -> str:
    """A name in the allowed characters, as a model may mean it."""
    return _OTHERS.sub("_", name.split("<|", 1)[0].strip().lower())


def free_name(tool: ServerTool, *, taken: Container[str] = ()) -> str:
    """The name of a tool; cut or taken names end in a digest of the real one."""
    server, plain_tool = plain_name(tool.server).strip("_") or "server", plain_name(tool.name).strip("_") or "tool"
    name = f"{server}__{plain_tool}"
    if len(name) <= MAX_NAME and name not in taken:
        return name
    free, key = name, f"{tool.server}\0{tool.name}".encode("utf-8", "surrogatepass")
    while len(free) > MAX_NAME or free in taken:
        key = hashlib.sha256(key).digest()
        digest = key.hex()[:8]
        free = f"{name[: MAX_NAME - len(digest) - 1]}_{digest}"
    return free
