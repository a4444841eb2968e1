"""What is broken and what it stands on: a simulator, a Redis of its own, a cutter before it, and the proxy as users run it."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import redis
from e2e.stack import Proxy, Simulator, wait_until

from proxy.ledger import embedded

SCENARIO = Path(__file__).parent / "scenario.toml"
WORKERS = 2
SETTINGS = """
[store]
operation_timeout_seconds = 2.0
connect_timeout_seconds = 1.0
records_kept = 1000000

[upstream]
idle_timeout_seconds = 1.5

[gateway]
shutdown_grace_seconds = 5.0
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A redis-server with its data in `folder`, as an operator runs one: appending every write to a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        folder.mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=self.port, socket_timeout=5)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Load what is in the folder: the append-only file if there is one, else a dump put there."""
        has_log = any((self.folder / name).exists() for name in ("appendonlydir", "appendonly.aof"))
        command = [embedded.find_server(), "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        command += ["--dir", str(self.folder), "--appendonly", "yes" if has_log else "no"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._answers, what="redis answers")
        self.client.config_set("appendonly", "yes")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it: in good order, or killed."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(number)
        self._process.wait(30)

    def save(self) -> Path:
        """A copy of all it holds now."""
        self.client.save()
        copy = self.folder / "earlier.rdb"
        shutil.copy(self.folder / "dump.rdb", copy)
        return copy

    def restore(self, copy: Path) -> None:
        """Kill it and start it on that copy: it has lost everything since."""
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
        (self.folder / "appendonly.aof").unlink(missing_ok=True)
        shutil.copy(copy, self.folder / "dump.rdb")
        self.start()

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


class Stage:
    """All processes of one run, in one folder. The proxy can be started anew on the same ports and data."""

    def __init__(self, folder: Path, redis_address: str, server: RedisServer) -> None:
        self.folder = folder
        self.redis = server
        self.simulator = Simulator(folder, scenario=SCENARIO)
        self._redis_url = f"redis://{redis_address}/0"
        self.proxy = self._new_proxy(None)
        self.killed = 0

    def _new_proxy(self, before: Proxy | None) -> Proxy:
        addresses = (before.api, before.console) if before else None
        return Proxy(
            self.folder, self.simulator.url, workers=WORKERS, redis=self._redis_url, toml=SETTINGS, addresses=addresses
        )

    def kill_a_worker(self, which: int) -> None:
        """kill -9 of one gateway worker; the supervisor starts another."""
        workers = [pid for pid, line in sorted(self.proxy.children().items()) if "gateway_process" in line]
        if workers:
            os.kill(workers[which % len(workers)], signal.SIGKILL)
            self.killed += 1

    def kill_the_service(self) -> None:
        """kill -9 of supervisor, console and workers at once, as when the machine's memory runs out."""
        pids = [self.proxy.child.pid, *self.proxy.children()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.proxy.child.wait(30)
        self.killed += len(pids)

    async def start_the_service(self) -> None:
        """Start it again on the same ports; a port that is not free at once is tried again."""
        deadline = time.monotonic() + 30
        while True:
            self.proxy = self._new_proxy(self.proxy)
            while self.proxy.child.poll() is None:
                if await asyncio.to_thread(self.proxy.is_ready):
                    return
                await asyncio.sleep(0.05)
            assert time.monotonic() < deadline, self.proxy.output
            await asyncio.sleep(0.1)

    def verify(self) -> str:
        """What the command `verify` says, in a word; the whole of it where something is wrong."""
        command = [sys.executable, "-m", "proxy", "verify", "--config", str(self.folder / "meter.toml")]
        command += ["--redis", self._redis_url, "--data-dir", str(self.folder / "data")]
        found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return "fine" if found.returncode == 0 else found.stdout + found.stderr

    def stop(self) -> None:
        """End everything."""
        for process in (self.proxy, self.simulator):
            process.stop()
