"""From JSON documents to what a reader is given: what all dialects have in common when something is not as it should be."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.usage import Missing

NULL: Final = b"null"

MAX_SECOND_LOOK_BYTES: Final = 1024 * 1024
"""Largest document that is looked at a second time, in Python, when the decoder refused it."""


class _Whole(msgspec.Struct):
    usage: Raw | UnsetType = UNSET


_HIGH: Final = rb"\\u[dD][89abAB][0-9a-fA-F]{2}"
_LOW: Final = rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_LONE_SURROGATE: Final = re.compile(
    _HIGH + rb"(?!" + _LOW + rb")|(?<!" + rb"\\u[dD][89abAB][0-9a-fA-F][0-9a-fA-F]" + rb")" + _LOW
)

_whole: Final = msgspec.json.Decoder(_Whole)
_stdlib: Final = json.JSONDecoder()
_BLANKS: Final = re.compile(r"\s*")


def usage_alone(document: bytes) -> bytes | None:
    """The usage in a document whose other fields are of unexpected kinds; None without one. Raises what `UNREADABLE` names."""
    usage = _whole.decode(document).usage
    return None if usage is UNSET or bytes(usage) == NULL else bytes(usage)


def repaired(document: bytes) -> bytes | None:
    """A document whose texts hold half a character, which a decoder refuses, with U+FFFD there; None where that is not it.

    Hosts that cut their text by UTF-16 units or by bytes send such halves, one in each of two deltas.
    """
    if len(document) > MAX_SECOND_LOOK_BYTES:
        return None
    changed = _LONE_SURROGATE.sub(rb"\\ufffd", document)
    try:
        changed.decode("utf-8")
    except UnicodeDecodeError:
        changed = changed.decode("utf-8", "replace").encode()
    return None if changed == document else changed


def apart(document: bytes) -> Iterator[bytes]:
    """The documents that were glued together in one, best effort; nothing where it begins with none."""
    if len(document) > MAX_SECOND_LOOK_BYTES:
        return
    try:
        text = document.decode("utf-8")
    except UnicodeDecodeError:
        return
    end = 0
    while (start := _next(text, end)) < len(text):
        try:
            _, end = _stdlib.raw_decode(text, start)
        except (ValueError, RecursionError):
            return
        yield text[start:end].encode()


def _next(text: str, at: int) -> int:
    """Where something stands behind blanks."""
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def fault_of(document: bytes) -> Missing:
    """Why a document that cannot be read reports nothing: one that speaks of a usage may have held it."""
    return Missing.BROKEN_USAGE if b'"usage"' in document else Missing.UNREADABLE_BODY


def index_of(value: Any) -> int:
    """A place in a list, as a field says it; the first where it says none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def text_of(value: Any) -> str:
    """The text in a field that is a string, or a list of parts of which some have a text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = (part if isinstance(part, str) else part.get("text") for part in value if isinstance(part, str | dict))
        return "".join(part for part in parts if isinstance(part, str))
    return ""
