"""Names that are too many together: their combinations have room for so many series, and totals stay right. On a real Redis."""

import itertools
import random

import msgspec
import pytest
import structlog
from ledger.test_places import asked, batched, counted

from proxy.console.metrics import global_families
from proxy.console.series import series_of
from proxy.ledger.combinations import COMBINATIONS, OTHER, ROOMS, SHARING, weights
from proxy.ledger.families import FAMILIES, PREFIX
from proxy.ledger.places import Places
from proxy.ledger.tally import Retention, fold
from proxy.usage import Api, Band, Charge, Missing, Outcome, Purpose, Rule, Source


def crowd(length):
    """Records of few enough names that are too many together: every app with every version and model. By one seed."""
    chance = random.Random(7)
    return [
        asked(
            number,
            app=f"app-{chance.randrange(150)}",
            model=f"m{chance.randrange(20)}",
            version=f"v{chance.randrange(30)}+r{chance.randrange(2, 5)}",
            version_mismatch=f"v{chance.randrange(30)}",
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
    for app, model, expected in (
        (OTHER, OTHER, OTHER),
        ("app", OTHER, OTHER),
        ("app", "model", OTHER),
        ("app", "model", "expected"),
    ):  # one store: each adds to what was there before
        records = whole(version="V", app=app, model=model, version_mismatch=expected)
        _, series = applied(shelf, records, is_named=lambda *_: True, journal=app + model + expected)
        sizes.append(len(series))

    steps = [found["version"], found["app"], found["model"], found["version_mismatch"]]
    assert sizes == list(itertools.accumulate(steps))


def test_names_that_are_too_many_together_stay_below_the_cap_of_the_whole(shelf):
    """90 versions by 20 models by 150 apps: the samples stay below the cap, and the totals are exact."""
    records = crowd(8_000)
    counted, series = applied(shelf, records)

    assert len(series) <= ROOMS["model"].anybodys + ROOMS["app"].anybodys
    assert total(series, "requests_total") == total(series, "app_requests_total") == len(records)
    assert total(series, "tokens_total") == sum(one.usage.total for one in records)
    for label in COMBINATIONS:
        assert len({getattr(one, label) for one in counted}) > 5  # those that came first keep their own
        assert OTHER in {getattr(one, label) for one in counted}


def test_the_rooms_leave_enough_of_twenty_thousand_for_gauges():
    """The names and fingerprints of versions can be 2,000 of them, and each room is shared by those that say so."""
    rooms = {tuple(sorted(sharing)): ROOMS[field] for field, sharing in SHARING.items()}

    assert all(ROOMS[field] == rooms[tuple(sorted(sharing))] for field, sharing in SHARING.items())
    assert 2_000 < 20_000 - sum(room.named for room in rooms.values()) < 4_000


def test_every_label_that_is_a_name_is_in_a_combination():
    """Otherwise there would be more series than what was reckoned with; so far a version is part of all of them."""
    names = {"upstream", "version", "model", "app", "expected"}
    for family in FAMILIES.values():
        own = {label.replace("expected", "version_mismatch") for label in names & set(family.labels)}
        assert "version" not in own or any(own <= set(combination) for combination in COMBINATIONS.values()), family


@pytest.mark.parametrize("version", ["V1", "none", "unknown"])
def test_versions_of_the_catalog_and_what_has_none_are_counted_as_they_are_always(shelf, version):
    """However full it is, and however many there are of them."""
    records = [asked(number, version=f"V{number % 200}") for number in range(400)]
    found = counted(shelf, [*records, asked(9_000, version=version)], is_named=lambda _, name: name.startswith("V"))

    assert [one.version for one in found] == [one.version for one in [*records, asked(1, version=version)]]


@pytest.mark.parametrize("field", COMBINATIONS)
def test_even_what_is_named_ends_somewhere(shelf, field):
    """Revisions of the catalog's versions, models of the settings, apps of client keys, and what is expected of them."""
    several = {"version": "V{}+r2", "model": "m{}", "app": "a{}", "version_mismatch": "V{}+r2"}
    versions = [f"V{number}" for number in range(1 if field in ("version", "model") else 10)]
    records = [
        asked(number, **{"version": version, field: several[field].format(number)})
        for version in versions
        for number in range(1_100)
    ]
    found = counted(shelf, records, is_named=lambda *_: True)
    kept = sum(getattr(one, field) != OTHER for one in found)
    others = (
        (1 + 1) * weights()["version"] + weights()["model"] if field in ("version", "model") else 10 * weights()["app"]
    )

    assert ROOMS[field].anybodys < kept * weights()[field] + others <= ROOMS[field].named + others


def test_an_exchange_that_failed_is_no_reason_for_series_of_an_app(shelf):
    """It is counted; under the app's own name where the app has its series with that version already."""
    first, failed, elsewhere = asked(1), asked(2, status=500), asked(3, status=500, version="C")
    found = counted(shelf, [first, failed, elsewhere], is_named=lambda _, name: name == "C")

    assert [one.app for one in found] == ["a", "a", OTHER]


@pytest.mark.parametrize("fields", [{}, {"status": 0, "outcome": Outcome.INTERRUPTED}])
def test_an_app_whose_answers_tell_no_usage_is_counted(shelf, fields):
    """It is the model and the version that are doubted then. What a crash interrupted is the app's, too."""
    (found,) = counted(shelf, [asked(1, source=Source.ESTIMATED, **fields)])

    assert (found.app, found.model, found.version) == ("a", OTHER, OTHER)


def test_one_that_is_known_vouches_for_nobody_beside_it(shelf):
    """Neither for another app of its batch, nor for another expectation."""
    records = [asked(1), asked(2, app="b", status=500), asked(3, version_mismatch="W", status=500)]

    async def run(store):
        places = Places(store)
        await places.fold(records[:1])
        return await places.fold(records)

    assert [(one.app, one.version_mismatch) for one in shelf.run(run)] == [("a", ""), (OTHER, ""), ("a", OTHER)]


def test_what_has_no_room_is_counted_as_other_for_good_and_asked_for_once(shelf):
    """One who was sent away does not get in by coming again, and costs Redis no call per exchange."""
    late = [asked(9_000, app="late", version="v0+r2"), asked(9_001, model="late", version="v0+r2")]

    async def run(store):
        places, calls, ask = Places(store), [], store.places
        for some in batched(crowd(8_000), 128):
            await places.fold(some)
        first = [await places.fold([one]) for one in late]
        store.hashes = None
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

    async def run(store):
        places = Places(store)
        for some in batched(crowd(6_000), 128):
            await places.fold(some)
        for field in COMBINATIONS:
            shelf.client.delete(store.key(f"places:series:{field}"))
        for field in COMBINATIONS:
            new = {"version": "v0+r2", "model": "m0", "app": "app-0", "version_mismatch": "v0", field: "v11+r9"}
            await places.fold([asked(1, **new)])
        return {field: shelf.client.scard(store.key(f"places:series:{field}")) for field in COMBINATIONS}

    taken = {field: count * weights()[field] for field, count in shelf.run(run).items()}
    for field, sharing in SHARING.items():
        assert ROOMS[field].anybodys * 0.9 < sum(taken[one] for one in sharing) <= ROOMS[field].anybodys


def test_a_process_begins_with_what_has_its_series(shelf):
    """Counters of a release that gave no places, or of before Redis was set back, go on; they are not folded half-way."""
    before = [
        asked(number, app=f"app-{number}", model=f"m{number % 90}", version=f"v{number % 45}")
        for number in range(1, 1_500)
    ]

    async def run(store):
        await store.apply(fold("j", 1, before, Retention()))
        found = await Places(store).fold(
            [*before, *(asked(number, app=f"new-{number}") for number in range(1_500, 1_600))]
        )
        return found[: len(before)], {one.app for one in found[len(before) :]}

    assert shelf.run(run) == (before, {OTHER})


def test_what_is_named_takes_nobody_s_place_at_a_start_either(shelf):
    """150 apps of the operator have their series; 200 others still get a place."""
    before = [asked(number, app=f"ours-{number}") for number in range(1, 151)]

    async def run(store):
        await store.apply(fold("j", 1, before, Retention()))
        places = Places(store, lambda _, name: name.startswith("ours"))
        return await places.fold([asked(number, app=f"app-{number}") for number in range(1, 201)])

    assert OTHER not in {one.app for one in shelf.run(run)}


def test_whoever_has_no_key_takes_no_room(shelf):
    """Made-up apps under every version of the catalog, all refused by the upstream: what comes after is counted by itself."""
    junk = [
        asked(n, app=f"junk-{n % 190}", version=f"C{n % 20}", status=401, source=Source.NONE) for n in range(1, 4_000)
    ]
    good = asked(4_000, app="mine", model="deepseek-v5", version="V5")
    found = counted(shelf, [*junk, good], is_named=lambda field, name: field == "version" and name.startswith("C"))

    assert found[-1] == good
    assert {one.app for one in found[:-1]} == {OTHER}


def test_apps_never_take_the_room_of_versions_and_models(shelf):
    """In managed mode every app is named by the operator; a silent swap is told whatever they are and do."""
    apps = [
        asked(n, app=f"app-{n % 251}", version=f"C{n % 20}", version_mismatch=f"E{n % 40}") for n in range(1, 5_001)
    ]
    swap = asked(5_001, version="C3+r2")
    found = counted(shelf, [*apps, swap], is_named=lambda field, name: field == "app" or name.startswith("C"))

    assert OTHER in {one.app for one in found}
    assert (found[-1].version, found[-1].model) == ("C3+r2", "m")


def test_what_is_expected_is_named_as_a_version_is(shelf):
    """Whoever tells what is named knows apps, models and versions, and nothing else."""
    asked_for = set()

    def is_named(label, name):
        asked_for.add(label)
        return (label, name) == ("version", "V")

    refused = asked(1, version="V", version_mismatch="V+r2", status=500)
    assert counted(shelf, [refused], is_named=is_named) == [msgspec.structs.replace(refused, model=OTHER, app=OTHER)]
    assert asked_for == {"app", "model", "version"}


def test_what_the_catalog_comes_to_name_is_counted_from_then_on(shelf):
    """By the worker that had sent it away as well: a new catalog is the remedy, and needs no restart."""
    catalog = set()
    new = asked(9_000, model="deepseek-v5", version="V5")

    async def run(store):
        places = Places(store, lambda _, name: name in catalog)
        for some in batched(crowd(8_000), 128):
            await places.fold(some)
        before = await places.fold([new])
        catalog.update({"V5", "deepseek-v5"})
        return [(one.version, one.model) for one in (*before, *await places.fold([new]))]

    assert shelf.run(run) == [(OTHER, OTHER), ("V5", "deepseek-v5")]


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
