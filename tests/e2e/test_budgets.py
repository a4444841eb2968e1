"""Budgets over real sockets: what a client is told, what is held while it streams, and what a crash or an outage leaves behind."""

import asyncio
import hashlib
import json
import os
import re
import signal
from collections import Counter
from importlib import resources

import openai
import pytest
from chaos.stage import RedisServer
from e2e.stack import KEY, free_address, stopping, wait_until
from e2e.test_counts import MESSAGES
from e2e.test_failures import HEAD, WORD
from e2e.wire import Client, chunk, post, upstream

MODEL = "deepseek-flash"
HELD = re.compile(r"held:\d+")


def budget(name="all", limit=0.000_5, **more):
    """A `[[budgets]]` that refuses."""
    said = {"name": name, "limit": limit, "action": "refuse", **more}
    return "[[budgets]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in said.items())


def sums(client, name="all"):
    """Nano-dollars a budget has spent and holds."""
    found = {"spent": 0, "held": 0}
    for field, value in client.hgetall(f"{{meter:default}}:budget:{name}").items():
        found[field.decode().partition(":")[0]] += int(value)
    return found


@pytest.fixture
def shared(tmp_path):
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.client.close()
    server.stop()


def url_of(server):
    return f"redis://127.0.0.1:{server.port}/0"


TOKENS = {"X-Simulator-Tokens": "0,20,5,5"}  # some ten millionths of a dollar


async def ask(url, key=KEY, headers=None, **more):
    async with openai.AsyncOpenAI(
        base_url=url, api_key=key, max_retries=0, default_headers={**TOKENS, **(headers or {})}
    ) as client:
        return await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=50, **more)


def ask_until_refused(url, most=400, **more):
    """How many were answered, and the refusal."""
    for answered in range(most):
        try:
            asyncio.run(ask(url, **more))
        except openai.RateLimitError as error:
            return answered, error
    raise AssertionError(f"{most} were answered")


def test_a_budget_that_is_used_up_says_so(simulator, start_proxy, shared):
    """429 in DeepSeek's shape with the figures, Retry-After, one record; gauges and the bill say the same."""
    proxy = start_proxy(simulator.url, redis=url_of(shared), toml=budget(period="month"))
    answered, error = ask_until_refused(proxy.url)
    proxy.wait_applied(answered + 1)
    told = error.response.json()["error"]
    billed = sum(sum(row["cost_nano_usd"].values()) for row in simulator.ledger()["completed"])

    assert answered > 3
    assert (told["type"], told["code"], told["param"]) == ("rate_limit_error", "budget_used_up", None)
    assert re.search(r"The budget all is used up: 0\.\d+ of 0\.000500 USD spent", told["message"])
    assert int(error.response.headers["Retry-After"]) >= 1
    assert error.response.headers["X-Meter-Error"] == "1"
    assert was_ever_asked(shared)
    assert sums(shared.client) == {"spent": billed, "held": 0}
    assert billed <= 500_000
    wait_until(lambda: proxy.total("budget_refusals_total", budget="all") == 1)
    assert proxy.total("budget_spend_usd", budget="all") == pytest.approx(billed / 1e9)
    assert proxy.total("budget_limit_usd", budget="all") == 0.0005
    assert proxy.total("requests_total", outcome="refused") == 1


def test_another_name_in_a_header_is_no_way_out(simulator, start_proxy, shared):
    """In passthrough mode a budget that refuses goes by the key; the app that the client states is only a label."""
    secret = '[gateway]\nkey_hash_secret = "the same for both"\n'
    proxy = start_proxy(simulator.url, redis=url_of(shared), toml=secret)
    asyncio.run(ask(proxy.url))
    proxy.wait_applied(1)
    (name,) = {dict(labels)["app"] for labels in proxy.metrics()["app_requests_total"]}
    proxy.stop()

    held = start_proxy(simulator.url, name="held", redis=url_of(shared), toml=secret + budget(app=name))
    answered, _ = ask_until_refused(held.url)
    assert answered
    for stated in ("somebody-else", name + "x"):  # a few may pass: what was held for those before is given back
        more, _ = ask_until_refused(held.url, headers={"X-Meter-App": stated})
        assert more < 20
    with pytest.raises(openai.BadRequestError, match="two different API keys"):
        asyncio.run(ask(held.url, key="sk-made-up", headers={"x-api-key": KEY}))
    assert sums(shared.client)["spent"] <= 500_000
    assert asyncio.run(ask(held.url, key="sk-not-a-key-either")).choices  # another key has another name


def was_ever_asked(server):
    """Redis knows a script from the first time it was run, and the one that reserves is run for nothing else."""
    script = resources.files("proxy.ledger").joinpath("reserve.lua").read_bytes()
    return server.client.script_exists(hashlib.sha1(script).hexdigest()) == [True]


def test_without_a_budget_that_applies_nothing_is_asked(simulator, start_proxy, shared):
    """No call to Redis on the path: another's budget is not looked at, and one that only shows is counted afterwards."""
    toml = budget(app="team-a") + budget("shown", action="alert")
    proxy = start_proxy(simulator.url, redis=url_of(shared), toml=toml)
    asyncio.run(ask(proxy.url))
    proxy.wait_applied(1)

    assert not was_ever_asked(shared)
    assert sums(shared.client, "shown")["spent"] > 0
    assert sums(shared.client, "team-a") == {"spent": 0, "held": 0}


@pytest.mark.parametrize(("policy", "status"), [("refuse", 503), ("allow", 200)])
def test_an_outage_is_what_the_budget_says(policy, status, simulator, start_proxy, shared):
    """Refused with a word, or let through, counted as a fault, and spent once Redis is back."""
    proxy = start_proxy(
        simulator.url,
        redis=url_of(shared),
        toml="[store]\noperation_timeout_seconds = 1.0\nconnect_timeout_seconds = 1.0\n"
        + budget(limit=10, on_store_down=policy),
    )
    asyncio.run(ask(proxy.url))
    proxy.wait_applied(1)
    shared.stop(signal.SIGKILL)
    if status == 503:
        with pytest.raises(openai.InternalServerError) as told:
            asyncio.run(ask(proxy.url))
        assert told.value.response.json()["error"]["code"] == "budget_unknown"
    else:
        assert asyncio.run(ask(proxy.url)).choices
    shared.start()
    proxy.wait_applied(2)
    billed = sum(sum(row["cost_nano_usd"].values()) for row in simulator.ledger()["completed"])
    wait_until(lambda: sums(shared.client) == {"spent": billed, "held": 0}, what=f"{sums(shared.client)} {billed}")
    wait_until(lambda: proxy.total("proxy_metering_faults_total", stage="reserve") >= 1)


async def begins(_heard, writer):
    """An answer that begins and goes on for ever."""
    writer.write(HEAD + chunk(WORD))
    await writer.drain()
    await asyncio.sleep(3600)


def open_stream():
    body = json.dumps({"model": MODEL, "stream": True, "messages": [], "max_tokens": 100}).encode()
    return post("/chat/completions", body)


def test_a_killed_worker_keeps_what_was_held_as_spent(start_proxy, shared):
    """The stream may have cost all of it; after recovery nothing is held any more."""

    async def scenario():
        async with upstream(begins, free_address()) as state:
            proxy = await asyncio.to_thread(
                start_proxy, state.url, redis=url_of(shared), toml=budget(limit=10, reserve="worst_case")
            )
            client = await Client(proxy.api).open()
            await client.send(open_stream())
            await client.head()
            held = sums(shared.client)["held"]
            workers = [pid for pid, line in proxy.children().items() if "gateway_process" in line]
            os.kill(workers[0], signal.SIGKILL)
            await asyncio.to_thread(wait_until, lambda: sums(shared.client) == {"spent": held, "held": 0}, 30)
            await client.close()
            return await asyncio.to_thread(proxy.total, "requests_total", outcome="interrupted")

    assert asyncio.run(scenario()) == 1


@pytest.mark.parametrize("policy", ["allow", "refuse"])
def test_a_burst_on_one_worker_passes_no_budget(policy, start_proxy, shared):
    """More at once than a client of Redis opens connections: Redis is there, so neither policy for its absence holds."""

    async def scenario():
        async with upstream(begins, free_address()) as state:
            toml = budget(limit=0.002, reserve="worst_case", on_store_down=policy)
            proxy = await asyncio.to_thread(start_proxy, state.url, redis=url_of(shared), toml=toml)
            clients = [await Client(proxy.api).open() for _ in range(300)]
            await asyncio.gather(*(client.send(open_stream()) for client in clients))
            statuses = Counter([(await client.head()).status for client in clients])
            held = sums(shared.client)["held"]
            holding = sum(shared.client.hlen(key) for key in shared.client.scan_iter("*:holds:*"))
            for client in clients:
                await client.abort()
            return statuses, holding, held

    statuses, holding, held = asyncio.run(scenario())

    assert (set(statuses), statuses.total()) == ({200, 429}, 300)
    assert statuses[200] == holding > 3
    assert held <= 0.002 * 10**9


def test_a_client_that_leaves_pays_for_what_came(start_proxy, shared):
    """An estimate, far below what was held; nothing stays held."""

    async def scenario():
        async with upstream(begins, free_address()) as state:
            proxy = await asyncio.to_thread(
                start_proxy, state.url, redis=url_of(shared), toml=budget(limit=10, reserve="worst_case")
            )
            client = await Client(proxy.api).open()
            await client.send(open_stream())
            await client.head()
            held = sums(shared.client)["held"]
            await client.close()
            await asyncio.to_thread(proxy.wait_applied, 1)
            await asyncio.to_thread(wait_until, lambda: not sums(shared.client)["held"])
            return held, sums(shared.client)["spent"]

    held, spent = asyncio.run(scenario())
    assert 0 < spent < held


def test_an_upstream_that_is_not_there_costs_nothing(start_proxy, shared):
    """Reserved, refused by nobody, and given back."""
    proxy = start_proxy("http://127.0.0.1:9", redis=url_of(shared), toml=budget(limit=10))
    with pytest.raises(openai.InternalServerError):
        asyncio.run(ask(proxy.url))
    proxy.wait_applied(1)
    wait_until(lambda: not shared.client.keys("{meter:default}:holds:*"))
    assert sums(shared.client) == {"spent": 0, "held": 0}


def test_what_has_no_bound_is_refused_where_the_worst_case_is_held(simulator, start_proxy, shared):
    """400 that says what it is; with a likely cost the same request passes."""
    worst = start_proxy(simulator.url, redis=url_of(shared), toml=budget(limit=10, reserve="worst_case"))
    tools = [{"type": "web_search"}]
    with pytest.raises(openai.BadRequestError) as told:
        asyncio.run(ask(worst.url, tools=tools))
    assert told.value.response.json()["error"]["code"] == "no_cost_bound"
    assert "web_search" in told.value.response.json()["error"]["message"]
    with stopping(worst):
        likely = start_proxy(simulator.url, name="likely", redis=url_of(shared), toml=budget(limit=10))
    assert asyncio.run(ask(likely.url, tools=tools)).choices
