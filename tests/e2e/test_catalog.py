"""An operator's own prices, taken over by every process while they run. Over real sockets."""

import asyncio

from e2e.stack import Proxy, free_address, stopping, wait_until
from e2e.test_failures import DONE, HEAD, event, record_of
from e2e.wire import ask, chunk, post, upstream
from test_cli import OWN

BODY = b'{"model":"my-r1","stream":true,"messages":[]}'
USAGE = '{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}'
FINISH = event('{"content":""}', usage=USAGE, finish='"stop"').replace(b"deepseek-flash", b"my-r1")


async def answers(_heard, writer):
    writer.write(HEAD + chunk(FINISH) + chunk(DONE) + b"0\r\n\r\n")


def test_own_prices_are_taken_over_live_and_a_broken_file_is_not(tmp_path):
    """Unpriced first, then at the price of the file; spoilt, the file is refused in the log and the price stays."""
    own = tmp_path / "own.toml"
    own.write_text("")
    address = free_address()
    proxy = Proxy(tmp_path, f"http://{address}", workers=2, toml=f'[pricing]\ncatalog_file = "{own}"\n')

    def cost():
        async def run():
            async with upstream(answers, address):
                return await ask(proxy.api, post("/chat/completions", BODY))

        charges = record_of(proxy, asyncio.run(run())).get("charges", [])
        return sum(sum(charge["nanos"]) for charge in charges)

    with stopping(proxy):
        proxy.wait_ready()
        assert cost() == 0
        own.write_text(OWN)
        wait_until(lambda: proxy.output.count("catalog_reloaded") == 3, 10, "both workers and the console")
        assert cost() == 10 * 200 + 5 * 400
        own.write_text("[[price]]\n")
        wait_until(lambda: proxy.output.count("catalog_refused") == 3, 10, "all three")
        assert cost() == 10 * 200 + 5 * 400


def test_a_start_with_a_broken_catalog_is_one_line(tmp_path):
    """Not a worker that is started again and again."""
    own = tmp_path / "own.toml"
    own.write_text("[[prise]]\n")
    proxy = Proxy(tmp_path, "http://127.0.0.1:9", toml=f'[pricing]\ncatalog_file = "{own}"\n')
    with stopping(proxy):
        wait_until(lambda: proxy.child.poll() is not None, 10)
        assert proxy.child.returncode != 0
        assert "own.toml: prise: unknown table" in proxy.output
        assert "Traceback" not in proxy.output
