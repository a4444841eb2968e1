"""Lets the store hold what is open here, and give back what is held for nobody. What is asked, and when; the rounds are the ledger's.

Two steps, because exchanges reserve meanwhile: the store tells for whom something is held that was not named, and of these only
those are given back that are not open when its answer is here. Whoever has reserved by then is among the open ones.
"""

from collections.abc import Callable, Mapping, Sequence

import structlog

from proxy.ledger.budgets import Holds, StillOpen
from proxy.ledger.shipper import AppliesBatches, StoreRefusesError
from proxy.pricing.budgets import Budget

log = structlog.get_logger(__name__)


class Holding:
    """What is held for the exchanges of one worker, and of the journals that it drains."""

    def __init__(
        self,
        store: AppliesBatches,
        journal_id: str,
        budgets: Sequence[Budget],
        *,
        wall_s: Callable[[], float],
        fault: Callable[[str, Exception], None],
    ) -> None:
        """Without budgets nothing is asked."""
        self._store = store
        self._journal_id = journal_id
        self._budgets = tuple(budgets)
        self._wall_s = wall_s
        self._fault = fault
        self._over: Sequence[str] = ()
        self._over_from = 0  # the number that has to be applied first
        self.holds = Holds()

    def __repr__(self) -> str:
        return f"<Holding {self.holds!r} over={len(self._over)}>"

    async def say_what_is_open(self) -> None:
        """After a rollback the store may have forgotten it. Raises StoreUnavailableError."""
        if self._budgets:
            prune = {budget.name: budget.kept_from_s(self._wall_s()) for budget in self._budgets}
            # Whose answer was not heard is not named. If something is held for one it comes back as a stranger, which is given
            # back only once it is over, and its record, which may cost something, is in the counters.
            heard = {name: held for name, held in self.holds.still_open.items() if held is not None}
            strangers = await self._hold(self._journal_id, heard, prune)
            self._over = [name for name in strangers if name not in self.holds.still_open]
            self._over_from = self.holds.unheard

    async def give_back(self, applied: int) -> None:
        """What is held for own exchanges that are over. Only once all that the store has forgotten is in the counters again.

        `applied`: up to which number they have the records; below that of one of these exchanges they wait for a later round.
        Raises StoreUnavailableError.
        """
        if applied >= self._over_from:
            await self._give_back_of(self._journal_id, self._over)
            self._over = ()

    async def give_back_all_of(self, owner: str) -> None:
        """Nothing is open in the journal of an owner that is gone. Raises StoreUnavailableError."""
        if self._budgets:
            await self._give_back_of(owner, await self._hold(owner, {}, {}))

    async def _give_back_of(self, journal: str, over: Sequence[str]) -> None:
        if over:
            await self._hold(journal, {}, {}, over)

    async def _hold(
        self, journal: str, still_open: StillOpen, prune: Mapping[str, int], over: Sequence[str] = ()
    ) -> Sequence[str]:
        """For which exchanges something is held that were not named."""
        found = await self._store.hold(journal, still_open, prune, over)
        if found.refused:
            self._fault("hold", StoreRefusesError(f"journal {journal}: {found.refused}"))
        elif found.again or found.back:
            log.info("reservations_put_right", journal=journal, held_again=found.again, given_back=found.back)
        return found.strangers
