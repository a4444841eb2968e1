"""Answers from the ledger: the arithmetic of the commands that say what things cost. Pure; the console may show the same."""
