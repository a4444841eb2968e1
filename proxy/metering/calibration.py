"""How far our estimates lie from what was reported, and what that teaches them.

A sample of the exchanges whose usage was reported is estimated as well. Per version and thinking the mean difference of the
prompt (a template or a hidden prefix that changed is so many tokens more) and the ratio of the output are learned, and
applied to the next estimates once there are enough. What is published is the error of estimates as they would have been
given. State of one worker's life: plain numbers, nothing said.
"""

from typing import Final, NamedTuple

from proxy.usage import TokenUsage

ENOUGH: Final = 20
"""Samples before anything is corrected: fewer would follow chance."""

MEMORY: Final = 200
"""About so many samples are remembered, so that a change of the provider's is followed within a day."""

MOST_PROMPT_TOKENS: Final = 1000
"""Largest correction of a prompt. More is no template: the host adds pages it read, which no later request shares."""

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
        return Errors(self.checks + 1, self.reported + reported, self.estimated + estimated, self.off + off)


class _Learned:
    """Fading means: of the prompt's difference, and of reported and estimated output."""

    __slots__ = ("estimated", "prompt_off", "reported", "samples")

    def __init__(self) -> None:
        self.samples = 0
        self.prompt_off = 0.0
        self.reported = 0.0
        self.estimated = 0.0

    def take(self, reported: TokenUsage, estimated: TokenUsage) -> None:
        self.samples += 1
        weight = 1 / min(self.samples, MEMORY)
        self.prompt_off += (reported.prompt - estimated.prompt - self.prompt_off) * weight
        self.reported += (reported.completion - self.reported) * weight
        self.estimated += (estimated.completion - self.estimated) * weight

    def apply(self, usage: TokenUsage) -> TokenUsage:
        if self.samples < ENOUGH:
            return usage
        off = round(max(-MOST_PROMPT_TOKENS, min(MOST_PROMPT_TOKENS, self.prompt_off)))
        ratio = self.reported / self.estimated if self.estimated else 1.0
        completion = round(usage.completion * max(LEAST_RATIO, min(MOST_RATIO, ratio)))
        reasoning = min(usage.output_reasoning, completion)
        miss = max(usage.input_cache_miss + off, 0)
        return TokenUsage(usage.input_cache_hit, miss, reasoning, completion - reasoning)


class Calibration:
    """What was learned in one worker's life."""

    def __init__(self) -> None:
        self._learned: dict[tuple[str, bool], _Learned] = {}
        self.errors: dict[tuple[str, str], Errors] = {}

    def __repr__(self) -> str:
        return f"<Calibration of {len(self._learned)} kinds of exchange>"

    def corrected(self, version: str, usage: TokenUsage, *, thinking: bool) -> TokenUsage:
        """An estimate as it is given out."""
        learned = self._learned.get((self._named(version), thinking))
        return usage if learned is None else learned.apply(usage)

    def take(self, version: str, reported: TokenUsage, estimated: TokenUsage, *, thinking: bool) -> None:
        """One comparison: the estimate, not yet corrected, of an exchange whose usage was reported."""
        version = self._named(version)
        self._note(version, reported, self.corrected(version, estimated, thinking=thinking))
        self._learned.setdefault((version, thinking), _Learned()).take(reported, estimated)

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
        known = {name for name, _ in self._learned}
        return version if version in known or len(known) < MAX_VERSIONS else OTHER
