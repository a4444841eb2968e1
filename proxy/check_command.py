"""What `check` says: what somebody should look at in the catalog, the calendar, and the traffic of the last 30 days."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from proxy.child import journals_dir
from proxy.errors import MeterError
from proxy.gateway_process import open_store
from proxy.installation import store_url
from proxy.ledger.tally import DAY_S, cell_of, rollup_hash
from proxy.pricing.budgets import leaves_out_a_purpose
from proxy.pricing.catalog import Catalog, overdue
from proxy.settings import KeysSettings, Settings, are_one_place, split_address
from proxy.upstreams import Keys, missing_keys

ANNOUNCED_IN_MONTH: Final = 11
"""The State Council announces the next year's holidays in November."""

LOOKED_BACK_DAYS: Final = 30


def to_look_at(catalog: Catalog, now: datetime) -> list[str]:
    """Rows past their review, and a year without holidays that has begun or is near."""
    found = [f"catalog: {line}" for line in overdue(catalog, now.timestamp(), now.date())]
    return found + [_no_holidays(year) for year in _years_wanted(now.date()) if year not in catalog.holidays]


def unpriced_traffic(settings: Settings, now: datetime) -> list[str]:
    """The models of the last 30 days without a price. Raises StoreUnavailableError, MeterError, OSError.

    Empty where this data dir has seen no traffic yet: there is nothing to ask, and no store to be started for it.
    """
    if not settings.store.redis_url and not journals_dir(settings).is_dir():
        return []
    with store_url(settings) as url:
        days = asyncio.run(_days(settings, url, now.timestamp()))
    return unpriced(days, settings.pricing.billing_currency)


def unpriced(days: Iterable[Mapping[bytes, bytes]], billed_in: str) -> list[str]:
    """A line for each model whose tokens have no price in the currency that is billed, by the rollups per day."""
    tokens: dict[tuple[str, str, str], int] = defaultdict(int)
    for day in days:
        for field, value in day.items():
            cell, measure = cell_of(field.decode())
            if measure.startswith("t") and not any(currency == billed_in for currency, _ in cell.price_ids):
                tokens[cell.model, cell.version, cell.upstream] += int(value)
    return [
        f"prices: {model} ({version} at {upstream}) had {count:,} tokens without a {billed_in} price in the last "
        f"{LOOKED_BACK_DAYS} days; docs/prices.md says how to add one"
        for (model, version, upstream), count in sorted(tokens.items())
        if count
    ]


async def _days(settings: Settings, url: str, now_s: float) -> list[Mapping[bytes, bytes]]:
    today = int(now_s) // DAY_S * DAY_S
    store = open_store(settings, url)
    try:
        # One day a call: thirty at once would hold up Redis, and everybody who asks it, for a second.
        return [await store.hash(rollup_hash("day", today - DAY_S * ago)) for ago in range(LOOKED_BACK_DAYS)]
    finally:
        await store.close()


def store_lines(settings: Settings, now: datetime) -> list[str]:
    """As `unpriced_traffic`; a store that does not answer, or a data dir of somebody else, is something to look at, no error."""
    try:
        return unpriced_traffic(settings, now)
    except (MeterError, OSError) as error:
        place = "[store] redis_url" if settings.store.redis_url else Path(settings.store.data_dir)
        return [f"store: {place}: the models of the last {LOOKED_BACK_DAYS} days could not be asked for: {error}"]


def settings_to_look_at(settings: Settings, catalog: Catalog, keys: Keys) -> list[str]:
    """What is valid and cannot do what it is there for: names that nothing else has, an upstream that lacks its key."""
    upstreams = settings.all_upstreams()
    named = {name for one in settings.upstreams for name in (one.version, *one.versions.values())} | set(
        catalog.versions
    )
    found = [
        f'settings: [versions."{version}"]: the catalog has no such version, and no upstream is said to answer with it'
        for version in settings.versions
        if version not in named
    ]
    found += [
        f"catalog: prices of the upstream {name}: there is none of this name"
        for name in catalog.own_sheets
        if name not in upstreams
    ]
    found += missing_keys(settings, keys) + _without_effect(settings) + _idle_budgets(settings, named)
    return found + _same_address(settings)


def _same_address(settings: Settings) -> list[str]:
    """That the two ports are one, which only one of them can have. Raises SettingsError for what is no address."""
    gateway, console = settings.gateway.listen, settings.console.listen
    if not are_one_place(split_address(gateway, "[gateway] listen"), split_address(console, "[console] listen")):
        return []
    return [
        f"settings: [gateway] listen = {gateway!r}, [console] listen = {console!r}: both want one port; give them two"
    ]


def _idle_budgets(settings: Settings, versions: set[str]) -> list[str]:
    """Budgets in which no exchange can count, or none has to: a limit that holds nothing says nothing either."""
    managed = settings.gateway.mode == "managed"
    payers = set(settings.apps_by_key().values())
    found = []
    for budget in settings.budgets:
        told = f"settings: [[budgets]] {budget.name}:"
        if not any(fnmatchcase(version, budget.version) for version in versions):
            found.append(f"{told} version = {budget.version!r}: the catalog has none of this name")
        if budget.for_keys and not managed:
            found.append(f'{told} for_keys has no effect with [gateway] mode = "passthrough"')
        elif budget.action == "refuse" and not managed and not _may_pay(budget.app, payers):
            found.append(
                f"{told} app = {budget.app!r}: in passthrough mode a budget that refuses goes by the key, and no [apps] with "
                "keys has this name; docs/budgets.md"
            )
        if budget.action == "refuse" and not managed and leaves_out_a_purpose(budget.purpose):
            found.append(
                f"{told} purpose = {budget.purpose!r}: in passthrough mode a client says its purpose itself (X-Meter-Purpose), "
                "and one that says another is not refused; docs/budgets.md"
            )
    return found


def _may_pay(pattern: str, payers: set[str]) -> bool:
    """True where a pattern may be meant for somebody who is told by a key: an app with keys, or the hash of one."""
    unnamed = pattern.startswith("key-") or fnmatchcase("key-0123456789", pattern) or fnmatchcase("anonymous", pattern)
    return unnamed or any(fnmatchcase(payer, pattern) for payer in payers)


def _without_effect(settings: Settings) -> list[str]:
    """What is set for the mode that is not in force."""
    managed = settings.gateway.mode == "managed"
    elsewhere = {
        "[apps] keys": managed and bool(settings.apps_by_key()),
        "[gateway] open_paths": not managed and bool(settings.gateway.open_paths),
        "[keys]": not managed and settings.keys != KeysSettings(),
    }
    return [
        f'settings: {name} has no effect with [gateway] mode = "{settings.gateway.mode}"'
        for name, is_set in elsewhere.items()
        if is_set
    ]


def _years_wanted(today: date) -> list[int]:
    """This year, and the next one once its calendar is to be expected."""
    return [today.year, today.year + 1] if today.month > ANNOUNCED_IN_MONTH else [today.year]


def _no_holidays(year: int) -> str:
    return (
        f"holidays: nobody has published {year}; weekdays inside a peak window are charged at the peak price and counted as "
        f"uncertain. Add [holidays] {year} = [dates] to [pricing] catalog_file, or a newer chinesecalendar"
    )
