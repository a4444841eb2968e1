"""What budgets have spent and hold, in the window that counts now. Pure: hashes of the store and an instant in, money out."""

from collections.abc import Mapping
from typing import NamedTuple

from proxy.pricing.budgets import Budget, Span


class BudgetState(NamedTuple):
    """A budget at an instant: nano-units of its currency spent and held for exchanges under way, and the window they count in."""

    budget: Budget
    spent_nanos: int
    reserved_nanos: int
    window: Span


def budget_state(budget: Budget, fields: Mapping[bytes, bytes], now_s: float) -> BudgetState:
    """Sums of the buckets that count at an instant.

    Those alone that `reserve.lua` asks for: of a budget whose period or time zone was changed, others may lie beside them.
    """
    window = budget.window_at(now_s)
    counted = range(window.start_s, window.end_s, budget.width_s or window.end_s - window.start_s)
    sums = {"spent": 0, "held": 0}
    for field, value in fields.items():
        what, _, bucket = field.decode().partition(":")
        if int(bucket) in counted:
            sums[what] += int(value)
    return BudgetState(budget, sums["spent"], sums["held"], window)
