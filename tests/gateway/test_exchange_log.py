"""The line of an exchange: what it says, and that it never holds anybody up."""

import os
import sys

import msgspec
from ledger.given import record

from proxy.gateway.exchange_log import LoggedExchanges, facts_of
from proxy.logs import room_in_the_log


class Keeper:
    def __init__(self):
        self.kept = []

    def begin(self, mark):
        self.kept.append(mark)

    def record(self, one):
        self.kept.append(one)

    def fault(self, stage, error):
        self.kept.append((stage, error))


def test_a_line_has_counts_cost_and_names():
    """Enough to answer what one exchange cost, with the id that its client was given."""
    one = record(7)
    facts = facts_of(one)

    assert facts["id"] == one.exchange_id
    assert sum(facts["tokens"].values()) == sum(msgspec.structs.astuple(one.usage))
    assert set(facts["cost"]) == {charge.currency for charge in one.charges}
    assert facts_of(msgspec.structs.replace(one, usage=None, charges=()))["tokens"] == {}


def test_a_line_without_room_is_left_out_and_counted():
    """The record is kept whatever becomes of the line; the next line says how many are missing."""
    said, room = [], [True, False, False, True]
    keeper = Keeper()
    logged = LoggedExchanges(keeper, lambda _event, **facts: said.append(facts), lambda: room.pop(0))
    for number in range(4):
        logged.record(record(number + 1))

    assert [one.exchange_id for one in keeper.kept] == [f"x-{number}" for number in (1, 2, 3, 4)]
    assert [facts.get("lines_left_out") for facts in said] == [None, 2]


def test_a_pipe_that_nobody_reads_off_has_no_room(monkeypatch):
    """Until somebody does."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading, "rb", buffering=0) as reader:
        monkeypatch.setattr(sys, "stderr", stream)
        has_room = room_in_the_log()
        assert has_room()
        os.set_blocking(writing, False)
        try:
            while True:
                os.write(writing, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(writing, True)
        assert not has_room()
        reader.read(65536)
        assert has_room()
