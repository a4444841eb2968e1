"""What goes wrong, and what the client, the upstream and the record then see. Over real sockets."""

import asyncio
import json
import time

import pytest
from e2e.stack import Proxy, free_address, get, stopping, wait_until
from e2e.wire import Client, Seen, answer, ask, chunk, post, upstream

CHAT = b'{"model":"deepseek-flash","stream":true,"messages":[{"role":"user","content":"Hello"}]}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
TIMEOUTS = """
[upstream]
connect_timeout_seconds = 1.0
idle_timeout_seconds = 0.6
total_timeout_seconds = 4.0
[gateway]
max_request_bytes = 100000
"""


def event(delta: str, *, usage: str = "null", finish: str = "null") -> bytes:
    """One event of a chat stream."""
    return (
        f'data: {{"id":"1","object":"chat.completion.chunk","created":1,"model":"deepseek-flash",'
        f'"system_fingerprint":"f","choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}],'
        f'"usage":{usage}}}\n\n'
    ).encode()


WORD = event('{"content":"word"}')
THOUGHT = event('{"content":null,"reasoning_content":"hm"}')
USAGE = (
    '{"prompt_tokens":10,"completion_tokens":3,"total_tokens":13,'
    '"prompt_cache_hit_tokens":4,"prompt_cache_miss_tokens":6}'
)
FINISH = event('{"content":""}', usage=USAGE, finish='"stop"')
DONE = b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """One proxy with short timeouts for the module, and the address its upstream is to be played at."""
    address = free_address()
    proxy = Proxy(tmp_path_factory.mktemp("failures"), f"http://{address}", toml=TIMEOUTS)
    with stopping(proxy):
        yield proxy.wait_ready(), address
        assert "Traceback" not in proxy.output  # what goes wrong outside is not an error of ours


def record_of(proxy: Proxy, seen: Seen) -> dict:
    """The record of an exchange, once it is applied."""
    url = f"{proxy.console_url}/api/records/{seen.values(b'x-meter-exchange')[0].decode()}"
    wait_until(lambda: get(url)[0] == 200, 10, "the record")
    return json.loads(get(url)[1])


def play(stage, script, request=None, **options):
    """One request against a script; the upstream's state and what the client saw."""
    proxy, address = stage

    async def run():
        async with upstream(script, address) as state:
            return state, await ask(proxy.api, request or post("/chat/completions", CHAT), **options)

    return asyncio.run(run())


def assert_our_error(seen: Seen, status: int, code: str) -> None:
    """An error in DeepSeek's shape, marked as ours."""
    error = json.loads(seen.body)["error"]

    assert seen.status == status
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert seen.values(b"x-meter-error") == [b"1"]
    assert seen.values(b"content-type")[0].startswith(b"application/json")


def test_an_unreachable_upstream_is_a_502_and_costs_nothing(stage):
    """Nobody listens: the client gets DeepSeek's error shape, the record says the upstream was not there."""
    proxy, _ = stage
    seen = asyncio.run(ask(proxy.api, post("/chat/completions", CHAT)))
    record = record_of(proxy, seen)

    assert_our_error(seen, 502, "upstream_unreachable")
    assert (record["outcome"], record["status"]) == ("upstream_disconnected", 502)
    assert record["source"] == "none"
    assert "usage" not in record


def test_a_silent_upstream_is_a_504(stage):
    """No head within the idle limit."""

    async def silent(_heard, _writer):
        await asyncio.sleep(5)

    _, seen = play(stage, silent)
    record = record_of(stage[0], seen)

    assert_our_error(seen, 504, "upstream_timeout")
    assert (record["outcome"], record["source"], record["missing"]) == ("timed_out", "estimated", "disconnected")


def test_an_upstream_that_hangs_up_without_an_answer_is_a_502(stage):
    """Lost before the first byte, on a fresh connection: not tried again, and the prompt may have cost."""

    async def hang_up(_heard, writer):
        writer.close()

    state, seen = play(stage, hang_up)
    record = record_of(stage[0], seen)

    assert_our_error(seen, 502, "upstream_unreachable")
    assert len(state.heard) == 1
    assert (record["outcome"], record["source"]) == ("upstream_disconnected", "estimated")


def test_a_failed_tls_handshake_is_a_502(start_proxy):
    """The upstream speaks something else than TLS."""
    address = free_address()
    proxy = start_proxy(f"https://{address}")

    async def run():
        async def speak_plainly(_reader, writer):
            writer.write(answer(b"{}"))
            await writer.drain()
            writer.transport.abort()

        host, port = address.split(":")
        async with await asyncio.start_server(speak_plainly, host, int(port)):
            return await ask(proxy.api, post("/chat/completions", CHAT))

    assert_our_error(asyncio.run(run()), 502, "upstream_unreachable")


def test_a_stream_that_falls_silent_ends_after_the_idle_limit(stage):
    """No finish chunk, no [DONE], an open connection: the client sees a break, the record what went by."""

    async def stall(_heard, writer):
        writer.write(HEAD + chunk(THOUGHT) + chunk(THOUGHT) + chunk(WORD))
        await asyncio.sleep(5)

    _, seen = play(stage, stall)
    record = record_of(stage[0], seen)

    assert not seen.ended
    assert seen.body == THOUGHT * 2 + WORD
    assert (record["outcome"], record["source"], record["missing"]) == ("timed_out", "estimated", "disconnected")
    assert (record["usage"]["output_reasoning"], record["usage"]["output_answer"]) == (2, 2)


def test_keep_alive_comments_hold_an_idle_stream_open(stage):
    """A stream that sends comments is not silent, however long the model thinks."""

    async def slow(_heard, writer):
        writer.write(HEAD)
        for _ in range(6):
            await asyncio.sleep(0.25)
            writer.write(chunk(b": keep-alive\n\n"))
        writer.write(chunk(WORD + FINISH + DONE) + b"0\r\n\r\n")

    _, seen = play(stage, slow)

    assert seen.ended
    assert seen.body == b": keep-alive\n\n" * 6 + WORD + FINISH + DONE
    assert record_of(stage[0], seen)["outcome"] == "complete"


def test_the_total_limit_ends_even_a_lively_stream(stage):
    """An exchange may not go on for ever."""

    async def endless(_heard, writer):
        writer.write(HEAD)
        while True:
            writer.write(chunk(WORD))
            await writer.drain()
            await asyncio.sleep(0.1)

    begun = time.monotonic()
    _, seen = play(stage, endless)

    assert not seen.ended
    assert time.monotonic() - begun < 15
    assert record_of(stage[0], seen)["outcome"] == "timed_out"


@pytest.mark.parametrize("clean", [True, False], ids=["close", "reset"])
def test_a_body_the_upstream_breaks_off_looks_broken_off(stage, clean):
    """The client gets every byte that came, and no proper end; the record is an estimate."""

    async def break_off(_heard, writer):
        writer.write(HEAD + chunk(WORD) + chunk(WORD))
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.close() if clean else writer.transport.abort()

    _, seen = play(stage, break_off)
    record = record_of(stage[0], seen)

    assert not seen.ended
    assert seen.body == WORD * 2
    assert (record["outcome"], record["source"]) == ("upstream_disconnected", "estimated")
    assert record["usage"]["output_answer"] == 2


def test_a_break_after_the_usage_keeps_the_reported_counts(stage):
    """What was reported before the break is not thrown away for an estimate."""

    async def break_late(_heard, writer):
        writer.write(HEAD + chunk(WORD + FINISH))
        await writer.drain()
        writer.close()

    _, seen = play(stage, break_late)
    record = record_of(stage[0], seen)

    assert not seen.ended
    assert (record["outcome"], record["source"]) == ("upstream_disconnected", "reported")
    assert record["usage"] == {"input_cache_hit": 4, "input_cache_miss": 6, "output_reasoning": 0, "output_answer": 3}


def test_a_body_with_a_broken_framing_looks_broken_off_at_once(stage):
    """No chunk has the size `zz`: the client need not wait for the idle limit to learn it."""

    async def spoil(_heard, writer):
        writer.write(HEAD + chunk(WORD))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"zz\r\n" + WORD)
        await writer.drain()
        await asyncio.sleep(2)

    _, seen = play(stage, spoil)
    record = record_of(stage[0], seen)

    assert (seen.body, seen.ended) == (WORD, False)
    assert (record["outcome"], record["source"]) == ("upstream_disconnected", "estimated")


def test_a_body_shorter_than_its_length_looks_broken_off(stage):
    """A content-length that is not fulfilled is passed on unfulfilled."""

    async def short(_heard, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 40)
        await writer.drain()
        writer.close()

    _, seen = play(stage, short)

    assert (seen.body, seen.ended) == (b"x" * 40, False)


def test_a_client_that_leaves_closes_the_upstream(stage):
    """The upstream stops at once, also while it is thinking in silence; the record is one, and estimated."""
    proxy, address = stage

    async def run():
        gone = asyncio.Event()

        async def think(heard, writer):
            writer.write(HEAD + chunk(WORD))
            await writer.drain()
            while not heard.sender_is_gone:  # silent, but watching its connection
                await asyncio.sleep(0.02)
            gone.set()

        async with upstream(think, address):
            client = await Client(proxy.api).open()
            await client.send(post("/chat/completions", CHAT))
            head = await client.head()
            await asyncio.sleep(0.1)
            await client.close()
            await asyncio.wait_for(gone.wait(), 5)
            return head

    seen = asyncio.run(run())
    record = record_of(proxy, seen)

    assert (record["outcome"], record["source"], record["missing"]) == (
        "client_disconnected",
        "estimated",
        "disconnected",
    )
    assert record["usage"]["output_answer"] == 1


def test_a_slow_client_slows_the_upstream(stage):
    """Back-pressure reaches the upstream: the proxy does not pile up what a client does not read."""
    proxy, address = stage
    sent = 0

    async def run():
        async def flood(_heard, writer):
            nonlocal sent
            writer.write(HEAD)
            piece = chunk(b": " + b"x" * 65_000 + b"\n\n")
            while True:
                writer.write(piece)
                await writer.drain()
                sent += len(piece)

        async with upstream(flood, address):
            client = await Client(proxy.api).open()
            await client.send(post("/chat/completions", CHAT))
            await client.head()
            before = -1
            while sent != before:  # the client reads nothing; wait until the upstream is stuck
                before = sent
                await asyncio.sleep(0.4)
            await client.abort()

    asyncio.run(run())

    # What the sockets of three processes hold: newer kernels let a buffer for receiving grow to 32 MiB, and there are two of
    # them. A proxy without back-pressure takes hundreds until the total limit ends it.
    assert sent < 96 * 1024 * 1024


def test_a_stale_pooled_connection_is_not_the_clients_problem(stage):
    """The upstream closes idle connections without a word; the next request goes through on a new one."""
    proxy, address = stage

    async def run():
        async def answer_and_close(_heard, writer):
            writer.write(answer(b'{"ok":true}'))
            await writer.drain()
            asyncio.get_running_loop().call_later(0.02, writer.transport.abort)

        async with upstream(answer_and_close, address) as state:
            seen = []
            for _ in range(10):
                seen.append(await ask(proxy.api, post("/chat/completions", CHAT)))
                await asyncio.sleep(0.02)
            return state, seen

    state, seen = asyncio.run(run())

    assert [one.status for one in seen] == [200] * 10
    assert len(state.heard) == 10


def test_a_huge_body_is_refused_with_413(stage):
    """By its announced length before it is read, or as soon as it grows past the limit."""
    announced = post("/chat/completions", b"x" * 100_001)
    _, seen = play(stage, None, announced)
    chunked = b"POST /files HTTP/1.1\r\nHost: p\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"x" * 60_000) * 2
    _, grown = play(stage, None, chunked)

    assert_our_error(seen, 413, "request_too_large")
    assert_our_error(grown, 413, "request_too_large")
    assert record_of(stage[0], seen)["outcome"] == "refused"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe\x00", b"[]", b'{"model":7}', b'{"model":"a","model":"b"}'])
def test_a_malformed_request_is_relayed_as_it_is(stage, body):
    """What the upstream makes of a body is the upstream's business."""

    async def refuse(_heard, writer):
        writer.write(answer(b'{"error":{}}', status=b"400 Bad Request"))

    state, seen = play(stage, refuse, post("/chat/completions", body))

    assert state.heard[0].body == body
    assert (seen.status, seen.values(b"x-meter-error")) == (400, [])
    assert record_of(stage[0], seen)["outcome"] == "upstream_error"


def test_a_target_that_names_another_host_is_refused(stage):
    """An absolute target could lead the proxy elsewhere: nothing is sent."""
    _, seen = play(stage, None, b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: p\r\n\r\n")

    assert_our_error(seen, 400, "invalid_request_error")


@pytest.mark.parametrize(
    "usage", ['{"prompt_tokens":"ten"}', "[1]", '{"prompt_tokens":1.5,"completion_tokens":2}', "{}"]
)
def test_a_broken_usage_leaves_the_stream_untouched(stage, usage):
    """The client gets its bytes; the record says that the usage could not be read, and estimates."""
    body = WORD + event('{"content":""}', usage=usage, finish='"stop"') + DONE

    async def broken(_heard, writer):
        writer.write(HEAD + chunk(body) + b"0\r\n\r\n")

    _, seen = play(stage, broken)
    record = record_of(stage[0], seen)

    assert seen.body == body
    assert seen.ended
    assert (record["outcome"], record["source"], record["missing"]) == ("complete", "estimated", "broken_usage")


def test_an_unknown_model_is_relayed_and_its_tokens_are_unpriced(stage):
    """It keeps its own name; a token without a price is counted as that, never as $0."""
    proxy, _ = stage

    async def serve(_heard, writer):
        writer.write(answer(b'{"model":"mystery-9b","choices":[],"usage":' + USAGE.encode() + b"}"))

    _, seen = play(stage, serve, post("/chat/completions", b'{"model":"mystery-9b"}'))
    record = record_of(proxy, seen)
    wait_until(lambda: proxy.total("unpriced_tokens_total", model="mystery-9b", currency="USD") == 13, 5)

    assert (record["version"], record["how"]) == ("mystery-9b", "served_name")
    assert "charges" not in record
    assert proxy.total("cost_usd_total", model="mystery-9b") == 0


def test_the_record_is_written_before_the_client_sees_the_end(stage):
    """At [DONE], at the last byte under a content-length, or at the end of the chunks: the journal has it first."""
    proxy, address = stage
    journals = proxy.folder / "data" / "journals"

    def journaled() -> bytes:
        return b"".join(path.read_bytes() for path in journals.glob("*/*.log"))

    async def run(body: bytes, end: bytes) -> bool:
        async def serve(_heard, writer):
            writer.write(body)
            await writer.drain()
            await asyncio.sleep(0.3)
            writer.write(end)

        async with upstream(serve, address):
            client = await Client(proxy.api).open()
            await client.send(post("/chat/completions", CHAT))
            seen = await client.head()
            there = False

            def look(_length: int) -> None:
                nonlocal there
                if seen.body.endswith((DONE, b"}")):
                    there = there or seen.values(b"x-meter-exchange")[0] in journaled()

            await client.body(look)
            await client.close()
            return there

    with_length = answer(b'{"model":"deepseek-flash","usage":' + USAGE.encode() + b"}")

    assert asyncio.run(run(HEAD + chunk(WORD + FINISH + DONE), b"0\r\n\r\n"))
    assert asyncio.run(run(with_length, b""))
