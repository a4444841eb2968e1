"""CPU time and memory of a process, all its threads, as the kernel counts them (Linux)."""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    """Seconds since its start: of user and system time, and of waiting for a core that others had."""

    cpu_s: float
    waited_s: float

    def __sub__(self, earlier: "Usage") -> "Usage":
        return Usage(self.cpu_s - earlier.cpu_s, self.waited_s - earlier.waited_s)


def usage(pid: int) -> Usage:
    """What a process has used so far; nothing for pid 0.

    Of `schedstat`, which counts nanoseconds where `stat` counts ticks of ten milliseconds. Threads that have ended are
    not in it; those of a worker live as long as it does.
    """
    cpu_ns = waited_ns = 0
    for thread in _threads(pid) if pid else ():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            ran, waited, _ = (thread / "schedstat").read_text().split()
            cpu_ns, waited_ns = cpu_ns + int(ran), waited_ns + int(waited)
    return Usage(cpu_ns / 1e9, waited_ns / 1e9)


def resident_mib(pid: int) -> float:
    """Memory in use (VmRSS), in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def pin(pid: int, core: int) -> None:
    """Let a process and all its threads run on one core only; threads and children begun later inherit it."""
    for thread in _threads(pid):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), {core})


def children(pid: int) -> dict[int, str]:
    """The child processes with their command lines."""
    found = {}
    for thread in _threads(pid):
        for child in (thread / "children").read_text().split():
            found[int(child)] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
    return found


def _threads(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())
