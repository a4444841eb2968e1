"""A real redis-server per test module, and a namespace of its own per test."""

import itertools

import pytest
import redis
from ledger.given import Shelf

from proxy.ledger import embedded

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running redis-server; ended with the module."""
    started = embedded.start(tmp_path_factory.mktemp("redis"), embedded.find_server())
    yield started
    started.stop()


@pytest.fixture(scope="module")
def client(server):
    """A plain client, to look at what is there and to spoil it."""
    with redis.Redis.from_url(server.url) as opened:
        yield opened


@pytest.fixture
def shelf(server, client):
    """What a test keeps in Redis: a namespace that is empty at its start."""
    return Shelf(server.url, client, f"test{next(numbers)}")


@pytest.fixture
def quick_pace(monkeypatch):
    """Housekeeping in every round, and no long pauses while the store is away."""
    monkeypatch.setattr("proxy.ledger.ledger.COMPARE_EVERY_S", 0.0)
    monkeypatch.setattr("proxy.ledger.ledger.SHIP_EVERY_S", 0.0)
    monkeypatch.setattr("proxy.ledger.ledger.RETRY_AFTER_S", 0.02)


@pytest.fixture
def journals(tmp_path):
    return tmp_path / "journals"
