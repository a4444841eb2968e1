"""Which headers pass: bytes from the wire in, name-value pairs out, in the order and the spelling they came in.

Taken off in both directions: hop-by-hop headers (RFC 9110, section 7.6.1) and our own `X-Meter-*`; from requests also Host,
which names us, and Expect, which the server has answered. Nothing is ever added here.
"""

from collections.abc import Iterable
from typing import Final

from proxy.usage import Purpose, clean_label

Pair = tuple[str, str]
RawHeaders = Iterable[tuple[bytes, bytes]]

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
_ALREADY_HANDLED: Final = frozenset({"", "close"}) | _HOP_BY_HOP
MAX_KNOWN_NAMES: Final = 256


class Passing:
    """Picks the headers that pass, out of the bytes on the wire: spelling, order and repeats survive.

    Names recur, so what was decided about a name is kept (a bounded memory: names are few, and cut off where not).
    """

    def __init__(self) -> None:
        self._request_names: dict[bytes, str | None] = {}
        self._response_names: dict[bytes, str | None] = {}

    def of_request(self, raw: RawHeaders) -> list[Pair]:
        """The headers that go on to the upstream."""
        return _passing(raw, self._request_names, _OF_THE_REQUEST)

    def of_response(self, raw: RawHeaders) -> list[Pair]:
        """The headers that go back to the client."""
        return _passing(raw, self._response_names, _HOP_BY_HOP)


def purpose_of(value: str | None) -> Purpose:
    """The purpose a client states. One we do not know counts as production: a misspelt label must not hide spend."""
    if value is None:
        return Purpose.PRODUCTION
    try:
        return Purpose(value.strip().lower())
    except ValueError:
        return Purpose.PRODUCTION


def label_of(value: str | None) -> str:
    """A label a client states, as it may stand in a metric."""
    return clean_label((value or "").strip())


def _passing(raw: RawHeaders, known: dict[bytes, str | None], dropped: frozenset[str]) -> list[Pair]:
    named: frozenset[str] = frozenset()
    passing: list[Pair] = []
    for raw_name, raw_value in raw:
        try:
            name = known[raw_name]
        except KeyError:
            name = _decided(raw_name, known, dropped)
        if name is not None:
            passing.append((name, _text(raw_value)))
        elif raw_name.lower() == b"connection":
            named |= _options(raw_value)
    if named - _ALREADY_HANDLED:
        return [(name, value) for name, value in passing if name.lower() not in named]
    return passing


def _decided(raw_name: bytes, known: dict[bytes, str | None], dropped: frozenset[str]) -> str | None:
    """The name of a header that passes, None for one that does not; remembered while there is room."""
    name = _text(raw_name)
    lowered = name.lower()
    passes = lowered not in dropped and not lowered.startswith(METER_PREFIX)
    if len(known) < MAX_KNOWN_NAMES:
        known[raw_name] = name if passes else None
    return name if passes else None


def _options(raw_value: bytes) -> frozenset[str]:
    """Headers that a Connection header declares hop-by-hop. A body's length never is."""
    options = (option.strip() for option in _text(raw_value).lower().split(","))
    return frozenset(options) - {"content-length"}


def _text(raw: bytes) -> str:
    """Header bytes as text; bytes that are no UTF-8 as surrogates."""
    return raw.decode("utf-8", "surrogateescape")
