"""What it costs to lose nothing: requests/s with the journal and without it, in turns; and whether a slow disk stalls streams.

Part of `make bench`; alone: `python -m benchmarks.durability`.
"""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.figures import Span, span
from benchmarks.load import run_requests, run_streams
from benchmarks.processes import Target, settle, started_stub, test_core
from benchmarks.rounds import Plan
from benchmarks.usage_of import pin
from benchmarks.worker import running_worker

LEAST_SHARE: Final = 0.9
MOST_STALL_MS: Final = 5.0
WORKER: Final = ("-m", "proxy.gateway_process")
STREAMS: Final = 16
"""So few that a burst of all their chunks, 64 of which come to 3 ms, is not taken for a stall."""

ALTERED: Final = ("-m", "benchmarks.altered_worker")


def journal_share(plan: Plan) -> Span:
    """Requests/s with the journal over those without it, round by round."""
    core, shares = test_core(), []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deepseek-meter-durability-")))
        upstream = stack.enter_context(started_stub())
        kept = stack.enter_context(running_worker(folder / "kept", upstream, WORKER))
        dropped = stack.enter_context(running_worker(folder / "dropped", upstream, (*ALTERED, "without-journal")))
        for target in (kept, dropped):
            pin(target.pid, core)
            uvloop.run(run_requests(target.address, plan.connections, 1.0))
        for number in range(2 * plan.rounds):
            order = (kept, dropped) if number % 2 == 0 else (dropped, kept)
            rates = {target.address: _rate(target, plan) for target in order}
            shares.append(rates[kept.address] / rates[dropped.address])
    return span(shares)


def _rate(target: Target, plan: Plan) -> float:
    settle(target)
    seen = uvloop.run(run_requests(target.address, plan.connections, plan.seconds / 2))
    return seen.answers / seen.seconds


def longest_stall_ms(plan: Plan) -> float:
    """The longest time the loop was held up under streams, on a disk whose every fsync takes 200 ms longer."""
    with tempfile.TemporaryDirectory(prefix="deepseek-meter-durability-") as folder, started_stub() as upstream:
        file = Path(folder) / "stall"
        program = (*ALTERED, "slow-fsync", str(file))
        with running_worker(Path(folder), upstream, program) as target:
            pin(target.pid, test_core())
            uvloop.run(run_streams(target.address, STREAMS, plan.tokens, 3))
        return float(file.read_text()) * 1e3


def report(plan: Plan) -> bool:
    """Print both; True if both goals are met."""
    share, stall_ms = journal_share(plan), longest_stall_ms(plan)
    met = share.median >= LEAST_SHARE, stall_ms <= MOST_STALL_MS
    print(
        f"{_word(met[0])}: requests/s with the journal at least {LEAST_SHARE} of those without; "
        f"measured {share.median:.2f} ({share.low:.2f} - {share.high:.2f})"
    )
    print(
        f"{_word(met[1])}: no stall of the loop over {MOST_STALL_MS:.0f} ms while every fsync takes 200 ms longer; "
        f"longest {stall_ms:.1f} ms"
    )
    return all(met)


def _word(met: bool) -> str:
    return "met" if met else "MISSED"


def main() -> int:
    """Run it alone."""
    parser = argparse.ArgumentParser(prog="durability", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    return 0 if report(Plan(chosen.seconds, chosen.rounds, 32)) else 1


if __name__ == "__main__":
    sys.exit(main())
