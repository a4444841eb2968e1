"""Pure: versions, tariffs and what an exchange cost. No I/O and no clock here; the data stands in TOML beside the code."""
