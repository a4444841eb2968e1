"""The decisions of the upstream's side that need no connection. The rest is tested from end to end."""

import ssl

import aiohttp
import pytest

from proxy.errors import UpstreamTimeoutError, UpstreamUnreachableError
from proxy.gateway.upstream import MAX_ATTEMPTS, STALE_WITHIN_S, may_retry, was_sent

LOST = [
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientOSError(104, "reset"),
    aiohttp.ClientConnectionResetError("closing"),
    ConnectionResetError(),
]
NOT_LOST = [
    TimeoutError(),
    aiohttp.ServerTimeoutError(),
    aiohttp.ConnectionTimeoutError(),
    aiohttp.SocketTimeoutError(),
    aiohttp.ClientPayloadError(),
    aiohttp.InvalidURL("x"),
    ssl.SSLError(),
]


@pytest.mark.parametrize("error", LOST, ids=repr)
@pytest.mark.parametrize(
    ("reused", "after_s", "attempt", "again"),
    [
        (True, 0.0, 1, True),
        (True, STALE_WITHIN_S - 0.01, MAX_ATTEMPTS - 1, True),
        (True, STALE_WITHIN_S, 1, False),
        (True, 0.0, MAX_ATTEMPTS, False),
        (False, 0.0, 1, False),
    ],
)
def test_only_a_stale_pooled_connection_is_tried_again(error, reused, after_s, attempt, again):
    """One from the pool that was closed already, noticed at once: the upstream never read the request. Else it may have."""
    assert again == may_retry(error, reused=reused, after_s=after_s, attempt=attempt)


@pytest.mark.parametrize("error", NOT_LOST, ids=repr)
def test_other_failures_are_not_tried_again(error):
    """A timeout, a broken answer or a failed handshake is the client's to see."""
    assert not may_retry(error, reused=True, after_s=0.0, attempt=1)


@pytest.mark.parametrize(
    ("cause", "sent"),
    [
        (aiohttp.ServerDisconnectedError(), True),
        (aiohttp.SocketTimeoutError(), True),
        (ConnectionResetError(), True),
        (aiohttp.ConnectionTimeoutError(), False),
        (aiohttp.ClientConnectorError(None, OSError(111, "refused")), False),
        (None, True),
    ],
    ids=repr,
)
def test_what_was_never_connected_was_never_sent(cause, sent):
    """Only where no connection came about is it certain that nothing was billed."""
    for error in (UpstreamUnreachableError("x"), UpstreamTimeoutError("x")):
        error.__cause__ = cause

        assert sent == was_sent(error)
