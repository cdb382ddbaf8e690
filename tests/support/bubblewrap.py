"""Whether this system has the sandbox that the bridge starts servers in."""

from __future__ import annotations

import shutil
import subprocess

import pytest

_PROBE = ("bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true")
_WORKS = shutil.which("bwrap") is not None and subprocess.run(_PROBE, capture_output=True, check=False).returncode == 0

needs_bubblewrap = pytest.mark.skipif(not _WORKS, reason="bubblewrap is not installed, or this system forbids it")
