"""A store that went back behind what was shown is not shown before it has caught up."""

import pytest
from console.given import snapshot

from proxy.console.high_water import GIVE_UP_S, HighWater, Seen, load, save
from proxy.ledger.watermark import YOUNG_S

EPOCH = 1_000_000
OLD_S = float(EPOCH + YOUNG_S)


def numbers(epoch=EPOCH, taken_s=OLD_S, **found):
    """A snapshot with these numbers of journals."""
    import msgspec

    taken = {name.encode(): str(number).encode() for name, number in found.items()}
    return msgspec.structs.replace(snapshot(taken_s=taken_s), epoch=epoch, numbers=taken)


def test_what_grows_is_shown():
    """Also new journals, and one that is gone for good only because it was never seen."""
    seen = HighWater()

    assert [seen.take(numbers(), 0), seen.take(numbers(a=5), 1), seen.take(numbers(a=6, b=1), 2)] == [True] * 3
    assert not seen.catching_up


def test_what_went_back_is_shown_when_it_has_caught_up():
    """Every journal has to be where it was; further is fine."""
    seen = HighWater()
    seen.take(numbers(a=50, b=7), 0)
    steps = [numbers(a=20, b=7), numbers(a=20), numbers(a=50, b=3), numbers(a=52, b=7)]

    assert [seen.take(step, 1) for step in steps] == [False, False, False, True]
    assert not seen.catching_up


def test_a_console_started_again_still_knows(tmp_path):
    """A Redis that lost its last seconds and a console that was restarted with it: still no fall is shown."""
    file = tmp_path / "seen.json"
    first = HighWater(load(file))
    first.take(numbers(a=50), 0)
    save(file, first.seen)
    second = HighWater(load(file))

    assert not second.take(numbers(a=40), 0)
    assert second.catching_up
    file.write_bytes(file.read_bytes()[:20])
    assert load(file) == Seen()


@pytest.mark.parametrize(("taken_s", "shown"), [(OLD_S, True), (OLD_S - 1, False)])
def test_another_history_begins_anew(taken_s, shown):
    """A wiped store shows what it has; one so young that all is sent again is waited for."""
    seen = HighWater()
    seen.take(numbers(a=50, taken_s=taken_s), 0)

    assert seen.take(numbers(epoch=2 * EPOCH, a=1), 1) is shown


def test_a_store_without_an_epoch_is_not_shown():
    """Nobody has compared his journal with it yet."""
    seen = HighWater()

    assert not seen.take(numbers(epoch=0), 0)
    assert seen.catching_up


def test_what_nobody_catches_up_is_given_up():
    """Whoever could have sent it again is gone: after a while the counters are shown as they are."""
    seen = HighWater()
    seen.take(numbers(a=50, b=50), 0)
    shown = [
        seen.take(numbers(a=10, b=10), 1),
        seen.take(numbers(a=10, b=50), GIVE_UP_S),
        seen.take(numbers(a=10, b=51), 2 * GIVE_UP_S - 1),
        seen.take(numbers(a=10, b=52), 2 * GIVE_UP_S),
        seen.take(numbers(a=11, b=52), 2 * GIVE_UP_S + 1),
    ]

    assert shown == [False, False, False, True, True]
