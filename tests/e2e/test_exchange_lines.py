"""A line for each exchange in the log, as JSON, without a word of what was said. Over real sockets."""

import asyncio
import json

import pytest
from e2e.stack import Proxy, free_address, stopping
from e2e.test_failures import DONE, FINISH, HEAD, WORD, record_of
from e2e.wire import ask, chunk, post, upstream

BODY = b'{"model":"deepseek-flash","stream":true,"messages":[{"role":"user","content":"marked-prompt-of mine"}]}'


async def answers(_heard, writer):
    writer.write(HEAD + b"".join(chunk(one) for one in (WORD, FINISH, DONE)) + b"0\r\n\r\n")


def lines_of(tmp_path, toml):
    """What was logged of one good exchange and one that met nobody, and their records."""
    address = free_address()
    proxy = Proxy(tmp_path, f"http://{address}", toml=toml)

    async def run():
        async with upstream(answers, address):
            good = await ask(proxy.api, post("/chat/completions", BODY, b"X-Meter-App: team-a"))
        return good, await ask(proxy.api, post("/chat/completions", BODY))

    with stopping(proxy):
        proxy.wait_ready()
        records = [record_of(proxy, one) for one in asyncio.run(run())]
    logged = [json.loads(line) for line in proxy.output.splitlines() if line.startswith("{")]
    assert "marked-prompt" not in proxy.output
    return records, [one for one in logged if one["event"] == "exchange"]


def test_each_exchange_is_one_line(tmp_path):
    """With its id, so that a line leads to its record, and the figures of that record."""
    records, lines = lines_of(tmp_path, '[log]\nformat = "json"\n')

    assert [line["id"] for line in lines] == [one["exchange_id"] for one in records]
    good, bad = lines
    assert (good["app"], good["version"], good["outcome"], good["status"], good["level"]) == ("team-a", records[0]["version"], "complete", 200, "info")  # fmt: skip
    assert sum(good["tokens"].values()) == 13
    assert float(good["cost"]["USD"]) * 1e9 == pytest.approx(sum(records[0]["charges"][0]["nanos"]))
    assert (bad["outcome"], bad["status"], bad["tokens"], bad["cost"]) == ("upstream_disconnected", 502, {}, {})


@pytest.mark.parametrize("toml", ['level = "warning"\n', "exchanges = false\n"])
def test_the_lines_can_be_put_off(tmp_path, toml):
    """By themselves, or with all that is below a warning."""
    records, lines = lines_of(tmp_path, f'[log]\nformat = "json"\n{toml}')

    assert (len(records), lines) == (2, [])
