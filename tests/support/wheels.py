"""Our wheel and sdist for the tests that look into them or start the wheel under uvx."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lmstudio_bridge"
"""Not there where `scripts/package` tests the installed wheel with what the sdist holds."""

LIMIT = 300.0  # seconds, for installing what the wheel needs


@dataclass(frozen=True, slots=True)
class Archives:
    """What is published."""

    wheel: Path
    sdist: Path


def find_program(name: str) -> str | None:
    """`uv` or `uvx`: beside the Python of the tests, else on the path."""
    return shutil.which(name, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))


def build_archives(uv: str, folder: Path) -> Archives:
    """Builds the sdist into an empty folder, and the wheel from it; those under test where there is no package."""
    if PACKAGE.exists():
        subprocess.run([uv, "build", "--quiet", "--out-dir", str(folder), str(ROOT)], check=True, timeout=LIMIT)
    else:
        folder = ROOT / "dist"
    ((wheel,), (sdist,)) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Archives(wheel, sdist)


def uvx_command(uvx: str, wheel: Path) -> tuple[str, ...]:
    """The command that starts the bridge from a wheel; what it needs is installed when this returns."""
    command = (uvx, "--quiet", "--python", sys.executable, "--from", str(wheel), "lmstudio-bridge")
    subprocess.run([*command, "--version"], check=True, timeout=LIMIT)
    return command
