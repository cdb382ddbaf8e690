"""Who gets a slot, who makes room, who waits: the decisions alone, with time as a number."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge.mcp_client.pool import Session, Slot, SlotKey, SlotRequest, Slots

LIMIT = 10.0


@dataclass
class Room:
    """Slots, and a pool without servers: what it is told to start runs at once, what it is told to end takes a while.

    Every step ends in a look at the laws.
    """

    bound: int
    now: float = 0.0
    limit: float = LIMIT
    ending: list[Slot] = field(default_factory=list)
    requests: list[SlotRequest] = field(default_factory=list)
    gone: set[SlotRequest] = field(default_factory=set)  # their users do not want them any more

    def __post_init__(self) -> None:
        self.slots = Slots(limit=self.bound, idle_limit=self.limit)

    def ask(self, user: str, server: str, digest: str = "", *, fresh: bool = False) -> SlotRequest:
        request = self.slots.request(user, SlotKey(server, digest, user if fresh else None))
        self.requests.append(request)
        self.settle()
        return request

    def leave(self, user: str, slot: Slot | None = None) -> None:
        self.slots.release(user, now=self.now, slot=slot)
        self.gone |= {each for each in self.requests if each.user == user and slot in (None, each.slot)}
        self.settle()

    def withdraw(self, request: SlotRequest) -> None:
        if request.slot is None:
            self.gone.add(request)
        self.slots.withdraw(request)
        self.settle()

    def die(self, slot: Slot) -> None:
        slot.session = None
        self.slots.ended(slot)
        self.settle()

    def end(self, slot: Slot) -> None:
        self.ending.remove(slot)
        slot.session = None
        self.slots.ended(slot)
        self.settle()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.settle()

    def settle(self) -> None:
        line = self.line()
        closing = self.slots.settle(self.now)
        self.ending += closing
        for request in line:
            if request.slot is not None and request.slot.session is None:
                request.slot.session = cast(Session, object())
        self.check(closing, line)

    def line(self) -> list[SlotRequest]:
        return [each for each in self.requests if each not in self.gone and each.slot is None and not each.refused]

    def servers(self) -> list[str]:
        """The servers that are open, in no order of meaning."""
        return sorted(slot.key.server for slot in self.slots.open)

    def check(self, closing: list[Slot], line: list[SlotRequest]) -> None:
        """The laws."""
        opened, waiting = list(self.slots.open), self.line()
        idle = [slot for slot in opened if not slot.users]
        assert len(opened) + len(self.ending) <= self.bound, "over the bound"
        assert not any(slot.users for slot in closing), "closed one in use"
        assert not set(opened) & set(self.ending), "used after its end was ordered"
        assert all(self.now < slot.idle_since + self.limit and slot.stays for slot in idle), "idle for too long"
        assert all(slot.users <= {slot.key.owner} for slot in opened if slot.key.owner is not None), "not shared"
        for request in line:
            assert request.answered.is_set() == (request.slot is not None or request.refused)
            assert not (request.slot and request.refused)
            assert request.slot is None or request.slot.key == request.key
        for request in self.requests:
            if request.slot is not None and request not in self.gone:
                assert request.user in request.slot.users, "lost its slot"
                assert request.slot in opened
        if waiting:
            assert len(opened) + len(self.ending) == self.bound, "waits though there is room"
            assert len(self.ending) >= len(waiting) or not idle, "waits though one could make room"
        due = [slot.idle_since + self.limit for slot in idle]
        assert self.slots.next_due == min(due, default=None)


USERS = st.sampled_from("ABCD")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), USERS, st.sampled_from("pqrstu"), st.sampled_from(["1", "1", "2"]), st.booleans()),
        st.tuples(st.just("leave"), USERS),
        st.tuples(st.just("let go"), st.integers(0, 50)),
        st.tuples(st.just("withdraw"), st.integers(0, 50)),
        st.tuples(st.just("die"), st.integers(0, 50)),
        st.tuples(st.just("end"), st.integers(0, 50)),
        st.tuples(st.just("time"), st.floats(0, 2 * LIMIT)),
    ),
    min_size=10,
    max_size=60,
)


@given(bound=st.integers(1, 4), limit=st.sampled_from([0.0, LIMIT]), steps=STEPS)
def test_whatever_happens_in_whatever_order_the_laws_hold_and_everyone_gets_an_answer(
    bound: int, limit: float, steps: list[tuple[object, ...]]
) -> None:
    room = Room(bound, limit=limit)
    for step in steps:
        match step:
            case ("ask", str(user), str(server), str(digest), bool(fresh)):
                room.ask(user, server, digest, fresh=fresh)
            case ("leave", str(user)):
                room.leave(user)
            case ("let go", int(number)) if held := [each for each in room.requests if each.slot]:
                request = held[number % len(held)]
                room.leave(str(request.user), request.slot)
            case ("withdraw", int(number)) if line := room.line():
                room.withdraw(line[number % len(line)])
            case ("die", int(number)) if running := [slot for slot in room.slots.open if slot.session]:
                room.die(running[number % len(running)])
            case ("end", int(number)) if room.ending:
                room.end(room.ending[number % len(room.ending)])
            case ("time", float(seconds)):
                room.pass_time(seconds)
    while line := room.line():  # users let go of what they have, and what was told to end ends
        for request in room.requests:
            if request.slot is not None and request not in room.gone:
                room.leave(str(request.user), request.slot)
        while room.ending:
            room.end(room.ending[0])
        assert len(room.line()) < len(line), "nobody is served though everybody let go"


@pytest.mark.parametrize(("users", "waits"), [(1, False), (2, False), (3, True)])
def test_slots_are_given_up_to_the_bound(users: int, waits: bool) -> None:
    room = Room(bound=2)
    requests = [room.ask(f"user {number}", f"server {number}") for number in range(users)]

    assert [request.slot is None for request in requests] == [False] * min(users, 2) + [True] * waits


@pytest.mark.parametrize(("seconds", "opened"), [(LIMIT - 1, ["files"]), (LIMIT, []), (LIMIT + 1, [])])
def test_a_slot_stays_open_for_the_idle_limit_after_its_last_user(seconds: float, opened: list[str]) -> None:
    room = Room(bound=2)
    room.ask("A", "files")
    room.ask("B", "files")
    room.leave("A")
    room.pass_time(100 * LIMIT)
    assert room.slots.next_due is None
    room.leave("B")
    room.pass_time(seconds)

    assert room.servers() == opened


def test_the_one_left_longest_ago_makes_room_and_one_in_use_never_does() -> None:
    room = Room(bound=3)
    for user, server in (("A", "first"), ("B", "second"), ("C", "third")):
        room.ask(user, server)
        room.pass_time(1)
    room.leave("B")
    room.pass_time(1)
    room.leave("A")
    request = room.ask("D", "fourth")
    assert (request.slot, room.servers()) == (None, ["first", "third"])
    room.end(room.ending[0])  # only now there is room

    assert request.slot is not None
    assert room.servers() == ["first", "fourth", "third"]


@pytest.mark.parametrize("newcomers", [1, 2, 3])
def test_as_many_make_room_as_wait_and_no_more(newcomers: int) -> None:
    room = Room(bound=3)
    for server in ("one", "two", "three"):
        room.ask("A", server)
    room.leave("A")
    requests = [room.ask("B", f"new {number}") for number in range(newcomers)]
    room.pass_time(1)
    assert len(room.ending) == newcomers
    while room.ending:
        room.end(room.ending[0])

    assert all(request.slot for request in requests)
    assert len(room.servers()) == 3


def test_who_waits_is_served_in_order_and_who_shares_passes() -> None:
    room = Room(bound=2)
    room.ask("A", "one")
    room.ask("B", "two")
    third, fourth = room.ask("C", "three"), room.ask("D", "four")
    passing = room.ask("D", "one")
    assert (third.slot, fourth.slot) == (None, None)
    assert passing.slot is not None
    room.leave("B")
    room.end(room.ending[0])

    assert third.slot is not None
    assert fourth.slot is None


def test_a_changed_server_that_nobody_uses_is_closed_before_the_new_one_needs_a_slot() -> None:
    room = Room(bound=1)
    old = room.ask("A", "files", "old")
    room.leave("A")
    new = room.ask("A", "files", "new")
    assert room.ending == [old.slot]
    room.end(room.ending[0])

    assert new.slot is not None


def test_a_server_that_is_changed_back_while_in_use_stays() -> None:
    room = Room(bound=3)
    old = room.ask("A", "files", "old")
    room.ask("B", "files", "new")
    back = room.ask("C", "files", "old")
    room.leave("A")
    room.leave("C")

    assert back.slot is old.slot
    assert room.servers() == ["files", "files"]
