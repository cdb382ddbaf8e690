"""The soak's model and its judge: five rounds for each run, faults on the way, and what a run may lawfully end in."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lmstudio_bridge.events import Outcome
from lmstudio_bridge.lmstudio.session import MAX_RESENDS
from scripts.tools.soak.faults import FAULTS, Fault, Scene, call_reply
from scripts.tools.soak.tool_server import PADDING
from tests.lmstudio_sim.replies import Reply, TextReply
from tests.lmstudio_sim.requests import SimRequest
from tests.lmstudio_sim.server import Simulator

PLAN: tuple[tuple[int, ...], ...] = ((1,), (2, 3), (4,), (5,))
"""The steps that each round calls for; the round after them answers."""
STEPS = tuple(step for steps in PLAN for step in steps)
FAULT_SHARE = 0.25

_RUN = re.compile(r"\brun-\d{5}\b")
_NONCE = re.compile(r"nonce (run-\d{5})/(\d+): ([0-9a-f]{16})")

TRIED_AGAIN = ("unreachable", "busy", "rate_limited")
"""The classes that share the client's tries."""

LOST = ("model_lost", "no_model", "substituted_model")
"""The classes that share the resends: what is not there now was there when the run began."""

BUDGETS = {
    "unreachable": 3,
    "busy": 3,
    "rate_limited": 5,
    "model_lost": 3,
    "no_model": 3,
    "substituted_model": 3,
    "overflow": 2,
    "template": 2,
    "schema": 2,
    "wrong_endpoint": 1,
    "auth": 1,
    "resources": 1,
    "stalled": 1,
    "bad_request": 1,
}
"""How many faults of a class (or of those that count together with it) a run must have met before it may end in it."""
FINAL = frozenset(kind for kind, budget in BUDGETS.items() if budget == 1)
LAST_RESEND = f"({MAX_RESENDS} of {MAX_RESENDS})"
LOAD_ROUTE = "/api/v1/models/load"
POOR_REPLIES = 3  # empty turns and lost calls, before a run counts as stuck

SAYS = {
    "unreachable": ("closed the connection before it answered",),
    "busy": ("too busy, or failed for a moment",),
    "rate_limited": ("is limiting the rate of requests",),
    "model_lost": (
        "was unloaded, reloaded or crashed",
        "broke off before its end",
        "broke in the middle of the reply",
        "load canceled loading the model",
        "was unloaded.",
        "was reloaded with a context",
    ),
    "substituted_model": ("Another model answered",),
    "overflow": ("does not fit into the context",),
    "template": ("prompt template refused",),
    "schema": ("could not use the schema",),
    "wrong_endpoint": ("does not know this route", "does not answer like LM Studio's API"),
    "auth": ("refused the API token", "does not permit this request"),
    "no_model": ("no such model loaded",),
    "resources": ("there is not enough memory",),
    "stalled": ("LM Studio sent nothing for",),
    "bad_request": ("LM Studio refused the request.",),
}
"""What the user reads for each class."""


@dataclass(frozen=True, slots=True)
class Met:
    """One request of a run and what became of it; `known` is how many nonces the model had by then."""

    kind: str
    name: str
    known: int
    has_results: bool


@dataclass(slots=True)
class SoakModel:
    """A model that takes the nonces of five steps and then names them all."""

    sim: Simulator
    seed: int
    nonces: dict[str, dict[int, str]] = field(default_factory=dict)
    given: dict[int, tuple[Fault | None, int]] = field(default_factory=dict)
    """By request number: the fault, and the nonces known."""
    asked: Counter[str] = field(default_factory=Counter)

    def reply(self, request: SimRequest) -> Reply:
        """The reply to one request, one in four of them spoiled."""
        run = run_of(request)
        if run is None:
            return TextReply("ok")
        self._learn(request)
        known = self.nonces.setdefault(run, {})
        good = next((call_reply(run, steps) for steps in PLAN if steps[0] not in known), None)
        if good is None:
            good = TextReply(f"The nonces of {run} are {', '.join(known[step] for step in STEPS)}.")
        self.asked[run] += 1
        rng = random.Random(f"{self.seed}/{run}/{self.asked[run]}")
        fault = rng.choice(FAULTS) if rng.random() < FAULT_SHARE else None
        self.given[request.number] = fault, len(known)
        return fault.spoil(good, Scene(self.sim, request, rng)) if fault else good

    def _learn(self, request: SimRequest) -> None:
        for message in request.messages:
            for run, step, nonce in _NONCE.findall(str(message["content"])):
                self.nonces.setdefault(run, {})[int(step)] = nonce

    def take_history(self) -> dict[str, list[Met]]:
        """What each run has met since the last time; the simulator forgets the requests."""
        history: dict[str, list[Met]] = {}
        for request in self.sim.requests:
            if request.path == "/v1/chat/completions" and (run := run_of(request)):
                history.setdefault(run, []).append(self._met(request))
        self.sim.requests.clear()
        self.given.clear()
        return history

    def _met(self, request: SimRequest) -> Met:
        fault, known = self.given.get(request.number, (None, -1))
        kind, name = (fault.kind, fault.name) if fault else ("", "")
        if not kind and request.outcome in ("killed", "disconnected"):
            kind, name = "model_lost", "with another run's instance"  # or hung up on when the watcher saw it go
        has_results = any(PADDING.strip() in str(message["content"]) for message in request.messages)
        return Met(kind, name, known, has_results)


def run_of(request: SimRequest) -> str | None:
    """The run that a request belongs to; a probe of the bridge belongs to none."""
    for message in request.messages:
        if found := _RUN.search(str(message["content"])):
            return found[0]
    return None


def read_ledger(path: Path) -> dict[str, dict[int, list[str]]]:
    """The nonces that the tool gave out, by run and step."""
    entries: dict[str, dict[int, list[str]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        entries.setdefault(entry["run"], {}).setdefault(entry["step"], []).append(entry["nonce"])
    return entries


def judge(outcome: Outcome, met: list[Met], given: dict[int, list[str]], *, cancelled: bool = False) -> list[str]:
    """What is wrong with how a run ended; `given` are the nonces that its calls really got."""
    wrong = [f"step {step} was called {len(nonces)} times" for step, nonces in given.items() if len(nonces) != 1]
    early = [each for each in met[:-1] if each.kind in FINAL - {"stalled"}]  # a stall may turn out to be a loss
    wrong += [f"asked again after {each.name!r}" for each in early]
    sent = sum(map(len, given.values()))
    if outcome.calls != sent and outcome.stop != "cancelled":
        wrong.append(f"{outcome.calls} calls are told, {sent} were made")
    match outcome.stop:
        case "answered":
            if sorted(given) != list(STEPS):
                wrong.append(f"answered after steps {sorted(given)}")
            nonces = [nonce for each in given.values() for nonce in each]
            wrong += [f"nonce {nonce} is missing" for nonce in nonces if nonce not in outcome.answer]
        case "failed" | "context_full":
            wrong += _judge_failure(outcome, met)
        case "stuck":
            poor = [each for each in _same_round(met) if each.kind in ("empty_turn", "lost_tool_call")]
            if len(poor) < POOR_REPLIES:
                wrong.append(f"stuck after {len(poor)} poor replies")
        case "cancelled" if cancelled:
            pass
        case stop:
            wrong.append(f"ended as {stop}")
    return wrong


def _judge_failure(outcome: Outcome, met: list[Met]) -> list[str]:
    told = [kind for kind, texts in SAYS.items() if any(text in outcome.error for text in texts)]
    if not told:
        return [f"the error has no class: {outcome.error!r}"]
    if "model_lost" in told and LOAD_ROUTE in outcome.error:
        return []  # loads were overtaken again and again; they are no run's own, so they are not counted here
    last = met[-1] if met else Met("", "", 0, False)
    if last.kind not in told:
        return [f"ended as {' or '.join(told)}, but the last fault was {last.kind or 'none'} ({last.name})"]
    if last.kind == "overflow" and not last.has_results:
        return []  # there was nothing to shorten
    count = sum(each.kind in _counted_with(last.kind) for each in _counted(met, last.kind))
    if last.kind in LOST and any(LAST_RESEND in warning for warning in outcome.warnings):
        return []  # one loss was seen in a pause, when no request was under way
    if count < BUDGETS[last.kind]:
        return [f"gave up after {count} times {last.kind}"]
    return []


def _counted(met: list[Met], kind: str) -> Iterable[Met]:
    """The requests among which a class is counted; a way of asking that was given up stays so for the run."""
    return met if kind in ("template", "schema") else _same_round(met)


def _counted_with(kind: str) -> tuple[str, ...]:
    for group in (TRIED_AGAIN, LOST):
        if kind in group:
            return group
    return (kind,)


def _same_round(met: list[Met]) -> list[Met]:
    """The requests since the model last learned something; -1 means that it was not reached."""
    known = next((each.known for each in reversed(met) if each.known >= 0), -1)
    return [each for each in met if each.known in (known, -1)]
