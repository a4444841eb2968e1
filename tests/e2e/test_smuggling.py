"""Requests that two readers could take for different ones: refused, closed, and nothing of them goes upstream. Raw sockets."""

import asyncio
import contextlib

import pytest
from e2e.stack import Proxy, free_address, stopping
from e2e.test_failures import assert_our_error
from e2e.wire import Client, Seen, answer, upstream

POST = b"POST /chat/completions HTTP/1.1\r\nHost: p\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
KEY = b"sk-smuggled-and-marked"

SHAPES = {
    "a length and chunks": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "a length twice": POST + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "a list of lengths": POST + b"Content-Length: 4, 4\r\n\r\nabcd",
    "a negative length": POST + b"Content-Length: -4\r\n\r\nabcd",
    "a length with a sign": POST + b"Content-Length: +4\r\n\r\nabcd",
    "a length in hex": POST + b"Content-Length: 0x4\r\n\r\nabcd",
    "a length with an underscore": POST + b"Content-Length: 1_0\r\n\r\nabcdefghij",
    "an empty length": POST + b"Content-Length: \r\n\r\nabcd",
    "a length beyond 64 bits": POST + b"Content-Length: 99999999999999999999999\r\n\r\nabcd",
    "a length in another digit": POST + "Content-Length: \u0664\r\n\r\nabcd".encode(),
    "a folded header": POST + b"X-A: one\r\n two\r\nContent-Length: 4\r\n\r\nabcd",
    "a folded encoding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "line feeds alone": b"POST /x HTTP/1.1\nHost: p\nContent-Length: 4\n\nabcd",
    "one line feed alone": POST + b"X-A: b\nContent-Length: 4\r\n\r\nabcd",
    "a carriage return alone": POST + b"X-A: b\rContent-Length: 4\r\n\r\nabcd",
    "a NUL in a value": POST + b"X-A: a\0b\r\n\r\n",
    "a NUL in a name": POST + b"X\0A: ab\r\n\r\n",
    "a space before the colon": POST + b"Content-Length : 4\r\n\r\nabcd",
    "a tab before the colon": POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "a space before the first header": b"GET /x HTTP/1.1\r\n Host: p\r\n\r\n",
    "a header without a colon": POST + b"Authorization Bearer " + KEY + b"\r\n\r\n",
    "a header name that is none": POST + b"Auth(orization: Bearer " + KEY + b"\r\n\r\n",
    "a control character": POST + b"Authorization: Bearer " + KEY + b"\x01\r\n\r\n",
    "xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked not last": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two encodings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\nContent-Length: 4\r\n\r\nabcd",
    "gzip alone": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "gzip and chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked behind a tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST /x HTTP/1.0\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk without a size": CHUNKED + b"zz\r\nabcd\r\n0\r\n\r\n",
    "a negative chunk": CHUNKED + b"-4\r\nabcd\r\n0\r\n\r\n",
    "a chunk with a sign": CHUNKED + b"+4\r\nabcd\r\n0\r\n\r\n",
    "a chunk with 0x": CHUNKED + b"0x4\r\nabcd\r\n0\r\n\r\n",
    "a chunk beyond 64 bits": CHUNKED + b"10000000000000004\r\nabcd\r\n0\r\n\r\n",
    "a chunk longer than it says": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "a chunk's size and a space": CHUNKED + b"4 \r\nabcd\r\n0\r\n\r\n",
    "chunks with line feeds": CHUNKED + b"4\nabcd\n0\n\n",
    "a chunk extension with a line feed": CHUNKED + b"4;a\nb\r\nabcd\r\n0\r\n\r\n",
    "a length among the trailers": CHUNKED + b"4\r\nabcd\r\n0\r\nContent-Length: 9\r\n\r\n",
    "two hosts": b"GET /x HTTP/1.1\r\nHost: p\r\nHost: q\r\n\r\n",
    "no host": b"GET /x HTTP/1.1\r\n\r\n",
    "HTTP/0.9": b"GET /x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET /x HTTP/9.9\r\nHost: p\r\n\r\n",
    "a method that is none": b"GE(T /x HTTP/1.1\r\nHost: p\r\n\r\n",
    "tabs in the first line": b"GET\t/x\tHTTP/1.1\r\nHost: p\r\n\r\n",
    "a space in the target": b"GET /x /y HTTP/1.1\r\nHost: p\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}  # fmt: skip


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """One proxy for the module, and the address its upstream is to be played at."""
    address = free_address()
    proxy = Proxy(tmp_path_factory.mktemp("smuggling"), f"http://{address}")
    with stopping(proxy):
        yield proxy.wait_ready(), address
        assert "Traceback" not in proxy.output
        assert KEY.decode() not in proxy.output


async def answering(_heard, writer) -> None:
    writer.write(answer(b"{}"))


def sent(stage, *pieces: bytes):
    """What the upstream heard, what the client saw, and all that came behind it until the connection was closed."""
    proxy, address = stage

    async def run():
        async with upstream(answering, address) as state:
            client = await Client(proxy.api).open()
            for piece in pieces:
                await client.send(piece)
                await asyncio.sleep(0.05 if len(pieces) > 1 else 0)
            head = await client.head()
            await client.body()
            rest = b""
            with contextlib.suppress(ConnectionError):
                rest = await asyncio.wait_for(client._reader.read(), 10)
            await client.close()
            return state.heard, head, rest

    return asyncio.run(run())


def assert_refused_and_closed(heard, seen: Seen, rest: bytes) -> None:
    assert heard == []
    assert_our_error(seen, 400, "invalid_request_error")
    assert KEY not in seen.body
    assert rest == b""


@pytest.mark.parametrize("shape", SHAPES)
def test_an_ambiguous_request_is_refused(stage, shape):
    """One 400 in DeepSeek's shape that quotes nothing, then the end of the connection; the upstream counts nothing."""
    assert_refused_and_closed(*sent(stage, SHAPES[shape]))


@pytest.mark.parametrize("shape", [name for name, request in SHAPES.items() if request.startswith(CHUNKED)])
def test_also_where_the_body_comes_later(stage, shape):
    """The head went to the relay already, which waits for the body: nothing was sent on by then."""
    assert_refused_and_closed(*sent(stage, CHUNKED, SHAPES[shape].removeprefix(CHUNKED)))


def test_a_chunk_extension_ends_here(stage):
    """A proper one is to be ignored (RFC 9112, 7.1.1): the body is framed anew, so no other reader can make more of it."""
    proxy, address = stage

    async def run():
        async with upstream(answering, address) as state:
            client = await Client(proxy.api).open()
            await client.send(CHUNKED + b'2;a="b;c"\r\nab\r\n2;x\r\ncd\r\n0;last\r\n\r\n')
            await client.head()
            await client.close()
            return state.heard

    (heard,) = asyncio.run(run())

    assert heard.body == b"abcd"
    assert heard.values(b"transfer-encoding") == [b"chunked"]


def test_what_is_behind_a_body_is_the_next_request(stage):
    """A pipelined request is one of its own, with an answer of its own."""
    proxy, address = stage

    async def run():
        async with upstream(answering, address) as state:
            client = await Client(proxy.api).open()
            await client.send(POST + b"Content-Length: 2\r\n\r\n{}" + b"GET /models HTTP/1.1\r\nHost: p\r\n\r\n")
            for _ in range(2):
                assert (await client.head()).status == 200
                await client.body()
            await client.close()
            return [heard.request_line for heard in state.heard]

    assert asyncio.run(run()) == [b"POST /chat/completions HTTP/1.1", b"GET /models HTTP/1.1"]


def test_two_requests_cut_anywhere_are_two_requests(stage):
    """However the bytes arrive: what is counted as a head, and what as a body, does not depend on it."""
    proxy, address = stage
    both = POST + b"Content-Length: 2\r\n\r\n{}" + CHUNKED + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"

    async def cut_at(place: int) -> list[int]:
        client = await Client(proxy.api).open()
        await client.send(both[:place])
        await asyncio.sleep(0.005)
        await client.send(both[place:])
        statuses = []
        for _ in range(2):
            statuses.append((await client.head()).status)
            await client.body()
        await client.close()
        return statuses

    async def run():
        async with upstream(answering, address) as state:
            seen = [await cut_at(place) for place in range(1, len(both))]
            return seen, [heard.body for heard in state.heard]

    seen, bodies = asyncio.run(run())

    assert seen == [[200, 200]] * (len(both) - 1)
    assert bodies == [b"{}"] * 2 * (len(both) - 1)


def test_garbage_behind_a_good_request_does_not_spoil_it(stage):
    """The good one is answered, then the connection gets its 400."""
    proxy, address = stage

    async def run():
        async with upstream(answering, address) as state:
            client = await Client(proxy.api).open()
            await client.send(POST + b"Content-Length: 2\r\n\r\n{}")
            first = await client.head()
            await client.body()
            await client.send(b"rubbish: " + KEY + b"\r\n\r\n")
            second = await client.head()
            await client.body()
            await client.close()
            return len(state.heard), first.status, second

    heard, first, second = asyncio.run(run())

    assert (heard, first) == (1, 200)
    assert_our_error(second, 400, "invalid_request_error")
    assert KEY not in second.body


def test_garbage_in_the_same_piece_takes_the_good_request_with_it(stage):
    """Nobody knows where the good one ended: neither goes upstream."""
    assert_refused_and_closed(*sent(stage, POST + b"Content-Length: 2\r\n\r\n{}rubbish: " + KEY + b"\r\n\r\n"))
