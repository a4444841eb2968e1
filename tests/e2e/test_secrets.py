"""Keys, prompts and answers are in no log, metric, answer of ours, file of the data dir, command line or environment.

A stack in managed mode goes through good and bad exchanges with marked secrets; then everything it said and wrote is
searched for them. An answer of the upstream is the upstream's and passes literally, also one that echoes a key.
"""

import asyncio
import contextlib
import json
from pathlib import Path

import pytest
from e2e.stack import Proxy, Simulator, free_address, get, stopping, wait_until
from e2e.test_failures import DONE, FINISH, HEAD, event
from e2e.wire import Client, answer, ask, chunk, post, upstream
from secrets_kept import forms, told, told_in_files

from proxy.gateway.keys import key_digest, secret_name
from proxy.ledger.client_keys import ClientKey, Known
from proxy.ledger.key_files import KeyFiles

UPSTREAM_KEY, BALANCE_KEY = "sk-marked-upstream-1b7d", "sk-marked-balance-55fa"
CLIENT_ID, CLIENT_SECRET = "Client01", "MarkedSecretOfAClient9c2e"[-24:]
CLIENT_KEY = f"dsm_{CLIENT_ID}_{CLIENT_SECRET}"
HASH_SECRET, ENVIRONMENT_KEY = "sk-marked-hash-secret-8d", "sk-marked-environment-c3"
PROMPT, ANSWER = "marked-prompt-the patient has", "marked-answer-take two a day"
SECRETS = (UPSTREAM_KEY, CLIENT_SECRET, BALANCE_KEY, HASH_SECRET, ENVIRONMENT_KEY, PROMPT, ANSWER)
ROOT = Path(__file__).parents[2]

BREAKS_THE_METER = f'''
"""Read by every Python of this stack at its start: a meter that fails over what it sees, and says what that was."""
from proxy.metering.meter import Meter

look = Meter.feed

def feed(self, chunk):
    if b"provoke" in chunk:
        prompt = {PROMPT!r}
        raise ValueError(f"{{prompt}} and {{chunk!r}}")
    return look(self, chunk)

Meter.feed = feed
'''

BODY = {"model": "deepseek-flash", "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
WORDS = event(json.dumps({"content": ANSWER}))
LINE = f"Authorization: Bearer {CLIENT_KEY}".encode()


@pytest.fixture(scope="module", params=["json", "text"])
def stage(request, tmp_path_factory):
    """A proxy in managed mode, with every kind of secret it can be given, and what its upstream is to be played at."""
    folder = tmp_path_factory.mktemp(f"secrets-{request.param}")
    kept = folder / "kept"
    kept.mkdir()
    for name, text in (("own", UPSTREAM_KEY), ("balance", BALANCE_KEY)):
        (kept / name).write_text(text)
    (kept / "sitecustomize.py").write_text(BREAKS_THE_METER)
    toml = f"""
[gateway]
mode = "managed"
head_timeout_seconds = 1.0
[upstream]
key_file = "{kept / "own"}"
idle_timeout_seconds = 1.0
[balance]
key_file = "{kept / "balance"}"
[log]
level = "debug"
format = "{request.param}"
[metering]
estimate_sample = 1.0
"""
    environment = {
        "PYTHONPATH": f"{kept}:{ROOT}",
        "DEEPSEEK_API_KEY": ENVIRONMENT_KEY,
        "METER_GATEWAY_KEY_HASH_SECRET": HASH_SECRET,
    }
    KeyFiles(folder / "data").note(Known({CLIENT_ID: client_key()}))  # as `keys add` leaves it
    address = free_address()
    proxy = Proxy(folder, f"http://{address}", toml=toml, environment=environment)
    with stopping(proxy):
        proxy.wait_ready()
        seen = asyncio.run(live(proxy, address))
        yield proxy, seen


def client_key() -> ClientKey:
    """What is kept of a key whose text this test knows."""
    secret = HASH_SECRET.encode()
    return ClientKey(
        id=CLIENT_ID,
        app="team-a",
        digest=key_digest(CLIENT_KEY, secret),
        hashed_with=secret_name(secret),
        last_four=CLIENT_KEY[-4:],
        created_s=1_795_399_200.0,
    )


async def play(heard, writer) -> None:
    """The upstream: what it does stands in the path."""
    line = heard.request_line
    echoed = json.dumps({"error": {"message": heard.head.decode("latin-1") + heard.body.decode("latin-1")}}).encode()
    if b"/echo" in line:
        writer.write(answer(echoed, b"X-Echo: " + heard.values(b"authorization")[0], status=b"401 Unauthorized"))
    elif b"/usage" in line:
        writer.write(answer(b'{"model":"m","usage":{"prompt_tokens":' + json.dumps(PROMPT).encode() + b"}}"))
    elif b"/garbage" in line:
        writer.write(b"HTTP/1.1 200 OK\r\nBad Header " + ANSWER.encode() + b"\r\n\r\n" + echoed)
    elif b"/break" in line:
        writer.write(HEAD + chunk(WORDS))
        await writer.drain()
        writer.transport.abort()
    elif b"/provoke" in line:
        writer.write(HEAD + chunk(b": provoke " + ANSWER.encode() + b"\n\n" + WORDS + FINISH + DONE) + b"0\r\n\r\n")
    elif b"/silent" in line:
        await asyncio.sleep(3)
    elif b"balance" in line:
        writer.write(answer(echoed, status=b"500 Oops"))
    else:
        writer.write(HEAD + b"".join(chunk(one) for one in (WORDS, FINISH, DONE)) + b"0\r\n\r\n")


def requests() -> list[bytes]:
    """Good and bad ones; the last are no HTTP."""
    body = json.dumps(BODY).encode()
    ways = ("", "/echo", "/usage", "/garbage", "/break", "/provoke", "/silent")
    found = [post(f"{way}/chat/completions", body) for way in ways]
    found += [post("/anthropic/v1/messages", body), post("/responses", body), post("/files", body)]
    found += [post("/chat/completions", text.encode()) for text in (PROMPT, "{" + PROMPT, f'{{"model":"{PROMPT[::-1]}')]
    found += [post("/chat/completions", body, b"Content-Encoding: gzip")]
    found = [one.replace(b"Authorization: Bearer sk-not-a-key", LINE) for one in found]
    found.append(
        post("/chat/completions", body).replace(b"sk-not-a-key", UPSTREAM_KEY.encode())
    )  # a key we do not know
    head = b"POST /x HTTP/1.1\r\nHost: p\r\n"
    found += [head + LINE + b"\x01\r\n\r\n", head + LINE.replace(b":", b"") + b"\r\n\r\n", head + LINE]
    found += [head + LINE + b"\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", LINE + b"\r\n\r\n"]
    found += [
        head + LINE + b"x" * 70_000,
        head + LINE + b"\r\nTransfer-Encoding: chunked\r\n\r\nzz" + PROMPT.encode() + b"\r\n",
    ]
    return found  # fmt: skip


async def live(proxy: Proxy, address: str) -> list:
    """Everything once, also with clients that leave; what they saw."""
    seen = []
    async with upstream(play, address):
        for request in requests():
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                seen.append(await ask(proxy.api, request))
        for request in requests()[:3]:
            client = await Client(proxy.api).open()
            await client.send(request[:-3])
            await client.abort()
        await asyncio.sleep(0.5)  # the console asks for the balance in its own time
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        seen.append(await ask(proxy.api, requests()[0]))  # nobody is there any more
    return seen


def console_answers(proxy: Proxy, ids: list[str]) -> list[tuple[str, bytes]]:
    """Every path of the console, in both formats where there are two, and some that are none."""
    paths = ["/", "/metrics", "/healthz", "/readyz", "/api/versions", "/api/balance", "/api/nothing"]
    paths += [f"/api/records/{one}" for one in (*ids, "none")]
    found = [(path, get(f"{proxy.console_url}{path}")[1]) for path in paths]
    openmetrics = {"Accept": "application/openmetrics-text; version=1.0.0"}
    return [*found, ("openmetrics", get(f"{proxy.console_url}/metrics", openmetrics)[1])]


def test_what_was_to_happen_has_happened(stage):
    """Else nothing below would say anything: faults, refusals, broken streams and estimates were all met."""
    proxy, seen = stage
    wait_until(lambda: proxy.total("requests_total") >= 15, what="records")
    statuses = [one.status for one in seen]

    assert {200, 400, 401, 408, 431, 502, 504} <= set(statuses)
    assert proxy.total("proxy_metering_faults_total", stage="feed") >= 1
    assert proxy.total("requests_without_usage_total", reason="broken_usage") >= 1
    assert "metering_fault" in proxy.output
    assert "request_refused" in proxy.output


def test_no_answer_of_ours_shows_a_secret(stage):
    """Errors of the proxy, and all that the console says."""
    proxy, seen = stage
    own = [one for one in seen if one.values(b"x-meter-error")]
    ids = [one.values(b"x-meter-exchange")[0].decode() for one in seen if one.values(b"x-meter-exchange")]
    wait_until(lambda: all(get(f"{proxy.console_url}/api/records/{one}")[0] == 200 for one in ids), what="records")

    assert len(own) >= 8
    assert [line for one in own for line in told("error", one.body + repr(one.headers).encode(), SECRETS)] == []
    assert [line for path, body in console_answers(proxy, ids) for line in told(path, body, SECRETS)] == []


def test_an_upstreams_answer_passes_as_it_came(stage):
    """Also one that echoes what it was shown: promise 1. (DeepSeek masks a key that it names.)"""
    _, seen = stage

    assert any(UPSTREAM_KEY.encode() in one.body for one in seen if not one.values(b"x-meter-error"))
    assert not any(CLIENT_KEY.encode() in one.body for one in seen)


def test_no_log_and_no_file_holds_a_secret(stage):
    """The log, the journals, what Redis wrote of its own, the console's notes."""
    proxy, _ = stage
    files = [path for path in (proxy.folder / "data").rglob("*") if path.is_file()]

    assert told("log", proxy.output.encode(), SECRETS) == []
    assert told_in_files(proxy.folder / "data", SECRETS) == []
    assert any("journals" in str(path) for path in files)
    assert any("appendonly" in str(path) and path.stat().st_size for path in files)


def test_the_kernel_shows_no_secret_of_a_process(stage):
    """No command line; no environment but the supervisor's own, which is as it was given; and no core dump."""
    proxy, _ = stage
    children = proxy.children()

    assert len(children) >= 3  # console, worker, Redis
    for pid in (proxy.child.pid, *children):
        assert told("cmdline", Path(f"/proc/{pid}/cmdline").read_bytes(), SECRETS) == []
    for pid, command in children.items():
        assert told(command, Path(f"/proc/{pid}/environ").read_bytes(), SECRETS) == []
        if "redis" not in command:
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert "Max core file size        0 " in limits


def test_what_is_kept_is_the_owners_alone(stage):
    """Data dir, journals and secrets are readable by nobody else."""
    proxy, _ = stage
    for path in ("data", "data/journals", "data/redis"):
        assert (proxy.folder / path).stat().st_mode & 0o077 == 0, path


@pytest.mark.parametrize(
    "wrapped", [lambda b: b, bytes.hex, lambda b: __import__("base64").b64encode(b"x" + b + b"yz")]
)
def test_the_search_finds_what_there_is_to_find(tmp_path, wrapped):
    """A search that finds nothing anywhere would prove nothing."""
    kept = wrapped(UPSTREAM_KEY.encode())
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"head " + (kept.encode() if isinstance(kept, str) else kept) + b" tail")

    assert told_in_files(tmp_path, SECRETS) == [f"{tmp_path / 'deep' / 'file'}: {UPSTREAM_KEY}"]
    assert len(forms(UPSTREAM_KEY)) >= 5


def test_a_busy_proxy_with_the_simulator_tells_nothing(tmp_path, simulator: Simulator):
    """In passthrough mode the clients' keys are what there is to keep."""
    proxy = Proxy(tmp_path, simulator.url)
    with stopping(proxy):
        proxy.wait_ready()
        for _ in range(5):
            asyncio.run(ask(proxy.api, post("/chat/completions", json.dumps(BODY).encode())))
        proxy.wait_applied(5)
        assert told_in_files(tmp_path / "data", ("sk-not-a-key", PROMPT)) == []
        assert told("log", proxy.output.encode(), ("sk-not-a-key", PROMPT)) == []
