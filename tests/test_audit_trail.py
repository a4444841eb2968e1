"""What the processes of a service note: each change once, whatever dies between the trail and what is remembered."""

import asyncio
import re

import pytest
from structlog.testing import capture_logs
from test_cli import OWN

from proxy.audit_facts import settings_notes
from proxy.audit_trail import HEAD_EVERY_S, ConsoleTrail, KnownFacts, ServiceTrail
from proxy.catalog_files import catalog_with
from proxy.errors import StoreUnavailableError
from proxy.installation import audit_of
from proxy.ledger.answers import Change
from proxy.ledger.audit import Action, audit_key
from proxy.ledger.audit_file import Audit, AuditFile
from proxy.settings import load_settings


@pytest.fixture
def audit(tmp_path):
    return Audit(AuditFile(tmp_path, audit_key(b"a secret")), "test")


def noted(audit):
    """Action and subject of everything behind the beginning."""
    entries = [one for chain in audit.file.chains() for one in audit.file.read(chain).entries]
    return [(one.action.value, one.subject) for one in entries[1:]]


def known(audit):
    return KnownFacts(audit, "settings", settings_notes, Action.SETTINGS_CHANGED)


def facts(workers):
    return {"[gateway]": {"workers": [str(workers), str(workers)]}}


FIRST, AGAIN = ("settings_changed", "settings"), ("settings_changed", "[gateway]")


def test_a_change_is_noted_once(audit):
    """At the first look there is nothing to compare with: that is noted, too."""
    for workers in (1, 1, 2, 2, 1):
        known(audit).take(facts(workers))

    assert noted(audit) == [FIRST, AGAIN, AGAIN]


def test_a_crash_between_trail_and_memory_notes_nothing_twice(audit):
    """The memory is older than the trail: what is there already is not noted again, what is not is."""
    known(audit).take(facts(1))
    remembered = (audit.file.folder / "known-settings.json").read_bytes()
    known(audit).take(facts(2))
    (audit.file.folder / "known-settings.json").write_bytes(remembered)
    known(audit).take({**facts(2), "[log]": {"level": ["x", "y"]}})

    assert noted(audit) == [FIRST, AGAIN, ("settings_changed", "[log]")]


def test_a_memory_that_is_gone_or_damaged_is_noted(audit):
    """Else removing it would hide a change."""
    known(audit).take(facts(1))
    (audit.file.folder / "known-settings.json").write_bytes(b'{"facts": {')
    known(audit).take(facts(2))

    assert noted(audit) == [FIRST, FIRST]


def test_starts_and_stops_and_what_changed_between(audit):
    """A start behind no stop says so; the head is logged with each."""
    before, after = (load_settings(flags={("gateway", "workers"): count}) for count in (1, 2))
    with capture_logs() as logs:
        first = ServiceTrail(audit)
        first.started(before)
        first.stopped()
        first.ended()
        ServiceTrail(audit).started(after)
        ServiceTrail(audit).started(after)

    assert noted(audit) == [
        FIRST,
        ("started", "service"),
        ("stopped", "service"),
        AGAIN,
        ("started", "service"),
        ("started", "service"),
    ]
    details = [one.detail for one in audit.file.read(audit.file.chains()[0]).entries if one.action is Action.STARTED]
    assert ["before" in one for one in details] == [False, False, True]
    assert [(line["event"], line["number"]) for line in logs] == [("audit_head", n) for n in (3, 4, 6, 7)]


def test_a_service_that_never_started_notes_no_stop(audit):
    """Its Redis was not to be had."""
    trail = ServiceTrail(audit)
    trail.stopped()
    trail.ended()

    assert not audit.file.chains()


def test_a_trail_that_cannot_be_written_does_not_stop_a_service(audit):
    """It is an error in the log."""
    audit.file.folder.write_text("in the way")
    with capture_logs() as logs:
        trail = ServiceTrail(audit)
        trail.started(load_settings())
        trail.stopped()

    assert [line["event"] for line in logs] == ["audit_not_written"] * 2


class Shipper:
    """Counts, or fails as one without Redis."""

    def __init__(self):
        self.rounds = 0
        self.error = None

    async def ship(self):
        self.rounds += 1
        if self.error:
            raise self.error


class Running:
    """A console's trail with a clock, a catalog and version changes that a test moves."""

    def __init__(self, audit):
        self.now_s = 0.0
        self.catalog = catalog_with("")
        self.changes = []
        self.shipper = Shipper()
        self.trail = self.restarted(audit)

    def restarted(self, audit):
        self.trail = ConsoleTrail(audit, self.shipper, lambda: self.catalog, self.found, lambda: self.now_s)
        return self.trail

    async def found(self):
        return list(self.changes)

    def round(self, after_s=20.0):
        self.now_s += after_s
        asyncio.run(self.trail.round())


def swap(number, at_s=1000.0):
    return Change("revision", "default", "m", "V", f"V+r{number}", f"fp_{number}", at_s)


def test_version_changes_are_copied_once(audit):
    """Over rounds and restarts; one that a Redis which went back noted again is the same one."""
    running = Running(audit)
    running.round()
    running.changes = [swap(2), swap(3)]
    running.round()
    running.round()
    running.restarted(audit)
    running.changes = [swap(2), swap(3, at_s=2000.0), swap(2, at_s=3000.0), swap(4), swap(4)]
    running.round()

    assert noted(audit) == [("catalog_changed", "catalog"), *(("version_changed", f"V+r{n}") for n in (2, 3, 4))]


def test_a_changed_catalog_is_noted_while_it_runs_and_after_a_restart(tmp_path, audit):
    """An own price that came while nobody ran is seen at the next start."""
    (tmp_path / "own.toml").write_text(OWN)
    running = Running(audit)
    running.round()
    running.catalog = catalog_with(str(tmp_path / "own.toml"))
    running.round()
    (tmp_path / "own.toml").write_text(OWN.replace('"0.4"', '"0.5"'))
    running.catalog = catalog_with(str(tmp_path / "own.toml"))
    running.restarted(audit)
    running.round()
    running.round()

    assert noted(audit)[1:] == [
        ("catalog_changed", "holidays 2027"),
        ("price_changed", "price my-r1-usd"),
        ("catalog_changed", "version my-r1"),
        ("price_changed", "price my-r1-usd"),
    ]


def test_trouble_is_said_once_and_nothing_else_waits_for_it(audit):
    """Redis away for hours: one line, and one when it is over; what is noted meanwhile is noted."""
    running = Running(audit)
    running.round()
    running.shipper.error = StoreUnavailableError("Redis: gone")
    with capture_logs() as logs:
        running.round()
        running.changes = [swap(2)]
        running.round()
        running.shipper.error = None
        running.round()

    assert [line["event"] for line in logs] == ["audit_trouble", "audit_goes_on"]
    assert noted(audit) == [("catalog_changed", "catalog"), ("version_changed", "V+r2")]


def test_the_head_is_logged_every_hour(audit):
    """And at the beginning; not more often, whatever goes on."""
    running = Running(audit)
    with capture_logs() as logs:
        for _ in range(5):
            running.round(HEAD_EVERY_S / 2)

    assert [(line["event"], line["number"]) for line in logs] == [("audit_head", 2)] * 3


def test_a_stop_gets_one_more_round(audit):
    """What the supervisor noted of the stop is carried to Redis before the console ends."""
    running = Running(audit)

    async def work():
        stopped = asyncio.Event()
        task = asyncio.create_task(running.trail.run(stopped))
        while not running.shipper.rounds:
            await asyncio.sleep(0.01)
        stopped.set()
        await task

    asyncio.run(work())
    assert running.shipper.rounds == 2


def test_a_command_notes_in_the_name_of_who_runs_it(tmp_path):
    """With a secret made beside it where there is none, the same for all who come later."""
    settings = load_settings(flags={("store", "data_dir"): str(tmp_path / "data")})
    first = audit_of(settings, "keys add")
    entry = first.note(Action.KEY_ADDED, "billing", hash="0123456789")
    second = audit_of(settings, "keys revoke").note(Action.KEY_REVOKED, "billing")

    assert re.match(r"^\S+( for \S+)?: keys add$", entry.who)
    assert (second.number, second.previous) == (entry.number + 1, entry.mac)
    assert {one.name for one in (tmp_path / "data").iterdir()} == {"audit", "key_hash_secret"}
    assert (tmp_path / "data" / "key_hash_secret").stat().st_mode & 0o777 == 0o600
