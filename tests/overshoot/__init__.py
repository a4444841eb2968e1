"""How far a budget is overshot by clients that ask all at once: `make overshoot`. The figures in docs/budgets.md come from here."""
