"""Starts a gateway worker by itself, real or altered or profiled, with a Redis and a journal of its own."""

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.processes import ROOT, Target
from proxy.child import GatewayOrders, journals_dir, write_orders
from proxy.gateway_process import open_store
from proxy.ledger import embedded
from proxy.settings import Settings, load_settings


@contextlib.contextmanager
def running_worker(folder: Path, upstream: str, program: tuple[str, ...], name: str = "worker") -> Iterator[Target]:
    """A gateway worker, run by `python PROGRAM...`; ends in good order."""
    flags = {("upstream", "url"): f"http://{upstream}", ("store", "data_dir"): str(folder / "data")}
    settings = load_settings(flags=flags)
    journals_dir(settings).mkdir(parents=True)
    redis = embedded.start(folder / "data", embedded.find_server())
    try:
        asyncio.run(_prepare(settings, redis.url))
        with (
            socket.create_server(("127.0.0.1", 0), backlog=1024) as api,
            _process(program, settings, redis.url, api) as pid,
        ):
            yield Target(name, f"127.0.0.1:{api.getsockname()[1]}", pid)
    finally:
        redis.stop()


@contextlib.contextmanager
def _process(program: tuple[str, ...], settings: Settings, redis_url: str, api: socket.socket) -> Iterator[int]:
    reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with reading, writing:
        fds = (api.fileno(), writing.fileno())
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = subprocess.Popen(
            [sys.executable, *program], stdin=subprocess.PIPE, pass_fds=fds, cwd=ROOT, env=environment
        )
        assert child.stdin is not None
        write_orders(child.stdin.fileno(), GatewayOrders(settings, 0, redis_url, secrets.token_bytes(32), *fds))
        try:
            yield child.pid
        finally:
            child.terminate()
            child.wait(60)
            child.stdin.close()


async def _prepare(settings: Settings, redis_url: str) -> None:
    store = open_store(settings, redis_url)
    await store.prepare()
    await store.close()
