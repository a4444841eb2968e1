"""What a client writes into X-Meter-* and model names: no line of its own anywhere, and an exposition that stays readable."""

import asyncio
import json
import subprocess

import pytest
from e2e.stack import Proxy, free_address, get, stopping, wait_until
from e2e.test_failures import USAGE, assert_our_error, record_of
from e2e.wire import Client, Seen, answer, ask, post, upstream
from programs import program_path
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

BODY = b'{"model":"deepseek-flash"}'
GOOD = b'{"model":"deepseek-flash","choices":[],"usage":' + USAGE.encode() + b"}"
TOML = """
[log]
format = "json"
level = "debug"
[apps.billing]
drain_seconds = 1.0
"""

NAMES = [
    (b'quo"te', 'quo"te'),
    (b"back\\slash\\n", "back\\slash\\n"),
    (b'"} 1\\n# HELP', '"} 1\\n# HELP'),
    (b"a\tb", "a?b"),
    (b"a\x85b", "a?b"),
    ("line\u2028separator\u2029".encode(), "line?separator"),
    ("right\u202eleft".encode(), "right?left"),
    (b"%0d%0aX-Injected:%20yes", "%0d%0aX-Injected:%20yes"),
    ("\u65e5\u672c \U0001f6a2".encode(), "\u65e5\u672c \U0001f6a2"),
    (b"\xff\xfe", "??"),
    (b"{app=~'.*'}", "{app=~'.*'}"),
    (b"x" * 5000, "x" * 128),
    (b"other", "other"),
]
"""As sent, and as it is counted."""

REFUSED = {
    "a carriage return": b"a\rX-Injected: yes",
    "a line feed": b"a\nX-Injected: yes",
    "a folded line": b"a\r\n X-Injected: yes",
    "a NUL": b"a\0b",
    "an escape": b"a\x1b[31mb",
    "a backspace": b"a\x08b",
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """One proxy for the module, and the address its upstream is to be played at."""
    address = free_address()
    proxy = Proxy(tmp_path_factory.mktemp("labels"), f"http://{address}", toml=TOML)
    with stopping(proxy):
        yield proxy.wait_ready(), address


async def play(heard, writer) -> None:
    """DeepSeek's answer, an error for a model it does not have, and for `swap` another version than expected."""
    if b"junk" in heard.body:
        writer.write(answer(b'{"error":{"message":"Model Not Exist"}}', status=b"400 Bad Request"))
    else:
        writer.write(answer(GOOD))


def asked(stage, request: bytes):
    proxy, address = stage

    async def run():
        async with upstream(play, address) as state:
            return state.heard, await ask(proxy.api, request)

    return asyncio.run(run())


def exposition(proxy: Proxy, accept: str = "") -> str:
    status, text = get(f"{proxy.console_url}/metrics", {"Accept": accept} if accept else None)
    assert status == 200
    return text.decode()


OPEN = "application/openmetrics-text; version=1.0.0"


def apps_in(families) -> set[str]:
    return {sample.labels["app"] for family in families for sample in family.samples if "app" in sample.labels}


@pytest.mark.parametrize("header", [b"X-Meter-App", b"X-Meter-Purpose", b"X-Meter-Expect-Version", b"X-Meter-Anything"])
@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_a_line_break_in_a_header_is_no_request(stage, header, value):
    """Neither upstream nor response nor log has a line of the client's making."""
    heard, seen = asked(stage, post("/chat/completions", BODY, header + b": " + value))

    assert heard == []
    assert_our_error(seen, 400, "invalid_request_error")
    assert_no_line_was_injected(stage[0], seen)


def assert_no_line_was_injected(proxy: Proxy, seen: Seen) -> None:
    assert seen.values(b"x-injected") == []
    events = [json.loads(line)["event"] for line in proxy.output.splitlines() if line.startswith("{")]
    others = [line for line in proxy.output.splitlines() if not line.startswith("{")]
    assert events
    assert not [line for line in others if "Injected" in line]


@pytest.mark.parametrize(("sent", "counted"), NAMES)
def test_any_name_is_counted_and_shown_as_one_label(stage, sent, counted):
    """It comes back out of both formats as it went in, unprintable characters as `?`, cut at 128."""
    proxy, _ = stage
    heard, seen = asked(stage, post("/chat/completions", BODY, b"X-Meter-App: " + sent))
    record = record_of(proxy, seen)

    assert (seen.status, len(heard)) == (200, 1)
    assert heard[0].values(b"x-meter-app") == heard[0].values(b"x-injected") == []
    assert_no_line_was_injected(proxy, seen)
    assert record["app"] == counted
    wait_until(lambda: counted in apps_in(text_string_to_metric_families(exposition(proxy))), what=counted)
    assert counted in apps_in(openmetrics.text_string_to_metric_families(exposition(proxy, OPEN)))


def test_promtool_finds_nothing_wrong(stage):
    """Behind every odd name above."""
    proxy, _ = stage
    promtool = program_path("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: run deploy/tools.sh")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=exposition(proxy), capture_output=True, text=True, timeout=60, check=False
    )

    assert checked.returncode in (0, 3), checked.stdout + checked.stderr  # 3: remarks on style
    assert "error" not in (checked.stdout + checked.stderr).lower()


def test_ten_thousand_names_and_a_flood_of_junk_models(stage):
    """Caps hold, totals are exact, what is configured keeps its place, and an error takes none. Over sixteen connections."""
    proxy, address = stage
    before = proxy.total("requests_total")
    number_of_apps, junk = 10_000, 500

    async def client(share: range) -> None:
        connection = await Client(proxy.api).open()
        for number in share:
            body = b'{"model":"junk-%d"}' % number if number >= number_of_apps else BODY
            await connection.send(post("/chat/completions", body, b"X-Meter-App: app-%d" % number))
            await connection.head()
            await connection.body()
        await connection.close()

    async def run():
        async with upstream(play, address):
            everything = number_of_apps + junk
            await asyncio.gather(*(client(range(start, everything, 16)) for start in range(16)))
            late = await ask(proxy.api, post("/chat/completions", BODY, b"X-Meter-App: billing"))
            new = b'{"model":"new-model"}'
            await ask(
                proxy.api, post("/chat/completions", new, b"X-Meter-App: billing", b"X-Meter-Expect-Version: no-such")
            )
            return late

    asyncio.run(run())
    wait_until(lambda: proxy.total("requests_total") >= before + number_of_apps + junk + 2, 120, "all records")
    samples = proxy.metrics()
    apps = {dict(pairs)["app"] for pairs in samples["app_requests_total"]}
    models = {dict(pairs)["model"] for pairs in samples["requests_total"]}
    expected = {dict(pairs)["expected"] for pairs in samples.get("version_mismatches_total", {})}

    assert proxy.total("requests_total") == before + number_of_apps + junk + 2
    assert proxy.total("app_requests_total") == proxy.total("requests_total")
    assert len(apps - {"other", "billing"}) == 200
    assert proxy.total("app_requests_total", app="billing") == 2
    assert not [model for model in models if model.startswith("junk")]
    assert "new-model" in models
    assert proxy.total("requests_total", model="other") == junk
    assert expected <= {"unknown", ""}
    assert len(exposition(proxy).splitlines()) < 20_000
