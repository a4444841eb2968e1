"""A request's body read so that nobody can read it otherwise, or not at all: for keys that allow some models and not others.

Two readers of one JSON text may differ: of two fields of one name one takes the first and another the last, some take
`Model` for `model`. Where what is allowed depends on a field, such a body is refused. The text is looked over once, field
by field, not character by character: the decoder has checked that it is JSON, and a field's value is skipped whole.
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from proxy.metering.faults import UNREADABLE
from proxy.usage import clean_label

LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of")
"""What decides how much an answer may cost; a count where it is given."""

_SPACE: Final = re.compile(rb"[ \t\n\r]*")
_NAME: Final = re.compile(rb'"(?:[^"\\]|\\.)*"')
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class AmbiguousBodyError(Exception):
    """A body that may be read in more than one way, or in none. Says what is wrong, never what stands in it."""


def model_of(body: bytes, content_encoding: str = "", named_in_path: str = "") -> str:
    """The model that a body asks for; `named_in_path` where only the path names one. Raises AmbiguousBodyError."""
    if content_encoding.strip().lower() not in ("", "identity"):
        raise AmbiguousBodyError("it is compressed")
    fields = _object(body, "the body")
    folded = {name.casefold() for name in fields}
    if len(folded) < len(fields):
        raise AmbiguousBodyError("two of its fields differ in capitals only")
    for name in ("model", "stream", *LIMITS):
        if name in folded and name not in fields:
            raise AmbiguousBodyError(f"it spells {name} with capitals")
    for value in fields.values():
        if bytes(memoryview(value)[:1]) == b"{":
            _object(bytes(value), "one of its objects")
    _check_limits(fields)
    return _model(fields.get("model"), named_in_path)


def _object(text: bytes, where: str) -> dict[str, msgspec.Raw]:
    """The fields of an object, each once."""
    try:
        fields = _fields.decode(text)
    except UNREADABLE as error:
        raise AmbiguousBodyError(
            f"{where} is no JSON object" if where == "the body" else f"{where} is broken"
        ) from error
    seen = set()
    for name in _names(text, fields):
        if name in seen:
            raise AmbiguousBodyError(f"{where} holds a field twice")
        seen.add(name)
    return fields


def _names(text: bytes, fields: dict[str, msgspec.Raw]) -> Iterator[str]:
    """The names of an object's fields as they stand; `fields` has the last value of each, by which values are skipped."""
    at = _behind_space(text, text.index(b"{") + 1)
    while text[at : at + 1] != b"}":
        literal = _NAME.match(text, at)
        if literal is None:
            raise AmbiguousBodyError("it cannot be looked over")
        name = msgspec.json.decode(literal[0], type=str)
        yield name
        at = _behind_space(text, _behind_space(text, literal.end()) + 1)  # the colon
        value = bytes(fields[name])
        behind = _behind_space(text, at + len(value))
        if not text.startswith(value, at) or text[behind : behind + 1] not in (b",", b"}"):
            yield name  # this is not its last value, so it comes once more
            return
        at = _behind_space(text, behind + 1) if text[behind : behind + 1] == b"," else behind


def _behind_space(text: bytes, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _check_limits(fields: dict[str, msgspec.Raw]) -> None:
    for name in LIMITS:
        value = _value(fields.get(name))
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise AmbiguousBodyError(f"{name} is no whole number")
    if not isinstance(_value(fields.get("stream")), bool | None):
        raise AmbiguousBodyError("stream is neither true nor false")


def _model(raw: msgspec.Raw | None, named_in_path: str) -> str:
    model = _value(raw)
    if model is None:
        model = named_in_path
    if not isinstance(model, str) or not model or clean_label(model) != model:
        raise AmbiguousBodyError("it names no model")
    if named_in_path and model != named_in_path:
        raise AmbiguousBodyError("it names another model than the path")
    return model


def _value(raw: msgspec.Raw | None) -> object:
    """A field's value; of one that cannot be read, something that is no value of any kind we ask for."""
    try:
        return None if raw is None else msgspec.json.decode(raw)
    except UNREADABLE:
        return raw
