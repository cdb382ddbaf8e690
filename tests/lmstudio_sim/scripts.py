"""Which reply comes next: queues and functions, by model, and queues by path."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable

from tests.lmstudio_sim.replies import HttpReply, Reply, TextReply
from tests.lmstudio_sim.requests import SimRequest

ANY_MODEL = "*"
DEFAULT_REPLY = TextReply("Hello from the simulator.")

ReplyFunction = Callable[[SimRequest], Reply]


class ReplyScript:
    """Queues are used up first, then functions; each from the most exact name of the model to `*`."""

    def __init__(self) -> None:
        self._queues: defaultdict[str, deque[Reply]] = defaultdict(deque)
        self._functions: dict[str, ReplyFunction] = {}
        self._paths: defaultdict[str, deque[HttpReply]] = defaultdict(deque)

    def add(self, model: str, *replies: Reply) -> None:
        self._queues[model].extend(replies)

    def add_path(self, path: str, *replies: HttpReply) -> None:
        self._paths[path].extend(replies)

    def set_function(self, model: str, function: ReplyFunction | None) -> None:
        if function is None:
            self._functions.pop(model, None)
        else:
            self._functions[model] = function

    def left(self, model: str) -> int:
        """Replies of that queue not yet used."""
        return len(self._queues[model])

    def take_for_path(self, path: str) -> HttpReply | None:
        queue = self._paths.get(path)
        return queue.popleft() if queue else None

    def take(self, request: SimRequest, *names: str) -> Reply:
        """The next reply for a request to a model that goes by `names`."""
        tried = dict.fromkeys((*names, ANY_MODEL))
        for name in tried:
            if self._queues.get(name):
                return self._queues[name].popleft()
        for name in tried:
            if name in self._functions:
                return self._functions[name](request)
        return DEFAULT_REPLY
