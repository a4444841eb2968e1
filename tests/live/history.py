"""A month that was, for panels that look back: counters that grow steadily, as text that promtool makes blocks of. Pure.

The series are the recorded ones, replicas reduced already: what Prometheus would hold had it been there.
"""

from collections.abc import Iterator

DAYS = 31
STEP_S = 300
VERSION = "DeepSeek-V3.2"
"""Nobody asks for it in the live part, so what is read of it is history alone."""

USD_PER_HOUR = 1.5
TOKENS_PER_HOUR = 600_000

_PLACE = f'job="deepseek-meter",upstream="default",version="{VERSION}",model="deepseek-chat"'
_SERIES = {
    f'global:deepseek_meter_cost_usd_total:max{{{_PLACE},kind="input_cache_miss",source="reported"}}': 0.4
    * USD_PER_HOUR,
    f'global:deepseek_meter_cost_usd_total:max{{{_PLACE},kind="output_answer",source="reported"}}': 0.6 * USD_PER_HOUR,
    f'global:deepseek_meter_tokens_total:max{{{_PLACE},kind="input_cache_miss",source="reported"}}': 0.8
    * TOKENS_PER_HOUR,
    f'global:deepseek_meter_tokens_total:max{{{_PLACE},kind="output_answer",source="reported"}}': 0.2 * TOKENS_PER_HOUR,
    f'global:deepseek_meter_requests_total:max{{{_PLACE},api="chat",outcome="complete"}}': 400.0,
    f'global:deepseek_meter_app_cost_usd_total:max{{job="deepseek-meter",app="one",version="{VERSION}"}}': USD_PER_HOUR,
}
"""Series to growth per hour."""


def openmetrics(until_s: float) -> Iterator[str]:
    """The lines of so many days up to an instant, oldest first within each series."""
    first = int(until_s) - DAYS * 86_400
    for series, per_hour in _SERIES.items():
        for at in range(first, int(until_s), STEP_S):
            yield f"{series} {per_hour * (at - first) / 3600:.6f} {at}\n"
    yield "# EOF\n"
