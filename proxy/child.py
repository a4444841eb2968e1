"""What every child process of the supervisor has in common: how it gets its orders, and how it ends with its parent.

Orders come as one line of JSON on standard input, so that no secret stands in a command line or an environment. The pipe
stays open: its end means that the supervisor is gone, in whatever way, and the child ends too. On Linux the kernel is
asked for a signal as well, for a child that is too busy to notice.
"""

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import structlog

from proxy.settings import LogSettings, Settings, without_credentials

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

T = TypeVar("T")


class GatewayOrders(msgspec.Struct, frozen=True):
    """What a gateway worker is told. `redis_url` is the store's, embedded or not; fds are inherited."""

    settings: Settings
    slot: int
    redis_url: str
    hash_secret: bytes
    listen_fd: int
    report_fd: int
    upstream_keys: dict[str, str] = {}
    """By upstream, in managed mode."""

    def __repr__(self) -> str:
        return f"<GatewayOrders slot={self.slot} store={without_credentials(self.redis_url)}>"


class ConsoleOrders(msgspec.Struct, frozen=True):
    """What the console is told."""

    settings: Settings
    redis_url: str
    listen_fd: int
    report_fd: int
    balance_key: str = ""
    account: str = ""
    """A keyed hash of the key and its host: another account's balance is not to be compared with this one's."""

    def __repr__(self) -> str:
        return f"<ConsoleOrders store={without_credentials(self.redis_url)}>"


class WorkerReport(msgspec.Struct, frozen=True):
    """What a gateway worker tells the console about itself once a second. Everything counts from the start of its life."""

    slot: int
    life: str
    pid: int
    in_flight: int
    pending_records: int
    oldest_pending_s: float
    journal_writable: bool
    faults: dict[str, int]
    overhead_buckets: list[int]
    overhead_sum_s: float
    streams_without_usage: dict[str, int] = {}
    """By upstream: streams that ended well and said nothing of usage."""
    estimates: list[tuple[str, str, int, int, int, int]] = []
    """By version and part: exchanges compared, tokens reported, tokens estimated, and by how many they differ."""
    keys_age_s: float | None = None
    """In managed mode: how long ago the client keys were compared with the store; -1.0 where they never were."""
    key_refusals: dict[str, int] = {}
    """By code: requests that managed mode refused."""
    limits_alone: int = 0
    """Decisions about a client key's limits that were made without Redis."""


OVERHEAD_BUCKETS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
"""Time the proxy adds before the first byte: tenths of a millisecond when idle, the rest says how busy it is."""


def read_orders(orders_type: type[T]) -> T:
    """The orders on standard input."""
    line = sys.stdin.buffer.readline()
    return msgspec.json.decode(line, type=orders_type)


def write_orders(stream: int, orders: msgspec.Struct) -> None:
    """Give a child its orders; the other end of the pipe is to be kept open."""
    data = memoryview(msgspec.json.encode(orders) + b"\n")
    while data:
        data = data[os.write(stream, data) :]


def die_with_parent() -> None:
    """Have the kernel tell this process when its parent dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGHUP)


def on_stop(loop: asyncio.AbstractEventLoop, stop: Callable[[bool], None]) -> None:
    """Call `stop(True)` when asked to end in good order (SIGTERM), `stop(False)` when the supervisor is gone."""
    loop.add_signal_handler(signal.SIGTERM, lambda: stop(True))
    loop.add_signal_handler(signal.SIGHUP, lambda: stop(False))
    loop.add_reader(sys.stdin.fileno(), lambda: _at_end_of_orders(loop, stop))


def _at_end_of_orders(loop: asyncio.AbstractEventLoop, stop: Callable[[bool], None]) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        loop.remove_reader(sys.stdin.fileno())
        stop(False)


def journals_dir(settings: Settings) -> Path:
    """Where the journals of this installation stand."""
    return Path(settings.store.data_dir) / "journals"


def configure_logging(settings: LogSettings) -> None:
    """Logs as one line per fact on standard error: JSON, or readable.

    A traceback shows where, never with what: local variables hold prompts, answers and keys.
    """
    renderer = (
        structlog.processors.JSONRenderer()
        if settings.format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    tracebacks = structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            tracebacks if settings.format == "json" else structlog.processors.StackInfoRenderer(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
