"""What is billed: exact arithmetic, band edges, endings, and that the ledger is what the clients saw."""

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime
from fractions import Fraction

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulator.running import MONDAY_OFF_PEAK_S, MONDAY_PEAK_S, chat, chunks, quick, running, streamed

from proxy.simulator.scenario import Model, Scenario, default_scenario
from proxy.simulator.tariff import Tariff, Tokens
from proxy.usage import Band

COUNTS = st.integers(min_value=0, max_value=2_000_000)


def at(text):
    """Seconds since the epoch of a UTC instant."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_each_kind_is_rounded_half_even_to_whole_nanos(hit, miss, reasoning, answer):
    """Costs are the nearest whole nano-USD of an exact product, with ties to the even one."""
    scenario = quick()
    bill = Tariff(scenario).bill(scenario.model("odd-price"), Tokens(hit, miss, reasoning, answer), MONDAY_PEAK_S)
    prices = ("0.0028", "0.1405", "0.2815", "0.2815")
    assert bill.band is Band.FLAT
    for count, price, nanos in zip((hit, miss, reasoning, answer), prices, bill.cost, strict=True):
        exact = count * Fraction(price) * 1000
        assert abs(nanos - exact) <= Fraction(1, 2)
        assert abs(nanos - exact) < Fraction(1, 2) or nanos % 2 == 0


def test_ties_go_to_the_even_nano():
    """1 token at 140.5 nano is 140, 3 tokens (421.5) are 422."""
    scenario = quick()
    tariff, model = Tariff(scenario), scenario.model("odd-price")
    assert tariff.bill(model, Tokens(miss=1), 0.0).cost[1] == 140
    assert tariff.bill(model, Tokens(miss=3), 0.0).cost[1] == 422


@pytest.mark.parametrize(
    ("instant", "band"),
    [
        ("2026-11-23T00:59:59.999", Band.OFF_PEAK),
        ("2026-11-23T01:00:00", Band.PEAK),
        ("2026-11-23T03:59:59.999", Band.PEAK),
        ("2026-11-23T04:00:00", Band.OFF_PEAK),
        ("2026-11-23T06:00:00", Band.PEAK),
        ("2026-11-23T10:00:00", Band.OFF_PEAK),
        ("2026-11-22T02:00:00", Band.OFF_PEAK),  # a Sunday
        ("2026-10-10T02:00:00", Band.OFF_PEAK),  # a Saturday worked to make up for a holiday
        ("2026-10-01T02:00:00", Band.OFF_PEAK),  # a holiday
        ("2026-10-08T02:00:00", Band.PEAK),  # the first day after it
    ],
)
def test_band_edges(instant, band):
    """A window's first instant is peak, its end is not; weekends and holidays are off-peak throughout."""
    assert Tariff(default_scenario()).band(at(instant)) is band


def test_default_prices_are_those_in_force():
    """A million tokens of each kind cost what DeepSeek's page says, by band."""
    scenario, million = default_scenario(), Tokens(1_000_000, 1_000_000, 1_000_000, 1_000_000)
    tariff = Tariff(scenario)
    expected = {
        ("deepseek-flash", MONDAY_PEAK_S): ("0.006", "0.30", "1.20"),
        ("deepseek-v4-flash", MONDAY_OFF_PEAK_S): ("0.003", "0.15", "0.60"),
        ("deepseek-v4-pro", MONDAY_PEAK_S): ("0.044", "1.32", "3.96"),
        ("deepseek-v4-pro", MONDAY_OFF_PEAK_S): ("0.022", "0.66", "1.98"),
    }
    for (name, instant), prices in expected.items():
        cost = tariff.bill(scenario.model(name), million, instant).cost
        assert [Fraction(nanos, 10**9) for nanos in cost[:3]] == [Fraction(price) for price in prices]
        assert cost[2] == cost[3]
    unpriced = tariff.bill(scenario.model("deepseek-ai/DeepSeek-R1-0528"), million, MONDAY_PEAK_S)
    assert (unpriced.band, unpriced.cost) == (None, None)


def test_the_instant_of_completion_decides():
    """An exchange that begins in peak and ends after it is billed off-peak."""
    now = [at("2026-11-23T03:59:59")]

    async def pause(_seconds):
        now[0] += 1.0
        await asyncio.sleep(0)

    async def talk():
        async with running(clock=lambda: now[0], sleep=pause) as client:
            await client.post(chat(), X_Simulator_Tokens="0,1000,0,0")
            return await client.ledger()

    row = asyncio.run(talk())["completed"][0]
    assert (row["band"], row["cost_nano_usd"]["input_cache_miss"]) == ("off_peak", 150_000)


def test_the_ledger_is_what_the_clients_saw():
    """Sums over the usages in the answers equal the ledger's, by model and kind, streamed or not; so does each one."""
    bodies = [chat(), streamed(), streamed(include_usage=False), chat("own-r1"), streamed("deepseek-v4-flash")]

    async def talk():
        async with running(clock=lambda: MONDAY_PEAK_S) as client:
            asked = [body for body in bodies for _ in range(20)]
            answers = await asyncio.gather(*(client.post(body) for body in asked))
            return asked, answers, await client.ledger()

    asked, answers, ledger = asyncio.run(talk())
    seen, by_id = Counter(), {}
    for body, (status, _, data) in zip(asked, answers, strict=True):
        last = chunks(data)[0][-1] if body.get("stream") else json.loads(data)
        usage = last["usage"]
        reasoning = usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0)
        by_id[last["id"]] = (usage["prompt_cache_hit_tokens"], usage["prompt_cache_miss_tokens"], reasoning)
        assert status == 200
        seen[body["model"], "input_cache_hit"] += usage["prompt_cache_hit_tokens"]
        seen[body["model"], "input_cache_miss"] += usage["prompt_cache_miss_tokens"]
        seen[body["model"], "output_reasoning"] += reasoning
        seen[body["model"], "output_answer"] += usage["completion_tokens"] - reasoning
    billed = Counter()
    for row in ledger["completed"]:
        billed.update({(row["model"], kind): count for kind, count in row["tokens"].items()})
    assert billed == seen
    assert len(by_id) == len(asked) == ledger["exchanges"]["completed"]
    assert {row["id"]: tuple(row["tokens"].values())[:3] for row in ledger["list"]} == by_id
    spent = sum(sum(row["cost_nano_usd"].values()) for row in ledger["completed"] if row["cost_nano_usd"])
    assert Fraction(ledger["balance"]) == Fraction("100.50") - Fraction(spent, 10**9)
    assert next(row for row in ledger["completed"] if row["model"] == "own-r1")["cost_nano_usd"] is None


def test_granted_money_goes_first():
    """The granted part of the balance falls before the topped-up one."""

    async def talk():
        async with running(clock=lambda: MONDAY_PEAK_S) as client:
            await client.post(chat(), X_Simulator_Tokens="0,2000000,0,0")
            return json.loads((await client.get("/user/balance"))[2])

    row = asyncio.run(talk())["balance_infos"][0]
    assert (row["granted_balance"], row["topped_up_balance"], row["total_balance"]) == ("0.00", "99.90", "99.90")


async def ended(client, count):
    """The ledger, once nothing is open and `count` exchanges have ended."""
    for _ in range(200):
        ledger = await client.ledger()
        if ledger["exchanges"]["open"] == 0 and ledger["exchanges"]["begun"] == count:
            return ledger
        await asyncio.sleep(0.01)
    raise AssertionError(ledger["exchanges"])


async def leave_early(client, body, bytes_read, **headers):
    """Reads some of an answer and goes away."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.session.post(client.url + "/chat/completions", json=body, headers=named) as response:
        if bytes_read:
            await response.content.readexactly(bytes_read)
        response.close()


def test_a_client_that_leaves_pays_for_what_was_produced():
    """An abandoned stream is aborted: its prompt and some of its completion are billed, apart from completed ones."""

    async def talk():
        async with running(clock=lambda: MONDAY_PEAK_S) as client:
            await leave_early(client, streamed(), 5000, X_Simulator_Tokens="128,72,0,1000000", X_Simulator_Tag="gone")
            return await ended(client, 1)

    ledger = asyncio.run(talk())
    assert (ledger["exchanges"]["aborted"], ledger["completed"]) == (1, [])
    row = ledger["aborted"][0]
    assert (row["tokens"]["input_cache_hit"], row["tokens"]["input_cache_miss"]) == (128, 72)
    assert 10 < row["tokens"]["output_answer"] < 1_000_000
    assert row["cost_nano_usd"]["output_answer"] == row["tokens"]["output_answer"] * 1200
    assert ledger["list"][0]["tag"] == "gone"


def test_a_client_that_leaves_before_a_body_is_out_is_aborted():
    """A JSON answer nobody waited for is billed up to that moment."""

    scenario = Scenario(models=(Model(names=("slow",), served="slow", unpriced=True, delta_seconds=0.005),))

    async def talk():
        async with running(scenario) as client:
            task = asyncio.create_task(leave_early(client, chat("slow"), 1, X_Simulator_Tokens="0,5,0,100000"))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return await ended(client, 1)

    row = asyncio.run(talk())["aborted"][0]
    assert row["requests"] == 1
    assert 0 < row["tokens"]["output_answer"] < 1000


@pytest.mark.parametrize(
    ("behaviour", "after", "answer"), [("break", "3", 3), ("break", "0", 0), ("break-before-done", "0", 50)]
)
def test_a_broken_stream_is_billed_up_to_where_it_broke(behaviour, after, answer):
    """The client sees a body without its end; the ledger says how many tokens it had come to."""

    async def talk():
        async with running() as client:
            with pytest.raises(aiohttp.ClientPayloadError):
                await client.post(
                    streamed(),
                    X_Simulator_Behaviour=behaviour,
                    X_Simulator_After=after,
                    X_Simulator_Tokens="0,5,0,50",
                )
            return await ended(client, 1)

    ledger = asyncio.run(talk())
    assert (ledger["exchanges"]["broken"], ledger["exchanges"]["aborted"]) == (1, 0)
    assert ledger["broken"][0]["tokens"]["output_answer"] == answer


def test_a_stalled_stream_is_silent_until_the_client_gives_up():
    """After some deltas nothing comes any more; the connection stays open; leaving makes it aborted."""

    async def talk():
        async with running() as client:
            headers = {"X-Simulator-Behaviour": "stall", "X-Simulator-After": "2", "X-Simulator-Tokens": "0,5,0,50"}
            async with client.session.post(
                client.url + "/chat/completions", json=streamed(), headers=headers
            ) as response:
                for _ in range(6):
                    await response.content.readline()
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(response.content.readline(), 0.2)
                response.close()
            return await ended(client, 1)

    assert asyncio.run(talk())["aborted"][0]["tokens"]["output_answer"] == 2


@pytest.mark.parametrize("mishap", ["break", "stall"])
def test_bodies_break_and_stall_too(mishap):
    """A JSON answer breaks in its middle; a stalled one ends without a byte once the stall is over."""

    async def talk():
        async with running(quick("[mishaps]\nstall_seconds = 0.05\n")) as client:
            with pytest.raises(aiohttp.ClientPayloadError):
                await client.post(chat(), X_Simulator_Behaviour=mishap)
            return await ended(client, 1)

    assert asyncio.run(talk())["exchanges"]["broken"] == 1


def test_tokens_follow_from_seed_and_number_alone():
    """The same scenario bills the same tokens again, whatever an earlier exchange was forced to be."""

    async def talk(**first):
        async with running() as client:
            await client.post(chat(), **first)
            for _ in range(5):
                await client.post(chat())
            return [row["tokens"] for row in (await client.ledger())["list"]][1:]

    assert asyncio.run(talk()) == asyncio.run(talk(X_Simulator_Behaviour="error-503"))


def test_a_swap_changes_the_fingerprint_under_the_same_name():
    """From the named exchange on, another fingerprint answers, and the ledger keeps the two apart."""
    swap = '[[swaps]]\nmodel = "deepseek-flash"\nafter_exchanges = 2\nfingerprint = "fp_after"\nserved = "renamed"\n'

    async def talk():
        async with running(quick(swap)) as client:
            answers = [json.loads((await client.post(chat("deepseek-v4-flash")))[2]) for _ in range(4)]
            return answers, await client.ledger()

    answers, ledger = asyncio.run(talk())
    before = "0123456789abcdef0123456789abcdef"
    assert [answer["system_fingerprint"] for answer in answers] == [before, before, "fp_after", "fp_after"]
    assert [answer["model"] for answer in answers] == ["deepseek-flash"] * 2 + ["renamed"] * 2
    assert [(row["served_model"], row["requests"]) for row in ledger["completed"]] == [
        ("deepseek-flash", 2),
        ("renamed", 2),
    ]


def test_a_swap_may_reason_more():
    """What answers after it reasons so many times as much; the answer itself is as long as before."""
    swap = '[[swaps]]\nmodel = "deepseek-flash"\nafter_exchanges = 0\nfingerprint = "fp_after"\nreasoning_factor = 3\n'

    async def billed(scenario):
        async with running(scenario) as client:
            for _ in range(3):
                await client.post(chat())
            return [row["tokens"] for row in (await client.ledger())["list"]]

    before, after = asyncio.run(billed(quick())), asyncio.run(billed(quick(swap)))
    for kind in ("input_cache_hit", "input_cache_miss", "output_answer"):
        assert [tokens[kind] for tokens in after] == [tokens[kind] for tokens in before]
    reasoned = [(one["output_reasoning"], other["output_reasoning"]) for one, other in zip(before, after, strict=True)]
    assert all(less > 0 and abs(more - 3 * less) <= 2 for less, more in reasoned)  # both are rounded


def test_a_swap_by_time_happens_then():
    """A swap after some seconds counts from the start."""
    now = [1000.0]
    swap = '[[swaps]]\nmodel = "deepseek-flash"\nafter_seconds = 60\nfingerprint = "fp_after"\n'

    async def talk():
        async with running(quick(swap), clock=lambda: now[0]) as client:
            first = json.loads((await client.post(chat()))[2])
            now[0] += 60
            return first, json.loads((await client.post(chat()))[2])

    first, second = asyncio.run(talk())
    assert first["system_fingerprint"] != second["system_fingerprint"] == "fp_after"


def test_a_reset_empties_the_ledger_and_begins_again():
    """After a reset nothing is billed and the first exchange has the same id as before."""

    async def talk():
        async with running() as client:
            first = json.loads((await client.post(chat()))[2])["id"]
            await client.post({}, path="/_simulator/reset")
            empty = await client.ledger()
            return first, empty, json.loads((await client.post(chat()))[2])["id"]

    first, empty, second = asyncio.run(talk())
    assert first == second
    assert (empty["exchanges"]["begun"], empty["completed"], empty["list"]) == (0, [], [])


def test_only_the_newest_exchanges_are_listed():
    """The list is bounded, the totals are not; without being asked for it is left out."""
    from proxy.simulator.billing import Ending, Entry, Ledger
    from proxy.usage import Api

    ledger = Ledger(quick().balance, newest=3)
    for number in range(5):
        ledger.begin()
        ledger.enter(
            Entry(
                ending=Ending.COMPLETED,
                exchange_id=str(number),
                trace_id="",
                tag="",
                model="m",
                api=Api.CHAT,
                streamed=False,
                status=200,
                start_s=0.0,
                end_s=0.0,
            )
        )
    report = ledger.report(exchanges=True)
    assert [row["id"] for row in report["list"]] == ["2", "3", "4"]
    assert report["exchanges"]["completed"] == 5
    assert "list" not in ledger.report(exchanges=False)
