"""Starts the real thing for a test: `serve` and `simulate` as processes on free loopback ports, and ends them by pid."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import termios
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

START_S = 30.0
SCENARIO = Path(__file__).parent / "quick.toml"
KEY = "sk-not-a-key"


def free_address() -> str:
    """An address nobody listens on. Ports are not held, so tests that need several ask for them together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def wait_until(holds: Callable[[], object], seconds: float = START_S, what: str = "") -> None:
    """Wait until a condition holds; an AssertionError says which did not."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"did not come true within {seconds} s: {what or holds}"
        time.sleep(0.02)


def get(url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Status and body of a GET; (0, b"") where nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


class Process:
    """A command of ours as a child process, its standard error kept."""

    def __init__(
        self,
        arguments: list[str],
        log: Path,
        environment: dict[str, str] | None = None,
        terminal: int | None = None,
    ) -> None:
        """With a terminal, that is where it runs and what it writes to."""
        self._log = log
        with log.open("ab") as output:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "proxy", *arguments],
                stdin=terminal,
                stdout=output if terminal is None else terminal,
                stderr=output if terminal is None else terminal,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=None if terminal is None else lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0),  # noqa: PLW1509
            )

    @property
    def output(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.child.poll() is None:
            self.child.send_signal(number)
        try:
            return self.child.wait(60)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise

    def children(self) -> dict[int, str]:
        """Living descendants by pid, with their command lines."""
        return _descendants(self.child.pid)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of ours that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def add_key(folder: Path, *options: str) -> str:
    """A new client key of the installation in `folder`."""
    made = command("keys", "add", "--data-dir", str(folder / "data"), *options)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


class Simulator(Process):
    def __init__(self, folder: Path, address: str | None = None, scenario: Path = SCENARIO) -> None:
        self.address = address or free_address()
        self.url = f"http://{self.address}"
        super().__init__(["simulate", "--listen", self.address, "--scenario", str(scenario)], folder / "simulator.log")
        wait_until(lambda: get(f"{self.url}/_simulator/ledger")[0] == 200, what=self.output)

    def ledger(self) -> dict:
        return json.loads(get(f"{self.url}/_simulator/ledger")[1])


class Proxy(Process):
    """`serve` with its data in `folder`; `start` returns when it is ready."""

    def __init__(
        self,
        folder: Path,
        upstream: str,
        *,
        workers: int = 1,
        redis: str = "",
        toml: str = "",
        addresses: tuple[str, str] | None = None,
        hold_s: float = 0.0,
        environment: dict[str, str] | None = None,
        terminal: int | None = None,
    ) -> None:
        self.folder = folder
        self.api, self.console = addresses or (free_address(), free_address())
        self.url, self.console_url = f"http://{self.api}", f"http://{self.console}"
        self.workers = workers
        settings = folder / "meter.toml"
        settings.write_text(toml)
        arguments = ["serve", "--listen", self.api, "--console", self.console, "--upstream", upstream]
        arguments += ["--data-dir", str(folder / "data"), "--workers", str(workers), "--config", str(settings)]
        if redis:
            arguments += ["--redis", redis]
        hold = {"METER_CONSOLE_NEW_SERIES_HOLD_SECONDS": str(hold_s)}
        super().__init__(arguments, folder / "proxy.log", {**hold, **(environment or {})}, terminal)

    def wait_ready(self) -> "Proxy":
        wait_until(lambda: self.is_ready() or self.child.poll() is not None, what="ready")
        assert self.child.poll() is None, self.output
        return self

    def is_ready(self) -> bool:
        return get(f"{self.console_url}/readyz")[0] == 200

    def metrics(self) -> dict[str, dict[tuple, float]]:
        """Every sample: name (without our prefix) -> sorted label pairs -> value."""
        status, text = get(f"{self.console_url}/metrics")
        assert status == 200, text
        found: dict[str, dict[tuple, float]] = {}
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                name = sample.name.removeprefix("deepseek_meter_")
                found.setdefault(name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        return found

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series of a metric that carry these labels."""
        wanted = set(labels.items())
        return sum(value for pairs, value in self.metrics().get(name, {}).items() if wanted <= set(pairs))

    def wait_applied(self, records: int, seconds: float = 30.0) -> None:
        """Wait until so many exchanges are in the counters."""
        wait_until(lambda: self.total("requests_total") >= records, seconds, f"{records} exchanges in the counters")


@contextlib.contextmanager
def stopping(*processes: Process) -> Iterator[None]:
    """End what was started, in the order given, whatever the test did."""
    try:
        yield
    finally:
        for process in processes:
            process.stop()


def alive(pid: int) -> bool:
    """True while a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _descendants(pid: int) -> dict[int, str]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(entry.name))
    found: dict[int, str] = {}
    waiting = list(parents.get(pid, []))
    while waiting:
        child = waiting.pop()
        with contextlib.suppress(OSError):
            found[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        waiting += parents.get(child, [])
    return found
