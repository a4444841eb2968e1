"""How large and how slow a request may be, and that those who are slow, idle or many hold nobody else up. Raw sockets."""

import asyncio
import contextlib
import json
import resource

import pytest
from e2e.stack import Proxy, free_address, stopping
from e2e.test_failures import assert_our_error, record_of
from e2e.wire import Client, Seen, answer, ask, chunk, post, upstream

SMALL = """
[gateway]
max_head_bytes = 4096
max_headers = 20
max_request_bytes = 10000
head_timeout_seconds = 0.6
body_timeout_seconds = 0.6
keepalive_seconds = 1.5
"""
HEAD = b"POST /chat/completions HTTP/1.1\r\nHost: p\r\n"
IDLE = 1500


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """One proxy with small limits for the module, and the address its upstream is to be played at."""
    address = free_address()
    proxy = Proxy(tmp_path_factory.mktemp("limits"), f"http://{address}", toml=SMALL)
    with stopping(proxy):
        yield proxy.wait_ready(), address


async def answering(_heard, writer) -> None:
    writer.write(answer(b"{}"))


async def until_closed(client: Client) -> Seen | None:
    """The answer, None without one, once the connection is closed."""
    try:
        seen = await client.head()
        await client.body()
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(client._reader.read(), 10) == b""
    return seen


def sent(stage, *pieces: bytes):
    """How many requests the upstream heard, and what the client saw before it was cut."""
    proxy, address = stage

    async def run():
        async with upstream(answering, address) as state:
            client = await Client(proxy.api).open()
            for piece in pieces:
                await client.send(piece)
                await asyncio.sleep(0.02)
            seen = await until_closed(client)
            await client.close()
            return len(state.heard), seen

    return asyncio.run(run())


LARGE_HEADS = {
    "one large header": (HEAD + b"X-A: " + b"a" * 5000 + b"\r\n\r\n",),
    "many headers": (HEAD + b"".join(b"X-%d: a\r\n" % n for n in range(30)) + b"\r\n",),
    "a large target": (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: p\r\n\r\n",),
    "all together": (HEAD + b"".join(b"X-%d: %b\r\n" % (n, b"a" * 500) for n in range(10)) + b"\r\n",),
    "piece by piece": (HEAD, *(b"X-%d: %b\r\n" % (n, b"a" * 500) for n in range(10))),
    "a name without end": (HEAD, *(b"a" * 1000 for _ in range(6))),
}  # fmt: skip


@pytest.mark.parametrize("pieces", LARGE_HEADS.values(), ids=LARGE_HEADS)
def test_a_large_head_is_refused(stage, pieces):
    """One header, their number, or all together: 431 and the end of the connection, and nothing goes upstream."""
    heard, seen = sent(stage, *pieces)

    assert heard == 0
    assert_our_error(seen, 431, "head_too_large")


def test_a_head_just_within_is_relayed(stage):
    """A limit takes what it says it takes."""
    proxy, address = stage
    room = 4096 - len(HEAD) - len(b"X-A: \r\nX-B: \r\nContent-Length: 2\r\n\r\n") - 8
    head = HEAD + b"X-A: " + b"a" * (room // 2) + b"\r\nX-B: " + b"a" * (room // 2) + b"\r\nContent-Length: 2\r\n\r\n"

    async def run():
        async with upstream(answering, address):
            return await ask(proxy.api, head + b"{}")

    assert asyncio.run(run()).status == 200


@pytest.mark.parametrize("request_bytes", [post("/x", b"x" * 10_001), HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"x" * 6_000) * 2])  # fmt: skip
def test_a_large_body_is_refused(stage, request_bytes):
    """By its length, or when it grows past the limit: 413, which is a record, and the end of the connection."""
    heard, seen = sent(stage, request_bytes)

    assert heard == 0
    assert_our_error(seen, 413, "request_too_large")
    assert record_of(stage[0], seen)["outcome"] == "refused"


def drip(stage, beginning: bytes, rest: bytes):
    """A client that sends a byte every tenth of a second: for how many it lived, and what it was told."""
    proxy, address = stage

    async def run():
        async with upstream(answering, address) as state:
            client = await Client(proxy.api).open()
            await client.send(beginning)
            answered = asyncio.create_task(until_closed(client))
            sent_bytes = 0
            for byte in rest:
                await asyncio.sleep(0.1)
                if answered.done():
                    break
                with contextlib.suppress(ConnectionError):
                    await client.send(bytes([byte]))
                sent_bytes += 1
            seen = await answered
            await client.close()
            return len(state.heard), sent_bytes, seen

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("beginning", "recorded"),
    [
        (b"P", False),
        (HEAD + b"X-A: ", False),
        (HEAD + b"Content-Length: 5000\r\n\r\n{", True),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1000\r\n", True),
    ],
    ids=["first line", "header", "body with a length", "chunked body"],
)
def test_a_client_that_drips_is_cut(stage, beginning, recorded):
    """Long before it is through, with a 408; nothing went upstream. A body that never came is an exchange, refused."""
    rest = b"OST /x HTTP/1.1\r\nX-B: " + b"a" * 1000 if beginning == b"P" else b"a" * 1000
    heard, sent_bytes, seen = drip(stage, beginning, rest)

    assert heard == 0
    assert sent_bytes < 1000
    assert_our_error(seen, 408, "request_timeout")
    assert bool(seen.values(b"x-meter-exchange")) == recorded
    if recorded:
        assert record_of(stage[0], seen)["outcome"] == "refused"


@pytest.mark.parametrize("first", [False, True], ids=["never asked anything", "idle behind an answer"])
def test_an_idle_connection_is_closed_without_a_word(stage, first):
    """A new one that says nothing after the head's time, one behind an answer after `keepalive_seconds`."""
    proxy, address = stage

    async def run():
        async with upstream(answering, address):
            client = await Client(proxy.api).open()
            if first:
                await client.send(b"GET /models HTTP/1.1\r\nHost: p\r\n\r\n")
                assert (await client.head()).status == 200
                await client.body()
            seen = await until_closed(client)
            await client.close()
            return seen

    assert asyncio.run(run()) is None


def test_a_slow_head_behind_a_good_request_is_cut_too(stage):
    """A connection that has been good once is not trusted for ever."""
    proxy, address = stage

    async def run():
        async with upstream(answering, address):
            client = await Client(proxy.api).open()
            await client.send(b"GET /models HTTP/1.1\r\nHost: p\r\n\r\nGET /mod")
            assert (await client.head()).status == 200
            await client.body()
            await client.send(b"e")
            seen = await until_closed(client)
            await client.close()
            return seen

    assert_our_error(asyncio.run(run()), 408, "request_timeout")


def test_what_was_cut_holds_nothing(stage):
    """After all of the above no exchange is open, and no connection of a client's."""
    proxy, _ = stage

    assert proxy.total("proxy_in_flight_requests") == 0


@contextlib.contextmanager
def few_open_files():
    """What is started meanwhile may have 256 open files, until it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_idle_and_dripping_connections_hold_nobody_up(tmp_path):
    """1,500 clients that hold a connection and say little; the next one is answered, and so are fifty more."""
    address = free_address()
    toml = "[gateway]\nhead_timeout_seconds = 60\n"
    with few_open_files():
        proxy = Proxy(tmp_path, f"http://{address}", toml=toml)

    async def run():
        async with upstream(answering, address):
            clients = []
            for number in range(IDLE):
                client = await Client(proxy.api).open()
                if number % 3:
                    await client.send(HEAD if number % 3 == 1 else HEAD + b"Content-Length: 90\r\n\r\n{")
                clients.append(client)
            seen = [await ask(proxy.api, post("/chat/completions", b"{}")) for _ in range(50)]
            await asyncio.gather(*(client.abort() for client in clients))
            return seen

    with stopping(proxy):
        proxy.wait_ready()
        seen = asyncio.run(run())

    assert {one.status for one in seen} == {200}
    assert json.loads(seen[-1].body) == {}
