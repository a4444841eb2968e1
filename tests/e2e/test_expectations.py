"""What clients expect of a version, and what they get. Over real sockets."""

import asyncio
import json

import pytest
from e2e.stack import Proxy, free_address, get, stopping
from e2e.test_failures import DONE, FINISH, HEAD, WORD, record_of
from e2e.wire import ask, chunk, post, upstream

FLASH, PRO = "DeepSeek-V4.1-Flash-1017", "DeepSeek-V4-Pro-0813"
BODY = b'{"model":"deepseek-flash","stream":true,"messages":[]}'


@pytest.fixture(scope="module", params=["count", "refuse"])
def stage(request, tmp_path_factory):
    address = free_address()
    toml = f'[gateway]\non_mismatch = "{request.param}"\n'
    proxy = Proxy(tmp_path_factory.mktemp(request.param), f"http://{address}", toml=toml)
    with stopping(proxy):
        yield proxy.wait_ready(), address, request.param


async def answers(_heard, writer):
    writer.write(HEAD + b"".join(chunk(one) for one in (WORD, FINISH, DONE)) + b"0\r\n\r\n")


def expecting(stage, version, path="/chat/completions"):
    proxy, address, _ = stage

    async def run():
        async with upstream(answers, address) as state:
            header = b"X-Meter-Expect-Version: " + version.encode()
            return state, await ask(proxy.api, post(path, BODY, header))

    return asyncio.run(run())


@pytest.mark.parametrize("version", [FLASH, ""])
def test_what_is_expected_is_relayed(stage, version):
    """And nothing is counted."""
    proxy, _, _ = stage
    _, seen = expecting(stage, version)
    record = record_of(proxy, seen)

    assert (seen.status, record["outcome"]) == (200, "complete")
    assert "version_mismatch" not in record


@pytest.mark.parametrize(("wanted", "counted"), [(PRO, PRO), ("my-own-words", "unknown")])
def test_another_version_is_counted_or_refused(stage, wanted, counted):
    """Counted: relayed, in the record and in a metric. Refused: 409 in DeepSeek's shape, and the upstream never hears of it."""
    proxy, _, mode = stage
    before = proxy.total("version_mismatches_total", expected=counted, version=FLASH)
    state, seen = expecting(stage, wanted)
    record = record_of(proxy, seen)
    after = proxy.total("version_mismatches_total", expected=counted, version=FLASH)

    assert record["expected_version"] == wanted
    if mode == "count":
        assert (seen.status, record["version_mismatch"], after - before) == (200, counted, 1)
    else:
        error = json.loads(seen.body)["error"]
        assert (seen.status, record["outcome"], record["source"]) == (409, "refused", "none")
        assert (error["code"], len(state.heard), after - before) == ("version_mismatch", 0, 0)
        assert FLASH in error["message"]


def test_what_asks_no_model_is_never_refused(stage):
    """A client may send the header with everything."""
    _, seen = expecting(stage, PRO, "/files")

    assert seen.status == 200
    assert get(f"{stage[0].console_url}/healthz")[0] == 200
