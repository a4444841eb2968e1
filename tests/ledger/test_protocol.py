"""The protocol between journals and Redis as a small model, checked in every order of events against the real script.

The model (docs/ledger.md has it in words): a *journal* is a list of records, of which a prefix is applied; the *store* is a set
of records with a number per journal; a *shipper* knows what it has heard. Events: a record is written; some are shipped;
an answer is torn (the script ran, nobody heard); a shipper dies and another takes over; two ship at once; Redis goes back
to an earlier state; Redis is wiped. What has to hold, whatever comes in whatever order:

    never twice     every record is in the counters at most once, at every moment
    nothing lost    after one comparison and one round of shipping every record is, but for what a wipe took
    agreement       the store's number, running sums and totals say the same, at every moment; every record is counted
                    under the revision that the store's registry gives its fingerprint, and each change is one event
"""

import asyncio
import contextlib
import itertools
import os
import tempfile
from pathlib import Path

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ledger.given import Shelf, added, encoded, record

from proxy.errors import StoreUnavailableError
from proxy.ledger import embedded
from proxy.ledger.journal import JournalReader, JournalWriter
from proxy.ledger.shipper import BATCH_RECORDS, JournalShipper
from proxy.ledger.tally import Retention
from proxy.ledger.verify import verify
from proxy.ledger.watermark import Applied, Watermark

EXAMPLES = int(os.environ.get("PROTOCOL_EXAMPLES", "25"))
DEPTH = int(os.environ.get("PROTOCOL_DEPTH", "3"))
"""How thorough to be. On 2026-11-24 also run with 120 examples and depth 4 (1,296 histories, four and a half minutes)."""

JOURNALS = ("a", "b")
BUILDS = ("fp_aaaaaaaaaa", "fp_aaaaaaaaaa_fp8", "fp_bbbbbbbbbb", "fp_cccccccccc")
CHANGES = ("version_changes_total", "m")
OLD = 4000
OWNERS = 2
namespaces = itertools.count(1)


def of_some_build(number):
    """A record; the build that answered it depends on its number."""
    return record(number, fingerprint=BUILDS[number % len(BUILDS)])


class Torn:
    """A store that, when told to, runs the script and then loses the answer; or loses the request."""

    def __init__(self, store):
        self.store = store
        self.mishaps = []

    async def apply(self, batch, epoch=0, *, replayed=False):
        mishap = self.mishaps.pop(0) if self.mishaps else ""
        if mishap == "request":
            raise StoreUnavailableError("the request was lost")
        answer = await self.store.apply(batch, epoch, replayed=replayed)
        if mishap == "answer":
            raise StoreUnavailableError("the answer was lost")
        return answer

    async def settle(self, place, offer, at_s):
        return await self.store.settle(place, offer, at_s)

    async def compare(self, journal_id, epoch, highest):
        return await self.store.compare(journal_id, epoch, highest)


class Protocol(RuleBasedStateMachine):
    """Every order of events. `server` is set by the test: one real redis-server for all examples."""

    server = None

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.shelf = Shelf(self.server.url, self.client, f"protocol{next(namespaces)}")
        self.loop = asyncio.new_event_loop()
        self.store = self.run(self._open())
        self.torn = Torn(self.store)
        self.writers = {name: JournalWriter(Path(self.folder.name), name, 4096) for name in JOURNALS}
        self.written = {name: [] for name in JOURNALS}
        self.gone = set()  # by a wipe: applied once, and not to come again
        self.owners = {(name, owner): self._owner(name) for name in JOURNALS for owner in range(OWNERS)}
        self.earlier = []
        self.numbers = itertools.count(1)

    async def _open(self):
        self.context = self.shelf.store(kept=10_000)
        return await self.context.__aenter__()

    def run(self, work):
        return self.loop.run_until_complete(work)

    def _owner(self, name):
        return JournalShipper(JournalReader(self.writers[name].path), self.torn, Retention())

    def teardown(self):
        if not hasattr(self, "loop"):
            return
        for owner in self.owners.values():
            owner.close()
        for writer in self.writers.values():
            writer.close()
        self.run(self.context.__aexit__(None, None, None))
        self.loop.close()
        self.folder.cleanup()

    # Events.

    @rule(name=st.sampled_from(JOURNALS), count=st.sampled_from([1, 3, BATCH_RECORDS + 2]))
    def write(self, name, count):
        for _ in range(count):
            number = next(self.numbers)
            self.written[name].append(number)
            self.writers[name].append(encoded(of_some_build(number)))

    @rule(
        name=st.sampled_from(JOURNALS),
        owner=st.integers(0, OWNERS - 1),
        mishaps=st.lists(st.sampled_from(["", "request", "answer"]), max_size=2),
    )
    def ship(self, name, owner, mishaps):
        self.torn.mishaps = list(mishaps)
        with contextlib.suppress(StoreUnavailableError):
            self.run(self.owners[name, owner].ship(len(self.written[name])))
        self.torn.mishaps = []

    @rule(name=st.sampled_from(JOURNALS), owner=st.integers(0, OWNERS - 1))
    def compare(self, name, owner):
        self.run(self.owners[name, owner].compare())

    @rule(name=st.sampled_from(JOURNALS), owner=st.integers(0, OWNERS - 1))
    def die_and_be_adopted(self, name, owner):
        self.owners[name, owner].close()
        self.owners[name, owner] = self._owner(name)

    @rule()
    def remember(self):
        self.earlier.append((self.shelf.dump(), set(self.gone)))

    @rule(which=st.integers(0, 3))
    def go_back(self, which):
        if self.earlier:
            state, gone = self.earlier[which % len(self.earlier)]
            if gone == self.gone:  # back to before a wipe is another history of its own: see test_wiped_then_restored
                self.shelf.restore(state)

    @rule()
    def wipe(self):
        """A store whose history is old is wiped. What was applied is gone; every owner that knew it keeps knowing."""
        self.shelf.restore({})
        self.earlier = []
        for name in JOURNALS:
            mark = Watermark(self.writers[name].path)
            noted = mark.read()
            mark.write(Applied(noted.epoch - OLD, noted.number, noted.at_s))
            for owner in range(OWNERS):
                self.die_and_be_adopted(name, owner)
            self.gone |= set(self.written[name][: noted.number])

    # What has to hold.

    @invariant()
    def never_twice_and_in_agreement(self):
        if not hasattr(self, "shelf"):
            return
        totals = self.shelf.totals()
        ids = self.shelf.records()
        assert len(ids) == len(set(ids))
        changes = self.shelf.changes()
        applied = self.shelf.under_their_tags(of_some_build(int(one.removeprefix("x-"))) for one in ids)
        assert added(applied) | ({CHANGES: len(changes)} if changes else {}) == totals
        assert len({one["version"] for one in changes}) == len(changes)
        findings = self.run(verify(self.store, Path(self.folder.name)))
        assert not findings.totals_off
        assert not any(one.off for one in findings.journals)

    @rule()
    def nothing_is_lost(self):
        for name in JOURNALS:
            owner = self.owners[name, 0]
            self.run(owner.compare())
            self.run(owner.ship(len(self.written[name])))
        ids = {int(one.removeprefix("x-")) for one in self.shelf.records()}
        everything = {number for numbers in self.written.values() for number in numbers}
        assert everything - ids <= self.gone


@pytest.fixture(scope="module")
def protocol(tmp_path_factory):
    """The machine, on a Redis of its own."""
    server = embedded.start(tmp_path_factory.mktemp("protocol"), embedded.find_server())
    with redis.Redis.from_url(server.url) as client:
        Protocol.server, Protocol.client = server, client
        yield Protocol
    server.stop()


def test_no_order_of_events_loses_or_doubles(protocol):
    """Random histories of up to thirty events; a failing one is shrunk to the shortest that fails."""
    protocol.TestCase.settings = settings(max_examples=EXAMPLES, stateful_step_count=30, deadline=None)
    protocol.TestCase("runTest").debug()


EVENTS = ("write", "ship", "torn", "adopt", "back", "again")


def test_every_short_history(protocol):
    """Exhaustively: every sequence of so many events, each followed by the check that nothing is lost or double."""
    for history in itertools.product(EVENTS, repeat=DEPTH):
        machine = protocol()
        machine.begin()
        try:
            machine.write("a", 3)
            machine.remember()
            for event in history:
                _happen(machine, event)
                machine.never_twice_and_in_agreement()
            machine.nothing_is_lost()
            machine.never_twice_and_in_agreement()
        finally:
            machine.teardown()


def _happen(machine, event):
    match event:
        case "write":
            machine.write("a", 1)
        case "ship":
            machine.ship("a", 0, [])
        case "torn":
            machine.ship("a", 0, ["answer"])
        case "adopt":
            machine.die_and_be_adopted("a", 0)
        case "back":
            machine.go_back(0)
        case "again":
            machine.ship("a", 1, [])
