"""The account's balance against the metered cost: how much of its fall nobody can explain. Pure.

A balance settles late (about half an hour, DEEPSEEK.md section 8), so its fall over a stretch of time is compared with two
figures: what was metered in it without its last `settle` seconds, and what was metered in it and in the `settle` seconds
before. A fall between the two is explained; beyond them, the rest is the gap. Both ends move on: the stretch is the last day,
so a gap is forgotten a day after its cause has ended.
Where a part of the balance rises there was a top-up. What it hid of the fall cannot be seen: anything between nothing and what
was metered in that time and in the `settle` seconds before. So much is allowed for, and no more.
"""

from itertools import pairwise
from typing import Final

import msgspec

from proxy.ledger.families import NANO

CENT_NANOS: Final = NANO // 100
TOLERANCE_NANOS: Final = 2 * CENT_NANOS
"""Balances are printed to the cent, and there are two parts of them."""

STRETCH_S: Final = 86_400.0
TOP_UPS_KEPT: Final = 20

MORE_FELL: Final = (
    "somebody else uses the account, or a client its key without this proxy",
    "what a host bills apart: server-side search and other tools",
    "exchanges broken off, whose estimate is too low (source=estimated)",
    "tokens that have no price here (unpriced_tokens_total)",
    "granted balance that has expired",
)
LESS_FELL: Final = (
    "clients whose own keys belong to other accounts (passthrough mode)",
    "a price of the catalog that is too high: a discount, a promotion, an off-peak hour nobody announced",
    "exchanges broken off, whose estimate is too high (source=estimated)",
    "settling that takes longer than [balance] settle_seconds",
)


class Look(msgspec.Struct, frozen=True):
    """One reading (all nano-units): the parts of the balance, and what was metered until then.

    `fallen` is the whole fall seen so far, `hidden` what top-ups may have hidden of it at most.
    """

    at_s: float
    granted: int
    topped_up: int
    fallen: int
    metered: int
    hidden: int = 0


class TopUp(msgspec.Struct, frozen=True):
    """A rise: by how much at least, seen when."""

    at_s: float
    nanos: int


class Account(msgspec.Struct, frozen=True):
    """What is remembered of an account in one currency, oldest look first."""

    looks: tuple[Look, ...] = ()
    top_ups: tuple[TopUp, ...] = ()


class Gap(msgspec.Struct, frozen=True):
    """The fall since an instant, the least and the most of it that is explained, and the rest: above 0 more fell than was metered.

    `hidden` is how much more may have fallen than was seen, because of top-ups.
    """

    since_s: float
    fallen: int
    hidden: int
    least: int
    most: int
    nanos: int

    @property
    def may_be(self) -> tuple[str, ...]:
        """What the rest may be; nothing where there is none."""
        if not self.nanos:
            return ()
        return MORE_FELL if self.nanos > 0 else LESS_FELL


def looked(account: Account, *, at_s: float, granted: int, topped_up: int, metered: int, settle_s: float) -> Account:
    """The account after another look. One whose metered cost has gone back (another history of the store) begins anew."""
    if not account.looks or metered < account.looks[-1].metered:
        return Account((Look(at_s, granted, topped_up, 0, metered),), account.top_ups)
    before = account.looks[-1]
    changes = (granted - before.granted, topped_up - before.topped_up)
    fallen = sum(max(-change, 0) for change in changes)
    risen = sum(max(change, 0) for change in changes)
    may_hide = metered - _metered_by(account, before.at_s - settle_s) if risen else 0
    look = Look(at_s, granted, topped_up, before.fallen + fallen, metered, before.hidden + may_hide)
    top_ups = (*account.top_ups, TopUp(at_s, risen)) if risen else account.top_ups
    return Account(_kept((*account.looks, look), at_s, settle_s), top_ups[-TOP_UPS_KEPT:])


def gap_of(account: Account, settle_s: float) -> Gap | None:
    """The gap of the last day; None before there are looks that lie `settle_s` apart, twice."""
    if not account.looks:
        return None
    last = account.looks[-1]
    first_s = max(last.at_s - STRETCH_S, account.looks[0].at_s + settle_s)
    base = next((look for look in account.looks if look.at_s >= first_s), None)
    if base is None or base.at_s > last.at_s - settle_s:
        return None
    fallen, hidden = last.fallen - base.fallen, last.hidden - base.hidden
    least = max(_metered_by(account, last.at_s - settle_s) - base.metered, 0)
    most = last.metered - _metered_by(account, base.at_s - settle_s)
    return Gap(base.at_s, fallen, hidden, least, most, _beyond(fallen, fallen + hidden, least, most))


def _beyond(seen: int, at_most: int, least: int, most: int) -> int:
    """How far a fall between two figures lies from an explanation between two others."""
    if seen > most + TOLERANCE_NANOS:
        return seen - most
    return at_most - least if at_most < least - TOLERANCE_NANOS else 0


def _metered_by(account: Account, at_s: float) -> int:
    """What was metered at the last look that is not behind an instant."""
    return max((look.metered for look in account.looks if look.at_s <= at_s), default=account.looks[0].metered)


def _kept(looks: tuple[Look, ...], now_s: float, settle_s: float) -> tuple[Look, ...]:
    """The looks of the stretch and of the time before it that may still settle, with one that lies before both."""
    oldest_s = now_s - STRETCH_S - settle_s
    first = sum(1 for _, following in pairwise(looks) if following.at_s <= oldest_s)
    return looks[first:]
