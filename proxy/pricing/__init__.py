"""Pure: versions, tariffs and what an exchange cost. No I/O and no clock here; the data stands in TOML beside the code.

    timeline    a value that changes at known instants
    rows        one row of the TOML as typed data, and what is wrong with it
    calendar    Chinese public holidays, and whose Monday it is
    catalog     all rows together, checked against one another and indexed
    versions    which version answered
    tariff      which price was in force
    cost        what the tokens came to

Each imports only those above it. Prices are `int` nano-units per million tokens from the catalog on.
"""
