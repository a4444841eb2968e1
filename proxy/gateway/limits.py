"""The limits of exchanges: how long an upstream may be silent, and how long all of it may take.

One timer looks at all open exchanges now and then; a timer each, set anew for every chunk, would cost more than passing
the chunk on. So a limit is kept late by at most a quarter of it, and never early. Knows no HTTP library.
"""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from proxy.errors import UpstreamBrokeError, UpstreamStalledError

LOOKS_PER_LIMIT: Final = 8
LOOK_EVERY_S: Final = 1.0
"""The longest time between two looks."""


class Content(Protocol):
    """A body under way."""

    total_bytes: int

    def set_exception(self, exc: BaseException) -> None:
        """Let whoever reads the body, now or next, see this."""


class ClientSide(NamedTuple):
    """What the limits of an exchange need to know of, and do to, the client's side."""

    is_behind: Callable[[], bool]
    give_up: Callable[[], None]


def _never() -> bool:
    return False


class Watch:
    """The limits of one exchange.

    Before the head it cancels the waiting task (`head_is_late` tells why); inside the body it ends the reading. While the
    client is behind with its own reading, the upstream is held back and its silence is not its own; at the total limit an
    exchange that hangs on such a client is given up as well.
    """

    __slots__ = (
        "_client",
        "_content",
        "_is_lost",
        "_limits",
        "_received",
        "_seen_s",
        "_started_s",
        "_task",
        "head_is_late",
    )

    def __init__(self, limits: "Limits", task: "asyncio.Task[object] | None", client: ClientSide, now_s: float) -> None:
        self._limits = limits
        self._task = task
        self._client = client
        self._content: Content | None = None
        self._is_lost: Callable[[], bool] = _never
        self._received = -1  # bytes, at the last look that found something new,
        self._seen_s = self._started_s = now_s  # and when that was
        self.head_is_late = False

    def begin(self, content: Content, is_lost: Callable[[], bool] | None = None) -> None:
        """The head is there; from here on it is the body that is waited for. `is_lost`: it can never come to its end.

        The library tells a reader when a connection breaks, and not when it closes one itself over a broken framing.
        """
        self._content = content
        self._is_lost = is_lost or _never

    def end(self) -> None:
        """The exchange is over."""
        self._limits.forget(self)

    def look(self, now_s: float, idle_s: float, total_s: float) -> None:
        """Do what the time asks for."""
        content = self._content
        if content is None:
            if now_s - self._started_s >= min(idle_s, total_s):
                self._head_is_late()
            return
        if content.total_bytes != self._received or self._client.is_behind():
            self._received, self._seen_s = content.total_bytes, now_s
        elif self._is_lost():
            self.end()
            content.set_exception(UpstreamBrokeError("the upstream's body is not framed as HTTP wants it"))
            return
        if now_s - self._started_s >= total_s:
            self._expire(content, "the exchange took too long")
        elif now_s - self._seen_s >= idle_s:
            self._expire(content, "the upstream fell silent")

    def _head_is_late(self) -> None:
        self.head_is_late = True
        self.end()
        if self._task is not None:
            self._task.cancel()

    def _expire(self, content: Content, reason: str) -> None:
        self.end()
        content.set_exception(UpstreamStalledError(reason))
        if self._client.is_behind():
            self._client.give_up()


class Limits:
    """The limits of one upstream, and the exchanges they are kept for. The timer runs only while there are any."""

    def __init__(self, idle_s: float, total_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self._idle_s = idle_s
        self._total_s = total_s
        self._every_s = min(idle_s / LOOKS_PER_LIMIT, total_s / LOOKS_PER_LIMIT, LOOK_EVERY_S)
        self._loop = loop
        self._watches: set[Watch] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Limits idle={self._idle_s} s total={self._total_s} s watching={len(self._watches)}>"

    def watch(self, client: ClientSide) -> Watch:
        """Begin to keep the limits of the exchange that the current task is about."""
        watch = Watch(self, asyncio.current_task(self._loop), client, self._loop.time())
        self._watches.add(watch)
        if self._timer is None:
            self._timer = self._loop.call_later(self._every_s, self._look)
        return watch

    def forget(self, watch: Watch) -> None:
        """The exchange is over."""
        self._watches.discard(watch)

    def close(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now_s = self._loop.time()
        for watch in tuple(self._watches):
            watch.look(now_s, self._idle_s, self._total_s)
        self._timer = self._loop.call_later(self._every_s, self._look) if self._watches else None
