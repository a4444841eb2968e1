"""What metering costs a streamed chunk: the look at it, timed in a worker where it happens, and by itself.

Part of `make bench`; alone: `python -m benchmarks.metering`. Beside it the CPU per chunk of a worker over that of the same
worker without a meter, in turns: the whole difference, but on a noisy machine its spread is wider than the goal.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.durability import ALTERED, WORKER
from benchmarks.figures import Span, span
from benchmarks.load import run_streams
from benchmarks.processes import Target, settle, started_stub, test_core
from benchmarks.rounds import Plan
from benchmarks.usage_of import pin, usage
from benchmarks.wire import NEXT_EVENT
from benchmarks.worker import running_worker
from proxy.metering.meter import Meter
from proxy.usage import Api

MOST_US: Final = 6.0
ALONE_CHUNKS: Final = 20_000


def looking_us(plan: Plan) -> float:
    """Microseconds that a look at a chunk takes in a worker under streams, between the system calls of the relay."""
    with tempfile.TemporaryDirectory(prefix="deepseek-meter-metering-") as folder, started_stub() as upstream:
        file = Path(folder) / "looks"
        with running_worker(Path(folder), upstream, (*ALTERED, "timed-meter", str(file))) as target:
            pin(target.pid, test_core())
            for _ in range(plan.rounds):
                uvloop.run(run_streams(target.address, plan.streams, plan.tokens, 1))
        return float(file.read_text()) / 1e3


def added_us(plan: Plan) -> Span:
    """Microseconds of CPU per chunk that a worker takes more than one without a meter, round by round."""
    core, more = test_core(), []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deepseek-meter-metering-")))
        upstream = stack.enter_context(started_stub())
        looking = stack.enter_context(running_worker(folder / "looking", upstream, WORKER))
        blind = stack.enter_context(running_worker(folder / "blind", upstream, (*ALTERED, "without-meter")))
        for target in (looking, blind):
            pin(target.pid, core)
            uvloop.run(run_streams(target.address, plan.streams, 50, 1))
        for number in range(2 * plan.rounds):
            order = (looking, blind) if number % 2 == 0 else (blind, looking)
            spent = {target.address: _us_per_chunk(target, plan) for target in order}
            more.append(spent[looking.address] - spent[blind.address])
    return span(more)


def _us_per_chunk(target: Target, plan: Plan) -> float:
    settle(target)
    before = usage(target.pid)
    seen = uvloop.run(run_streams(target.address, plan.streams, plan.tokens, 1))
    settle(target)
    return (usage(target.pid) - before).cpu_s / len(seen.delays_ns) * 1e6


def alone_us() -> float:
    """Microseconds of CPU that a meter takes for a chunk when it does nothing else, at best of ten runs."""
    event = (NEXT_EVENT % time.monotonic_ns()).partition(b"\r\n")[2].removesuffix(b"\r\n")
    return min(_fed_s(event) for _ in range(10)) / ALONE_CHUNKS * 1e6


def _fed_s(event: bytes) -> float:
    meter, begun_s = Meter(Api.CHAT), time.process_time()
    for _ in range(ALONE_CHUNKS):
        meter.feed(event)
    return time.process_time() - begun_s


def report(plan: Plan) -> bool:
    """Print all three; True if the goal is met."""
    looking, alone, more = looking_us(plan), alone_us(), added_us(plan)
    met = looking <= MOST_US
    print(
        f"{'met' if met else 'MISSED'}: metering adds at most {MOST_US:.0f} µs of CPU per streamed chunk; measured {looking:.1f} "
        f"in a worker, {alone:.1f} by itself; worker over worker without a meter {more.median:.1f} ({more.low:.1f} - {more.high:.1f})"
    )
    return met


def main() -> int:
    """Run it alone."""
    parser = argparse.ArgumentParser(prog="metering", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    return 0 if report(Plan(chosen.seconds, chosen.rounds, 32)) else 1


if __name__ == "__main__":
    sys.exit(main())
