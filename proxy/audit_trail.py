"""What the processes of a service note in the audit trail, and when: the supervisor at its start and stop, the console while it runs.

One writer for each kind of change, so that each is noted once: settings and life by the supervisor; catalog, prices and versions by
the console, which also carries the trail to Redis and logs its head every hour. What a fault of the trail costs is an entry, and a
line in the log: never the service.
"""

import asyncio
import contextlib
import os
import pwd
import time
from collections.abc import Awaitable, Callable
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec
import structlog

from proxy.audit_facts import (
    Difference,
    Facts,
    catalog_facts,
    catalog_notes,
    differences,
    digest_of,
    settings_facts,
    settings_notes,
    version_identity,
    version_note,
)
from proxy.console.files import write_whole
from proxy.errors import MeterError
from proxy.ledger.answers import Change
from proxy.ledger.audit import Action, AuditEntry, Head, Note, note_of
from proxy.ledger.audit_file import Audit, AuditFile
from proxy.ledger.audit_stream import AuditShipper
from proxy.pricing.catalog import Catalog
from proxy.settings import Settings

ROUND_S: Final = 2.0
CHANGES_EVERY_S: Final = 10.0
HEAD_EVERY_S: Final = 3600.0

log = structlog.get_logger(__name__)


class _Known(msgspec.Struct, frozen=True):
    """The facts that were noted last, and the head of the trail at that time."""

    facts: Facts
    head: Head


class KnownFacts:
    """Compares facts with those of the last look, and notes what is different, once.

    The trail goes first, the memory after it: a crash between the two finds in the trail what it had noted already.
    """

    def __init__(self, audit: Audit, name: str, notes_of: Callable[[Difference], list[Note]], kind: Action) -> None:
        """`kind` is noted where there is nothing to compare with: at the first start, or when the memory is gone."""
        self._audit = audit
        self._path = audit.file.folder / f"known-{name}.json"
        self._name = name
        self._notes_of = notes_of
        self._kind = kind

    def __repr__(self) -> str:
        return f"<KnownFacts {self._path}>"

    def take(self, facts: Facts) -> None:
        """Note how these differ from the last ones. Raises AuditUnwritableError, OSError."""
        facts = msgspec.json.decode(msgspec.json.encode(facts), type=Facts)  # as they will be read back
        known = self._read()
        if known is not None and known.facts == facts:
            return
        notes = [self._first(facts)] if known is None else self._new_notes(known, facts)
        if notes:
            self._audit.note_all(notes)
        head = self._audit.file.head() or Head("", 0, "")
        write_whole(self._path, msgspec.json.encode(_Known(facts, head)))

    def _first(self, facts: Facts) -> Note:
        return note_of(
            self._kind, self._name, {"what": "known from here on", "of": len(facts), "hash": digest_of(facts)}
        )

    def _new_notes(self, known: _Known, facts: Facts) -> list[Note]:
        done = [Note(entry.action, entry.subject, entry.detail) for entry in self._noted_since(known.head)]
        found = (note for one in differences(known.facts, facts) for note in self._notes_of(one))
        return [note for note in found if note not in done]

    def _noted_since(self, head: Head) -> list[AuditEntry]:
        chains = self._audit.file.chains()
        entries = self._audit.file.read(chains[-1]).entries if chains else []
        return [entry for entry in entries if entry.chain != head.chain or entry.number > head.number]

    def _read(self) -> _Known | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Known)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None


class ServiceTrail:
    """What the supervisor notes."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._began_s = 0.0

    def __repr__(self) -> str:
        return f"<ServiceTrail {self._audit!r}>"

    def started(self, settings: Settings) -> None:
        """Note the settings that changed since the last start, and the start; log the head."""
        self._began_s = time.monotonic()
        facts = settings_facts(settings, self._audit.file.key)
        try:
            clean = self._ended_in_order()
            KnownFacts(self._audit, "settings", settings_notes, Action.SETTINGS_CHANGED).take(facts)
            self._audit.note(
                Action.STARTED,
                "service",
                by=operator(),
                release=_release(),
                workers=settings.gateway.workers,
                settings=digest_of(facts),
                **({} if clean else {"before": "ended without a stop"}),
            )
        except (MeterError, OSError) as error:
            log.error("audit_not_written", error=str(error))
        self._audit.log_head()

    def stopped(self) -> None:
        """Note that a stop was asked for, while the console is still there to carry it to Redis."""
        if self._began_s:
            self._audit.try_note(Action.STOPPED, "service", after_s=round(time.monotonic() - self._began_s))

    def ended(self) -> None:
        """Everything is down: log the head it ends with."""
        if self._began_s:
            self._audit.log_head()

    def _ended_in_order(self) -> bool:
        """True where the last start was followed by a stop, or there was none."""
        for chain in reversed(self._audit.file.chains()):
            for entry in reversed(self._audit.file.read(chain).entries):
                if entry.action in (Action.STARTED, Action.STOPPED):
                    return entry.action is Action.STOPPED
        return True


class ConsoleTrail:
    """What the console notes and carries on."""

    def __init__(
        self,
        audit: Audit,
        shipper: AuditShipper,
        catalog: Callable[[], Catalog],
        changes: Callable[[], Awaitable[list[Change]]],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`changes` are the version changes that the store has noted."""
        self._audit = audit
        self._shipper = shipper
        self._catalog = catalog
        self._changes = changes
        self._monotonic_s = monotonic_s
        self._known = KnownFacts(audit, "catalog", catalog_notes, Action.CATALOG_CHANGED)
        self._seen_catalog: Catalog | None = None
        self._copied: set[tuple[object, ...]] | None = None
        self._changes_s = float("-inf")
        self._head_s = float("-inf")
        self._trouble = ""

    def __repr__(self) -> str:
        return f"<ConsoleTrail {self._audit!r}>"

    async def run(self, stopped: asyncio.Event) -> None:
        """A round every two seconds, and one more when stopped: what was noted last, the stop itself, goes to Redis too.

        It is never cancelled: a thread that notes something would go on, and the same be noted again behind it.
        """
        while not stopped.is_set():
            await self.round()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), ROUND_S)
        await self.round()

    async def round(self) -> None:
        """Note what is new, carry the trail to Redis, and log its head if an hour has gone by."""
        trouble = ""
        for step in (self._note_catalog, self._note_changes, self._shipper.ship):
            try:
                await step()
            except Exception as error:  # noqa: BLE001 - a fault of the trail may cost an entry, never the console
                trouble = str(error) or type(error).__name__
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("audit_trouble", error=trouble) if trouble else log.info("audit_goes_on")
        if self._monotonic_s() - self._head_s >= HEAD_EVERY_S:
            self._head_s = self._monotonic_s()
            self._audit.log_head()

    async def _note_catalog(self) -> None:
        catalog = self._catalog()
        if catalog is not self._seen_catalog:
            await asyncio.to_thread(self._known.take, catalog_facts(catalog))
            self._seen_catalog = catalog

    async def _note_changes(self) -> None:
        if self._monotonic_s() - self._changes_s < CHANGES_EVERY_S:
            return
        notes = [version_note(change) for change in await self._changes()]
        if self._copied is None:
            self._copied = await asyncio.to_thread(self._copied_before)
        fresh = {version_identity(note): note for note in reversed(notes)}  # of two of the same, the first
        new = [note for identity, note in reversed(fresh.items()) if identity not in self._copied]
        if new:
            await asyncio.to_thread(self._audit.note_all, new)
            self._copied.update(version_identity(note) for note in new)
        self._changes_s = self._monotonic_s()

    def _copied_before(self) -> set[tuple[object, ...]]:
        entries = (entry for chain in self._audit.file.chains() for entry in self._audit.file.read(chain).entries)
        notes = (Note(one.action, one.subject, one.detail) for one in entries)
        return {version_identity(note) for note in notes if note.action is Action.VERSION_CHANGED}


def operator() -> str:
    """The user of the operating system who runs this, and for whom, where sudo says so."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = f"uid {os.getuid()}"  # a container whose user has no name
    behind = os.environ.get("SUDO_USER", "")
    return f"{user} for {behind}" if behind else user


def _release() -> str:
    try:
        return metadata.version("deepseek-meter")
    except metadata.PackageNotFoundError:
        return "not installed"  # run out of its source folder


def service_trail(data_dir: Path, key: bytes) -> ServiceTrail:
    """The supervisor's part, composed."""
    return ServiceTrail(Audit(AuditFile(data_dir, key), "supervisor"))
