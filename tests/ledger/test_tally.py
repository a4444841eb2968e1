import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger.given import NOW_S, added, all_additions, record, records, totals_of

from proxy.ledger.families import DURATION_BUCKETS_S, FAMILIES, field_of, parse_field, series_field
from proxy.ledger.tally import DAY_S, HOUR_S, Retention, fold, quarantine, rollup_hash, spend_hash, unreplayable
from proxy.usage import Band, Charge, Source, TokenUsage

RETENTION = Retention()


def fold_in(found, sizes, retention=RETENTION):
    """The batches of these records, cut where `sizes` say."""
    cuts = sorted({0, len(found), *(size for size in sizes if size < len(found))})
    return [fold("j", start + 1, found[start:end], retention) for start, end in pairwise(cuts)]


@settings(max_examples=50)
@given(found=st.lists(records, min_size=1, max_size=12), sizes=st.lists(st.integers(1, 11)))
def test_how_records_are_batched_makes_no_difference(found, sizes):
    """Any split into batches adds up to the same fields of the same hashes, and numbers the records one by one."""
    batches = fold_in(found, sizes)

    assert all_additions([fold("j", 1, found, RETENTION)]) == all_additions(batches)
    assert [number for batch in batches for number in range(batch.first, batch.last + 1)] == [*range(1, len(found) + 1)]
    assert [one.exchange_id for one in found] == [name for batch in batches for name, _ in batch.records]


@settings(max_examples=50)
@given(found=st.lists(records, max_size=12))
def test_totals_are_the_plain_sums_of_the_records(found):
    """Every counter is what one gets by adding the records up by hand; nothing else is in the totals."""
    assert added(found) == totals_of(fold("j", 1, found, RETENTION).additions[0].fields)


def test_a_zero_is_not_written():
    """An exchange that used nothing and cost nothing is counted, and adds no field of 0 anywhere."""
    nothing = Charge("USD", "usd-1", Band.FLAT, (0, 0, 0, 0))
    batch = fold("j", 1, [record(usage=TokenUsage(), charges=(nothing,))], RETENTION)

    assert [one for addition in batch.additions for one in addition.fields.items() if not one[1]] == []
    assert batch.sums == {"records": 1}


@settings(max_examples=50)
@given(found=st.lists(records, max_size=12))
def test_every_total_is_a_series_of_the_table(found):
    """A field names a family of the table and has its labels; a histogram's field has its part behind them."""
    for name in fold("j", 1, found, RETENTION).additions[0].fields:
        family, labels = parse_field(name)
        parts = 1 if FAMILIES[family].buckets else 0

        assert len(FAMILIES[family].labels) + parts == len(labels)


@settings(max_examples=50)
@given(found=st.lists(records, max_size=12))
def test_running_sums_agree_with_the_totals(found):
    """What `verify` compares is the sum over the totals' families."""
    batch = fold("j", 1, found, RETENTION)
    totals = totals_of(batch.additions[0].fields)
    families = {
        "records": "requests_total",
        "tokens": "tokens_total",
        "nano_usd": "cost_usd_total",
        "nano_cny": "cost_cny_total",
    }
    expected = {name: sum(v for key, v in totals.items() if key[0] == family) for name, family in families.items()}

    assert {name: value for name, value in expected.items() if value} == batch.sums


@settings(max_examples=50)
@given(found=st.lists(records, min_size=1, max_size=12))
def test_every_rollup_adds_up_to_the_totals(found):
    """Minutes, hours and days hold the same exchanges and tokens; a bucket holds those priced inside it."""
    batch = fold("j", 1, found, RETENTION)
    tokens = sum(one.usage.total for one in found if one.usage)
    for granularity in ("minute", "hour", "day"):
        mine = [addition for addition in batch.additions if addition.hash.startswith(f"rollup:{granularity}:")]

        assert len(found) == sum(value for one in mine for name, value in one.fields.items() if name.endswith("]n"))
        assert tokens == sum(value for one in mine for name, value in one.fields.items() if name[-3:-1] == "]t")


def test_rollups_are_named_by_the_start_of_their_bucket_and_end_in_time():
    """A record of 02:30:59 goes into the minute, the hour and the day that hold it (UTC), each with its retention."""
    batch = fold("j", 1, [record(pricing_instant_s=NOW_S + 30 * 60 + 59.9)], Retention(minutes_s=100, hours_s=200))
    found = {addition.hash: addition.expires_s for addition in batch.additions if addition.hash.startswith("rollup")}
    minute, hour, day = int(NOW_S) + 1800, int(NOW_S), int(NOW_S) - 2 * HOUR_S

    assert {
        f"rollup:minute:{minute}": minute + 60 + 100,
        f"rollup:hour:{hour}": hour + HOUR_S + 200,
        f"rollup:day:{day}": 0,
    } == found
    assert rollup_hash("day", day) in found


def test_a_cell_says_everything_a_report_may_ask():
    """The measures of a rollup stand under the cell: where, what, who, why, how, and at which price."""
    one = record(5)
    fields = fold("j", 1, [one], RETENTION).additions[1].fields
    cell = '["default","V","m","chat","a","production","reported","complete","flat",[["USD","usd-1"],["CNY","cny-1"]]]'
    measures = {"n": 1, "t0": 5, "t1": 10, "t2": 3, "t3": 4, "USD0": 5, "USD1": 20, "USD3": 4, "CNY0": 7, "CNY3": 1}

    assert {f"{cell}{name}": value for name, value in measures.items()} == fields


@pytest.mark.parametrize(
    ("instant", "month", "quarter"),
    [
        (NOW_S, "spend:2026-11", NOW_S),
        (NOW_S + 899.9, "spend:2026-11", NOW_S),
        (NOW_S + 900, "spend:2026-11", NOW_S + 900),
        (1_796_083_199.9, "spend:2026-11", 1_796_083_199 - 899),
        (1_796_083_200.0, "spend:2026-12", 1_796_083_200),
    ],
)
def test_spend_is_kept_by_quarters_of_an_hour(instant, month, quarter):
    """Both currencies, per version, in the hash of the month (UTC) of the instant that decided the price."""
    addition = fold("j", 1, [record(3, pricing_instant_s=instant)], RETENTION).additions[-1]

    assert (month, spend_hash(instant)) == (addition.hash, month)
    assert {("V", "USD", quarter): 27, ("V", "CNY", quarter): 8} == {
        tuple(json.loads(name)): value for name, value in addition.fields.items()
    }
    assert addition.expires_s > instant + 62 * DAY_S


def test_tokens_without_a_price_are_counted_as_such():
    """In a currency without a charge every token is unpriced; in one with a charge, even of nothing, none is."""
    usage = TokenUsage(1, 2, 3, 4)
    free = Charge("USD", "usd-free", Band.FLAT, (0, 0, 0, 0))
    totals = totals_of(fold("j", 1, [record(usage=usage, charges=(free,))], RETENTION).additions[0].fields)
    unpriced = {key[4:]: value for key, value in totals.items() if key[0] == "unpriced_tokens_total"}

    assert unpriced == {
        ("input_cache_hit", "CNY"): 1,
        ("input_cache_miss", "CNY"): 2,
        ("output_reasoning", "CNY"): 3,
        ("output_answer", "CNY"): 4,
    }


def test_large_charges_are_added_exactly():
    """Sums of nano-units are integers to the last digit, beyond what a double can hold."""
    charge = Charge("USD", "usd-1", Band.FLAT, (10**17 + 1, 0, 0, 0))
    fields = fold("j", 1, [record(charges=(charge,))] * 3, RETENTION).additions[0].fields

    assert fields[series_field("app_cost_usd_total", "a", "V")] == 3 * 10**17 + 3


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (0.1, 0), (0.10001, 1), (2.0, 4), (1800.0, 13), (1800.1, 14)]
)
def test_a_duration_falls_into_the_bucket_that_ends_at_or_above_it(seconds, bucket):
    """The bounds are upper ones and belong to their bucket; what is longer than all goes behind the last."""
    fields = fold("j", 1, [record(duration_s=seconds, first_chunk_s=0.0)], RETENTION).additions[0].fields
    found = {key: value for key, value in map(histogram_part, fields.items()) if key}

    assert {("request_duration_seconds", "V", str(bucket)): 1} == {
        key: value for key, value in found.items() if key[-1] != "sum"
    }
    assert found.get(("request_duration_seconds", "V", "sum"), 0) == round(seconds * 1e6)
    assert bucket <= len(DURATION_BUCKETS_S)


def histogram_part(item):
    family, labels = parse_field(item[0])
    return ((family, *labels) if FAMILIES[family].buckets else None), item[1]


def test_an_exchange_without_a_body_has_no_first_chunk():
    """Only where a first byte came is the time to it counted."""
    names = [parse_field(name)[0] for name in fold("j", 1, [record(first_chunk_s=0.0)], RETENTION).additions[0].fields]

    assert "time_to_first_chunk_seconds" not in names
    assert "request_duration_seconds" in names


def test_a_version_is_sighted_where_something_told_it():
    """A served name or a usage is a sighting at the end of the exchange; a request nobody answered is none."""
    unheard = record(served_model="", usage=None, source=Source.NONE, charges=())

    assert fold("j", 1, [unheard], RETENTION).sightings == {}
    assert [*fold("j", 1, [record()], RETENTION).sightings] == ['["V","m","fp","alias"]']


def test_a_record_set_aside_is_counted_and_kept():
    """Quarantine steps over one number, counts one and keeps what was written, readable or not."""
    batch = quarantine("j", 7, b"\xff not a record")

    assert (batch.first, batch.last, batch.quarantined) == (7, 7, ["� not a record"])
    assert {series_field("records_quarantined_total"): 1} == batch.additions[0].fields


def test_records_that_are_gone_are_counted_as_lost():
    """A range whose segments are gone is stepped over as a whole and counted one by one."""
    batch = unreplayable("j", 7, 16)

    assert (batch.first, batch.last, batch.records) == (7, 16, [])
    assert {series_field("records_unreplayable_total"): 10} == batch.additions[0].fields


def test_a_record_is_kept_as_it_was():
    """The newest records go along as JSON that reads back as the record itself."""
    one = record(3, model='quo"te 🚢')
    ((name, text),) = fold("j", 1, [one], RETENTION).records

    assert (one.exchange_id, one) == (name, msgspec.json.decode(text, type=type(one)))


@given(labels=st.lists(st.text(), min_size=3, max_size=3))
def test_a_field_reads_back_as_its_labels(labels):
    """Any label text survives being a field, quotes and brackets too."""
    assert parse_field(series_field("app_tokens_total", *labels)) == ("app_tokens_total", tuple(labels))
    assert parse_field(field_of(("request_duration_seconds", labels[0], "sum"))) == (
        "request_duration_seconds",
        (labels[0], "sum"),
    )


def test_a_field_with_the_wrong_labels_is_refused():
    """A series of a family that does not exist, or with labels too few, cannot be named."""
    with pytest.raises(ValueError, match="takes"):
        series_field("tokens_total", "default")
    with pytest.raises(KeyError):
        series_field("unheard_of_total")
