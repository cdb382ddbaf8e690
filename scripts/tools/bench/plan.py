"""How much is measured: counts of passes, runs and rounds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Counts. A pass measures each subject once; what is measured in a pass is compared within it."""

    discarded: int = 1  # passes of cold processes before those that count
    start_passes: int = 11
    cold_passes: int = 9
    peers_cold_passes: int = 3  # the first of those; peers take ten seconds
    warm_passes: int = 11
    warm_rounds: int = 60
    crowd_passes: int = 5  # of 20 runs at once
    crowd_runs: int = 20
    crowd_rounds: int = 10
    big_crowd_passes: int = 3
    big_crowd_runs: int = 50
    growth_passes: int = 3
    growth_messages: int = 1_000
    catalogue_passes: int = 15


FULL = Plan()
QUICK = Plan(
    start_passes=3,
    cold_passes=3,
    peers_cold_passes=1,
    warm_passes=5,
    warm_rounds=30,
    crowd_passes=3,
    big_crowd_passes=1,
    growth_passes=1,
    catalogue_passes=5,
)
SMALLEST = Plan(
    discarded=0,
    start_passes=1,
    cold_passes=1,
    warm_passes=1,
    warm_rounds=3,
    crowd_passes=1,
    crowd_runs=2,
    crowd_rounds=2,
    big_crowd_passes=1,
    big_crowd_runs=3,
    growth_passes=1,
    growth_messages=30,
    catalogue_passes=1,
)
"""For a test: everything is done once, and nothing that comes out means anything."""
