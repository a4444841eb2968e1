from console.given import report

from proxy.child import OVERHEAD_BUCKETS_S
from proxy.console.workers import FRESH_S, Workers


def taken(*reports):
    workers = Workers()
    for one in reports:
        workers.take(one, 0.0)
    return workers


def overhead(workers):
    counts, sum_s = workers.overhead()
    return counts[:2], sum(counts), sum_s


def test_the_newest_report_of_a_slot_stands():
    """Counts are since the start of a life, so the newer report of a life takes the older one's place."""
    workers = taken(report(0, buckets=[1], sum_s=0.1), report(0, buckets=[2, 1], sum_s=0.3))

    assert overhead(workers) == ([2, 1], 3, 0.3)
    assert workers.restarts == 0


def test_workers_are_added_up():
    """The overhead is one histogram over all slots."""
    workers = taken(report(0, buckets=[1], sum_s=0.25), report(1, buckets=[2, 1], sum_s=0.5))

    assert overhead(workers) == ([3, 1], 4, 0.75)
    assert [one.slot for one in workers.fresh(1.0)] == [0, 1]


def test_a_restart_takes_nothing_back():
    """What an ended life had counted stays, so that no counter of the installation ever falls."""
    workers = taken(
        report(0, "a", buckets=[5], sum_s=1.0),
        report(0, "b"),
        report(0, "b", buckets=[1, 1], sum_s=0.5),
        report(0, "c", buckets=[0, 1], sum_s=0.25),
    )

    assert overhead(workers) == ([6, 2], 8, 1.75)
    assert workers.restarts == 2
    assert len(workers.overhead()[0]) == len(OVERHEAD_BUCKETS_S) + 1


def test_the_same_answer_twice():
    """Asking for the overhead changes nothing."""
    workers = taken(report(0, "a", buckets=[5]), report(0, "b", buckets=[1]))

    assert workers.overhead() == workers.overhead()


def test_a_worker_that_has_fallen_silent_is_down():
    """Its counts stay, its state is no longer shown."""
    workers = Workers()
    workers.take(report(1, buckets=[1]), 0.0)
    workers.take(report(0, buckets=[1]), 3.0)

    assert [one.slot for one in workers.fresh(FRESH_S - 0.01)] == [0, 1]
    assert [one.slot for one in workers.fresh(FRESH_S)] == [0]
    assert workers.fresh(FRESH_S + 3.0) == []
    assert sum(workers.overhead()[0]) == 2


def test_nobody_has_reported_yet():
    """Without a report there is nothing, and no restart."""
    assert ([], [0] * (len(OVERHEAD_BUCKETS_S) + 1), 0.0, 0) == (
        Workers().fresh(0.0),
        *Workers().overhead(),
        Workers().restarts,
    )


def test_estimates_and_silent_streams_are_added_up_over_slots_and_lives():
    """Figures of ended lives stay; those of the newest life of each slot are added."""
    workers = taken(
        report(0, "a", estimates=[("V", "prompt", 1, 100, 98, 2)], streams_without_usage={"default": 3}),
        report(0, "b", estimates=[("V", "prompt", 2, 50, 51, 1), ("V", "answer", 2, 9, 9, 0)]),
        report(1, "c", estimates=[("V", "prompt", 1, 10, 10, 0)], streams_without_usage={"default": 1, "azure": 2}),
    )

    assert workers.estimates() == {("V", "answer"): (2, 9, 9, 0), ("V", "prompt"): (4, 160, 159, 3)}
    assert workers.streams_without_usage() == {"default": 4, "azure": 2}
