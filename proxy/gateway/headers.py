"""Which headers pass, as plain name-value pairs, in the order and the spelling they came in.

Taken off in both directions: hop-by-hop headers (RFC 9110, section 7.6.1) and our own `X-Meter-*`; from requests also Host,
which names us, and Expect, which the server has answered. Nothing is ever added here.
"""

from collections.abc import Iterable
from typing import Final

from proxy.usage import Purpose, clean_label

Pair = tuple[str, str]

METER_PREFIX: Final = "x-meter-"
EXCHANGE_HEADER: Final = "X-Meter-Exchange"
VERSION_HEADER: Final = "X-Meter-Version"
ERROR_HEADER: Final = "X-Meter-Error"

_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OF_THE_REQUEST: Final = _HOP_BY_HOP | {"host", "expect"}


def text_pairs(raw: Iterable[tuple[bytes, bytes]]) -> list[Pair]:
    """Headers as text, from the bytes on the wire: the spelling of their names survives, odd bytes as surrogates."""
    return [(name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape")) for name, value in raw]


def request_headers(pairs: Iterable[Pair]) -> list[Pair]:
    """The headers that go on to the upstream."""
    return _passing(list(pairs), _OF_THE_REQUEST)


def response_headers(pairs: Iterable[Pair]) -> list[Pair]:
    """The headers that go back to the client."""
    return _passing(list(pairs), _HOP_BY_HOP)


def purpose_of(value: str | None) -> Purpose:
    """The purpose a client states. One we do not know counts as production: a misspelt label must not hide spend."""
    try:
        return Purpose((value or "").strip().lower() or Purpose.PRODUCTION)
    except ValueError:
        return Purpose.PRODUCTION


def label_of(value: str | None) -> str:
    """A label a client states, as it may stand in a metric."""
    return clean_label((value or "").strip())


def _passing(pairs: list[Pair], dropped: frozenset[str]) -> list[Pair]:
    named = _named_by_connection(pairs)
    passing = []
    for name, value in pairs:
        lowered = name.lower()
        if lowered not in dropped and lowered not in named and not lowered.startswith(METER_PREFIX):
            passing.append((name, value))
    return passing


def _named_by_connection(pairs: list[Pair]) -> frozenset[str]:
    """Headers that the sender's Connection header declares hop-by-hop."""
    names: set[str] = set()
    for name, value in pairs:
        if name.lower() == "connection":
            names.update(option.strip().lower() for option in value.split(","))
    return frozenset(names) - {"content-length"}  # a body's length is never only for one hop
