"""A real redis-server per test module, and a namespace of its own per test, as the ledger's tests have them."""

from ledger.conftest import client, server, shelf

__all__ = ["client", "server", "shelf"]
