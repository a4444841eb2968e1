"""Records to keep, what they add up to when one simply adds them, and a namespace of a real Redis to look into."""

import asyncio
import json
import time
from collections import Counter, defaultdict
from contextlib import asynccontextmanager

import msgspec
from hypothesis import strategies as st

from proxy.ledger.families import parse_field
from proxy.ledger.revisions import pair_field
from proxy.ledger.store import connect
from proxy.pricing.catalog import fingerprint_key
from proxy.pricing.revisions import settled, tag
from proxy.usage import Api, Band, Charge, How, Missing, Outcome, Purpose, Rule, Source, TokenUsage, UsageRecord

NOW_S = 1_795_399_200.0  # 2026-11-23T02:00:00Z


def record(number=1, **changes):
    """An ordinary record. Its counts depend on `number`, so that one missing or double shows in a sum."""
    usage = TokenUsage(number, 2 * number, 3, 4)
    fields = {
        "exchange_id": f"x-{number}",
        "api": Api.CHAT,
        "upstream": "default",
        "model": "m",
        "version": "V",
        "how": How.ALIAS,
        "outcome": Outcome.COMPLETE,
        "source": Source.REPORTED,
        "app": "a",
        "purpose": Purpose.PRODUCTION,
        "start_s": NOW_S - 2,
        "end_s": NOW_S,
        "duration_s": 2.0,
        "served_model": "m",
        "fingerprint": "fp",
        "status": 200,
        "usage": usage,
        "charges": (
            Charge("USD", "usd-1", Band.FLAT, (number, 20, 0, 4)),
            Charge("CNY", "cny-1", Band.FLAT, (7, 0, 0, 1)),
        ),
        "pricing_instant_s": NOW_S,
        "first_chunk_s": NOW_S - 1,
        "first_chunk_after_s": 1.0,
    }
    return UsageRecord(**{**fields, **changes})


def recovered(mark, end_s):
    """The record of an interrupted exchange, as plain as can be."""
    return record(7, exchange_id=mark.exchange_id, outcome=Outcome.INTERRUPTED, end_s=end_s, pricing_instant_s=end_s)


small = st.integers(0, 50)
usages = st.builds(TokenUsage, small, small, small, small)
charges = st.lists(st.sampled_from(["USD", "CNY"]), unique=True).flatmap(
    lambda currencies: st.tuples(
        *[
            st.builds(
                Charge,
                st.just(currency),
                st.sampled_from([f"{currency}-1", f"{currency}-2"]),
                st.sampled_from(Band),
                st.tuples(small, small, small, small),
                st.integers(0, 5),
                st.integers(0, 3),
                st.integers(0, 2),
            )
            for currency in currencies
        ]
    )
)
instants = st.floats(NOW_S - 90_000, NOW_S + 90_000)
unpriced_records = st.builds(
    record,
    st.integers(1, 10**6),
    api=st.sampled_from([Api.CHAT, Api.FIM]),
    model=st.sampled_from(["m", 'n"\\é🚢']),
    version=st.sampled_from(["V", "W"]),
    outcome=st.sampled_from(Outcome),
    app=st.sampled_from(["a", "b"]),
    purpose=st.sampled_from(Purpose),
    end_s=instants,
    pricing_instant_s=instants,
    duration_s=st.sampled_from([0.0, 0.1, 0.1000001, 3.0, 2000.0]),
    first_chunk_s=st.sampled_from([0.0, NOW_S]),
    usage=st.none(),
    charges=st.just(()),
    source=st.just(Source.NONE),
    missing=st.sampled_from([None, Missing.NOT_REPORTED, Missing.DISCONNECTED]),
)
records = st.one_of(
    unpriced_records,
    st.builds(
        lambda one, usage, found, source, violations: msgspec.structs.replace(
            one, usage=usage, charges=found, source=source, missing=None, violations=violations
        ),
        unpriced_records,
        usages,
        charges,
        st.sampled_from([Source.REPORTED, Source.ESTIMATED]),
        st.sampled_from([(), (Rule.TOTAL_SUM,), (Rule.TOTAL_SUM, Rule.PROMPT_SUM)]),
    ),
)


def added(found):
    """What the totals of these records are, by family and labels, added up one record at a time."""
    sums = Counter()
    for one in found:
        place = (one.upstream, one.version, one.model)
        sums["requests_total", *place, one.api, one.outcome] += 1
        sums["app_requests_total", one.app, one.version] += 1
        if one.missing:
            sums["requests_without_usage_total", one.version, one.model, one.missing] += 1
        for rule in one.violations:
            sums["usage_violations_total", one.version, one.model, rule] += 1
        for kind, tokens in one.usage.by_kind() if one.usage else ():
            sums["tokens_total", *place, kind, one.source] += tokens
            sums["app_tokens_total", one.app, one.version, kind] += tokens
            for currency in {"USD", "CNY"} - {charge.currency for charge in one.charges}:
                sums["unpriced_tokens_total", *place, kind, currency] += tokens
        for charge in one.charges:
            for kind, nanos in zip(
                ("input_cache_hit", "input_cache_miss", "output_reasoning", "output_answer"), charge.nanos, strict=False
            ):
                sums[f"cost_{charge.currency.lower()}_total", *place, kind, one.source] += nanos
            if charge.currency == "USD":
                sums["app_cost_usd_total", one.app, one.version] += sum(charge.nanos)
                sums["purpose_cost_usd_total", one.purpose, one.version] += sum(charge.nanos)
                sums["cost_uncertain_usd_total", one.version] += charge.uncertain_nanos
                sums["cache_savings_usd_total", one.version, one.model] += charge.saved_nanos
                sums["peak_premium_usd_total", one.version, one.model] += charge.premium_nanos
    return {tuple(map(str, key)): value for key, value in sums.items() if value}


def totals_of(fields):
    """The counters among the fields of a totals hash, by family and labels; histograms apart."""
    parsed = {
        (family, *labels): int(value) for field, value in fields.items() for family, labels in [parse_field(field)]
    }
    return {key: value for key, value in parsed.items() if not key[0].endswith("_seconds")}


def all_additions(batches):
    """Every hash of these batches with its fields, added up."""
    sums = defaultdict(Counter)
    for batch in batches:
        for addition in batch.additions:
            sums[addition.hash].update(addition.fields)
        sums["sums"].update(batch.sums)
    return {name: dict(fields) for name, fields in sums.items()}


class Shelf:
    """One namespace of a Redis."""

    def __init__(self, url, client, namespace):
        self.url = url
        self.client = client
        self.namespace = namespace

    @asynccontextmanager
    async def store(self, kept=100):
        """A store on it, closed at the end."""
        opened = connect(self.url, self.namespace, kept)
        try:
            yield opened
        finally:
            await opened.close()

    def run(self, work, kept=100):
        """Run `work(store)` in a loop of its own."""

        async def whole():
            async with self.store(kept) as opened:
                return await work(opened)

        return asyncio.run(whole())

    def key(self, name):
        return f"{{meter:{self.namespace}}}:{name}"

    def hash(self, name):
        return self.client.hgetall(self.key(name))

    def totals(self):
        return totals_of(self.hash("totals"))

    def records(self):
        """The ids in the stream, oldest first."""
        return [fields[b"id"].decode() for _, fields in self.client.xrange(self.key("records"))]

    def under_their_tags(self, found):
        """These records under the revisions that the registry gives them now."""
        known = self.hash("revisions")
        for one in found:
            field = pair_field(one.version, one.upstream, fingerprint_key(one.fingerprint))
            yield settled(one, int(known.get(field.encode(), 0)))

    def changes(self):
        """The change events, oldest first, with the version as it is shown."""
        found = [
            {name.decode(): value.decode() for name, value in fields.items()}
            for _, fields in self.client.xrange(self.key("changes"))
        ]
        return [{**one, "version": tag(one["version"], int(one["number"]))} for one in found]

    def dump(self):
        """Everything in the namespace, to be compared: each key's value, and the second at which it ends (-1: never)."""
        return {key: (self.client.dump(key), self._expires_s(key)) for key in self.client.scan_iter(f"{self.key('')}*")}

    def _expires_s(self, key):
        """EXPIRETIME, which came with Redis 7, in words that 6.2 knows: the time left, from the clock of that instant."""
        with self.client.pipeline(transaction=True) as together:
            (seconds, micros), left_ms = together.time().pttl(key).execute()
        return -1 if left_ms < 0 else round(seconds + micros / 1e6 + left_ms / 1e3)

    def restore(self, dumped):
        """Put the namespace back to what it was, as a Redis does that lost its last seconds."""
        for key in self.client.scan_iter(f"{self.key('')}*"):
            self.client.delete(key)
        for key, (value, _) in dumped.items():
            self.client.restore(key, 0, value)


def encoded(one):
    return msgspec.json.encode(one)


def field(*parts):
    """The field of a totals hash."""
    return json.dumps(parts, separators=(",", ":"), ensure_ascii=False)


def wait_until(holds, seconds=10.0):
    """Wait until it holds; fails when it never does."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


async def until(holds, seconds=10.0):
    """The same inside a loop."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        await asyncio.sleep(0.01)
