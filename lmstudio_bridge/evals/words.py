"""Names, words, codes and numbers for tasks, so that nothing can be guessed and each seed has its own."""

from __future__ import annotations

from random import Random

NAMES = ("Ana", "Bo", "Chen", "Dora", "Emil", "Faye", "Goran", "Hana", "Ivo", "Jana", "Kofi", "Lena", "Milo", "Nora")
# fmt: off
WORDS = (
    "heron", "marmalade", "juniper", "walnut", "lantern", "cobalt", "osprey", "saffron", "pebble", "thistle",
    "anchor", "biscuit", "candle", "ember", "falcon", "ginger", "hazel", "indigo", "jasper", "kettle", "lemon",
    "maple", "nutmeg", "olive", "pepper", "quartz", "raven", "spruce", "tulip", "velvet",
)
# fmt: on
TOWNS = ("Bergen", "Cadiz", "Durban", "Erfurt", "Fargo", "Genoa", "Hobart", "Izmir", "Jaipur", "Kyoto", "Lyon", "Malmo")
OFFSETS = {"Asia/Tokyo": 540, "Asia/Kolkata": 330, "Asia/Dubai": 240, "Africa/Lagos": 60, "America/Bogota": -300}
"""Time zones without daylight saving time, with their minutes east of Greenwich."""


def codes(rng: Random, count: int) -> list[str]:
    """Different codes like heron-4821, of which no two share a part."""
    words = rng.sample(WORDS, count)
    numbers = rng.sample(range(1_000, 10_000), count)
    return [f"{word}-{number}" for word, number in zip(words, numbers, strict=True)]


def numbers(rng: Random, count: int, *, digits: int = 4) -> list[int]:
    """Different numbers with so many digits."""
    return rng.sample(range(10 ** (digits - 1), 10**digits), count)


def line_of_words(rng: Random, count: int = 6) -> str:
    """A line that says nothing."""
    return " ".join(rng.choices(WORDS, k=count))


def clock(minutes: int) -> str:
    """Minutes since midnight as HH:MM, of whatever day."""
    return f"{minutes // 60 % 24:02}:{minutes % 60:02}"
