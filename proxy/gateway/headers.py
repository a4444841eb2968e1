"""Which headers pass: header fields from the wire in, the lines that go on out, in the order and the spelling they came in.

Taken off in both directions: hop-by-hop headers (RFC 9110, section 7.6.1) and our own `X-Meter-*`; from requests also Host,
which names us, and Expect, which the server has answered. Nothing is ever added here, and no byte of a value is read.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from proxy.gateway.framing import whole_lines
from proxy.usage import Purpose, clean_label

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
CREDENTIALS: Final = frozenset({"authorization", "x-api-key", "api-key", "cookie"})
"""What a client may prove itself with; it goes to one upstream only, and to none in managed mode."""

_PLAIN_OPTIONS: Final = frozenset({b"keep-alive", b"Keep-Alive", b"close"})
"""Values of Connection, as nearly everybody sends it, that name no header to be taken off."""

MAX_KNOWN_NAMES: Final = 256


class Credential(NamedTuple):
    """What an upstream is shown: the client's own credential, or a line of ours (empty: none at all)."""

    is_the_clients: bool
    line: bytes = b""

    def __repr__(self) -> str:
        return f"<Credential the client's={self.is_the_clients} own={bool(self.line)}>"


class Passing:
    """Picks the header lines that pass: spelling, order, repeats and odd bytes survive.

    Names recur, so what was decided about a name is kept (a bounded memory: names are few, and cut off where not).
    """

    def __init__(self, *, credentials: bool = True) -> None:
        """With `credentials`, those of clients pass as well."""
        self._dropped = _OF_THE_REQUEST if credentials else _OF_THE_REQUEST | CREDENTIALS
        self._request_names: dict[bytes, bytes | None] = {}
        self._response_names: dict[bytes, bytes | None] = {}

    def of_request(self, raw: RawHeaders) -> bytes:
        """The header lines that go on to the upstream. Raises LineBreakError for one that holds another line."""
        return _passing(raw, self._request_names, self._dropped)

    def of_response(self, raw: RawHeaders) -> bytes:
        """The header lines that go back to the client. Raises LineBreakError for one that holds another line."""
        return _passing(raw, self._response_names, _HOP_BY_HOP)


def with_length(raw: RawHeaders, length: int) -> RawHeaders:
    """The headers with the length of the body as it goes on; nothing is added where there was none."""
    return [(name, b"%d" % length if name.lower() == b"content-length" else value) for name, value in raw]


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


def _passing(raw: RawHeaders, known: dict[bytes, bytes | None], dropped: frozenset[str]) -> bytes:
    named: frozenset[bytes] = frozenset()
    lines: list[bytes] = []
    for name, value in raw:
        try:
            start = known[name]
        except KeyError:
            start = _decided(name, known, dropped)
        if start is not None:
            lines += (start, value, b"\r\n")
        elif value not in _PLAIN_OPTIONS and name.lower() == b"connection":
            named |= _options(value)
    if named:
        lines = [part for line in _in_lines(lines) if line[0][:-2].lower() not in named for part in line]
    return whole_lines(b"".join(lines), len(lines) // 3)


def _in_lines(lines: list[bytes]) -> Iterator[tuple[bytes, ...]]:
    """The parts of a line together: name and colon, value, line end."""
    return zip(*[iter(lines)] * 3, strict=True)


def _decided(name: bytes, known: dict[bytes, bytes | None], dropped: frozenset[str]) -> bytes | None:
    """How the line of a header that passes begins, None for one that does not; remembered while there is room."""
    lowered = name.decode("utf-8", "surrogateescape").lower()
    start = None if lowered in dropped or lowered.startswith(METER_PREFIX) else name + b": "
    if len(known) < MAX_KNOWN_NAMES:
        known[name] = start
    return start


def _options(value: bytes) -> frozenset[bytes]:
    """Headers that a Connection header declares hop-by-hop. A body's length never is."""
    return frozenset(option.strip() for option in value.lower().split(b",")) - {b"content-length"}
