"""What is wrong with a setting, in the words of who wrote it: its place in the file, and what may stand there. Pure.

msgspec says ``Invalid enum value 'x' - at `$.budgets[0].period` ``: neither what is allowed, nor which budget that is.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import inspect

_PLACE: Final = re.compile(r" - at `\$([^`]*)`$")
_STEP: Final = re.compile(r"\.(\w+)|\[(?:\d+|\.\.\.)\]")
_OF_MANY: Final = re.compile(r"(\w+)\[(\d+)\](?:\.(.*))?")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_NOT_ALLOWED: Final = "Invalid enum value "
_WORDS: Final = {
    "Expected `str` matching regex '^https?://'": "Expected a URL that begins with http:// or https://",
}


def in_words(error: msgspec.ValidationError, kind: Any, tables: Mapping[str, Any]) -> str:
    """`[upstream] idle_timeout_seconds: Expected …`, without a place where the error has none.

    `kind` is what was to be made of `tables`, which say the names of budgets and upstreams.
    """
    message, path = _parted(str(error))
    if message.startswith(_NOT_ALLOWED):
        message = f"Expected {_allowed(kind, path)}, got {message.removeprefix(_NOT_ALLOWED)}"
    elif "unknown field" in message:
        path = f"{path}.{message.split('`')[1]}"
        message = "unknown; `deepseek-meter serve --help` and the README list what there is"
    place = _place(path.lstrip("."), tables)
    return f"{place}: {_WORDS.get(message, message)}" if place else _WORDS.get(message, message)


def _parted(text: str) -> tuple[str, str]:
    """The message and the path behind it, which is the last one: a value may look like one."""
    found = _PLACE.search(text)
    return (text[: found.start()], found[1]) if found else (text, "")


def _place(path: str, tables: Mapping[str, Any]) -> str:
    """`[log] level`, or `[[budgets]] team: limit`. The keys of a table of tables msgspec does not tell."""
    if of_many := _OF_MANY.fullmatch(path):
        section, number, key = of_many.groups()
        return f"[[{section}]] {_name(tables, section, int(number))}" + (f": {key}" if key else "")
    section, _, key = path.replace("[...]", "").partition(".")
    return f"[{section}] {key}".strip() if section else ""


def _name(tables: Mapping[str, Any], section: str, number: int) -> str:
    """The name of one of many where it has one that may be shown, else its place among them."""
    one = tables[section][number]
    name = one.get("name") if isinstance(one, Mapping) else None
    return name if isinstance(name, str) and _NAME.fullmatch(name) else f"number {number + 1}"


def _allowed(kind: Any, path: str) -> str:
    """What a setting with a choice may be: `a, b or c`."""
    found = _bare(inspect.type_info(kind))
    for step in _STEP.finditer(path):
        found = _bare(_inside(found, step[1]))
    *most, last = (
        (str(value) for value in found.values) if isinstance(found, inspect.LiteralType) else ("another value",)
    )
    return f"{', '.join(most)} or {last}" if most else last


def _inside(kind: inspect.Type, field: str | None) -> inspect.Type:
    """The type of a field, or of what is in a list or a table of names."""
    if isinstance(kind, inspect.StructType):
        return next(one.type for one in kind.fields if one.encode_name == field)
    if isinstance(kind, inspect.DictType):
        return kind.value_type
    return kind.item_type if isinstance(kind, inspect.VarTupleType) else kind


def _bare(kind: inspect.Type) -> inspect.Type:
    """Without its description and without the None of what may be left out."""
    if isinstance(kind, inspect.Metadata):
        return _bare(kind.type)
    if isinstance(kind, inspect.UnionType):
        return _bare(next(one for one in kind.types if not isinstance(one, inspect.NoneType)))
    return kind
