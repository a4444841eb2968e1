"""Benchmarks: what the proxy costs, beside no proxy at all and beside a bare relay on the same HTTP library.

Run with `make bench`. All three run in one go, in short rounds that take turns, and ratios are taken round by round, so
that a machine which slows down slows all three. One core is the relay's under test; everything else shares the other.

    __main__      the command line, and the order of things
    wire          the bytes: DeepSeek's answers and an SDK's requests, made once
    stub          the upstream, a process
    bare_relay    what is compared with, a process
    load          the clients: closed loop, and streams
    processes     starts everything, pins it to cores, ends it
    usage_of      CPU time and memory of a process
    rounds        measures one round; takes turns
    figures       medians, spans, ratios, targets
    report        the table
    profiled      a gateway worker under cProfile
"""
