"""Hosts that do not report as DeepSeek does, and clients that leave: what is counted then. Over real sockets."""

import asyncio
import json
import os
import signal

import pytest
from e2e.stack import Proxy, free_address, stopping, wait_until
from e2e.test_failures import DONE, FINISH, HEAD, THOUGHT, WORD, event, record_of
from e2e.wire import Client, ask, chunk, post, upstream
from metering.given import CASSETTES

OPTION = b'"stream_options":{"include_usage":true},'
BODY = b'{"model":"deepseek-flash","stream":true,"messages":[{"role":"user","content":"Hello there"}]}'
LAST = event('{"content":""}', finish='"stop"')
EXTRA = b'data: {"id":"1","model":"deepseek-flash","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}\n\n'
PROMPT_TOKENS = 2 + 1 + 1 + 2 + 26  # words, start, role, generation, and what DeepSeek hides before a V4.1 prompt

ASKING = "[upstream]\nadd_include_usage = true\n"
DRAINING = """
[upstream]
on_client_disconnect = "drain"
drain_seconds = 2.0
drain_tokens = 40
[apps.hasty]
on_client_disconnect = "abort"
"""


def stage(folder, toml):
    address = free_address()
    return Proxy(folder, f"http://{address}", toml=toml), address


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    proxy, address = stage(tmp_path_factory.mktemp("plain"), "[metering]\nestimate_sample = 1.0\n")
    with stopping(proxy):
        yield proxy.wait_ready(), address
        assert "Traceback" not in proxy.output


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    proxy, address = stage(tmp_path_factory.mktemp("asking"), ASKING)
    with stopping(proxy):
        yield proxy.wait_ready(), address


@pytest.fixture(scope="module")
def draining(tmp_path_factory):
    proxy, address = stage(tmp_path_factory.mktemp("draining"), DRAINING)
    with stopping(proxy):
        yield proxy.wait_ready(), address


def streaming(*events):
    """A script that streams these events, each in a chunk of its own."""

    async def script(_heard, writer):
        writer.write(HEAD + b"".join(chunk(one) for one in events) + b"0\r\n\r\n")

    return script


def reports_when_asked(heard, writer):
    """A host of OpenAI's convention."""
    asked = json.loads(heard.body).get("stream_options") or {}
    events = [WORD, WORD, LAST, *([EXTRA] if asked.get("include_usage") else []), DONE]
    return streaming(*events)(heard, writer)


def play(place, script, request):
    proxy, address = place

    async def run():
        async with upstream(script, address) as state:
            return state, await ask(proxy.api, request)

    return asyncio.run(run())


def test_a_stream_without_usage_is_estimated_and_its_host_named(plain):
    """Bytes as they came; a record before the end, labelled; a metric and a log line with the setting that helps."""
    proxy, _ = plain
    before = proxy.total("proxy_streams_without_usage_total", upstream="default")
    _, seen = play(plain, reports_when_asked, post("/chat/completions", BODY))
    record = record_of(proxy, seen)

    assert seen.body == WORD + WORD + LAST + DONE
    assert (record["source"], record["missing"], record["outcome"]) == ("estimated", "not_reported", "complete")
    assert record["usage"] == {
        "input_cache_miss": PROMPT_TOKENS,
        "output_answer": 2,
        "input_cache_hit": 0,
        "output_reasoning": 0,
    }
    wait_until(lambda: proxy.total("proxy_streams_without_usage_total", upstream="default") == before + 1, 5)
    wait_until(lambda: "add_include_usage = true" in proxy.output, 5)


def test_the_record_of_an_estimate_is_written_before_the_client_sees_the_end(plain):
    """A worker killed the moment the client has its `[DONE]`: the exchange is complete, not interrupted."""
    proxy, address = plain

    async def run():
        async with upstream(reports_when_asked, address):
            client = await Client(proxy.api).open()
            await client.send(post("/chat/completions", BODY))
            await client.head()
            done = asyncio.Event()
            reading = asyncio.create_task(client.body(lambda _: DONE in client.seen.body and done.set()))
            await done.wait()
            worker = next(pid for pid, command in proxy.children().items() if "gateway_process" in command)
            os.kill(worker, signal.SIGKILL)
            reading.cancel()
            await client.close()
            return client.seen

    record = record_of(proxy.wait_ready(), asyncio.run(run()))

    assert (record["outcome"], record["source"]) == ("complete", "estimated")


def test_a_division_of_ours_is_marked(plain):
    """Azure's way: a usage without its reasoning, although reasoning went by."""
    usage = '{"prompt_tokens":9,"completion_tokens":6,"total_tokens":15,"reasoning_tokens":0}'
    events = [THOUGHT, WORD, LAST, event('{"content":null}', usage=usage), DONE]
    _, seen = play(plain, streaming(*events), post("/chat/completions", BODY))
    record = record_of(plain[0], seen)

    assert seen.body == b"".join(events)
    assert (record["source"], record["reasoning_counted"]) == ("reported", True)
    assert (record["usage"]["output_reasoning"], record["usage"]["output_answer"]) == (1, 5)


@pytest.mark.parametrize("end", [DONE, b""])
def test_estimates_are_checked_against_reports(plain, end):
    """Of every exchange here (1 % by default): how far the estimate lies off is a metric per version."""
    proxy, _ = plain
    before = proxy.total("proxy_estimate_checks_total", part="prompt")
    play(plain, streaming(WORD, WORD, FINISH, end or DONE), post("/chat/completions", BODY))
    wait_until(lambda: proxy.total("proxy_estimate_checks_total", part="prompt") > before, 10)
    off = proxy.total("proxy_estimate_error_tokens_total", part="prompt")

    assert off > 0
    assert proxy.total("proxy_estimate_reported_tokens_total", part="prompt") > 0


def test_a_usage_behind_the_end_is_counted_as_such(plain):
    """The record was written at `[DONE]`: the counter of late usages is what remains to be told."""
    proxy, _ = plain
    _, seen = play(plain, streaming(WORD, LAST, DONE, EXTRA), post("/chat/completions", BODY))
    record = record_of(proxy, seen)

    assert seen.body == WORD + LAST + DONE + EXTRA
    assert record["source"] == "estimated"
    wait_until(lambda: proxy.total("proxy_metering_faults_total", stage="usage_after_end") == 1, 5)


@pytest.mark.parametrize("path", ["/anthropic/v1/messages", "/responses"])
def test_every_dialect_is_counted(plain, path):
    """The other two dialects, over the wire: reported, priced, with their own end marks."""
    cassette = "anthropic-stream" if "anthropic" in path else "responses-stream"
    body = (CASSETTES / f"{cassette}.sse").read_bytes()
    _, seen = play(plain, streaming(body), post(path, b'{"model":"deepseek-flash","stream":true}'))
    record = record_of(plain[0], seen)

    assert (seen.body, seen.ended) == (body, True)
    assert record["source"] == "reported"
    assert record["usage"]["input_cache_hit"] == 64
    assert {charge["currency"] for charge in record["charges"]} == {"USD", "CNY"}


def test_usage_is_asked_for_and_its_chunk_taken_out(asking):
    """Only where the operator set it: the upstream hears the option, the client sees what it would have seen."""
    state, seen = play(asking, reports_when_asked, post("/chat/completions", BODY))
    record = record_of(asking[0], seen)

    assert state.heard[0].body == b"{" + OPTION + BODY[1:]
    assert state.heard[0].values(b"content-length") == [b"%d" % len(state.heard[0].body)]
    assert seen.body == WORD + WORD + LAST + DONE
    assert (record["source"], record["usage"]["output_answer"], record["usage"]["input_cache_miss"]) == (
        "reported",
        3,
        9,
    )


@pytest.mark.parametrize(
    ("word", "body"), [("true", WORD + WORD + LAST + EXTRA + DONE), ("false", WORD + WORD + LAST + DONE)]
)
def test_a_clients_own_word_is_honoured(asking, word, body):
    """`true` gets its chunk, `false` none, and neither request is changed."""
    request = BODY[:-1] + b',"stream_options":{"include_usage":' + word.encode() + b"}}"
    state, seen = play(asking, reports_when_asked, post("/chat/completions", request))

    assert state.heard[0].body == request
    assert seen.body == body


@pytest.mark.parametrize("path", ["/anthropic/v1/messages", "/responses", "/models", "/files"])
def test_other_dialects_are_never_asked(asking, path):
    """The option is of two dialects only."""
    state, _ = play(asking, streaming(DONE), post(path, BODY))

    assert state.heard[0].body == BODY


def test_deepseeks_own_usage_is_not_taken_out(asking):
    """It stands beside a choice: that chunk belongs to the client."""
    _, seen = play(asking, streaming(WORD, FINISH, DONE), post("/chat/completions", BODY))

    assert seen.body == WORD + FINISH + DONE


@pytest.mark.parametrize("beginning", [b"\n", b": keep-alive\n", b"data: [DONE]\n"])
def test_the_head_does_not_wait_for_a_whole_event(asking, beginning):
    """What is held back is half an event, never the head."""
    proxy, address = asking

    async def run():
        held = asyncio.Event()

        async def begin(_heard, writer):
            writer.write(HEAD + chunk(beginning))
            await writer.drain()
            await held.wait()
            writer.write(b"0\r\n\r\n")

        async with upstream(begin, address):
            client = await Client(proxy.api).open()
            await client.send(post("/chat/completions", BODY))
            seen = await asyncio.wait_for(client.head(), 5)
            held.set()
            await client.body()
            await client.close()
            return seen

    assert asyncio.run(run()).body == beginning


def test_half_an_event_of_a_broken_stream_is_the_clients(asking):
    """Also where the extra chunk would be taken out: the client sees the same break."""

    async def breaks(_heard, writer):
        writer.write(HEAD + chunk(WORD + WORD[:20]))
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()

    _, seen = play(asking, breaks, post("/chat/completions", BODY))

    assert (seen.body, seen.ended) == (WORD + WORD[:20], False)


def test_a_download_is_never_drained(draining):
    """What costs no tokens tells no usage: the upstream is closed as ever."""
    proxy, address = draining

    async def run():
        gone = asyncio.Event()

        async def file(heard, writer):
            writer.write(HEAD + chunk(b"x" * 1000))
            await writer.drain()
            while not heard.sender_is_gone:
                await asyncio.sleep(0.02)
            gone.set()

        async with upstream(file, address):
            client = await Client(proxy.api).open()
            await client.send(b"GET /files/file-api-1 HTTP/1.1\r\nHost: proxy.example\r\n\r\n")
            await client.head()
            await client.abort()
            await asyncio.wait_for(gone.wait(), 1.5)

    asyncio.run(run())


async def leaving(place, script, *headers, words=2, body=BODY):
    """A client that leaves after some words; the upstream's state when its script is over, and what was seen."""
    proxy, address = place
    over = asyncio.Event()

    async def to_its_end(heard, writer):
        try:
            await script(heard, writer)
        finally:
            over.set()

    async with upstream(to_its_end, address) as state:
        client = await Client(proxy.api).open()
        await client.send(post("/chat/completions", body, *headers))
        seen = await client.head()
        enough = asyncio.Event()
        reading = asyncio.create_task(client.body(lambda size: size >= words * len(WORD) and enough.set()))
        await asyncio.wait_for(enough.wait(), 10)
        reading.cancel()
        await client.abort()
        await asyncio.wait_for(over.wait(), 10)
        await asyncio.sleep(0.05)
    return state, seen


def paced(*events, pause_s=0.02):
    """A script that pauses between events, and stops when it is hung up on."""

    async def script(heard, writer):
        writer.write(HEAD)
        for one in events:
            if heard.sender_is_gone:
                return
            writer.write(chunk(one))
            await writer.drain()
            await asyncio.sleep(pause_s)
        writer.write(b"0\r\n\r\n")

    return script


def test_a_drained_exchange_is_read_on_to_its_usage(draining):
    """The client is gone, the upstream says everything, the record has the report."""
    _, seen = asyncio.run(leaving(draining, paced(*[WORD] * 10, FINISH, DONE)))
    record = record_of(draining[0], seen)

    assert (record["outcome"], record["source"]) == ("client_disconnected", "reported")
    assert record["usage"]["output_answer"] == 3
    wait_until(lambda: draining[0].total("proxy_in_flight_requests") == 0, 5)


@pytest.mark.parametrize(
    ("events", "pause_s", "most"), [([WORD] * 200, 0.005, 60), ([WORD, WORD] + [b": x\n\n"] * 60, 0.1, 2)]
)
def test_beyond_its_caps_a_drained_exchange_is_given_up(draining, events, pause_s, most):
    """40 tokens or 2 seconds: the upstream is closed, and what went by is estimated."""
    _, seen = asyncio.run(leaving(draining, paced(*events, pause_s=pause_s)))
    record = record_of(draining[0], seen)

    assert (record["outcome"], record["source"], record["missing"]) == (
        "client_disconnected",
        "estimated",
        "disconnected",
    )
    assert 2 <= record["usage"]["output_answer"] <= most


def test_an_apps_own_word_goes_before_the_upstreams(draining):
    """This app wants its exchanges given up at once."""
    _, seen = asyncio.run(leaving(draining, paced(*[WORD] * 100, FINISH, DONE), b"X-Meter-App: hasty"))
    record = record_of(draining[0], seen)

    assert (record["app"], record["outcome"], record["source"]) == ("hasty", "client_disconnected", "estimated")
    assert record["usage"]["output_answer"] < 50


def test_a_client_that_leaves_before_the_head_is_drained_too(draining):
    """A thinking model that was not streamed: the answer comes when nobody waits for it any more."""
    proxy, address = draining
    answered = json.dumps(
        {
            "model": "deepseek-flash",
            "choices": [],
            "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
        }
    ).encode()

    async def run():
        async def late(_heard, writer):
            await asyncio.sleep(0.5)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answered) + answered)

        async with upstream(late, address) as state:
            client = await Client(proxy.api).open()
            await client.send(post("/chat/completions", BODY, b"X-Meter-App: patient"))
            await asyncio.sleep(0.2)
            await client.abort()
            await asyncio.sleep(1.0)
            return state

    assert len(asyncio.run(run()).heard) == 1
    wait_until(lambda: proxy.total("app_tokens_total", app="patient") == 14, 10)
    assert proxy.total("app_requests_total", app="patient") == 1


def test_a_stop_does_not_wait_for_drains_beyond_its_grace(tmp_path):
    """What is still read on when the grace time is over ends with a record."""
    proxy, address = stage(
        tmp_path,
        DRAINING.replace("drain_seconds = 2.0", "drain_seconds = 60.0") + "[gateway]\nshutdown_grace_seconds = 0.3\n",
    )

    async def run():
        async def silent(_heard, writer):
            writer.write(HEAD + chunk(WORD))
            await writer.drain()
            await asyncio.sleep(20)

        async with upstream(silent, address):
            client = await Client(proxy.api).open()
            await client.send(post("/chat/completions", BODY))
            await client.head()
            await asyncio.sleep(0.2)
            await client.abort()
            await asyncio.sleep(0.2)
            await asyncio.to_thread(proxy.stop)

    with stopping(proxy):
        proxy.wait_ready()
        asyncio.run(run())
    again = Proxy(tmp_path, f"http://{address}", addresses=(proxy.api, proxy.console))
    with stopping(again):
        again.wait_ready()
        wait_until(lambda: again.total("requests_total", outcome="client_disconnected") == 1, 10)
        assert again.total("requests_total", outcome="interrupted") == 0
