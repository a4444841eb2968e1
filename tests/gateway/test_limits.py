"""The limits of an exchange, with a clock that is handed in."""

import asyncio

from proxy.errors import UpstreamStalledError
from proxy.gateway.limits import ClientSide, Limits, Watch

IDLE_S, TOTAL_S = 10.0, 100.0


class Body:
    """A body under way, as the limits see it."""

    def __init__(self):
        self.total_bytes = 0
        self.seen = None

    def set_exception(self, exc):
        self.seen = exc


class Task:
    cancelled = False

    def cancel(self):
        self.cancelled = True


class Counting:
    """A loop that counts the timers it is asked for."""

    def __init__(self, loop):
        self._loop = loop
        self.timers = 0

    def time(self):
        return self._loop.time()

    def call_later(self, *arguments):
        self.timers += 1
        return self._loop.call_later(*arguments)


class Holder:
    """What a watch tells when it is over."""

    def __init__(self):
        self.forgotten = []

    def forget(self, watch):
        self.forgotten.append(watch)


def watched(*, behind=lambda: False):
    gave_up = []
    task, holder = Task(), Holder()
    watch = Watch(holder, task, ClientSide(behind, lambda: gave_up.append(True)), 0.0)
    return watch, task, holder, gave_up


def test_a_head_that_does_not_come_cancels_the_task():
    """Not before the limit; and the watch says why."""
    watch, task, holder, _ = watched()
    watch.look(IDLE_S - 0.1, IDLE_S, TOTAL_S)
    early = (task.cancelled, watch.head_is_late)
    watch.look(IDLE_S, IDLE_S, TOTAL_S)

    assert early == (False, False)
    assert (task.cancelled, watch.head_is_late, holder.forgotten) == (True, True, [watch])


def test_silence_inside_a_body_ends_its_reading():
    """Counted from the last look that found something new, so never early."""
    watch, task, _, _ = watched()
    body = Body()
    watch.begin(body)
    for now_s, received in ((5.0, 10), (14.0, 10), (14.5, 20), (24.0, 20)):
        body.total_bytes = received
        watch.look(now_s, IDLE_S, TOTAL_S)
    early = body.seen
    watch.look(24.5, IDLE_S, TOTAL_S)

    assert early is None
    assert isinstance(body.seen, UpstreamStalledError)
    assert not task.cancelled


def test_a_client_that_is_behind_is_no_silence_of_the_upstream():
    """It holds the upstream back; only the total limit ends it then, and gives the client up."""
    watch, _, _, gave_up = watched(behind=lambda: True)
    body = Body()
    watch.begin(body)
    watch.look(50.0, IDLE_S, TOTAL_S)
    watch.look(99.0, IDLE_S, TOTAL_S)
    early = body.seen
    watch.look(TOTAL_S, IDLE_S, TOTAL_S)

    assert early is None
    assert isinstance(body.seen, UpstreamStalledError)
    assert gave_up == [True]


def test_one_timer_serves_all_and_rests_when_nothing_is_open():
    """However many exchanges are open; and an idle proxy does not wake up for it."""

    async def run():
        loop = asyncio.get_running_loop()
        limits = Limits(0.08, 10.0, loop)
        limits._loop = counting = Counting(loop)
        watches = [limits.watch(ClientSide(lambda: False, lambda: None)) for _ in range(50)]
        bodies = [Body() for _ in watches]
        for watch, body in zip(watches, bodies, strict=True):
            watch.begin(body)
        timers = counting.timers
        while not all(body.seen for body in bodies):
            await asyncio.sleep(0.01)
        while limits._timer is not None:
            await asyncio.sleep(0.01)
        return timers

    assert asyncio.run(asyncio.wait_for(run(), 20)) == 1
