"""Names that clients invent fill neither Redis nor Prometheus: the real script on a real Redis."""

import random

import msgspec
import pytest
import structlog
from ledger.given import record

from proxy.console.metrics import global_families
from proxy.console.series import series_of
from proxy.ledger.combinations import COMBINATIONS, Room, weights
from proxy.ledger.families import FAMILIES, PREFIX
from proxy.ledger.places import CAPS, OTHER, Places
from proxy.ledger.tally import Retention, fold
from proxy.usage import Api, Band, Charge, Missing, Outcome, Purpose, Rule, Source


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


def crowd(length):
    """Records of few enough names that are too many together: every app with every version and model. By one seed."""
    chance = random.Random(7)
    return [
        asked(
            number,
            app=f"app-{chance.randrange(150)}",
            model=f"m{chance.randrange(20)}",
            version=f"v{chance.randrange(12)}+r{chance.randrange(2, 5)}",
        )
        for number in range(1, length + 1)
    ]


def applied(shelf, records, *, workers=4, is_named=lambda *_: False, size=32, journal="j"):
    """The records as several workers count and apply them in turn; and the samples that come of it, by family and labels."""

    async def run(store):
        every = [Places(store, is_named) for _ in range(workers)]
        counted, numbers = [], [1] * workers
        for turn, some in enumerate(batched(records, size)):
            worker = turn % workers
            found = await every[worker].fold(some)
            await store.apply(fold(f"{journal}{worker}", numbers[worker], found, Retention()))
            numbers[worker] += len(found)
            counted += found
        return counted, samples(await store.snapshot())

    return shelf.run(run)


def samples(snapshot):
    """What a scrape shows of the store, but for what is there once."""
    families = global_families(series_of(snapshot, 0), created=False)
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
        if "version" in sample.labels
    }


def total(series, family):
    return sum(value for (name, _), value in series.items() if name == PREFIX + family)


def whole(**names):
    """Records that have, between them, every series that one combination can have."""
    kinds = [
        {"source": source, "missing": missing} for source in (Source.REPORTED, Source.ESTIMATED) for missing in Missing
    ]
    kinds += [{"api": api, "outcome": outcome} for api in Api for outcome in Outcome]
    kinds += [{"violations": tuple(Rule), "purpose": purpose} for purpose in Purpose]
    kinds += [{"version_mismatch": f"expected-{number}"} for number in range(20)]
    unpriced = [{"charges": (), "source": source} for source in (Source.REPORTED, Source.ESTIMATED)]
    dear = tuple(
        Charge(currency, "p", Band.PEAK, (1, 1, 1, 1), uncertain_nanos=1, saved_nanos=1, premium_nanos=1)
        for currency in ("USD", "CNY")
    )
    given = [{"charges": dear, **fields} for fields in kinds] + unpriced
    return [asked(number, **fields, **names) for number, fields in enumerate(given, start=1)]


def test_a_combination_is_reckoned_with_all_the_series_it_can_ever_have(shelf):
    """No sample more can come of it than it was given room for, and none less was ever held back."""
    found = weights()
    sizes = []
    for app, model in (
        (OTHER, OTHER),
        ("app", OTHER),
        ("app", "model"),
    ):  # one store: each adds to what was there before
        _, series = applied(
            shelf, whole(version="V", app=app, model=model), is_named=lambda *_: True, journal=app + model
        )
        sizes.append(len(series))

    assert sizes == [found["version"], found["version"] + found["app"], sum(found.values())]


def test_names_that_are_too_many_together_stay_below_the_cap_of_the_whole(shelf):
    """36 versions by 20 models by 150 apps: the samples stay below the cap, and the totals are exact."""
    records = crowd(8_000)
    counted, series = applied(shelf, records)

    assert len(series) <= Room().anybodys
    assert total(series, "requests_total") == total(series, "app_requests_total") == len(records)
    assert total(series, "tokens_total") == sum(one.usage.total for one in records)
    for label in COMBINATIONS:
        assert len({getattr(one, label) for one in counted}) > 5  # those that came first keep their own
        assert OTHER in {getattr(one, label) for one in counted}


def test_every_label_that_is_a_name_is_in_a_combination():
    """Otherwise there would be more series than what was reckoned with; so far a version is part of all of them."""
    names = {"upstream", "version", "model", "app"}
    for family in FAMILIES.values():
        own = names & set(family.labels)
        assert "version" not in own or any(own <= set(combination) for combination in COMBINATIONS.values()), family


@pytest.mark.parametrize("version", ["V1", "none", "unknown"])
def test_versions_of_the_catalog_and_what_has_none_are_counted_as_they_are_always(shelf, version):
    """However full it is, and however many there are of them."""
    records = [asked(number, version=f"V{number % 200}") for number in range(400)]
    found = counted(shelf, [*records, asked(9_000, version=version)], is_named=lambda label, _: label == "version")

    assert [one.version for one in found] == [one.version for one in [*records, asked(1, version=version)]]


def test_what_has_no_room_is_counted_as_other_for_good_and_asked_for_once(shelf):
    """One who was sent away does not get in by coming again, and costs Redis no call per exchange."""
    late = [asked(9_000, app="late", version="v0+r2"), asked(9_001, model="late", version="v0+r2")]

    async def run(store):
        places, calls, ask = Places(store), [], store.places
        for some in batched(crowd(8_000), 128):
            await places.fold(some)
        first = [await places.fold([one]) for one in late]
        store.places = lambda *arguments: calls.append(arguments) or ask(*arguments)
        every = first + [await places.fold([one]) for one in late * 2]
        return [(one.app, one.model) for (one,) in every], len(calls)

    found, calls = shelf.run(run)
    assert found == [(OTHER, OTHER), (OTHER, OTHER)] * 3
    assert calls == 0


@pytest.mark.parametrize("label", COMBINATIONS)
def test_what_has_its_series_keeps_them(shelf, label):
    """Counted by itself once, a combination is so ever after and by every worker: no counter stops beside its own traffic."""
    records = crowd(4_000)
    counted, _ = applied(shelf, records + records[:1_000])
    own, folded = set(), []
    for one, sent in zip(counted, records + records[:1_000], strict=True):
        combination = tuple(getattr(sent, part) for part in COMBINATIONS[label])
        if getattr(one, label) == getattr(sent, label) and one.version == sent.version:
            own.add(combination)
        elif combination in own:
            folded.append(combination)

    assert own
    assert folded == []


def test_what_is_named_has_room_when_nobody_else_has(shelf):
    """The operator's app and the catalog's model come last, and have their own series; a version of the catalog always."""
    late = asked(9_000, app="billing", model="deepseek-flash", version="DeepSeek-V4.1-Flash-1017")
    named = {("app", "billing"), ("model", "deepseek-flash"), ("version", "DeepSeek-V4.1-Flash-1017")}
    stranger = msgspec.structs.replace(late, app="stranger", model="m1")
    is_named = lambda label, name: (label, name) in named  # noqa: E731
    counted, series = applied(shelf, [*crowd(8_000), late, stranger], is_named=is_named)

    assert counted[-2] == late
    assert (counted[-1].app, counted[-1].model, counted[-1].version) == (OTHER, OTHER, late.version)
    assert (f"{PREFIX}app_requests_total", ("billing", late.version)) in series


def test_what_a_store_has_forgotten_of_combinations_it_is_told(shelf):
    """After a wipe the room of those who have series is taken, before anybody new gets any."""
    records = crowd(6_000)

    async def run(store):
        places = Places(store)
        for some in batched(records, 128):
            await places.fold(some)
        for label in COMBINATIONS:
            shelf.client.delete(store.key(f"places:series:{label}"))
        for label in ("version", "model", "app"):
            await places.fold([asked(1, **{"version": "v0+r2", "model": "m0", "app": "app-0", label: "v11+r9"})])
        return [shelf.client.scard(store.key(f"places:series:{label}")) for label in COMBINATIONS]

    assert (
        sum(taken * weight for taken, weight in zip(shelf.run(run), weights().values(), strict=True)) <= Room().anybodys
    )


@pytest.mark.parametrize(
    ("event", "labels", "records"),
    [
        ("names_counted_as_other", ["app"], [asked(number, app=f"app-{number}") for number in range(1, 1_000)]),
        ("series_counted_as_other", sorted(COMBINATIONS), crowd(3_000)),
    ],
)
def test_that_names_are_folded_is_said_once(shelf, event, labels, records):
    """An operator who wonders about `other` finds why in the log, and no line per exchange."""
    with structlog.testing.capture_logs() as logs:
        counted(shelf, records)

    assert sorted((line["event"], line["label"]) for line in logs) == [(event, label) for label in labels]


def test_what_is_known_to_be_counted_as_it_is_asks_nobody(shelf):
    """The many exchanges of an app under way cost the store nothing."""

    async def run(store):
        places, calls = Places(store), []
        await places.fold([asked(1), asked(2, app="b")])
        store.places = lambda *arguments: calls.append(arguments)
        return await places.fold([asked(3), asked(4, app="b")]), calls

    found, calls = shelf.run(run)
    assert (found, calls) == ([asked(3), asked(4, app="b")], [])
