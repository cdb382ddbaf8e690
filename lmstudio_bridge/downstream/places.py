"""Which servers are open for whom, which one makes room, and who waits: decisions without an await.

A place stands for one open server. `sessions` acts on what is decided here, and brings the time.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Key:
    """What two users must agree in to share a server; `owner` is the only one who may use it, None if all may."""

    server: str
    digest: str
    owner: Hashable | None = None


@dataclass(eq=False, slots=True)
class Place:
    """Room for one open server. `running`: it has a session, which may still be starting."""

    key: Key
    stays: bool  # open when nobody uses it
    users: set[Hashable] = field(default_factory=set)
    running: bool = False
    idle_since: float = 0.0


@dataclass(eq=False, slots=True)
class Request:
    """Somebody's wish for a place: it gets one, is refused because it never could, or waits."""

    user: Hashable
    key: Key
    place: Place | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done: requests that have their answer now, and places whose sessions must end."""

    answered: tuple[Request, ...]
    closing: tuple[Place, ...]


class Places:
    """At most `bound` places; one that nobody uses is closed after `idle_limit` seconds, or earlier to make room."""

    def __init__(self, *, bound: int, idle_limit: float) -> None:
        self.bound = bound
        self._idle_limit = idle_limit
        self._open: dict[Key, Place] = {}
        self._closing: set[Place] = set()
        self._line: list[Request] = []

    @property
    def open(self) -> Collection[Place]:
        """The places that are used or can be."""
        return self._open.values()

    @property
    def next_due(self) -> float | None:
        """When the next place will have been idle for too long."""
        return min((self._due(place) for place in self._idle()), default=None)

    def ask(self, user: Hashable, key: Key) -> Request:
        """Stand in line; `settle` answers. What is open of the same server with another digest is out of date."""
        for place in self._open.values():
            if place.key.server == key.server and place.key.digest != key.digest:
                place.stays = False
        if key in self._open and key.owner is None:
            self._open[key].stays = True  # it was out of date, and is so no more
        request = Request(user, key)
        self._line.append(request)
        return request

    def withdraw(self, request: Request) -> None:
        """Wait no longer."""
        if request in self._line:
            self._line.remove(request)

    def release(self, user: Hashable, *, now: float, place: Place | None = None) -> None:
        """Let go of one place or, without one, of all, and of every place in line."""
        for each in [place] if place is not None else list(self._open.values()):
            if user in each.users:
                each.users.remove(user)
                each.idle_since = now
                if not each.users and not each.running:
                    del self._open[each.key]
        if place is None:
            self._line = [request for request in self._line if request.user != user]

    def started(self, place: Place) -> None:
        """A place has a session."""
        place.running = True

    def ended(self, place: Place) -> None:
        """Its session is gone with all that belonged to it; who uses the place may start another one."""
        place.running = False
        self._closing.discard(place)
        if not place.users and self._open.get(place.key) is place:
            del self._open[place.key]

    def settle(self, now: float) -> Decision:
        """Close what has been idle for too long, and answer whom we can, in the order of the line.

        Who wants a server that is in use does not need a place, and so passes those who do.
        """
        answered: list[Request] = []
        closing = [place for place in self._idle() if not place.stays or now >= self._due(place)]
        for place in closing:
            self._close(place)
        waiting = 0
        for request in list(self._line):
            if request.key not in self._open and len(self._open) + len(self._closing) < self.bound:
                self._open[request.key] = Place(request.key, stays=request.key.owner is None)
            if request.key in self._open:
                request.place = self._open[request.key]
                request.place.users.add(request.user)
            elif sum(request.user in place.users for place in self._open.values()) == self.bound:
                request.refused = True  # it waits for nobody but itself
            else:
                waiting += 1
                idle = min(self._idle(), key=self._due, default=None)
                if idle is not None and waiting > len(self._closing):
                    self._close(idle)
                    closing.append(idle)
                continue
            self._line.remove(request)
            answered.append(request)
        return Decision(tuple(answered), tuple(closing))

    def _idle(self) -> list[Place]:
        return [place for place in self._open.values() if not place.users]

    def _due(self, place: Place) -> float:
        return place.idle_since + self._idle_limit

    def _close(self, place: Place) -> None:
        del self._open[place.key]
        self._closing.add(place)
