"""One exchange while it is under way: its times, its meter and, exactly once, its record.

Knows no HTTP library: the relay tells it what happened in plain values. Nothing here raises into the relay: a fault of
metering is counted, and the stream goes on. Where something has to be counted first (an exchange without usage, a
completion without its reasoning), the record follows as soon as it is: `end` then gives a task to wait for.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Final, NamedTuple, Protocol

from proxy.errors import RelayError
from proxy.gateway.estimating import Sent
from proxy.gateway.recording import ExchangeFacts, Need, RecordMaker, need_of
from proxy.metering.meter import Meter
from proxy.metering.reading import Reading
from proxy.metering.request import RequestFacts
from proxy.usage import METERED_APIS, BegunMark, Missing, Outcome, Purpose, Share, TokenUsage, UsageRecord

HTTP_ERRORS: Final = 400


class LateUsageError(Exception):
    """A usage behind the end mark of its stream: the record was written by then."""


class Asked(NamedTuple):
    """What the client said about an exchange, beside its request."""

    app: str
    purpose: Purpose
    expected_version: str
    payer: str = ""
    """Who asks, by the key alone: what budgets that refuse go by."""
    budgets: tuple[str, ...] = ()
    """The budgets that the client's key names."""


class Clock(NamedTuple):
    """The two clocks: instants in seconds since the epoch, and monotonic seconds for durations."""

    wall_s: Callable[[], float]
    monotonic_s: Callable[[], float]


class KeepsRecords(Protocol):
    """Where marks and records go, and where faults of metering are counted."""

    def begin(self, mark: BegunMark) -> None:
        """Keep the mark of an exchange that begins. Raises RelayError where it may not begin."""

    def record(self, record: UsageRecord) -> None:
        """Keep a record; it must not be lost from here on."""

    def fault(self, stage: str, error: Exception) -> None:
        """Count and log a fault that the relay went on from."""


class Estimates(Protocol):
    """Works out what was not reported, see `estimating.Estimator`."""

    async def work_out(
        self, need: Need, facts: ExchangeFacts, reading: Reading | None, sent: Sent
    ) -> TokenUsage | None:
        """The usage a record shall have."""

    def is_sampled(self, record: UsageRecord) -> bool:
        """True for an exchange that shall be estimated as well."""

    async def compare(self, record: UsageRecord, facts: ExchangeFacts, reading: Reading, sent: Sent) -> None:
        """Estimate a reported exchange, and learn."""

    def note(self, record: UsageRecord) -> None:
        """Look at a record."""


class Caps(NamedTuple):
    """How long, and to how many output tokens, an exchange is read on whose client is gone."""

    seconds: float
    tokens: int


class Lease(Protocol):
    """A place under a limit, see `key_limits.Lease`."""

    async def release(self) -> None:
        """Give it back. Never raises, and returns soon."""


class Maker(NamedTuple):
    """What makes records, what it asks first, and what runs both when that takes time."""

    make_record: RecordMaker
    estimates: Estimates
    later: Callable[[Coroutine[None, None, None]], "asyncio.Task[None]"]


def outcome_of(error: RelayError) -> Outcome:
    """How an exchange ended that we answered ourselves."""
    if error.status == 504:
        return Outcome.TIMED_OUT
    return Outcome.UPSTREAM_DISCONNECTED if error.status == 502 else Outcome.REFUSED


class Exchange:
    """The state of one exchange. `end` writes the record; every later call of it changes nothing."""

    __slots__ = (
        "_clock",
        "_first_chunk_after_s",
        "_first_chunk_s",
        "_keeper",
        "_maker",
        "_meter",
        "_started_s",
        "_status",
        "asked",
        "body",
        "caps",
        "draining",
        "exchange_id",
        "is_answered",
        "is_reserved",
        "lease",
        "recorded",
        "refused_by",
        "request",
        "reserved",
        "sent",
        "settling",
        "start_s",
        "upstream",
    )

    def __init__(
        self,
        exchange_id: str,
        *,
        upstream: str,
        asked: Asked,
        request: RequestFacts,
        clock: Clock,
        keeper: KeepsRecords,
        maker: Maker,
        caps: Caps | None = None,
    ) -> None:
        self.exchange_id = exchange_id
        self.request = request
        self.sent = False
        self.recorded = False
        self.caps = caps
        self.draining = False
        self.body = Sent()
        self.settling: asyncio.Task[None] | None = None
        self.lease: Lease | None = None  # given back when the exchange ends
        self.upstream = upstream
        self.asked = asked
        self.reserved: tuple[Share, ...] = ()
        self.is_reserved = False
        self.refused_by = ""
        self._clock = clock
        self._keeper = keeper
        self._maker = maker
        self._meter: Meter | None = None
        self._status = 0
        self.is_answered = False
        self.start_s = clock.wall_s()
        self._started_s = clock.monotonic_s()
        self._first_chunk_s = 0.0
        self._first_chunk_after_s = 0.0

    def __repr__(self) -> str:
        return f"<Exchange {self.exchange_id} {self.request.api} status={self._status} recorded={self.recorded}>"

    def goes_to(self, upstream: str, maker: Maker, caps: Caps | None) -> None:
        """The upstream that will answer, once the model asked for is known."""
        self.upstream, self._maker, self.caps = upstream, maker, caps

    def begin(self) -> None:
        """Mark the exchange as begun: from here on it may cost something. Raises RelayError where it may not begin."""
        mark = BegunMark(
            exchange_id=self.exchange_id,
            start_s=self.start_s,
            api=self.request.api,
            model=self.request.model,
            app=self.asked.app,
            body_bytes=self.request.body_bytes,
            streamed=self.request.streamed,
            purpose=self.asked.purpose,
            expected_version=self.asked.expected_version,
            upstream=self.upstream,
            reserved=self.reserved,
            payer="" if self.asked.payer == self.asked.app else self.asked.payer,
            budgets=self.asked.budgets,
        )
        try:
            self._keeper.begin(mark)
        except RelayError:
            raise
        except Exception as error:  # noqa: BLE001 - promise 3: what a mark could not be made of is counted
            self._keeper.fault("begin", error)
        self.sent = True

    def answered(self, status: int, content_encoding: str = "") -> None:
        """The head of the upstream's answer came."""
        self.is_answered = True
        self._status = status
        if self.request.api in METERED_APIS:
            self._meter = Meter(self.request.api, content_encoding)

    def refused(self, status: int, *, sent: bool) -> None:
        """The proxy answers in the upstream's place. `sent` is False where the upstream never saw the request."""
        self._status = status
        self.sent = sent

    def feed(self, chunk: bytes) -> bool:
        """Look at a chunk before it is passed on. True if the dialect's own end mark is in what went by so far."""
        if not self._first_chunk_s:
            self._first_chunk_s = self._clock.wall_s()
            self._first_chunk_after_s = self._clock.monotonic_s() - self._started_s
        meter = self._meter
        if meter is None:
            return False
        try:
            meter.feed(chunk)
        except Exception as error:  # noqa: BLE001 - promise 3: whatever the meter does, the client's stream goes on
            self._keeper.fault("feed", error)
            meter.give_up(Missing.METER_FAULT)
        return meter.ended

    @property
    def output_deltas(self) -> int:
        """Pieces of output seen so far: at DeepSeek's own host about as many tokens."""
        return 0 if self._meter is None else self._meter.output_deltas

    @property
    def may_report(self) -> bool:
        """True while a usage may still come: not for what costs no tokens, an error, or what the meter cannot read."""
        if not self.is_answered:
            return self.request.api in METERED_APIS
        return self._meter is not None and self._status < HTTP_ERRORS and not self._meter.gave_up

    def end(self, outcome: Outcome) -> None:
        """Write the record, as of now; where something has to be counted first, `settling` is the task that does both.

        Only the first call counts.
        """
        if self.recorded:
            return
        self.recorded = True
        if outcome is Outcome.COMPLETE and self._status >= HTTP_ERRORS:
            outcome = Outcome.UPSTREAM_ERROR
        facts, reading = self._facts(outcome), self._reading()
        need = need_of(facts, reading)
        if need is Need.NOTHING:
            self._write(facts, reading, None)
            if self.lease is not None:
                self.settling = self._maker.later(self.lease.release())
        else:
            self.settling = self._maker.later(self._count_and_write(need, facts, reading))

    async def settled(self) -> None:
        """Wait until the record is written and the lease given back. A wait that is cancelled leaves the writing as it is."""
        if self.settling is not None:
            await asyncio.shield(self.settling)

    def close(self) -> None:
        """Nothing more will come. A usage that came behind the end mark, and so is in no record, is counted."""
        if self._meter is not None and self._meter.reported_late:
            self._keeper.fault("usage_after_end", LateUsageError("a usage came behind the end of its stream"))

    async def _count_and_write(self, need: Need, facts: ExchangeFacts, reading: Reading | None) -> None:
        counted = None
        try:
            counted = await self._maker.estimates.work_out(need, facts, reading, self.body)
        except Exception as error:  # noqa: BLE001 - promise 2: what could not be worked out costs no record
            self._keeper.fault("count", error)
        self._write(facts, reading, counted)
        if self.lease is not None:
            await self.lease.release()

    def _write(self, facts: ExchangeFacts, reading: Reading | None, counted: TokenUsage | None) -> None:
        try:
            record = self._maker.make_record(facts, reading, counted)
            self._keeper.record(record)
            self._look_at(record, facts, reading)
        except Exception as error:  # noqa: BLE001 - promise 3; what a record could not be made of is counted
            self._keeper.fault("record", error)

    def _look_at(self, record: UsageRecord, facts: ExchangeFacts, reading: Reading | None) -> None:
        estimates = self._maker.estimates
        estimates.note(record)
        if reading is not None and estimates.is_sampled(record):
            self._maker.later(estimates.compare(record, facts, reading, self.body))

    def _reading(self) -> Reading | None:
        if self._meter is None:
            return None
        try:
            return self._meter.finish()
        except Exception as error:  # noqa: BLE001 - promise 2: a meter that cannot say what it saw costs no record
            self._keeper.fault("feed", error)
            reading = Reading()
            reading.fault = Missing.METER_FAULT
            return reading

    def _facts(self, outcome: Outcome) -> ExchangeFacts:
        return ExchangeFacts(
            exchange_id=self.exchange_id,
            request=self.request,
            upstream=self.upstream,
            app=self.asked.app,
            purpose=self.asked.purpose,
            expected_version=self.asked.expected_version,
            outcome=outcome,
            status=self._status,
            sent=self.sent,
            answered=self.is_answered,
            start_s=self.start_s,
            end_s=self._clock.wall_s(),
            duration_s=self._clock.monotonic_s() - self._started_s,
            first_chunk_s=self._first_chunk_s,
            first_chunk_after_s=self._first_chunk_after_s,
            payer=self.asked.payer,
            named=self.asked.budgets,
            reserved=self.reserved,
            is_reserved=self.is_reserved,
            refused_by=self.refused_by,
        )
