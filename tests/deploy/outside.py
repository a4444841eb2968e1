"""Runs what a container would run, outside of one: paths of mounts become folders of the test, the rest stays as written.

Where the machine lets us (Linux, mount namespaces), the root is mounted read-only and all capabilities are gone, as the
manifests have it: what is written beside a volume fails here as it would there.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
from e2e.stack import get, wait_until
from programs import program_path

from proxy.settings import ENVIRONMENT_PREFIX

_CONFINE = """
for folder in $WRITABLE; do mount --bind "$folder" "$folder"; done
mount -o remount,bind,ro /
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
"""


def mapped(text: str, mounts: Mapping[str, Path]) -> str:
    """A path of the container, or a text full of them, as they are here; the longest mount goes first."""
    paths = "|".join(re.escape(inside) for inside in sorted(mounts, key=len, reverse=True))
    return re.sub(rf"(?<![\w./-])(?:{paths})(?![\w.-])", lambda match: str(mounts[match[0]]), text)


def confined(command: Sequence[str], writable: Sequence[Path]) -> tuple[list[str], dict[str, str]]:
    """The command on a root that cannot be written to, and the environment it wants; as it is where that cannot be had."""
    if not can_confine():
        return list(command), {}
    prefix = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", _CONFINE, "sh"]
    return [*prefix, *command], {"WRITABLE": " ".join(map(str, writable))}


@cache
def can_confine() -> bool:
    """True where this user may mount: root in most places."""
    if not (shutil.which("unshare") and shutil.which("setpriv")):
        return False
    command = ["unshare", "--mount", "--propagation", "private", "mount", "-o", "remount,bind,ro", "/"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Started:
    """A command under way, its output kept; ended by pid."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, *, writable=()
    ) -> None:
        """`writable` are the only folders it may write to, where that can be had; without any, it may write anywhere."""
        command, wanted = confined(command, writable) if writable else (list(command), {})
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
        self._log = log
        with log.open("ab") as output:
            self.child = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                env={**inherited, **(environment or {}), **wanted},
                cwd=log.parent,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def wait_for(self, holds) -> None:
        """Wait until it holds; what it wrote is in the error if it ends before."""
        wait_until(lambda: holds() or self.child.poll() is not None)
        assert self.child.poll() is None, self.output

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.child.poll() is None:
            self.child.send_signal(number)
        try:
            return self.child.wait(60)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise


class Meter(Started):
    """The image's entry point with what a manifest adds: `serve` on free ports, with a simulated upstream."""

    def __init__(
        self, arguments, environment, *, upstream: str, addresses: tuple[str, str], log: Path, writable
    ) -> None:
        self.api, self.console = addresses
        self.url, self.console_url = f"http://{self.api}", f"http://{self.console}"
        command = [sys.executable, "-m", "proxy", *arguments]
        command += ["--listen", self.api, "--console", self.console, "--upstream", upstream]
        path = os.pathsep.join((str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")))
        super().__init__(command, log, {"PYTHONPATH": path, **environment}, writable=writable)

    def asked(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Status and body of what the console answers."""
        return get(self.console_url + path, headers)

    def wait_ready(self) -> "Meter":
        self.wait_for(lambda: self.asked("/readyz")[0] == 200)
        return self


def needs(*programs: str) -> list[str]:
    """The paths of these programs; the test is skipped, with the reason, where one of them cannot be started."""
    found = {program: program_path(program) for program in programs}
    for program, path in found.items():
        if path is None:
            pytest.skip(f"{program} is missing: install it to have this started")
    return [path for path in found.values() if path]


def redis(command: Sequence[str], folder: Path, port: str) -> Started:
    """A Redis started with the words of a manifest, on a port and in a folder of the test."""
    folder.mkdir(exist_ok=True)
    started = Started([*command, "--port", port, "--bind", "127.0.0.1", "--dir", str(folder)], folder / "redis.log")
    started.wait_for(lambda: answers(["redis-cli", "-p", port, "-e", "ping"]))
    return started


def answers(command: Sequence[str]) -> bool:
    """True if it ends well."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
