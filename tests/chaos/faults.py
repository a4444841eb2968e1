"""The faults, each a coroutine that breaks something, waits, and mends it. A table: name, what it does."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from random import Random
from typing import NamedTuple

from chaos.cutter import Cutter
from chaos.stage import Stage

Breaks = Callable[[Stage, Cutter, Random], Awaitable[None]]


async def nothing(stage: Stage, cutter: Cutter, rng: Random) -> None:
    """Clients leave and the upstream breaks off, but nothing of ours is touched."""


async def worker_killed(stage: Stage, cutter: Cutter, rng: Random) -> None:
    for _ in range(3):
        stage.kill_a_worker(rng.randrange(8))
        await asyncio.sleep(rng.uniform(0.2, 0.8))


async def service_killed(stage: Stage, cutter: Cutter, rng: Random) -> None:
    stage.kill_the_service()
    await asyncio.sleep(rng.uniform(0.0, 0.5))
    await stage.start_the_service()


async def redis_restarted(stage: Stage, cutter: Cutter, rng: Random) -> None:
    stage.redis.stop(rng.choice((signal.SIGTERM, signal.SIGKILL)))
    await asyncio.sleep(rng.uniform(0.5, 2.0))
    await asyncio.to_thread(stage.redis.start)


async def redis_paused(stage: Stage, cutter: Cutter, rng: Random) -> None:
    os.kill(stage.redis.pid, signal.SIGSTOP)
    await asyncio.sleep(rng.uniform(1.0, 3.5))
    os.kill(stage.redis.pid, signal.SIGCONT)


async def connection_cut(stage: Stage, cutter: Cutter, rng: Random) -> None:
    for _ in range(5):
        cutter.cut_next(rng.randint(1, 2))
        await asyncio.sleep(rng.uniform(0.6, 1.2))
    cutter.cut_next(0)


async def redis_rolled_back(stage: Stage, cutter: Cutter, rng: Random) -> None:
    copy = await asyncio.to_thread(stage.redis.save)
    await asyncio.sleep(rng.uniform(1.5, 3.0))
    await asyncio.to_thread(stage.redis.restore, copy)


async def rolled_back_and_killed(stage: Stage, cutter: Cutter, rng: Random) -> None:
    copy = await asyncio.to_thread(stage.redis.save)
    await asyncio.sleep(rng.uniform(1.0, 2.0))
    stage.kill_the_service()
    await asyncio.to_thread(stage.redis.restore, copy)
    await stage.start_the_service()


class Fault(NamedTuple):
    """A row of the table."""

    name: str
    breaks: Breaks


FAULTS = (
    Fault("streams cut by either side", nothing),
    Fault("workers killed (-9)", worker_killed),
    Fault("whole service killed (-9)", service_killed),
    Fault("Redis stopped and restarted", redis_restarted),
    Fault("Redis paused (SIGSTOP)", redis_paused),
    Fault("connection cut mid-script", connection_cut),
    Fault("Redis back to an earlier state", redis_rolled_back),
    Fault("the same, service killed with it", rolled_back_and_killed),
)
