"""The short form of `make chaos`: every fault once, a fixed seed. And the audit itself, which has to be able to say no."""

import asyncio
import sys

import msgspec
import pytest
from chaos.audit import Row, Slot, rows, totals_off
from chaos.clients import Seen
from chaos.faults import FAULTS
from chaos.run import Plan, run
from ledger.given import added, record

from proxy.usage import Outcome

SEED = 20261124
ENTRY = {
    "tokens": {"input_cache_hit": 1, "input_cache_miss": 2, "output_reasoning": 3, "output_answer": 4},
    "cost_nano_usd": {"input_cache_hit": 1, "input_cache_miss": 20, "output_reasoning": 0, "output_answer": 4},
}


def test_nothing_is_lost_or_double_whatever_is_killed(tmp_path, capsys):
    """Workers, the service and Redis, killed, stopped, paused, cut off and rolled back under traffic."""
    result = asyncio.run(run(tmp_path, Plan(SEED, seconds=1, clients=16, recovery_s=0.6, prometheus=False)))
    counts = f"{result.killed} processes killed, {sum(row.exchanges for row in result.rows)} exchanges"
    with capsys.disabled():  # the seed belongs into the log
        sys.stdout.write(f" seed {SEED}: {counts} ")

    assert [row.fault for row in result.rows if not row.clean] == []
    assert {row.fault for row in result.rows} == {fault.name for fault in FAULTS}
    assert (result.totals_off, result.verify) == (0, "fine")
    assert result.killed > len(FAULTS)
    assert sum(row.ended for row in result.rows) > 100
    assert sum(row.interrupted for row in result.rows) > 0


def audited(*records, seen=None, entry=ENTRY):
    """The row of one exchange whose client saw its end, and these records of it."""
    one = seen or Seen("t", 5.0, status=200, ended=True)
    billed = [{**entry, "tag": "t"}] if entry else []
    return rows(
        [Slot("f", 0.0)], [one], billed, [msgspec.structs.replace(each, expected_version="t") for each in records]
    )[0]


def test_the_audit_finds_nothing_where_the_books_agree():
    """One exchange, one record, the same tokens, the same cost."""
    assert audited(record(1)) == Row("f", exchanges=1, ended=1)


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ((), {"lost": 1}),
        ((record(1), record(1)), {"double": 1, "ended": 1}),
        ((record(2),), {"ended": 1, "tokens_off": 3, "cost_off_nanos": 1}),
        ((record(1, outcome=Outcome.INTERRUPTED, usage=None, charges=()),), {"ended": 1, "interrupted": 1, "tokens_off": 10, "cost_off_nanos": 25}),
    ],
)  # fmt: skip
def test_the_audit_finds_what_is_wrong(records, found):
    """A record that is missing, one too many, other tokens, or a record that does not know the end its client saw."""
    row = audited(*records)

    assert row == Row("f", exchanges=1, **found)
    assert not row.clean


def test_what_never_reached_the_simulator_needs_no_record():
    """But more than one is too many all the same."""
    assert audited(entry=None).clean
    assert audited(record(1), record(1), entry=None).double == 1


def test_the_counters_are_held_against_the_records():
    """A counter that is one off is seen."""
    totals = added([record(1), record(2)])
    key = ("tokens_total", "default", "V", "m", "output_answer", "reported")

    assert totals_off([record(1), record(2)], totals) == 0
    assert totals_off([record(1), record(2)], totals | {key: totals[key] + 1}) == 1
