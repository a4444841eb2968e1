"""A report as JSON, as CSV and in the terminal: exact where machines read, readable where people do, harmless everywhere."""

import csv
import io
import json
import time
from decimal import Decimal

import pytest
from ledger.given import record
from reports.given import keep, made, settings_of

from proxy.report_table import show
from proxy.reports.document import as_csv, as_json
from proxy.reports.figures import Figures, Measured
from proxy.reports.interval import Period
from proxy.reports.report import GROUPS, Report, Row
from proxy.usage import KINDS, Band, Charge, Source, TokenUsage

LARGE = TokenUsage(9_876_543_210, 12_345_678, 3, 4)


@pytest.fixture
def some(shelf):
    """Four records: a plain one, a large one, one estimated at an uncertain price, one without any price."""
    now_s = time.time()
    dear = Charge("USD", "usd-1", Band.UNKNOWN, (1, 2, 3, 4 * 10**15), uncertain_nanos=2)
    keep(
        shelf,
        [
            record(1, pricing_instant_s=now_s),
            record(2, usage=LARGE, app="b", pricing_instant_s=now_s),
            record(3, charges=(dear,), source=Source.ESTIMATED, version="W", pricing_instant_s=now_s),
            record(4, charges=(), version="[red]bare", app='=cmd|"x"!A1', pricing_instant_s=now_s),
        ],
    )
    return lambda **options: made(settings_of(shelf), now_s, **{"currencies": ("USD",), **options})


def test_json_has_the_groups_fields_counts_cost_by_kind_and_a_total(some):
    """Money is decimal text, exact; what has no price has no cost."""
    document = json.loads(as_json(some(by=("version", "app"))))
    rows = {(row["version"], row["app"]): row for row in document["rows"]}

    assert set(document) == {
        "since", "until", "time_zone", "by", "currencies", "pending_records", "notes", "rows", "total"
    }  # fmt: skip
    assert rows["V", "b"] == {
        "version": "V",
        "app": "b",
        "requests": 1,
        "tokens": {**dict(LARGE.by_kind()), "total": LARGE.total},
        "cost": {
            "USD": {
                "input_cache_hit": "0.000000002",
                "input_cache_miss": "0.00000002",
                "output_reasoning": "0",
                "output_answer": "0.000000004",
                "total": "0.000000026",
            }
        },
        "unpriced_tokens": {"USD": 0},
        "sources": {
            "reported": {"requests": 1, "tokens": LARGE.total, "cost": {"USD": "0.000000026"}},
            "estimated": {"requests": 0, "tokens": 0, "cost": {"USD": "0"}},
            "none": {"requests": 0, "tokens": 0, "cost": {"USD": "0"}},
        },
        "uncertain": {"requests": 0, "tokens": 0, "cost": {"USD": "0"}},
        "fixed_cost": None,
    }
    assert rows["[red]bare", '=cmd|"x"!A1']["cost"]["USD"] == dict.fromkeys((*KINDS, "total"))
    assert rows["W", "a"]["sources"]["estimated"]["cost"] == {"USD": "4000000.000000006"}
    assert rows["W", "a"]["uncertain"] == {"requests": 1, "tokens": 16, "cost": {"USD": "4000000.000000006"}}
    assert "version" not in document["total"]
    assert document["total"]["unpriced_tokens"] == {"USD": 19}
    assert sum(Decimal(row["cost"]["USD"]["total"] or 0) for row in rows.values()) == Decimal(
        document["total"]["cost"]["USD"]["total"]
    )


def test_a_row_of_one_kind_has_its_tokens_and_no_exchanges(some, capsys):
    """An exchange is of no kind: adding them up over kinds would count each four times. The total has them."""
    report = some(by=("app", "kind"))
    document = json.loads(as_json(report))
    row = next(row for row in document["rows"] if (row["app"], row["kind"]) == ("b", "output_answer"))
    show(report, 2)

    assert (row["requests"], row["tokens"]) == (None, {"output_answer": 4, "total": 4})
    assert row["cost"] == {"USD": {"output_answer": "0.000000004", "total": "0.000000004"}}
    assert {part["requests"] for part in (*row["sources"].values(), row["uncertain"])} == {None}
    assert document["total"]["requests"] == 4
    assert ["b", "output_answer", "tokens", "4"] in [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("currencies", [("USD",), ("CNY",), ("USD", "CNY")])
def test_currencies_stand_side_by_side(some, currencies):
    """Those asked for, each by itself."""
    document = json.loads(as_json(some(currencies=currencies)))

    for row in (*document["rows"], document["total"]):
        assert tuple(row["cost"]) == tuple(row["unpriced_tokens"]) == currencies


@pytest.mark.parametrize("by", [*((name,) for name in GROUPS), ("hour", "app", "kind"), ("version", "app")])
def test_csv_has_one_header_and_sums_to_the_total(some, by):
    """Whatever it is grouped by; there is no row for the total, and an empty report has the same header."""
    report = some(by=by)
    header, *rows = csv.reader(io.StringIO(as_csv(report)))
    parsed = [dict(zip(header, row, strict=True)) for row in rows]
    empty = some(by=by, since="3h", until="2h")

    assert header[: len(by)] == list(by)
    assert len(header) == len(set(header))
    assert as_csv(empty) == ",".join(header) + "\n"
    assert sum(int(row["tokens_total"]) for row in parsed) == report.total.figures.all().count()
    cost = sum(Decimal(row["cost_usd_total"] or 0) for row in parsed)
    assert cost == Decimal(report.total.figures.all().cost("USD")) / 10**9
    assert ("tokens_output_answer" in header) == ("kind" not in by)
    assert ("until" in header) == bool({"day", "hour"} & set(by))


def test_a_name_that_a_spreadsheet_would_calculate_is_text_there(some):
    """Clients choose the names of apps and models."""
    assert "\"'=cmd|" in as_csv(some(by=("app",)))
    assert json.loads(as_json(some(by=("app",))))["rows"][0]["app"] == '=cmd|"x"!A1'


def test_the_table_fits_and_cuts_no_number(some, capsys):
    """Within 100 characters; numbers to the right, tokens above money; a name is shown as it is."""
    show(some(), 2)
    output = capsys.readouterr().out

    assert max(len(line) for line in output.splitlines()) <= 100
    for text in ("[red]bare", "9,876,543,211", "4,000,000.00", "<0.01", "unpriced", "19 tokens", "an uncertain price"):
        assert text in output
    tokens, money = output.splitlines()[3:5]
    assert (tokens.split()[:3], money.split()[0]) == (["V", "2", "tokens"], "USD")
    assert tokens.rstrip()[-1].isdigit()
    assert len(tokens.rstrip()) == len(money.rstrip())


def test_more_decimals_where_they_are_asked_for(some, capsys):
    """Up to the nano-dollar, which is all there is."""
    show(some(), 9)

    assert "4,000,000.000000006" in capsys.readouterr().out


def test_a_table_that_cannot_fit_is_wider_and_cuts_no_number(capsys):
    """Names are folded before numbers are touched."""
    large = Measured()
    large.requests, large.tokens = 10**9, [10**12 + place for place in range(4)]
    large.nanos = {currency: [4 * 10**16 + place for place in range(4)] for currency in ("USD", "CNY")}
    figures, group = Figures(), {"version": "DeepSeek-V4.1-Flash-1017+r2", "app": "night-shift", "day": "2026-11-24"}
    figures.by_source["estimated"].add(large)
    rows = [Row(group, Period(0, 60), figures, fixed_nanos=10**15), Row({}, Period(0, 60), figures, fixed_nanos=10**15)]
    show(Report(0, 60, "UTC", tuple(group), ("USD", "CNY"), (rows[0],), rows[1], ()), 9)
    output = capsys.readouterr().out

    assert "…" not in output
    for place in range(4):
        assert output.count(f"1,000,000,000,00{place}") == 2
        assert output.count(f"40,000,000.00000000{place}") == 4
    assert output.count("1,000,000.000000000") == 2


def test_an_empty_report_says_so(some, capsys):
    """And what it covers."""
    show(some(since="2026-01-01", until="2026-01-02"), 2)

    assert capsys.readouterr().out.splitlines() == [
        "2026-01-01T00:00:00Z to 2026-01-02T00:00:00Z, time zone UTC",
        "nothing was recorded in this interval",
    ]


def test_without_traffic_the_total_shows_what_is_due_by_the_clock(shelf, capsys):
    """Whatever it is grouped by: nobody asked, and the machines stood there all the same."""
    configured = settings_of(shelf, more="[versions.V.fixed]\ngpu = { usd_per_hour = 2 }")
    report = made(
        configured, time.time(), since="2026-01-01", until="2026-01-02", by=("app", "model"), currencies=("USD",)
    )
    show(report, 2)
    output = capsys.readouterr().out.splitlines()

    assert "nothing was recorded in this interval" in output
    assert [line.split() for line in output if line.startswith("total")] == [
        ["total", "0", "tokens", *"00000", "48.00"]
    ]
