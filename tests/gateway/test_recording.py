import msgspec
import pytest
from pricing.given import SMALL, at

from proxy.gateway.recording import (
    NO_MODEL,
    NO_VERSION,
    ExchangeFacts,
    Pricing,
    interrupted_record,
    make_record,
)
from proxy.metering.meter import Meter
from proxy.metering.reading import Reading
from proxy.metering.request import RequestFacts
from proxy.metering.usage_report import UsageReport
from proxy.pricing.budgets import Budget
from proxy.pricing.catalog import parse_catalog
from proxy.usage import Api, BegunMark, How, Missing, Outcome, Purpose, Rule, Source, TokenUsage

PRICING = Pricing(parse_catalog(SMALL))
START_S = at("2026-01-15T12:00:00Z")  # a flat price: 1000 nano-dollars a prompt token, 2000 an output token

REPORTED = TokenUsage(0, 10, 2, 3)
SO_FAR = TokenUsage(0, 30, 2, 2)  # 100 bytes of prompt; two deltas of reasoning, its end, and one of answer
ONLY_ASKED = TokenUsage(0, 30, 0, 0)

COST = {REPORTED: 20_000, SO_FAR: 38_000, ONLY_ASKED: 30_000, None: None}


def facts(outcome=Outcome.COMPLETE, status=200, *, sent=True, answered=True, api=Api.CHAT, model="a", **changes):
    fields = {
        "exchange_id": "x-1",
        "request": RequestFacts(api, model, body_bytes=100),
        "upstream": "default",
        "app": "team",
        "purpose": Purpose.VALIDATION,
        "expected_version": "B",
        "outcome": outcome,
        "status": status,
        "sent": sent,
        "answered": answered,
        "start_s": START_S,
        "end_s": START_S + 5,
        "duration_s": 5.0,
        "first_chunk_s": START_S + 1,
        "first_chunk_after_s": 1.0,
    }
    return ExchangeFacts(**{**fields, **changes})


def reading(report=None, *, fault=None, deltas=(0, 0)):
    seen = Reading()
    seen.report, seen.fault = report and UsageReport(report), fault
    seen.reasoning_deltas, seen.answer_deltas = deltas
    return seen


WHOLE, SILENT = reading(REPORTED), reading(deltas=(2, 1))
SPOILT, BY_OURSELVES = (
    reading(fault=Missing.BROKEN_USAGE, deltas=(2, 1)),
    reading(fault=Missing.METER_FAULT, deltas=(2, 1)),
)


@pytest.mark.parametrize(
    ("given", "seen", "source", "missing", "usage"),
    [
        (facts(), WHOLE, Source.REPORTED, None, REPORTED),
        (facts(Outcome.CLIENT_DISCONNECTED), WHOLE, Source.REPORTED, None, REPORTED),
        (facts(Outcome.UPSTREAM_DISCONNECTED), WHOLE, Source.REPORTED, None, REPORTED),
        (facts(Outcome.UPSTREAM_ERROR, 500), WHOLE, Source.REPORTED, None, REPORTED),
        (facts(), SILENT, Source.ESTIMATED, Missing.NOT_REPORTED, SO_FAR),
        (facts(), SPOILT, Source.ESTIMATED, Missing.BROKEN_USAGE, SO_FAR),
        (facts(), BY_OURSELVES, Source.ESTIMATED, Missing.METER_FAULT, SO_FAR),
        (facts(Outcome.CLIENT_DISCONNECTED), SILENT, Source.ESTIMATED, Missing.DISCONNECTED, SO_FAR),
        (facts(Outcome.UPSTREAM_DISCONNECTED), SILENT, Source.ESTIMATED, Missing.DISCONNECTED, SO_FAR),
        (facts(Outcome.TIMED_OUT), SILENT, Source.ESTIMATED, Missing.DISCONNECTED, SO_FAR),
        (
            facts(Outcome.CLIENT_DISCONNECTED, 0, answered=False),
            None,
            Source.ESTIMATED,
            Missing.DISCONNECTED,
            ONLY_ASKED,
        ),
        (facts(Outcome.TIMED_OUT, 504, answered=False), None, Source.ESTIMATED, Missing.DISCONNECTED, ONLY_ASKED),
        (
            facts(Outcome.UPSTREAM_DISCONNECTED, 502, answered=False),
            None,
            Source.ESTIMATED,
            Missing.DISCONNECTED,
            ONLY_ASKED,
        ),
        (facts(Outcome.UPSTREAM_DISCONNECTED, 502, sent=False, answered=False), None, Source.NONE, None, None),
        (facts(Outcome.CLIENT_DISCONNECTED, 0, sent=False, answered=False), None, Source.NONE, None, None),
        (facts(Outcome.REFUSED, 413, sent=False, answered=False), None, Source.NONE, None, None),
        (facts(Outcome.UPSTREAM_ERROR, 400), SILENT, Source.NONE, None, None),
        (facts(Outcome.UPSTREAM_ERROR, 402), reading(), Source.NONE, None, None),
        (facts(Outcome.UPSTREAM_ERROR, 503), reading(), Source.NONE, None, None),
        (facts(Outcome.CLIENT_DISCONNECTED, 429), SILENT, Source.NONE, None, None),
        (facts(api=Api.MODELS), None, Source.NONE, None, None),
        (facts(Outcome.CLIENT_DISCONNECTED, api=Api.FILES), None, Source.NONE, None, None),
    ],
)
def test_where_the_counts_of_a_record_come_from(given, seen, source, missing, usage):
    """Reported where the provider reported; estimated where something may have been billed; else none, and no cost."""
    made = make_record(given, seen, pricing=PRICING)
    costs = [charge.total_nanos for charge in made.charges]

    assert (source, missing, usage) == (made.source, made.missing, made.usage)
    assert [COST[usage]] * (usage is not None) == costs
    assert (given.outcome, given.status) == (made.outcome, made.status)


CUT = [b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"choices":[{"de', b'{"id":"1","choices":[{"mess']
CUT_AT_USAGE = (
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"choices":[{"delta":{"content":"b"}}],"usage":nu'
)


@pytest.mark.parametrize("body", [*CUT, CUT_AT_USAGE])
@pytest.mark.parametrize("outcome", [Outcome.CLIENT_DISCONNECTED, Outcome.UPSTREAM_DISCONNECTED, Outcome.TIMED_OUT])
def test_a_body_that_breaks_off_is_called_disconnected(body, outcome):
    """Wherever it was cut: the half document at its end is no broken usage and no unreadable body."""
    meter = Meter(Api.CHAT)
    meter.feed(body)

    assert make_record(facts(outcome), meter.finish(), pricing=PRICING).missing is Missing.DISCONNECTED


@pytest.mark.parametrize(("instant", "price_id"), [("end", "a-usd-peak"), ("start", "a-usd-flat")])
def test_the_configured_instant_decides_the_price(instant, price_id):
    """An exchange over a change of price is charged by the instant that is set; both are kept."""
    given = facts(start_s=at("2026-01-31T23:59:58Z"), end_s=at("2026-02-01T00:00:03Z"))
    made = make_record(given, WHOLE, pricing=Pricing(PRICING.catalog, instant))

    assert [price_id] == [charge.price_id for charge in made.charges]
    assert (given.start_s, given.end_s) == (made.start_s, made.end_s)
    assert made.pricing_instant_s == (given.end_s if instant == "end" else given.start_s)


def test_a_version_without_a_price_is_not_charged():
    """Tokens of an unheard-of model are kept and cost nothing known, which is not 0."""
    made = make_record(facts(model="someone/unheard-of"), WHOLE, pricing=PRICING)

    assert (made.usage, made.charges, made.version, made.how) == (REPORTED, (), "unheard-of", How.REQUESTED_NAME)


def test_an_exchange_that_asks_no_model_has_no_version():
    """Model list, balance and files stand under names of their own, whatever their bodies hold."""
    made = make_record(facts(api=Api.BALANCE, model=""), None, pricing=PRICING)

    assert (made.model, made.version, made.how, made.charges) == (NO_MODEL, NO_VERSION, How.UNKNOWN, ())


def test_what_was_seen_and_said_is_in_the_record():
    """Names, labels, times and the broken rules, cleaned where they come from outside."""
    seen = reading()
    seen.report = UsageReport(REPORTED, (Rule.TOTAL_SUM,), '{"total_tokens":1}')
    seen.served_model, seen.fingerprint, seen.finish_reason, seen.streamed = "a\n", "fp_0123456789_x", "stop" * 99, True
    made = make_record(facts(), seen, pricing=PRICING)

    assert (made.served_model, made.fingerprint, made.finish_reason) == ("a?", "fp_0123456789_x", "stop" * 32)
    assert (made.version, made.how, made.expected_version, made.app) == ("A", How.FINGERPRINT, "B", "team")
    assert (made.violations, made.reported_usage) == ((Rule.TOTAL_SUM,), '{"total_tokens":1}')
    assert (
        made.purpose,
        made.streamed,
        made.duration_s,
        made.first_chunk_after_s,
    ) == (Purpose.VALIDATION, True, 5.0, 1.0)


def test_an_interrupted_exchange_counts_in_the_budgets_that_its_key_names():
    """The mark carries them: what a dead worker left open is in no other book."""
    named, other = (Budget(name, 10**12, "USD", for_keys=True) for name in ("named", "other"))
    mark = BegunMark("x", START_S, Api.CHAT, "a", "team", 4000, budgets=("named",))
    found = interrupted_record(mark, START_S + 1, msgspec.structs.replace(PRICING, budgets=(named, other)))

    assert [share.budget for share in found.shares] == ["named"]
    assert found.shares[0].taken_nanos > 0
