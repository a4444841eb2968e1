"""One exchange while it is under way: its times, its meter and, exactly once, its record.

Knows no HTTP library: the relay tells it what happened in plain values. Nothing here raises into the relay: a fault of
metering is counted, and the stream goes on.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from proxy.errors import RelayError
from proxy.gateway.recording import ExchangeFacts, RecordMaker
from proxy.metering.meter import Meter
from proxy.metering.reading import Reading
from proxy.metering.request import RequestFacts
from proxy.usage import METERED_APIS, BegunMark, Missing, Outcome, Purpose, UsageRecord

HTTP_ERRORS: Final = 400


class Asked(NamedTuple):
    """What the client said about an exchange, beside its request."""

    app: str
    purpose: Purpose
    expected_version: str


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


class Exchange:
    """The state of one exchange. `end` writes the record; every later call of it changes nothing."""

    __slots__ = (
        "_answered",
        "_asked",
        "_clock",
        "_first_chunk_after_s",
        "_first_chunk_s",
        "_keeper",
        "_make_record",
        "_meter",
        "_start_s",
        "_started_s",
        "_status",
        "_upstream",
        "exchange_id",
        "recorded",
        "request",
        "sent",
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
        make_record: RecordMaker,
    ) -> None:
        self.exchange_id = exchange_id
        self.request = request
        self.sent = False
        self.recorded = False
        self._upstream = upstream
        self._asked = asked
        self._clock = clock
        self._keeper = keeper
        self._make_record = make_record
        self._meter: Meter | None = None
        self._status = 0
        self._answered = False
        self._start_s = clock.wall_s()
        self._started_s = clock.monotonic_s()
        self._first_chunk_s = 0.0
        self._first_chunk_after_s = 0.0

    def __repr__(self) -> str:
        return f"<Exchange {self.exchange_id} {self.request.api} status={self._status} recorded={self.recorded}>"

    def begin(self) -> None:
        """Mark the exchange as begun: from here on it may cost something. Raises RelayError where it may not begin."""
        mark = BegunMark(
            exchange_id=self.exchange_id,
            start_s=self._start_s,
            api=self.request.api,
            model=self.request.model,
            app=self._asked.app,
            body_bytes=self.request.body_bytes,
            streamed=self.request.streamed,
            purpose=self._asked.purpose,
            expected_version=self._asked.expected_version,
            upstream=self._upstream,
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
        self._answered = True
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

    def end(self, outcome: Outcome) -> None:
        """Write the record, as of now. Only the first call counts."""
        if self.recorded:
            return
        self.recorded = True
        if outcome is Outcome.COMPLETE and self._status >= HTTP_ERRORS:
            outcome = Outcome.UPSTREAM_ERROR
        try:
            self._keeper.record(self._make_record(self._facts(outcome), self._reading()))
        except Exception as error:  # noqa: BLE001 - promise 3; what a record could not be made of is counted
            self._keeper.fault("record", error)

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
            upstream=self._upstream,
            app=self._asked.app,
            purpose=self._asked.purpose,
            expected_version=self._asked.expected_version,
            outcome=outcome,
            status=self._status,
            sent=self.sent,
            answered=self._answered,
            start_s=self._start_s,
            end_s=self._clock.wall_s(),
            duration_s=self._clock.monotonic_s() - self._started_s,
            first_chunk_s=self._first_chunk_s,
            first_chunk_after_s=self._first_chunk_after_s,
        )
