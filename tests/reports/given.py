"""Records in a real Redis, a report of them, and what the same is when one simply adds the records up."""

from collections import Counter, defaultdict
from datetime import datetime
from zoneinfo import ZoneInfo

from proxy import report_command
from proxy.ledger.tally import Retention, fold
from proxy.reports.figures import ALL_KINDS
from proxy.reports.interval import asked
from proxy.settings import load_settings
from proxy.usage import CURRENCIES, KINDS, Band, Source

UTC = ZoneInfo("UTC")


def settings_of(shelf, *, minutes_kept_h=48, hours_kept_d=35, more=""):
    return load_settings(
        toml_text=f"""
        [store]
        redis_url = "{shelf.url}"
        namespace = "{shelf.namespace}"
        data_dir = "nowhere"
        minute_rollups_kept_hours = {minutes_kept_h}
        hour_rollups_kept_days = {hours_kept_d}
        {more}
        """
    )


def keep(shelf, found, *, retention=None, journal="j", first=1):
    """Put records into the shelf, as the ledger does."""
    if found:
        batch = fold(journal, first, found, retention or Retention())
        shelf.run(lambda store: store.apply(batch))


def made(settings, now_s, *, since="24h", until="now", by=("version",), zone=UTC, currencies=CURRENCIES):
    interval = asked(since, until, now_s, zone)
    return report_command.make(settings, report_command.Asked(interval, by, currencies, zone, now_s, 0.0))


def told(report):
    """A report's rows as plain numbers, by their groups."""
    return {tuple(row.group[name] for name in report.by): figures_of(row) for row in report.rows}


def figures_of(row):
    whole, figures = row.figures.all(), Counter()
    if row.kinds == ALL_KINDS:
        figures["requests"] = whole.requests
    for kind in row.kinds:
        figures["tokens", KINDS[kind].value] = whole.tokens[kind]
        figures["estimated", KINDS[kind].value] = row.figures.estimated.tokens[kind]
        figures["uncertain", KINDS[kind].value] = row.figures.uncertain.tokens[kind]
        for currency in CURRENCIES:
            figures[currency, KINDS[kind].value] = whole.nanos[currency][kind]
            figures["unpriced", currency, KINDS[kind].value] = whole.unpriced[currency][kind]
    return +figures


def added(found, since_s, until_s, by, zone=UTC):
    """The same, added up one record at a time."""
    rows = defaultdict(Counter)
    for one in found:
        if since_s <= one.pricing_instant_s < until_s:
            for kind in KINDS if "kind" in by else (None,):
                key = tuple(_named(one, name, kind, zone) for name in by)
                rows[key].update(_counted(one, KINDS if kind is None else (kind,)))
                rows[key]["requests"] += kind is None
    rows = {key: +row for key, row in rows.items()}
    return {key: row for key, row in rows.items() if row}


def _named(one, name, kind, zone):
    at = datetime.fromtimestamp(one.pricing_instant_s, zone)
    if name == "day":
        return at.date().isoformat()
    if name == "hour":
        return at.replace(minute=0, second=0, microsecond=0).isoformat("T", "minutes")
    return kind.value if name == "kind" else str(getattr(one, name))


def _counted(one, kinds):
    figures = Counter()
    tokens = dict(one.usage.by_kind()) if one.usage else {}
    for kind in kinds:
        count = tokens.get(kind, 0)
        figures["tokens", kind.value] = count
        figures["estimated", kind.value] = count * (one.source is Source.ESTIMATED)
        figures["uncertain", kind.value] = count * bool(one.charges and one.charges[0].band is Band.UNKNOWN)
        for currency in CURRENCIES:
            charge = next((charge for charge in one.charges if charge.currency == currency), None)
            figures[currency, kind.value] = charge.nanos[KINDS.index(kind)] if charge else 0
            figures["unpriced", currency, kind.value] = 0 if charge else count
    return figures
