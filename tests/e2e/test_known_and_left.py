"""Known and left: what aiohttp's layers do not pass on literally. Each by name, with what happens instead.

Everything else is passed literally (test_bytes.py). A faster engine below may do better; then the line here goes.
"""

import asyncio

import pytest
from e2e.stack import Proxy, free_address, stopping
from e2e.wire import Client, answer, ask, chunk, upstream


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """One proxy for the module, and the address its upstream is to be played at."""
    address = free_address()
    proxy = Proxy(tmp_path_factory.mktemp("known"), f"http://{address}")
    with stopping(proxy):
        yield proxy.wait_ready(), address


def relayed(stage, request: bytes, response: bytes = answer(b"{}")):
    """What the upstream heard of a request, and what the client saw of the response."""
    proxy, address = stage

    async def run():
        async def play(_heard, writer) -> None:
            writer.write(response)

        async with upstream(play, address) as state:
            seen = await ask(proxy.api, request)
            return state.heard[0], seen

    return asyncio.run(run())


def test_host_comes_first(stage):
    """Host is the upstream's own name and always the first header; the others keep their order."""
    heard, _ = relayed(stage, b"GET /models HTTP/1.1\r\nX-A: 1\r\nHost: p\r\nX-B: 2\r\n\r\n")

    assert [name for name, _ in heard.headers] == [b"Host", b"X-A", b"X-B"]


def test_white_space_around_a_header_value_is_not_kept(stage):
    """It is no part of the value (RFC 9110, 5.5)."""
    heard, _ = relayed(stage, b"GET /models HTTP/1.1\r\nHost: p\r\nX-A:   one  \r\n\r\n")

    assert b"X-A: one\r\n" in heard.head + b"\r\n"


def test_trailers_are_dropped(stage):
    """Fields behind the last chunk of a response do not reach the client (none were ever seen from DeepSeek)."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
    _, seen = relayed(stage, b"GET /models HTTP/1.1\r\nHost: p\r\n\r\n", head + chunk(b"{}") + b"0\r\nX-T: 1\r\n\r\n")

    assert (seen.body, seen.values(b"x-t")) == (b"{}", [])


def test_chunk_borders_and_extensions_are_not_kept(stage):
    """The bytes are, in the same order and without waiting; how they were framed is between two neighbours."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    _, seen = relayed(stage, b"GET /models HTTP/1.1\r\nHost: p\r\n\r\n", head + b"1;a=b\r\n{\r\n1\r\n}\r\n0\r\n\r\n")

    assert (seen.body, seen.ended) == (b"{}", True)


def test_informational_responses_are_dropped(stage):
    """A 103 before the answer is taken off (DeepSeek sends none); 100 Continue is answered by the proxy itself."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    _, seen = relayed(stage, b"GET /models HTTP/1.1\r\nHost: p\r\n\r\n", early + answer(b"{}"))

    assert seen.status == 200


def test_an_answer_that_ends_with_its_connection_becomes_chunked(stage):
    """Without a length and without chunks the end is the close; the client gets it chunked, with the same bytes."""
    proxy, address = stage

    async def run():
        async def play(_heard, writer) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello")
            await writer.drain()
            writer.close()

        async with upstream(play, address):
            return await ask(proxy.api, b"GET /models HTTP/1.1\r\nHost: p\r\n\r\n")

    seen = asyncio.run(run())

    assert (seen.body, seen.ended, seen.values(b"transfer-encoding")) == (b"hello", True, [b"chunked"])


def test_a_client_that_closes_its_half_counts_as_gone(stage):
    """A client that ends its sending side is not told apart from one that left; no SDK does that."""
    proxy, address = stage

    async def run():
        async def play(_heard, writer) -> None:
            await asyncio.sleep(0.3)
            writer.write(answer(b"{}"))

        async with upstream(play, address):
            client = await Client(proxy.api).open()
            await client.send(b"GET /models HTTP/1.1\r\nHost: p\r\n\r\n")
            client.close_sending()
            try:
                return (await client.head()).status
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
            finally:
                await client.close()

    assert asyncio.run(run()) is None


def test_an_upgrade_is_not_relayed(stage):
    """Upgrade is for one hop; the request goes on as a plain GET, and the upstream answers that."""
    heard, seen = relayed(
        stage, b"GET /models HTTP/1.1\r\nHost: p\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-A: 1\r\n\r\n"
    )

    assert heard.values(b"upgrade") == []
    assert heard.values(b"x-a") == [b"1"]
    assert seen.status == 200


def test_a_target_beyond_ascii_is_refused(stage):
    """RFC 3986 has such characters escaped, and every SDK does; the parser answers 400 and nothing goes on."""
    proxy, _ = stage
    seen = asyncio.run(ask(proxy.api, "GET /m\u00f6del HTTP/1.1\r\nHost: p\r\n\r\n".encode()))

    assert seen.status == 400
