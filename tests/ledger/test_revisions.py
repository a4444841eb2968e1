"""Silent changes: numbers given by a real Redis, the same to all, kept beside the journal and offered again."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import pytest
import structlog
from ledger.given import added, encoded, record

from proxy.ledger.journal import JournalReader, JournalWriter
from proxy.ledger.revisions import NOTES, Notes, Offer, Revisions, pair_field
from proxy.ledger.shipper import JournalShipper
from proxy.ledger.tally import Retention
from proxy.pricing.revisions import MOST, Place
from proxy.usage import How

OLD, NEW, THIRD = "fp_aaaaaaaaaa", "fp_bbbbbbbbbb", "fp_cccccccccc"
CHANGES = ("version_changes_total", "m")


def place(fingerprint, *, version="V", upstream="default", model="m"):
    return Place(version, upstream, model, fingerprint)


def numbers(shelf, *places):
    """What the registry answers, one after the other."""

    async def work(store):
        return [(await store.settle(one, Offer(), 1000.0 + index)).number for index, one in enumerate(places)]

    return shelf.run(work)


@asynccontextmanager
async def shipping(store, writer, revisions=None):
    shipper = JournalShipper(JournalReader(writer.path), store, Retention(), revisions=revisions)
    try:
        yield shipper
    finally:
        shipper.close()


@pytest.fixture
def journal(tmp_path):
    """Makes journals in one folder."""
    writers = []

    def make(name, *records):
        writers.append(JournalWriter(tmp_path, name, 4096))
        for one in records:
            writers[-1].append(encoded(one))
        return writers[-1]

    yield make
    for writer in writers:
        writer.close()


def forget_the_newest(shelf):
    """The registry as it was before it knew the newer build."""
    for field in (pair_field("V", "default", NEW), '["taken","V"]2', '["highest","V"]'):
        shelf.client.hdel(shelf.key("revisions"), field)


def versions(shelf):
    """Exchanges by version."""
    found = Counter()
    for key, value in shelf.totals().items():
        if key[0] == "requests_total":
            found[key[2]] += value
    return found


def test_the_first_fingerprint_is_the_version_itself(shelf):
    """The next ones are revisions, and asking again changes nothing."""
    asked = [place(name) for name in (OLD, NEW, OLD, THIRD, NEW)]

    assert numbers(shelf, *asked) == [1, 2, 1, 3, 2]
    assert [(one["version"], one["before"], one["fingerprint"]) for one in shelf.changes()] == [
        ("V+r2", "1 V", NEW),
        ("V+r3", "2 V", THIRD),
    ]
    assert shelf.totals() == {CHANGES: 2}


def test_every_version_counts_for_itself(shelf):
    """One version's second fingerprint is not another one's."""
    assert numbers(shelf, place(OLD), place(NEW), place(NEW, version="W"), place(OLD, version="W")) == [1, 2, 1, 2]


def test_two_hosts_of_one_version_differ_without_a_change(shelf):
    """Each host begins without a suffix; a number is given once for both, so that `+r2` is one build."""
    at = {"there": place(THIRD, upstream="azure"), "changed": place(OLD, upstream="azure")}

    assert numbers(shelf, place(OLD), at["there"], place(NEW), at["changed"]) == [1, 1, 2, 3]
    assert [one["upstream"] for one in shelf.changes()] == ["default", "azure"]


def test_an_answer_without_a_fingerprint_belongs_to_no_revision(shelf):
    """It neither takes the first number nor changes anything."""
    assert numbers(shelf, place(""), place(OLD), place(""), place(NEW)) == [0, 1, 0, 2]


def test_beyond_twenty_revisions_all_are_one(shelf):
    """An upstream with a new fingerprint each time fills no place of others, and is one last event."""
    found = numbers(shelf, *(place(f"fp-{number}") for number in range(30)))

    assert found == [*range(1, MOST + 1), *[MOST + 1] * 10]
    assert [one["version"] for one in shelf.changes()] == [f"V+r{number}" for number in range(2, MOST + 1)] + [
        "V+other"
    ]
    assert numbers(shelf, place("fp-5"), place("fp-28")) == [6, MOST + 1]


def test_a_name_that_means_another_version_is_a_change(shelf):
    """Also where every fingerprint is known to the catalog. Each version of a name is news once."""
    numbers(shelf, place(OLD), place(NEW, version="W"), place(OLD), place(NEW, version="W", model="n"))

    assert [(one["kind"], one["version"], one["before"], one["model"]) for one in shelf.changes()] == [
        ("version", "W", "1 V", "m")
    ]


def test_a_change_seen_under_two_names_is_one(shelf):
    """Two aliases of one version: the build changed once."""
    numbers(shelf, place(OLD), place(OLD, model="n"), place(NEW), place(NEW, model="n"))

    assert len(shelf.changes()) == 1


def test_cost_before_and_after_is_split_exactly(shelf, journal):
    """Each record is counted under its tag, and kept under it; suffixes behind the prefix are no change."""
    builds = [OLD, f"{OLD}_prod0425fp8", NEW, f"{OLD}_prod0623_fp8_kvcache", NEW, ""]
    records = [record(number, fingerprint=name) for number, name in enumerate(builds, 1)]
    writer = journal("j", *records)

    async def work(store):
        async with shipping(store, writer) as shipper:
            await shipper.ship(writer.number)
        return await store.record("x-3")

    assert b'"version":"V+r2"' in shelf.run(work)
    assert versions(shelf) == {"V": 4, "V+r2": 2}
    assert added(shelf.under_their_tags(records)) | {CHANGES: 1} == shelf.totals()


def test_all_workers_and_replicas_get_the_same_answer(shelf, journal):
    """Four journals of two installations, shipped side by side: whoever asks first, one number and one event."""
    writers = [
        journal(f"j{n}", *(record(10 * n + i, fingerprint=[OLD, NEW][i // 3]) for i in range(6))) for n in range(4)
    ]

    async def one(writer):
        async with shelf.store() as store, shipping(store, writer) as shipper:
            await shipper.ship(writer.number)

    async def all_of_them():
        async with shelf.store() as store:
            await store.settle(place(OLD), Offer(), 1.0)
        await asyncio.gather(*map(one, writers))

    asyncio.run(all_of_them())

    assert versions(shelf) == {"V": 12, "V+r2": 12}
    assert len(shelf.changes()) == 1


def test_a_change_is_logged_once(shelf, journal):
    """By whoever told the registry of it; who asks later, or under another name, was not the first to see it."""
    renamed = record(4, fingerprint=OLD, version="W")
    writers = [
        journal("j", record(1, fingerprint=OLD), record(2, fingerprint=NEW), record(3, fingerprint=NEW, model="n")),
        journal("k", record(1, fingerprint=OLD), record(2, fingerprint=NEW), record(3, fingerprint=OLD), renamed),
    ]

    async def work(store):
        for writer in writers:
            async with shipping(store, writer) as shipper:
                await shipper.ship(writer.number)

    with structlog.testing.capture_logs() as logs:
        shelf.run(work)

    told = [one for one in logs if one["event"] == "version_revision"]
    assert [(one["kind"], one["version"], one["fingerprint"]) for one in told] == [
        ("revision", "V+r2", NEW),
        ("version", "W", OLD),
    ]
    assert {(one["upstream"], one["model"]) for one in told} == {("default", "m")}


def test_after_a_rollback_the_old_answer_is_offered(shelf, journal):
    """Redis forgot the registry: a new life, which never asked, still gives each build its number."""
    writer = journal("j", *(record(n, fingerprint=name) for n, name in enumerate([OLD, NEW, THIRD, NEW], 1)))

    async def before(store):
        async with shipping(store, writer) as shipper:
            await shipper.ship(4)

    shelf.run(before)
    counted = shelf.totals()
    shelf.restore({})

    async def after(store):
        revisions = Revisions(store)
        revisions.offer(Notes(writer.path))
        late = journal("k", *(record(n, fingerprint=THIRD) for n in (5, 6, 7)), record(8, fingerprint=OLD))
        async with shipping(store, late, revisions) as shipper:
            await shipper.ship(4)
        async with shipping(store, writer, revisions) as shipper:
            await shipper.ship(4)

    shelf.run(after)

    assert versions(shelf) == {"V": 2, "V+r2": 2, "V+r3": 4}
    assert counted.keys() == shelf.totals().keys()


def test_a_number_somebody_else_got_after_a_rollback_is_not_shared(shelf, journal):
    """The script compares what a batch relies on with the registry: nothing is counted under a forgotten number."""
    writer = journal("j", record(1, fingerprint=OLD), record(2, fingerprint=NEW))

    async def work(store):
        async with shipping(store, writer) as shipper:
            await shipper.ship(2)
            writer.append(encoded(record(3, fingerprint=NEW)))
            forget_the_newest(shelf)
            assert (await store.settle(place(THIRD), Offer(), 5.0)).number == 2
            await shipper.ship(3)

    shelf.run(work)

    assert versions(shelf)["V+r3"] == 1
    assert [one["version"] for one in shelf.changes()] == ["V+r2", "V+r2", "V+r3"]


def test_after_a_wipe_a_change_is_still_a_change(shelf, journal):
    """Only the newer build answers by now, and keeps its number; the next one is not taken for the first."""
    writer = journal("j", record(1, fingerprint=OLD), record(2, fingerprint=NEW))

    async def work(store):
        revisions = Revisions(store)
        async with shipping(store, writer, revisions) as shipper:
            await shipper.ship(2)
        shelf.restore({})
        late = journal("k", record(3, fingerprint=NEW), record(4, fingerprint=THIRD))
        async with shipping(store, late, revisions) as shipper:
            await shipper.ship(2)

    shelf.run(work)

    assert versions(shelf) == {"V+r2": 1, "V+r3": 1}
    assert {one["version"] for one in shelf.changes()} == {"V+r2", "V+r3"}


def test_an_answer_is_offered_under_every_name(shelf, journal):
    """What one name's record told this process holds for another name's, also when Redis has forgotten it."""
    writer = journal("j", record(1, fingerprint=OLD), record(2, fingerprint=NEW))

    async def work(store):
        revisions = Revisions(store)
        async with shipping(store, writer, revisions) as shipper:
            await shipper.ship(2)
        shelf.restore({})
        late = journal("k", record(3, fingerprint=NEW, model="n"), record(4, fingerprint=OLD))
        async with shipping(store, late, revisions) as shipper:
            await shipper.ship(2)

    shelf.run(work)

    assert versions(shelf) == {"V": 1, "V+r2": 1}


def test_a_fingerprint_has_one_number_in_a_batch(shelf, journal):
    """Remembered under one name and asked for under another: the newer answer is both records'."""
    writer = journal("j", record(1, fingerprint=OLD), record(2, fingerprint=NEW))

    async def work(store):
        async with shipping(store, writer) as shipper:
            await shipper.ship(2)
            forget_the_newest(shelf)
            assert (await store.settle(place(THIRD), Offer(), 5.0)).number == 2
            for one in (record(3, fingerprint=NEW), record(4, fingerprint=NEW, model="n")):
                writer.append(encoded(one))
            await shipper.ship(4)

    shelf.run(work)

    assert versions(shelf) == {"V": 1, "V+r2": 1, "V+r3": 2}


def test_a_served_name_nobody_knows_is_a_change(shelf, journal):
    """The likeliest one of all: a name that begins to serve a model the catalog has not heard of."""
    known = {"served_model": "m", "fingerprint": OLD}
    new = {"version": "deepseek-v5", "served_model": "deepseek-v5", "how": How.SERVED_NAME}
    writer = journal("j", record(1, **known), *(record(n, fingerprint=f"fp-{n}", **new) for n in (2, 3, 4)))

    async def work(store):
        async with shipping(store, writer) as shipper:
            await shipper.ship(4)

    shelf.run(work)

    assert [(one["kind"], one["version"], one["before"]) for one in shelf.changes()] == [
        ("version", "deepseek-v5", "1 V")
    ]
    assert versions(shelf) == {"V": 1, "deepseek-v5": 3}


def test_a_torn_note_costs_its_offer_only(tmp_path):
    """The lines before and behind it are read."""
    notes = Notes(tmp_path)
    notes.keep(("V", "default", OLD), 1)
    with (tmp_path / NOTES).open("ab") as file:
        file.write(b'["V","default","fp\n')
    notes.keep(("V", "default", NEW), 2)
    notes.keep(("V", "default", NEW), 2)

    assert Notes(tmp_path).read() == [(("V", "default", OLD), 1), (("V", "default", NEW), 2)]


def test_a_disk_that_refuses_notes_stops_nothing(tmp_path):
    """They are a help after a rollback, no more."""
    notes = Notes(tmp_path / "not there")

    notes.keep(("V", "default", OLD), 1)

    assert notes.read() == []


def test_an_expected_revision_is_judged_when_it_is_known(shelf, journal):
    """The client asked for the build before: counted by what it expected and what answered."""
    writer = journal("j", record(1, fingerprint=OLD), record(2, fingerprint=NEW, expected_version="V+r1"))

    async def work(store):
        async with shipping(store, writer) as shipper:
            await shipper.ship(2)

    shelf.run(work)

    assert shelf.totals()["version_mismatches_total", "V+r1", "V+r2"] == 1
