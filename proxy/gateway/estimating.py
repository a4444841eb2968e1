"""Estimates of exchanges that nobody reported, and the sample that is estimated beside its report, to learn from.

The decision what has to be counted is `recording`'s, the counting `metering`'s; here they meet the thread that counts and
what was learned. Nothing raises: a tokenizer that fails or takes too long leaves an estimate by size, and is counted.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import structlog

from proxy.gateway.counting import Counting
from proxy.gateway.recording import ExchangeFacts, Need, Pricing, version_of
from proxy.metering.calibration import Calibration
from proxy.metering.estimation import Counted, CountsTokens, Said, count, divided, estimate, rough, said_of
from proxy.metering.reading import Reading
from proxy.metering.request import plain_body
from proxy.metering.templates import Template, template_of
from proxy.usage import Missing, Outcome, TokenUsage, UsageRecord

NAME_AGAIN_AFTER_S: Final = 3600.0
"""A host whose streams end without usage is named in the log once an hour."""

log = structlog.get_logger(__name__)


class Sent(NamedTuple):
    """A request's body as it came, and how it is compressed."""

    body: bytes = b""
    content_encoding: str = ""

    def __repr__(self) -> str:
        return f"<Sent {len(self.body)} bytes {self.content_encoding}>"


class Estimator:
    """Works out what was not reported, for the exchanges of one upstream."""

    def __init__(
        self,
        counting: Counting,
        pricing: Callable[[], Pricing],
        *,
        deepseek_habits: bool,
        asks_for_usage: bool,
        sample: float,
        chance: Callable[[], float],
        is_quiet: Callable[[], bool],
        monotonic_s: Callable[[], float],
        fault: Callable[[str, Exception], None],
    ) -> None:
        """`pricing` gives the catalog in force. `chance` gives numbers in [0, 1); a sample is taken where one lies below `sample`.

        `is_quiet` is True while no stream would notice that the tokenizer is loaded.
        """
        self._counting = counting
        self._pricing = pricing
        self._deepseek_habits = deepseek_habits
        self._asks_for_usage = asks_for_usage
        self._sample = sample
        self._chance = chance
        self._is_quiet = is_quiet
        self._monotonic_s = monotonic_s
        self._fault = fault
        self._named_s = -NAME_AGAIN_AFTER_S
        self.calibration = Calibration()
        self.streams_without_usage: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Estimator {self._counting!r} {self.calibration!r}>"

    async def work_out(
        self, need: Need, facts: ExchangeFacts, reading: Reading | None, sent: Sent
    ) -> TokenUsage | None:
        """The usage that the record shall have; None where a division could not be made."""
        seen = reading or Reading()
        prompt_counts = need is Need.ESTIMATE and seen.known_prompt is None
        counted = await self._counted(facts, seen, sent if prompt_counts else Sent())
        if need is Need.DIVISION:
            return divided(seen.report.usage, counted) if counted and seen.report else None
        counted = counted or rough(seen, facts.request.body_bytes)
        guessed = estimate(seen, counted, one_token_deltas=self._deepseek_habits)
        return self.calibration.corrected(version_of(facts, seen, self._pricing()).version, guessed)

    def is_sampled(self, record: UsageRecord) -> bool:
        """True for an exchange that shall be estimated as well: it ended well, and all of it was reported.

        A sample is no reason to load the tokenizer while streams are under way, or to be counted before an exchange that
        needs it: one that comes at such a moment is left out.
        """
        fit = record.usage is not None and record.missing is None and record.outcome is Outcome.COMPLETE
        whole = fit and not record.violations and not record.reasoning_counted
        chosen = whole and self._chance() < self._sample
        return chosen and (self._counting.is_idle or self._is_quiet())

    async def compare(self, record: UsageRecord, facts: ExchangeFacts, reading: Reading, sent: Sent) -> None:
        """Estimate a reported exchange, and learn from the difference."""
        counted = await self._counted(facts, reading, sent)
        if counted is not None and record.usage is not None:
            guessed = estimate(reading, counted, one_token_deltas=self._deepseek_habits)
            self.calibration.take(record.version, record.usage, guessed)

    def note(self, record: UsageRecord) -> None:
        """Look at a record: a stream that ended well and without usage says something of its host."""
        if record.missing is not Missing.NOT_REPORTED or not record.streamed or record.outcome is not Outcome.COMPLETE:
            return
        self.streams_without_usage[record.upstream] = self.streams_without_usage.get(record.upstream, 0) + 1
        if self._monotonic_s() - self._named_s < NAME_AGAIN_AFTER_S:
            return
        self._named_s = self._monotonic_s()
        advice = "its clients turn it off" if self._asks_for_usage else "set [upstream] add_include_usage = true"
        log.warning(
            "stream_without_usage", upstream=record.upstream, model=record.model, counted="by estimate", advice=advice
        )

    async def _counted(self, facts: ExchangeFacts, seen: Reading, sent: Sent) -> Counted | None:
        template = template_of(version_of(facts, seen, self._pricing()).version)
        work = partial(_count, said=said_of(seen), sent=sent, template=template, hidden=self._deepseek_habits)
        try:
            return await self._counting.run(work)
        except Exception as error:  # noqa: BLE001 - promise 3: an estimate by size is better than no record
            self._fault("count", error)
            return None


def _count(tokenizer: CountsTokens, *, said: Said, sent: Sent, template: Template, hidden: bool) -> Counted:
    return count(tokenizer, said, plain_body(sent.body, sent.content_encoding), template, hidden=hidden)
