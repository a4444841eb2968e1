"""A gateway worker: puts the relay, the meter, the catalog and the ledger together and runs until told to stop."""

import asyncio
import gc
import os
import random
import secrets
import socket
import time
from bisect import bisect_left
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import msgspec
import structlog
import uvloop
from aiohttp import web

from proxy.budget_admission import admission_of
from proxy.catalog_files import LOOK_EVERY_S, LiveCatalog
from proxy.child import (
    OVERHEAD_BUCKETS_S,
    GatewayOrders,
    WorkerReport,
    die_with_parent,
    journals_dir,
    keep_secrets_in,
    on_stop,
    read_orders,
)
from proxy.client_keys import LONGEST_WAIT_S, WorkerKeys
from proxy.errors import VersionMismatchError
from proxy.gateway.admission import Admission
from proxy.gateway.connection import HeadLimits
from proxy.gateway.counting import Counting
from proxy.gateway.draining import caps_for
from proxy.gateway.entry import Entry, OpenEntry
from proxy.gateway.estimating import Estimator
from proxy.gateway.exchange import Clock, KeepsRecords
from proxy.gateway.exchange_log import LoggedExchanges
from proxy.gateway.headers import Credential
from proxy.gateway.hosts import Host, Hosts
from proxy.gateway.keys import key_line
from proxy.gateway.likely import Learner
from proxy.gateway.recording import ExchangeFacts, Pricing, interrupted_record, make_record
from proxy.gateway.relay import Relay, RelayParts, RequestLimits
from proxy.gateway.upstream import Upstream
from proxy.ledger.ledger import Ledger
from proxy.ledger.places import IsNamed
from proxy.ledger.store import Store, connect
from proxy.ledger.tally import DAY_S, HOUR_S, Retention
from proxy.logs import configure_logging, quick_line, room_in_the_log
from proxy.metering.calibration import Errors
from proxy.metering.reading import Reading
from proxy.metering.request import RequestFacts
from proxy.pricing.budgets import budgets_of
from proxy.pricing.versions import expected, mismatch
from proxy.settings import GatewaySettings, Settings, UpstreamSettings
from proxy.tls import server_tls
from proxy.upstreams import naming, routes_of, routing_of, sellers_of
from proxy.usage import METERED_APIS, BegunMark, TokenUsage, UsageRecord
from proxy.vocabulary_files import load_tokenizer

REPORT_EVERY_S: Final = 1.0
GC_ALLOCATIONS: Final = 20_000

ORPHAN_GRACE_S: Final = 1.0
"""How long open exchanges may go on when the supervisor is gone: the next start waits for our port and our journals."""

log = structlog.get_logger(__name__)


class _Overhead:
    """A histogram of the time the proxy added, as plain bucket counts."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(OVERHEAD_BUCKETS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.buckets[bisect_left(OVERHEAD_BUCKETS_S, seconds)] += 1
        self.sum_s += seconds


class GatewayWorker:
    """The parts of one worker and their life."""

    def __init__(self, orders: GatewayOrders) -> None:
        """Needs a running event loop. Raises OSError where the journal or the CA file cannot be opened."""
        self._orders = orders
        settings = orders.settings
        self._life = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        self._store = open_store(settings, orders.redis_url)
        self._catalog = LiveCatalog(settings.pricing.catalog_file)
        self._budgets = budgets_of(settings)
        is_named = naming(settings, lambda: self._catalog.current)
        self._ledger = _ledger(settings, self._store, self._life, lambda: self._pricing, is_named)
        self._routes, self._sellers = routes_of(settings), sellers_of(settings)
        self._overhead = _Overhead()
        self._counting = Counting(
            partial(load_tokenizer, Path(settings.store.data_dir)), settings.metering.count_timeout_seconds
        )
        self._estimators = {name: self._new_estimator(one) for name, one in settings.all_upstreams().items()}
        self._hosts = self._new_hosts()
        self._learner = Learner()
        self._keys = _client_keys(settings, orders)
        self._relay = Relay(self._parts())
        self._stop: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    @property
    def _pricing(self) -> Pricing:
        """The catalog in force at this moment, and what decides in it."""
        instant = self._orders.settings.pricing.instant
        return Pricing(
            self._catalog.current, instant, routes=self._routes, sellers=self._sellers, budgets=self._budgets
        )

    async def run(self) -> None:
        """Serve until told to stop; every open exchange has its record when this returns."""
        on_stop(asyncio.get_running_loop(), self._ask_to_stop)
        shipping = asyncio.create_task(self._ledger.run(), name="ledger")
        reporting = asyncio.create_task(self._report(), name="report")
        looking = asyncio.create_task(self._look_at_catalog(), name="catalog")
        if self._keys is not None:
            await self._keys.start()
        await self._serve()
        await self._relay.close()
        self._counting.close()
        reporting.cancel()
        looking.cancel()
        self._ledger.stop()
        await shipping
        await self._hosts.close()
        if self._keys is not None:
            await self._keys.close()
        await self._store.close()

    async def _serve(self) -> None:
        server = self._relay.server()
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        gateway = self._orders.settings.gateway
        tls = server_tls(gateway.tls_certificate_file, gateway.tls_key_file, "gateway")
        site = web.SockSite(runner, socket.socket(fileno=self._orders.listen_fd), ssl_context=tls)
        await site.start()
        in_good_order = await self._stop
        await site.stop()
        server.pre_shutdown()  # idle connections close, busy ones close behind their answer
        grace_s = gateway.shutdown_grace_seconds if in_good_order else ORPHAN_GRACE_S
        await self._wait_for_exchanges(grace_s)
        self._relay.stopping = True
        await runner.cleanup()

    async def _wait_for_exchanges(self, grace_s: float) -> None:
        deadline = time.monotonic() + grace_s
        while self._relay.in_flight and time.monotonic() < deadline:  # noqa: ASYNC110 - once, at the very end
            await asyncio.sleep(0.02)

    def _ask_to_stop(self, in_good_order: bool) -> None:
        if not self._stop.done():
            self._stop.set_result(in_good_order)

    async def _report(self) -> None:
        with socket.socket(fileno=self._orders.report_fd) as channel:
            channel.setblocking(False)
            while True:
                _send(channel, msgspec.json.encode(self._own_report()))
                await asyncio.sleep(REPORT_EVERY_S)

    async def _look_at_catalog(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._catalog.look()

    def _own_report(self) -> WorkerReport:
        return WorkerReport(
            slot=self._orders.slot,
            life=self._life,
            pid=os.getpid(),
            in_flight=self._relay.in_flight,
            pending_records=self._ledger.pending_records,
            oldest_pending_s=self._ledger.oldest_pending_s(),
            journal_writable=self._ledger.writable,
            faults=self._ledger.faults,
            overhead_buckets=self._overhead.buckets,
            overhead_sum_s=self._overhead.sum_s,
            streams_without_usage=self._streams_without_usage(),
            estimates=[(*place, *errors) for place, errors in self._estimate_errors().items()],
            **(self._keys.figures() if self._keys is not None else {}),
        )

    def _streams_without_usage(self) -> dict[str, int]:
        return {name: n for one in self._estimators.values() for name, n in one.streams_without_usage.items()}

    def _estimate_errors(self) -> dict[tuple[str, str], Errors]:
        """Of all hosts together: a version may answer on several."""
        found: dict[tuple[str, str], Errors] = {}
        for one in self._estimators.values():
            for place, errors in one.calibration.errors.items():
                found[place] = found.get(place, Errors()).together(errors)
        return found

    def _parts(self) -> RelayParts:
        settings = self._orders.settings
        return RelayParts(
            hosts=self._hosts,
            keeper=self._keeper(),
            make_record=self._make_record,
            admission=self._new_admission(),
            entry=self._entry(),
            expected_version=self._expected,
            refuse_mismatch=self._refuse_mismatch,
            clock=Clock(time.time, time.monotonic),
            new_id=_id_maker(),
            limits=request_limits(settings.gateway),
            observe_overhead=self._overhead.observe,
        )

    def _make_record(
        self, facts: ExchangeFacts, reading: Reading | None, counted: TokenUsage | None = None
    ) -> UsageRecord:
        record = make_record(facts, reading, counted, pricing=self._pricing)
        if self._budgets:
            self._learner.note(record, facts.request)
        return record

    def _new_admission(self) -> Admission | None:
        return admission_of(
            self._orders.settings,
            self._store,
            self._ledger,
            journal_id=self._life,
            pricing=lambda: self._pricing,
            likely=self._learner.likely,
        )

    def _entry(self) -> Entry:
        """Who is let in."""
        if self._keys is not None:
            return self._keys.entry
        settings = self._orders.settings
        goes_by_key = any(one.action == "refuse" and one.app != "*" for one in settings.budgets)
        return OpenEntry(self._orders.hash_secret, settings.apps_by_key(), one_key=goes_by_key)

    def _keeper(self) -> KeepsRecords:
        """The ledger; with a line in the log for each record where that is asked for."""
        if not self._orders.settings.log.exchanges or self._orders.settings.log.level not in ("debug", "info"):
            return self._ledger
        return LoggedExchanges(self._ledger, quick_line(self._orders.settings.log), room_in_the_log())

    def _new_hosts(self) -> Hosts:
        settings = self._orders.settings
        return Hosts(
            [self._new_host(name, one) for name, one in settings.all_upstreams().items()], routing_of(settings)
        )

    def _new_host(self, name: str, settings: UpstreamSettings) -> Host:
        return Host(
            name,
            Upstream(settings, self._credential_for(name, settings)),
            self._estimators[name],
            lambda app: caps_for(app, self._orders.settings.apps, settings),
            settings.add_include_usage,
        )

    def _credential_for(self, name: str, settings: UpstreamSettings) -> Credential:
        """The client's own in passthrough mode, for the one upstream it may go to; in managed mode the upstream's."""
        if self._orders.settings.gateway.mode == "passthrough":
            return Credential(settings.accepts_client_keys)
        key = self._orders.upstream_keys.get(name, "")
        return Credential(is_the_clients=False, line=key_line(settings.key_header, key) if key else b"")

    def _expected(self, upstream: str, asked: RequestFacts, at_s: float) -> str | None:
        catalog = self._catalog.current
        return expected(
            catalog, requested=asked.model, at_s=at_s, upstream=upstream, api=asked.api, routes=self._routes
        )

    def _refuse_mismatch(self, upstream: str, asked: RequestFacts, wanted: str) -> None:
        """Raises VersionMismatchError where that is asked for, and the name alone tells that another version would answer."""
        if self._orders.settings.gateway.on_mismatch != "refuse" or not wanted or asked.api not in METERED_APIS:
            return
        known = self._expected(upstream, asked, time.time())
        if known is not None and mismatch(self._pricing.catalog, wanted, known):
            raise VersionMismatchError(f"{asked.model} means {known} now, and the client expects {wanted}.")

    def _new_estimator(self, settings: UpstreamSettings) -> Estimator:
        return Estimator(
            self._counting,
            lambda: self._pricing,
            deepseek_habits=settings.habits == "deepseek",
            asks_for_usage=settings.add_include_usage,
            sample=self._orders.settings.metering.estimate_sample,
            chance=random.random,
            is_quiet=lambda: self._relay.in_flight <= 1,  # the one that has just ended
            monotonic_s=time.monotonic,
            fault=self._ledger.fault,
        )


def request_limits(gateway: GatewaySettings) -> RequestLimits:
    """What a request may be, by these settings."""
    head = HeadLimits(
        gateway.max_head_bytes, gateway.max_headers, gateway.head_timeout_seconds, gateway.keepalive_seconds
    )
    return RequestLimits(head, gateway.max_request_bytes, gateway.body_timeout_seconds)


def open_store(settings: Settings, redis_url: str, longest_wait_s: float = float("inf")) -> Store:
    """The store of these settings; nothing is sent yet. Raises StoreUnavailableError for a URL that is none."""
    store = settings.store
    return connect(
        redis_url,
        store.namespace,
        store.records_kept,
        connect_timeout=min(store.connect_timeout_seconds, longest_wait_s),
        operation_timeout=min(store.operation_timeout_seconds, longest_wait_s),
    )


def retention_of(settings: Settings) -> Retention:
    """How long rollups stay, by these settings."""
    kept = settings.store
    return Retention(kept.minute_rollups_kept_hours * HOUR_S, kept.hour_rollups_kept_days * DAY_S)


def _ledger(settings: Settings, store: Store, life: str, pricing: Callable[[], Pricing], is_named: IsNamed) -> Ledger:
    def recover_record(mark: BegunMark, end_s: float) -> UsageRecord:
        return interrupted_record(mark, end_s, pricing())

    return Ledger(
        store,
        journals_dir(settings),
        life,
        settings.journal,
        retention_of(settings),
        recover_record=recover_record,
        budgets=budgets_of(settings),
        is_named=is_named,
    )


def _client_keys(settings: Settings, orders: GatewayOrders) -> WorkerKeys | None:
    """The keys of managed mode, with connections of their own: a poll must not wait behind a batch."""
    if settings.gateway.mode == "passthrough":
        return None
    return WorkerKeys(settings, orders, open_store(settings, orders.redis_url, LONGEST_WAIT_S))


def _id_maker() -> Callable[[], str]:
    """Ids of 24 hex digits: a random start per process, counted up. Unique, and no call to the kernel per exchange."""
    numbers = count(secrets.randbits(64))
    head = secrets.token_hex(4)
    return lambda: f"{head}{next(numbers) & 0xFFFFFFFFFFFFFFFF:016x}"


def _send(channel: socket.socket, report: bytes) -> None:
    """A report that finds no room is left out: the next one says more."""
    try:
        channel.send(report)
    except OSError:
        return


async def _run(orders: GatewayOrders) -> None:
    worker = GatewayWorker(orders)
    # What was made so far lives as long as the process; an exchange makes a few hundred objects and drops them again.
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS)
    await worker.run()


def main() -> None:
    """Entry of the child process."""
    die_with_parent()
    keep_secrets_in()
    orders = read_orders(GatewayOrders)
    configure_logging(orders.settings.log)
    uvloop.run(_run(orders))


if __name__ == "__main__":
    main()
