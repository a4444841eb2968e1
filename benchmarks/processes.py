"""Starts what is measured and what it needs, each on its core, and ends it by its process id.

Core 0 is the relay's under test (the proxy's: its one gateway worker). Stub, clients, Redis, console and supervisor are on
core 1. Only one of the three targets is ever busy.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.usage_of import children, pin, usage

ROOT: Final = Path(__file__).parent.parent
TEST_CORE: Final = 0
OTHER_CORE: Final = 1
START_S: Final = 60.0
SETTLE_S: Final = 60.0
QUIET_S: Final = 1.5
LOOK_EVERY_S: Final = 0.25
IDLE_CPU_S: Final = 0.005


class Target(NamedTuple):
    """What a client can be pointed at. `pid` is the relaying process; 0 where there is none. `console`: the proxy's."""

    name: str
    address: str
    pid: int = 0
    console: str = ""


def cores() -> tuple[int, int]:
    """The core of the process under test and the core of the rest; the same one on a machine with only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[TEST_CORE], usable[min(OTHER_CORE, len(usable) - 1)]


def test_core() -> int:
    """The core of the process under test; this process moves to the other."""
    tested, other = cores()
    pin(os.getpid(), other)
    return tested


@contextlib.contextmanager
def started_targets(root: Path = ROOT) -> Iterator[tuple[Target, ...]]:
    """Stub, bare relay and proxy, ready to answer. This process moves to the other core."""
    core = test_core()
    with contextlib.ExitStack() as stack:
        direct = Target("direct", stack.enter_context(started_stub()))
        bare = stack.enter_context(started_bare_relay(direct.address, core))
        proxy = stack.enter_context(started_proxy(direct.address, core, root))
        yield direct, bare, proxy


@contextlib.contextmanager
def started_stub() -> Iterator[str]:
    """The address of a running stub."""
    with _process([sys.executable, "-m", "benchmarks.stub"]) as stub:
        yield _printed_address(stub)


@contextlib.contextmanager
def started_bare_relay(upstream: str, core: int) -> Iterator[Target]:
    """A running bare relay."""
    with _process([sys.executable, "-m", "benchmarks.bare_relay", f"http://{upstream}"]) as relay:
        address = _printed_address(relay)
        pin(relay.pid, core)
        yield Target("bare relay", address, relay.pid)


@contextlib.contextmanager
def started_proxy(upstream: str, core: int, root: Path = ROOT, *, redis: str = "") -> Iterator[Target]:
    """A running `deepseek-meter serve`: one worker, embedded Redis, journal and console, all with their defaults."""
    listen, console = free_addresses(2)
    with tempfile.TemporaryDirectory(prefix="deepseek-meter-bench-") as folder:
        command = [sys.executable, "-m", "proxy", "serve", "--workers", "1", "--data-dir", f"{folder}/data"]
        command += ["--listen", listen, "--console", console, "--upstream", f"http://{upstream}"]
        command += ["--redis", redis] if redis else []
        with _process(command, folder=folder, root=root) as supervisor:
            _wait_until(lambda: _answers(f"http://{console}/readyz"), "the proxy is ready")
            worker = next(pid for pid, line in children(supervisor.pid).items() if "gateway_process" in line)
            pin(worker, core)
            yield Target("proxy", listen, worker, console)


def settle(target: Target) -> None:
    """Wait until the process has done what it put off: the proxy ships its journal to Redis up to a second later."""
    if not target.pid:
        return
    quiet_s = 0.0
    deadline = time.monotonic() + SETTLE_S
    while quiet_s < QUIET_S and time.monotonic() < deadline:
        before = usage(target.pid)
        time.sleep(LOOK_EVERY_S)
        quiet_s = quiet_s + LOOK_EVERY_S if (usage(target.pid) - before).cpu_s < IDLE_CPU_S else 0.0


def counted_exchanges(target: Target) -> int:
    """How many exchanges the proxy's console shows."""
    return _shown(target, "deepseek_meter_requests_total")


def pending_records(target: Target) -> int:
    """How many records wait in the journal, by the proxy's console."""
    return _shown(target, "deepseek_meter_proxy_journal_pending_records")


def _shown(target: Target, name: str) -> int:
    with urllib.request.urlopen(f"http://{target.console}/metrics", timeout=30) as response:
        families = text_string_to_metric_families(response.read().decode())
    samples = (sample for family in families for sample in family.samples)
    return int(sum(sample.value for sample in samples if sample.name == name))


def free_addresses(count: int) -> list[str]:
    """Loopback addresses nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes]


@contextlib.contextmanager
def _process(command: list[str], *, folder: str | Path = ROOT, root: Path = ROOT) -> Iterator[subprocess.Popen[str]]:
    """A child process; its output is shown only if it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("METER_")}
    environment["PYTHONPATH"] = str(root)
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder, env=environment, start_new_session=True
        )
        try:
            yield child
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read()[-4000:])
            raise
        finally:
            _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    child.terminate()
    try:
        child.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()


def _printed_address(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return f"127.0.0.1:{json.loads(child.stdout.readline())}"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - loopback
            return response.status == 200
    except OSError:
        return False


def _wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_S
    while not holds():
        assert time.monotonic() < deadline, f"did not come true within {START_S:.0f} s: {what}"
        time.sleep(0.05)
