"""Logs: one line per fact on standard error, JSON or readable, and nothing in them of what passes through here.

What an exception says may quote what was in hand (a header line with a key, a text that is no number), and so may what a
library logs of it. So an exception is written down as its type and its places; its message only where it is one of ours or
the system's own. Of a library's line its words are written, without what it put between them.
"""

import contextlib
import logging
import os
import re
import select
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO, cast

import msgspec
import structlog

from proxy.errors import MeterError, RelayError
from proxy.settings import LogSettings

_WORDS: Final = re.compile(r"[\w ,.;-]{0,80}")
"""The beginning of a message that is words alone: before the first value, bracket or quote."""


def configure_logging(settings: LogSettings) -> None:
    """Logs as the settings say; those of the libraries go the same way from `warning` on."""
    as_json = settings.format == "json"
    renderer = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _places_as_list if as_json else _places_as_text,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.level.upper()]),
        # One write a line, also where Python buffers nothing (PYTHONUNBUFFERED): several processes share this file.
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Unfailing(sys.stderr))),
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Libraries()], force=True)


def quick_line(settings: LogSettings) -> Callable[..., None]:
    """Writes a fact of level `info`, JSON or beginning as a readable line does, in a quarter of the time: one is said per exchange.

    Of plain values alone: no exception, nothing that needs to be shown in another way than JSON has it.
    """
    as_json, encode = settings.format == "json", msgspec.json.encode
    stream = sys.stderr.fileno()

    def say(event: str, **facts: Any) -> None:
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        if as_json:
            line = encode({**facts, "event": event, "level": "info", "timestamp": at})
        else:
            line = f"{at} [info     ] {event:<30} ".encode() + encode(facts)
        with contextlib.suppress(OSError):  # as in _Unfailing
            os.write(stream, line + b"\n")

    return say


def room_in_the_log() -> Callable[[], bool]:
    """Tells whether a line can be written to standard error without waiting: a pipe that nobody reads off is full one day."""
    looking = select.poll()
    looking.register(sys.stderr.fileno(), select.POLLOUT)
    return lambda: bool(looking.poll(0))


def log_what_ends_us() -> None:
    """Have an exception that nobody caught logged like any other, not printed with its message."""
    log = structlog.get_logger("proxy")

    def crashed(_type: type[BaseException], error: BaseException, _traceback: object) -> None:
        log.error("crashed", exc_info=error)

    sys.excepthook = crashed
    threading.excepthook = lambda args: log.error("thread_crashed", exc_info=args.exc_value)
    sys.unraisablehook = lambda args: log.error("exception_ignored", exc_info=args.exc_value)


def places(error: BaseException) -> list[str]:
    """An exception and what led to it, outermost first: each with its type and the places it passed, innermost first."""
    return [line for one in _chain(error) for line in (_named(one), *_frames(one))]


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        yield following
        seen.add(id(following))
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)


def _named(error: BaseException) -> str:
    """The type; with its message where that is ours or the system's."""
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    ours = isinstance(error, MeterError | RelayError)
    systems = isinstance(error, OSError) and type(error).__module__ == "builtins"
    return f"{name}: {error}" if ours or systems else name


def _frames(error: BaseException) -> list[str]:
    found = traceback.extract_tb(error.__traceback__)
    return [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in reversed(found)]


def _error_in(event: MutableMapping[str, Any]) -> BaseException | None:
    found = event.pop("exc_info", None)
    if isinstance(found, tuple):
        found = found[1]
    return found if isinstance(found, BaseException) else sys.exception() if found else None


def _places_as_list(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if (error := _error_in(event)) is not None:
        event["exception"] = places(error)
    return event


def _places_as_text(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if (error := _error_in(event)) is not None:
        event["exception"] = "\n".join(places(error))
    return event


class _Unfailing:
    """Standard error for lines: what cannot be written (a closed terminal, a reader that is gone, a full disk) is lost.

    Nothing that is told of here may fail because it cannot be told, an open exchange or a stop least of all.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(line)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class _Libraries(logging.Handler):
    """Takes what libraries log, and says it in our way."""

    def emit(self, record: logging.LogRecord) -> None:
        said = _WORDS.match(str(record.msg))
        structlog.get_logger(record.name).log(
            record.levelno,
            "library",
            library=record.name,
            says=said[0].strip() if said else "",
            exc_info=record.exc_info[1] if record.exc_info else None,
        )
