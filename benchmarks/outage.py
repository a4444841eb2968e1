"""Redis away for a long time under steady load: what it costs the relay, and how fast it is caught up with afterwards.

`python -m benchmarks.outage --minutes 10`. Three phases at the same rate: Redis there, Redis gone, Redis back. Memory is the
gateway worker's; latency is that of whole answers. Prints a table and the goals; exit code 1 if one was missed.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import uvloop
from rich.console import Console as Terminal
from rich.table import Table

from benchmarks.figures import percentile
from benchmarks.processes import Target, counted_exchanges, pending_records, started_proxy, started_stub, test_core
from benchmarks.usage_of import resident_mib
from benchmarks.wire import END_OF_BODY, request, request_body
from proxy.ledger import embedded

CONNECTIONS: Final = 30
MOST_GROWTH_MIB: Final = 50.0
MOST_CATCH_UP_S: Final = 60.0
MOST_SLOWER: Final = 1.25
"""p50 while Redis is away over p50 while it is there: machines are noisy, and these medians come minutes apart."""


class Phase(NamedTuple):
    """What the clients saw in one phase."""

    name: str
    answers: int
    p50_us: float
    p99_us: float
    resident_mib: float


async def asked_steadily(address: str, rate: float, seconds: float) -> list[int]:
    """How long each answer took, in nanoseconds; every connection asks at its own pace."""
    delays: list[int] = []
    host, _, port = address.rpartition(":")
    ask, every_s = request(address, request_body(tokens=0)), CONNECTIONS / rate
    begun_s = time.monotonic()

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        due_s = begun_s + every_s * number / CONNECTIONS
        while due_s < begun_s + seconds:
            await asyncio.sleep(max(due_s - time.monotonic(), 0))
            sent_ns = time.monotonic_ns()
            writer.write(ask)
            await reader.readuntil(END_OF_BODY)
            delays.append(time.monotonic_ns() - sent_ns)
            due_s += every_s
        writer.close()

    await asyncio.gather(*(client(number) for number in range(CONNECTIONS)))
    return delays


def phase(name: str, target: Target, rate: float, seconds: float) -> Phase:
    """One phase of steady load."""
    delays = uvloop.run(asked_steadily(target.address, rate, seconds))
    return Phase(
        name, len(delays), percentile(delays, 0.5) / 1e3, percentile(delays, 0.99) / 1e3, resident_mib(target.pid)
    )


def seconds_until(holds: Callable[[], bool]) -> float:
    """How long it takes until something holds; given up at ten times what is allowed."""
    begun_s = time.monotonic()
    while not holds() and time.monotonic() - begun_s < 10 * MOST_CATCH_UP_S:
        time.sleep(0.25)
    return time.monotonic() - begun_s


def main(arguments: list[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="outage", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long Redis is away  [default: 10]")
    parser.add_argument("--rate", type=float, default=300.0, help="exchanges per second  [default: 300]")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="deepseek-meter-outage-") as folder, started_stub() as upstream:
        server = embedded.start(Path(folder), embedded.find_server())
        try:
            with started_proxy(upstream, test_core(), redis=server.url) as target:
                found = [phase("Redis there", target, chosen.rate, 60)]
                server.stop()
                found.append(phase("Redis away", target, chosen.rate, chosen.minutes * 60))
                server = embedded.start(Path(folder), embedded.find_server())
                with ThreadPoolExecutor(1) as beside:
                    # Two seconds' worth is always on its way: what was put off is in when no more than that is pending.
                    behind = partial(pending_records, target)
                    took = beside.submit(seconds_until, lambda: behind() <= 2 * chosen.rate)
                    found.append(phase("catching up", target, chosen.rate, 30))
                asked = sum(one.answers for one in found)
                seconds_until(lambda: counted_exchanges(target) == asked)
                counted = counted_exchanges(target)
        finally:
            server.stop()
    return _show(found, took.result(), counted)


def _show(found: list[Phase], took_s: float, counted: int) -> int:
    table = Table("", "answers", "p50, µs", "p99, µs", "memory (RSS), MiB")
    for one in found:
        table.add_row(
            one.name, f"{one.answers:,}", f"{one.p50_us:,.0f}", f"{one.p99_us:,.0f}", f"{one.resident_mib:.1f}"
        )
    Terminal(width=120).print(table)
    there, away, back = found
    asked = sum(one.answers for one in found)
    goals = (
        (f"memory grew by {away.resident_mib - there.resident_mib:.1f} MiB (at most {MOST_GROWTH_MIB:.0f})",
         away.resident_mib - there.resident_mib < MOST_GROWTH_MIB),
        (f"p50 is {away.p50_us / there.p50_us:.2f} of that with Redis", away.p50_us / there.p50_us < MOST_SLOWER),
        (f"while catching up it is {back.p50_us / there.p50_us:.2f} of that", back.p50_us / there.p50_us < MOST_SLOWER),
        (f"caught up within {took_s:.1f} s (at most {MOST_CATCH_UP_S:.0f})", took_s < MOST_CATCH_UP_S),
        (f"{counted:,} of {asked:,} exchanges are in the counters", counted == asked),
    )  # fmt: skip
    for text, met in goals:
        print(f"{'met' if met else 'MISSED'}: {text}")
    return 0 if all(met for _, met in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
