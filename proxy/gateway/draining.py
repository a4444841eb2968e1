"""Exchanges whose client is gone: given up at once, or read on to the reported usage, within caps.

Reading on costs what the model goes on to say, so it is a choice, per upstream and per app. Knows no HTTP library.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Final, Protocol, TypeVar

from proxy.errors import RelayError, UpstreamBrokeError
from proxy.gateway.exchange import Caps, Exchange
from proxy.gateway.framing import LineBreakError
from proxy.settings import AppSettings, UpstreamSettings
from proxy.usage import Outcome

NO_APP: Final = AppSettings()


class Answered(Protocol):
    """An upstream's answer, as far as draining asks."""

    status: int
    content_encoding: str
    at_end: Callable[[], bool]

    async def read(self) -> bytes:
        """What came since the last call. Raises UpstreamBrokeError."""

    def close(self) -> None:
        """Give the connection back or close it."""


A = TypeVar("A", bound=Answered)


def caps_for(app: str, apps: Mapping[str, AppSettings], upstream: UpstreamSettings) -> Caps | None:
    """The caps for an app's exchanges; None where they are given up at once."""
    own = apps.get(app, NO_APP) if apps else NO_APP
    if (own.on_client_disconnect or upstream.on_client_disconnect) == "abort":
        return None
    return Caps(own.drain_seconds or upstream.drain_seconds, own.drain_tokens or upstream.drain_tokens)


class Background:
    """Work that goes on without anybody waiting for it: a strong reference to each task, and a way to end them all."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        return f"<Background of {len(self._tasks)} tasks>"

    def start(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        """Run it; the task may be waited for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def cancel(self) -> None:
        """Ask all of them to end."""
        for task in self._tasks:
            task.cancel()

    async def finish(self) -> None:
        """Wait for all of them, and for what they start meanwhile."""
        while self._tasks:
            await asyncio.wait(self._tasks)


async def drain(exchange: Exchange, answering: "asyncio.Future[A]", caps: Caps) -> None:
    """Read an exchange on whose client is gone, to its end or to a cap, and write its record. Never raises."""
    answer: A | None = None
    try:
        async with asyncio.timeout(caps.seconds):
            answer = await answering
            await _read_on(exchange, answer, caps.tokens)
    except (TimeoutError, UpstreamBrokeError, RelayError, LineBreakError, OSError):
        pass  # what was seen by then is what there is
    finally:
        exchange.end(Outcome.CLIENT_DISCONNECTED)
        exchange.close()
        if answer is not None:
            answer.close()
        else:
            answering.add_done_callback(_close_unclaimed)


async def _read_on(exchange: Exchange, answer: Answered, most_tokens: int) -> None:
    if not exchange.is_answered:
        exchange.answered(answer.status, answer.content_encoding)
    while exchange.may_report and exchange.output_deltas < most_tokens:
        data = await answer.read()
        if exchange.feed(data) or answer.at_end():
            return


def _close_unclaimed(answering: "asyncio.Future[A]") -> None:
    """An answer that came in the moment in which it was given up is closed all the same."""
    if not answering.cancelled() and answering.exception() is None:
        answering.result().close()
