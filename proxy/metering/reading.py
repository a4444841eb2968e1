"""What a meter saw of one response: the plain result every reader fills."""

from proxy.metering.usage_report import UsageReport
from proxy.usage import Missing


class Reading:
    """Facts seen so far. `report` is the last usage reported; `fault` why there is none where one was to be expected.

    The deltas are counts of non-empty pieces: of reasoning, of answer text, of tool calls. `ended` is True once the
    dialect's own end mark went by.
    """

    __slots__ = (
        "answer_deltas",
        "ended",
        "fault",
        "fingerprint",
        "finish_reason",
        "reasoning_deltas",
        "report",
        "served_model",
        "streamed",
        "tool_deltas",
    )

    def __init__(self) -> None:
        self.served_model = ""
        self.fingerprint = ""
        self.finish_reason = ""
        self.report: UsageReport | None = None
        self.fault: Missing | None = None
        self.reasoning_deltas = 0
        self.answer_deltas = 0
        self.tool_deltas = 0
        self.streamed = False
        self.ended = False

    def __repr__(self) -> str:
        seen = self.report.usage if self.report else self.fault
        return f"<Reading of {self.served_model or '?'}: {seen!r}, ended={self.ended}>"
