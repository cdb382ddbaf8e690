"""Coverage-guided fuzzing of one target with atheris: python -m scripts.tools.fuzz.harness TARGET FOLDER SECONDS.

New inputs that reach new code go to FOLDER; one that shows a fault is kept in FOLDER/fault-… and ends the run.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import atheris  # type: ignore[import-untyped,unused-ignore]  # in the environment of scripts/fuzz only

with atheris.instrument_imports(include=["lmstudio_bridge", "json_repair"]):
    from scripts.tools.fuzz.targets import TARGETS

SLOW = 10  # seconds for one input; a hang is a fault
MEMORY = 2_048  # MiB
LONGEST = 16_384  # bytes of an input
SEEDS = Path(__file__).parent / "seeds"


def main() -> None:
    """Fuzz until the time is up or a fault is found."""
    name, folder, seconds = sys.argv[1:4]
    logging.disable()
    corpus = Path(folder)
    corpus.mkdir(parents=True, exist_ok=True)
    options = (
        f"-max_total_time={seconds}",
        f"-timeout={SLOW}",
        f"-rss_limit_mb={MEMORY}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={folder}/fault-",
        f"-dict={Path(__file__).parent / 'words.dict'}",
        "-print_final_stats=1",
        "-verbosity=1",
    )
    atheris.Setup([sys.argv[0], *options, folder, str(SEEDS / name)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
