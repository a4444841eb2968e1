"""The only host ever contacted is the configured upstream, whatever a client writes into its request. Raw sockets."""

import asyncio

import pytest
from e2e.stack import Proxy, free_address, stopping
from e2e.test_failures import assert_our_error
from e2e.test_smuggling import answering
from e2e.wire import Client, ask, upstream


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """One proxy for the module, the address its upstream is to be played at, and one it must never go to."""
    address, elsewhere = free_address(), free_address()
    proxy = Proxy(tmp_path_factory.mktemp("targets"), f"http://{address}")
    with stopping(proxy):
        yield proxy.wait_ready(), address, elsewhere


def asked(stage, request: str):
    """What the upstream heard, how often somebody went elsewhere, and what the client saw. ELSEWHERE stands for the other host."""
    proxy, address, elsewhere = stage

    async def run():
        async with upstream(answering, address) as state, upstream(answering, elsewhere) as other:
            seen = await ask(proxy.api, request.replace("ELSEWHERE", elsewhere).encode("latin-1"))
            return state.heard, other.connections, seen

    return asyncio.run(run())


@pytest.mark.parametrize(
    "line",
    [
        "GET http://ELSEWHERE/ HTTP/1.1",
        "GET HTTP://ELSEWHERE/chat/completions HTTP/1.1",
        "POST https://ELSEWHERE/chat/completions HTTP/1.1",
        "GET http:/ELSEWHERE/ HTTP/1.1",
        "GET ftp://ELSEWHERE/ HTTP/1.1",
        "GET file:///etc/passwd HTTP/1.1",
        "CONNECT ELSEWHERE HTTP/1.1",
        "CONNECT /chat/completions HTTP/1.1",
        "CONNECT http://ELSEWHERE/ HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET * HTTP/1.1",
        "GET @ELSEWHERE/ HTTP/1.1",
        "GET models HTTP/1.1",
        "GET \\\\ELSEWHERE\\x HTTP/1.1",
        "GET ?x HTTP/1.1",
        "GET #x HTTP/1.1",
    ],
)
def test_a_target_that_is_no_path_is_refused(stage, line):
    """The absolute form, CONNECT and `*` are for proxies of another kind: 400, and nobody is asked anything."""
    heard, elsewhere, seen = asked(stage, f"{line}\r\nHost: ELSEWHERE\r\nContent-Length: 0\r\n\r\n")

    assert (heard, elsewhere) == ([], 0)
    assert_our_error(seen, 400, "invalid_request_error")


@pytest.mark.parametrize(
    "target", ["/models#/../user/balance", "/models#", "/#@ELSEWHERE/", "/models?a#b", "/models?#"]
)
def test_a_fragment_has_no_place_in_a_target(stage, target):
    """Whoever ends the path there reads another request than whoever does not (RFC 9112, 3.2): 400, and nobody is asked."""
    heard, elsewhere, seen = asked(stage, f"GET {target} HTTP/1.1\r\nHost: p\r\n\r\n")

    assert (heard, elsewhere) == ([], 0)
    assert_our_error(seen, 400, "invalid_request_error")


@pytest.mark.parametrize(
    "target",
    [
        "//ELSEWHERE/x",
        "///ELSEWHERE/x",
        "/\\ELSEWHERE/x",
        "/\\\\ELSEWHERE/x",
        "/@ELSEWHERE/x",
        "/x@ELSEWHERE",
        "/../../x",
        "/%2e%2e/%2e%2e/x",
        "/%2f%2fELSEWHERE/x",
        "/%5c%5cELSEWHERE/x",
        "/%0d%0aHost:%20ELSEWHERE",
        "/http://ELSEWHERE/x",
        "/;@ELSEWHERE",
        "/.ELSEWHERE",
        "/:80@ELSEWHERE/",
        "/?url=http://ELSEWHERE/",
        "/%23@ELSEWHERE/",
    ],
)
def test_a_path_stays_a_path_of_the_upstreams(stage, target):
    """It goes there literally, and is never read as an address."""
    heard, elsewhere, seen = asked(stage, f"GET {target} HTTP/1.1\r\nHost: p\r\n\r\n")

    assert elsewhere == 0
    assert seen.status == 200
    assert [one.request_line for one in heard] == [f"GET {target} HTTP/1.1".replace("ELSEWHERE", stage[2]).encode()]
    assert heard[0].values(b"host") == [stage[1].encode()]


@pytest.mark.parametrize(
    "header",
    [
        "Host: ELSEWHERE",
        "X-Forwarded-Host: ELSEWHERE",
        "Forwarded: host=ELSEWHERE",
        "X-Forwarded-Server: ELSEWHERE",
        "X-Host: ELSEWHERE",
        "X-Original-URL: http://ELSEWHERE/",
        "X-Rewrite-URL: http://ELSEWHERE/",
        "X-Meter-Upstream: ELSEWHERE",
        "Proxy-Authorization: Basic eDp5",
        "Referer: http://ELSEWHERE/",
        "Origin: http://ELSEWHERE",
        "Alt-Svc: h2=ELSEWHERE",
        "Location: http://ELSEWHERE/",
    ],
)
def test_no_header_chooses_the_host(stage, header):
    """Host is the upstream's own, and of what a client says of hosts nothing is read."""
    host = "" if header.startswith("Host") else "Host: p\r\n"
    heard, elsewhere, seen = asked(stage, f"GET /models HTTP/1.1\r\n{host}{header}\r\n\r\n")

    assert (len(heard), elsewhere, seen.status) == (1, 0, 200)
    assert heard[0].values(b"host") == [stage[1].encode()]


def test_a_redirect_is_not_followed(stage):
    """Where the upstream sends the client is the client's business."""
    proxy, address, elsewhere = stage

    async def redirecting(_heard, writer):
        there = f"http://{elsewhere}/".encode()
        writer.write(b"HTTP/1.1 307 There\r\nLocation: " + there + b"\r\nContent-Length: 0\r\n\r\n")

    async def run():
        async with upstream(redirecting, address), upstream(answering, elsewhere) as other:
            seen = await ask(proxy.api, b"GET /models HTTP/1.1\r\nHost: p\r\n\r\n")
            return seen.status, other.connections

    assert asyncio.run(run()) == (307, 0)


def test_an_upgrade_does_not_open_a_tunnel(stage):
    """What follows a request to upgrade is read as requests, never passed on as it is."""
    proxy, address, _ = stage

    async def run():
        async with upstream(answering, address) as state:
            client = await Client(proxy.api).open()
            await client.send(b"GET /models HTTP/1.1\r\nHost: p\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
            await client.head()
            await client.body()
            await client.send(b"tunnelled bytes\r\n\r\n")
            seen = await client.head()
            await client.close()
            return len(state.heard), seen.status

    assert asyncio.run(run()) == (1, 400)
