import os
import stat
import threading
from pathlib import Path

import pytest
from ledger.test_client_keys import key

from proxy.ledger.client_keys import NOTHING, Known
from proxy.ledger.key_files import KeyFiles, Snapshot

REVOKED = Known({}, {"key00001": 5.0})


def log(tmp_path):
    return tmp_path / "client_keys" / "changes.log"


def test_what_was_noted_is_there_for_everybody(tmp_path):
    """For this process and the next, and for one that has the file open already."""
    one, other = KeyFiles(tmp_path), KeyFiles(tmp_path)
    assert other.changes() == NOTHING
    one.note(Known({"key00001": key()}))
    assert other.changes() == Known({"key00001": key()})
    other.note(REVOKED)

    assert one.changes() == KeyFiles(tmp_path).changes() == Known({"key00001": key()}, {"key00001": 5.0})


def test_nothing_is_noted_twice(tmp_path):
    """Every worker of a data dir learns of the same revocation."""
    for files in (KeyFiles(tmp_path), KeyFiles(tmp_path)):
        files.note(REVOKED)
        files.note(Known({}, {"key00001": 9.0}))

    assert len(log(tmp_path).read_bytes().splitlines()) == 1


def test_many_writers_lose_nothing(tmp_path):
    """They take turns."""

    def write(number):
        for step in range(20):
            KeyFiles(tmp_path).note(Known({}, {f"id{number}-{step}": 1.0}))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(KeyFiles(tmp_path).changes().revoked) == 80


def test_writers_of_the_same_note_it_once(tmp_path):
    """Who comes second finds it there: it looks and appends under one lock."""
    for step in range(30):
        barrier = threading.Barrier(4)

        def write(step=step, barrier=barrier):
            files = KeyFiles(tmp_path)
            barrier.wait()
            files.note(Known({}, {f"id{step}": 1.0}))

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(log(tmp_path).read_bytes().splitlines()) == 30


def test_what_was_noted_is_on_the_disk(tmp_path, monkeypatch):
    """The line, and the name of the file it is in."""
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(Path(f"/proc/self/fd/{fd}").readlink()), fsync(fd)))
    KeyFiles(tmp_path).note(REVOKED)

    assert synced == [log(tmp_path).resolve(), log(tmp_path).parent.resolve()]


@pytest.mark.parametrize("torn", [b"0bad", b'12345678 {"kind":"revoke","at_s":1,"id":"x"}\n', b"\xff\xff\n", b"\n"])
def test_a_damaged_line_costs_itself_alone(tmp_path, torn):
    """What is appended behind a torn one begins a line of its own."""
    files = KeyFiles(tmp_path)
    files.note(Known({"key00001": key()}))
    with log(tmp_path).open("ab") as file:
        file.write(torn)
    files.note(REVOKED)

    assert KeyFiles(tmp_path).changes() == Known({"key00001": key()}, {"key00001": 5.0})


def test_every_beginning_of_the_file_can_be_read(tmp_path):
    """A crash cuts it anywhere: what is whole counts, and the next line is not lost."""
    KeyFiles(tmp_path).note(Known({"key00001": key()}, {"key00009": 3.0}))
    whole = log(tmp_path).read_bytes()
    for cut in range(len(whole) + 1):
        log(tmp_path).write_bytes(whole[:cut])
        KeyFiles(tmp_path).note(REVOKED)
        found = KeyFiles(tmp_path).changes()
        assert found.revoked["key00001"] == 5.0
        assert len(found.keys) == (cut >= whole.index(b"\n"))  # a line that lacks its end alone is whole


def test_what_is_known_outlives_the_file(tmp_path):
    """Somebody deletes it under a running worker: a revocation stays known there, and what comes is read."""
    files = KeyFiles(tmp_path)
    files.note(Known({"key00001": key()}, {"key00009": 3.0}))
    log(tmp_path).unlink()
    KeyFiles(tmp_path).note(REVOKED)

    assert files.changes().revoked == {"key00009": 3.0, "key00001": 5.0}


def test_the_files_are_for_their_owner(tmp_path):
    """Hashes are no keys, and nobody else's business all the same."""
    files = KeyFiles(tmp_path)
    files.note(REVOKED)
    files.keep_snapshot(Snapshot(1.0, REVOKED))

    for path in (tmp_path / "client_keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_snapshot_is_whole_or_not_there(tmp_path):
    """One that cannot be read is none."""
    files = KeyFiles(tmp_path)
    assert files.snapshot() is None
    files.keep_snapshot(Snapshot(7.0, Known({"key00001": key()}, {"a": 1.0})))
    assert files.snapshot() == Snapshot(7.0, Known({"key00001": key()}, {"a": 1.0}))
    path = tmp_path / "client_keys" / "snapshot.json"
    path.write_bytes(path.read_bytes()[:-5])
    assert files.snapshot() is None


def test_a_disk_that_refuses_raises(tmp_path):
    """And the caller decides what follows."""
    (tmp_path / "client_keys").write_text("a file where a folder belongs")

    with pytest.raises(OSError, match="client_keys"):
        KeyFiles(tmp_path).note(REVOKED)
    assert [path.name for path in tmp_path.iterdir()] == ["client_keys"]
