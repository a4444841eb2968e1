"""One run: clients all the time, one fault after the other, then the audit. With a Prometheus, also what it made of it."""

import asyncio
import contextlib
import json
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
from chaos.audit import Row, Slot, rows, totals_off
from chaos.clients import Clients
from chaos.cutter import Cutter
from chaos.faults import FAULTS
from chaos.stage import RedisServer, Stage, free_port
from e2e.stack import get
from programs import program_path

from proxy.ledger.families import parse_field
from proxy.usage import UsageRecord

RECOVERY_S = 3.0
"""Time given to a fault behind its end, so that what it delayed is put down to it."""

KEY = "{meter:default}:"
DRAIN_S = 60.0


class Result(msgspec.Struct):
    """What came of a run. `resets`: falls of a counter that Prometheus saw (None: no Prometheus here)."""

    seed: int
    rows: list[Row]
    totals_off: int
    violations: int
    killed: int
    cuts: int
    resets: int | None = None
    increase_share: float | None = None
    verify: str = ""

    @property
    def clean(self) -> bool:
        """True where the proof holds."""
        return all(row.clean for row in self.rows) and not self.totals_off and not self.resets


class Plan(msgspec.Struct, frozen=True):
    """How much of it. Every fault happens at least once, however short the run."""

    seed: int
    seconds: float = 60.0
    clients: int = 64
    recovery_s: float = RECOVERY_S
    prometheus: bool = True


async def run(folder: Path, plan: Plan) -> Result:
    """One run in an empty folder."""
    server = RedisServer(folder / "redis")
    await asyncio.to_thread(server.start)
    try:
        async with Cutter("127.0.0.1", server.port) as cutter:
            stage = await asyncio.to_thread(Stage, folder, cutter.address, server)
            try:
                await asyncio.to_thread(stage.proxy.wait_ready)
                with _prometheus(folder, stage.proxy.console, wanted=plan.prometheus) as watcher:
                    return await _run(stage, cutter, watcher, plan)
            finally:
                await asyncio.to_thread(stage.stop)
    finally:
        server.stop()


async def _run(stage: Stage, cutter: Cutter, watcher: str, plan: Plan) -> Result:
    traffic = Clients(stage.proxy.url, plan.seed)
    asking = asyncio.create_task(traffic.run(plan.clients))
    begun_s = time.time()
    slots = await _break_things(stage, cutter, plan)
    traffic.stop()
    await asking
    await _drain(stage)
    records = _records(stage)
    result = Result(
        seed=plan.seed,
        rows=rows(slots, traffic.seen, _billed(stage), records),
        totals_off=totals_off(records, _totals(stage)),
        violations=sum(len(record.violations) for record in records),
        killed=stage.killed,
        cuts=cutter.cuts,
        verify=await _verify(stage),
    )
    if watcher:
        result.resets, result.increase_share = await _asked(watcher, time.time() - begun_s, stage)
    return result


async def _break_things(stage: Stage, cutter: Cutter, plan: Plan) -> list[Slot]:
    """Every fault in an order of the seed's, over and over, until the time is up; each at least once."""
    rng = Random(plan.seed)
    slots: list[Slot] = []
    deadline = time.monotonic() + plan.seconds
    while True:
        for fault in rng.sample(FAULTS, len(FAULTS)):
            if len(slots) >= len(FAULTS) and time.monotonic() > deadline:
                return slots
            slots.append(Slot(fault.name, time.time()))
            await asyncio.sleep(plan.recovery_s / 6)
            await fault.breaks(stage, cutter, rng)
            await asyncio.sleep(plan.recovery_s)


async def _drain(stage: Stage) -> None:
    """Until everything is in the counters and nothing moves any more."""
    deadline = time.monotonic() + DRAIN_S
    before, quiet = -1.0, 0
    while quiet < 4:
        await asyncio.sleep(1.0)
        metrics = await asyncio.to_thread(_metrics, stage)
        pending = sum(metrics.get("proxy_journal_pending_records", {(): 1}).values())
        requests = sum(metrics.get("requests_total", {}).values())
        quiet = quiet + 1 if not pending and requests == before else 0
        before = requests
        assert time.monotonic() < deadline, f"not drained within {DRAIN_S:.0f} s: {stage.proxy.output[-2000:]}"


def _metrics(stage: Stage) -> dict[str, dict[tuple, float]]:
    with contextlib.suppress(AssertionError):
        return stage.proxy.metrics()
    return {}


def _records(stage: Stage) -> list[UsageRecord]:
    found = stage.redis.client.xrange(f"{KEY}records")
    return [msgspec.json.decode(fields[b"record"], type=UsageRecord) for _, fields in found]


def _totals(stage: Stage) -> dict[tuple[str, ...], int]:
    fields = stage.redis.client.hgetall(f"{KEY}totals")
    return {(family, *labels): int(value) for field, value in fields.items() for family, labels in [parse_field(field)]}


def _billed(stage: Stage) -> list[dict]:
    return json.loads(get(f"{stage.simulator.url}/_simulator/ledger?exchanges=1")[1])["list"]


async def _verify(stage: Stage) -> str:
    """What `deepseek-meter verify` says of it, in a word."""
    return await asyncio.to_thread(stage.verify)


@contextlib.contextmanager
def _prometheus(folder: Path, console: str, *, wanted: bool) -> Iterator[str]:
    """A real Prometheus that scrapes every second; its address, or nothing where there is none."""
    program = program_path("prometheus")
    if not wanted or program is None:
        yield ""
        return
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"scrape_configs: [{{job_name: meter, static_configs: [{{targets: ['{console}']}}]}}]\n"
    )
    address = f"127.0.0.1:{free_port()}"
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield address
    finally:
        process.terminate()
        process.wait(30)


async def _asked(address: str, seconds: float, stage: Stage) -> tuple[int, float]:
    """How often a counter fell, and `increase()` of all tokens as a share of what was counted."""
    await asyncio.sleep(3)
    window = f"{int(seconds) + 30}s"
    resets = await _query(address, f"sum(resets(deepseek_meter_tokens_total[{window}]))")
    grown = await _query(address, f"sum(increase(deepseek_meter_tokens_total[{window}]))")
    counted = sum(value for (family, *_), value in _totals(stage).items() if family == "tokens_total")
    return int(resets), grown / counted


async def _query(address: str, expression: str) -> float:
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    _, body = await asyncio.to_thread(get, url)
    found = json.loads(body)["data"]["result"]
    return float(found[0]["value"][1]) if found else 0.0
