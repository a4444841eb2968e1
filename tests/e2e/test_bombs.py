"""Small bodies that would be huge: passed on as they are, and never unpacked in memory. A worker's memory by the kernel's word."""

import asyncio
import gzip
import re
import zlib
from pathlib import Path

import pytest
from e2e.stack import Proxy, free_address, stopping
from e2e.test_failures import record_of
from e2e.wire import ask, chunk, post, upstream

MIB = 1024 * 1024
PLAIN = 1024 * MIB
MOST_GROWTH = 64 * MIB


def bomb(wbits: int) -> bytes:
    """A gigabyte of a JSON string, packed to a megabyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    packed = [packer.compress(b'{"model":"deepseek-flash","messages":[{"role":"user","content":"')]
    packed += [packer.compress(b"a" * MIB) for _ in range(PLAIN // MIB)]
    return b"".join((*packed, packer.compress(b'"}]}'), packer.flush()))


GZIP = bomb(31)
BOMBS = {
    "gzip": GZIP,
    "deflate": bomb(15),
    "gzip, gzip": gzip.compress(GZIP),
    "br": GZIP,  # what stands inside does not matter: it is not looked at
    "zstd": b"\x28\xb5\x2f\xfd" + GZIP,
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """One proxy for the module, and the address its upstream is to be played at. The tokenizer is there before the test is."""
    address = free_address()
    proxy = Proxy(tmp_path_factory.mktemp("bombs"), f"http://{address}")
    with stopping(proxy):
        proxy.wait_ready()
        exchanged(proxy, address, post("/chat/completions", b'{"model":"deepseek-flash"}'), b"{}", "")
        yield proxy, address


def exchanged(proxy: Proxy, address: str, request: bytes, body: bytes, encoding: str):
    """What the upstream heard and what the client saw of a response with this body."""

    async def play(_heard, writer):
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: {encoding}\r\n"
            if encoding
            else "HTTP/1.1 200 OK\r\n"
        )
        writer.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(body), 65536):
            writer.write(chunk(body[start : start + 65536]))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async def run():
        async with upstream(play, address) as state:
            seen = await ask(proxy.api, request)
            return state.heard[0], seen

    heard, seen = asyncio.run(run())
    record = record_of(proxy, seen)
    return heard, seen, record


def memory(proxy: Proxy) -> tuple[int, int]:
    """Bytes a worker has, and the most it ever had."""
    (worker,) = (pid for pid, command in proxy.children().items() if "gateway_process" in command)
    status = Path(f"/proc/{worker}/status").read_text()
    now, most = (int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


@pytest.mark.parametrize("encoding", BOMBS)
def test_a_request_that_is_a_bomb_goes_on_as_it_is(stage, encoding):
    """Its model is not told where reading it would take too much; the upstream gets the client's bytes."""
    proxy, address = stage
    before, _ = memory(proxy)
    packed = BOMBS[encoding]
    request = post("/chat/completions", packed, b"Content-Encoding: " + encoding.encode())
    heard, seen, record = exchanged(proxy, address, request, b"{}", "")

    assert (heard.body, seen.body) == (packed, b"{}")
    assert memory(proxy)[1] - before < MOST_GROWTH
    assert (record["outcome"], record["model"], record["source"]) == ("complete", "none", "estimated")


@pytest.mark.parametrize(
    ("encoding", "missing"),
    [
        ("gzip", "body_too_large"),
        ("deflate", "body_too_large"),
        ("br", "content_encoding"),
        ("zstd", "content_encoding"),
    ],
)
def test_a_response_that_is_a_bomb_goes_on_as_it_is(stage, encoding, missing):
    """The client gets every byte; the record says why nothing was read of it."""
    proxy, address = stage
    before, _ = memory(proxy)
    _, seen, record = exchanged(
        proxy, address, post("/chat/completions", b'{"model":"deepseek-flash"}'), BOMBS[encoding], encoding
    )

    assert seen.body == BOMBS[encoding]
    assert seen.ended
    assert memory(proxy)[1] - before < MOST_GROWTH
    assert (record["outcome"], record["source"], record["missing"]) == ("complete", "estimated", missing)
