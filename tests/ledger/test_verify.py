"""The books against each other: what is pending, forgotten, double or missing is told, by journal; what is right is fine."""

import pytest
import redis as plain
from ledger.given import Shelf, added, encoded, field, record

from proxy.ledger import embedded
from proxy.ledger.journal import JournalReader, JournalWriter, segments
from proxy.ledger.shipper import JournalShipper
from proxy.ledger.tally import Retention
from proxy.ledger.verify import Refilled, not_counted, refill, verify, written_numbers
from proxy.ledger.watermark import Applied, Watermark
from proxy.verify_command import _wrong

OLD = 4000


def journal(journals, name, *numbers, segment_bytes=4096):
    """A journal with these records, its owner gone."""
    writer = JournalWriter(journals, name, segment_bytes)
    for number in numbers:
        writer.append(encoded(record(number)))
    writer.close()
    return writer.path


def ship(shelf, path, last=10**9):
    async def work(store):
        shipper = JournalShipper(JournalReader(path), store, Retention())
        await shipper.ship(last)
        shipper.close()

    shelf.run(work)


def found(shelf, journals):
    findings = shelf.run(lambda store: verify(store, journals))
    return findings, {one.journal: one for one in findings.journals}


def test_books_that_agree_are_fine(shelf, tmp_path):
    """Several journals, some recovered, and one that is gone from the disk."""
    for name, numbers in (("a", range(1, 30)), ("a.recovered", range(30, 33)), ("gone", range(40, 45))):
        ship(shelf, journal(tmp_path, name, *numbers))
    for _, file in list(segments(tmp_path / "gone")):
        file.unlink()
    (tmp_path / "gone").rename(tmp_path / ".gone")
    findings, _ = found(shelf, tmp_path)

    assert findings.fine
    assert [one.last for one in findings.journals] == [29, 3]


def test_what_is_pending_is_told(shelf, tmp_path):
    """Written and not applied."""
    ship(shelf, journal(tmp_path, "a", *range(1, 30)), last=20)
    findings, by_name = found(shelf, tmp_path)

    assert not findings.fine
    assert (by_name["a"].pending, by_name["a"].off, findings.totals_off) == (9, {}, {})


def test_what_the_store_forgot_is_told(shelf, tmp_path):
    """Applied once, and not any more."""
    path = journal(tmp_path, "a", 1, 2, 3)
    ship(shelf, path)
    shelf.restore({})
    _, by_name = found(shelf, tmp_path)

    assert by_name["a"].forgotten == 3


def test_what_is_not_in_the_counters_is_told_without_reading_the_sums(shelf, tmp_path):
    """Pending and forgotten, by journal; of what was written at a first look, no more is asked for."""
    path = journal(tmp_path, "a", *range(1, 30))
    ship(shelf, path, last=20)
    first_look = written_numbers(tmp_path)
    ship(shelf, journal(tmp_path, "b", 1, 2, 3))

    assert (first_look, written_numbers(tmp_path)) == ({"a": 29}, {"a": 29, "b": 3})
    assert shelf.run(lambda store: not_counted(store, tmp_path)) == {"a": 9}
    ship(shelf, path)
    assert shelf.run(lambda store: not_counted(store, tmp_path)) == {}
    Watermark(tmp_path / "b").write(Applied(1, 5))
    assert shelf.run(lambda store: not_counted(store, tmp_path)) == {"b": 2}
    assert shelf.run(lambda store: not_counted(store, tmp_path, first_look)) == {}


@pytest.mark.parametrize(("records", "word"), [(1, "double: records +1"), (-1, "missing: records -1")])
def test_a_sum_that_differs_is_told_with_its_difference(shelf, tmp_path, records, word):
    """Somebody added to, or took from, what the journal accounts for."""
    path = journal(tmp_path, "a", 1, 2, 3)
    ship(shelf, path)
    shelf.client.hincrby(shelf.key("journal:a"), "records", records)
    shelf.client.hincrby(shelf.key("totals"), field("requests_total", "default", "V", "m", "chat", "complete"), records)
    findings, by_name = found(shelf, tmp_path)

    assert by_name["a"].off == {"records": records}
    assert findings.totals_off == {}
    assert _wrong(by_name["a"]) == word


def test_totals_that_differ_from_the_journals_are_told(shelf, tmp_path):
    """A counter that no journal accounts for."""
    ship(shelf, journal(tmp_path, "a", 1, 2, 3))
    shelf.client.hincrby(
        shelf.key("totals"), field("tokens_total", "default", "V", "m", "output_answer", "reported"), 7
    )
    findings, _ = found(shelf, tmp_path)

    assert findings.totals_off == {"tokens": 7}
    assert not findings.fine


def test_damage_is_told_and_what_follows_it_is_not_missing(shelf, tmp_path):
    """The rest of a damaged segment was entered as lost: the sums agree all the same."""
    path = journal(tmp_path, "a", *range(1, 40))
    (_, first), (second, _), *_ = segments(path)
    first.write_bytes(first.read_bytes().replace(b'"x-2"', b'"x-!"'))
    ship(shelf, path)
    findings, by_name = found(shelf, tmp_path)

    assert "line 2 is damaged" in by_name["a"].damaged
    assert (by_name["a"].off, findings.totals_off, findings.fine) == ({}, {}, False)
    assert shelf.totals()["records_unreplayable_total",] == second - 2


def test_a_journal_whose_beginning_is_gone_is_not_compared(shelf, tmp_path):
    """Retention took it: its sums cannot be told, and that is said."""
    path = journal(tmp_path, "a", *range(1, 40))
    ship(shelf, path)
    next(segments(path))[1].unlink()
    findings, by_name = found(shelf, tmp_path)

    assert findings.fine
    assert not by_name["a"].checked


@pytest.fixture
def own_redis(tmp_path_factory):
    """A Redis that may be wiped."""
    server = embedded.start(tmp_path_factory.mktemp("own"), embedded.find_server())
    with plain.Redis.from_url(server.url) as client:
        yield Shelf(server.url, client, "n")
    server.stop()


def test_a_wiped_store_is_refilled_once(own_redis, tmp_path):
    """Applied records stay gone until `--refill`; that sends again what is kept, once, however often it is called."""
    shelf = own_redis
    path = journal(tmp_path, "a", *range(1, 30))
    ship(shelf, path, last=20)
    mark = Watermark(path).read()
    Watermark(path).write(Applied(mark.epoch - OLD, mark.number, mark.at_s))  # as if the history were old
    shelf.client.flushall()
    ship(shelf, path)
    after_wipe = shelf.totals()
    findings, by_name = found(shelf, tmp_path)
    refilled = [shelf.run(lambda store: refill(store, tmp_path, Retention())) for _ in range(2)]

    assert added(map(record, range(21, 30))) == after_wipe
    assert (findings.fine, by_name["a"].applied) == (True, 29)
    assert refilled[0] == [Refilled("a", 1, 20)]
    assert added(map(record, range(1, 30))) == shelf.totals()
    assert found(shelf, tmp_path)[0].totals_off == {}


def test_a_store_that_lost_its_first_seconds_gets_everything_again(own_redis, tmp_path):
    """A crash soon after the first start takes the epoch with the rest: that is no wipe."""
    shelf = own_redis
    path = journal(tmp_path, "a", *range(1, 30))
    ship(shelf, path)
    shelf.client.flushall()
    ship(shelf, path)

    assert added(map(record, range(1, 30))) == shelf.totals()
    assert found(shelf, tmp_path)[0].fine


def test_what_came_after_the_first_look_is_not_pending(shelf, tmp_path):
    """A busy installation always has something on its way; what was there at first has to arrive."""
    path = journal(tmp_path, "a", *range(1, 30))
    ship(shelf, path, last=20)
    first, _ = found(shelf, tmp_path)
    journal(tmp_path, "b", 50, 51)
    ship(shelf, path)
    later = shelf.run(lambda store: verify(store, tmp_path, first))

    assert [one.pending for one in first.journals] == [9]
    assert [(one.journal, one.last, one.pending) for one in later.journals] == [("a", 29, 0), ("b", 2, 0)]
    assert later.fine
