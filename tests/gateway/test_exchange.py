import contextlib
from functools import partial
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing.given import SMALL

from proxy.errors import JournalUnwritableError
from proxy.gateway.exchange import Asked, Clock, Exchange, Maker
from proxy.gateway.recording import Pricing, make_record
from proxy.metering.meter import Meter
from proxy.metering.request import RequestFacts
from proxy.pricing.catalog import parse_catalog
from proxy.usage import Api, Missing, Outcome, Purpose, Share, Source

PRICING = Pricing(parse_catalog(SMALL))
USAGE = b'data: {"model":"a","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
DONE = b"data: [DONE]\n\n"


class Keeper:
    """Keeps records and faults in lists."""

    def __init__(self):
        self.records = []
        self.marks = []
        self.faults = []

    def begin(self, mark):
        self.marks.append(mark)

    def record(self, record):
        self.records.append(record)

    def fault(self, stage, error):
        self.faults.append((stage, str(error)))


class Estimates:
    """Works nothing out: the record falls back on sizes. Keeps what it was asked."""

    def __init__(self, counted=None):
        self.counted = counted
        self.asked = []

    async def work_out(self, need, facts, reading, sent):
        self.asked.append(need)
        return self.counted

    def is_sampled(self, record):
        return False

    def note(self, record):
        self.asked.append(record.exchange_id)


def at_once(work):
    """Runs what would go on in the background to its end: nothing in it waits for anything here."""
    with contextlib.suppress(StopIteration):
        work.send(None)
    return SimpleNamespace(done=lambda: True)


class Ticking:
    """A clock that moves on by a second with every look."""

    def __init__(self, now_s):
        self.now_s = now_s

    def __call__(self):
        self.now_s += 1
        return self.now_s


def begin(api=Api.CHAT, make=make_record):
    """An exchange and its keeper."""
    keeper = Keeper()
    exchange = Exchange(
        "x-1",
        upstream="default",
        asked=Asked("team", Purpose.PRODUCTION, ""),
        request=RequestFacts(api, "a", True, 100),
        clock=Clock(Ticking(1_768_000_000.0), Ticking(0.0)),
        keeper=keeper,
        maker=Maker(partial(make, pricing=PRICING), Estimates(), at_once),
    )
    exchange.sent = True
    return exchange, keeper


steps = st.one_of(
    st.tuples(st.just("answered"), st.sampled_from([200, 204, 400, 503]), st.sampled_from(["", "gzip", "br"])),
    st.tuples(st.just("feed"), st.one_of(st.binary(max_size=20), st.sampled_from([USAGE, DONE, b"{"]))),
    st.tuples(st.just("refused"), st.sampled_from([413, 502, 504])),
    st.tuples(st.just("end"), st.sampled_from(Outcome)),
)


@given(calls=st.lists(steps, max_size=15), api=st.sampled_from(Api), last=st.sampled_from(Outcome))
def test_an_exchange_has_one_record(calls, api, last):
    """Whatever happens in whatever order, and however often its end is told: one record, as of the first end."""
    exchange, keeper = begin(api)
    for name, *arguments in [*calls, ("end", last)]:
        named = {"sent": False} if name == "refused" else {}
        getattr(exchange, name)(*arguments, **named)
    told = next(arguments[0] for name, *arguments in [*calls, ("end", last)] if name == "end")

    assert (len(keeper.records), keeper.faults, exchange.recorded) == (1, [], True)
    assert keeper.records[0].outcome in {told, Outcome.UPSTREAM_ERROR if told is Outcome.COMPLETE else told}


def test_a_good_exchange():
    """A head, chunks, the end mark: the record has status, usage and the times between."""
    exchange, keeper = begin()
    exchange.answered(200)
    seen = [exchange.feed(USAGE), exchange.feed(DONE)]
    exchange.end(Outcome.COMPLETE)
    (record,) = keeper.records

    assert seen == [False, True]
    assert (record.status, record.outcome, record.source, record.usage.total) == (
        200,
        Outcome.COMPLETE,
        Source.REPORTED,
        7,
    )
    assert (record.first_chunk_after_s, record.duration_s) == (1.0, 2.0)
    assert record.start_s < record.first_chunk_s < record.end_s


def test_only_the_first_end_counts():
    """A client that leaves when all is said changes nothing."""
    exchange, keeper = begin()
    exchange.answered(200)
    exchange.end(Outcome.COMPLETE)
    exchange.feed(USAGE)
    exchange.end(Outcome.CLIENT_DISCONNECTED)

    assert [(record.outcome, record.source) for record in keeper.records] == [(Outcome.COMPLETE, Source.ESTIMATED)]


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, Outcome.COMPLETE), (399, Outcome.COMPLETE), (400, Outcome.UPSTREAM_ERROR)]
)
def test_a_whole_answer_of_400_or_more_is_an_upstream_error(status, outcome):
    """The body came to its end, the exchange did not succeed."""
    exchange, keeper = begin()
    exchange.answered(status)
    exchange.end(Outcome.COMPLETE)

    assert [outcome] == [record.outcome for record in keeper.records]


@pytest.mark.parametrize("sent", [True, False])
def test_an_answer_of_our_own(sent):
    """The record knows our status, and whether the upstream can have worked for it."""
    exchange, keeper = begin()
    exchange.refused(502, sent=sent)
    exchange.end(Outcome.UPSTREAM_DISCONNECTED)

    assert [(502, Source.ESTIMATED if sent else Source.NONE)] == [(one.status, one.source) for one in keeper.records]


@pytest.mark.parametrize("usage", [USAGE, b""])
def test_a_place_is_given_back_once_behind_the_record(usage):
    """Whether something has to be counted first or not; `settled` waits for it."""
    exchange, keeper = begin()
    given_back = []

    class Lease:
        async def release(self):
            given_back.append(len(keeper.records))

    exchange.lease = Lease()
    exchange.answered(200)
    exchange.feed(usage + DONE)
    exchange.end(Outcome.COMPLETE)
    exchange.end(Outcome.INTERRUPTED)

    assert given_back == [1]
    assert exchange.settling is not None


def test_an_exchange_that_costs_nothing_is_not_metered():
    """A model list passes without a meter and still has its record."""
    exchange, keeper = begin(Api.MODELS)
    exchange.answered(200)

    assert exchange.feed(DONE) is False
    exchange.end(Outcome.COMPLETE)
    assert [record.source for record in keeper.records] == [Source.NONE]


class Breaking(Meter):
    """A meter with a fault of its own."""

    def feed(self, chunk):
        if chunk == b"trip":
            raise ValueError("a fault of ours")
        super().feed(chunk)


class BreakingAtTheEnd(Meter):
    """A meter whose fault shows when it is asked for its reading."""

    def finish(self):
        raise ValueError("a fault of ours")


def test_a_fault_of_the_meter_is_counted_and_the_stream_goes_on(monkeypatch):
    """The chunk passes, the chunks behind it pass unread, and the record says why it has no usage."""
    monkeypatch.setattr("proxy.gateway.exchange.Meter", Breaking)
    exchange, keeper = begin()
    exchange.answered(200)
    seen = [exchange.feed(chunk) for chunk in (b"data: {}\n\n", b"trip", USAGE, DONE)]
    exchange.end(Outcome.COMPLETE)

    assert seen == [False] * 4
    assert keeper.faults == [("feed", "a fault of ours")]
    assert [(one.source, one.missing) for one in keeper.records] == [(Source.ESTIMATED, Missing.METER_FAULT)]


def test_a_fault_at_the_end_of_metering_does_not_cost_the_record(monkeypatch):
    """One exchange, one record: a meter that cannot give its reading leaves a record without one."""
    monkeypatch.setattr("proxy.gateway.exchange.Meter", BreakingAtTheEnd)
    exchange, keeper = begin()
    exchange.answered(200)
    exchange.end(Outcome.COMPLETE)

    assert len(keeper.faults) == 1
    assert [(record.status, record.missing) for record in keeper.records] == [(200, Missing.METER_FAULT)]


def test_an_estimate_that_fails_does_not_cost_the_record(monkeypatch):
    """One exchange, one record: what could not be worked out goes by size, and the fault is counted."""

    async def cannot(*_):
        raise ValueError("a fault of ours")

    monkeypatch.setattr(Estimates, "work_out", cannot)
    exchange, keeper = begin()
    exchange.answered(200)
    exchange.end(Outcome.COMPLETE)

    assert [(record.source, record.usage.prompt) for record in keeper.records] == [(Source.ESTIMATED, 30)]
    assert keeper.faults == [("count", "a fault of ours")]


def test_a_record_that_cannot_be_made_is_counted():
    """The fault goes to the keeper and nothing into the relay."""

    def cannot(_facts, _reading, _counted, **_pricing):
        raise KeyError("no price")

    exchange, keeper = begin(make=cannot)
    exchange.end(Outcome.COMPLETE)
    exchange.end(Outcome.COMPLETE)

    assert (keeper.records, keeper.faults) == ([], [("record", "'no price'")])


def test_a_record_that_cannot_be_kept_is_counted():
    """So it is where the keeper fails."""
    exchange, keeper = begin()
    keeper.record = SimpleNamespace(broken=True)
    exchange.end(Outcome.COMPLETE)

    assert [stage for stage, _ in keeper.faults] == ["record"]


def test_an_exchange_is_marked_before_it_is_sent():
    """The mark holds what a record needs, should nobody live to write it."""
    exchange, keeper = begin()
    exchange.sent = False
    exchange.begin()
    mark = keeper.marks[0]

    assert exchange.sent
    assert (mark.exchange_id, mark.api, mark.model, mark.app, mark.body_bytes) == ("x-1", Api.CHAT, "a", "team", 100)
    assert len(msgspec.json.encode(mark)) < 150


def test_a_mark_that_cannot_be_made_does_not_stop_the_exchange():
    """Promise 3; only the operator's own word does (a RelayError)."""
    exchange, keeper = begin()
    keeper.begin = raising(ValueError("odd"))
    exchange.begin()
    keeper.begin = raising(JournalUnwritableError("full"))

    assert keeper.faults == [("begin", "odd")]
    with pytest.raises(JournalUnwritableError):
        exchange.begin()


def raising(error):
    def call(_):
        raise error

    return call


def test_the_mark_says_who_pays_and_what_is_held():
    """All that whoever finds it needs to put the exchange into the right budgets, should this worker die."""
    exchange, keeper = begin()
    exchange.asked = exchange.asked._replace(payer="team-b", budgets=("nightly",))
    exchange.reserved = (Share("nightly", 600, 5),)
    exchange.begin()
    (*_, mark) = keeper.marks

    assert (mark.payer, mark.budgets, mark.reserved) == ("team-b", ("nightly",), exchange.reserved)
