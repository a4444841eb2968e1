"""Names that clients invent fill neither Redis nor Prometheus: the real script on a real Redis."""

import msgspec
import pytest
from ledger.given import record

from proxy.ledger.combinations import OTHER
from proxy.ledger.places import CAPS, Places
from proxy.usage import Source


def asked(number, **fields):
    """A record that went well, but for these fields."""
    given = {"status": 200, "source": Source.REPORTED, "app": "a", "model": "m", "version": "v"}
    return msgspec.structs.replace(record(number), **{**given, **fields})


def counted(shelf, records, is_named=lambda *_: False, batch=128):
    """The records as one worker counts them, batch by batch."""

    async def run(store):
        places = Places(store, is_named)
        return [one for some in batched(records, batch) for one in await places.fold(some)]

    return shelf.run(run)


def batched(records, size):
    return [records[start : start + size] for start in range(0, len(records), size)]


def test_ten_thousand_apps_have_two_hundred_names(shelf):
    """The first ones keep theirs, the others are one; what was counted stays the same."""
    records = [asked(number, app=f"app-{number}") for number in range(1, 10_001)]
    found = counted(shelf, records)

    assert len(found) == 10_000
    assert len({one.app for one in found} - {OTHER}) == CAPS["app"]
    assert [one.app for one in found[:200]] == [one.app for one in records[:200]]
    assert {one.app for one in found[200:]} == {OTHER}
    assert [one.usage for one in found] == [one.usage for one in records]


@pytest.mark.parametrize(("label", "known"), [("app", "billing"), ("model", "deepseek-flash"), ("version", "V4.1+r2")])
def test_what_is_named_has_its_place_always(shelf, label, known):
    """An app of `meter.toml`, a model or a version of the catalog that comes last."""
    junk = [asked(number, **{label: f"n{number}"}) for number in range(1, 400)]
    last = asked(400, **{label: known})
    found = counted(shelf, [*junk, last], is_named=lambda of, name: (of, name) == (label, known.removesuffix("+r2")))

    assert getattr(found[-1], label) == known
    assert len({getattr(one, label) for one in found[:-1]} - {OTHER}) == CAPS[label]


@pytest.mark.parametrize(
    "fields", [{"status": 404}, {"status": 400}, {"status": 502}, {"source": Source.ESTIMATED}, {"source": Source.NONE}]
)
def test_an_exchange_that_did_not_go_well_takes_no_place(shelf, fields):
    """A made-up model is answered with an error: any number of them leave all places to those that work."""
    junk = [asked(number, model=f"junk-{number}", version=f"junk-{number}", **fields) for number in range(1, 300)]
    good = asked(300, model="new-model", version="new-version")
    found = counted(shelf, [*junk, good])

    assert {(one.model, one.version) for one in found[:-1]} == {(OTHER, OTHER)}
    assert (found[-1].model, found[-1].version) == ("new-model", "new-version")


def test_a_model_whose_first_exchange_failed_gets_its_place_later(shelf):
    """What was refused once is asked again when there is more to show."""
    first, second, third = asked(1, model="m1", status=500), asked(2, model="m1"), asked(3, model="m1", status=500)

    assert [one.model for one in counted(shelf, [first, second, third], batch=1)] == [OTHER, "m1", "m1"]


def test_all_workers_agree(shelf):
    """Whoever asks second is told what the first one was given, also beyond the cap."""
    records = [asked(number, app=f"app-{number}") for number in range(1, 301)]
    here = counted(shelf, records)
    there = counted(shelf, records[::-1])[::-1]

    assert [one.app for one in here] == [one.app for one in there]


def test_what_a_store_has_forgotten_it_is_told(shelf):
    """After a wipe those who had a place keep it, before anybody new gets one."""
    records = [asked(number, app=f"app-{number}") for number in range(1, 201)]

    async def run(store):
        places = Places(store)
        await places.fold(records)
        shelf.client.delete(store.key("places:app"))
        return (await places.fold([asked(201, app="new")]))[0].app

    assert shelf.run(run) == OTHER
    assert counted(shelf, records)[5].app == "app-6"
