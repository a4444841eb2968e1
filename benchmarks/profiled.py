"""A gateway worker under cProfile, for whoever wants to make it faster. The profiler triples the cost of a call, so read
which functions lead, not how many microseconds they take; what a change gains, only `make bench` tells.

The worker is the real one, with a Redis and a journal of its own, and ends in good order so that its profile is written.
"""

import pstats
import tempfile
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.load import run_requests, run_streams
from benchmarks.processes import started_stub
from benchmarks.rounds import TURNS, Plan
from benchmarks.worker import running_worker

SHOWN: Final = 45


def main(plan: Plan) -> int:
    """Profile requests, then streams."""
    for what in ("requests", "streams"):
        with tempfile.TemporaryDirectory(prefix="deepseek-meter-profile-") as folder:
            profile = Path(folder) / "profile"
            program = ("-m", "cProfile", "-o", str(profile), "-m", "proxy.gateway_process")
            with started_stub() as upstream, running_worker(Path(folder), upstream, program) as target:
                run = (
                    run_requests(target.address, plan.connections, plan.seconds)
                    if what == "requests"
                    else run_streams(target.address, plan.streams, plan.tokens, TURNS)
                )
                seen = uvloop.run(run)
            print(f"{what}: {seen.answers} exchanges, {len(seen.delays_ns)} chunks")
            pstats.Stats(str(profile)).strip_dirs().sort_stats("tottime").print_stats(SHOWN)
    return 0
