import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger.journal import (
    MARK,
    JournalDamagedError,
    JournalReader,
    JournalWriter,
    journals_in,
    lock_abandoned,
    readable,
    segments,
)

payloads = st.lists(st.binary(max_size=30).map(lambda payload: payload.replace(b"\n", b" ")), min_size=1, max_size=30)


def written(journals, payloads, segment_bytes=10**6, name="one"):
    """The directory of a journal with these lines, its owner gone."""
    writer = JournalWriter(journals, name, segment_bytes)
    for payload in payloads:
        writer.append(payload)
    writer.close()
    return writer.path


def read(path, first=1, last=10**9, limit=10**6):
    reader = JournalReader(path)
    try:
        return [tuple(entry) for entry in reader.read(first, last, limit)]
    finally:
        reader.close()


def last_number(path):
    reader = JournalReader(path)
    try:
        return reader.last_number()
    finally:
        reader.close()


def one_by_one(path):
    """The entries before the first damage, and the error that names it."""
    reader, found = JournalReader(path), []
    try:
        while entries := reader.read(len(found) + 1, 10**9, 1):
            found += entries
    except JournalDamagedError as error:
        return found, str(error)
    finally:
        reader.close()
    return found, ""


@pytest.fixture
def five(tmp_path):
    """A journal of five lines and its one file."""
    path = written(tmp_path, [b"first", b"second", b"third", b"fourth", b"fifth"])
    return path, next(segments(path))[1]


@given(lines=payloads, segment_bytes=st.sampled_from([1, 40, 10**6]), data=st.data())
def test_what_was_written_is_read_back(lines, segment_bytes, data):
    """Any lines, over any number of segments, come back under their numbers, from wherever they are asked for."""
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), lines, segment_bytes)
        first, last, limit = (data.draw(st.integers(1, len(lines) + 2)) for _ in range(3))
        expected = [entry for entry in enumerate(lines, 1) if first <= entry[0] <= last]

        assert expected[:limit] == read(path, first, last, limit)
        assert len(lines) == last_number(path)


@given(steps=st.lists(st.one_of(st.binary(max_size=30), st.integers(1, 4)), max_size=40))
def test_a_reader_follows_a_writer(steps):
    """A reader that asks while lines are still being written gets each line once, across new segments."""
    with tempfile.TemporaryDirectory() as folder:
        writer = JournalWriter(Path(folder), "one", 60)
        reader, lines, found = JournalReader(writer.path), [], []
        for step in [*steps, 100]:
            if isinstance(step, bytes):
                lines.append(step.hex().encode())
                writer.append(lines[-1])
            else:
                found += reader.read(len(found) + 1, 10**9, step)
        reader.close()
        writer.close()

    assert list(enumerate(lines, 1)) == found


def test_numbers_count_from_one(tmp_path):
    """The first line has number 1, and a line's number is what `append` returns."""
    writer = JournalWriter(tmp_path, "one", 10**6)

    assert [writer.append(b"a"), writer.append(b"b")] == [1, 2]
    assert (writer.number, writer.synced_number) == (2, 0)
    writer.sync()
    assert writer.synced_number == 2
    writer.close()


def test_a_segment_is_named_by_its_first_line(tmp_path):
    """A new file begins when the last has reached its size, under the number of its first line."""
    path = written(tmp_path, [b"x" * 20] * 7, segment_bytes=60)

    assert [(first, file.name) for first, file in segments(path)][:3] == [
        (1, "00000000000000000001.log"),
        (3, "00000000000000000003.log"),
        (5, "00000000000000000005.log"),
    ]
    assert JournalReader(path).first_number() == 1


@pytest.mark.parametrize("segment_bytes", [10**6, 1])
def test_a_torn_last_line_is_dropped(tmp_path, segment_bytes):
    """Wherever the last line was torn, the lines before it are there and the torn one never was."""
    path = written(tmp_path, [b"first", b"second", b"third"], segment_bytes)
    file = [file for _, file in segments(path)][-1]
    whole = file.read_bytes()
    kept = 0 if segment_bytes == 1 else whole.rindex(b"\n", 0, -1) + 1
    for size in range(kept, len(whole)):
        file.write_bytes(whole[:size])

        assert read(path) == [(1, b"first"), (2, b"second")]
        assert last_number(path) == 2


def test_a_journal_without_lines_has_none(tmp_path):
    """Nothing was written: nothing is read, the last number is 0."""
    path = written(tmp_path, [])

    assert (read(path), last_number(path), JournalReader(path).first_number()) == ([], 0, None)


def test_damage_is_named_and_the_file_is_kept(five):
    """Whichever byte before the last line changes: the lines before it are read, the damaged one is named, none is wrong."""
    path, file = five
    whole = file.read_bytes()
    starts = [0] + [at + 1 for at, byte in enumerate(whole) if byte == 10]
    for at in range(starts[4]):
        damaged = sum(start <= at for start in starts)
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        found, error = one_by_one(path)

        assert list(enumerate([b"first", b"second", b"third", b"fourth"][: damaged - 1], 1)) == found
        assert f"{file}: line {damaged} is damaged" in error
    assert len(file.read_bytes()) == len(whole)


def test_a_line_that_is_missing_is_damage(five):
    """A line cut out of the middle is noticed by the number of the next."""
    path, file = five
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2] + lines[3:]))

    assert "line 3 is damaged" in one_by_one(path)[1]


def test_what_stands_before_the_damage_is_read(five):
    """However many lines are asked for at once, those before the damaged one are given out."""
    path, file = five
    file.write_bytes(file.read_bytes().replace(b"fourth", b"f0urth"))

    assert read(path, limit=128) == [(1, b"first"), (2, b"second"), (3, b"third")]


def test_damage_stays_damage(five):
    """A reader that is asked again says again that the line is damaged, and does not pass over it."""
    path, file = five
    file.write_bytes(file.read_bytes().replace(b"third", b"th1rd"))
    reader = JournalReader(path)
    for _ in range(5):
        with pytest.raises(JournalDamagedError, match="line 3"):
            reader.read(3, 10, 128)
    reader.close()


@pytest.mark.parametrize("fault", ["raises", "writes half and raises", "writes half"])
@pytest.mark.parametrize("before", [0, 3])
def test_a_failed_write_leaves_no_trace(tmp_path, monkeypatch, fault, before):
    """After a write that failed or fell short the file is as it was, and the next line gets the same number."""
    writer = JournalWriter(tmp_path, "one", 10**6)
    for number in range(before):
        writer.append(b"line %d" % number)
    real = os.write

    def failing(fd, line):
        if fault != "raises":
            real(fd, line[: len(line) // 2])
        if fault == "writes half":
            return len(line) // 2
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("proxy.ledger.journal.os.write", failing)
        with pytest.raises(OSError, match=r"No space|disk full"):
            writer.append(b"lost")

    assert writer.number == before
    assert before == len(read(writer.path))
    assert writer.append(b"next") == before + 1
    writer.close()
    assert (before + 1, b"next") == read(writer.path)[-1]


def test_a_segment_that_cannot_be_made_leaves_no_trace(tmp_path, monkeypatch):
    """Where a new file is refused, the line was not written and is once files can be made again."""
    writer = JournalWriter(tmp_path, "one", 1)
    writer.append(b"a")
    real = os.open

    def refusing(path, flags, *more):
        if flags & os.O_CREAT:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, flags, *more)

    with monkeypatch.context() as patched:
        patched.setattr("proxy.ledger.journal.os.open", refusing)
        with pytest.raises(OSError, match="Too many"):
            writer.append(b"b")

    assert writer.append(b"b") == 2
    writer.close()
    assert read(writer.path) == [(1, b"a"), (2, b"b")]


def test_what_was_not_forced_to_the_disk_is_not_called_synced(tmp_path, monkeypatch):
    """A finished segment whose fsync failed is forced again before its lines count as synced."""
    writer, synced, failing = JournalWriter(tmp_path, "one", 1), [], [True]
    writer.append(b"a")
    first = writer._fd
    writer.append(b"b")

    def fsync(fd):
        if fd == first and failing:
            failing.clear()
            raise OSError(errno.EIO, "Input/output error")
        synced.append(fd)

    monkeypatch.setattr("proxy.ledger.journal.os.fsync", fsync)
    with pytest.raises(OSError, match="Input/output"):
        writer.sync()
    before = writer.synced_number
    writer.sync()
    writer.close()

    assert before == 0
    assert first in synced


def test_a_journal_has_one_owner(tmp_path):
    """While its writer lives nobody else gets the lock or the name; behind it exactly one adopts."""
    writer = JournalWriter(tmp_path, "one", 10**6)
    writer.append(b"a")

    assert lock_abandoned(writer.path) is None
    with pytest.raises(OSError, match="one"):
        JournalWriter(tmp_path, "one", 10**6)
    writer.close()
    lock = lock_abandoned(writer.path)
    assert lock is not None
    assert lock_abandoned(writer.path) is None
    os.close(lock)


def test_a_killed_owner_leaves_its_journal_to_be_adopted(tmp_path):
    """`kill -9` gives up the lock and keeps every line that was written."""
    program = (
        "import sys, pathlib; from proxy.ledger.journal import JournalWriter\n"
        "writer = JournalWriter(pathlib.Path(sys.argv[1]), 'one', 10**6)\n"
        "for number in range(9): writer.append(b'line %d' % number)\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    root = Path(__file__).parents[2]
    owner = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with owner:
        assert owner.stdout.readline() == b"ready\n"
        assert lock_abandoned(tmp_path / "one") is None
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    lock = lock_abandoned(tmp_path / "one")

    assert lock is not None
    assert last_number(tmp_path / "one") == 9
    os.close(lock)


def test_a_journal_that_is_being_made_cannot_be_found(tmp_path):
    """Until its lock is held a journal has a name nobody looks for; files beside journals are none."""
    (tmp_path / ".unborn").mkdir()
    (tmp_path / "a file").touch()
    written(tmp_path, [b"a"], name="two")
    written(tmp_path, [b"a"], name="one")

    assert [path.name for path in journals_in(tmp_path)] == ["one", "two"]


def test_only_its_owner_may_read_a_journal(tmp_path):
    """Directory and files are closed to others: models and apps stand in them."""
    path = written(tmp_path / "journals", [b"a"])

    assert {0o600} == {file.stat().st_mode & 0o777 for file in path.iterdir()}
    assert path.stat().st_mode & 0o777 == 0o700


def marks_in(path):
    """The marks of every segment, by the first number of the segment."""
    return {
        first: [entry.payload for entry in readable(file) if entry.number == MARK] for first, file in segments(path)
    }


def test_marks_are_no_lines_of_the_numbering(tmp_path):
    """They stand between the lines and are passed over by whoever ships."""
    writer = JournalWriter(tmp_path, "one", 10**6)
    writer.begin("a", b"begun a")
    writer.begin("b", b"begun b")
    numbers = [writer.append(b"a ended", "a"), writer.append(b"b ended", "b")]
    writer.begin("c", b"begun c")
    writer.close()

    assert numbers == [1, 2]
    assert read(writer.path) == [(1, b"a ended"), (2, b"b ended")]
    assert last_number(writer.path) == 2
    assert marks_in(writer.path) == {1: [b"begun a", b"begun b", b"begun c"]}


def test_what_is_open_is_marked_again_in_a_new_segment(tmp_path):
    """The newest segment tells all that is open, however long ago it began."""
    writer = JournalWriter(tmp_path, "one", 100)
    writer.begin("long", b"long ago")
    for number in range(10):
        writer.begin(str(number), b"begun")
        writer.append(b"x" * 30, str(number))
    writer.close()
    newest = list(marks_in(writer.path).values())[-1]

    assert len(list(segments(writer.path))) > 3
    assert b"long ago" in newest
    assert len(read(writer.path)) == 10


def test_a_segment_full_of_marks_alone_goes_on(tmp_path):
    """Two segments cannot begin with the same number."""
    writer = JournalWriter(tmp_path, "one", 100)
    for number in range(20):
        writer.begin(str(number), b"begun")
    writer.append(b"the first to end", "3")
    writer.append(b"the second", "4")
    writer.close()

    assert read(writer.path) == [(1, b"the first to end"), (2, b"the second")]
    assert len(marks_in(writer.path)[2]) == 19


def test_a_half_line_that_cannot_be_taken_back_is_not_written_behind(tmp_path, monkeypatch):
    """As long as the file cannot be cut back to whole lines, nothing more goes into it."""
    writer = JournalWriter(tmp_path, "one", 10**6)
    writer.append(b"first")
    real = os.write

    def half(fd, line):
        real(fd, line[:5])
        raise OSError(errno.EIO, "Input/output error")

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr("proxy.ledger.journal.os.write", half)
        patched.setattr("proxy.ledger.journal.os.ftruncate", refuse)
        for _ in range(3):
            with pytest.raises(OSError, match="Read-only"):
                writer.append(b"lost")

    assert writer.append(b"second") == 2
    writer.close()
    assert read(writer.path) == [(1, b"first"), (2, b"second")]
