"""How far our estimates lie from what was reported, and what that teaches them.

A sample of the exchanges whose usage was reported is estimated as well. Only what is a count of ours is corrected, each by
what its own kind has taught: the prompt by a mean difference (a template or a hidden prefix that changed is so many tokens
more), text counted by the tokenizer and tool calls by a ratio each. What was reported, and deltas that are a token each,
stay as they are. State of one worker's life: plain numbers, nothing said.
"""

from typing import Final, NamedTuple

from proxy.metering.estimation import Estimate
from proxy.usage import TokenUsage

ENOUGH: Final = 20
"""Samples before anything is corrected: fewer would follow chance."""

MEMORY: Final = 200
"""About so many samples are remembered, so that a change of the provider's is followed within a day."""

MOST_PROMPT_TOKENS: Final = 1000
"""Largest difference that teaches anything about a prompt: more is no template, but pages the server read."""

LEAST_RATIO, MOST_RATIO = 0.5, 2.0
MAX_VERSIONS: Final = 50
OTHER: Final = "other"
PARTS: Final = ("prompt", "reasoning", "answer")


class Errors(NamedTuple):
    """Of one version and part: tokens reported, tokens estimated, and the sum of the differences without their signs."""

    checks: int = 0
    reported: int = 0
    estimated: int = 0
    off: int = 0

    def plus(self, reported: int, estimated: int) -> "Errors":
        """With one more comparison."""
        off = abs(reported - estimated)
        return self.together(Errors(1, reported, estimated, off))

    def together(self, other: "Errors") -> "Errors":
        """Of both samples."""
        mine = zip(self, other, strict=True)
        return Errors(*(one + another for one, another in mine))


class _Means:
    """Two fading means, of which the difference or the ratio is asked."""

    __slots__ = ("estimated", "reported", "samples")

    def __init__(self) -> None:
        self.samples = 0
        self.reported = 0.0
        self.estimated = 0.0

    def take(self, reported: int, estimated: int) -> None:
        self.samples += 1
        weight = 1 / min(self.samples, MEMORY)
        self.reported += (reported - self.reported) * weight
        self.estimated += (estimated - self.estimated) * weight

    def difference(self) -> int:
        """By how much more is reported; 0 while too little is known."""
        return round(self.reported - self.estimated) if self.samples >= ENOUGH else 0

    def ratio(self) -> float:
        """How many times as much is reported; 1 while too little is known."""
        if self.samples < ENOUGH or not self.estimated:
            return 1.0
        return max(LEAST_RATIO, min(MOST_RATIO, self.reported / self.estimated))


class Calibration:
    """What was learned in one worker's life."""

    def __init__(self) -> None:
        self._learned: dict[tuple[str, str], _Means] = {}
        self._versions: set[str] = set()
        self.errors: dict[tuple[str, str], Errors] = {}

    def __repr__(self) -> str:
        return f"<Calibration of {len(self._versions)} versions>"

    def corrected(self, version: str, estimate: Estimate) -> TokenUsage:
        """An estimate as it is given out."""
        usage, named = estimate.usage, self._named(version)
        miss = usage.input_cache_miss
        if estimate.counted_prompt:
            miss = max(miss + self._about(named, _prompt_kind(estimate)).difference(), 0)
        text, tools = self._about(named, "text").ratio(), self._about(named, "tools").ratio()
        reasoning, answer = usage.output_reasoning, usage.output_answer - estimate.counted_tools
        if estimate.counted_text:
            reasoning, answer = round(reasoning * text), round(answer * text)
        return TokenUsage(usage.input_cache_hit, miss, reasoning, answer + round(estimate.counted_tools * tools))

    def take(self, version: str, reported: TokenUsage, estimate: Estimate) -> None:
        """One comparison: the estimate, not yet corrected, of an exchange whose usage was reported."""
        named = self._named(version)
        self._versions.add(named)
        self._note(named, reported, self.corrected(named, estimate))
        off = reported.prompt - estimate.usage.prompt
        if estimate.counted_prompt and abs(off) <= MOST_PROMPT_TOKENS:
            self._learn(named, _prompt_kind(estimate), reported.prompt, estimate.usage.prompt)
        if estimate.counted_tools:  # what is not text is calls
            other = estimate.usage.completion - estimate.counted_tools
            self._learn(named, "tools", max(reported.completion - other, 0), estimate.counted_tools)
        elif estimate.counted_text:
            self._learn(named, "text", reported.completion, estimate.usage.completion)

    def _learn(self, version: str, kind: str, reported: int, estimated: int) -> None:
        self._learned.setdefault((version, kind), _Means()).take(reported, estimated)

    def _about(self, version: str, kind: str) -> _Means:
        return self._learned.get((version, kind)) or _Means()

    def _note(self, version: str, reported: TokenUsage, given: TokenUsage) -> None:
        pairs = (
            (reported.prompt, given.prompt),
            (reported.output_reasoning, given.output_reasoning),
            (reported.output_answer, given.output_answer),
        )
        for part, (said, guessed) in zip(PARTS, pairs, strict=True):
            self.errors[version, part] = self.errors.get((version, part), Errors()).plus(said, guessed)

    def _named(self, version: str) -> str:
        """The version, or `other` once there are too many to keep apart."""
        return version if version in self._versions or len(self._versions) < MAX_VERSIONS else OTHER


def _prompt_kind(estimate: Estimate) -> str:
    return "thinking prompt" if estimate.thinking else "prompt"
