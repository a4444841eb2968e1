"""Starting, stopping, dying and starting again: totals are kept, nothing is counted twice, nothing is left behind."""

import asyncio
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest
from e2e.stack import KEY, Process, Proxy, alive, free_address, get, wait_until
from e2e.test_counts import billed, counted
from e2e.test_failures import CHAT, DONE, FINISH, HEAD, WORD
from e2e.wire import Client, Seen, chunk, post, upstream

BODY = {"model": "deepseek-flash", "messages": [{"role": "user", "content": "Hello"}]}
HEADERS = {"Authorization": f"Bearer {KEY}"}


def ask(proxy: Proxy, count: int = 1, **headers: str) -> None:
    """So many exchanges, one after another."""
    with httpx.Client(headers={**HEADERS, **headers}) as client:
        for _ in range(count):
            client.post(f"{proxy.url}/chat/completions", json=BODY).raise_for_status()


def settled(simulator, proxy: Proxy) -> bool:
    return billed(simulator) == counted(proxy)


def test_a_restart_of_everything_keeps_all_totals(simulator, start_proxy):
    """Counters are the same before and after, and go on from there."""
    first = start_proxy(simulator.url, workers=2)
    ask(first, 40)
    first.wait_applied(40)
    before = counted(first)
    assert first.stop() == 0
    second = start_proxy(simulator.url, workers=2)

    assert counted(second) == before
    ask(second, 10)
    second.wait_applied(50)
    assert settled(simulator, second)


def test_records_written_just_before_a_stop_are_not_lost(simulator, start_proxy):
    """A stop right behind the last answer: what was not shipped yet is shipped, by this start or the next."""
    first = start_proxy(simulator.url)
    ask(first, 15)
    first.stop()
    second = start_proxy(simulator.url)
    second.wait_applied(15)

    assert settled(simulator, second)


def test_a_killed_worker_is_started_again_and_its_records_are_counted_once(simulator, start_proxy):
    """kill -9 of a worker right after its answers: another start drains its journal."""
    proxy = start_proxy(simulator.url, workers=2)
    ask(proxy, 30)
    for pid, command in proxy.children().items():
        if "gateway_process" in command:
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: _workers(proxy) == 2, what="both workers are back")
    proxy.wait_applied(30)
    ask(proxy, 10)
    proxy.wait_applied(40)
    time.sleep(1.0)

    assert settled(simulator, proxy)
    assert proxy.total("requests_total") == 40


def test_when_the_supervisor_is_killed_nothing_of_it_lives_on(simulator, start_proxy):
    """kill -9 of the supervisor ends workers, console and Redis; the next start takes over cleanly."""
    first = start_proxy(simulator.url, workers=2)
    ask(first, 25)
    children = first.children()
    assert len(children) == 4
    first.stop(signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in children), 20, "the children have ended")
    second = start_proxy(simulator.url, workers=2)
    second.wait_applied(25)
    ask(second, 5)
    second.wait_applied(30)

    assert settled(simulator, second)


def test_redis_away_for_a_while_loses_nothing(simulator, start_proxy):
    """Exchanges go on at full speed while Redis is stopped; the metrics say so and leave the counters out."""
    proxy = start_proxy(simulator.url, workers=2, toml="[store]\noperation_timeout_seconds = 2.0\n")
    ask(proxy, 10)
    proxy.wait_applied(10)
    redis = next(pid for pid, command in proxy.children().items() if "redis" in command)
    os.kill(redis, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        ask(proxy, 30)
        took_s = time.monotonic() - begun
        wait_until(lambda: proxy.metrics()["store_up"][()] == 0, 30, "store_up is 0")
        without_store = proxy.metrics()
    finally:
        os.kill(redis, signal.SIGCONT)
    proxy.wait_applied(40)

    assert took_s < 2 * 30  # no exchange waited for Redis, whose answers time out after two seconds
    assert "tokens_total" not in without_store
    assert "proxy_in_flight_requests" in without_store
    assert settled(simulator, proxy)


def test_a_redis_that_dies_is_started_again_on_the_same_files(simulator, start_proxy):
    """kill -9 of the embedded Redis: the supervisor starts another, and the totals are all there."""
    proxy = start_proxy(simulator.url)
    ask(proxy, 20)
    proxy.wait_applied(20)
    redis = next(pid for pid, command in proxy.children().items() if "redis" in command)
    os.kill(redis, signal.SIGKILL)
    ask(proxy, 10)
    wait_until(lambda: _store_up(proxy), what="Redis is back")
    proxy.wait_applied(30)

    assert settled(simulator, proxy)


def verified(proxy: Proxy, *options: str) -> tuple[int, dict]:
    """Exit code and answer of `verify` on this installation, running or not."""
    command = [
        sys.executable,
        "-m",
        "proxy",
        "verify",
        "--data-dir",
        str(proxy.folder / "data"),
        "--format",
        "json",
        *options,
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=proxy.folder)
    return found.returncode, json.loads(found.stdout)


def test_verify_compares_an_installation_that_runs_or_does_not(simulator, start_proxy):
    """Exit code 0 where the books agree, with the embedded Redis of others or one of its own; 1 where they do not."""
    proxy = start_proxy(simulator.url, workers=2)
    ask(proxy, 12)
    while_running = verified(proxy)
    proxy.stop()
    afterwards = verified(proxy)
    journal = max((proxy.folder / "data" / "journals").iterdir(), key=lambda path: len(list(path.glob("*.log"))))
    segment = next(journal.glob("*.log"))
    segment.write_bytes(segment.read_bytes().replace(b'"chat"', b'"chit"', 1) + b"half a li")
    damaged = verified(proxy, "--wait", "0")

    assert while_running[0] == afterwards[0] == 0
    assert sum(one["last"] for one in afterwards[1]["journals"]) == 12
    assert (damaged[0], damaged[1]["fine"]) == (1, False)
    assert any("is damaged" in one["damaged"] for one in damaged[1]["journals"])


def test_a_crash_turns_open_exchanges_into_records(start_proxy):
    """kill -9 of everything in the middle of a stream: the next start has a record of it, its prompt estimated."""
    address = free_address()
    first = start_proxy(f"http://{address}")

    async def run() -> None:
        async def endless(_heard, writer) -> None:
            writer.write(HEAD + chunk(WORD))
            await asyncio.sleep(30)

        async with upstream(endless, address):
            client = await Client(first.api).open()
            await client.send(post("/chat/completions", CHAT, b"X-Meter-App: night-shift"))
            await client.head()
            for pid in (first.child.pid, *first.children()):
                os.kill(pid, signal.SIGKILL)
            await client.close()

    asyncio.run(run())
    first.child.wait(30)
    second = start_proxy(f"http://{address}")
    second.wait_applied(1)

    assert second.total("requests_total", outcome="interrupted", model="deepseek-flash") == 1
    assert second.total("requests_without_usage_total", reason="interrupted") == 1
    assert second.total("app_requests_total", app="night-shift") == 1
    assert second.total("tokens_total", source="estimated", kind="input_cache_miss") > 0
    assert second.total("tokens_total", kind="output_answer") == 0


def sigterm(proxy: Proxy) -> None:
    proxy.child.send_signal(signal.SIGTERM)


def sighup(proxy: Proxy) -> None:
    proxy.child.send_signal(signal.SIGHUP)


def stop_inside_a_stream(proxy: Proxy, address: str, stop: Callable[[Proxy], None] = sigterm) -> tuple[Seen, bool]:
    """A stop after the first event of a stream of five; what the client saw, and if a new connection was refused."""

    async def run() -> tuple[Seen, bool]:
        async def slow(_heard, writer) -> None:
            writer.write(HEAD + chunk(WORD))
            for _ in range(3):
                await asyncio.sleep(0.4)
                writer.write(chunk(WORD))
            writer.write(chunk(FINISH + DONE) + b"0\r\n\r\n")

        async with upstream(slow, address):
            client = await Client(proxy.api).open()
            await client.send(post("/chat/completions", CHAT))
            await client.head()
            stop(proxy)
            await asyncio.sleep(0.6)
            refused = not _connects(proxy.api)
            seen = await client.body()
            await client.close()
            return seen, refused

    return asyncio.run(run())


@pytest.mark.parametrize("stop", [sigterm, sighup])
def test_open_streams_may_finish_within_the_grace_time(start_proxy, stop):
    """SIGTERM, or the SIGHUP of a terminal that closes, closes the port and lets an open stream come to its end."""
    address = free_address()
    proxy = start_proxy(f"http://{address}")
    seen, refused = stop_inside_a_stream(proxy, address, stop)
    proxy.child.wait(60)
    last_words = proxy.output.splitlines()[-1]
    again = start_proxy(f"http://{address}")
    again.wait_applied(1)

    assert refused
    assert seen.ended
    assert seen.body == WORD * 4 + FINISH + DONE
    assert proxy.child.returncode == 0
    assert "audit_head" in last_words
    assert again.total("requests_total", outcome="complete") == 1


def test_a_terminal_that_closes_cuts_no_stream(start_proxy):
    """Nothing can be told any more, and the stop is one in good order nevertheless."""
    address = free_address()
    ours, theirs = pty.openpty()
    proxy = start_proxy(f"http://{address}", terminal=theirs)
    os.close(theirs)
    seen, refused = stop_inside_a_stream(proxy, address, lambda _proxy: os.close(ours))
    code = proxy.child.wait(60)
    again = start_proxy(f"http://{address}")
    again.wait_applied(1)

    assert (refused, seen.ended, seen.body, code) == (True, True, WORD * 4 + FINISH + DONE, 0)
    assert again.total("requests_total", outcome="complete") == 1


def test_under_nohup_a_terminal_may_close(simulator, start_proxy):
    """Who starts it with SIGHUP ignored wants it to live on."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        proxy = start_proxy(simulator.url)
    finally:
        signal.signal(signal.SIGHUP, before)
    ignored = next(
        int(line.split()[1], 16)
        for line in Path(f"/proc/{proxy.child.pid}/status").read_text().splitlines()
        if line.startswith("SigIgn")
    )
    sighup(proxy)
    ask(proxy, 3)
    proxy.wait_applied(3)

    assert ignored >> (signal.SIGHUP - 1) & 1
    assert proxy.child.poll() is None


def test_a_stop_without_grace_still_writes_every_record(start_proxy):
    """An exchange cut short by our own stop is recorded as interrupted, with what had gone by."""
    address = free_address()
    proxy = start_proxy(f"http://{address}", toml="[gateway]\nshutdown_grace_seconds = 0.0\n")
    seen, _ = stop_inside_a_stream(proxy, address)
    proxy.stop()
    again = start_proxy(f"http://{address}")
    again.wait_applied(1)

    assert not seen.ended
    assert again.total("requests_total", outcome="interrupted") == 1
    assert again.total("tokens_total", source="estimated", kind="output_answer") >= 1


def test_a_port_that_is_taken_is_one_line_and_exit_1(tmp_path):
    """No traceback, and nothing left running."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        failed = Process(["serve", "--listen", address, "--data-dir", str(tmp_path / "d")], tmp_path / "log")

        assert failed.child.wait(30) == 1
    assert failed.output.count("\n") == 1
    assert f"[gateway] listen {address}: Address already in use" in failed.output


def test_a_data_dir_that_cannot_be_written_is_one_line_and_exit_1(tmp_path):
    """The path is named, and what is needed."""
    (tmp_path / "file").write_text("")
    failed = _serve(tmp_path, "--data-dir", str(tmp_path / "file" / "data"))

    assert failed.child.wait(30) == 1
    assert failed.output.count("\n") == 1
    assert "data_dir" in failed.output


def test_a_redis_that_refuses_is_one_line_and_exit_1(tmp_path):
    """Nobody there, or a password that is missing."""
    failed = _serve(tmp_path, "--redis", f"redis://{free_address()}/0")

    assert failed.child.wait(30) == 1
    assert failed.output.count("\n") == 1
    assert "Redis" in failed.output


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("[upstream]\nurk = 1\n", "[upstream] urk: unknown"),
        ("[upstream]\nidle_timeout_seconds = 'long'\n", "[upstream] idle_timeout_seconds: Expected `float`"),
        ("[gateway\n", "not valid TOML"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_2(tmp_path, toml, expected):
    """File, key and what was expected."""
    config = tmp_path / "meter.toml"
    config.write_text(toml)
    failed = _serve(tmp_path, "--config", str(config))

    assert failed.child.wait(30) == 2
    assert str(config) in failed.output
    assert expected in failed.output
    assert "Traceback" not in failed.output


def test_a_second_start_on_the_same_data_dir_is_refused(simulator, start_proxy):
    """Two supervisors on the same journals would spoil both."""
    running = start_proxy(simulator.url)
    second = _serve(running.folder, "--data-dir", str(running.folder / "data"))

    assert second.child.wait(30) == 1
    assert "another deepseek-meter runs on it" in second.output
    ask(running, 3)
    running.wait_applied(3)


def test_a_console_beyond_loopback_wants_a_token(tmp_path):
    """Without one it refuses to start; with one, /metrics wants it and health does not."""
    refused = Process(["serve", "--console", "0.0.0.0:0", "--data-dir", str(tmp_path / "d")], tmp_path / "log")

    assert refused.child.wait(30) == 2
    assert "token_file" in refused.output


def test_metrics_want_the_token_where_one_is_set(simulator, start_proxy, tmp_path):
    """Prometheus sends it as a bearer; the health paths need none and then give no detail."""
    (tmp_path / "token").write_text("let-me-in\n")
    os.environ["METER_CONSOLE_TOKEN_FILE"] = str(tmp_path / "token")
    try:
        proxy = start_proxy(simulator.url)
    finally:
        del os.environ["METER_CONSOLE_TOKEN_FILE"]

    assert get(f"{proxy.console_url}/metrics")[0] == 401
    assert get(f"{proxy.console_url}/metrics", {"Authorization": "Bearer let-me-in"})[0] == 200
    assert get(f"{proxy.console_url}/readyz") == (200, b'{"ready": true}')
    assert get(f"{proxy.console_url}/healthz")[0] == 200
    assert get(f"{proxy.console_url}/healthz", {"Host": "evil.example"})[0] == 403


def _serve(folder, *arguments: str) -> Process:
    listen = ["--listen", free_address(), "--console", free_address()]
    data = [] if "--data-dir" in arguments else ["--data-dir", str(folder / "own")]
    return Process(["serve", *listen, *data, *arguments], folder / "failed.log")


def _connects(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def _workers(proxy: Proxy) -> int:
    return len(proxy.metrics().get("proxy_in_flight_requests", {}))


def _store_up(proxy: Proxy) -> bool:
    return proxy.metrics()["store_up"][()] == 1
