"""A gateway worker under cProfile, for whoever wants to make it faster. The profiler triples the cost of a call, so read
which functions lead, not how many microseconds they take; what a change gains, only `make bench` tells.

The worker is the real one, with a Redis and a journal of its own, and ends in good order so that its profile is written.
"""

import asyncio
import contextlib
import pstats
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import uvloop

from benchmarks.load import run_requests, run_streams
from benchmarks.processes import ROOT, started_stub
from benchmarks.rounds import TURNS, Plan
from proxy.child import GatewayOrders, journals_dir, write_orders
from proxy.gateway_process import open_store
from proxy.ledger import embedded
from proxy.settings import Settings, load_settings

SHOWN: Final = 45


def main(plan: Plan) -> int:
    """Profile requests, then streams."""
    for what in ("requests", "streams"):
        with tempfile.TemporaryDirectory(prefix="deepseek-meter-profile-") as folder:
            profile = Path(folder) / "profile"
            with started_stub() as upstream, _worker(Path(folder), upstream, profile) as address:
                run = (
                    run_requests(address, plan.connections, plan.seconds)
                    if what == "requests"
                    else run_streams(address, plan.streams, plan.tokens, TURNS)
                )
                seen = uvloop.run(run)
            print(f"{what}: {seen.answers} exchanges, {len(seen.delays_ns)} chunks")
            pstats.Stats(str(profile)).strip_dirs().sort_stats("tottime").print_stats(SHOWN)
    return 0


@contextlib.contextmanager
def _worker(folder: Path, upstream: str, profile: Path) -> Iterator[str]:
    flags = {("upstream", "url"): f"http://{upstream}", ("store", "data_dir"): str(folder / "data")}
    settings = load_settings(flags=flags)
    journals_dir(settings).mkdir(parents=True)
    redis = embedded.start(folder / "data", embedded.find_server())
    try:
        asyncio.run(_prepare(settings, redis.url))
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as api, _running(profile, settings, redis.url, api):
            yield f"127.0.0.1:{api.getsockname()[1]}"
    finally:
        redis.stop()


@contextlib.contextmanager
def _running(profile: Path, settings: Settings, redis_url: str, api: socket.socket) -> Iterator[None]:
    reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with reading, writing:
        fds = (api.fileno(), writing.fileno())
        command = [sys.executable, "-m", "cProfile", "-o", str(profile), "-m", "proxy.gateway_process"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=fds, cwd=ROOT)
        assert child.stdin is not None
        write_orders(child.stdin.fileno(), GatewayOrders(settings, 0, redis_url, secrets.token_bytes(32), *fds))
        try:
            yield
        finally:
            child.terminate()
            child.wait(60)
            child.stdin.close()


async def _prepare(settings: Settings, redis_url: str) -> None:
    store = open_store(settings, redis_url)
    await store.prepare()
    await store.close()
