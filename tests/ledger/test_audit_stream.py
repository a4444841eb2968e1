"""The copy in a real Redis: each entry once, whatever is sent again, taken back, wiped, cut off or spoilt."""

import asyncio

import pytest
from structlog.testing import capture_logs

from proxy.errors import StoreUnavailableError
from proxy.ledger.audit import Action, Head, audit_key, decoded, encoded, head_of
from proxy.ledger.audit_file import Audit, AuditFile
from proxy.ledger.audit_proof import proof
from proxy.ledger.audit_stream import AuditShipper

KEY = audit_key(b"a secret")


@pytest.fixture
def audit(tmp_path):
    return Audit(AuditFile(tmp_path, KEY), "root: test")


def note(audit, *subjects):
    for subject in subjects:
        audit.note(Action.REPRICED, subject)


def ship(shelf, audit):
    shelf.run(lambda store: AuditShipper(audit.file, store.audit).ship())


def in_stream(shelf):
    """Subjects in the order of the stream."""
    return [decoded(fields[b"entry"]).subject for _, fields in shelf.client.xrange(shelf.key("audit"))]


def proven(shelf, audit, heads=()):
    async def work(store):
        stored, copies = await store.audit.heads(), await store.audit.everything()
        file = audit.file
        return proof([file.read(chain) for chain in file.chains()], copies, stored, heads, KEY)

    return shelf.run(work)


def test_each_entry_is_there_once_however_often_it_is_sent(shelf, audit):
    """By the same shipper, by another, by two at once."""
    note(audit, "a", "b")

    async def work(store):
        shippers = [AuditShipper(audit.file, store.audit) for _ in range(3)]
        await asyncio.gather(*(one.ship() for one in shippers))
        note(audit, "c")
        await asyncio.gather(*(one.ship() for one in shippers))

    shelf.run(work)

    assert in_stream(shelf) == ["audit", "a", "b", "c"]
    assert proven(shelf, audit).fine


@pytest.mark.parametrize("back_at", [0, 1, 3])
def test_a_redis_that_went_back_gets_exactly_what_it_forgot(shelf, audit, back_at):
    """Stream and head as they were; the same shipper goes on, and proves it."""
    note(audit, "a", "b")
    keys = [shelf.key("audit"), shelf.key("audit_heads")]

    async def work(store):
        shipper = AuditShipper(audit.file, store.audit)
        await store.audit.add(audit.file.chains()[0], audit.file.read(audit.file.chains()[0]).entries[:back_at])
        kept = {key: shelf.client.dump(key) for key in keys}
        await shipper.ship()
        shelf.client.delete(*keys)
        for key, value in kept.items():
            if value is not None:
                shelf.client.restore(key, 0, value)
        await shipper.ship()
        again = in_stream(shelf)
        note(audit, "c")
        await shipper.ship()
        return again

    assert shelf.run(work) == ["audit", "a", "b"]
    assert in_stream(shelf) == ["audit", "a", "b", "c"]
    assert proven(shelf, audit).fine


def test_a_wiped_redis_gets_everything_again(shelf, audit):
    """Also what was made with an older secret: each chain of the data dir."""
    note(Audit(AuditFile(audit.file.folder.parent, audit_key(b"older")), "x"), "old")
    note(audit, "new")
    ship(shelf, audit)
    shelf.client.delete(shelf.key("audit"), shelf.key("audit_heads"))
    ship(shelf, audit)

    assert in_stream(shelf) == ["audit", "old", "audit", "new"]
    assert proven(shelf, audit).fine


def test_more_than_a_batch_is_sent_and_read_whole(shelf, audit):
    """Hundreds while Redis was away, thousands over the years."""
    audit.note_all([audit_note(n) for n in range(2345)])
    ship(shelf, audit)

    assert in_stream(shelf) == ["audit", *(f"r{n}" for n in range(2345))]
    assert proven(shelf, audit).fine


def audit_note(number):
    from proxy.ledger.audit import note_of

    return note_of(Action.REPRICED, f"r{number}", {})


def test_entries_out_of_order_or_of_another_history_are_not_added(shelf, audit):
    """A gap, an entry again, one that follows on another: the answer says where the stream stands."""
    note(audit, "a", "b", "c")
    chain = audit.file.chains()[0]
    first, second, third, fourth = audit.file.read(chain).entries

    async def work(store):
        add = store.audit.add
        answers = [
            await add(chain, [second]),
            await add(chain, [first, third]),
            await add(chain, [first, second, third]),
        ]
        return [*answers, await add(chain, [second]), await add(chain, [])]

    assert shelf.run(work) == [Head(chain, 0, ""), head_of(first), *[head_of(third)] * 3]
    assert in_stream(shelf) == ["audit", "a", "b"]
    assert proven(shelf, audit).pending == 1
    assert fourth.subject == "c"


@pytest.mark.parametrize("goes_on", [[], ["x"], ["x", "y", "z"]])
def test_a_data_dir_that_went_back_is_told_and_nothing_is_written_over(shelf, audit, goes_on):
    """Restored from an old copy, it goes on otherwise than what Redis has: an error in the log, once, and in the proof."""
    note(audit, "a", "b")
    ship(shelf, audit)
    path = audit.file.folder / f"{audit.file.chains()[0]}.log"
    path.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[:2]) + b"\n")
    note(audit, *goes_on)
    with capture_logs() as logs:

        async def work(store):
            shipper = AuditShipper(audit.file, store.audit)
            await shipper.ship()
            await shipper.ship()

        shelf.run(work)

    assert [line["event"] for line in logs] == ["audit_forked"]
    assert in_stream(shelf) == ["audit", "a", "b"]
    assert "stream" in str(proven(shelf, audit).faults[0])
    assert [fault.number for fault in proven(shelf, audit).faults] == [3]


SPOILT = {
    "edited": lambda rows: [
        (i, f if i != 2 else {**f, b"entry": f[b"entry"].replace(b'"b"', b'"x"')}) for i, f in rows
    ],
    "deleted": lambda rows: [row for row in rows if row[0] != 2],
    "cut off": lambda rows: rows[:2],
    "twice": lambda rows: [*rows, rows[2]],
    "not JSON": lambda rows: [(i, f if i != 2 else {**f, b"entry": b"{"}) for i, f in rows],
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_stream_is_told_by_its_entry(shelf, audit, how):
    """By somebody who reaches Redis and not the data dir."""
    note(audit, "a", "b", "c")
    ship(shelf, audit)
    rows = list(enumerate(fields for _, fields in shelf.client.xrange(shelf.key("audit"))))
    shelf.client.delete(shelf.key("audit"))
    for _, fields in SPOILT[how](rows):
        shelf.client.xadd(shelf.key("audit"), fields)

    found = proven(shelf, audit)
    assert not found.fine
    assert ("stream", 3) in [(fault.place, fault.number) for fault in found.faults]


def test_a_key_of_another_kind_is_an_error_of_the_store(shelf, audit):
    """Said, and nothing is written."""
    shelf.client.set(shelf.key("audit"), "x")
    note(audit, "a")
    with pytest.raises(StoreUnavailableError, match="another kind"):
        ship(shelf, audit)


def test_the_newest_come_first(shelf, audit):
    """As the console shows them, and no more than asked for; the bytes are those of the file."""
    note(audit, "a", "b")
    ship(shelf, audit)
    newest = shelf.run(lambda store: store.audit.newest(2))

    assert [decoded(copy.entry).subject for copy in newest] == ["b", "a"]
    assert newest[0].entry == encoded(audit.file.read(audit.file.chains()[0]).entries[-1])
