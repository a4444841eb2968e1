"""May an exchange begin, by the budgets it counts in: what it may cost is reserved first, in one call of the store, or none.

An exchange that no refusing budget is for makes no call. What is decided is plain: which budgets, how much, and what follows from
the store's answer. Where the store does not answer, each budget says what holds (`on_store_down`), and it is counted and logged.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, Protocol

from proxy.errors import BudgetUnknownError, BudgetUsedUpError, NoBoundError, StoreUnavailableError
from proxy.gateway.likely import Likely
from proxy.ledger.answers import Held, UsedUp, Want
from proxy.ledger.budgets import Holds
from proxy.metering.bounds import Bounds
from proxy.metering.request import RequestFacts
from proxy.pricing.budgets import NANO, Budget, Whose
from proxy.pricing.cost import MILLION
from proxy.usage import METERED_APIS, Share

LONGEST_WAIT_S: Final = 2.0
"""A store that takes longer is taken for one that is away: a stream should not wait for it."""

STALLED_S: Final = 1.0
"""So long nobody else waits for it: one exchange a second finds out whether it is back."""

AT_ONCE: Final = 32
"""Calls to Redis at a time. Whoever comes in a burst waits for a turn, a fraction of a millisecond each: the client of Redis has a
hundred connections and refuses what is beyond, which would be taken for a Redis that is away."""

MOST_OUTPUT_TOKENS: Final = 393_216
"""The most any of DeepSeek's models writes (384K: V4 and V4.1; pricing page of October 2026), where a request sets no limit."""

ADDED_TOKENS: Final = 512
"""What the host may put around a prompt by itself: its own text (up to 97 tokens seen), and that of tools (222)."""

Prices = tuple[int, int, int, int]
"""Nano-units per million tokens, in the order of `usage.KINDS`."""


class Candidate(NamedTuple):
    """An exchange that wants to begin."""

    exchange_id: str
    whose: Whose
    upstream: str
    request: RequestFacts
    bounds: Callable[[], Bounds]
    """Read only where it is wanted: most exchanges have no budget."""
    start_s: float
    """When its head was read, which may be long before its body was: the instant of its price where the settings say so."""


class KnowsPrices(Protocol):
    """What tokens cost an exchange."""

    def __call__(self, candidate: Candidate, currency: str, *, dearest: bool) -> Prices | None:
        """At this moment, or at the dearest before it has to end; None where nobody knows."""


class Reserves(Protocol):
    """What is needed of the store."""

    async def reserve(self, journal_id: str, exchange_id: str, wants: Sequence[Want], now_s: float) -> Held | UsedUp:
        """Hold in all of them, or in none."""


class Admission:
    """Decides by budgets. `budgets` are those that refuse."""

    def __init__(
        self,
        budgets: Sequence[Budget],
        store: Reserves,
        holds: Holds,
        journal_id: str,
        *,
        prices: KnowsPrices,
        likely: Callable[[str, str], Likely],
        wall_s: Callable[[], float],
        fault: Callable[[str, Exception], None],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budgets = tuple(budgets)
        self._store = store
        self._holds = holds
        self._journal_id = journal_id
        self._prices = prices
        self._likely = likely
        self._wall_s = wall_s
        self._fault = fault
        self._monotonic_s = monotonic_s
        self._calls = asyncio.Semaphore(AT_ONCE)
        self._asks_again_s: float | None = None  # set while Redis is stalled

    def __repr__(self) -> str:
        return f"<Admission by {len(self._budgets)} budgets>"

    def wants(self, candidate: Candidate) -> list[Want]:
        """What has to be reserved, and where. Raises NoBoundError where a worst case is wanted and there is none."""
        if candidate.request.api not in METERED_APIS:
            return []
        return [
            Want(budget, self._need(budget, candidate)) for budget in self._budgets if budget.is_for(candidate.whose)
        ]

    async def reserve(self, candidate: Candidate, wants: Sequence[Want]) -> tuple[Share, ...]:
        """Reserve; nothing where the store is away and every budget allows that.

        Raises BudgetUsedUpError and BudgetUnknownError.
        """
        async with self._calls:
            if self._is_stalled():
                return self._without_store(wants, StoreUnavailableError("Redis did not answer a moment ago"))
            try:
                answer = await self._ask(candidate.exchange_id, wants)
            except Exception as error:  # noqa: BLE001 - away, or an answer that nobody understands: the budgets say what follows
                return self._without_store(wants, error)
        if isinstance(answer, Held):
            self._holds.held(candidate.exchange_id, answer.shares)
            return answer.shares
        self._holds.refused(candidate.exchange_id)
        raise self._used_up(answer, wants)

    async def _ask(self, exchange_id: str, wants: Sequence[Want]) -> Held | UsedUp:
        self._holds.asking(exchange_id)
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                answer = await self._store.reserve(self._journal_id, exchange_id, wants, self._wall_s())
        except TimeoutError:
            self._asks_again_s = self._monotonic_s() + STALLED_S
            raise StoreUnavailableError(f"no answer within {LONGEST_WAIT_S:g} s") from None
        self._asks_again_s = None
        return answer

    def _is_stalled(self) -> bool:
        """True for everybody but the one whose turn it is to find out."""
        now_s = self._monotonic_s()
        if self._asks_again_s is None:
            return False
        if now_s >= self._asks_again_s:
            self._asks_again_s = now_s + LONGEST_WAIT_S + STALLED_S
            return False
        return True

    def _need(self, budget: Budget, candidate: Candidate) -> int:
        """Nano-units to reserve for an exchange."""
        prices = self._prices(candidate, budget.currency, dearest=budget.worst_case)
        if budget.worst_case:
            return worst_case_nanos(candidate.request.body_bytes, candidate.bounds(), prices)
        likely = self._likely(candidate.whose.app, candidate.whose.version)
        return likely_nanos(candidate.request.body_bytes, candidate.bounds(), likely, prices)

    def _without_store(self, wants: Sequence[Want], error: Exception) -> tuple[Share, ...]:
        self._fault("reserve", error)
        refusing = [want.budget.name for want in wants if not want.budget.allows_without_store]
        if refusing:
            raise BudgetUnknownError(
                f"The budget {refusing[0]} cannot be asked for, and nothing passes without it (on_store_down = refuse)."
            )
        return ()

    def _used_up(self, answer: UsedUp, wants: Sequence[Want]) -> BudgetUsedUpError:
        want = next(want for want in wants if want.budget.name == answer.budget)
        error = BudgetUsedUpError(used_up_text(want, answer))
        only_held = answer.spent_nanos + want.nanos <= want.budget.limit_nanos
        error.budget = want.budget.name
        error.retry_after_s = 1 if only_held else max(1, math.ceil(answer.free_s - self._wall_s()))
        return error


def used_up_text(want: Want, answer: UsedUp) -> str:
    """What a client is told: budget, spent, limit, what was wanted, and when there is room again."""
    budget = want.budget
    spent, held, limit, need = (
        f"{nanos / NANO:.6f}" for nanos in (answer.spent_nanos, answer.held_nanos, budget.limit_nanos, want.nanos)
    )
    told = (
        f"The budget {budget.name} is used up: {spent} of {limit} {budget.currency} spent, {held} held for exchanges under "
        f"way, and this one may cost {need}."
    )
    if want.nanos > budget.limit_nanos:
        return f"{told} That is more than the whole budget: ask for less, such as a lower max_tokens."
    free = datetime.fromtimestamp(answer.free_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    sooner = ", or when one under way costs less than was held" if answer.held_nanos else ""
    return f"{told} It has room again at {free}{sooner}."


def likely_nanos(body_bytes: int, bounds: Bounds, likely: Likely, prices: Prices | None) -> int:
    """What an exchange is likely to cost, in nano-units; 0 where it has no price."""
    if prices is None:
        return 0
    output = likely.output if bounds.max_tokens is None else min(likely.output, bounds.max_tokens)
    hit, miss = likely.hit_per_byte * body_bytes, likely.miss_per_byte * body_bytes
    cost = hit * prices[0] + miss * prices[1] + output * bounds.choices * max(prices[2:])
    return round(cost / MILLION)


def worst_case_nanos(body_bytes: int, bounds: Bounds, prices: Prices | None) -> int:
    """The most an exchange can cost, in nano-units. A token is at least a byte. Raises NoBoundError where there is no bound."""
    if prices is None:
        raise NoBoundError("This exchange has no price, so nobody can say what it may cost at most.")
    if bounds.unbounded_by:
        raise NoBoundError(f"What this exchange may cost at most cannot be told: {bounds.unbounded_by}.")
    output = MOST_OUTPUT_TOKENS if bounds.max_tokens is None else bounds.max_tokens
    # Two more for the ends of reasoning and answer, which are billed beyond the limit.
    tokens = (body_bytes + ADDED_TOKENS) * max(prices[:2]) + (output + 2) * bounds.choices * max(prices[2:])
    return -(-tokens // MILLION) + 4  # each kind is rounded by itself
