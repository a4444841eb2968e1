"""What a page of another site can do with a browser of ours: nothing on the console, and on the API port no more than anybody.

The console answers to its own names only, whatever the path and the method. The API port relays a request with an `Origin` as it
came (promise 1) and adds no CORS header, so the page's browser does not show it the answer; and there is nothing to spend: in
passthrough mode there is no credential of ours, in managed mode a key is needed, which a browser does not have by itself.
"""

import asyncio

import pytest
from e2e.stack import Proxy, add_key, free_address, stopping
from e2e.wire import answer, ask, upstream

PATHS = [
    "/",
    "/metrics",
    "/healthz",
    "/readyz",
    "/api/versions",
    "/api/balance",
    "/api/records/x",
    "/nothing",
    "//metrics",
]
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]
BODY = b'{"model":"deepseek-flash"}'
KEY = "sk-not-a-key"


@pytest.fixture(scope="module", params=["passthrough", "managed"])
def stage(request, tmp_path_factory):
    """A proxy in each mode, and the address its upstream is to be played at."""
    address = free_address()
    folder = tmp_path_factory.mktemp(request.param)
    toml, key = "", KEY
    if request.param == "managed":
        key = add_key(folder, "--app", "team-a")
        (folder / "own").write_text("sk-marked-upstream")
        toml = f'[gateway]\nmode = "managed"\n[upstream]\nkey_file = "{folder / "own"}"\n'
    proxy = Proxy(folder, f"http://{address}", toml=toml)
    with stopping(proxy):
        yield proxy.wait_ready(), address, request.param, key


async def answering(_heard, writer):
    writer.write(answer(b'{"secret":1}'))


def to_console(stage, method: str, path: str, host: str, *lines: str) -> int:
    proxy = stage[0]
    head = "\r\n".join((f"{method} {path} HTTP/1.1", f"Host: {host or proxy.console}", "Connection: close", *lines))
    return asyncio.run(ask(proxy.console, f"{head}\r\n\r\n".encode(), bodyless=method == "HEAD")).status


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", METHODS)
def test_the_console_answers_no_stranger(stage, method, path):
    """A name of the page's own for our address (DNS rebinding), or a page of another origin: 403 before anything else."""
    assert to_console(stage, method, path, "evil.example") == 403
    assert to_console(stage, method, path, "", "Origin: http://evil.example") == 403
    assert to_console(stage, method, path, "", "Origin: null") == 403
    assert to_console(stage, method, path, "") != 403


def to_api(stage, *lines: str, method: str = "POST"):
    proxy, address, *_ = stage

    async def run():
        async with upstream(answering, address) as state:
            head = "\r\n".join((f"{method} /chat/completions HTTP/1.1", *lines, f"Content-Length: {len(BODY)}"))
            return state.heard, await ask(proxy.api, f"{head}\r\n\r\n".encode() + BODY)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "lines", [("Host: p", "Origin: http://evil.example"), ("Host: evil.example",), ("Host: p", "Cookie: a=b")]
)
def test_a_page_of_another_site_spends_nothing_of_ours(stage, lines):
    """What a browser sends by itself, a cookie included, is no key: managed mode refuses, passthrough adds nothing to it."""
    heard, seen = to_api(stage, *lines, "Content-Type: text/plain")

    if stage[2] == "managed":
        assert (heard, seen.status) == ([], 401)
    else:
        assert heard[0].values(b"authorization") == heard[0].values(b"x-api-key") == []
    assert not [name for name, _ in seen.headers if name.lower().startswith(b"access-control-")]


def test_a_preflight_opens_nothing(stage):
    """In passthrough it is the upstream's to answer; in managed mode it has no key."""
    heard, seen = to_api(
        stage, "Host: p", "Origin: http://evil.example", "Access-Control-Request-Method: POST", method="OPTIONS"
    )

    assert not [name for name, _ in seen.headers if name.lower().startswith(b"access-control-")]
    assert (seen.status, len(heard)) == ((401, 0) if stage[2] == "managed" else (200, 1))


def test_an_origin_is_relayed_as_any_header(stage):
    """With a key it is a request like any other: a desktop application in a browser's clothes may send one."""
    heard, seen = to_api(stage, "Host: p", "Origin: http://app.example", f"Authorization: Bearer {stage[3]}")

    assert seen.status == 200
    assert heard[0].values(b"origin") == [b"http://app.example"]
