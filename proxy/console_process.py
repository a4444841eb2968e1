"""The console process: puts the console, the store and the workers' reports together and runs until told to stop."""

import asyncio
import socket
import time
from pathlib import Path

import msgspec
import uvloop
from aiohttp import web

from proxy.audit_trail import ConsoleTrail
from proxy.catalog_files import LOOK_EVERY_S, LiveCatalog
from proxy.child import (
    ConsoleOrders,
    WorkerReport,
    die_with_parent,
    keep_secrets_in,
    on_stop,
    read_orders,
)
from proxy.console.app import Console, Upstreams
from proxy.console.balance import fetcher
from proxy.console.workers import Workers
from proxy.gateway_process import open_store
from proxy.ledger.audit_file import Audit, AuditFile
from proxy.ledger.audit_stream import AuditShipper
from proxy.ledger.store import Store
from proxy.logs import configure_logging
from proxy.tls import server_tls
from proxy.upstreams import routes_of, sellers_of

MAX_REPORT_BYTES = 64 * 1024
LONGEST_WAIT_S = 2.0
"""A scrape is worth more in time without the counters than too late with them: Prometheus gives up after ten seconds."""


async def _run(orders: ConsoleOrders) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    on_stop(loop, lambda _in_good_order: stopped.set())
    store = open_store(orders.settings, orders.redis_url, LONGEST_WAIT_S)
    workers = Workers()
    channel = socket.socket(fileno=orders.report_fd)
    channel.setblocking(False)
    loop.add_reader(channel.fileno(), lambda: _take_reports(channel, workers))
    catalog = LiveCatalog(orders.settings.pricing.catalog_file)
    looking = asyncio.create_task(_look_at(catalog))
    upstreams = Upstreams(sellers_of(orders.settings), routes_of(orders.settings))
    fetch = fetcher(orders.settings.upstream, orders.balance_key) if orders.balance_key else None
    console = Console(
        orders.settings,
        store,
        lambda: catalog.current,
        workers,
        upstreams=upstreams,
        fetch_balance=fetch,
        account=orders.account,
    )
    trail = _trail(orders, store, catalog)
    auditing = asyncio.create_task(trail.run(stopped))
    watching = asyncio.create_task(console.balance.run()) if console.balance else None
    runner = web.AppRunner(console.app(), access_log=None)
    await runner.setup()
    own = orders.settings.console
    tls = server_tls(own.tls_certificate_file, own.tls_key_file, "console")
    await web.SockSite(runner, socket.socket(fileno=orders.listen_fd), shutdown_timeout=1.0, ssl_context=tls).start()
    await stopped.wait()
    looking.cancel()
    await auditing
    if watching is not None:
        watching.cancel()
    loop.remove_reader(channel.fileno())
    channel.close()
    await runner.cleanup()
    await store.close()


def _trail(orders: ConsoleOrders, store: Store, catalog: LiveCatalog) -> ConsoleTrail:
    file = AuditFile(Path(orders.settings.store.data_dir), orders.audit_key)
    shipper = AuditShipper(file, store.audit)
    return ConsoleTrail(Audit(file, "console"), shipper, lambda: catalog.current, store.changes)


async def _look_at(catalog: LiveCatalog) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        catalog.look()


def _take_reports(channel: socket.socket, workers: Workers) -> None:
    """Everything that has come; the reports are small and few."""
    decoder = msgspec.json.Decoder(WorkerReport)
    while True:
        try:
            data = channel.recv(MAX_REPORT_BYTES)
        except BlockingIOError:
            return
        workers.take(decoder.decode(data), time.monotonic())


def main() -> None:
    """Entry of the child process."""
    die_with_parent()
    keep_secrets_in()
    orders = read_orders(ConsoleOrders)
    configure_logging(orders.settings.log)
    uvloop.run(_run(orders))


if __name__ == "__main__":
    main()
