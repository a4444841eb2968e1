"""Every kind of Redis an operator may have: a cluster, one that sentinels watch over, TLS, a user with a password."""

import asyncio
import contextlib
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import msgspec
import pytest
import redis
from ledger.given import added, record, totals_of

from proxy.errors import StoreUnavailableError
from proxy.ledger import embedded
from proxy.ledger.answers import Applied
from proxy.ledger.places import Places
from proxy.ledger.revisions import Revisions
from proxy.ledger.store import connect
from proxy.ledger.tally import Retention, fold, quarantine, unreplayable


def free_port():
    """A port whose neighbour 10,000 above, which a cluster node listens on, exists too."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port < 55_000:
            return port


@contextlib.contextmanager
def serving(folder, port, *options, program=()):
    """A redis-server with these options, ended at the end."""
    folder.mkdir(exist_ok=True)
    command = [embedded.find_server(), *program, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def answering(client):
    deadline = time.monotonic() + 20
    while True:
        try:
            if client.ping():
                return client
        except redis.RedisError:
            assert time.monotonic() < deadline, "it never answered"
            time.sleep(0.05)


def used(url):
    """Everything the proxy asks of a store, at this URL: what it came to."""

    async def work():
        store = connect(url, "n", 10)
        try:
            epoch = await store.prepare()
            await store.doubts()
            result = await store.apply(fold("j", 1, [record(1), record(2)], Retention()), epoch)
            position = await store.compare("j", epoch, 2)
            snapshot = await store.snapshot()
            books = await store.books(["j"])
            assert await store.record("x-1")
            assert abs(await store.clock_offset_s(time.time())) < 5
            return result, position.number, snapshot, books
        finally:
            await store.close()

    result, number, snapshot, books = asyncio.run(work())
    assert (result, number, dict(snapshot.numbers), dict(books.numbers)) == (Applied(2), 2, {b"j": b"2"}, {"j": 2})
    return totals_of(snapshot.totals)


EXPECTED = added([record(1), record(2)])


def test_a_cluster(tmp_path):
    """All keys are in one slot, so scripts run; here on a cluster of one node that has all slots."""
    port = free_port()
    options = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--save", "")
    with serving(tmp_path / "node", port, *options), redis.Redis(port=port) as client:
        answering(client).execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
            time.sleep(0.05)

        assert used(f"redis+cluster://127.0.0.1:{port}") == EXPECTED


def test_a_server_that_is_no_cluster_is_told_of(tmp_path):
    """One line that says so and how the URL of one server begins; a missing right is told as what it is."""
    port = free_port()
    with serving(tmp_path / "single", port, "--save", ""), redis.Redis(port=port) as client:
        answering(client).execute_command("ACL", "SETUSER", "meter", "on", ">word", "~*", "+@all", "-cluster")
        with pytest.raises(StoreUnavailableError, match=r"^Redis: this server is no cluster; .* begins with redis://"):
            used(f"redis+cluster://127.0.0.1:{port}")
        with pytest.raises(StoreUnavailableError, match=r"^Redis: this user has no permissions to run the 'cluster"):
            used(f"redis+cluster://meter:word@127.0.0.1:{port}")


def test_a_cluster_that_is_away_or_not_whole_is_told_of(tmp_path):
    """As any other Redis that is away, so that records wait for it; and slots that no node has are named."""
    port = free_port()
    with pytest.raises(StoreUnavailableError, match=rf"^Redis: Error \d+ connecting to 127.0.0.1:{port}"):
        used(f"redis+cluster://127.0.0.1:{port}")
    options = ("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--save", "")
    with serving(tmp_path / "node", port, *options), redis.Redis(port=port) as client:
        answering(client)
        with pytest.raises(StoreUnavailableError, match="0 of 16384 covered"):
            used(f"redis+cluster://127.0.0.1:{port}")


def test_a_redis_that_sentinels_watch_over(tmp_path):
    """The sentinels are asked who the master is; password and database are the master's."""
    port, watching = free_port(), free_port()
    sentinel = tmp_path / "sentinel.conf"
    sentinel.write_text(f"sentinel monitor money 127.0.0.1 {port} 1\nsentinel auth-pass money pass-word\n")
    with (
        serving(tmp_path / "master", port, "--requirepass", "pass-word", "--save", ""),
        serving(tmp_path / "watching", watching, "--sentinel", program=(str(sentinel),)),
        redis.Redis(port=port, password="pass-word") as client,
        redis.Redis(port=watching) as watcher,
    ):
        answering(client)
        answering(watcher)

        assert used(f"redis+sentinel://:pass-word@127.0.0.1:{watching}/money/3") == EXPECTED
        client.execute_command("SELECT", 3)
        assert client.exists("{meter:n}:totals")


def test_a_user_with_few_rights(tmp_path):
    """An ACL that allows our keys and the commands we need, and no CONFIG."""
    port = free_port()
    with serving(tmp_path / "acl", port, "--save", ""), redis.Redis(port=port) as client:
        answering(client).execute_command(
            "ACL", "SETUSER", "meter", "on", ">pass-word", "~{meter:n}:*",
            "+@read", "+@write", "+@scripting", "+@connection", "+@transaction", "+info", "+time",
        )  # fmt: skip

        assert used(f"redis://meter:pass-word@127.0.0.1:{port}/0") == EXPECTED


def acl_of_the_docs(namespace):
    """The example of SECURITY.md as arguments of ACL SETUSER, for a namespace of the test's."""
    page = (Path(__file__).parents[2] / "SECURITY.md").read_text("utf-8")
    (line,) = re.findall(r"```redis-acl\n(.*?)\n```", page, re.DOTALL)
    _, *words = line.replace("{meter:default}", f"{{meter:{namespace}}}").replace("PASSWORD", "pass-word").split()
    return words


def test_the_user_of_the_docs_can_do_what_is_needed_and_nothing_else(tmp_path):
    """Everything the proxy asks of a store, revisions and places too; no other namespace, no CONFIG, no FLUSHALL, no KEYS."""
    port = free_port()
    with serving(tmp_path / "docs", port, "--save", ""), redis.Redis(port=port) as client:
        answering(client).execute_command("ACL", "SETUSER", *acl_of_the_docs("n"))
        client.set("{meter:other}:totals", "theirs")
        url = f"redis://meter:pass-word@127.0.0.1:{port}/0"

        assert used(url) == EXPECTED
        everything_else(url)
        refused = {name.partition("|")[0] for name in refusals(client)}  # Redis before 7 tells no subcommands
        assert refused <= {"config", "client"}  # asked for (`save`, `setinfo`), and done without
        with redis.Redis(port=port, username="meter", password="pass-word") as limited:
            for command in (["FLUSHALL"], ["CONFIG", "GET", "save"], ["KEYS", "*"], ["GET", "{meter:other}:totals"],
                            ["SET", "x", "1"], ["ACL", "LIST"], ["REPLICAOF", "NO", "ONE"], ["DEL", "{meter:n}:totals"]):  # fmt: skip
                with pytest.raises(redis.exceptions.NoPermissionError):
                    limited.execute_command(*command)


def refusals(client):
    """The commands that were refused."""
    return {entry["object"] for entry in client.acl_log()}


def test_the_user_of_the_docs_has_no_right_too_many(tmp_path):
    """Without any one of them something fails; `select` is for those who use another database."""
    port = free_port()
    words = acl_of_the_docs("n")
    idle = []
    with serving(tmp_path / "each", port, "--save", ""), redis.Redis(port=port) as client:
        answering(client)
        for right in [word for word in words if word.startswith("+")]:
            client.flushall()
            client.script_flush()
            client.acl_deluser("meter")
            client.execute_command("ACL", "SETUSER", *(word for word in words if word != right))
            with contextlib.suppress(StoreUnavailableError, AssertionError):
                url = f"redis://meter:pass-word@127.0.0.1:{port}/0"
                if used(url) == EXPECTED and everything_else(url) is None:
                    idle.append(right)

    assert idle == ["+select"]


def everything_else(url):
    """What `used` leaves out: revisions, places, changes, quarantine, what is lost, a journal that begins behind."""

    async def work():
        store = connect(url, "n", 2)
        try:
            epoch = await store.prepare()
            revisions, places = Revisions(store), Places(store)
            for number, print_ in enumerate(("a" * 32, "b" * 32), start=3):
                one = record(number, fingerprint=print_)
                await revisions.settle([one], [msgspec.json.encode(one).decode()], None)
                await places.fold([msgspec.structs.replace(one, app=f"app-{number}", status=200)])
            await store.changes()
            await store.begin_behind("behind", 3)
            assert await store.apply(quarantine("q", 1, b"{"), epoch) == Applied(1)
            assert await store.apply(unreplayable("u", 1, 4), epoch) == Applied(4)
            assert await store.apply(fold("j", 3, [record(n) for n in range(3, 9)], Retention()), epoch) == Applied(8)
        finally:
            await store.close()

    asyncio.run(work())


def test_tls(tmp_path):
    """With a certificate of our own authority; without trust in it, one line that says so."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is missing")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(key))
    subprocess.run([*made, "-out", str(certificate), *subject], check=True, capture_output=True)
    port = free_port()
    options = ("--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key))
    options += ("--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no", "--save", "")
    if not _speaks_tls():
        pytest.skip("this redis-server was built without TLS")
    with (
        serving(tmp_path / "tls", 0, *options),
        redis.Redis(port=port, ssl=True, ssl_ca_certs=str(certificate)) as client,
    ):
        answering(client)

        assert used(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}") == EXPECTED
        with pytest.raises(StoreUnavailableError, match=r"(?i)certificate"):
            used(f"rediss://127.0.0.1:{port}/0")


def _speaks_tls():
    """Whether the server knows the option at all."""
    asked = subprocess.run(
        [embedded.find_server(), "--port", "0", "--tls-port", "0", "--tls-replication", "maybe"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    return "argument must be 'yes' or 'no'" in asked.stdout + asked.stderr


@pytest.mark.parametrize("url", ["redis+sentinel://127.0.0.1:1", "redis+sentinel://nohost/s", "ftp://x", "redis+x",
                                 "redis+cluster://127.0.0.1:1/3", "redis+cluster://127.0.0.1:1/0?what=1"])  # fmt: skip
def test_a_url_that_is_none_is_named(url):
    """One line that says which setting, before anything is sent."""
    with pytest.raises(StoreUnavailableError, match=r"\[store\] redis_url"):
        connect(url, "n", 10)


@pytest.mark.parametrize("mark", ["#", "/", "?", "[", "/#?"])
@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster"])
@pytest.mark.parametrize("password", ["s3cret{}pw", "3141{}pw"])
def test_no_piece_of_a_password_is_said(scheme, password, mark):
    """A mark that ends the host tears a password in two; neither half is shown, nor taken for the host's port."""
    with pytest.raises(StoreUnavailableError, match=r"written as %XX: %23 for #, %2F for /$") as refused:
        connect(f"{scheme}://user:{password.format(mark)}@127.0.0.1:1/0", "n", 10)

    assert not any(piece in str(refused.value) for piece in ("s3cret", "3141", "pw", "user:"))
    assert refused.value.__suppress_context__  # a traceback shows no other words either


def test_no_piece_of_a_sentinel_url_is_said():
    """A service or database that is none is not repeated either."""
    with pytest.raises(StoreUnavailableError, match=r"not a URL of the form") as refused:
        connect("redis+sentinel://user:word@127.0.0.1:s3cret/service", "n", 10)

    assert "s3cret" not in str(refused.value)


def test_a_password_is_written_with_percent_signs_or_as_an_option(tmp_path):
    """As the message says; behind `?password=` an @ needs none."""
    port = free_port()
    with serving(tmp_path / "marks", port, "--save", ""), redis.Redis(port=port) as client:
        answering(client).execute_command("ACL", "SETUSER", "meter", "on", ">a#b/c?d@e", "~*", "+@all")
        client.execute_command("ACL", "SETUSER", "other", "on", ">a@b", "~*", "+@all")

        assert used(f"redis://meter:a%23b%2Fc%3Fd%40e@127.0.0.1:{port}/0") == EXPECTED
        client.flushall()
        assert used(f"redis://127.0.0.1:{port}/0?username=other&password=a@b") == EXPECTED


def test_a_socket_may_have_any_name():
    """Nothing of its path is taken for a password."""
    assert connect("unix:///run/a@b.sock", "n", 10)
