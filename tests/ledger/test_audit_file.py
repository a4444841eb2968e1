"""The file of the audit trail: torn, damaged, full, and written by two processes at once."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxy.errors import AuditUnwritableError
from proxy.ledger.audit import Action, audit_key, encoded, head_of
from proxy.ledger.audit_file import Audit, AuditFile
from proxy.ledger.audit_proof import proof

KEY = audit_key(b"a secret")
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def file(tmp_path):
    return AuditFile(tmp_path, KEY)


@pytest.fixture
def audit(file):
    """An audit trail with three entries behind its beginning."""
    made = Audit(file, "root: test", lambda: 1000.0)
    for number in range(3):
        made.note(Action.REPRICED, f"r{number}", records=number)
    return made


def path_of(file):
    return file.folder / f"{file.chains()[-1]}.log"


def subjects(file, chain=-1):
    return [entry.subject for entry in file.read(file.chains()[chain]).entries]


def faults(file):
    return [str(fault) for fault in proof([file.read(chain) for chain in file.chains()], [], {}, (), KEY).faults]


@pytest.mark.usefixtures("audit")
def test_what_was_noted_is_read_back(file):
    """Who, when and what; for the owner's eyes only."""
    entry = file.read(file.chains()[0]).entries[2]

    assert (entry.who, entry.at_ms, entry.action, entry.detail) == ("root: test", 1_000_000, "repriced", {"records": 1})
    assert subjects(file) == ["audit", "r0", "r1", "r2"]
    assert not faults(file)
    assert [one.stat().st_mode & 0o777 for one in (file.folder, path_of(file))] == [0o700, 0o600]


def test_a_torn_last_line_is_dropped_wherever_it_was_torn(audit, file):
    """It was never confirmed. Only the newline lost: the entry is whole, and stays."""
    whole = path_of(file).read_bytes()
    before, last, _ = whole.rsplit(b"\n", 2)
    for cut in range(1, len(last) + 1):
        path_of(file).write_bytes(before + b"\n" + last[:cut])
        assert len(file.read(file.chains()[0]).entries) == 3
        audit.note(Action.REFILLED, "next")

        assert subjects(file) == ["audit", "r0", "r1", *(["r2"] if cut == len(last) else []), "next"]
        assert not faults(file)
    assert len(file.chains()) == 1


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda data: data.replace(b'"who"', b'"why"'), "entry 1: cannot be read, or is not as it was written"),
        (lambda data: data.replace(b'"r2"', b'"r9"'), "entry 4: was changed"),
        (lambda _data: b"", "is empty"),
        (lambda data: data[:-9] + b"\n", "entry 4: cannot be read, or is not as it was written"),
        (lambda data: data + b"\0" * 100 + b"\n", "entry 5: cannot be read"),
    ],
)
def test_nothing_is_appended_to_what_does_not_hold(audit, file, spoil, told):
    """A new chain begins and names the spoilt one, which stays as it is and is told."""
    path_of(file).write_bytes(spoil(path_of(file).read_bytes()))
    spoilt = path_of(file).read_bytes()
    audit.note(Action.REFILLED, "next")
    first, second = file.chains()

    assert (file.folder / f"{first}.log").read_bytes() == spoilt
    beginning = file.read(second).entries[0]
    assert (beginning.action, beginning.detail["after"]) == ("chain_began", first)
    assert subjects(file) == ["audit", "next"]
    assert told in faults(file)[0]


@pytest.mark.usefixtures("audit")
def test_another_secret_begins_a_chain_that_says_where_the_old_one_stood(tmp_path):
    """So that the old one, whose MACs can be checked no more, still cannot be cut off or changed."""
    other = AuditFile(tmp_path, audit_key(b"another secret"))
    Audit(other, "supervisor").note(Action.STARTED, "service")
    contents = [other.read(chain) for chain in other.chains()]
    old, new = contents

    assert proof(contents, [], {}, (), other.key).faults == []
    assert new.entries[0].detail["mac"] == head_of(old.entries[-1]).mac
    shorter = [old._replace(entries=old.entries[:-1]), new]
    assert [(one.chain, one.number) for one in proof(shorter, [], {}, (), other.key).faults] == [(old.chain, 4)]
    assert "is missing before" in proof([new], [], {}, (), other.key).faults[0].what


WRITER = """
import sys
from pathlib import Path
from proxy.ledger.audit import Action, audit_key
from proxy.ledger.audit_file import Audit, AuditFile
audit = Audit(AuditFile(Path(sys.argv[1]), audit_key(b"a secret")), sys.argv[2])
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    audit.note(Action.KEY_ADDED, f"{sys.argv[2]} {number}")
"""


def writers(tmp_path, names, count):
    """Processes that wait for a line on standard input, then note."""
    return [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), name, str(count)], stdin=subprocess.PIPE, cwd=ROOT
        )
        for name in names
    ]


def test_two_processes_that_append_at_once_make_one_chain(file, tmp_path):
    """From the very first entry on: each one's entries in its order, none lost, nothing torn, one chain."""
    started = writers(tmp_path, ["a", "b"], 100)
    for one in started:
        one.stdin.write(b"go\n")
        one.stdin.close()
    assert [one.wait(60) for one in started] == [0, 0]

    assert len(file.chains()) == 1
    found = subjects(file)[1:]
    for name in "ab":
        assert [one for one in found if one.startswith(name)] == [f"{name} {n}" for n in range(100)]
    assert not faults(file)


def test_a_writer_killed_in_the_midst_leaves_a_chain_that_goes_on(file, tmp_path):
    """Whatever the moment: the chain holds, and the next writer appends to it."""
    for _ in range(5):
        (one,) = writers(tmp_path, ["a"], 100_000)
        one.stdin.write(b"go\n")
        one.stdin.flush()
        known = path_of(file).stat().st_size if file.chains() else 0
        while not file.chains() or path_of(file).stat().st_size < known + 2000:
            assert one.poll() is None
            time.sleep(0.001)
        one.kill()
        one.wait()
        one.stdin.close()
        Audit(file, "next").note(Action.REPRICED, "after")

        assert len(file.chains()) == 1
        assert not faults(file)


FULL = """
import resource, signal, sys
from pathlib import Path
from proxy.errors import AuditUnwritableError
from proxy.ledger.audit import Action, audit_key
from proxy.ledger.audit_file import Audit, AuditFile
audit = Audit(AuditFile(Path(sys.argv[1]), audit_key(b"a secret")), "x")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = (audit.file.folder / f"{audit.file.chains()[0]}.log").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, size + 50))
try:
    audit.note(Action.REPRICED, "too much")
except AuditUnwritableError as error:
    print(error)
"""


@pytest.mark.usefixtures("audit")
def test_a_full_disk_is_told_and_leaves_no_trace(file, tmp_path):
    """Half the line fits: it is taken back. The error names what was not noted."""
    before = path_of(file).read_bytes()
    said = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, capture_output=True, check=True)

    assert b"not noted: repriced too much" in said.stdout
    assert path_of(file).read_bytes() == before


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "audit").write_text("")
    with pytest.raises(AuditUnwritableError, match="not noted: started service"):
        Audit(AuditFile(tmp_path, KEY), "x").note(Action.STARTED, "service")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of somebody else")
def test_what_root_begins_the_service_can_go_on_with(tmp_path):
    """Files are given to the owner of the data dir: a command run by root must not lock the service out."""
    os.chown(tmp_path, 12345, 12345)
    made = AuditFile(tmp_path, KEY)
    Audit(made, "root: keys add").note(Action.KEY_ADDED, "app")

    owned = [made.folder, *made.folder.iterdir()]
    assert {one.stat().st_uid for one in owned} == {12345}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of somebody else")
def test_root_gives_away_only_what_it_has_just_made(file, audit):
    """A lock that was there is opened, whosever it is."""
    os.chown(file.folder.parent, 12345, 12345)
    audit.note(Action.KEY_ADDED, "app")

    assert {one.stat().st_uid for one in file.folder.iterdir()} == {0}


def begun_elsewhere(folder):
    """What is not the trail's: as it has to be afterwards."""
    folder.mkdir(exist_ok=True)
    (folder / "victim").write_text("mine")
    (folder / "victim").chmod(0o640)
    return folder / "victim", lambda: ((folder / "victim").read_text(), (folder / "victim").stat()[:6])


@pytest.mark.parametrize("name", ["lock", "0009-0a1b2c3d.log"])
def test_a_link_in_the_folder_is_told_and_not_followed(file, audit, tmp_path, name):
    """Whoever owns the data dir could have root change any file so."""
    victim, state = begun_elsewhere(tmp_path / "elsewhere")
    (file.folder / name).unlink(missing_ok=True)
    (file.folder / name).symlink_to(victim)
    before = state()

    with pytest.raises(AuditUnwritableError, match=f"{name} is a symbolic link.*not noted: key_added app"):
        audit.note(Action.KEY_ADDED, "app")
    with pytest.raises(OSError, match="symbolic link"):
        file.read(name.removesuffix(".log")) if name != "lock" else file.append([], who="x", at_ms=0)
    assert state() == before


def test_a_link_under_the_name_of_an_unborn_chain_is_replaced(file, tmp_path):
    victim, state = begun_elsewhere(tmp_path / "elsewhere")
    file.folder.mkdir()
    (file.folder / "unborn").symlink_to(victim)
    before = state()

    Audit(file, "root: keys add").note(Action.KEY_ADDED, "app")

    assert state() == before
    assert subjects(file) == ["audit", "app"]
    assert not path_of(file).is_symlink()


def test_the_data_dir_may_be_a_link(tmp_path):
    """To a volume, as is common."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "volume")
    linked = AuditFile(tmp_path / "data", KEY)
    Audit(linked, "x").note(Action.KEY_ADDED, "app")

    assert subjects(linked) == ["audit", "app"]


@pytest.mark.usefixtures("audit")
def test_a_line_is_what_the_stream_gets(file):
    """One form of an entry, everywhere."""
    lines = path_of(file).read_bytes().split(b"\n")[:-1]

    assert lines == [encoded(entry) for entry in file.read(file.chains()[0]).entries]
