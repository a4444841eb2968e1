"""Asks the upstream for the account's balance and compares: gauges, JSON, and a line in the log where a gap opens.

The only request the console makes to the outside: `GET /user/balance` of `[upstream]`, with the account's own key, every
`[balance] poll_seconds`. The key goes nowhere else and is in no message. A balance that cannot be read is left out.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import structlog

from proxy.console.files import write_whole
from proxy.console.reconciliation import Account, Gap, gap_of, looked
from proxy.console.versions import iso
from proxy.ledger.answers import Snapshot
from proxy.ledger.families import NANO, parse_field
from proxy.pricing.tariff import decimal
from proxy.settings import DEFAULT_UPSTREAM, BalanceSettings, UpstreamSettings
from proxy.tls import client_tls

ANSWER_S: Final = 30.0
STALE_AFTER_POLLS: Final = 3

log = structlog.get_logger(__name__)


class _Info(msgspec.Struct):
    currency: str
    granted_balance: str
    topped_up_balance: str


class _Body(msgspec.Struct):
    """As much of the answer as is needed (docs: api/get-user-balance); amounts are strings."""

    balance_infos: list[_Info]


class _Saved(msgspec.Struct):
    account: str
    accounts: dict[str, Account]


class BalanceError(Exception):
    """The balance could not be read. Says why, without the key."""


Parts = Mapping[str, tuple[int, int]]
"""Granted and topped-up balance in nano-units, by currency."""


class State:
    """What is remembered of an account, in a file; another account's is not taken over."""

    def __init__(self, path: Path, account: str) -> None:
        self._path = path
        self._account = account

    def __repr__(self) -> str:
        return f"<State {self._path} of {self._account}>"

    def load(self) -> dict[str, Account]:
        """The accounts by currency; nothing where none, or nothing whole, or another account's was saved."""
        try:
            saved = msgspec.json.decode(self._path.read_bytes(), type=_Saved)
        except (OSError, msgspec.DecodeError):
            return {}
        return saved.accounts if saved.account == self._account else {}

    def save(self, accounts: dict[str, Account]) -> None:
        """Whole or not at all; without it the next start has to watch for a while before it can compare."""
        try:
            write_whole(self._path, msgspec.json.encode(_Saved(self._account, accounts)))
        except OSError as error:
            log.warning("balance_not_saved", error=str(error))


class BalanceWatch:
    """Looks at the balance now and then. `fetch` gives it, `snapshot` the counters (None while they are not to be used)."""

    def __init__(
        self,
        settings: BalanceSettings,
        fetch: Callable[[], Awaitable[Parts]],
        snapshot: Callable[[], Awaitable[Snapshot | None]],
        state: State,
        *,
        billing_currency: str = "USD",
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._fetch = fetch
        self._snapshot = snapshot
        self._state = state
        self._billed_in = billing_currency
        self._wall_s = wall_s
        self._accounts = state.load()
        self._error = ""
        self._told = self._said = False

    def __repr__(self) -> str:
        return f"<BalanceWatch {sorted(self._accounts)} error={self._error!r}>"

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._settings.poll_seconds)

    async def look(self) -> None:
        """One look. What goes wrong is logged when it begins, and the next look tries again."""
        try:
            parts = await self._fetch()
            snapshot = await self._snapshot()
            if snapshot is not None:
                self._take(parts, snapshot)
                self._tell()
            self._note("")
            if wrong := self._wrong_currency():
                self._note_once(wrong)
        except Exception as error:  # noqa: BLE001 - an account that cannot be asked is no reason to show no metrics
            self._note(str(error) if isinstance(error, BalanceError) else type(error).__name__)

    def fresh(self) -> dict[str, Account]:
        """The accounts that were seen of late, by currency."""
        oldest_s = self._wall_s() - STALE_AFTER_POLLS * self._settings.poll_seconds - ANSWER_S
        return {name: one for name, one in self._accounts.items() if one.looks and one.looks[-1].at_s >= oldest_s}

    def gap(self) -> Gap | None:
        """The gap in the currency the account is billed in; None while it cannot be told."""
        account = self.fresh().get(self._billed_in)
        return gap_of(account, self._settings.settle_seconds) if account else None

    def as_json(self) -> dict[str, Any]:
        """Everything that is known, with what a gap may be, and why there is none."""
        found = {
            name: _account_json(one, self.gap() if name == self._billed_in else None)
            for name, one in self._accounts.items()
            if one.looks
        }
        notes = [note for note in (self._error, self._wrong_currency()) if note]
        return {"accounts": found, **({"error": "; ".join(notes)} if notes else {})}

    def _take(self, parts: Parts, snapshot: Snapshot) -> None:
        for currency, (granted, topped_up) in parts.items():
            before = self._accounts.get(currency, Account())
            after = looked(
                before,
                at_s=self._wall_s(),
                granted=granted,
                topped_up=topped_up,
                metered=metered_nanos(snapshot.totals, currency),
                settle_s=self._settings.settle_seconds,
            )
            self._accounts[currency] = after
            if after.top_ups != before.top_ups:
                log.info("balance_topped_up", currency=currency, at_least=decimal(after.top_ups[-1].nanos))
        self._state.save(self._accounts)

    def _tell(self) -> None:
        """Say that a gap opened, once."""
        gap = self.gap()
        if gap is not None and gap.nanos and not self._told:
            log.warning("balance_gap", currency=self._billed_in, gap=decimal(gap.nanos), may_be=list(gap.may_be))
        self._told = bool(gap and gap.nanos)

    def _wrong_currency(self) -> str:
        """What to do where the account has no balance in the currency it is said to be billed in."""
        if not self._accounts or self._billed_in in self._accounts:
            return ""
        return f"the account has no {self._billed_in}, only {', '.join(self._accounts)}: set [pricing] billing_currency"

    def _note_once(self, problem: str) -> None:
        if not self._said:
            log.warning("balance_not_compared", reason=problem)
        self._said = True

    def _note(self, error: str) -> None:
        if error and error != self._error:
            log.warning("balance_not_read", reason=error)
        self._error = error


def fetcher(upstream: UpstreamSettings, key: str) -> Callable[[], Awaitable[Parts]]:
    """Asks the upstream's own host for the balance of the account that a key belongs to."""

    async def fetch() -> Parts:
        tls = client_tls(upstream.ca_file)
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        url = f"{upstream.url.rstrip('/')}/user/balance"
        headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url, headers=headers, ssl=tls, allow_redirects=False) as answer,
            ):
                body = await answer.read()
                if answer.status != 200:
                    raise BalanceError(f"/user/balance answered {answer.status}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise BalanceError(f"/user/balance: {type(error).__name__}") from error
        return parts_of(body)

    return fetch


def parts_of(body: bytes) -> Parts:
    """The parts of a balance, by currency. Raises BalanceError for a body that is none."""
    try:
        infos = msgspec.json.decode(body, type=_Body).balance_infos
        return {info.currency: (_nanos(info.granted_balance), _nanos(info.topped_up_balance)) for info in infos}
    except (msgspec.DecodeError, InvalidOperation, ValueError, OverflowError) as error:
        raise BalanceError("/user/balance: the answer cannot be read") from error


def metered_nanos(totals: Mapping[bytes, bytes], currency: str) -> int:
    """All that was metered in a currency on the default upstream, whose account it is."""
    wanted = f"cost_{currency.lower()}_total"
    found = ((parse_field(field), value) for field, value in totals.items())
    return sum(int(value) for (family, labels), value in found if family == wanted and labels[0] == DEFAULT_UPSTREAM)


def _nanos(amount: str) -> int:
    return int(Decimal(amount) * NANO)


def _account_json(account: Account, gap: Gap | None) -> dict[str, Any]:
    last = account.looks[-1]
    found: dict[str, Any] = {
        "at": iso(last.at_s),
        "granted": decimal(last.granted),
        "topped_up": decimal(last.topped_up),
        "top_ups": [{"at": iso(one.at_s), "at_least": decimal(one.nanos)} for one in account.top_ups],
        "gap": None,
    }
    if gap is not None:
        found["gap"] = {
            "amount": decimal(gap.nanos),
            "since": iso(gap.since_s),
            "balance_fell": decimal(gap.fallen),
            "hidden_by_top_ups_at_most": decimal(gap.hidden),
            "metered_at_least": decimal(gap.least),
            "metered_at_most": decimal(gap.most),
            "may_be": list(gap.may_be),
        }
    return found
