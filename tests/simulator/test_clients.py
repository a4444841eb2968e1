"""Real clients against the simulator: the official SDK, and the demo's own traffic."""

import asyncio

import openai
from simulator.running import quick, running

from proxy.simulator.scenario import default_scenario
from proxy.simulator.traffic import App, run_traffic

ASKED = {"model": "deepseek-flash", "messages": [{"role": "user", "content": "a word"}]}


def test_the_official_sdk_sync():
    """The synchronous SDK reads streams, bodies, models and errors as it does from DeepSeek."""

    def use(url):
        with openai.OpenAI(base_url=url, api_key="anything", max_retries=0) as sdk:
            whole = sdk.chat.completions.create(**ASKED)
            parts = list(sdk.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
            names = [model.id for model in sdk.models.list()]
            try:
                sdk.chat.completions.create(**{**ASKED, "model": "deepseek-chat"})
            except openai.BadRequestError as error:
                return whole, parts, names, str(error)
        raise AssertionError("a retired model was accepted")

    async def talk():
        async with running() as client:
            return await asyncio.to_thread(use, client.url), await client.ledger()

    (whole, parts, names, error), ledger = asyncio.run(talk())
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert (
        parts[-1].usage.completion_tokens
        == sum(bool(part.choices[0].delta.content or part.choices[0].delta.reasoning_content) for part in parts[1:-1])
        + 1
    )
    assert names == ["deepseek-flash", "odd-price"]
    assert "deepseek-chat" in error
    assert ledger["exchanges"]["completed"] == 2


def test_the_official_sdk_async():
    """The asynchronous SDK too, below /v1, with a tool call and fill-in-the-middle."""

    async def talk():
        async with running() as client, openai.AsyncOpenAI(base_url=f"{client.url}/v1", api_key="anything") as sdk:
            forced = {"X-Simulator-Behaviour": "tool-call", "X-Simulator-Tokens": "0,9,4,40"}
            whole = await sdk.chat.completions.create(**ASKED, extra_headers=forced)
            stream = await sdk.chat.completions.create(**ASKED, stream=True)
            parts = [part async for part in stream]
            beta = sdk.with_options(base_url=f"{client.url}/beta")
            fim = await beta.completions.create(model="deepseek-flash", prompt="def f(", suffix="return")
            return whole, parts, fim

    whole, parts, fim = asyncio.run(talk())
    assert whole.choices[0].message.tool_calls[0].function.name == "look_up"
    assert parts[-1].usage.total_tokens > 0
    assert fim.choices[0].text


def test_demo_traffic_is_mixed_and_ends_when_told():
    """Traffic answers, leaves and is refused in its shares; what it says it did is what the ledger holds."""
    apps = (App("one", leaves_share=0.3, streamed_share=0.8), App("two", tools_share=0.5, plain_share=0.5))
    models = {"deepseek-flash": 3.0, "own-r1": 1.0, "deepseek-chat": 0.5}

    async def pause(seconds):
        await asyncio.sleep(max(seconds, 0.001))

    async def talk():
        async with running(quick(), sleep=pause) as client:
            stop = asyncio.Event()
            run = asyncio.create_task(
                run_traffic(client.url, rate_per_second=200, apps=apps, models=models, seed=3, stop=stop)
            )
            await asyncio.sleep(1.0)
            stop.set()
            traffic = await run
            for _ in range(100):
                ledger = await client.ledger("")
                if not ledger["exchanges"]["open"]:
                    break
                await asyncio.sleep(0.01)
            return traffic, ledger["exchanges"]

    traffic, exchanges = asyncio.run(talk())
    assert exchanges["begun"] == traffic.sent > 50
    assert min(traffic.answered, traffic.left, traffic.refused) > 0
    assert (exchanges["errors"], traffic.failed) == (traffic.refused, 0)
    assert traffic.answered <= exchanges["completed"] <= traffic.answered + traffic.left


def test_traffic_survives_a_server_that_is_away():
    """Nobody listening: the requests count as failed, and it goes on."""

    async def talk():
        stop = asyncio.Event()
        run = asyncio.create_task(run_traffic("http://127.0.0.1:9", rate_per_second=100, seed=1, stop=stop))
        await asyncio.sleep(0.2)
        stop.set()
        return await run

    traffic = asyncio.run(talk())
    assert traffic.failed == traffic.sent > 0


def test_the_default_scenario_serves_its_own_traffic():
    """The built-in scenario answers every model the demo asks for, bar the retired one."""
    from proxy.simulator.traffic import DEMO_MODELS

    async def nothing(_seconds):
        await asyncio.sleep(0)

    async def talk():
        async with running(default_scenario(), sleep=nothing) as client:
            statuses = {}
            for model in DEMO_MODELS:
                asked = {**ASKED, "model": model}
                statuses[model] = (await client.post(asked, X_Simulator_Behaviour="plain"))[0]
            return statuses

    statuses = asyncio.run(talk())
    assert statuses.pop("deepseek-chat") == 400
    assert set(statuses.values()) == {200}
