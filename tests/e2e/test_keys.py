"""Client keys over real sockets: two replicas on one Redis, revoked live, limited together, and with Redis killed."""

import asyncio
import contextlib
import json
import os
import signal
import time

import pytest
from e2e.stack import Proxy, add_key, command, free_address, stopping, wait_until
from e2e.test_failures import DONE, FINISH, HEAD, WORD, record_of
from e2e.wire import Client, ask, chunk, post, upstream

from proxy.ledger import embedded

MODEL, PRO = "deepseek-flash", "deepseek-v4-pro"
FLASH_VERSION, PRO_VERSION = "DeepSeek-V4.1-Flash-1017", "DeepSeek-V4-Pro-0813"
UPSTREAM_KEY = "sk-not-a-key"
TOML = """
[gateway]
mode = "managed"
key_hash_secret = "shared by both"
open_paths = ["/embeddings"]
[upstream]
key_file = "{key_file}"
[keys]
on_store_down = "{on_store_down}"
[store]
operation_timeout_seconds = 2.0
"""


async def answers(_heard, writer):
    writer.write(HEAD + b"".join(chunk(one) for one in (WORD, FINISH, DONE)) + b"0\r\n\r\n")


def body_of(model=MODEL, **fields):
    return json.dumps({"model": model, "stream": True, "messages": [], **fields}).encode()


def request_of(key, *headers, path="/chat/completions", body=None):
    """A request with a key as a bearer."""
    whole = post(path, body_of() if body is None else body, *headers)
    return whole.replace(b"Bearer sk-not-a-key", b"Bearer " + key.encode())


class Stage:
    """Replicas on one Redis, which can be killed and started again on its files."""

    def __init__(self, folder, replicas=2, on_store_down="cached", workers=1):
        self.folder = folder
        self.redis = embedded.start(folder, embedded.find_server())
        self.upstream = free_address()
        (folder / "upstream-key").write_text(UPSTREAM_KEY)
        self.toml = TOML.format(key_file=folder / "upstream-key", on_store_down=on_store_down)
        self.workers = workers
        self.replicas = [self.start(f"replica{number}") for number in range(replicas)]

    def start(self, name):
        place = self.folder / name
        place.mkdir(exist_ok=True)
        options = {"redis": self.redis.url, "toml": self.toml, "workers": self.workers}
        return Proxy(place, f"http://{self.upstream}", **options)

    def command(self, replica, *arguments):
        """`keys ...` on a replica's data dir."""
        place = ["--data-dir", str(replica.folder / "data"), "--config", str(replica.folder / "meter.toml")]
        return command("keys", *arguments, *place, "--redis", self.redis.url)

    def add(self, *options, replica=0):
        """A key that every replica knows."""
        made = self.command(self.replicas[replica], "add", "--app", "team-a", *options)
        assert made.returncode == 0, made.stderr
        key = made.stdout.strip()
        for one in self.replicas:
            wait_until(lambda one=one: self.get(one, key) == 200, what="the key is known")
        return key

    def get(self, replica, key, path="/models", *headers):
        """The status of a GET, which costs nothing and asks no model."""
        head = f"GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n".encode()
        return self.run(replica, head + b"".join(one + b"\r\n" for one in headers) + b"\r\n")[1].status

    def run(self, replica, *requests):
        """What the upstream heard, and what the clients of these requests saw, one after the other."""

        async def work():
            async with upstream(answers, self.upstream) as state:
                seen = [await ask(replica.api, request) for request in requests]
                return (state.heard, *seen)

        return asyncio.run(work())

    def kill_redis(self):
        os.kill(self.redis._pid, signal.SIGKILL)
        wait_until(lambda: not self.redis.alive(), what="Redis is gone")

    def start_redis(self):
        self.redis = embedded.start(self.folder, embedded.find_server())

    def stop(self):
        for replica in self.replicas:
            replica.stop()
        self.redis.stop()


@contextlib.contextmanager
def staged(folder, **options):
    found = Stage(folder, **options)
    try:
        for replica in found.replicas:
            replica.wait_ready()
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    with staged(tmp_path_factory.mktemp("keys")) as found:
        yield found
        for replica in found.replicas:
            assert "Traceback" not in replica.output


@pytest.fixture(scope="module")
def key(stage):
    return stage.add()


def error_of(seen):
    return seen.status, json.loads(seen.body)["error"]["code"]


def test_a_key_opens_and_the_upstream_sees_its_own(stage, key):
    """The client's goes nowhere, the upstream's does not come back; the app is the key's."""
    for line in (f"Authorization: Bearer {key}", f"x-api-key: {key}"):
        request = request_of(key, b"X-Meter-App: somebody-else").replace(
            f"Authorization: Bearer {key}".encode(), line.encode()
        )
        heard, seen = stage.run(stage.replicas[1], request)
        assert seen.status == 200
        assert heard[0].values(b"authorization") == [f"Bearer {UPSTREAM_KEY}".encode()]
        assert b"dsm_" not in heard[0].head
        assert UPSTREAM_KEY.encode() not in seen.body + repr(seen.headers).encode()
        assert record_of(stage.replicas[1], seen)["app"] == "team-a"


def test_a_revocation_reaches_every_replica(stage):
    """Made on one, felt on both. The time is bounded by a poll a second; here it only has to come."""
    key = stage.add()
    assert stage.command(stage.replicas[0], "revoke", key).returncode == 0
    for replica in stage.replicas:
        wait_until(lambda replica=replica: stage.get(replica, key) == 401, what="revoked")
    _, seen = stage.run(stage.replicas[1], request_of(key))
    assert error_of(seen) == (401, "revoked_api_key")
    assert record_of(stage.replicas[1], seen)["outcome"] == "refused"


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        (("sk-not-a-key", (), None, "/chat/completions"), 401, "invalid_api_key"),
        ((None, (b"x-api-key: sk-another",), None, "/chat/completions"), 400, "ambiguous_request"),
        ((None, (b"X-Meter-Purpose: fun",), None, "/chat/completions"), 403, "purpose_not_allowed"),
        ((None, (), None, "/files"), 403, "path_not_open"),
        ((None, (), None, "/user/balance"), 403, "path_not_open"),
        ((None, (), b'{"model":"a","model":"b"}', "/chat/completions"), 400, "ambiguous_request"),
        ((None, (), b"half", "/chat/completions"), 400, "ambiguous_request"),
        ((None, (b"Content-Encoding: gzip",), None, "/chat/completions"), 400, "ambiguous_request"),
    ],
)
def test_what_is_refused_never_goes_upstream(stage, key, asked, status, code):
    """In DeepSeek's shape, with a record."""
    key_text, headers, body, path = asked
    heard, seen = stage.run(stage.replicas[0], request_of(key_text or key, *headers, path=path, body=body))

    assert heard == []
    assert error_of(seen) == (status, code)
    assert seen.values(b"x-meter-error") == [b"1"]
    assert record_of(stage.replicas[0], seen)["outcome"] == "refused"
    wait_until(
        lambda: stage.replicas[0].total("proxy_client_key_refusals_total", code=code) > 0, what="the refusal is counted"
    )


def test_an_operator_opens_a_path(stage, key):
    """`[gateway] open_paths`."""
    heard, seen = stage.run(stage.replicas[0], request_of(key, path="/embeddings"))

    assert (seen.status, len(heard)) == (200, 1)


def test_a_key_keeps_to_its_models_versions_and_purposes(stage):
    """The version as far as the name tells it; the purpose without a word is the key's first."""
    key = stage.add("--models", "deepseek-*", "--versions", FLASH_VERSION, "--purposes", "validation,shadow")
    replica = stage.replicas[0]

    def asked(model, *headers):
        return stage.run(replica, request_of(key, *headers, body=body_of(model)))[1]

    seen = asked(MODEL)
    assert (seen.status, record_of(replica, seen)["purpose"]) == (200, "validation")
    seen = asked(MODEL, b"X-Meter-Purpose: shadow")
    assert record_of(replica, seen)["purpose"] == "shadow"
    assert error_of(asked(MODEL, b"X-Meter-Purpose: production")) == (403, "purpose_not_allowed")
    assert error_of(asked("gpt-4")) == (403, "model_not_allowed")
    assert error_of(asked(PRO)) == (403, "version_not_allowed")


def test_a_key_expires(stage):
    """By itself."""
    key = stage.add("--expires", "5s")

    wait_until(lambda: stage.get(stage.replicas[0], key) == 401, what="it expired")
    assert error_of(stage.run(stage.replicas[0], request_of(key))[1]) == (401, "expired_api_key")


def test_requests_per_minute_hold_over_replicas(stage):
    """Twenty a minute, asked of both in turns: twenty are let in."""
    key = stage.add("--rpm", "20")
    counted = len(stage.replicas)  # `add` asked each once it knew it

    async def work():
        async with upstream(answers, stage.upstream) as state:
            asked = [ask(stage.replicas[number % 2].api, request_of(key)) for number in range(40)]
            return state, await asyncio.gather(*asked)

    state, seen = asyncio.run(work())
    refused = [one for one in seen if one.status == 429]

    assert len(state.heard) == 20 - counted
    assert len(refused) == 40 - len(state.heard)
    assert error_of(refused[0]) == (429, "rate_limit_reached")
    assert 1 <= int(refused[0].values(b"retry-after")[0]) <= 60


def test_concurrent_exchanges_hold_over_replicas(stage):
    """Held open on one, refused on the other, let in as soon as one has ended: no client waits for what it has seen end."""
    key = stage.add("--concurrent", "1")
    release = asyncio.Event()

    async def holds(heard, writer):
        writer.write(HEAD + chunk(WORD))
        if b"hold" in heard.body:
            await release.wait()
        writer.write(chunk(FINISH) + chunk(DONE) + b"0\r\n\r\n")

    async def work():
        async with upstream(holds, stage.upstream):
            client = await Client(stage.replicas[0].api).open()
            await client.send(request_of(key, body=body_of(user="hold")))
            await client.head()
            refused = await ask(stage.replicas[1].api, request_of(key))
            release.set()
            await client.body()
            await client.close()
            after = [await ask(stage.replicas[number % 2].api, request_of(key)) for number in range(1, 40)]
            return refused, after

    refused, after = asyncio.run(work())

    assert error_of(refused) == (429, "concurrency_limit_reached")
    assert refused.values(b"retry-after") == [b"1"]
    assert [one.status for one in after] == [200] * 39


def test_a_client_that_leaves_gives_its_place_back(stage):
    """And so does an exchange whose upstream breaks off."""
    key = stage.add("--concurrent", "1")

    async def stalls(heard, writer):
        writer.write(HEAD + chunk(WORD))
        if b"break" in heard.body:
            await writer.drain()
            writer.transport.abort()
        elif b"hold" in heard.body:
            await asyncio.Event().wait()
        else:
            writer.write(chunk(FINISH) + chunk(DONE) + b"0\r\n\r\n")

    async def work():
        async with upstream(stalls, stage.upstream):
            client = await Client(stage.replicas[0].api).open()
            await client.send(request_of(key, body=body_of(user="hold")))
            await client.head()
            await client.abort()
            await until_let_in(stage.replicas[1], key)
            await ask(stage.replicas[0].api, request_of(key, body=body_of(user="break")))
            await until_let_in(stage.replicas[1], key)

    asyncio.run(work())


async def until_let_in(replica, key):
    deadline = time.monotonic() + 20
    while (await ask(replica.api, request_of(key))).status != 200:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def test_no_key_is_ever_shown(stage, key):
    """Not in a log, a metric, a process list, or a file of a data dir."""
    stage.run(stage.replicas[0], request_of(key))
    for replica in stage.replicas:
        shown = replica.output + str(replica.metrics()) + str(replica.children())
        kept = b"".join(path.read_bytes() for path in (replica.folder / "data").rglob("*") if path.is_file())
        assert "dsm_" not in shown
        assert key.partition("_")[2].partition("_")[2].encode() not in kept


def test_redis_killed_in_the_middle(tmp_path):
    """`cached`: keys go on opening, a key is revoked from the data dir, limits are the worker's own, also behind a restart."""
    with staged(tmp_path, replicas=1) as stage:
        (replica,) = stage.replicas
        key, leaked = stage.add("--concurrent", "1"), stage.add()
        stage.kill_redis()
        wait_until(lambda: "client_keys_not_compared" in replica.output, what="it is noticed")
        assert stage.get(replica, key) == 200
        wait_until(lambda: replica.total("proxy_client_key_limits_alone_total") > 0, what="decided alone")
        assert "key_limits_per_worker" in replica.output
        assert stage.command(replica, "revoke", leaked).returncode == 1  # not everywhere yet
        wait_until(lambda: stage.get(replica, leaked) == 401, what="revoked from the data dir")
        restarted = restart_without_redis(stage)
        assert (stage.get(restarted, key), stage.get(restarted, leaked)) == (200, 401)
        assert restarted.total("proxy_client_keys_age_seconds") > 0
        stage.start_redis()
        wait_until(lambda: '"state":"revoked"' in stage.command(restarted, "list", "--format", "json").stdout)
        wait_until(restarted.is_ready, what="ready again")
        assert "Traceback" not in restarted.output


def test_redis_killed_and_nothing_is_to_be_decided_without(tmp_path):
    """`refuse`: 503 as soon as the keys are not Redis' own any more, also behind a restart, and back with it."""
    with staged(tmp_path, replicas=1, on_store_down="refuse") as stage:
        (replica,) = stage.replicas
        key = stage.add()
        stage.kill_redis()
        wait_until(lambda: stage.get(replica, key) == 503, what="refused")
        seen = stage.run(replica, request_of(key))[1]
        assert error_of(seen) == (503, "keys_unavailable")
        assert seen.values(b"retry-after") == [b"2"]
        restarted = restart_without_redis(stage)
        wait_until(lambda: stage.get(restarted, key) == 503, what="refused again")
        stage.start_redis()
        wait_until(lambda: stage.get(restarted, key) == 200, what="back")


def test_a_first_start_without_redis_is_refused(tmp_path):
    """Where nothing was ever metered, an address that does not answer is a wrong one most likely."""
    proxy = Proxy(tmp_path, "http://127.0.0.1:1", redis="redis://127.0.0.1:1/0")
    with stopping(proxy):
        assert proxy.child.wait(30) == 1
        assert "Redis: " in proxy.output
        assert "Traceback" not in proxy.output


def restart_without_redis(stage):
    """The whole proxy anew while Redis is away: its keys are those of the data dir."""
    stage.replicas[0].stop()
    stage.replicas = [stage.start("replica0")]
    wait_until(lambda: answers_something(stage), what="it answers")
    return stage.replicas[0]


def answers_something(stage):
    try:
        return stage.get(stage.replicas[0], "dsm_none") in (401, 503)
    except OSError:
        return False


def test_a_restarted_replica_with_a_wiped_redis_still_refuses(tmp_path):
    """It had merely read the revocation. Its data dir tells the empty Redis, and the other replica hears of it."""
    with staged(tmp_path) as stage:
        first, second = stage.replicas
        key, good = stage.add(), stage.add()
        stage.command(first, "revoke", key)
        wait_until(lambda: stage.get(second, key) == 401, what="revoked")
        first.stop()
        (first.folder / "data" / "client_keys" / "changes.log").unlink()
        second.stop()
        stage.kill_redis()
        for path in (tmp_path / "redis" / "appendonlydir").iterdir():
            path.unlink()
        stage.start_redis()
        stage.replicas = [stage.start("replica1"), stage.start("replica0")]
        for replica in stage.replicas:
            replica.wait_ready()
            wait_until(lambda replica=replica: stage.get(replica, good) == 200, what="the good key is back")
            wait_until(lambda replica=replica: stage.get(replica, key) == 401, what="still revoked")


def test_two_workers_share_what_they_know(tmp_path):
    """Made before the first start, on an embedded Redis; revoked while it runs."""
    key = add_key(tmp_path, "--app", "team-a")
    address = free_address()
    proxy = Proxy(tmp_path, f"http://{address}", workers=2, toml='[gateway]\nmode = "managed"\n')
    with stopping(proxy):
        proxy.wait_ready()

        async def statuses():
            async with upstream(answers, address):
                return {(await ask(proxy.api, request_of(key))).status for _ in range(20)}

        assert asyncio.run(statuses()) == {200}
        assert command("keys", "revoke", key, "--data-dir", str(tmp_path / "data")).returncode == 0
        wait_until(lambda: asyncio.run(statuses()) == {401}, what="revoked on both workers")
