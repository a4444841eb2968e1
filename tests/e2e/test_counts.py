"""The main promise, from end to end: the official SDK with only `base_url` changed, and counters equal to the bill."""

import asyncio
import time
from datetime import UTC, datetime

import openai
import pytest
from e2e.stack import KEY, Proxy, Simulator, free_address, get, wait_until

from proxy.ledger import embedded

MODELS = ("deepseek-flash", "deepseek-v4-flash", "deepseek-v4-pro", "deepseek-ai/DeepSeek-R1-0528")
MESSAGES = [{"role": "user", "content": "Count the boats on the river."}]
KINDS = ("input_cache_hit", "input_cache_miss", "output_reasoning", "output_answer")
BORDERS_UTC_S = (3600, 4 * 3600, 6 * 3600, 10 * 3600, 24 * 3600)


def wait_past_a_band_border(margin_s: float = 90.0) -> None:
    """Prices change on the hour; an exchange that ends within a millisecond of that may be billed either way."""
    second = datetime.now(UTC).hour * 3600 + datetime.now(UTC).minute * 60 + datetime.now(UTC).second
    for border in BORDERS_UTC_S:
        if 0 <= border - second < margin_s:
            time.sleep(border - second + 1)


async def ask_many(url: str, count: int, parallel: int) -> None:
    """`count` exchanges with the asynchronous SDK, every second one streamed, every fourth stream with include_usage."""
    limit = asyncio.Semaphore(parallel)
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:

        async def ask(number: int) -> None:
            model = MODELS[number % len(MODELS)]
            async with limit:
                if number % 2:
                    await client.chat.completions.create(model=model, messages=MESSAGES)
                    return
                options = {"stream_options": {"include_usage": True}} if number % 8 == 0 else {}
                stream = await client.chat.completions.create(model=model, messages=MESSAGES, stream=True, **options)
                async for _ in stream:
                    pass

        await asyncio.gather(*(ask(number) for number in range(count)))


def ask_synchronously(url: str, count: int) -> None:
    """The same with the synchronous SDK, one after another."""
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        for number in range(count):
            model = MODELS[number % len(MODELS)]
            if number % 2:
                assert client.chat.completions.create(model=model, messages=MESSAGES).usage.total_tokens > 0
            else:
                for chunk in client.chat.completions.create(model=model, messages=MESSAGES, stream=True):
                    assert chunk.object == "chat.completion.chunk"


def billed(simulator: Simulator) -> tuple[dict[tuple[str, str], int], dict[tuple[str, str], int]]:
    """Tokens and nano-dollars of the completed exchanges, by model as requested and kind."""
    tokens: dict[tuple[str, str], int] = {}
    nanos: dict[tuple[str, str], int] = {}
    for row in simulator.ledger()["completed"]:
        for kind in KINDS:
            key = (row["model"], kind)
            tokens[key] = tokens.get(key, 0) + row["tokens"][kind]
            if row["cost_nano_usd"] is not None:
                nanos[key] = nanos.get(key, 0) + row["cost_nano_usd"][kind]
    return _without_zeros(tokens), _without_zeros(nanos)


def counted(proxy: Proxy) -> tuple[dict[tuple[str, str], int], dict[tuple[str, str], int]]:
    """The same out of /metrics. Dollars are nano-dollars divided by 10^9 there, exact as far as these sums go."""
    samples = proxy.metrics()
    tokens = _by_model_and_kind(samples["tokens_total"])
    dollars = _by_model_and_kind(samples["cost_usd_total"])
    nanos = {key: round(value * 1e9) for key, value in dollars.items()}
    return _without_zeros({key: int(value) for key, value in tokens.items()}), _without_zeros(nanos)


def _by_model_and_kind(samples: dict[tuple, float]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for pairs, value in samples.items():
        labels = dict(pairs)
        assert labels["source"] == "reported" or value == 0
        key = (labels["model"], labels["kind"])
        found[key] = found.get(key, 0) + value
    return found


def _without_zeros(found):
    return {key: value for key, value in found.items() if value}


def test_two_thousand_sdk_exchanges_are_counted_to_the_token_and_the_nano_dollar(simulator, start_proxy):
    """Sync and async, streamed and not, four workers: the counters equal the ledger of who billed."""
    wait_past_a_band_border()
    proxy = start_proxy(simulator.url, workers=4)
    asyncio.run(ask_many(proxy.url, 1800, parallel=16))
    ask_synchronously(f"{proxy.url}/v1", 200)
    proxy.wait_applied(2000)
    ledger = simulator.ledger()

    assert ledger["exchanges"]["completed"] == 2000
    assert proxy.total("requests_total", outcome="complete") == 2000
    assert billed(simulator) == counted(proxy)
    unpriced = proxy.total("unpriced_tokens_total", model="deepseek-ai/DeepSeek-R1-0528", currency="USD")
    assert unpriced == proxy.total("tokens_total", model="deepseek-ai/DeepSeek-R1-0528")
    assert proxy.total("requests_without_usage_total") == 0
    assert proxy.total("usage_violations_total") == 0
    assert proxy.total("proxy_metering_faults_total") == 0


@pytest.fixture
def external_redis(tmp_path):
    """A redis-server of its own on a port, as an operator would run it."""
    import subprocess

    address = free_address()
    host, port = address.split(":")
    folder = tmp_path / "external"
    folder.mkdir()
    command = [embedded.find_server(), "--bind", host, "--port", port, "--dir", str(folder), "--appendonly", "yes"]
    server = subprocess.Popen([*command, "--requirepass", "pass-word"], stdout=subprocess.DEVNULL)
    yield f"redis://:pass-word@{address}/0"
    server.terminate()
    server.wait(30)


def test_an_external_redis_gives_the_same_numbers(simulator, start_proxy, external_redis):
    """With `--redis` (and a password) the counters equal the bill just the same, and nobody is named in the log."""
    wait_past_a_band_border(30)
    proxy = start_proxy(simulator.url, workers=2, redis=external_redis)
    asyncio.run(ask_many(proxy.url, 200, parallel=8))
    proxy.wait_applied(200)

    assert billed(simulator) == counted(proxy)
    assert "pass-word" not in proxy.output
    assert not (proxy.folder / "data" / "redis").exists()


def test_only_what_may_be_an_exchange_is_waited_for(simulator, start_proxy):
    """A well-formed id may be applied any moment; anything else never will, and whoever mistyped it is told."""
    proxy = start_proxy(simulator.url)

    assert get(f"{proxy.console_url}/api/records/{'0a' * 12}")[0] == 202
    for nonsense in ("xyz", "0a" * 11, "0a" * 13, "0A" * 12, "0a" * 11 + "0g", "0a" * 12 + "%0A"):
        status, body = get(f"{proxy.console_url}/api/records/{nonsense}")
        assert (status, nonsense in body.decode()) == (400, False)


def test_exchanges_say_who_they_were_and_can_be_looked_up(simulator, start_proxy):
    """The response names the exchange; the console has its tokens and cost by that name, with app and purpose."""
    proxy = start_proxy(simulator.url)
    headers = {"X-Meter-App": "night-shift", "X-Meter-Purpose": "validation"}
    with openai.OpenAI(base_url=proxy.url, api_key=KEY, max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="deepseek-v4-pro", messages=MESSAGES, extra_headers=headers
        )
    usage = raw.parse().usage
    url = f"{proxy.console_url}/api/records/{raw.headers['x-meter-exchange']}"
    wait_until(lambda: _get_json(url)[0] == 200, 10, "the record")
    proxy.wait_applied(1)
    record = _get_json(url)[1]

    assert raw.headers["x-meter-version"] == "DeepSeek-V4-Pro-0813"
    assert (record["app"], record["purpose"]) == ("night-shift", "validation")
    assert (record["version"], record["how"]) == ("DeepSeek-V4-Pro-0813", "alias")
    assert sum(record["usage"].values()) == usage.total_tokens
    assert record["charges"][0]["currency"] == "USD"
    assert proxy.total("app_requests_total", app="night-shift") == 1
    assert proxy.total("purpose_cost_usd_total", purpose="validation") > 0


def _get_json(url: str):
    import json

    from e2e.stack import get

    status, body = get(url)
    return status, json.loads(body or b"null")
