"""deepseek-meter: a proxy that counts what each version of DeepSeek's models costs.

The map. An *exchange* is a request and its response. It comes in at the `gateway`, goes on to the *upstream* unchanged,
and its response passes a *meter* that only looks. At its end one frozen `UsageRecord` (`usage`) is written to the
`ledger`: first the journal on the local disk, then, folded with others into a tally, Redis. The `console` shows what
Redis holds.

    usage, errors, settings    the facts; import nothing of ours
    metering                   pure: bytes in, facts out
    pricing                    pure: versions and tariffs, with their data in TOML
    ledger                     journal, tally, store, client keys, audit trail: what must not be lost
    gateway                    the data path: relay, upstream, headers, entry, admission
    reports                    pure: what it cost, from the rollups
    console                    metrics, health, versions and balance, for Prometheus and people
    simulator                  a DeepSeek API for demos and tests, with a ledger of what it billed
    cli, supervisor, child     composition, with *_process, *_command (what the CLI says) and *_files (what is read), and
                               upstreams, installation, client_keys, audit_trail: what settings and a data dir mean

Imports point upwards in this list only; `tests/test_architecture.py` holds that, and each outside library's owner.
Importing anything does nothing: time, randomness, sockets, files and Redis come in as arguments.
"""
