"""The files of deploy/ with a minute made a second, so that an alert which takes half an hour arrives in half a minute. Pure.

Only durations change: ranges, offsets, `for`, and how long Alertmanager waits. Thresholds stay, and so do the rates, since what is
"per hour" is so by a factor in the rule. An alert that compares seconds with `time()` is not made faster; none of the scenario does.
"""

import re
from typing import Any

TIMES = 60

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_RANGE = re.compile(r"(\[|offset )(\d+)([smhd])")


def duration(text: str) -> str:
    """A duration of Prometheus, so many times shorter, in milliseconds: `5m` is `5000ms`."""
    number, unit = re.fullmatch(r"(\d+)([smhd])", text).groups()  # type: ignore[union-attr]
    return f"{int(number) * _SECONDS[unit] * 1000 // TIMES}ms"


def expression(text: str) -> str:
    """A query with every range and offset shortened."""
    return _RANGE.sub(lambda found: found[1] + duration(found[2] + found[3]), text)


def rules(document: dict[str, Any]) -> dict[str, Any]:
    """A file of rules: expressions and waiting times."""
    return {
        "groups": [{**group, "rules": [_rule(rule) for rule in group["rules"]]} for group in document["groups"]],
    }


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    waits = {key: duration(rule[key]) for key in ("for", "keep_firing_for") if key in rule}
    return {**rule, "expr": expression(rule["expr"]), **waits}


def alertmanager(document: dict[str, Any], webhook: str) -> dict[str, Any]:
    """Alertmanager's file with a receiver that somebody is behind."""
    named = [{**each, "webhook_configs": [{"url": webhook, "send_resolved": True}]} for each in document["receivers"]]
    return {**document, "route": _route(document["route"]), "receivers": named}


def _route(route: dict[str, Any]) -> dict[str, Any]:
    waits = {key: duration(value) for key, value in route.items() if key.endswith(("_wait", "_interval"))}
    routes = {"routes": [_route(each) for each in route["routes"]]} if "routes" in route else {}
    return {**route, **waits, **routes}
