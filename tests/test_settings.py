import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.child import ConsoleOrders, GatewayOrders
from proxy.errors import SettingsError
from proxy.settings import (
    Settings,
    are_one_place,
    is_loopback,
    load_settings,
    setting_rows,
    split_address,
    unknown_variables,
    variable_name,
)

ROWS = list(setting_rows())


def test_defaults_need_nothing():
    """Without a file, a variable or a flag everything has a value."""
    assert Settings() == load_settings()
    assert Settings().upstream.url == "https://api.deepseek.com"


@pytest.mark.parametrize(
    ("toml", "variable", "flag", "workers"),
    [(None, None, None, 1), (2, None, None, 2), (2, 3, None, 3), (2, 3, 4, 4), (None, 3, None, 3), (2, None, 4, 4)],
)
def test_flags_go_before_variables_before_the_file_before_defaults(toml, variable, flag, workers):
    """The nearest to the operator's hand wins."""
    found = load_settings(
        toml_text=f"[gateway]\nworkers = {toml}" if toml else "",
        environment={"METER_GATEWAY_WORKERS": str(variable)} if variable else {},
        flags={("gateway", "workers"): flag},
    )

    assert workers == found.gateway.workers


def test_each_place_sets_only_what_it_names():
    """A variable and a flag leave the rest of the file's section as it is."""
    found = load_settings(
        toml_text='[upstream]\nurl = "http://here"\nidle_timeout_seconds = 5\n[store]\nnamespace = "n"',
        environment={
            "METER_UPSTREAM_IDLE_TIMEOUT_SECONDS": "7.5",
            "METER_CONSOLE_ALLOWED_HOSTS": "a.example, b.example,",
        },
        flags={("store", "data_dir"): "there", ("store", "redis_url"): None},
    )

    assert (found.upstream.url, found.upstream.idle_timeout_seconds) == ("http://here", 7.5)
    assert (found.store.namespace, found.store.data_dir, found.store.redis_url) == ("n", "there", "")
    assert found.console.allowed_hosts == ("a.example", "b.example")


@pytest.mark.parametrize("text", ["true", "True", "1"])
def test_a_variable_is_text_read_as_its_kind(text):
    """Numbers and truth values come as text in an environment."""
    assert load_settings(environment={"METER_CONSOLE_CREATED_SAMPLES": text}).console.created_samples is True


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[gateway]\nworkers = 0", ["my.toml", "[gateway] workers", ">= 1"]),
        ("[gateway]\nworkers = 'two'", ["my.toml", "[gateway] workers", "Expected `int`"]),
        ("[gateway]\nworkers = 1.5", ["my.toml", "[gateway] workers", "Expected `int`"]),
        ("[upstream]\nurl = 'ftp://x'", ["my.toml", "[upstream] url", "a URL that begins with http:// or https://"]),
        ("[upstream]\nidle_timeout_seconds = 0", ["my.toml", "[upstream] idle_timeout_seconds", "> 0"]),
        ("[journal]\nfsync = 'now'", ["my.toml", "[journal] fsync: Expected always, interval or never, got 'now'"]),
        (
            "[log]\nlevel = 'x - at `$.y`'",
            ["my.toml", "[log] level: Expected debug, error, info or warning, got 'x - at"],
        ),
        ("[store]\nnamespace = 'a b'", ["my.toml", "[store] namespace", "regex"]),
        ("[gateway]\nworker = 2", ["my.toml", "[gateway] worker", "unknown"]),
        ("[gatewy]\nworkers = 2", ["my.toml", "[gatewy]", "unknown"]),
        ("gateway = 5", ["my.toml", "[gateway]", "Expected `object`"]),
        ("[console]\nallowed_hosts = 'one'", ["my.toml", "[console] allowed_hosts", "Expected `array`"]),
        ("[console]\nallowed_hosts = ['one', 2]", ["my.toml", "[console] allowed_hosts", "Expected `str`"]),
        ("[gateway\nworkers = 2", ["my.toml", "not valid TOML", "line 1"]),
    ],
)
def test_an_error_in_the_file_says_where_and_what_was_expected(toml, said):
    """File, section, key and expectation stand in one line."""
    message = error_of(toml_text=toml, toml_name="my.toml")

    assert [part for part in said if part not in message] == []
    assert "\n" not in message


TEAM = "[[budgets]]\nname = 'all'\nlimit = 1\n[[budgets]]\nname = 'team'\n"


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (f"{TEAM}limit = 'x'", "my.toml: [[budgets]] team: limit: Expected `float`, got `str`"),
        (
            f"{TEAM}limit = 1\nperiod = 'year'",
            "my.toml: [[budgets]] team: period: Expected day, hour, month or week, got 'year'",
        ),
        (TEAM, "my.toml: [[budgets]] team: Object missing required field `limit`"),
        (f"{TEAM}limits = 1", "my.toml: [[budgets]] team: limits: unknown"),
        ("[[budgets]]\nlimit = 'x'", "my.toml: [[budgets]] number 1: limit: Expected `float`"),
        ("[[budgets]]\nname = 'two\\nlines'\nlimit = 'x'", "my.toml: [[budgets]] number 1: "),
        ("budgets = [5]", "my.toml: [[budgets]] number 1: Expected `object`, got `int`"),
        ("[[upstreams]]\nname = 'own'\nmodels = ['m']\nurl = 'x'", "my.toml: [[upstreams]] own: url: Expected a URL"),
        (
            "[apps.bot]\non_client_disconnect = 'stop'",
            "my.toml: [apps] on_client_disconnect: Expected abort or drain, got 'stop'",
        ),
        ("[apps.bot]\nkey = []", "my.toml: [apps] key: unknown"),
    ],
)
def test_an_error_in_one_of_many_says_which(toml, said):
    """By its name, or by its place where it has none that can be shown."""
    message = error_of(toml_text=toml, toml_name="my.toml")

    assert message.startswith(said)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("METER_GATEWAY_WORKERS", "many", "Expected `int`"),
        ("METER_GATEWAY_WORKERS", "0", ">= 1"),
        ("METER_GATEWAY_WORKERS", "", "Expected `int`"),
        ("METER_CONSOLE_CREATED_SAMPLES", "perhaps", "Expected `bool`"),
        ("METER_UPSTREAM_URL", "here", "a URL that begins with http:// or https://"),
        ("METER_LOG_LEVEL", "loud", "Expected debug, error, info or warning, got 'loud'"),
    ],
)
def test_an_error_in_a_variable_names_it(name, text, said):
    """The variable is named, not the key it stands for, and what was expected."""
    message = error_of(environment={name: text})

    assert message.startswith(f"{name}: ")
    assert said in message


def test_an_error_in_a_flag_names_its_key():
    """What came by the command line is said to."""
    message = error_of(flags={("gateway", "workers"): 0})

    assert message.startswith("command line: [gateway] workers: ")


def test_an_error_is_one_of_wrong_usage():
    """The exit code is that of a command that was called wrongly."""
    assert SettingsError.exit_code == 2


def test_unknown_variables_are_reported():
    """A name that begins like ours and is none is told of, and stops nothing; other names are not ours."""
    environment = {
        "METER_GATEWAY_WORKERS": "2",
        "METER_GATEWAY_WORKER": "3",
        "METER_PORT": "tcp://1.2.3.4",
        "PATH": "/bin",
    }

    assert unknown_variables(environment) == ["METER_GATEWAY_WORKER", "METER_PORT"]
    assert load_settings(environment=environment).gateway.workers == 2


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.section}.{row.key}")
def test_every_setting_is_explained_and_can_be_set_everywhere(row):
    """A help text, a variable by the rule, and a default that is a valid value of the setting itself."""
    value = ",".join(row.default) if isinstance(row.default, tuple) else str(row.default)

    assert row.help
    assert row.variable == variable_name(row.section, row.key) == f"METER_{row.section.upper()}_{row.key.upper()}"
    assert load_settings(environment={row.variable: value}) == Settings()
    assert load_settings(flags={(row.section, row.key): row.default}) == Settings()


def test_a_setting_is_named_once():
    """No two settings share a variable."""
    assert len({row.variable for row in ROWS}) == len(ROWS)


def test_a_version_may_have_a_spend_limit():
    """Under its own name in the file; a limit of nothing or a misspelt key is refused by name."""
    toml = '[versions."DeepSeek-V4-Pro-0813"]\n'
    found = load_settings(toml_text=f"{toml}spend_limit_usd_per_hour = 2.5").versions

    assert {name: version.spend_limit_usd_per_hour for name, version in found.items()} == {"DeepSeek-V4-Pro-0813": 2.5}
    assert "> 0" in error_of(toml_text=f"{toml}spend_limit_usd_per_hour = 0")
    assert "spend_limit_usd" in error_of(toml_text=f"{toml}spend_limit_usd = 1")


SECRETS = {
    ("gateway", "key_hash_secret"): "s3cret",
    ("store", "redis_url"): "redis://user:s3cret@host/0",
}
QUERY = {("store", "redis_url"): "unix:///redis.sock?db=1&password=s3cret"}


@pytest.mark.parametrize("flags", [SECRETS, QUERY, {("store", "redis_url"): "redis://:s3cr@s3cret@host/0"}])
def test_no_secret_is_shown(flags):
    """The text of the settings, as it goes into logs and errors, hides passwords and the hash secret."""
    settings = load_settings(flags=flags)

    assert "s3cr" not in f"{settings!r} {settings}"
    assert "s3cr" not in "".join(repr(getattr(settings, name)) for name in settings.__struct_fields__)


def test_what_is_no_secret_is_shown():
    """Everything else can be read in it."""
    shown = repr(load_settings(flags={("store", "redis_url"): "redis://user:s3cret@host:6379/0"}))

    assert "host:6379/0" in shown
    assert "workers=1" in shown


def test_orders_show_no_secret():
    """What a child process is told holds the hash secret and the store's password; its text does not."""
    url = "redis://user:s3cret@host/0"
    gateway = GatewayOrders(Settings(), 0, url, b"s3cret", 3, 4)

    assert "s3cret" not in f"{gateway!r} {ConsoleOrders(Settings(), url, 3, 4)!r}"


def test_settings_travel_as_json():
    """A child gets the very settings its parent has."""
    settings = load_settings(flags=SECRETS)

    assert settings == msgspec.json.decode(msgspec.json.encode(settings), type=Settings)


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:8400", ("127.0.0.1", 8400)), ("[::1]:0", ("::1", 0)), ("host:65535", ("host", 65535))],
)
def test_an_address_is_a_host_and_a_port(address, parts):
    """The brackets of an IPv6 address are taken off."""
    assert parts == split_address(address, "[gateway] listen")


@pytest.mark.parametrize("address", ["", "host", ":80", "host:", "host:x", "host:65536", "host:-1"])
def test_what_is_no_address_names_its_setting(address):
    """The message has the setting and what was expected."""
    with pytest.raises(SettingsError, match=r"\[gateway\] listen: expected HOST:PORT"):
        split_address(address, "[gateway] listen")


@pytest.mark.parametrize(
    ("host", "only_here"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.com", False),
        ("", False),
        ("localhost.example.com", False),
    ],
)
def test_loopback(host, only_here):
    """Only what this machine alone can reach."""
    assert only_here == is_loopback(host)


@pytest.mark.parametrize(
    ("one", "other", "are_one"),
    [
        ("127.0.0.1:8400", "127.0.0.1:8400", True),
        ("127.0.0.1:8400", "localhost:8400", True),
        ("127.0.0.1:8400", "0.0.0.0:8400", True),
        ("0.0.0.0:8400", "10.0.0.1:8400", True),
        ("[::]:8400", "[::1]:8400", True),
        ("127.0.0.1:8400", "127.0.0.1:8401", False),
        ("127.0.0.1:8400", "127.0.0.2:8400", False),
        ("0.0.0.0:8400", "[::1]:8400", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
    ],
)
def test_two_addresses_are_one_where_nobody_can_listen_at_both(one, other, are_one):
    """Port 0 is any that is free, and the two families of addresses are not in each other's way."""
    places = split_address(one, "one"), split_address(other, "other")

    assert are_one_place(*places) is are_one_place(*reversed(places)) is are_one


@given(text=st.text(max_size=30))
def test_any_file_gives_settings_or_one_error(text):
    """Nothing but a SettingsError that names the file comes out of a text that is no settings file."""
    try:
        said = repr(load_settings(toml_text=text))
    except SettingsError as error:
        said = str(error)

    assert said.startswith(("meter.toml: ", "Settings("))


def error_of(**given):
    with pytest.raises(SettingsError) as raised:
        load_settings(**given)
    return str(raised.value)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"toml_text": "[upstream]\nurl = 'http://user:hunter2@host'"}, "meter.toml: [upstream]"),
        ({"toml_text": "[upstream]\nurl = 'http://hunter2@host'"}, "meter.toml: [upstream]"),
        ({"toml_text": "[upstream]\nurl = 'http://user:hunter2/not-encoded@host'"}, "meter.toml: [upstream]"),
        ({"environment": {"METER_UPSTREAM_URL": "http://user:hunter2@host"}}, "[upstream]"),
        ({"flags": {("upstream", "url"): "http://user:hunter2@host"}}, "command line: [upstream]"),
        (
            {"toml_text": "[[upstreams]]\nname='a'\nmodels=['m']\nurl='http://u:hunter2@h'"},
            "meter.toml: [[upstreams]] a",
        ),
    ],
)
def test_a_password_in_an_upstreams_url_is_refused_and_not_repeated(given, place):
    """The URL is shown in many places; keys have a setting of their own, and the message names it."""
    message = error_of(**given)

    assert place in message
    assert "key_file" in message
    assert "hunter2" not in message


UPSTREAM = '[[upstreams]]\nname = "{name}"\nurl = "http://h"\nmodels = ["{model}"]\n'
MANAGED = '[gateway]\nmode = "managed"\n'


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (UPSTREAM.format(name="default", model="a"), "default already"),
        (UPSTREAM.format(name="a", model="m") + UPSTREAM.format(name="a", model="n"), "upstream a already"),
        (UPSTREAM.format(name="a", model="m") + UPSTREAM.format(name="b", model="m"), "m goes to a already"),
        (UPSTREAM.format(name="a", model="m*n"), "at the end"),
        (UPSTREAM.format(name="a b", model="m"), "name"),
        (UPSTREAM.format(name="a", model="m") + 'versions = { n = "V" }\n', "not among models"),
        (UPSTREAM.format(name="a", model="m") + "accepts_client_keys = true\n", "one upstream"),
        (UPSTREAM.format(name="a", model="m") + 'key_file = "k"\n', "managed"),
        ('[upstream]\nkey_file = "k"\n', "managed"),
        ('[apps.a]\nkeys = ["key-0123456789"]\n[apps.b]\nkeys = ["key-0123456789"]\n', "is b already"),
        ('[apps.a]\nkeys = ["sk-not-a-key"]\n', "apps"),
        ('[gateway]\nopen_paths = ["files"]\n', "open_paths"),
        ('[gateway]\nmode = "managed"\nclient_keys_file = "keys"\n', "client_keys_file"),
        ('[[upstreams]]\nname = "a"\nurl = "http://h"\nmodels = []\n', "models"),
        ('[[upstreams]]\nname = "a"\nmodels = ["m"]\n', "url"),
    ],
)
def test_upstreams_that_cannot_stand_side_by_side(text, word):
    """Keys to the wrong host, names of two hosts: refused at the start, with the place."""
    with pytest.raises(SettingsError, match=word):
        load_settings(toml_text=text)


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ('period = "month"\nrolling_hours = 24', "expected one of period and rolling_hours"),
        ('time_zone = "UTC"\nrolling_hours = 24', "no time zone"),
        ('reserve = "worst_case"', 'of budgets with action = "refuse"'),
    ],
)
def test_a_budget_that_says_what_would_be_passed_over_is_refused_by_its_name(said, word):
    """Else somebody reads a limit per month in the file, and another one holds."""
    with pytest.raises(SettingsError) as error:
        load_settings(toml_text=f'[[budgets]]\nname = "nightly"\nlimit = 1\n{said}\n')

    assert "[[budgets]] nightly: " in str(error.value)
    assert word in str(error.value)


@pytest.mark.parametrize("said", ["", 'period = "week"\ntime_zone = "UTC"', "rolling_hours = 24"])
def test_a_budget_has_a_period_or_a_rolling_length_or_neither(said):
    """Each of the three is said in docs/budgets.md."""
    assert load_settings(toml_text=f'[[budgets]]\nname = "b"\nlimit = 1\n{said}\n').budgets[0].name == "b"


def test_upstreams_that_can():
    """Another host may take the clients' keys, if the default does not; in managed mode each may have its own."""
    other = UPSTREAM.format(name="a", model="m*")
    moved = load_settings(toml_text=f"[upstream]\naccepts_client_keys = false\n{other}accepts_client_keys = true\n")
    managed = load_settings(toml_text=f'{MANAGED}{other}key_file = "k"\n')

    assert list(moved.all_upstreams()) == ["default", "a"]
    assert managed.upstreams[0].habits == "other"
    assert managed.upstreams[0].price_list == "own"
