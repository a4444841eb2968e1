"""What lies in a data dir leads to no other file, whoever opens it: its owner could have laid a link there, and root could follow."""

import os

import pytest

from proxy.console.files import write_whole
from proxy.errors import MeterError, StoreUnavailableError
from proxy.hash_secret import _make
from proxy.ledger import embedded
from proxy.ledger.client_keys import Known
from proxy.ledger.folders import create, make_for_owner, open_own
from proxy.ledger.journal import JournalWriter, lock_abandoned
from proxy.ledger.key_files import KeyFiles, Snapshot
from proxy.ledger.recovery import DONE, recover
from proxy.ledger.revisions import NOTES, Notes
from proxy.ledger.watermark import NAME, Applied, Watermark
from proxy.supervisor import locked_data_dir

SERVICE = 12345
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of somebody else")
REVOKED = Known({}, {"key00001": 5.0})
LEADS_AWAY = "is a symbolic link"


@pytest.fixture
def data_dir(tmp_path):
    """The service's, where there is somebody to make it so."""
    folder = tmp_path / "data"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, SERVICE, SERVICE)
    return folder


@pytest.fixture
def victim(tmp_path):
    """A file that is none of the service's business; at the end it has to be as it was."""
    file = tmp_path / "victim"
    file.write_text("mine")
    file.chmod(0o600)
    yield file
    assert file.read_text() == "mine"
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (os.geteuid(), 0o600)


def hold_lock(data_dir):
    with locked_data_dir(data_dir, data_dir / "journals"):
        pass


# By the file's name: who writes it.
WRITERS = {
    "lock": hold_lock,
    "client_keys/changes.log": lambda data_dir: KeyFiles(data_dir).note(REVOKED),
    NAME: lambda data_dir: Watermark(data_dir).write(Applied(1000, 5, 2000)),
    DONE: lambda data_dir: recover(data_dir, lambda _mark, _end_s: None, 4096),
    "j/lock": lambda data_dir: lock_abandoned(data_dir / "j"),
}
MADE_ANEW = {
    f"key_hash_secret.{os.getpid()}.new": lambda data_dir: _make(data_dir / "key_hash_secret"),
    f"client_keys/snapshot.{os.getpid()}.new": lambda data_dir: KeyFiles(data_dir).keep_snapshot(Snapshot(1.0, REVOKED)),
    "known-x.new": lambda data_dir: write_whole(data_dir / "known-x.json", b"{}"),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [name for name in WRITERS if name != DONE]
)  # that one is only looked for where it is there
def test_a_link_where_a_file_should_be_is_told_and_not_followed(data_dir, victim, name):
    """In the words of the module, as for any file that cannot be opened."""
    (data_dir / name).parent.mkdir(exist_ok=True)
    (data_dir / name).symlink_to(victim)

    with pytest.raises((MeterError, OSError), match=f"{name.rpartition('/')[2]} {LEADS_AWAY}"):
        WRITERS[name](data_dir)


@pytest.mark.parametrize("name", WRITERS)
def test_a_link_to_nothing_makes_nothing(data_dir, tmp_path, name):
    (data_dir / name).parent.mkdir(exist_ok=True)
    (data_dir / name).symlink_to(tmp_path / "not yet")

    with pytest.raises((MeterError, OSError), match=LEADS_AWAY):
        WRITERS[name](data_dir)
    assert not (tmp_path / "not yet").exists()


@pytest.mark.usefixtures("victim")
@pytest.mark.parametrize("name", MADE_ANEW)
def test_what_is_written_beside_takes_the_place_of_whatever_lay_there(data_dir, victim, name):
    """A file that will be renamed is a new one, so what a writer that died left there, or somebody laid there, goes."""
    (data_dir / name).parent.mkdir(exist_ok=True)
    (data_dir / name).symlink_to(victim)

    MADE_ANEW[name](data_dir)

    assert not os.path.lexists(data_dir / name)
    assert not any(path.is_symlink() for path in data_dir.rglob("*"))


def test_a_note_that_would_go_elsewhere_is_not_made(data_dir, victim):
    """It costs the offer, as on a full disk."""
    (data_dir / NOTES).symlink_to(victim)

    Notes(data_dir).keep(("V", "u", "f"), 2)


@pytest.mark.parametrize("name", [*WRITERS, *MADE_ANEW])
def test_the_data_dir_itself_may_be_a_link(data_dir, tmp_path, name):
    """A volume is often mounted elsewhere: only the last part of a path must be none."""
    link = tmp_path / "link"
    link.symlink_to(data_dir)
    JournalWriter(link, "j", 4096).close()

    ({**WRITERS, **MADE_ANEW})[name](link)


def test_a_file_is_made_for_its_owners_eyes_and_only_once(tmp_path):
    os.close(create(tmp_path / "one"))
    os.close(open_own(tmp_path / "two", os.O_RDWR | os.O_CREAT))

    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    with pytest.raises(FileExistsError):
        create(tmp_path / "one")


@only_root
def test_what_root_makes_for_the_owner_is_the_owners(data_dir):
    make_for_owner(data_dir / "audit")
    os.close(create(data_dir / "audit" / "lock", for_owner=True))
    os.close(create(data_dir / "mine"))

    assert [(data_dir / name).stat().st_uid for name in ("audit", "audit/lock", "mine")] == [SERVICE, SERVICE, 0]


@only_root
def test_what_root_makes_in_a_folder_of_its_own_stays_roots(data_dir, tmp_path):
    """Also where a link in the data dir leads there."""
    (tmp_path / "roots").mkdir()
    (data_dir / "audit").symlink_to(tmp_path / "roots")

    os.close(create(data_dir / "audit" / "lock", for_owner=True))

    assert (tmp_path / "roots" / "lock").stat().st_uid == 0


@pytest.fixture
def linked_redis(data_dir, tmp_path):
    """A folder of root's, which the folder of the embedded Redis leads to: a link that its argument owns."""

    def link(owner):
        (tmp_path / "roots").mkdir()
        (data_dir / "redis").symlink_to(tmp_path / "roots")
        os.chown(data_dir / "redis", owner, owner, follow_symlinks=False)
        return tmp_path / "roots"

    return link


@only_root
def test_redis_of_root_is_not_led_away_by_somebody_elses_link(data_dir, linked_redis):
    """It would write its log there."""
    led_to = linked_redis(SERVICE)

    with pytest.raises(StoreUnavailableError, match="belongs to another user"):
        embedded.start(data_dir, embedded.find_server())
    assert list(led_to.iterdir()) == []


@only_root
def test_redis_keeps_its_files_behind_a_link_of_its_own_user(data_dir, linked_redis):
    """On another volume."""
    led_to = linked_redis(0)

    embedded.start(data_dir, embedded.find_server()).stop()

    assert (led_to / "redis.log").exists()


def test_redis_that_finds_a_link_to_nothing_is_one_line(data_dir, tmp_path):
    (data_dir / "redis").symlink_to(tmp_path / "not yet")

    with pytest.raises(StoreUnavailableError, match="it has to be a directory"):
        embedded.start(data_dir, "redis-server")
