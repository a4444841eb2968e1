"""The supervisor: opens the ports, starts Redis, the console and the workers, and keeps them running.

It relays nothing and counts nothing, so there is little it can die of. What it starts cannot outlive it: children see
the end of their pipe (and on Linux get a signal from the kernel). It has one thread and one loop.
"""

import contextlib
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec
import structlog

from proxy.audit_trail import ServiceTrail, service_trail
from proxy.child import ConsoleOrders, GatewayOrders, journals_dir, without_secrets, write_orders
from proxy.errors import DataDirInUseError, MeterError, SettingsError, StoreUnavailableError
from proxy.gateway.keys import keyed_hash
from proxy.hash_secret import hash_secret
from proxy.ledger import embedded
from proxy.ledger.audit import audit_key
from proxy.ledger.folders import open_own
from proxy.ledger.journal import journals_in
from proxy.settings import Settings, is_loopback, split_address
from proxy.upstreams import Keys, keys_of, missing_keys

LOOK_EVERY_S: Final = 0.1
BACKLOG: Final = 1024
SHORT_LIFE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 5.0
KILL_AFTER_S: Final = 10.0
"""How much longer than the grace time a child may take before it is killed: its journal survives that."""

log = structlog.get_logger(__name__)


class Child:
    """A child process that is started again when it ends."""

    def __init__(self, name: str, module: str, orders: msgspec.Struct, fds: tuple[int, ...] = ()) -> None:
        self.name = name
        self.restarts = 0
        self._module = module
        self._orders = orders
        self._fds = fds
        self._pause_s = 0.0
        self._started_s = 0.0
        self._start_at_s = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Child {self.name} restarts={self.restarts}>"

    def start(self) -> None:
        """Start the process and give it its orders."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            pass_fds=self._fds,
            env=without_secrets(os.environ),
            start_new_session=True,  # a Ctrl-C is for the supervisor; it ends its children in order
        )
        self._started_s = time.monotonic()
        assert self.process.stdin is not None  # noqa: S101 - PIPE was asked for
        with contextlib.suppress(BrokenPipeError):
            write_orders(self.process.stdin.fileno(), self._orders)

    def look(self) -> None:
        """Start it again if it has ended; after a short life only after a pause."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            code = self.process.returncode
            short = now - self._started_s < SHORT_LIFE_S
            self._pause_s = min(max(self._pause_s * 2, 0.25), LONGEST_PAUSE_S) if short else 0.0
            log.error("child_ended", child=self.name, code=code, starts_again_in_s=self._pause_s)
            self._close_pipe()
            self.process = None
            self._start_at_s = now + self._pause_s
        if self.process is None and now >= self._start_at_s:
            self.restarts += 1
            self.start()

    def ask_to_stop(self) -> None:
        """Ask it to end in good order."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self, deadline_s: float) -> None:
        """Wait until it has ended; kill it at the deadline (monotonic)."""
        if self.process is None:
            return
        try:
            self.process.wait(max(deadline_s - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            log.error("child_killed", child=self.name)
            self.process.kill()
            self.process.wait()
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()


class Supervisor:
    """Everything `serve` runs. `run` returns when a signal has asked it to stop and all is down."""

    def __init__(
        self, settings: Settings, check_store: Callable[[str], list[str]], companions: tuple[Child, ...] = ()
    ) -> None:
        """`check_store` raises StoreUnavailableError for a Redis that will not do, and tells what speaks against it.

        `companions` are started with the rest and stopped first: the demo's simulator and traffic.
        """
        self._settings = settings
        self._check_store = check_store
        self._data_dir = Path(settings.store.data_dir)
        self._redis: embedded.EmbeddedRedis | None = None
        self._companions = companions
        self._children: list[Child] = []
        self._api: socket.socket | None = None
        self._stop_asked = False
        self._keys = Keys({})
        self._trail: ServiceTrail | None = None

    def run(self, announce: Callable[[], None]) -> None:
        """Start everything, call `announce`, and keep it running. Raises MeterError for what the operator has to mend."""
        _refuse_open_console(self._settings)
        _allow_many_connections()
        self._keys = keys_of(self._settings, os.environ)
        for problem in missing_keys(self._settings, self._keys):
            log.warning("key_missing", problem=problem)
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked_data_dir(self._data_dir, journals_dir(self._settings)))
            api = stack.enter_context(_listening(self._settings.gateway.listen, "[gateway] listen"))
            self._api = api
            console = stack.enter_context(_listening(self._settings.console.listen, "[console] listen"))
            reports = _report_channel()
            for end in reports:
                stack.enter_context(end)
            self._handle_signals(stack)
            self._trail = service_trail(self._data_dir, audit_key(hash_secret(self._settings)))
            stack.callback(self._trail.ended)
            try:
                redis_url = self._start_store()
                self._trail.started(self._settings)
                self._start_children(api, console, reports, redis_url)
                announce()
                self._watch()
            finally:
                self._stop_all()

    def _handle_signals(self, stack: contextlib.ExitStack) -> None:
        """A terminal that is closed asks for a stop like any other; under `nohup` it asks for nothing."""

        def ask(_number: int, _frame: FrameType | None) -> None:
            self._stop_asked = True

        closed = () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)
        for number in (signal.SIGINT, signal.SIGTERM, *closed):
            stack.callback(signal.signal, number, signal.signal(number, ask))

    def _start_store(self) -> str:
        url = self._settings.store.redis_url
        if not url:
            self._redis = embedded.start(self._data_dir, embedded.find_server(), without_secrets(os.environ))
            url = self._redis.url
        for doubt in self._doubts_of(url):
            log.warning("store_doubt", doubt=doubt)
        return url

    def _doubts_of(self, url: str) -> list[str]:
        """What speaks against this Redis. One that is away is no reason not to relay, where it has served before.

        At the very first start it most likely is the wrong address: StoreUnavailableError.
        """
        try:
            return self._check_store(url)
        except StoreUnavailableError as error:
            if not journals_in(journals_dir(self._settings)):
                raise
            return [f"{error}; records wait in the journal until it is back"]

    def _start_children(
        self, api: socket.socket, console: socket.socket, reports: tuple[socket.socket, socket.socket], redis_url: str
    ) -> None:
        """Slots number the workers; a worker that is started again keeps its slot."""
        settings, secret = self._settings, hash_secret(self._settings)
        reading, writing = (end.fileno() for end in reports)
        account = keyed_hash(f"{settings.upstream.url} {self._keys.balance}", secret)
        orders = ConsoleOrders(
            settings, redis_url, console.fileno(), reading, self._keys.balance, account, audit_key(secret)
        )
        self._children.append(Child("console", "proxy.console_process", orders, (console.fileno(), reading)))
        for slot in range(settings.gateway.workers):
            worker = GatewayOrders(settings, slot, redis_url, secret, api.fileno(), writing, self._keys.upstreams)
            fds = (api.fileno(), writing)
            self._children.append(Child(f"worker {slot}", "proxy.gateway_process", worker, fds))
        for child in (*self._children, *self._companions):
            child.start()

    def _watch(self) -> None:
        while not self._stop_asked:
            for child in (*self._children, *self._companions):
                child.look()
            if self._redis is not None and not self._redis.alive():
                self._restart_store()
            time.sleep(LOOK_EVERY_S)

    def _restart_store(self) -> None:
        """Nothing is lost meanwhile: the workers' journals hold what Redis has not."""
        log.error("store_ended", starts_again="now")
        try:
            self._redis = embedded.start(self._data_dir, embedded.find_server(), without_secrets(os.environ))
        except MeterError as error:
            log.error("store_not_started", error=str(error))
            time.sleep(1.0)

    def _stop_all(self) -> None:
        """Workers first, so that their last records find the store; the store last.

        Our copy of the API port goes before: a connection nobody will take has to be refused, not kept waiting.
        """
        if self._api is not None:
            self._api.close()
        if self._trail is not None:
            self._trail.stopped()
        workers, others = self._children[1:], self._children[:1]
        deadline = time.monotonic() + self._settings.gateway.shutdown_grace_seconds + KILL_AFTER_S
        for group in (self._companions, workers, others):
            for child in group:
                child.ask_to_stop()
            for child in group:
                child.wait(deadline)
        if self._redis is not None:
            self._redis.stop()


def _refuse_open_console(settings: Settings) -> None:
    host, _ = split_address(settings.console.listen, "[console] listen")
    if not is_loopback(host) and not settings.console.token_file:
        raise SettingsError(
            f"[console] listen: {settings.console.listen} is reachable from other machines, so it needs "
            "[console] token_file (a file with the bearer token), or an address on 127.0.0.1"
        )


def _allow_many_connections() -> None:
    """As many open files as we may have, for us and all we start: the usual 1,024 is soon used up by idle connections."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):  # not allowed (systemd): then the limit is set from outside
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextlib.contextmanager
def locked_data_dir(path: Path, journals: Path) -> Iterator[None]:
    """Hold the lock of the data dir: two supervisors on the same journals and Redis files would spoil both.

    Raises DataDirInUseError where another holds it, MeterError where it cannot be written.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = open_own(path / "lock", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise MeterError(
            f"[store] data_dir {path}: {error.strerror}; it has to be a directory we can write to"
        ) from error
    try:
        _take(lock, path)
        journals.mkdir(mode=0o700, exist_ok=True)
        yield
    finally:
        os.close(lock)


def _take(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataDirInUseError(f"[store] data_dir {path}: another deepseek-meter runs on it") from error


@contextlib.contextmanager
def _listening(address: str, setting: str) -> Iterator[socket.socket]:
    """A listening socket that children inherit."""
    host, port = split_address(address, setting)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=False)
    except OSError as error:
        raise MeterError(f"{setting} {address}: {error.strerror or error}") from error
    with listener:
        listener.setblocking(False)
        yield listener


def _report_channel() -> tuple[socket.socket, socket.socket]:
    """Datagrams from the workers to the console; both ends stay open here, so that either may be started again."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
