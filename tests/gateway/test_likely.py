"""What is learned of traffic: how good a quantile is, whose traffic tells for whom, what is forgotten, and how much is kept."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger.given import record

from proxy.gateway import likely as module
from proxy.gateway.likely import COLD, ENOUGH, FORGETS_AFTER, SHARE, Learner, Likely, Quantile
from proxy.metering.request import RequestFacts
from proxy.usage import Api, Source, TokenUsage

BODY = 1000
A_FIFTH = 1.2


def asked(body_bytes=BODY):
    return RequestFacts(Api.CHAT, "m", body_bytes=body_bytes)


def teach(learner, times=ENOUGH, *, output=100, hit=10, miss=300, body_bytes=BODY, **changes):
    usage = TokenUsage(hit, miss, output // 4, output - output // 4)
    for _ in range(times):
        learner.note(record(usage=usage, **changes), asked(body_bytes))


def a_fifth_above_at_most(found, true):
    return true <= found * (1 + 1e-9) and found <= true * A_FIFTH


# The quantile.


@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e7)), min_size=1, max_size=60), st.floats(0.05, 1.0))
def test_a_quantile_is_never_below_the_true_one_and_at_most_a_fifth_above(values, share):
    """The true one: the smallest number that so large a share does not exceed."""
    quantile = Quantile()
    for value in values:
        quantile.note(value)

    true = sorted(values)[math.ceil(share * len(values)) - 1]

    assert a_fifth_above_at_most(quantile.value(share), true)


def test_nothing_seen_is_nothing():
    assert Quantile().value(SHARE) == 0.0


def test_zeros_are_seen_as_zeros():
    quantile = Quantile()
    for value in [0] * 9 + [50]:
        quantile.note(value)

    assert quantile.value(0.9) == 0.0
    assert a_fifth_above_at_most(quantile.value(0.95), 50)


@pytest.mark.parametrize(("times", "known"), [(ENOUGH - 1, False), (ENOUGH, True)])
def test_a_quantile_is_known_once_enough_was_seen(times, known):
    quantile = Quantile()
    for _ in range(times):
        quantile.note(1)

    assert quantile.is_known is known


def test_what_changed_is_believed_before_as_much_was_seen_again():
    """Old traffic is forgotten by halves: the new outweighs it soon, however long the old one was."""
    quantile = Quantile()
    for _ in range(20 * FORGETS_AFTER):
        quantile.note(1000)
    for _ in range(4 * FORGETS_AFTER):
        quantile.note(10)

    assert a_fifth_above_at_most(quantile.value(SHARE), 10)
    assert quantile.is_known


def test_what_is_kept_of_a_quantile_does_not_grow_with_what_was_seen():
    quantile = Quantile()
    for number in range(10 * FORGETS_AFTER):
        quantile.note(2.0 ** (number % 400 - 200))  # each a step of its own, and once in 400
    for _ in range(20 * FORGETS_AFTER):
        quantile.note(1)

    assert len(quantile._counts) == 1


# Whose traffic tells.


def test_before_there_is_traffic_a_guess_holds():
    assert Learner().likely("a", "V") == COLD


def test_so_long_as_there_is_too_little_of_it_the_guess_holds():
    learner = Learner()
    teach(learner, ENOUGH - 1)

    assert learner.likely("a", "V") == COLD


def test_an_app_s_own_traffic_tells_tokens_by_the_byte_and_output():
    learner = Learner()
    teach(learner, hit=100, miss=300, output=700)

    found = learner.likely("a", "V")

    assert a_fifth_above_at_most(found.hit_per_byte, 0.1)
    assert a_fifth_above_at_most(found.miss_per_byte, 0.3)
    assert a_fifth_above_at_most(found.output, 700)


def test_input_goes_by_the_size_of_the_body():
    learner = Learner()
    teach(learner, miss=300, body_bytes=600)

    assert a_fifth_above_at_most(learner.likely("a", "V").miss_per_byte, 0.5)


def test_of_ten_exchanges_nine_take_no_more():
    learner = Learner()
    for output in [10] * 70 + [100] * 20 + [10_000] * 10:
        teach(learner, 1, output=output)

    assert a_fifth_above_at_most(learner.likely("a", "V").output, 100)


def test_an_app_without_traffic_of_its_own_goes_by_the_version_s():
    learner = Learner()
    teach(learner, app="busy", output=500)

    assert learner.likely("new", "V") == learner.likely("busy", "V") != COLD
    assert learner.likely("busy", "W") == COLD


def test_an_app_with_enough_of_its_own_does_not_go_by_others():
    learner = Learner()
    teach(learner, 10 * ENOUGH, app="long", output=5000)
    teach(learner, app="short", output=10)

    assert a_fifth_above_at_most(learner.likely("short", "V").output, 10)
    assert a_fifth_above_at_most(learner.likely("new", "V").output, 5000)


def test_an_app_with_too_little_of_its_own_goes_by_the_version_s():
    learner = Learner()
    teach(learner, 10 * ENOUGH, app="long", output=5000)
    teach(learner, ENOUGH - 1, app="short", output=10)

    assert a_fifth_above_at_most(learner.likely("short", "V").output, 5000)


def test_a_revision_is_learned_as_its_version():
    learner = Learner()
    teach(learner, version="V+r2")

    assert learner.likely("a", "V") != COLD


@pytest.mark.parametrize(
    "changes",
    [{"source": Source.ESTIMATED}, {"source": Source.NONE}],
    ids=["estimated", "none"],
)
def test_only_what_was_reported_is_learned(changes):
    learner = Learner()
    teach(learner, **changes)

    assert learner.likely("a", "V") == COLD


def test_what_has_no_body_or_no_usage_is_not_learned():
    learner = Learner()
    teach(learner, body_bytes=0)
    for _ in range(ENOUGH):
        learner.note(record(usage=None), asked())

    assert learner.likely("a", "V") == COLD


# Memory is bounded.


def test_names_that_clients_make_up_take_no_more_than_their_room(monkeypatch):
    monkeypatch.setattr(module, "MOST_PLACES", 50)
    learner = Learner()
    for number in range(200):
        teach(learner, 1, app=f"made-up-{number}", version=f"V{number % 3}")

    assert repr(learner) == "<Learner of 50>"


def test_names_that_clients_make_up_do_not_push_out_those_in_use(monkeypatch):
    monkeypatch.setattr(module, "MOST_PLACES", 50)
    learner = Learner()
    teach(learner, app="used", output=9)
    teach(learner, app="left", output=9)
    for number in range(200):
        teach(learner, 1, app=f"made-up-{number}", output=5000)
        if number % 20 == 0:
            teach(learner, 1, app="used", output=9)

    assert a_fifth_above_at_most(learner.likely("used", "V").output, 9)
    assert learner.likely("left", "V") == learner.likely("", "V") != COLD


def test_the_guess_is_a_token_for_every_two_bytes_and_nothing_cached():
    assert Likely(0.0, 0.5, 2048.0) == COLD
