"""The dashboard *Proxy operations*: the relay by replica."""

from drawing import JOB, MODEL, VERSION, Board, View, lines, number, own, per_second, ratio, stacked

OPERATED = (
    View(
        title="Requests (per second)",
        description="All exchanges, by how they ended.",
        unit="reqps",
        query=per_second("requests_total", by="outcome"),
        legend="{{outcome}}",
        draw=stacked,
        width=12,
    ),
    View(
        title="Exchanges under way",
        description="Open at this moment, by replica.",
        unit="none",
        query=f"sum by (instance) ({own('in_flight_requests')})",
        legend="{{instance}}",
        draw=stacked,
        width=12,
    ),
    View(
        title="Time the proxy adds, 99th percentile",
        description="Before the first byte of a response, by replica.",
        unit="s",
        query=f"histogram_quantile(0.99, sum by (le, instance) (rate({own('overhead_seconds_bucket')}[$__rate_interval])))",
        legend="{{instance}}",
        draw=lines,
        width=12,
    ),
    View(
        title="Errors of the upstream (share)",
        description="Exchanges the upstream answered with an error, or broke off, or let time out.",
        unit="percentunit",
        query=ratio(
            per_second("requests_total", 'outcome=~"upstream_error|upstream_disconnected|timed_out"', by="upstream"),
            per_second("requests_total", by="upstream"),
        ),
        legend="{{upstream}}",
        draw=lines,
        width=12,
    ),
    View(
        title="Oldest waiting record",
        description="How long the oldest record of each worker has waited for Redis.",
        unit="s",
        query=own("journal_oldest_pending_seconds"),
        legend="{{instance}} worker {{worker}}",
        draw=lines,
        alert="DeepseekMeterJournalBacklog",
    ),
    View(
        title="Workers started again (per hour)",
        description="Processes that ended and were started again.",
        unit="none",
        query=f"3600 * sum by (instance) (rate({own('worker_restarts_total')}[$__rate_interval]))",
        legend="{{instance}}",
        draw=lines,
        alert="DeepseekMeterWorkersRestart",
    ),
    View(
        title="Clock offset",
        description="How far each replica's clock is ahead of Redis'. The clock decides price bands.",
        unit="s",
        query=own("clock_offset_seconds"),
        legend="{{instance}}",
        draw=number,
        alert="DeepseekMeterClockOff",
    ),
)

CLIENT_KEYS = (
    View(
        title="Requests refused (per second)",
        description="In managed mode, by the code of the answer; docs/keys.md lists them. Empty in passthrough mode.",
        unit="reqps",
        query=f"sum by (code) (rate({own('client_key_refusals_total')}[$__rate_interval]))",
        legend="{{code}}",
        draw=stacked,
    ),
    View(
        title="Age of the client keys",
        description="How long ago each worker compared its keys with Redis: about a second while Redis is there.",
        unit="s",
        query=own("client_keys_age_seconds"),
        legend="{{instance}} worker {{worker}}",
        draw=lines,
    ),
    View(
        title="Limits decided without Redis (per second)",
        description="By each worker alone: N workers let in up to N times as much meanwhile.",
        unit="reqps",
        query=f"sum by (instance) (rate({own('client_key_limits_alone_total')}[$__rate_interval]))",
        legend="{{instance}}",
        draw=lines,
    ),
)

BOARD = Board(
    uid="deepseek-meter-proxy-operations",
    title="Proxy operations",
    description="The relay by replica: rate, errors, duration, and what waits.",
    rows=(("The relay", OPERATED), ("Client keys", CLIENT_KEYS)),
    choices=(JOB, VERSION, MODEL),
    marks=(),
)
