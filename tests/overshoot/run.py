"""One run: a budget of so many mean exchanges, clients that ask until they are turned away for good, then the books.

Replicas of two workers on one Redis. Output is lognormal, so that a few exchanges cost many times the mean. In some runs Redis is
killed in the middle and started again.
"""

import asyncio
import math
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from chaos.stage import RedisServer
from e2e.stack import KEY, Proxy, Simulator, wait_until

from proxy.catalog_files import builtin_catalog
from proxy.ledger.families import NANO
from proxy.pricing.tariff import rate_at

VERSION = "DeepSeek-V4.1-Flash-1017"
MODEL = "deepseek-flash"
PROMPT_TOKENS, MAX_TOKENS = 148, 2000
REASONING, ANSWER, SIGMA = 60, 50, 0.8
OUTAGE_S = 3.0
PREFIX = "{meter:default}:"
_TOLD = re.compile(
    r"(\d+\.\d+) of (\d+\.\d+) USD spent, (\d+\.\d+) held for exchanges under way, and this one may cost (\d+\.\d+)"
)

SCENARIO = f"""
seed = 3
[balance]
topped_up = "100000.00"
[[models]]
names = ["{MODEL}"]
served = "{MODEL}"
fingerprint = "5e1f0a7c93d84b26a1f7c0de41171017"
prices = {{ hit = "0.006", miss = "0.30", output = "1.20" }}
off_peak = "0.5"
prompt_tokens = {PROMPT_TOKENS}
cache_hit_share = 0.0
reasoning_tokens = {{ median = {REASONING}, sigma = {SIGMA}, max = {MAX_TOKENS} }}
answer_tokens = {{ median = {ANSWER}, sigma = {SIGMA}, max = {MAX_TOKENS} }}
first_delta_seconds = {{ min = 0.02, max = 0.08 }}
[peak]
windows = ["01:00-04:00", "06:00-10:00"]
"""


class Plan(msgspec.Struct, frozen=True):
    """What is tried: how much is reserved, how many clients ask, and what happens to Redis, with what `on_store_down` says."""

    reserve: str
    clients: int
    on_store_down: str = ""
    means: int = 1000
    """The limit, in mean exchanges."""
    replicas: int = 2
    patience: int = 6
    """So many refusals in a row, and a client gives up: nothing can have been on its way any more."""


class Result(msgspec.Struct):
    """What came of it. `overshoot` is spent / limit - 1; `phantom` are refusals that the numbers in them do not bear out."""

    plan: Plan
    limit_nanos: int
    spent_nanos: int
    billed_nanos: int
    answered: int
    refused: int
    unavailable: int
    phantom: int
    leaked_nanos: int
    leaked_holds: int

    @property
    def overshoot(self) -> float:
        """Share by which the limit was passed; below 0 where it was not reached."""
        return self.spent_nanos / self.limit_nanos - 1


def run(folder: Path, plan: Plan) -> Result:
    """One run in an empty folder."""
    (folder / "scenario.toml").write_text(SCENARIO)
    limit = _limit_usd(plan.means)
    toml = _settings(limit, plan)
    server = RedisServer(folder / "redis")
    server.start()
    simulator = Simulator(folder, scenario=folder / "scenario.toml")
    replicas = [_replica(folder, number, simulator.url, server.port, toml) for number in range(plan.replicas)]
    try:
        for replica in replicas:
            replica.wait_ready()
        asked = asyncio.run(_ask(plan, [replica.url for replica in replicas], server))
        _settle(replicas, server)
        return _result(plan, limit, simulator, server, asked)
    finally:
        for process in (*replicas, simulator):
            process.stop()
        server.client.close()
        server.stop()


def _replica(folder: Path, number: int, upstream: str, port: int, toml: str) -> Proxy:
    place = folder / f"r{number}"
    place.mkdir()
    return Proxy(place, upstream, workers=2, redis=f"redis://127.0.0.1:{port}/0", toml=toml)


def _limit_usd(means: int) -> float:
    """So many mean exchanges at the price in force."""
    rate = rate_at(builtin_catalog(), VERSION, "USD", time.time())
    assert rate is not None
    _, miss, _, answer = rate.nanos_per_million
    output = (REASONING + ANSWER) * math.exp(SIGMA**2 / 2)
    return means * (PROMPT_TOKENS * miss + output * answer) / 1e6 / NANO


def _settings(limit: float, plan: Plan) -> str:
    return (
        "[store]\noperation_timeout_seconds = 2.0\nconnect_timeout_seconds = 1.0\n"
        f'[[budgets]]\nname = "one"\nlimit = {limit:.9f}\nperiod = "month"\naction = "refuse"\n'
        f'reserve = "{plan.reserve}"\non_store_down = "{plan.on_store_down or "refuse"}"\n'
    )


class _Asked:
    """What clients saw."""

    def __init__(self) -> None:
        self.answered = self.refused = self.unavailable = self.phantom = 0

    def see(self, status: int, body: Mapping[str, Any]) -> None:
        if status == 429:
            self.refused += 1
            told = _TOLD.search(body["error"]["message"])
            assert told, body
            spent, limit, held, need = map(float, told.groups())
            self.phantom += spent + held + need <= limit - 0.000_002  # each is rounded to a millionth
        elif status == 503:
            self.unavailable += 1
        else:
            assert status == 200, (status, body)
            self.answered += 1


async def _ask(plan: Plan, urls: list[str], server: RedisServer) -> _Asked:
    asked = _Asked()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {KEY}"}) as session:
        breaking = asyncio.create_task(_break(plan, server, asked)) if plan.on_store_down else None
        clients = [_client(plan, session, urls[number % len(urls)], asked, breaking) for number in range(plan.clients)]
        await asyncio.gather(*clients)
        if breaking:
            await breaking
    return asked


async def _break(plan: Plan, server: RedisServer, asked: _Asked) -> None:
    """Kill Redis once a third is spent, and start it again."""
    while asked.answered < plan.means / 3:
        await asyncio.sleep(0.02)
    await asyncio.to_thread(server.stop, signal.SIGKILL)
    await asyncio.sleep(OUTAGE_S)
    await asyncio.to_thread(server.start)


async def _client(
    plan: Plan, session: aiohttp.ClientSession, url: str, asked: _Asked, breaking: "asyncio.Task[None] | None"
) -> None:
    """Ask until it was turned away for good."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Say something."}], "max_tokens": MAX_TOKENS}
    turned_away = 0
    while turned_away < plan.patience:
        async with session.post(f"{url}/chat/completions", json=body) as response:
            status, answer = response.status, await response.json()
        asked.see(status, answer)
        if status == 200:
            turned_away = 0
        else:
            turned_away += status == 429 and (breaking is None or breaking.done())
            await asyncio.sleep(0.4)


def _settle(replicas: list[Proxy], server: RedisServer) -> None:
    """Until every record is in the counters, and owners have said once more what is open."""
    wait_until(lambda: all(one.total("proxy_journal_pending_records") == 0 for one in replicas), 60)
    deadline = time.monotonic() + 15
    while server.client.keys(f"{PREFIX}holds:*") and time.monotonic() < deadline:
        time.sleep(0.2)


def _result(plan: Plan, limit: float, simulator: Simulator, server: RedisServer, asked: _Asked) -> Result:
    fields = {key.decode(): int(value) for key, value in server.client.hgetall(f"{PREFIX}budget:one").items()}
    billed = sum(sum((row["cost_nano_usd"] or {}).values()) for row in simulator.ledger()["completed"])
    return Result(
        plan=plan,
        limit_nanos=round(limit * NANO),
        spent_nanos=sum(value for name, value in fields.items() if name.startswith("spent:")),
        billed_nanos=billed,
        answered=asked.answered,
        refused=asked.refused,
        unavailable=asked.unavailable,
        phantom=asked.phantom,
        leaked_nanos=sum(abs(value) for name, value in fields.items() if name.startswith("held:")),
        leaked_holds=sum(server.client.hlen(key) for key in server.client.keys(f"{PREFIX}holds:*")),
    )
