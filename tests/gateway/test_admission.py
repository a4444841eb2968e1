"""May an exchange begin: which budgets are asked, for how much, and what a client is told where the answer is no.

The store is a small fake here, which says what the real one says; what the real one does is in tests/ledger.
"""

import asyncio
import math
import types

import msgspec
import pytest
from gateway.test_recording import PRICING as FLAT
from gateway.test_recording import facts
from pricing.given import FLASH_1017, at, shipped_texts

from proxy.budget_admission import admission_of
from proxy.errors import BudgetUnknownError, BudgetUsedUpError, NoBoundError, StoreUnavailableError
from proxy.gateway import admission as module
from proxy.gateway.admission import (
    Admission,
    Candidate,
)
from proxy.gateway.likely import COLD
from proxy.gateway.recording import Pricing, make_record
from proxy.ledger.answers import Held, UsedUp
from proxy.ledger.budgets import Holds
from proxy.metering.bounds import UNREAD, Bounds
from proxy.metering.request import RequestFacts
from proxy.pricing.budgets import NANO, Budget, Whose
from proxy.pricing.catalog import parse_catalog
from proxy.settings import BudgetSettings, Settings, UpstreamSettings
from proxy.usage import METERED_APIS, Api, Outcome, Share

NOW_S = at("2026-11-23T02:00:00Z")
BODY = 1000
LIMITED = Bounds(100)
PRICES = (10, 1000, 2000, 3000)
SHIPPED = parse_catalog(shipped_texts())
likely = Budget("likely", 10 * NANO, "USD", refuses=True)
worst = Budget("worst", 10 * NANO, "USD", refuses=True, worst_case=True)
strict = msgspec.structs.replace(worst, name="strict", allows_without_store=False)


class Store:
    """Answers what it is told to, and keeps what it was asked."""

    def __init__(self, answer=None):
        self.answer, self.asked = answer, []

    async def reserve(self, journal_id, exchange_id, wants, now_s):
        self.asked.append((journal_id, exchange_id, tuple(wants), now_s))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or Held(tuple(Share(want.budget.name, 0, want.nanos) for want in wants))


class SilentStore(Store):
    """Takes the question and never answers."""

    async def reserve(self, *question):
        await super().reserve(*question)
        await asyncio.Event().wait()


class Desk:
    """An admission with all that it stands on."""

    def __init__(self, *budgets, answer=None, store=None, prices=PRICES, learned=COLD):
        self.store = store or Store(answer)
        self.holds, self.faults, self.asked_prices, self.asked_likely = Holds(), [], [], []

        def known_prices(asking, currency, *, dearest):
            self.asked_prices.append((asking.exchange_id, currency, dearest))
            return prices

        def known_likely(app, version):
            self.asked_likely.append((app, version))
            return learned

        self.admission = Admission(
            budgets,
            self.store,
            self.holds,
            "j",
            prices=known_prices,
            likely=known_likely,
            wall_s=lambda: NOW_S,
            fault=lambda stage, error: self.faults.append((stage, error)),
        )

    def reserve(self, asking=None):
        asking = asking or candidate()
        return asyncio.run(self.admission.reserve(asking, self.admission.wants(asking)))

    def refusal(self, asking=None):
        with pytest.raises(BudgetUsedUpError) as told:
            self.reserve(asking)
        return told.value


def candidate(bounds=LIMITED, *, api=Api.CHAT, body_bytes=BODY, start_s=NOW_S, model="m", version="V", **whose):
    who = Whose("key-1", "app-1", version, model, "production")._replace(**whose)
    return Candidate("x-1", who, "default", RequestFacts(api, model, body_bytes=body_bytes), lambda: bounds, start_s)


def names(wants):
    return [want.budget.name for want in wants]


# Which budgets.


def test_what_is_reserved_is_asked_of_every_budget_it_counts_in_and_of_no_other():
    others = [
        Budget(f"other-{name}", 1, "USD", refuses=True, **{name: "other"}) for name in ("app", "version", "model")
    ]
    named = Budget("named", 1, "USD", refuses=True, for_keys=True)
    desk = Desk(worst, *others, named, likely)

    assert names(desk.admission.wants(candidate())) == ["worst", "likely"]
    assert names(desk.admission.wants(candidate(named=("named",)))) == ["worst", "named", "likely"]
    assert names(desk.admission.wants(candidate(version="other"))) == ["worst", "other-version", "likely"]


def test_where_no_budget_applies_nothing_is_looked_up():
    def read():
        raise AssertionError("the body was read")

    desk = Desk(Budget("other", 1, "USD", app="other", refuses=True, worst_case=True))

    assert desk.admission.wants(candidate()._replace(bounds=read)) == []
    assert (desk.asked_prices, desk.asked_likely) == ([], [])


@pytest.mark.parametrize("api", sorted(set(Api) - METERED_APIS))
def test_what_costs_no_tokens_needs_no_budget(api):
    assert Desk(likely, worst).admission.wants(candidate(api=api)) == []


@pytest.mark.parametrize("api", sorted(METERED_APIS))
def test_what_costs_tokens_does(api):
    assert len(Desk(likely, worst).admission.wants(candidate(api=api))) == 2


def test_all_is_reserved_in_one_call():
    desk = Desk(likely, worst)
    wants = desk.admission.wants(candidate())

    shares = desk.reserve()

    assert desk.store.asked == [("j", "x-1", tuple(wants), NOW_S)]
    assert [(share.budget, share.reserved_nanos) for share in shares] == [
        (want.budget.name, want.nanos) for want in wants
    ]
    assert desk.holds.still_open == {"x-1": shares}


def test_a_worst_case_goes_by_the_dearest_price_and_what_is_likely_by_the_one_in_force():
    desk = Desk(likely, msgspec.structs.replace(worst, currency="CNY"))
    desk.admission.wants(candidate())

    assert desk.asked_prices == [("x-1", "USD", False), ("x-1", "CNY", True)]
    assert desk.asked_likely == [("app-1", "V")]


# What has no bound or no price.


@pytest.mark.parametrize("bounds", [UNREAD, Bounds(5, unbounded_by="file_id, which is elsewhere")])
def test_without_a_bound_a_worst_case_is_refused_and_what_is_likely_is_not(bounds):
    with pytest.raises(NoBoundError, match=bounds.unbounded_by) as told:
        Desk(likely, worst).admission.wants(candidate(bounds))
    assert told.value.status == 400
    assert Desk(likely).admission.wants(candidate(bounds))[0].nanos > 0


def test_without_a_price_a_worst_case_is_refused_and_what_is_likely_is_nothing():
    with pytest.raises(NoBoundError, match="has no price"):
        Desk(worst, prices=None).admission.wants(candidate())
    assert [want.nanos for want in Desk(likely, prices=None).admission.wants(candidate())] == [0]


# The refusal.


def used_up(budget=likely, spent=8 * NANO, held=0, free_s=NOW_S + 3600):
    return UsedUp(budget.name, spent, held, int(free_s))


def test_a_refusal_says_which_budget_how_much_is_spent_the_limit_and_when_there_is_room_again():
    expensive = candidate(Bounds(10**6), body_bytes=0)
    desk = Desk(likely, worst, answer=used_up(worst, int(8.5 * NANO), int(1.25 * NANO)), prices=(0, 0, 0, 3 * NANO))

    told = desk.refusal(expensive)

    assert str(told) == (
        "The budget worst is used up: 8.500000 of 10.000000 USD spent, 1.250000 held for exchanges under way, and this one "
        "may cost 3.000006. It has room again at 2026-11-23T03:00:00Z, or when one under way costs less than was held."
    )
    assert (told.status, told.code, told.budget, told.retry_after_s) == (429, "budget_used_up", "worst", 3600)


def test_what_never_fits_is_told_to_ask_for_less():
    told = Desk(likely, worst, answer=used_up(worst, 0), prices=(0, 0, 0, 20 * NANO)).refusal(candidate(Bounds(10**6)))

    assert "more than the whole budget" in str(told)
    assert "max_tokens" in str(told)
    assert "room again" not in str(told)


@pytest.mark.parametrize(
    ("spent", "held", "free_s", "retry_after_s"),
    [
        (8 * NANO, 0, NOW_S + 3600, 3600),
        (8 * NANO, 0, NOW_S + 1, 1),
        (8 * NANO, 0, NOW_S - 5, 1),
        (7 * NANO - 6004, 4 * NANO, NOW_S + 3600, 1),  # what this one may cost is 3,000,006,004
        (7 * NANO - 6003, 4 * NANO, NOW_S + 3600, 3600),
    ],
)
def test_retry_after_is_when_the_period_ends_or_soon_where_only_what_is_held_is_in_the_way(
    spent, held, free_s, retry_after_s
):
    """What is under way ends within moments, what is spent stays. Never 0: a client would ask at once."""
    desk = Desk(worst, answer=used_up(worst, spent, held, free_s), prices=(0, 0, 0, 3 * NANO))

    assert desk.refusal(candidate(Bounds(10**6))).retry_after_s == retry_after_s


def test_what_was_refused_is_not_open():
    desk = Desk(likely, answer=used_up())
    desk.refusal()

    assert desk.holds.still_open == {}
    assert desk.faults == []


def test_the_record_of_what_was_refused_names_the_budget_and_takes_nothing_of_it():
    refused = facts(Outcome.REFUSED, 429, sent=False, answered=True, refused_by="worst")
    pricing = msgspec.structs.replace(FLAT, budgets=(worst,))

    record = make_record(refused, None, pricing=pricing)

    assert (record.refused_by, record.shares, record.is_reserved) == ("worst", (), False)


# The store is away.


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.01)


AWAY = {"away": lambda: Store(StoreUnavailableError("no Redis")), "slow": SilentStore}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", AWAY)
def test_where_every_budget_allows_it_an_exchange_passes_without_the_store(kind):
    """It is noted as a fault, and as one for which something may be held: its question may have arrived."""
    desk = Desk(likely, worst, store=AWAY[kind]())

    assert desk.reserve() == ()
    assert [stage for stage, _ in desk.faults] == ["reserve"]
    assert desk.holds.still_open == {"x-1": None}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", AWAY)
def test_where_one_budget_does_not_nothing_passes(kind):
    desk = Desk(likely, strict, store=AWAY[kind]())

    with pytest.raises(BudgetUnknownError, match=r"The budget strict cannot be asked for.*on_store_down") as told:
        desk.reserve()

    assert (told.value.status, told.value.code, told.value.retry_after_s) == (503, "budget_unknown", 5)
    assert [stage for stage, _ in desk.faults] == ["reserve"]
    assert desk.holds.still_open == {"x-1": None}


def test_a_budget_that_the_exchange_is_not_for_refuses_nothing_without_the_store():
    other = msgspec.structs.replace(strict, app="other")

    assert Desk(likely, other, answer=StoreUnavailableError("no Redis")).reserve() == ()


def test_an_answer_that_nobody_understands_is_counted_and_the_budgets_say_what_follows():
    """Promise 3: our own fault ends no exchange that the operator would let through without Redis."""
    desk = Desk(likely, answer=KeyError("ours"))
    assert desk.reserve() == ()
    assert [stage for stage, _ in desk.faults] == ["reserve"]


def test_a_stalled_redis_is_asked_by_one_at_a_time():
    """Everybody else goes on at once; the one whose turn it is finds out that it is back."""
    now = [100.0]
    desk = Desk(likely, store=SilentStore())
    desk.admission._monotonic_s = lambda: now[0]

    async def crowd(count):
        asking = candidate()
        tasks = [
            asyncio.create_task(desk.admission.reserve(asking, desk.admission.wants(asking))) for _ in range(count)
        ]
        _, waiting = await asyncio.wait(tasks, timeout=0.05)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return len(waiting)

    desk.admission._asks_again_s = 101.0  # one has waited in vain
    assert asyncio.run(crowd(5)) == 0
    now[0] = 101.5
    assert asyncio.run(crowd(5)) == 1
    assert asyncio.run(crowd(5)) == 0


@pytest.mark.usefixtures("impatient")
def test_once_redis_answers_again_everybody_asks_again():
    """A stall ends with the first answer; otherwise all but one a second would pass unasked for ever."""
    now = [100.0]
    desk = Desk(likely, store=SilentStore())
    desk.admission._monotonic_s = lambda: now[0]
    assert desk.reserve() == ()

    now[0] += module.STALLED_S
    desk.admission._store = answering = Store()

    assert [len(desk.reserve()) for _ in range(5)] == [1] * 5
    assert len(answering.asked) == 5


def test_a_burst_asks_a_few_at_a_time_and_everybody_is_told():
    """The client of Redis refuses to open more than a hundred connections; that is no outage, and nobody passes for it."""

    class Counting(Store):
        under_way = most = 0

        async def reserve(self, *question):
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await asyncio.sleep(0)
            self.under_way -= 1
            return await super().reserve(*question)

    desk = Desk(likely, store=Counting())

    async def burst():
        asking = candidate()
        wants = desk.admission.wants(asking)
        return await asyncio.gather(*(desk.admission.reserve(asking, wants) for _ in range(500)))

    assert [len(shares) for shares in asyncio.run(burst())] == [1] * 500
    assert (desk.store.most, desk.faults) == (module.AT_ONCE, [])


# Put together for a worker.


def put_together(monkeypatch, pricing, settings, now_s):
    monkeypatch.setattr("proxy.budget_admission.time", types.SimpleNamespace(time=lambda: now_s))
    ledger = types.SimpleNamespace(holds=Holds(), fault=lambda _stage, _error: None)
    return admission_of(
        settings, Store(), ledger, journal_id="j", pricing=lambda: pricing, likely=lambda _app, _version: COLD
    )


def test_without_a_budget_that_refuses_there_is_no_admission(monkeypatch):
    settings = Settings(budgets=(BudgetSettings(name="b", limit=1.0),))

    assert put_together(monkeypatch, FLAT, settings, NOW_S) is None


SPANNING = Settings(
    upstream=UpstreamSettings(total_timeout_seconds=1800.0),
    budgets=tuple(
        BudgetSettings(name=reserve, limit=1.0, action="refuse", reserve=reserve)
        for reserve in ("likely", "worst_case")
    ),
)


@pytest.mark.parametrize(
    ("instant", "start", "now", "peak_for"),
    [
        ("end", "05:00:00", "05:00:00", set()),
        ("end", "05:35:00", "05:35:00", {"worst_case"}),
        ("end", "05:29:55", "05:29:55", {"worst_case"}),
        ("end", "03:59:59", "04:00:01", set()),
        ("end", "07:00:00", "07:00:00", {"likely", "worst_case"}),
        ("start", "05:35:00", "05:35:00", set()),
        ("start", "03:59:59", "04:00:01", {"likely", "worst_case"}),
    ],
)
def test_prices_are_those_of_every_instant_that_may_decide(monkeypatch, instant, start, now, peak_for):
    """Of the end: a worst case until the upstream's total timeout and a little. Of the start: when the head was read."""
    pricing = Pricing(SHIPPED, instant=instant)
    start_s, now_s = (at(f"2026-11-23T{clock}Z") for clock in (start, now))
    asking = candidate(version=FLASH_1017, start_s=start_s)
    off_peak, found = (
        {want.budget.name: want.nanos for want in put_together(monkeypatch, pricing, SPANNING, at_s).wants(one)}
        for at_s, one in (
            (at("2026-11-23T11:00:00Z"), asking._replace(start_s=at("2026-11-23T11:00:00Z"))),
            (now_s, asking),
        )
    )

    assert {name for name in found if found[name] > off_peak[name]} == peak_for
    assert all(math.isclose(found[name], 2 * off_peak[name], rel_tol=0.01) for name in peak_for)


def test_the_operator_s_holidays_hold_for_budgets_too(monkeypatch):
    national_day_s = at("2026-10-01T02:00:00Z")
    asking = candidate(version=FLASH_1017, start_s=national_day_s)
    official, own = (
        [want.nanos for want in put_together(monkeypatch, pricing, SPANNING, national_day_s).wants(asking)]
        for pricing in (
            Pricing(SHIPPED),
            Pricing(SHIPPED, holidays={2026: frozenset()}),
        )
    )

    assert all(dear > cheap for dear, cheap in zip(own, official, strict=True))
