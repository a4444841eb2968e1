"""A DeepSeek API for demos and tests, and a ledger of what it billed.

It shares no pricing or metering code with the proxy, so that the two can be held against each other: of ours only
`usage` (the names of kinds, bands, dialects and purposes) and `errors` may be imported here.

    scenario       what a simulated API looks like, from TOML      plan       what one exchange will be, pure
    tariff         bands and prices, pure                          billing    the ledger and its JSON form, pure
    answers        chat bodies as DeepSeek writes them, pure       refusals   error bodies, pure
    small_answers  FIM, models and balance bodies, pure            delivery   sends a planned answer
    exchange       one exchange, from request to entry             server     the HTTP endpoints
    traffic        a client side for the demo
"""
