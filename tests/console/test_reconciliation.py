"""The balance against the metered cost: what late settling explains, what it does not, and top-ups."""

import asyncio
import random

import pytest
from console.given import snapshot
from ledger.given import field

from proxy.console.balance import BalanceError, BalanceWatch, State, metered_nanos, parts_of
from proxy.console.reconciliation import (
    CENT_NANOS,
    LESS_FELL,
    MORE_FELL,
    STRETCH_S,
    Account,
    gap_of,
    looked,
)
from proxy.ledger.families import NANO
from proxy.settings import BalanceSettings

SETTLE_S = 1800.0
POLL_S = 600.0
START_S = 1_795_000_000.0


class World:
    """An account whose balance settles late, and a meter. `others` is what somebody else spends per poll."""

    def __init__(self, *, lag_s=SETTLE_S / 2, others=0, price_factor=1.0, per_poll=0.5):
        self.lag_s, self.others, self.factor, self.per_poll = lag_s, others, price_factor, per_poll
        self.account = Account()
        self.at_s, self.metered, self.spent = START_S, 0, []
        self.granted, self.topped_up = 5 * NANO, 1000 * NANO

    def poll(self, times=1):
        """Spend, let some of it settle, look."""
        for _ in range(times):
            self.at_s += POLL_S
            cost = round(self.per_poll * NANO * (0.5 + random.Random(self.at_s).random()))
            self.metered += round(cost * self.factor)
            self.spent.append((self.at_s, cost + self.others))
            due = [one for at_s, one in self.spent if at_s <= self.at_s - self.lag_s]
            self.spent = [one for one in self.spent if one[0] > self.at_s - self.lag_s]
            self._take(sum(due))
            shown = [amount // CENT_NANOS * CENT_NANOS for amount in (self.granted, self.topped_up)]
            self.account = looked(
                self.account,
                at_s=self.at_s,
                granted=shown[0],
                topped_up=shown[1],
                metered=self.metered,
                settle_s=SETTLE_S,
            )
        return gap_of(self.account, SETTLE_S)

    def _take(self, amount):
        """Granted balance goes first."""
        from_granted = min(amount, self.granted)
        self.granted -= from_granted
        self.topped_up -= amount - from_granted


@pytest.mark.parametrize("lag_s", [0.0, 300.0, SETTLE_S / 2, SETTLE_S])
def test_a_fall_that_is_metered_makes_no_gap(lag_s):
    """However late it settles within half an hour, over days, and across both parts of the balance."""
    world = World(lag_s=lag_s)

    for _ in range(400):
        gap = world.poll()
        assert gap is None or gap.nanos == 0
    assert gap.least <= gap.fallen <= gap.most


def test_nothing_is_said_before_there_is_enough_to_compare():
    """Cost from before the first look may settle behind it; so there is no gap before that time has passed twice."""
    world = World()

    assert world.poll(int(2 * SETTLE_S / POLL_S)) is None
    assert world.poll(2) is not None


def test_somebody_else_on_the_account_shows():
    """Two dollars a poll that did not pass here: a gap that grows, and says what it may be."""
    world = World(others=2 * NANO)
    gap = world.poll(60)

    assert gap.nanos > 80 * NANO
    assert gap.may_be == MORE_FELL


def test_a_price_that_is_too_high_shows_the_other_way_round():
    """More is metered than the account lost."""
    gap = World(price_factor=2.0, per_poll=2.0).poll(60)

    assert gap.nanos < -50 * NANO
    assert gap.may_be == LESS_FELL


def test_a_gap_is_forgotten_a_day_after_its_cause():
    """The stretch is the last day."""
    world = World(others=NANO)
    assert world.poll(30).nanos > 0
    world.others = 0

    assert world.poll(int((STRETCH_S + 2 * SETTLE_S) / POLL_S)).nanos == 0


@pytest.mark.parametrize("amount", [1, 50, 500])
def test_a_top_up_makes_no_gap(amount):
    """It is recognised, with at least what was seen of it."""
    world = World()
    world.poll(30)
    world.topped_up += amount * NANO
    gap = world.poll(30)

    assert gap.nanos == 0
    (top_up,) = world.account.top_ups
    assert abs(top_up.nanos - amount * NANO) < 2 * NANO


def test_top_ups_at_every_look_make_no_gap():
    """What was spent in between cannot be seen; as much as was metered is allowed for."""
    world = World()
    world.granted = 0
    world.poll(30)
    for _ in range(20):
        world.topped_up += 20 * NANO
        assert world.poll().nanos == 0

    assert len(world.account.top_ups) == 20


@pytest.mark.parametrize("spent_before", [False, True])
def test_a_large_cost_that_settles_around_a_top_up_makes_no_gap(spent_before):
    """Topped up and spent at once, the fall half an hour later; or spent, run dry, and topped up as it settles."""
    world = World(per_poll=0.0)
    world.granted = 0
    world.poll(30)

    def spend():
        world.metered += 50 * NANO
        world.spent.append((world.at_s + POLL_S, 50 * NANO))

    def top_up():
        world.topped_up += 100 * NANO

    for step in (spend, lambda: world.poll(1), top_up) if spent_before else (top_up, spend):
        step()
    for _ in range(20):
        assert world.poll().nanos == 0


def test_a_top_up_hides_no_gap():
    """What others spend before and behind it still shows."""
    world = World(others=NANO)
    world.poll(30)
    world.topped_up += 100 * NANO

    assert world.poll(30).nanos > 40 * NANO


def test_another_history_of_the_store_begins_anew():
    """Metered cost that goes back says nothing of the account."""
    world = World()
    world.poll(30)
    world.metered = 0

    assert world.poll() is None


def test_what_is_kept_stays_small():
    """A day and the time before it that may settle; not a month of looks."""
    world = World()
    world.poll(2000)

    assert len(world.account.looks) < 160


def test_the_answers_amounts_are_read_exactly():
    """Strings, as the docs say."""
    body = b'{"is_available":true,"balance_infos":[{"currency":"CNY","total_balance":"110.00","granted_balance":"10.00","topped_up_balance":"100.00"}]}'

    assert parts_of(body) == {"CNY": (10 * NANO, 100 * NANO)}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"balance_infos":[{"currency":"USD","granted_balance":"x","topped_up_balance":"1"}]}',
    ],
)
def test_an_answer_that_is_none(body):
    """It is an error of its own, without what stood in it."""
    with pytest.raises(BalanceError):
        parts_of(body)


def test_only_the_upstreams_own_cost_is_compared():
    """What another host bills is no fall of this account."""
    place = ("V", "m", "output_answer", "reported")
    totals = {field("cost_usd_total", host, *place): nanos for host, nanos in (("default", 5), ("azure", 7))}

    assert metered_nanos(snapshot(totals).totals, "USD") == 5


def test_a_balance_that_cannot_be_read_is_said_once_and_tried_again(tmp_path):
    """And what was known is shown for a while, then left out."""
    now = [START_S]
    answers = [{"USD": (NANO, NANO)}, BalanceError("answered 401"), BalanceError("answered 401")]

    async def fetch():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def counters():
        return snapshot({})

    def watch(account="mine"):
        return BalanceWatch(
            BalanceSettings(), fetch, counters, State(tmp_path / "state.json", account), wall_s=lambda: now[0]
        )

    first = watch()
    asyncio.run(first.look())
    asyncio.run(first.look())

    assert first.as_json()["error"] == "answered 401"
    assert first.as_json()["accounts"]["USD"]["granted"] == "1"
    assert list(first.fresh()) == ["USD"]
    now[0] += 4 * POLL_S
    assert first.fresh() == {}
    assert watch().as_json()["accounts"]["USD"]["topped_up"] == "1"  # also of another process
    assert watch("another").as_json() == {"accounts": {}}


def test_a_spoilt_state_is_no_reason_not_to_start(tmp_path):
    """It begins anew."""
    (tmp_path / "state.json").write_bytes(b"{half")

    assert BalanceWatch(BalanceSettings(), None, None, State(tmp_path / "state.json", "a")).as_json() == {
        "accounts": {}
    }


def test_an_account_in_another_currency_is_said(tmp_path):
    """Nothing is compared, and what to set is in the JSON and once in the log."""

    async def fetch():
        return {"CNY": (NANO, NANO)}

    async def counters():
        return snapshot({})

    watch = BalanceWatch(BalanceSettings(), fetch, counters, State(tmp_path / "state.json", "a"))
    asyncio.run(watch.look())

    assert watch.gap() is None
    assert "billing_currency" in watch.as_json()["error"]
