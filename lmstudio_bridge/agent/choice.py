"""Which servers a task needs, judged by the tools that they had when they were last started. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lmstudio_bridge.agent.known_tools import KnownTool, KnownTools, Offer
from lmstudio_bridge.agent.ranking import Index
from lmstudio_bridge.agent.schemas import SchemaWork
from lmstudio_bridge.messages import ServerTool

FITS = 1 / 3  # share of the best tool's score from which another server's tool still counts as fitting
CLOSEST = 3  # tools that count as fitting because of what they mean
_READ = 1_024  # characters of a description, as many as the model reads
_SHOWN_TOOLS = 2  # that a reason names
_SHOWN_NAME = 40  # characters of a tool's name in a reason
_LONGEST = 300  # characters of a word that can be a path or an address
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_PATH = re.compile(r"[~.]{0,2}/.+|.+/|.*/.*/.*|.{2,}\.[A-Za-z]\w{0,4}")

UNKNOWN = "its tools are not known yet"
USED = "it was used before"
NAMED = "the task names it"
CANNOT_TELL = "nothing in the task tells which server it needs"


@dataclass(frozen=True, slots=True)
class ServerChoice:
    """`started` says of each server to start why, the best first; `left` are the others."""

    started: Mapping[str, str]
    left: tuple[str, ...]


def choose_servers(
    task: str,
    known: Mapping[str, Sequence[ServerTool] | None],
    *,
    max_chars: int,
    used: Collection[str] = (),
    similar: Mapping[tuple[str, str], float] | None = None,
    candidates: KnownTools | None = None,
) -> ServerChoice:
    """The servers to start for a task: at least one, and all of them if the task tells nothing.

    `known` has the tools of each server, None where they are not known: then it is started. So are those that
    the task names, by their own name or a tool's, and those `used` before. The others are taken best
    first, as long as one of their tools fits about as well as the best of all, until the fitting tools
    fill the room of `max_chars`. `similar` says of tools, by server and name, how close they are to the task
    in meaning: the closest count as fitting as well. `candidates` is what earlier choices made of them:
    `known_candidates()`.
    """
    work, candidates = SchemaWork(), known_candidates() if candidates is None else candidates
    tools = [tool for each in known.values() for tool in each or ()]
    offers = [Offer(candidates.find(tool), work) for tool in tools]
    scores = Index(offers).scores(_with_kinds(task))
    best = max(scores, default=0.0)
    fitting: dict[str, list[int]] = {}
    for number in sorted(range(len(tools)), key=lambda number: -scores[number]):
        if scores[number] > 0 and scores[number] >= best * FITS:
            fitting.setdefault(tools[number].server, []).append(number)
    for number in _closest(tools, similar or {}) if fitting else ():
        if number not in fitting.setdefault(tools[number].server, []):
            fitting[tools[number].server].append(number)
    started = {name: reason for name in known if (reason := _certain(task, name, known[name], used))}
    room = max_chars - sum(offers[number].chars for name in started for number in fitting.get(name, ()))
    for name, numbers in fitting.items():
        if name not in started and (room > 0 or not started):
            started[name] = f"for {_names(tools[number] for number in numbers[:_SHOWN_TOOLS])}"
            room -= sum(offers[number].chars for number in numbers)
    if set(started.values()) <= {UNKNOWN} and not fitting:
        started |= {name: CANNOT_TELL for name in known if name not in started}
    return ServerChoice(started, tuple(name for name in known if name not in started))


def known_candidates() -> KnownTools:
    """Keeps from choice to choice what is made of tools for it."""
    return KnownTools(_as_candidate)


def _as_candidate(tool: ServerTool) -> KnownTool:
    return KnownTool(f"{tool.server}__{tool.name}", f"{tool.title} {tool.description}"[:_READ], tool.input_schema)


def _closest(tools: Sequence[ServerTool], similar: Mapping[tuple[str, str], float]) -> list[int]:
    """The tools that are closest to the task in meaning, if that is known."""
    scores = [similar.get((tool.server, tool.name), 0.0) for tool in tools]
    ranked = sorted(range(len(tools)), key=lambda number: -scores[number])
    return [number for number in ranked[:CLOSEST] if scores[number] > 0]


def _certain(task: str, name: str, tools: Sequence[ServerTool] | None, used: Collection[str]) -> str:
    """Why this server is started whatever else fits; "" if it is not."""
    if tools is None:
        return UNKNOWN
    if name in used:
        return USED
    # One-word names of tools (search, fetch) are ordinary words: those count as such.
    names = [name, *(tool.name for tool in tools if re.search(r"\w[_-]\w", tool.name))]
    return NAMED if any(_stands_in(task, each) for each in names) else ""


def _stands_in(task: str, name: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", task, re.IGNORECASE) is not None


def _with_kinds(task: str) -> str:
    """The task, and for each address and path in it what it is: tools say «url» and «file», people write them."""
    kinds = set()
    for word in task.split():
        plain = word.strip("\"'`()[]{}<>«»,;:!?.")
        if _ADDRESS.match(plain):
            kinds.add("url")
        elif len(plain) <= _LONGEST and _PATH.fullmatch(plain):
            kinds.add("file")
    return " ".join((task, *sorted(kinds)))


def _names(tools: Iterable[ServerTool]) -> str:
    """Names for a reader; a server chooses them."""
    return ", ".join("".join(filter(str.isprintable, tool.name))[:_SHOWN_NAME] for tool in tools)
