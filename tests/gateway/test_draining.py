import asyncio
import contextlib

import pytest
from gateway.test_exchange import DONE, USAGE, begin

from proxy.errors import UpstreamBrokeError, UpstreamUnreachableError
from proxy.gateway.draining import Background, caps_for, drain
from proxy.gateway.exchange import Caps
from proxy.settings import AppSettings, UpstreamSettings
from proxy.usage import Outcome, Source

WORD = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
WIDE = Caps(5.0, 1000)


class Answer:
    """An answer that gives these pieces; an exception among them is raised, a number of seconds waited."""

    status = 200
    content_encoding = ""

    def __init__(self, *pieces):
        self._pieces = list(pieces)
        self.closed = False

    async def read(self):
        piece = self._pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        if isinstance(piece, float):
            await asyncio.sleep(piece)
            return b""
        return piece

    def at_end(self):
        return not self._pieces

    def close(self):
        self.closed = True


def drained(*pieces, caps=WIDE, seen=()):
    """The record and the answer of an exchange whose client left after `seen`."""
    exchange, keeper = begin()
    answer = Answer(*pieces)
    if seen:
        exchange.answered(200)
        for chunk in seen:
            exchange.feed(chunk)

    async def inside():
        await drain(exchange, there(answer), caps)

    asyncio.run(inside())
    (record,) = keeper.records
    return record, answer


def there(answer):
    """A future that holds an answer, or an error."""
    future = asyncio.get_running_loop().create_future()
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
    return future


@pytest.mark.parametrize("seen", [(), (WORD, WORD)])
def test_a_drained_exchange_has_its_reported_usage(seen):
    """The client left, the usage came: both stand in the record, also where the head had not come yet."""
    record, answer = drained(WORD, USAGE, DONE, seen=seen)

    assert (record.outcome, record.source, record.usage.total) == (Outcome.CLIENT_DISCONNECTED, Source.REPORTED, 7)
    assert answer.closed


@pytest.mark.parametrize(
    ("pieces", "caps", "words"),
    [
        ((WORD, WORD, WORD, USAGE, DONE), Caps(5.0, 2), 2),
        ((WORD, 5.0, USAGE), Caps(0.1, 1000), 1),
        ((WORD, UpstreamBrokeError("broke")), WIDE, 1),
        ((WORD, ConnectionResetError()), WIDE, 1),
        ((WORD,), WIDE, 1),
    ],
)
def test_beyond_a_cap_or_a_break_an_estimate_has_to_do(pieces, caps, words):
    """Tokens, time, or an upstream that broke: what went by is counted, the upstream closed."""
    record, answer = drained(*pieces, caps=caps)

    assert (record.outcome, record.source, record.usage.completion) == (
        Outcome.CLIENT_DISCONNECTED,
        Source.ESTIMATED,
        words,
    )
    assert answer.closed


def test_an_upstream_that_never_answers_leaves_a_record():
    """The client was gone before the head came, and the head never did."""
    exchange, keeper = begin()

    async def inside():
        await drain(exchange, there(UpstreamUnreachableError("gone")), WIDE)

    asyncio.run(inside())

    assert [record.outcome for record in keeper.records] == [Outcome.CLIENT_DISCONNECTED]


def test_a_stop_ends_a_drain_with_a_record():
    """Whoever asks everything to end gets what was seen."""
    exchange, keeper = begin()
    answer = Answer(WORD, 30.0, USAGE)

    async def stopped():
        background = Background()
        background.start(drain(exchange, there(answer), Caps(60.0, 1000)))
        await asyncio.sleep(0.05)
        assert len(background) == 1
        background.cancel()
        await background.finish()
        return len(background)

    assert asyncio.run(stopped()) == 0
    assert [record.source for record in keeper.records] == [Source.ESTIMATED]
    assert answer.closed


def test_an_answer_that_comes_when_it_is_given_up_is_closed():
    """Given up in the very moment in which the head arrives: the connection is not left open."""
    exchange, keeper = begin()
    answer = Answer(WORD)

    async def inside():
        late = asyncio.get_running_loop().create_future()
        draining = asyncio.create_task(drain(exchange, late, WIDE))
        await asyncio.sleep(0)
        late.set_result(answer)
        draining.cancel()
        await asyncio.wait([draining])
        await asyncio.sleep(0)

    asyncio.run(inside())

    assert answer.closed
    assert len(keeper.records) == 1


@pytest.mark.parametrize(("status", "encoding"), [(404, ""), (200, "br")])
def test_what_can_tell_no_usage_is_not_read_on(status, encoding):
    """An error, or a body the meter cannot read: nothing is gained, so the upstream is closed."""
    exchange, keeper = begin()
    answer = Answer(WORD, 30.0)
    answer.status, answer.content_encoding = status, encoding

    async def inside():
        await asyncio.wait_for(drain(exchange, there(answer), WIDE), 2)

    asyncio.run(inside())

    assert answer.closed
    assert len(keeper.records) == 1


@pytest.mark.parametrize(
    ("upstream", "app", "caps"),
    [
        ({}, None, None),
        ({"on_client_disconnect": "drain"}, None, Caps(120.0, 8192)),
        ({"on_client_disconnect": "drain", "drain_seconds": 5.0, "drain_tokens": 7}, None, Caps(5.0, 7)),
        ({}, {"on_client_disconnect": "drain"}, Caps(120.0, 8192)),
        ({"on_client_disconnect": "drain"}, {"on_client_disconnect": "abort"}, None),
        ({"on_client_disconnect": "drain"}, {"drain_tokens": 9}, Caps(120.0, 9)),
        ({}, {"drain_tokens": 9}, None),
    ],
)
def test_an_apps_own_word_goes_before_the_upstreams(upstream, app, caps):
    """What an app leaves out is the upstream's."""
    apps = {"team": AppSettings(**app)} if app else {}

    assert caps_for("team", apps, UpstreamSettings(**upstream)) == caps
    assert caps_for("another", apps, UpstreamSettings()) is None


def test_background_work_is_held_and_waited_for():
    """Also what it starts while it is waited for."""
    done = []

    async def work():
        background = Background()

        async def child():
            await asyncio.sleep(0)
            done.append("child")

        async def parent():
            background.start(child())
            done.append("parent")

        background.start(parent())
        await background.finish()

    with contextlib.suppress(RuntimeError):
        asyncio.run(work())
    assert done == ["parent", "child"]
