"""The programs that can start the bridge, and who can have the entry in each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

Host: TypeAlias = Literal["claude-code", "claude-desktop", "cursor", "vscode", "lm-studio"]
HostScope: TypeAlias = Literal["user", "local", "project"]

HOSTS: tuple[Host, ...] = get_args(Host)
NAMES: Mapping[Host, str] = {
    "claude-code": "Claude Code",
    "claude-desktop": "Claude Desktop",
    "cursor": "Cursor",
    "vscode": "VS Code",
    "lm-studio": "LM Studio",
}
SCOPES: Mapping[Host, tuple[HostScope, ...]] = {
    "claude-code": ("user", "local", "project"),
    "claude-desktop": ("user",),
    "cursor": ("user", "project"),
    "vscode": ("user", "project"),
    "lm-studio": ("user",),
}
"""Who has the entry: the user everywhere, the user in this folder, or all who work on the project."""
