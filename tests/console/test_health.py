import pytest
from console.given import report

from proxy.console.health import readiness


@pytest.mark.parametrize(
    ("reports", "store", "ready"),
    [
        ([report(0), report(1)], True, True),
        ([report(0), report(1), report(2)], True, True),
        ([report(0), report(1)], False, False),
        ([report(0)], True, False),
        ([], True, False),
        ([report(0), report(1, journal_writable=False)], True, False),
    ],
)
def test_ready_is_when_every_part_is(reports, store, ready):
    """The store answers, every journal takes records, and all workers are up."""
    state = readiness(reports, 2, store_reachable=store)

    assert ready == state.ready == state.as_json([])["ready"]


def test_the_answer_says_which_part_is_not():
    """Each part is named; doubts about the store are told and do not make it unready."""
    state = readiness([report(0, journal_writable=False)], 2, store_reachable=False)

    assert state.as_json(["it may evict keys"]) == {
        "ready": False,
        "store": "down",
        "journals": "not writable",
        "workers": {"up": 1, "expected": 2},
        "store_doubts": ["it may evict keys"],
    }
    assert readiness([report()], 1, store_reachable=True).as_json(["a doubt"])["ready"]
