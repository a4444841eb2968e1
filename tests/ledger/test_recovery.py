"""What was open when a process died."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger.given import encoded, record, recovered

from proxy.ledger.journal import JournalReader, JournalWriter, segments
from proxy.ledger.recovery import interrupted, recover
from proxy.usage import Api, BegunMark


def mark(name, start_s=1000.0):
    return BegunMark(name, start_s, Api.CHAT, "m", "a", 100)


def ids(journal):
    """The exchange ids in a journal, by their numbers."""
    reader = JournalReader(journal)
    entries = reader.read(1, 10**9, 10**9)
    reader.close()
    return {entry.number: entry.payload.split(b'"exchange_id":"')[1].split(b'"')[0].decode() for entry in entries}


@given(
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60), size=st.sampled_from([200, 900, 10**6])
)
def test_begun_and_not_ended_is_found_however_long_the_journal_is(steps, size):
    """Whatever begins and ends in whatever order, over any number of segments: exactly what is open is found."""
    opened, number = [], 0
    with tempfile.TemporaryDirectory() as folder:
        writer = JournalWriter(Path(folder), "one", size)
        for begins, which in steps:
            if begins or not opened:
                number += 1
                opened.append(f"x-{number}")
                writer.begin(opened[-1], encoded(mark(opened[-1])))
            else:
                name = opened.pop(which % len(opened))
                writer.append(encoded(record(1, exchange_id=name)), name)
        writer.close()
        found, _ = interrupted(writer.path)

    assert sorted(one.exchange_id for one in found) == sorted(opened)


def test_recovering_twice_gives_the_same_journal(tmp_path):
    """The numbers are a pure function of the sealed journal; its newest instant stands for the unknown end."""
    writer = JournalWriter(tmp_path, "one", 10**6)
    for name, start_s in (("b", 1005.0), ("a", 1001.0), ("x-1", 1002.0)):
        writer.begin(name, encoded(mark(name, start_s)))
    writer.append(encoded(record(1, end_s=1009.0)), "x-1")
    writer.close()
    counts = [recover(writer.path, recovered, 10**6)]
    journal = tmp_path / "one.recovered"
    first = next(segments(journal))[1].read_bytes()
    for left in (journal, writer.path / "recovered"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    counts.append(recover(writer.path, recovered, 10**6))
    counts.append(recover(writer.path, recovered, 10**6))

    assert counts == [2, 2, 0]
    assert first == next(segments(journal))[1].read_bytes()
    assert ids(journal) == {1: "b", 2: "a"}
    assert b'"end_s":1009.0' in first


@pytest.mark.parametrize("dies_at", ["mkdir", "append", "rename"])
def test_an_adopter_that_dies_in_the_middle_leaves_nothing_half_done(tmp_path, monkeypatch, dies_at):
    """The next one begins anew; the recovered journal is there whole or not at all."""
    writer = JournalWriter(tmp_path, "one", 10**6)
    writer.begin("a", encoded(mark("a")))
    writer.close()

    class DiedError(Exception):
        pass

    def die(*_arguments, **_named):
        raise DiedError

    with monkeypatch.context() as patched:
        place = JournalWriter if dies_at == "append" else Path
        patched.setattr(place, dies_at, die)
        with pytest.raises(DiedError):
            recover(writer.path, recovered, 10**6)
    halfway = (tmp_path / "one.recovered").exists()
    recover(writer.path, recovered, 10**6)

    assert not halfway
    assert ids(tmp_path / "one.recovered") == {1: "a"}


def test_nothing_open_makes_no_journal(tmp_path):
    """And a recovered journal is never recovered from."""
    writer = JournalWriter(tmp_path, "one", 10**6)
    writer.append(encoded(record(1)))
    writer.close()

    assert recover(writer.path, recovered, 10**6) == 0
    assert not (tmp_path / "one.recovered").exists()


def test_a_power_loss_anywhere_in_the_last_4_kib_invents_nothing(tmp_path):
    """The file cut at every byte: whole lines are read as they were written, what is behind the cut is gone, no more."""
    writer = JournalWriter(tmp_path, "one", 10**6)
    lines = []
    for number in range(1, 30):
        writer.begin(f"x-{number}", encoded(mark(f"x-{number}")))
        if number % 4:
            lines.append(encoded(record(number)))
            writer.append(lines[-1], f"x-{number}")
    writer.close()
    file = next(segments(writer.path))[1]
    whole = file.read_bytes()
    begun = {number: f"x-{number}" for number in range(1, 30)}
    for cut in range(max(len(whole) - 4096, 0), len(whole) + 1):
        file.write_bytes(whole[:cut])
        reader = JournalReader(writer.path)
        entries = reader.read(1, 10**9, 10**9)
        reader.close()
        opened, _ = interrupted(writer.path)

        assert [entry.payload for entry in entries] == lines[: len(entries)]
        assert len(entries) == sum(line in whole[:cut] and whole.find(line) + len(line) < cut for line in lines)
        assert {one.exchange_id for one in opened} <= set(begun.values())
        kept = {entry.payload.split(b'"exchange_id":"')[1].split(b'"')[0].decode() for entry in entries}
        assert not {one.exchange_id for one in opened} & kept
