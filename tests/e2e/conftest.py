"""Processes for the end-to-end tests, ended when the test ends."""

import pytest
from e2e.stack import Proxy, Simulator


@pytest.fixture
def simulator(tmp_path):
    """A simulated API with many small, quick exchanges."""
    started = Simulator(tmp_path)
    yield started
    started.stop()


@pytest.fixture
def start_proxy(tmp_path):
    """Starts proxies; each is stopped at the end of the test."""
    started: list[Proxy] = []

    def start(upstream: str, **options) -> Proxy:
        folder = tmp_path / options.pop("name", "proxy")
        folder.mkdir(exist_ok=True)
        proxy = Proxy(folder, upstream, **options)
        started.append(proxy)
        return proxy.wait_ready()

    yield start
    for proxy in started:
        proxy.stop()
