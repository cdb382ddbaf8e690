"""The kept seeds, and a few hundred inputs that hypothesis makes of them; scripts/fuzz goes on with atheris."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scripts.tools.fuzz
from scripts.tools.fuzz.targets import TARGETS

SEEDS = Path(scripts.tools.fuzz.__file__).parent / "seeds"


def seeds_of(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((SEEDS / target).iterdir())]


@pytest.mark.parametrize("path", sorted(SEEDS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_kept_seed_does_no_harm(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


def test_every_target_has_seeds() -> None:
    assert {path.name for path in SEEDS.iterdir()} == set(TARGETS)


@st.composite
def spoiled(draw: st.DrawFn, target: str) -> bytes:
    """A seed with pieces cut out, doubled or replaced by words of other seeds or any bytes."""
    data = bytearray(draw(st.sampled_from(seeds_of(target))))
    for _ in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 20)))
        new = draw(st.one_of(st.binary(max_size=8), st.sampled_from(WORDS), st.just(bytes(data[start:end] * 2))))
        data[start:end] = new
    return bytes(data)


WORDS = [b'"', b"\\", b"{", b"}", b"[" * 2_000, b"null", b"1e999", b"NaN", b"\\ud83d", b"\xff", b'{"a":' * 300, b"\n\n"]


@pytest.mark.parametrize("target", TARGETS)
def test_spoiled_seeds_do_no_harm(target: str) -> None:
    @settings(max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(spoiled(target))
    def check(data: bytes) -> None:
        TARGETS[target](data)

    check()
