"""Promise 1: bytes out equal bytes in, chunk by chunk, without waiting. Over real sockets, with real recorded bodies."""

import asyncio
import gzip
import json
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest
from e2e.stack import Proxy, free_address, stopping
from e2e.wire import Seen, answer, ask, chunk, post, upstream

RECORDINGS = Path(__file__).parents[3] / "shared" / "recordings"
NAMES = sorted(path.name for path in RECORDINGS.glob("*/")) if RECORDINGS.exists() else []
HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}
REQUEST = b'{"model":"deepseek-flash","stream":true,"messages":[]}'


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """One proxy for the module, and the address its upstream is to be played at."""
    address = free_address()
    folder = tmp_path_factory.mktemp("bytes")
    proxy = Proxy(folder, f"http://{address}")
    with stopping(proxy):
        yield proxy.wait_ready(), address


def events(body: bytes) -> list[bytes]:
    """A body in the pieces DeepSeek would write: event by event."""
    return [piece for piece in re.split(rb"(?<=\n\n)", body) if piece]


def random_cuts(body: bytes, seed: int) -> list[bytes]:
    """A body cut at up to twenty random places."""
    rng = random.Random(seed)
    places = sorted({0, len(body), *(rng.randrange(len(body) + 1) for _ in range(20))})
    return [body[start:end] for start, end in pairwise(places)]


def single_bytes(body: bytes) -> list[bytes]:
    """The head and the tail byte by byte, the middle in one: every state of a reader is met, in bearable time."""
    middle = len(body) - 400
    head = [body[index : index + 1] for index in range(min(400, len(body)))]
    tail = [body[index : index + 1] for index in range(max(400, middle), len(body))]
    return [piece for piece in (*head, body[400 : max(400, middle)], *tail) if piece]


class Recording:
    def __init__(self, name: str) -> None:
        self.meta = json.loads((RECORDINGS / name / "meta.json").read_text())
        self.body = (RECORDINGS / name / "response.body").read_bytes()
        self.path = self.meta["endpoint"]

    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.meta['status']} Some Reason".encode()]
        for name, values in (self.meta["response_headers"] or {"content-type": ["text/event-stream"]}).items():
            if name.lower() not in HOP_BY_HOP:
                lines += [f"{name}: {value}".encode() for value in values]
        return b"\r\n".join([*lines, b"transfer-encoding: chunked"]) + b"\r\n\r\n"

    def passing_headers(self) -> list[tuple[bytes, bytes]]:
        pairs = (line.split(b": ", 1) for line in self.head()[:-4].split(b"\r\n")[1:-1])
        return [(name, value.strip()) for name, value in pairs]


def replay_in_lockstep(stage, recording: Recording, pieces: list[bytes]) -> Seen:
    """Each piece is sent only once the client has every byte of those before it."""
    proxy, address = stage

    async def run() -> Seen:
        received = 0
        arrived = asyncio.Event()

        def note(length: int) -> None:
            nonlocal received
            received = length
            arrived.set()

        async def play(_heard, writer) -> None:
            writer.write(recording.head())
            sent = 0
            for piece in pieces:
                writer.write(chunk(piece))
                sent += len(piece)
                while received < sent:
                    arrived.clear()
                    await asyncio.wait_for(arrived.wait(), 10)
            writer.write(b"0\r\n\r\n")

        async with upstream(play, address):
            return await ask(proxy.api, post(recording.path, REQUEST), note)

    return asyncio.run(run())


@pytest.mark.parametrize("cutting", [events, single_bytes, lambda body: random_cuts(body, 1), lambda body: random_cuts(body, 2)],
                         ids=["events", "single bytes", "random cuts", "other random cuts"])  # fmt: skip
@pytest.mark.parametrize("name", NAMES or ["recordings are missing"])
def test_a_recorded_body_arrives_byte_for_byte_and_piece_by_piece(stage, name, cutting):
    """Status, headers and body are the upstream's, and no piece waits for the next one."""
    if not NAMES:
        pytest.skip("the folder of recordings is not beside the project")
    recording = Recording(name)
    seen = replay_in_lockstep(stage, recording, cutting(recording.body))

    assert seen.ended
    assert seen.body == recording.body
    assert seen.status_line == f"HTTP/1.1 {recording.meta['status']} Some Reason".encode()
    passed = [pair for pair in seen.headers if not pair[0].lower().startswith((b"x-meter-", b"transfer-encoding"))]
    assert passed == recording.passing_headers()


def replay(stage, request: bytes, response: bytes, *, bodyless: bool = False):
    """One request against one canned response; what the upstream heard and what the client saw."""
    proxy, address = stage

    async def run():
        async def play(_heard, writer) -> None:
            writer.write(response)

        async with upstream(play, address) as state:
            seen = await ask(proxy.api, request, bodyless=bodyless)
            return state.heard[0], seen

    return asyncio.run(run())


def test_a_request_reaches_the_upstream_as_it_was_sent(stage):
    """Target, header order, spelling and body go on; only Host, hop-by-hop and X-Meter-* headers do not."""
    body = b'{ "model":"deepseek-flash",\t"messages":[] , "x": 1e400 }'
    request = (
        b"POST /v1//chat/../completions?a=%2F&b=%zz&c=d+e HTTP/1.1\r\nHost: proxy.example\r\n"
        b"x-b: 2\r\nX-A: 1\r\nX-Meter-App: me\r\nx-b: 3\r\nConnection: keep-alive, X-Private\r\nX-Private: yes\r\n"
        b"COOKIE: a=b\r\nTE: trailers\r\nContent-Length: " + str(len(body)).encode() + b"\r\n"
        b"authorization: Bearer sk-not-a-key\r\n\r\n" + body
    )
    heard, _ = replay(stage, request, answer(b"{}"))

    assert heard.request_line == b"POST /v1//chat/../completions?a=%2F&b=%zz&c=d+e HTTP/1.1"
    assert heard.body == body
    without_host = [pair for pair in heard.headers if pair[0].lower() != b"host"]
    assert without_host == [
        (b"x-b", b"2"),
        (b"X-A", b"1"),
        (b"x-b", b"3"),
        (b"COOKIE", b"a=b"),
        (b"Content-Length", str(len(body)).encode()),
        (b"authorization", b"Bearer sk-not-a-key"),
    ]


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"PUT", b"PATCH", b"OPTIONS", b"POST"])
def test_every_method_and_path_is_relayed(stage, method):
    """No path and no method is kept for ourselves."""
    request = method + b" /files/file-api-1?x=y HTTP/1.1\r\nHost: p\r\n\r\n"
    body = b"" if method == b"HEAD" else b"done"
    heard, seen = replay(
        stage, request, answer(b"done")[: -4 if method == b"HEAD" else None], bodyless=method == b"HEAD"
    )

    assert heard.request_line == method + b" /files/file-api-1?x=y HTTP/1.1"
    assert seen.status == 200
    assert method == b"HEAD" or seen.body == body
    assert seen.values(b"content-length") == [b"4"]


def test_a_chunked_request_stays_chunked(stage):
    """A body sent without a length goes on without one."""
    request = b"POST /files HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    heard, _ = replay(stage, request, answer(b"{}"))

    assert heard.body == b"abcde"
    assert heard.values(b"transfer-encoding") == [b"chunked"]
    assert heard.values(b"content-length") == []


def test_nothing_is_added_to_either_side(stage):
    """No User-Agent, Accept, Via, Server, Date or Content-Type of ours; a content-length stays one."""
    heard, seen = replay(
        stage,
        b"POST /x HTTP/1.1\r\nHost: p\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nho",
    )

    assert {name.lower() for name, _ in heard.headers} == {b"host", b"content-length"}
    assert {name.lower() for name, _ in seen.headers} == {b"content-length", b"x-meter-exchange"}


def test_redirects_cookies_and_compression_are_left_to_the_client(stage):
    """A redirect is passed on, cookies are not kept, and compressed bytes stay compressed."""
    response = answer(b"\x1f\x8b\x08not really", b"Content-Encoding: gzip", b"Location: /elsewhere", b"Set-Cookie: a=1", b"Set-Cookie: b=2", status=b"307 Temporary Redirect")  # fmt: skip
    heard, seen = replay(stage, b"GET /models HTTP/1.1\r\nHost: p\r\n\r\n", response)

    assert seen.status == 307
    assert seen.body == b"\x1f\x8b\x08not really"
    assert seen.values(b"set-cookie") == [b"a=1", b"b=2"]
    again, _ = replay(stage, b"GET /models HTTP/1.1\r\nHost: p\r\n\r\n", answer(b"{}"))
    assert again.values(b"cookie") == heard.values(b"cookie") == []


def test_a_client_that_waits_for_100_continue_gets_it(stage):
    """curl sends a large body only after `100 Continue`."""
    proxy, address = stage

    async def run():
        async def play(_heard, writer) -> None:
            writer.write(answer(b"{}"))

        async with upstream(play, address) as state:
            from e2e.wire import Client

            client = await Client(proxy.api).open()
            await client.send(b"POST /x HTTP/1.1\r\nHost: p\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            assert (await client.head()).status == 100
            await client.send(b"hello")
            seen = await client.head()
            await client.close()
            return state.heard[0], seen

    heard, seen = asyncio.run(run())

    assert heard.body == b"hello"
    assert heard.values(b"expect") == []
    assert seen.status == 200


def test_our_own_headers_name_the_exchange_and_the_version(stage):
    """Each response names its exchange; the version is named where the alias tells it before the body."""
    _, seen = replay(stage, post("/chat/completions", b'{"model":"deepseek-flash"}'), answer(b"{}"))
    _, other = replay(stage, post("/chat/completions", b'{"model":"something-else"}'), answer(b"{}"))

    assert re.fullmatch(rb"[0-9a-f]{24}", seen.values(b"x-meter-exchange")[0])
    assert seen.values(b"x-meter-version")[0].startswith(b"DeepSeek-V4.1-Flash")
    assert other.values(b"x-meter-version") == []
    assert seen.values(b"x-meter-exchange") != other.values(b"x-meter-exchange")


@pytest.mark.parametrize("target", [b"/models?", b"//models", b"/a%2Fb%2f%zz"])
def test_a_target_goes_on_literally(stage, target):
    """A bare `?`, odd escapes: the upstream sees what the client wrote."""
    heard, _ = replay(stage, b"GET " + target + b" HTTP/1.1\r\nHost: p\r\n\r\n", answer(b"{}"))

    assert heard.request_line == b"GET " + target + b" HTTP/1.1"


def test_a_compressed_request_stays_compressed_and_its_model_is_read(stage):
    """A client may compress its body: the bytes are the client's, and the exchange is counted for its model."""
    body = gzip.compress(b'{"model":"deepseek-v4-pro","messages":[]}')
    head = b"POST /chat/completions HTTP/1.1\r\nHost: p\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    heard, seen = replay(stage, head % len(body) + body, answer(b"{}"))

    assert heard.body == body
    assert heard.values(b"content-encoding") == [b"gzip"]
    assert seen.values(b"x-meter-version") == [b"DeepSeek-V4-Pro-0813"]


def test_a_large_request_arrives_whole(stage):
    """A body that is sent piece by piece, so that an answer to its head could be seen meanwhile."""
    body = b"x" * 3_000_000
    request = b"POST /files HTTP/1.1\r\nHost: p\r\nContent-Length: 3000000\r\n\r\n" + body
    heard, seen = replay(stage, request, answer(b"{}"))

    assert heard.body == body
    assert seen.body == b"{}"


@pytest.mark.parametrize("value", ["café".encode(), b"caf\xe9", b"\xf0\x9f\x8c\x89", b"x" * 30_000])
def test_header_values_pass_in_both_directions(stage, value):
    """UTF-8, other bytes and long values: they are not ours to judge."""
    request = b"GET /models HTTP/1.1\r\nHost: p\r\nX-A: " + value + b"\r\n\r\n"
    heard, seen = replay(stage, request, answer(b"{}", b"X-B: " + value))

    assert heard.values(b"x-a") == [value]
    assert seen.values(b"x-b") == [value]
