"""The demo's companion process: the simulator and the traffic that flows through the proxy to it."""

import asyncio
import contextlib

import msgspec
import uvloop

from proxy.child import die_with_parent, keep_secrets_in, on_stop, read_orders
from proxy.logs import configure_logging
from proxy.settings import LogSettings, split_address
from proxy.simulator.scenario import default_scenario
from proxy.simulator.server import serve
from proxy.simulator.traffic import run_traffic

SEED = 1


class DemoOrders(msgspec.Struct, frozen=True):
    """What the companion is told: where the simulator listens, and where the proxy does."""

    simulator: str
    base_url: str
    requests_per_second: float
    log: LogSettings


async def _run(orders: DemoOrders) -> None:
    stopped = asyncio.Event()
    on_stop(asyncio.get_running_loop(), lambda _in_good_order: stopped.set())
    host, port = split_address(orders.simulator, "--simulator")
    simulating = asyncio.create_task(serve(host, port, default_scenario()), name="simulator")
    traffic = run_traffic(orders.base_url, rate_per_second=orders.requests_per_second, seed=SEED, stop=stopped)
    driving = asyncio.create_task(traffic, name="traffic")
    await asyncio.wait({simulating, driving}, return_when=asyncio.FIRST_COMPLETED)
    for task in (driving, simulating):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def main() -> None:
    """Entry of the child process."""
    die_with_parent()
    keep_secrets_in()
    orders = read_orders(DemoOrders)
    configure_logging(orders.log)
    uvloop.run(_run(orders))


if __name__ == "__main__":
    main()
