"""The dashboard *Metering health*: whether the figures can be relied on."""

from drawing import JOB, MODEL, VERSION, Board, View, lines, number, own, per_second, ratio, recorded, stacked

REPORTED = (
    View(
        title="Estimated share of the tokens",
        description="Tokens that rest on our own count, because nobody reported them.",
        unit="percentunit",
        query='job:deepseek_meter_estimated_share:ratio30m{job=~"$job"}',
        legend="{{job}}",
        draw=lines,
        alert="DeepseekMeterEstimatedShare",
    ),
    View(
        title="Exchanges without usage",
        description="Answered exchanges for which no usage was reported, as a share.",
        unit="percentunit",
        query='job:deepseek_meter_without_usage_share:ratio30m{job=~"$job"}',
        legend="{{job}}",
        draw=lines,
        alert="DeepseekMeterWithoutUsage",
    ),
    View(
        title="Error of the estimates",
        description="In the sample that is reported and estimated: the sum of differences by what was reported.",
        unit="percentunit",
        query=ratio(
            f"sum by (part) (rate({own('estimate_error_tokens_total')}[$__rate_interval]))",
            f"sum by (part) (rate({own('estimate_reported_tokens_total')}[$__rate_interval]))",
        ),
        legend="{{part}}",
        draw=lines,
    ),
    View(
        title="Streams without usage (per second)",
        description="Streams that ended well and reported nothing, by upstream; add_include_usage may help.",
        unit="reqps",
        query=f"sum by (upstream) (rate({own('streams_without_usage_total')}[$__rate_interval]))",
        legend="{{upstream}}",
        draw=lines,
    ),
    View(
        title="Usages that break a rule (per second)",
        description="Reported usages whose numbers contradict each other; they are counted as reported.",
        unit="reqps",
        query=per_second("usage_violations_total", by="version, rule"),
        legend="{{version}} {{rule}}",
        draw=lines,
    ),
    View(
        title="Uncertain cost (USD per hour)",
        description="Part of the cost that a holiday nobody has published may take back.",
        unit="currencyUSD",
        query=f"3600 * {per_second('cost_uncertain_usd_total', by='version')}",
        legend="{{version}}",
        draw=stacked,
    ),
    View(
        title="Price reviews",
        description="The day by which the price in force was to be looked at again.",
        unit="dateTimeAsIso",
        query=f"1000 * max by (version) ({recorded('price_review_timestamp_seconds')})",
        legend="{{version}}",
        draw=number,
        alert="DeepseekMeterPriceReviewOverdue",
    ),
)

KEPT = (
    View(
        title="Records that are lost or set aside",
        description="In the time range shown. It should be 0.",
        unit="none",
        query=f"sum by (job) (increase({recorded('records_unreplayable_total')}[$__range]))"
        f" + sum by (job) (increase({recorded('records_quarantined_total')}[$__range]))",
        legend="{{job}}",
        draw=number,
        alert="DeepseekMeterRecordsLost",
    ),
    View(
        title="Records waiting in journals",
        description="Written to the disk and not in the counters yet.",
        unit="none",
        query=f"sum by (instance) ({own('journal_pending_records')})",
        legend="{{instance}}",
        draw=lines,
        alert="DeepseekMeterJournalBacklog",
    ),
    View(
        title="Age of the counters",
        description="How old what the consoles show is, at worst.",
        unit="s",
        query=f"time() - min by (job) ({recorded('store_snapshot_timestamp_seconds', how='min')})",
        legend="{{job}}",
        draw=number,
        alert="DeepseekMeterSnapshotStale",
    ),
    View(
        title="Store catching up",
        description="1 while Redis gets back what it has forgotten; its counters are not shown meanwhile.",
        unit="none",
        query=f"max by (job) ({recorded('store_catching_up')})",
        legend="{{job}}",
        draw=lines,
    ),
    View(
        title="History of the store",
        description="Raised when Redis was wiped or went back: counters before and after are not to be compared.",
        unit="dateTimeAsIso",
        query=f"1000 * max by (job) ({recorded('store_epoch')})",
        legend="{{job}}",
        draw=number,
    ),
    View(
        title="Faults of metering (per second)",
        description="What metering went on from, without hurting a stream.",
        unit="cps",
        query=f"sum by (instance, stage) (rate({own('metering_faults_total')}[$__rate_interval]))",
        legend="{{instance}} {{stage}}",
        draw=lines,
        alert="DeepseekMeterMeteringFaults",
    ),
)

BOARD = Board(
    uid="deepseek-meter-metering-health",
    title="Metering health",
    description="Whether the figures can be relied on: what is reported, what is estimated, what is kept.",
    rows=(("Reported, estimated, unknown", REPORTED), ("One exchange, one record", KEPT)),
    choices=(JOB, VERSION, MODEL),
    marks=(),
)
