"""Counting with the tokenizer, off the event loop: one thread, and a vocabulary that is loaded at the first need.

The library lets go of the interpreter while it counts, so streams go on; while the vocabulary is built, once in a worker's
life, it holds it for about a tenth of a second.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from proxy.metering.estimation import CountsTokens

T = TypeVar("T")


class Counting:
    """Runs counts one after the other in a thread of its own."""

    def __init__(self, load: Callable[[], CountsTokens], longest_s: float) -> None:
        """`load` makes the tokenizer and may raise OSError or ValueError; it is called once, in the thread."""
        self._load = load
        self._longest_s = longest_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizer")
        self._waiting = 0
        self._tokenizer: CountsTokens | None = None
        self._failure: Exception | None = None

    def __repr__(self) -> str:
        return f"<Counting {'ready' if self._tokenizer else self._failure or 'not loaded'}>"

    @property
    def is_idle(self) -> bool:
        """True where the tokenizer is loaded and nothing waits for it."""
        return self._tokenizer is not None and not self._waiting

    async def run(self, count: Callable[[CountsTokens], T]) -> T:
        """What `count` makes of the tokenizer. Raises TimeoutError, and what `load` raised, now or the first time."""
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            return await asyncio.wait_for(loop.run_in_executor(self._thread, self._counted, count), self._longest_s)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let the thread end; what waits in it is dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _counted(self, count: Callable[[CountsTokens], T]) -> T:
        return count(self._ready())

    def _ready(self) -> CountsTokens:
        if self._failure is not None:
            raise self._failure
        if self._tokenizer is None:
            try:
                self._tokenizer = self._load()
            except (OSError, ValueError) as error:
                self._failure = error
                raise
        return self._tokenizer
