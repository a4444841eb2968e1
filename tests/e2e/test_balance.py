"""The account's balance at a real simulator, compared with what the proxy metered; somebody else's use of the key shows."""

import asyncio
import json

import openai
from e2e.stack import KEY, SCENARIO, Proxy, Simulator, get, stopping, wait_until
from e2e.test_counts import MESSAGES

POLL_S, SETTLE_S = 0.3, 1.0
TOML = """
[balance]
key_file = "{key_file}"
poll_seconds = {poll}
settle_seconds = {settle}
"""


def spend(url, count):
    """Exchanges that cost something to the cent."""

    async def run():
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
            limit = asyncio.Semaphore(8)

            async def ask():
                async with limit:
                    await client.chat.completions.create(model="deepseek-v4-pro", messages=MESSAGES)

            await asyncio.gather(*(ask() for _ in range(count)))

    asyncio.run(run())


def account(proxy):
    return json.loads(get(f"{proxy.console_url}/api/balance")[1])["accounts"].get("USD", {})


def amount(proxy):
    found = account(proxy).get("gap")
    return None if found is None else float(found["amount"])


def test_what_passes_here_is_explained_and_what_does_not_is_a_gap(tmp_path):
    """Metered traffic makes none; the same key used past the proxy does, with what it may be."""
    (tmp_path / "key").write_text(f"{KEY}\n")
    simulator = Simulator(tmp_path, scenario=SCENARIO)
    toml = TOML.format(key_file=tmp_path / "key", poll=POLL_S, settle=SETTLE_S)
    proxy = Proxy(tmp_path, simulator.url, toml=toml)
    with stopping(proxy, simulator):
        proxy.wait_ready()
        wait_until(lambda: amount(proxy) == 0, what="enough looks to compare")
        spend(proxy.url, 60)
        proxy.wait_applied(60)
        wait_until(lambda: float(account(proxy)["gap"]["metered_at_least"]) > 0.1, what="the cost has settled")

        assert amount(proxy) == 0
        assert proxy.total("balance_gap_usd") == 0
        assert proxy.total("balance", currency="USD") > 4000
        spend(simulator.url, 60)
        wait_until(lambda: amount(proxy) > 0.1, what="a gap")

        assert proxy.total("balance_gap_usd") > 0.1
        assert any("somebody else" in one for one in account(proxy)["gap"]["may_be"])
        assert "balance_gap" in proxy.output
        assert KEY not in proxy.output


def test_without_a_key_nothing_is_asked(tmp_path):
    """The proxy is as quiet towards the upstream as before, and says why there is no balance."""
    simulator = Simulator(tmp_path, scenario=SCENARIO)
    proxy = Proxy(tmp_path, simulator.url)
    with stopping(proxy, simulator):
        proxy.wait_ready()

        assert get(f"{proxy.console_url}/api/balance")[0] == 404
        assert "balance" not in proxy.metrics()
