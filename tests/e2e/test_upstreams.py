"""Several hosts of DeepSeek's models: chosen by the model's name, each with its own key, versions and prices. Real sockets."""

import asyncio
import json

import pytest
from click.testing import CliRunner
from e2e.stack import Proxy, add_key, free_address, get, stopping, wait_until
from e2e.test_failures import DONE, FINISH, HEAD, WORD, record_of
from e2e.wire import ask, chunk, post, upstream

from proxy.cli import main

CLIENT_KEY, OWN_KEY = "sk-not-a-key", "sk-not-a-key-of-the-host"
CLIENT_LINE = f"Authorization: Bearer {CLIENT_KEY}".encode()

CATALOG = """
[[version]]
id = "my-r1"
valid_from = 2026-01-01T00:00:00Z
source = "our cluster"
confidence = "high"
checked = 2026-11-01
review_by = 2036-11-01

[[price]]
id = "azure-contract"
versions = ["DeepSeek-V4-Pro-0813"]
upstreams = ["azure"]
currency = "USD"
valid_from = 2026-01-01T00:00:00Z
per_million = { input_cache_hit = "1000", input_cache_miss = "1000", output = "1000" }
source = "our contract"
confidence = "high"
checked = 2026-11-01
review_by = 2036-11-01
"""


def settings(folder, own, azure, *, head="", more=""):
    (folder / "catalog.toml").write_text(CATALOG)
    return f"""
{head}
[pricing]
catalog_file = "{folder / "catalog.toml"}"

[[upstreams]]
name = "own"
url = "http://{own}"
models = ["my-r1", "lab-*"]
version = "my-r1"

[[upstreams]]
name = "azure"
url = "http://{azure}/openai"
models = ["deepseek-v4-pro@azure"]
version = "DeepSeek-V4-Pro-0813"
key_header = "api-key"
{more}
[versions.my-r1.fixed]
gpu = {{ usd_per_hour = 2.5, count = 8 }}
storage = {{ usd_per_month = 73.0 }}
"""


async def answers(_heard, writer):
    writer.write(HEAD + b"".join(chunk(one) for one in (WORD, FINISH, DONE)) + b"0\r\n\r\n")


class Stage:
    """A proxy before three hosts."""

    def __init__(self, folder, *, managed=False):
        self.addresses = {name: free_address() for name in ("default", "own", "azure")}
        head = more = ""
        self.key = CLIENT_KEY
        if managed:
            (folder / "azure-key").write_text(OWN_KEY)
            self.key = add_key(folder, "--app", "team-a")  # before the first start
            head = '[gateway]\nmode = "managed"\n'
            more = f'key_file = "{folder / "azure-key"}"\n'
        toml = settings(folder, self.addresses["own"], self.addresses["azure"], head=head, more=more)
        self.proxy = Proxy(folder, f"http://{self.addresses['default']}", toml=toml)

    @property
    def line(self):
        return f"Authorization: Bearer {self.key}".encode()

    def ask(self, model, path="/chat/completions", header=None):
        """What each host heard, and what the client saw."""
        header = (header or CLIENT_LINE).replace(CLIENT_LINE, self.line)

        async def run():
            async with (
                upstream(answers, self.addresses["default"]) as default,
                upstream(answers, self.addresses["own"]) as own,
                upstream(answers, self.addresses["azure"]) as azure,
            ):
                body = json.dumps({"model": model, "stream": True, "messages": []}).encode()
                request = post(path, body).replace(CLIENT_LINE, header)
                seen = await ask(self.proxy.api, request)
                return {"default": default.heard, "own": own.heard, "azure": azure.heard}, seen

        heard, seen = asyncio.run(run())
        return {name: requests for name, requests in heard.items() if requests}, seen


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    found = Stage(tmp_path_factory.mktemp("upstreams"))
    with stopping(found.proxy):
        found.proxy.wait_ready()
        yield found


@pytest.fixture(scope="module")
def managed(tmp_path_factory):
    found = Stage(tmp_path_factory.mktemp("managed"), managed=True)
    with stopping(found.proxy):
        found.proxy.wait_ready()
        yield found


@pytest.mark.parametrize(
    ("model", "host", "version", "target"),
    [
        ("deepseek-v4-pro", "default", "DeepSeek-V4-Pro-0813", b"POST /chat/completions HTTP/1.1"),
        ("my-r1", "own", "my-r1", b"POST /chat/completions HTTP/1.1"),
        ("lab-7", "own", "my-r1", b"POST /chat/completions HTTP/1.1"),
        ("deepseek-v4-pro@azure", "azure", "DeepSeek-V4-Pro-0813", b"POST /openai/chat/completions HTTP/1.1"),
        ("my-r11", "default", "deepseek-flash", b"POST /chat/completions HTTP/1.1"),
    ],
)
def test_the_model_chooses_the_host(stage, model, host, version, target):
    """And nothing else does; the record says which it was, and what answered there."""
    heard, seen = stage.ask(model)
    record = record_of(stage.proxy, seen)

    assert list(heard) == [host]
    assert heard[host][0].request_line == target
    assert (record["upstream"], record["model"]) == (host, model)
    if host != "default":
        assert (record["version"], record["how"]) == (version, "route")
        assert seen.values(b"x-meter-version") == [version.encode()]


def test_what_asks_no_model_goes_to_the_default(stage):
    """Files, balance, models: they are of one host."""
    heard, seen = stage.ask("my-r1", path="/files")

    assert list(heard) == ["default"]
    assert seen.status == 200


@pytest.mark.parametrize("path", ["/embeddings", "/v1/messages/count_tokens", "/tokenize"])
def test_also_where_nothing_is_metered_the_model_chooses(stage, path):
    """A prompt that is meant for one host is not shown to another."""
    assert list(stage.ask("my-r1", path=path)[0]) == ["own"]


@pytest.mark.parametrize("body", [b'{"model":"my-r1","x":NaN}', b'{"model":5}', b"{}", b"half"])
def test_a_model_that_cannot_be_read_is_refused(stage, body):
    """Nobody can tell whose prompt it is, so no host gets it."""

    async def run():
        async with upstream(answers, stage.addresses["default"]) as default:
            return default, await ask(stage.proxy.api, post("/chat/completions", body))

    default, seen = asyncio.run(run())

    assert default.heard == []
    assert (seen.status, seen.values(b"x-meter-error")) == (400, [b"1"])


@pytest.mark.parametrize(
    "header", [CLIENT_LINE, b"x-api-key: sk-not-a-key", b"api-key: sk-not-a-key", b"Cookie: a=sk-not-a-key"]
)
def test_a_clients_key_goes_to_one_host_only(stage, header):
    """The others get the request without it."""
    assert CLIENT_KEY.encode() in stage.ask("deepseek-v4-pro", header=header)[0]["default"][0].head
    assert CLIENT_KEY.encode() not in stage.ask("my-r1", header=header)[0]["own"][0].head


def test_each_host_has_its_own_prices(stage):
    """Azure's contract, no price of DeepSeek's for what runs at home, and DeepSeek's own at DeepSeek."""
    ids = {}
    for model in ("deepseek-v4-pro", "my-r1", "deepseek-v4-pro@azure"):
        record = record_of(stage.proxy, stage.ask(model)[1])
        ids[model] = [one["price_id"] for one in record.get("charges", [])]

    assert ids["deepseek-v4-pro@azure"] == ["azure-contract"]
    assert ids["my-r1"] == []
    assert ids["deepseek-v4-pro"]
    assert "azure-contract" not in ids["deepseek-v4-pro"]
    assert stage.proxy.total("unpriced_tokens_total", upstream="own", version="my-r1", currency="USD") > 0
    prices = stage.proxy.metrics()["price_usd_per_million_tokens"]
    assert {1000.0} == {value for pairs, value in prices.items() if ("upstream", "azure") in pairs}


def test_fixed_costs_are_shown_beside(stage):
    """Eight GPUs by the hour; the storage of a month over the hours it has."""
    found = stage.proxy.metrics()["version_fixed_cost_usd_per_hour"]
    by_item = {dict(pairs)["item"]: value for pairs, value in found.items()}
    document = json.loads(get(f"{stage.proxy.console_url}/api/versions")[1])

    assert {dict(pairs)["upstream"] for pairs in found} == {"own"}
    assert by_item["gpu"] == 20.0
    assert 73.0 / (31 * 24 + 1) < by_item["storage"] < 73.0 / (28 * 24 - 1)
    assert [one["item"] for one in document["fixed"]] == ["gpu", "storage"]


def test_managed_mode_shows_each_host_its_own_key(managed):
    """And none of the client's: it is known by it, and counted for its app whatever it says."""
    heard, seen = managed.ask("deepseek-v4-pro@azure", header=CLIENT_LINE + b"\r\nX-Meter-App: somebody-else")
    request = heard["azure"][0]

    assert request.values(b"api-key") == [OWN_KEY.encode()]
    assert b"dsm_" not in request.head
    assert record_of(managed.proxy, seen)["app"] == "team-a"
    assert b"dsm_" not in managed.ask("my-r1")[0]["own"][0].head
    assert OWN_KEY.encode() not in b"".join(value for _, value in seen.headers) + seen.body


@pytest.mark.parametrize(
    ("path", "header", "status", "code"),
    [
        ("/chat/completions", b"X-No: key", 401, "invalid_api_key"),
        ("/chat/completions", b"Authorization: Bearer sk-not-a-kez", 401, "invalid_api_key"),
        ("/chat/completions", b"Authorization: Bearer dsm_00000000_000000000000000000000000", 401, "invalid_api_key"),
        ("/files", CLIENT_LINE, 403, "path_not_open"),
        ("/user/balance", CLIENT_LINE, 403, "path_not_open"),
        ("/user/balance?/models", CLIENT_LINE, 403, "path_not_open"),
    ],
)
def test_managed_mode_lets_nobody_else_in(managed, path, header, status, code):
    """No upstream hears of it, and it is a record."""
    heard, seen = managed.ask("deepseek-v4-pro", path=path, header=header)

    assert heard == {}
    assert (seen.status, json.loads(seen.body)["error"]["code"]) == (status, code)
    assert record_of(managed.proxy, seen)["outcome"] == "refused"


def test_no_key_is_ever_shown(managed):
    """Not in a log, a metric, or a process list."""
    managed.ask("deepseek-v4-pro@azure")
    shown = managed.proxy.output + str(managed.proxy.metrics()) + str(managed.proxy.children())

    assert "sk-not-a-key" not in shown
    assert "dsm_" not in shown


def test_check_names_the_models_without_a_price(stage):
    """From the traffic of the running installation; what has a price is not named."""
    stage.ask("my-r1")
    stage.ask("deepseek-v4-pro")
    wait_until(lambda: stage.proxy.total("unpriced_tokens_total", upstream="own") > 0, what="unpriced tokens")
    folder = stage.proxy.folder
    arguments = ["check", "--config", str(folder / "meter.toml"), "--data-dir", str(folder / "data")]
    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == 1
    lines = [line for line in result.output.splitlines() if line.startswith("prices: ")]
    assert any(line.startswith("prices: my-r1 (my-r1 at own) had ") for line in lines)
    assert not any("deepseek-v4-pro" in line for line in lines)


@pytest.mark.parametrize(
    ("model", "upstream", "price_id"),
    [("deepseek-v4-pro@azure", "azure", "azure-contract"), ("lab-7", "own", None)],
)
def test_prices_knows_where_a_model_goes(stage, model, upstream, price_id):
    """The host's own price, or why there is none."""
    arguments = ["prices", "--config", str(stage.proxy.folder / "meter.toml"), "--model", model, "--format", "json"]
    result = CliRunner().invoke(main, arguments)
    row = json.loads(result.output)

    assert (row["upstream"], row["price_id"]) == (upstream, price_id)
    if price_id is None:
        assert result.exit_code == 1
        assert 'upstreams = ["own"]' in row["why"]
