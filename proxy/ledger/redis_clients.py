"""Which client of Redis a URL asks for: one server, a cluster, or the master that sentinels watch over. Nothing is sent here."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import redis.asyncio as redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, RedisClusterException, RedisError, ResponseError

AnyRedis = redis.Redis | RedisCluster

CLIENT_ERRORS: Final = (RedisError, RedisClusterException)
"""All that the library raises of its own. What a cluster's client meets before it knows the nodes is no RedisError."""

_QUICK: Final = {"connect_timeout": 3.0, "operation_timeout": 10.0}


def client_of(url: str, **timeouts: float) -> tuple[AnyRedis, Sequence[redis.Redis]]:
    """The client of a URL, and those of the sentinels it asks. Raises ValueError, TypeError or CLIENT_ERRORS for one that is none.

    What the library says of it is not to be shown: that may hold a piece of the password.
    """
    limits = {**_QUICK, **timeouts}
    options: dict[str, Any] = {
        "socket_connect_timeout": limits["connect_timeout"],
        "socket_timeout": limits["operation_timeout"],
        # One more try after a connection that Redis had closed; a time-out is not waited for twice.
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    }
    scheme, _, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    if kind == "cluster":
        _refuse_torn(url)
        return RedisCluster.from_url(f"{base}://{rest}", **options), ()
    if kind == "sentinel":
        return _watched_over(rest, ssl=base == "rediss", options=options)
    if scheme != "unix":
        _refuse_torn(url)
    return redis.Redis.from_url(url, **options), ()


def _refuse_torn(url: str) -> None:
    """Raise ValueError where a `#`, `/` or `?` of a password ends the host: what stands before it may look like host and port."""
    parts = urlsplit(url)
    behind = f"{parts.path}?{parts.query}".partition("=")[0]  # a value, `?password=`, may hold an @
    if parts.fragment or ("@" in behind and "@" not in parts.netloc):
        raise ValueError("the @ stands behind the host")


def said_of(error: BaseException) -> str:
    """An error of the client in one line."""
    met = _met(error)
    if met is not error and isinstance(met, ResponseError) and not isinstance(met, NoPermissionError):
        return "this server is no cluster; the URL of one server begins with redis:// or rediss://"
    return str(met) or type(met).__name__


def _met(error: BaseException) -> BaseException:
    """What a cluster's client met at the node it asked for the others: it says "no cluster" of a missing right, too."""
    while isinstance(error, RedisClusterException) and (inner := error.__cause__ or error.__context__):
        error = inner
    return error


def _watched_over(rest: str, *, ssl: bool, options: Mapping[str, Any]) -> tuple[redis.Redis, Sequence[redis.Redis]]:
    """The master of a service, asked of its sentinels at every connect. Raises ValueError for a URL that is none."""
    credentials, _, places = rest.rpartition("@")
    hosts, _, path = places.partition("/")
    service, _, database = path.partition("/")
    if not service:
        raise ValueError("expected redis+sentinel://host:port,host:port/SERVICE[/DATABASE]")
    username, _, password = credentials.partition(":")
    sentinels = [(host.rpartition(":")[0], int(host.rpartition(":")[2])) for host in hosts.split(",")]
    waits = {name: options[name] for name in ("socket_connect_timeout", "socket_timeout")}
    asked: Any = Sentinel(sentinels, sentinel_kwargs=waits)  # type: ignore[no-untyped-call]  # the library's own
    found: redis.Redis = asked.master_for(
        service,
        db=int(database or 0),
        username=unquote(username) or None,
        password=unquote(password) or None,
        ssl=ssl,
        **options,
    )
    return found, asked.sentinels
