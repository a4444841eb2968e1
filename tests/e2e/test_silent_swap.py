"""A silent swap in mid-traffic: the same name, another build. Two replicas with four workers each on one Redis."""

import asyncio
import json
from collections import Counter

import openai
import pytest
from e2e.stack import KEY, SCENARIO, Simulator, get, stopping
from e2e.test_counts import MESSAGES, wait_past_a_band_border

from proxy.ledger import embedded

EXCHANGES = 600
SWAP_AFTER = 250
NEW_BUILD = "81d3c5e2f6094ab7bc55e90a7f2e1120"
VERSION = "DeepSeek-V4.1-Flash-1017"


@pytest.fixture
def swapping(tmp_path):
    """A simulator that changes the build behind `deepseek-flash` after so many exchanges, and tells nobody."""
    scenario = tmp_path / "swap.toml"
    swap = f'\n[[swaps]]\nmodel = "deepseek-flash"\nafter_exchanges = {SWAP_AFTER}\nfingerprint = "{NEW_BUILD}"\n'
    scenario.write_text(SCENARIO.read_text() + swap)
    simulator = Simulator(tmp_path, scenario=scenario)
    with stopping(simulator):
        yield simulator


@pytest.fixture
def shared_redis(tmp_path):
    server = embedded.start(tmp_path / "shared", embedded.find_server())
    yield server.url
    server.stop()


async def ask_through(urls, count, parallel=12):
    limit = asyncio.Semaphore(parallel)
    clients = [openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) for url in urls]

    async def ask(number):
        model = ("deepseek-flash", "deepseek-v4-flash")[number // len(urls) % 2]
        async with limit:
            create = clients[number % len(urls)].chat.completions.create
            answer = await create(model=model, messages=MESSAGES, stream=number % 3 == 0)
            if number % 3 == 0:
                async for _ in answer:
                    pass

    await asyncio.gather(*map(ask, range(count)))
    for client in clients:
        await client.close()


def by_version(proxy):
    """Exchanges and nano-dollars by version, as every replica shows them."""
    samples = proxy.metrics()
    requests, nanos = Counter(), Counter()
    for pairs, value in samples["requests_total"].items():
        requests[dict(pairs)["version"]] += int(value)
    for pairs, value in samples["cost_usd_total"].items():
        nanos[dict(pairs)["version"]] += round(value * 1e9)
    return {name: (count, nanos[name]) for name, count in requests.items() if count}


def billed_by_build(simulator):
    requests, nanos = Counter(), Counter()
    for row in simulator.ledger()["completed"]:
        version = f"{VERSION}+r2" if row["fingerprint"] == NEW_BUILD else VERSION
        requests[version] += row["requests"]
        nanos[version] += sum(row["cost_nano_usd"].values())
    return {name: (count, nanos[name]) for name, count in requests.items()}


def test_a_swap_splits_the_cost_at_its_first_exchange(swapping, start_proxy, shared_redis):
    """Both replicas and the bill agree to the nano-dollar; one event; the records carry the tag from the first one on."""
    wait_past_a_band_border()
    replicas = [start_proxy(swapping.url, name=f"r{n}", workers=4, redis=shared_redis) for n in range(2)]
    asyncio.run(ask_through([replica.url for replica in replicas], EXCHANGES))
    for replica in replicas:
        replica.wait_applied(EXCHANGES)
    billed = billed_by_build(swapping)

    assert len(billed) == 2
    assert [by_version(replica) for replica in replicas] == [billed, billed]
    assert [replica.total("version_changes_total") for replica in replicas] == [1, 1]
    seen = [json.loads(get(f"{replica.console_url}/api/versions")[1]) for replica in replicas]
    for found in seen:
        (change,) = found["changes"]
        assert (change["kind"], change["fingerprint"]) == ("revision", NEW_BUILD)
        assert (change["before"]["version"], change["after"]["version"]) == (VERSION, f"{VERSION}+r2")
        assert change["before"]["requests"] == billed[VERSION][0]
        assert change["after"]["requests"] == billed[f"{VERSION}+r2"][0]
    assert sum(replica.total("proxy_metering_faults_total") for replica in replicas) == 0
