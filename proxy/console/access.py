"""Who may see what on the console port: decided on header values alone.

The Host header is checked always, so that a page in a browser cannot reach the console under a name of its own (DNS
rebinding), and so is Origin. A console that listens beyond loopback wants its bearer token, except for the two health
paths, which then give no detail.
"""

import hmac
from collections.abc import Collection
from enum import Enum
from typing import Final

from proxy.settings import is_loopback

_HEALTH_PATHS: Final = frozenset({"/healthz", "/readyz"})


class Access(Enum):
    """What a request may have."""

    FULL = "full"
    HEALTH_ONLY = "health_only"
    WRONG_HOST = "wrong_host"
    WRONG_TOKEN = "wrong_token"  # noqa: S105 - the name of a refusal


def access(
    path: str, host: str, origin: str | None, authorization: str | None, *, names: Collection[str], token: str
) -> Access:
    """Decide on one request. `names` are the hosts we answer to beside loopback; an empty `token` asks for none."""
    if not _known(_host_name(host), names):
        return Access.WRONG_HOST
    if origin is not None and not _known(_host_name(origin.partition("://")[2]), names):
        return Access.WRONG_HOST
    if not token or _bears(authorization, token):
        return Access.FULL
    return Access.HEALTH_ONLY if path in _HEALTH_PATHS else Access.WRONG_TOKEN


def _known(name: str, names: Collection[str]) -> bool:
    return is_loopback(name) or name in {known.lower() for known in names}


def _host_name(host: str) -> str:
    """The name in a Host header: its port and the brackets of an IPv6 address taken off."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _bears(authorization: str | None, token: str) -> bool:
    scheme, _, given = (authorization or "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(
        given.strip().encode("utf-8", "surrogateescape"), token.encode()
    )
