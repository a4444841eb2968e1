"""The audit trail of a real installation: what is noted while it runs, proven, and told once somebody has been at it."""

import asyncio
import json
import signal
import subprocess
import sys

import pytest
import redis
from e2e.stack import KEY, Proxy, free_address, get, stopping, wait_until
from e2e.test_failures import DONE, HEAD, event, record_of
from e2e.wire import ask, chunk, post, upstream
from test_cli import OWN

from proxy.ledger.embedded import socket_path

STREAM = "{meter:default}:audit"
PROMPT = "the patient has a fever"
BODY = json.dumps(
    {"model": "deepseek-flash", "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
).encode()
USAGE = '{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}'
FINISH = event('{"content":""}', usage=USAGE, finish='"stop"')


def toml(folder, **settings):
    """Settings with an own catalog and a secret of which no word may come out."""
    gateway = "".join(f"{name} = {value!r}\n" for name, value in {"key_hash_secret": "hush-hush", **settings}.items())
    return f"[pricing]\ncatalog_file = '{folder / 'own.toml'}'\n[gateway]\n{gateway}[log]\nformat = 'json'\n"


def verify(proxy, *arguments):
    """Exit code and answer of `verify` on this installation, running or not."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "proxy", "verify", *arguments, "--format", "json"),
            *("--config", str(proxy.folder / "meter.toml"), "--data-dir", str(proxy.folder / "data")),
        ],
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr.decode()


def log_of(proxy):
    return str(proxy.folder / "proxy.log")


def entries(proxy):
    """What the console shows, oldest first."""
    return json.loads(get(f"{proxy.console_url}/api/audit?limit=1000")[1])["entries"][::-1]


def noted(proxy):
    return [(one["action"], one["subject"]) for one in entries(proxy)]


def chain_file(proxy):
    return max((proxy.folder / "data" / "audit").glob("*.log"))


def exchange(proxy, address, fingerprint):
    """One exchange whose answer carries this fingerprint, once it is counted."""

    async def answers(_heard, writer):
        writer.write(HEAD + chunk(FINISH.replace(b'"f"', f'"{fingerprint}"'.encode())) + chunk(DONE) + b"0\r\n\r\n")

    async def run():
        async with upstream(answers, address):
            return await ask(proxy.api, post("/chat/completions", BODY))

    return record_of(proxy, asyncio.run(run()))


@pytest.fixture
def lived(tmp_path):
    """An installation that was started twice with other settings, got a new price, another build, and a refill; running."""
    (tmp_path / "own.toml").write_text(OWN)
    address = free_address()
    first = Proxy(tmp_path, f"http://{address}", toml=toml(tmp_path))
    with stopping(first):
        first.wait_ready()
        wait_until(lambda: ("catalog_changed", "catalog") in noted(first), what="the first look at the catalog")
        (tmp_path / "own.toml").write_text(OWN.replace('"0.4"', '"0.5"'))
        wait_until(lambda: ("price_changed", "price my-r1-usd") in noted(first), what="the price")
        assert {exchange(first, address, f"{n}" * 32)["outcome"] for n in range(2)} == {"complete"}
        wait_until(lambda: "version_changed" in dict(noted(first)), what="the other build")
    again = Proxy(
        tmp_path, f"http://{address}", toml=toml(tmp_path, on_mismatch="refuse"), addresses=(first.api, first.console)
    )
    with stopping(again):
        again.wait_ready()
        assert verify(again, "--refill")[0] == 0
        wait_until(lambda: ("refilled", "journals") in noted(again), what="the refill")
        yield again


def test_what_is_changed_is_in_both_places_and_proven(lived):
    """In order, by whom; `verify --audit` agrees while it runs and when it is down; no key, prompt or secret anywhere."""
    found = entries(lived)
    assert [(one["action"], one["subject"], one["who"].partition(" ")[0].partition(":")[0]) for one in found[:2]] == [
        ("chain_began", "audit", "supervisor"),
        ("settings_changed", "settings", "supervisor"),
    ]
    who = {one["action"]: one["who"] for one in found}
    assert who["price_changed"] == who["version_changed"] == "console"
    assert who["refilled"].endswith(": verify --refill")
    assert [one["action"] for one in found].count("version_changed") == 1
    details = {(one["action"], one["subject"]): one["detail"] for one in found}
    assert details["settings_changed", "[gateway]"]["changed"] == {"on_mismatch": ["count", "refuse"]}
    assert [one["output"] for one in details["price_changed", "price my-r1-usd"]["changed"]["per_million"]] == [
        "0.4",
        "0.5",
    ]
    assert [one["action"] for one in found if one["subject"] == "service"] == ["started", "stopped", "started"]

    code, proof = verify(lived, "--audit", "--heads", log_of(lived))
    assert (code, proof["faults"]) == (0, [])
    assert proof["chains"][0]["heads"] == 5  # two starts, of supervisor and console each, and a stop
    assert proof["chains"][0]["number"] == len(found)

    lived.stop()
    code, proof = verify(lived, "--audit", "--heads", log_of(lived))
    assert (code, proof["faults"], proof["chains"][0]["heads"]) == (0, [], 6)
    everything = chain_file(lived).read_bytes() + b"".join(
        one.read_bytes() for one in (lived.folder / "data" / "audit").glob("known-*")
    )
    for secret in (KEY, PROMPT, "hush-hush"):
        assert secret.encode() not in everything


def test_a_spoilt_file_and_a_spoilt_stream_are_told(tmp_path):
    """Exit code 1 and the entry; also where the same was cut off in both places, by the log."""
    proxy = Proxy(tmp_path, "http://127.0.0.1:9")
    with stopping(proxy):
        proxy.wait_ready()
        wait_until(lambda: ("catalog_changed", "catalog") in noted(proxy), what="the start")
        whole = chain_file(proxy).read_bytes()
        start = 1 + noted(proxy).index(("started", "service"))
        chain_file(proxy).write_bytes(whole.replace(b'"workers":1', b'"workers":9'))
        code, proof = verify(proxy, "--audit")
        assert (code, proof["faults"][0]["place"], proof["faults"][0]["number"]) == (1, "file", start)

        chain_file(proxy).write_bytes(whole)
        assert verify(proxy, "--audit")[0] == 0
        with redis.Redis.from_url(f"unix://{socket_path(proxy.folder / 'data')}") as client:
            client.xdel(STREAM, client.xrange(STREAM)[start - 1][0])
        code, proof = verify(proxy, "--audit")
        assert code == 1
        assert [(one["place"], one["number"], one["what"]) for one in proof["faults"]] == [
            ("stream", start, "is missing")
        ]

        proxy.stop(signal.SIGKILL)
        wait_until(lambda: not proxy.children(), what="all are down")
    chain_file(proxy).write_bytes(b"\n".join(whole.split(b"\n")[:2]) + b"\n")
    code, proof = verify(proxy, "--audit", "--wait", "0", "--heads", log_of(proxy))
    assert code == 1
    assert any(one["place"] == "heads" and one["what"].endswith("cut off") for one in proof["faults"])


def test_a_start_after_a_kill_says_so(tmp_path):
    """And goes on in the same chain."""
    proxy = Proxy(tmp_path, "http://127.0.0.1:9")
    with stopping(proxy):
        proxy.wait_ready()
        proxy.stop(signal.SIGKILL)
    again = Proxy(tmp_path, "http://127.0.0.1:9")
    with stopping(again):
        again.wait_ready()
        wait_until(lambda: noted(again).count(("started", "service")) == 2, what="the second start")
        assert [one["detail"].get("before") for one in entries(again) if one["action"] == "started"] == [
            None,
            "ended without a stop",
        ]
        assert verify(again, "--audit", "--heads", log_of(again))[0] == 0


def test_the_console_shows_as_many_as_asked_for(tmp_path):
    """Behind the rules of every other path; what is no number is refused."""
    proxy = Proxy(tmp_path, "http://127.0.0.1:9")
    with stopping(proxy):
        proxy.wait_ready()
        wait_until(lambda: len(entries(proxy)) > 3, what="the start")
        newest = json.loads(get(f"{proxy.console_url}/api/audit?limit=2")[1])["entries"]

        assert [one["number"] for one in newest] == [len(entries(proxy)), len(entries(proxy)) - 1]
        for limit in ("0", "1001", "x", "-1", "00001"):
            assert get(f"{proxy.console_url}/api/audit?limit={limit}")[0] == 400
        assert get(f"{proxy.console_url}/api/audit", {"Host": "evil.example"})[0] == 403


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--audit", "--data-dir", "nowhere"], 1, "there is no audit trail"),
        (["--audit", "--heads", "nowhere.log"], 2, "nowhere.log: No such file"),
        (["--heads", "x.log"], 2, "--heads belongs to --audit"),
        (["--audit", "--refill"], 2, "two commands"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, arguments, code, said):
    """Never a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "verify", *arguments],
        capture_output=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
        text=True,
    )

    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
