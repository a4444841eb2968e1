"""The console's HTTP side: metrics, health and single records. Decisions are made in `access`, `health` and `series`."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import structlog
from aiohttp import web

from proxy.console import metrics
from proxy.console.access import Access, access
from proxy.console.audit import audit_json
from proxy.console.balance import BalanceWatch, Parts, State
from proxy.console.budgets import BudgetState, budget_state
from proxy.console.health import Readiness, readiness
from proxy.console.high_water import HighWater, load, save
from proxy.console.reconciliation import Gap
from proxy.console.series import series_of, zeros_from_start
from proxy.console.spend import hashes_needed, spend_usd
from proxy.console.versions import fixed_json, versions_json
from proxy.console.workers import Workers
from proxy.errors import SettingsError, StoreUnavailableError
from proxy.ledger.answers import Snapshot
from proxy.ledger.store import Store
from proxy.pricing.budgets import budgets_of
from proxy.pricing.catalog import Catalog, in_force
from proxy.pricing.fixed import fixed_costs
from proxy.pricing.tariff import Seller, versions_on
from proxy.pricing.versions import Routes
from proxy.settings import DEFAULT_UPSTREAM, Settings, split_address
from proxy.usage import EXCHANGE_ID

SNAPSHOT_S: Final = 0.5
"""A snapshot may serve the scrapes of so long: several Prometheus servers cost Redis no more than one."""

DOUBTS_EVERY_S: Final = 60.0
MOST_AUDIT_ENTRIES: Final = 1000

log = structlog.get_logger(__name__)

_PAGE: Final = """deepseek-meter console

/metrics           for Prometheus
/healthz           the process is up
/readyz            store, journals and workers are ready
/api/records/ID    one exchange, by the X-Meter-Exchange header of its response
/api/versions      what each version cost, and every change of what answers under a name
/api/audit         what was changed, by whom, newest first; ?limit=
/api/balance       the account's balance, and what of its fall is not explained
"""


class Upstreams(NamedTuple):
    """Whose prices hold on each upstream, and what an operator says that names mean there."""

    sellers: Mapping[str, Seller]
    routes: Routes


class Console:
    """The handlers and what they remember: the last snapshot, the workers' reports."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        catalog: Callable[[], Catalog],
        workers: Workers,
        *,
        upstreams: Upstreams,
        fetch_balance: Callable[[], Awaitable[Parts]] | None = None,
        account: str = "",
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """Raises SettingsError for a time zone or a token file that cannot be used."""
        self._settings = settings
        self._store = store
        self._catalog = catalog
        self._workers = workers
        self._upstreams = upstreams
        self._fixed = fixed_costs(settings)
        self._budgets = budgets_of(settings)
        state_file = Path(settings.store.data_dir) / "console-balance.json"
        self.balance = fetch_balance and BalanceWatch(
            settings.balance,
            fetch_balance,
            self._fresh_snapshot,
            State(state_file, account),
            billing_currency=settings.pricing.billing_currency,
            wall_s=wall_s,
        )
        self._wall_s = wall_s
        self._zone = zone_of(settings.console.time_zone)
        self._token = token_of(settings.console.token_file)
        self._names = frozenset({split_address(settings.console.listen, "listen")[0], *settings.console.allowed_hosts})
        self._seen_file = Path(settings.store.data_dir) / "console-seen.json"
        self._high_water = HighWater(load(self._seen_file))
        self._saved: dict[str, int] = {}
        self._store_up = False
        self._snapshot: Snapshot | None = None
        self._taken_s = float("-inf")
        self._refreshing = asyncio.Lock()
        self._doubts: list[str] = []
        self._doubts_s = float("-inf")

    def app(self) -> web.Application:
        """The web application."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", self._page)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/api/records/{id}", self._record)
        app.router.add_get("/api/versions", self._versions)
        app.router.add_get("/api/balance", self._balance)
        app.router.add_get("/api/audit", self._audit)
        return app

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        headers = request.headers
        allowed = access(
            request.path,
            headers.get("Host", ""),
            headers.get("Origin"),
            headers.get("Authorization"),
            names=self._names,
            token=self._token,
        )
        if allowed is Access.WRONG_HOST:
            return _error(403, "this Host or Origin is not one of the console's; see [console] allowed_hosts")
        if allowed is Access.WRONG_TOKEN:
            return _error(401, "the console wants its bearer token; see [console] token_file")
        request["detail"] = allowed is Access.FULL
        return await handler(request)

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(text=_PAGE)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "up"})

    async def _readyz(self, request: web.Request) -> web.Response:
        state = await self._readiness()
        body = state.as_json(self._doubts) if request["detail"] else {"ready": state.ready}
        return web.json_response(body, status=200 if state.ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        families = await self._families()
        content_type, body = metrics.exposition(families, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _record(self, request: web.Request) -> web.Response:
        """One record; 202 while it is not yet applied (or was never made, or is too old to be kept one by one); 400 for no id."""
        exchange_id = request.match_info["id"]
        if not EXCHANGE_ID.fullmatch(exchange_id):
            return _error(400, "no exchange has such an id; expected the 24 hex digits of an X-Meter-Exchange header")
        try:
            record = await self._store.record(exchange_id)
        except StoreUnavailableError as error:
            return _error(503, str(error))
        if record is None:
            return web.json_response({"status": "not applied yet, or no longer kept"}, status=202)
        return web.Response(body=record, content_type="application/json")

    async def _versions(self, _request: web.Request) -> web.Response:
        """What each version cost, and what changed; 503 while the counters are not to be shown."""
        snapshot = await self._fresh_snapshot()
        if snapshot is None:
            return _error(503, "the store does not answer, or has to catch up first")
        try:
            changes = await self._store.changes()
        except StoreUnavailableError as error:
            return _error(503, str(error))
        return web.json_response(
            {**versions_json(snapshot, changes), "fixed": fixed_json(self._fixed, self._wall_s(), self._zone)}
        )

    async def _balance(self, _request: web.Request) -> web.Response:
        """The account's balance and what of its fall is not explained; 404 where no key was given to ask with."""
        if self.balance is None:
            return _error(404, "no key to ask for the balance with; see [balance]")
        return web.json_response(self.balance.as_json())

    async def _audit(self, request: web.Request) -> web.Response:
        """The newest entries of the audit trail; 400 for a limit that is none, 503 without the store."""
        limit = request.query.get("limit", "100")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 5 and 1 <= int(limit) <= MOST_AUDIT_ENTRIES):
            return _error(400, f"limit: expected 1 to {MOST_AUDIT_ENTRIES}")
        try:
            copies = await self._store.audit.newest(int(limit))
        except StoreUnavailableError as error:
            return _error(503, str(error))
        return web.json_response(audit_json(copies))

    async def _readiness(self) -> Readiness:
        await self._fresh_snapshot()
        reachable = self._store_up
        await self._refresh_doubts()
        reports = self._workers.fresh(time.monotonic())
        return readiness(reports, self._settings.gateway.workers, store_reachable=reachable)

    async def _families(self) -> list[metrics.Family]:
        snapshot = await self._fresh_snapshot()
        now_s = self._wall_s()
        found = list(metrics.store_families(snapshot, up=self._store_up, catching_up=self._high_water.catching_up))
        if snapshot is not None:
            found += self._global_families(snapshot, now_s)
        found += metrics.limit_families(self._spend_limits())
        found += metrics.price_families(self._catalog(), self._priced_places(now_s), now_s)
        found += metrics.fixed_families(self._fixed, now_s, self._zone)
        found += metrics.process_families(
            self._workers.fresh(time.monotonic()),
            self._workers.overhead(),
            self._workers.restarts,
            await self._clock_offset(now_s),
        )
        found += metrics.key_families(self._workers.fresh(time.monotonic()))
        if self.balance is not None:
            found += metrics.balance_families(self.balance.fresh(), self._balance_gaps(self.balance))
        found += metrics.estimate_families(self._workers.estimates(), self._workers.streams_without_usage())
        return found

    def _global_families(self, snapshot: Snapshot, now_s: float) -> list[metrics.Family]:
        console = self._settings.console
        zeros = zeros_from_start(in_force(self._catalog(), now_s), DEFAULT_UPSTREAM)
        zeros += [("budget_refusals_total", (budget.name,)) for budget in self._budgets if budget.refuses]
        for upstream, versions in self._upstreams.routes.items():
            named = [(version, (name,)) for name, version in versions.items() if not name.endswith("*")]
            zeros += zeros_from_start(named, upstream)
        series = series_of(snapshot, console.new_series_hold_seconds, zeros)
        return [
            *metrics.global_families(series, created=console.created_samples),
            *metrics.sighting_families(snapshot.sightings),
            *metrics.spend_families(spend_usd(snapshot.spend, now_s, self._zone)),
            *metrics.budget_families(self._budget_states(snapshot)),
        ]

    def _budget_states(self, snapshot: Snapshot) -> list[BudgetState]:
        """By Redis' clock, which decides the periods."""
        pairs = zip(self._budgets, snapshot.budgets, strict=True)
        return [budget_state(budget, fields, snapshot.taken_s) for budget, fields in pairs]

    def _balance_gaps(self, watch: BalanceWatch) -> dict[str, Gap]:
        """The gap in the currency the account is billed in, once it can be told."""
        gap = watch.gap()
        return {self._settings.pricing.billing_currency: gap} if gap else {}

    def _priced_places(self, now_s: float) -> list[metrics.Place]:
        catalog, routes = self._catalog(), self._upstreams.routes
        return [
            (seller, version)
            for seller in self._upstreams.sellers.values()
            for version in versions_on(catalog, seller, now_s, routes.get(seller.name, {}).values())
        ]

    def _spend_limits(self) -> dict[str, float]:
        limits = ((name, version.spend_limit_usd_per_hour) for name, version in self._settings.versions.items())
        return {name: limit for name, limit in limits if limit is not None}

    async def _fresh_snapshot(self) -> Snapshot | None:
        """The counters, at most half a second old; None while the store does not answer, or has gone back."""
        async with self._refreshing:
            if time.monotonic() - self._taken_s > SNAPSHOT_S:
                await self._refresh()
            return self._snapshot

    async def _refresh(self) -> None:
        try:
            names = tuple(budget.name for budget in self._budgets)
            snapshot = await self._store.snapshot(hashes_needed(self._wall_s(), self._zone), names)
        except StoreUnavailableError as error:
            if self._store_up:
                log.warning("store_gone", error=str(error))
            self._store_up, self._snapshot = False, None
        else:
            self._store_up = True
            self._snapshot = snapshot if self._may_be_shown(snapshot) else None
        self._taken_s = time.monotonic()

    def _may_be_shown(self, snapshot: Snapshot) -> bool:
        was_behind = self._high_water.catching_up
        shown = self._high_water.take(snapshot, time.monotonic())
        if shown == was_behind:
            log.warning("store_caught_up" if shown else "store_catching_up", journals=repr(self._high_water))
        if shown and self._high_water.seen.numbers != self._saved:
            self._save_high_water()
        return shown

    def _save_high_water(self) -> None:
        self._saved = self._high_water.seen.numbers
        try:
            save(self._seen_file, self._high_water.seen)
        except OSError as error:
            log.warning("high_water_not_saved", error=str(error))

    async def _refresh_doubts(self) -> None:
        if time.monotonic() - self._doubts_s < DOUBTS_EVERY_S:
            return
        try:
            self._doubts = await self._store.doubts()
            self._doubts_s = time.monotonic()
        except StoreUnavailableError:
            return  # readiness says so already

    async def _clock_offset(self, now_s: float) -> float | None:
        if not self._store_up:
            return None
        try:
            return await self._store.clock_offset_s(self._wall_s())
        except StoreUnavailableError:
            return None


def zone_of(name: str) -> ZoneInfo:
    """The time zone of a setting. Raises SettingsError for a name that is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise SettingsError(
            f"[console] time_zone: expected an IANA name such as Asia/Shanghai, got {name!r}"
        ) from error


def token_of(path: str) -> str:
    """The bearer token in a file; empty without one. Raises SettingsError for a file that is not there or empty."""
    if not path:
        return ""
    try:
        token = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"[console] token_file {path}: cannot be read: {error}") from error
    if not token:
        raise SettingsError(f"[console] token_file {path}: is empty")
    return token


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)
