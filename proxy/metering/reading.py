"""What a meter saw of one response: the plain result every reader fills.

The texts are kept while the exchange lasts, and only to be counted where the host did not count them: they are never
logged, never stored, and shown by no `repr`. Both they and the number of calls have a bound; beyond it only lengths go on.
"""

from io import SEEK_END, StringIO
from typing import Final

from proxy.metering.usage_report import UsageReport, literal_of
from proxy.usage import Missing

MAX_TEXT_CHARACTERS: Final = 2 * 1024 * 1024
"""Most that is kept of one text, and of the arguments of all calls together. The longest answer the API gives, 384K tokens, is about 1.6 million characters."""

MAX_CALLS: Final = 256
"""Most tool calls of one answer that are kept apart: the API takes 128 functions."""


class Text:
    """A text that grows piece by piece, up to a bound; what comes beyond it is only counted."""

    __slots__ = ("_beyond", "_kept", "_room", "_write")

    def __init__(self) -> None:
        self._kept = StringIO()
        self._write = self._kept.write
        self._room = MAX_TEXT_CHARACTERS
        self._beyond = 0

    def __repr__(self) -> str:
        return f"<Text of {self.characters} characters>"

    def add(self, piece: str) -> None:
        """Add a piece."""
        length = len(piece)
        if length > self._room:
            self._beyond += length - self._room
            piece, length = piece[: self._room], self._room
        self._room -= length
        self._write(piece)

    @property
    def characters(self) -> int:
        """Its whole length."""
        return MAX_TEXT_CHARACTERS - self._room + self._beyond

    def beginning(self, characters: int) -> str:
        """The first of what was kept, without a copy of the rest."""
        self._kept.seek(0)
        found = self._kept.read(characters)
        self._kept.seek(0, SEEK_END)
        return found

    @property
    def kept(self) -> str:
        """What was kept."""
        return self._kept.getvalue()


class Call:
    """A tool call: the name of the function and its arguments, as far as they came."""

    __slots__ = ("arguments", "name")

    def __init__(self) -> None:
        self.name = ""
        self.arguments = Text()

    def __repr__(self) -> str:
        return f"<Call with {self.arguments!r}>"


class Reading:
    """Facts seen so far. `report` is the last usage reported; `fault` why there is none where one was to be expected.

    The deltas are counts of non-empty pieces: of reasoning, of answer text, of tool calls. `ended` is True once the
    dialect's own end mark went by, `reported_late` where a usage came behind it. `spoilt` is a usage that could not be
    read, literally. `known_prompt` is a prompt (cache hit, cache miss) that was reported before the output.
    """

    __slots__ = (
        "answer",
        "answer_deltas",
        "call_characters",
        "calls",
        "ended",
        "fault",
        "fingerprint",
        "finish_reason",
        "known_prompt",
        "reasoning",
        "reasoning_deltas",
        "report",
        "reported_late",
        "served_model",
        "spoilt",
        "streamed",
        "tool_deltas",
    )

    def __init__(self) -> None:
        self.served_model = ""
        self.fingerprint = ""
        self.finish_reason = ""
        self.report: UsageReport | None = None
        self.reported_late = False
        self.spoilt = ""
        self.known_prompt: tuple[int, int] | None = None
        self.fault: Missing | None = None
        self.reasoning_deltas = 0
        self.answer_deltas = 0
        self.tool_deltas = 0
        self.reasoning = Text()
        self.answer = Text()
        self.calls: dict[int, Call] = {}
        self.call_characters = 0
        self.streamed = False
        self.ended = False

    def __repr__(self) -> str:
        seen = self.report.usage if self.report else self.fault
        return f"<Reading of {self.served_model or '?'}: {seen!r}, ended={self.ended}>"

    def add_call(self, index: int, name: str, arguments: str) -> None:
        """A piece of a tool call came."""
        call = self.calls.get(index)
        if call is None:
            if len(self.calls) >= MAX_CALLS:
                return
            call = self.calls[index] = Call()
        if name and not call.name:
            call.name = name[:1024]
        if not arguments:
            return
        self.call_characters += len(arguments)
        if self.call_characters <= MAX_TEXT_CHARACTERS:
            call.arguments.add(arguments)

    def take_report(self, report: UsageReport) -> None:
        """The newest usage counts; usages are never summed. One behind the end counts no more: the record is written."""
        if self.ended:
            self.reported_late = True
            return
        self.report = report
        self.fault = None
        self.spoilt = ""

    def take_fault(self, missing: Missing, spoilt: bytes = b"") -> None:
        """A usage was to be expected and could not be read."""
        self.fault = missing
        self.spoilt = literal_of(spoilt)
