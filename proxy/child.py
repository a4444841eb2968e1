"""What every child process of the supervisor has in common: how it gets its orders, and how it ends with its parent.

Orders come as one line of JSON on standard input, so that no secret stands in a command line or an environment. The pipe
stays open: its end means that the supervisor is gone, in whatever way, and the child ends too. On Linux the kernel is
asked for a signal as well, for a child that is too busy to notice.
"""

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from proxy.logs import log_what_ends_us
from proxy.settings import ENVIRONMENT_PREFIX, Settings, without_credentials

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PR_SET_DUMPABLE: Final = 4  # the same
_KEY_VARIABLES: Final = frozenset({"DEEPSEEK_API_KEY"})

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
    audit_key: bytes = b""
    """For the MACs of the audit trail; made of the hash secret, which the console does not get."""

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


def keep_secrets_in() -> None:
    """Have nothing of this process's memory written anywhere: it holds keys, and prompts while they pass.

    No core dump; on Linux no reading of its memory and environment by other processes of the same user either (debuggers and
    profilers among them, unless they are root's); and an exception that ends it is logged by its places, not by what it says.
    """
    with contextlib.suppress(OSError, ValueError):  # where that is not allowed, it is forbidden from outside (systemd)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)
    log_what_ends_us()


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """What a child process gets of an environment: no settings and no keys, of which it is told over its pipe."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _KEY_VARIABLES and not name.startswith(ENVIRONMENT_PREFIX)
    }


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
