import asyncio
import threading
import time

import pytest
from metering.counting import Words

from proxy.gateway.counting import Counting


def run(work, load=Words, longest_s=5.0):
    """Runs `work(counting)` on a loop of its own."""

    async def inside():
        counting = Counting(load, longest_s)
        try:
            return await work(counting)
        finally:
            counting.close()

    return asyncio.run(inside())


def test_the_tokenizer_is_made_at_the_first_need_and_once():
    """Nobody pays for it who needs it not."""
    made = []

    def load():
        made.append(threading.current_thread().name)
        return Words()

    async def work(counting):
        before = list(made)
        counts = await asyncio.gather(*[counting.run(lambda words: words.count("a b")) for _ in range(3)])
        return before, counts

    assert run(work, load) == ([], [2, 2, 2])
    assert [name.startswith("tokenizer") for name in made] == [True]


def test_the_loop_goes_on_while_it_counts():
    """A count that takes long holds up nothing else."""

    async def work(counting):
        slow = asyncio.create_task(counting.run(lambda _: time.sleep(0.3)))
        turns = 0
        while not slow.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert run(work) > 100


@pytest.mark.parametrize("error", [ValueError("no vocabulary"), OSError("no disk")])
def test_a_vocabulary_that_cannot_be_had_is_told_every_time_and_tried_once(error):
    """Reading 6 MB for every exchange, in vain, would be worse than not having it."""
    tries = []

    def load():
        tries.append(1)
        raise error

    async def work(counting):
        return [type(await _failure(counting)) for _ in range(3)]

    assert run(work, load) == [type(error)] * 3
    assert len(tries) == 1


def test_a_count_that_takes_too_long_is_given_up():
    """The record waits so long and no longer."""

    async def work(counting):
        return type(await _failure(counting, lambda _: time.sleep(0.5)))

    assert run(work, longest_s=0.05) is TimeoutError


async def _failure(counting, count=len):
    try:
        await counting.run(count)
    except (OSError, ValueError) as error:
        return error
    return None
