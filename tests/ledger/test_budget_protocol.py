"""Budgets under every order of events: two workers on one real Redis, with the ledger, the journals and the admission as they are.

Events: an exchange reserves (and the question or the answer may be lost), begins, ends at some cost; a worker makes a round, in
which answers may be lost; a worker is killed, and its journal adopted; Redis goes back to an earlier state; Redis is wiped.
An exchange never costs more than was reserved for it. What has to hold:

    no overshoot    spent + held is never more than the limit
    no leak         after one round of each worker, held is what was granted to exchanges that are still open, and spent is
                    what the records took, those of interrupted exchanges all that was reserved; but for what a wipe took
"""

import asyncio
import itertools
import os
import tempfile
import time
from pathlib import Path

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ledger.given import Shelf, record

from proxy.errors import RelayError, StoreUnavailableError
from proxy.gateway.admission import Admission, Candidate
from proxy.gateway.likely import COLD
from proxy.ledger import embedded
from proxy.ledger.answers import Want
from proxy.ledger.journal import journals_in
from proxy.ledger.ledger import Ledger
from proxy.ledger.tally import Retention
from proxy.ledger.watermark import Applied, Watermark
from proxy.metering.bounds import Bounds
from proxy.metering.request import RequestFacts
from proxy.pricing.budgets import Budget, Whose
from proxy.settings import JournalSettings
from proxy.usage import Api, BegunMark, Outcome, Share

EXAMPLES = int(os.environ.get("PROTOCOL_EXAMPLES", "25"))
LIMIT = 1000
BUDGETS = tuple(
    Budget(name, LIMIT, "USD", refuses=True, allows_without_store=False, **fields)
    for name, fields in (("month", {"period": "month"}), ("rolling", {"rolling_s": 90 * 86_400}))
)
WORKERS = (0, 1)
OLD = 4000
namespaces = itertools.count(1)
workers = st.sampled_from(WORKERS)
mishap = st.sampled_from(["", "", "request", "answer"])


class Torn:
    """A store that, when told to, loses the next question or answer of a kind."""

    def __init__(self, store):
        self.store = store
        self.mishaps = {"apply": [], "reserve": []}

    def __getattr__(self, name):
        call = getattr(self.store, name)
        return self._torn(name, call) if name in self.mishaps else call

    def _torn(self, name, call):
        async def torn(*args, **more):
            mishap = self.mishaps[name].pop(0) if self.mishaps[name] else ""
            if mishap == "request":
                raise StoreUnavailableError("the request was lost")
            answer = await call(*args, **more)
            if mishap == "answer":
                raise StoreUnavailableError("the answer was lost")
            return answer

        return torn


class Worker:
    """One life: its ledger, its admission, and what is open in it."""

    def __init__(self, name, store, folder, recover):
        self.ledger = Ledger(
            store,
            folder,
            name,
            JournalSettings(fsync="never"),
            Retention(),
            recover_record=recover,
            budgets=BUDGETS,
        )
        self.admission = Admission(
            BUDGETS,
            store,
            self.ledger.holds,
            name,
            prices=lambda _asking, _currency, dearest: None,  # noqa: ARG005 - what is reserved is said by the test
            likely=lambda _app, _version: COLD,
            wall_s=time.time,
            fault=lambda _stage, _error: None,
        )
        self.open = {}

    async def round(self):
        """One round with a comparison, as `run` makes them every few seconds."""
        self.ledger._compared_s = self.ledger._shipped_s = float("-inf")
        await self.ledger._round()

    def kill(self):
        """All that a dead process gives up: its files and with them its locks. What it knew is gone."""
        for adopted in self.ledger._adopted.values():
            adopted.shipper.close()
            os.close(adopted.lock)
        self.ledger._shipper.close()
        self.ledger._writer.close()


class BudgetProtocol(RuleBasedStateMachine):
    """Every order of events. `server` is set by the test: one real redis-server for all examples."""

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.shelf = Shelf(self.server.url, self.client, f"budgets{next(namespaces)}")
        self.loop = asyncio.new_event_loop()
        self.context = self.shelf.store(kept=10_000)
        self.torn = Torn(self.run(self.context.__aenter__()))
        self.names = itertools.count(1)
        self.taken = {}  # by exchange
        self.gone = set()
        self.earlier = []
        self.workers = [self._new_worker() for _ in WORKERS]

    def run(self, work):
        return self.loop.run_until_complete(work)

    def teardown(self):
        if not hasattr(self, "loop"):
            return
        for worker in self.workers:
            worker.kill()
        self.run(self.context.__aexit__(None, None, None))
        self.loop.close()
        self.folder.cleanup()

    def _new_worker(self):
        return Worker(f"j{next(self.names):04}", self.torn, Path(self.folder.name), self._recovered)

    def _recovered(self, mark, end_s):
        taken = tuple(Share(one.budget, one.bucket_s, one.reserved_nanos, one.reserved_nanos) for one in mark.reserved)
        self.taken[mark.exchange_id] = taken
        return record(
            1,
            exchange_id=mark.exchange_id,
            outcome=Outcome.INTERRUPTED,
            end_s=end_s,
            shares=taken,
            is_reserved=bool(taken),
        )

    # Events.

    @rule(worker=workers, nanos=st.sampled_from([0, 1, 150, 400, 1000]), mishap=mishap, begins=st.booleans())
    def reserve(self, worker, nanos, mishap, begins):
        """One that was let in begins, or is killed or waits in between; one whose answer was lost is turned away."""
        life, name = self.workers[worker], f"x-{next(self.names)}"
        whose = Whose("k", "a", "V", "m", "production")
        asking = Candidate(name, whose, "default", RequestFacts(Api.CHAT), Bounds, 0.0)
        self.torn.mishaps["reserve"] = [mishap]
        try:
            shares = self.run(life.admission.reserve(asking, [Want(budget, nanos) for budget in BUDGETS]))
        except RelayError as error:
            unknown = error.status == 503
            if unknown:
                life.ledger.record(record(1, exchange_id=name, outcome=Outcome.REFUSED, is_reserved=True))
            return
        life.open[name] = shares
        if begins:
            life.ledger.begin(BegunMark(name, 0.0, Api.CHAT, "m", "a", reserved=shares))

    @rule(worker=workers, costs=st.sampled_from([0.0, 0.3, 1.0]))
    def end(self, worker, costs):
        life = self.workers[worker]
        if life.open:
            name, shares = life.open.popitem()
            self.taken[name] = tuple(
                Share(one.budget, one.bucket_s, one.reserved_nanos, int(one.reserved_nanos * costs)) for one in shares
            )
            life.ledger.record(record(1, exchange_id=name, shares=self.taken[name], is_reserved=True))

    @rule(worker=workers, mishaps=st.lists(mishap, max_size=2))
    def round(self, worker, mishaps):
        self.torn.mishaps["apply"] = list(mishaps)
        self.run(self.workers[worker].round())
        self.torn.mishaps["apply"] = []

    @rule(worker=workers)
    def die(self, worker):
        self.workers[worker].kill()
        self.workers[worker] = self._new_worker()

    @rule()
    def remember(self):
        self.earlier.append((self.shelf.dump(), set(self.gone)))

    @rule(which=st.integers(0, 3))
    def go_back(self, which):
        """What was reserved since is forgotten, until its owner says it: so nobody asks before every worker has."""
        if self.earlier:
            state, gone = self.earlier[which % len(self.earlier)]
            if gone == self.gone:
                self.shelf.restore(state)
                self._rounds()

    @rule()
    def wipe(self):
        """All is gone that was applied; what was open is interrupted, since the workers are killed with it."""
        self._rounds()
        self.gone |= set(self.shelf.records())
        for worker in WORKERS:
            self.workers[worker].kill()
        for path in journals_in(Path(self.folder.name)):
            mark = Watermark(path)
            noted = mark.read()
            mark.write(Applied(noted.epoch - OLD, noted.number, noted.at_s))
        self.shelf.restore({})
        self.earlier = []
        self.workers = [self._new_worker() for _ in WORKERS]
        self._rounds()

    def _rounds(self):
        for life in self.workers:
            self.run(life.round())

    # What has to hold.

    def _sums(self, budget):
        found = {"spent": 0, "held": 0}
        for name, value in self.shelf.hash(f"budget:{budget.name}").items():
            found[name.decode().partition(":")[0]] += int(value)
        return found["spent"], found["held"]

    @invariant()
    def no_overshoot(self):
        if hasattr(self, "shelf"):
            for budget in BUDGETS:
                spent, held = self._sums(budget)
                assert spent + held <= LIMIT, (budget.name, spent, held)
                assert min(spent, held) >= 0

    @rule()
    def no_leak(self):
        self._rounds()
        granted = [share for life in self.workers for shares in life.open.values() for share in shares]
        taken = [share for name, shares in self.taken.items() if name not in self.gone for share in shares]
        for budget in BUDGETS:
            spent, held = self._sums(budget)
            assert held == sum(share.reserved_nanos for share in granted if share.budget == budget.name)
            assert spent == sum(share.taken_nanos for share in taken if share.budget == budget.name)


@pytest.fixture(scope="module")
def protocol(tmp_path_factory):
    """The machine, on a Redis of its own."""
    server = embedded.start(tmp_path_factory.mktemp("budgets"), embedded.find_server())
    with redis.Redis.from_url(server.url) as client:
        BudgetProtocol.server, BudgetProtocol.client = server, client
        yield BudgetProtocol
    server.stop()


def test_no_order_of_events_overshoots_or_leaks(protocol):
    """Random histories of up to thirty events; a failing one is shrunk to the shortest that fails."""
    protocol.TestCase.settings = settings(max_examples=EXAMPLES, stateful_step_count=30, deadline=None)
    protocol.TestCase("runTest").debug()
