"""The command line as its users meet it: what is printed, and the exit codes."""

import json

import pytest
from click.testing import CliRunner

from proxy import audit_command, verify_command
from proxy.cli import main
from proxy.ledger.audit_proof import ChainProof, Fault, Proof
from proxy.ledger.verify import Findings, JournalFinding, Refilled
from proxy.settings import Settings, load_settings
from proxy.upstreams import keys_of, upstream_keys


def run(*arguments: str, **environment: str):
    """One call of `deepseek-meter`."""
    return CliRunner().invoke(main, arguments, env=environment)


@pytest.mark.parametrize(
    ("at", "model", "band", "miss"),
    [
        ("2026-11-23T00:59:59Z", "deepseek-flash", "off_peak", "0.15"),
        ("2026-11-23T01:00:00Z", "deepseek-flash", "peak", "0.3"),
        ("2026-11-23T09:00:00+08:00", "deepseek-flash", "peak", "0.3"),
        ("2026-11-22T02:00:00", "deepseek-v4-flash", "off_peak", "0.15"),
        ("2026-10-01T02:00:00Z", "deepseek-v4-pro", "off_peak", "0.66"),
        ("2027-03-03T02:00:00Z", "deepseek-v4-pro", "unknown", "1.32"),
    ],
)
def test_prices_shows_what_is_in_force_at_an_instant(at, model, band, miss):
    """Peak, off-peak, weekend, holiday, and said to be unknown in a year without a calendar; UTC unless stated."""
    result = run("prices", "--model", model, "--at", at, "--format", "json")
    row = json.loads(result.output)

    assert result.exit_code == 0
    assert (row["band"], row["per_million_tokens"]["input_cache_miss"]) == (band, miss)
    assert set(row) == {
        "at", "model", "version", "currency", "band", "price_id", "per_million_tokens", "source", "review_by"
    }  # fmt: skip


def test_prices_of_an_unknown_model_is_exit_1():
    """Found something: there is no price."""
    result = run("prices", "--model", "mystery-9b", "--format", "json")

    assert result.exit_code == 1
    assert json.loads(result.output)["price_id"] is None


@pytest.mark.parametrize("model", ["[/foo]", "[red]", "a[bold]b", ":smiley:"])
def test_a_table_shows_what_was_said_as_it_was_said(model):
    """Also what a terminal's library takes for a style, or for a picture."""
    result = run("prices", "--model", model)

    assert (result.exit_code, result.exception and type(result.exception)) == (1, SystemExit)
    assert model in result.stdout
    assert "[pricing] catalog_file" in " ".join(result.stdout.split())


def test_verify_says_what_is_wrong_as_it_is(capsys):
    """In the table and below it; the names are of files and measures."""
    journal = JournalFinding("[/a]:smiley:", 9, 9, damaged="[journal] segment [/b]")
    verify_command.show(Findings([journal], {"[red]": 3}), [Refilled("[/c]", 1, 2)])
    shown = capsys.readouterr().out

    for word in (
        "[/a]:smiley:",
        "[journal] segment [/b]",
        "totals: [red] differ by +3",
        "[/c]: 1 to 2 sent again",
        "NOT",
    ):
        assert word in shown


def test_verify_audit_says_what_is_wrong_as_it_is(capsys):
    """The names of chains come out of files and Redis."""
    chain = ChainProof("[/a]:smiley:", 3, "m" * 16, here=True, checked=True)
    audit_command.show(Proof([chain], [Fault("file", "[/b]:smiley:", 2, "is [red]")]), heads_given=True)
    shown = capsys.readouterr().out

    for word in ("[/a]:smiley:", "[/b]:smiley:", "is [red]", "NOT fine"):
        assert word in shown


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--model", "mystery-9b"], "mystery-9b is no version of the catalog"),
        (["--version", "DeepSeek-V3.1", "--at", "2025-09-01"], "give --model deepseek-chat or deepseek-reasoner"),
        (
            ["--version", "DeepSeek-V3.2", "--at", "2026-01-01", "--currency", "CNY"],
            "no CNY price of DeepSeek-V3.2 is known",
        ),
    ],
)
def test_prices_says_why_there_is_none(arguments, why):
    """And what would help."""
    result = run("prices", *arguments, "--format", "json")

    assert result.exit_code == 1
    assert why in json.loads(result.output)["why"]


OWN = """
[[version]]
id = "my-r1"
valid_from = 2026-01-01T00:00:00Z
source = "our cluster"
confidence = "high"
checked = 2026-11-01
review_by = 2027-11-01

[[price]]
id = "my-r1-usd"
versions = ["my-r1", "DeepSeek-V4-Pro-0813"]
currency = "USD"
valid_from = 2026-11-01T00:00:00Z
per_million = { input_cache_miss = "0.2", output = "0.4" }
source = "our contract"
confidence = "high"
checked = 2026-11-01
review_by = 2027-11-01

[holidays]
2027 = [2027-03-03]
"""


def test_prices_and_check_read_the_operators_own_catalog(tmp_path):
    """Own versions and negotiated prices over the shipped ones, from the day they hold; own holidays."""
    (tmp_path / "own.toml").write_text(OWN)
    (tmp_path / "meter.toml").write_text(f'[pricing]\ncatalog_file = "{tmp_path / "own.toml"}"\n')

    def price(version, at):
        arguments = ["--config", str(tmp_path / "meter.toml"), "--version", version, "--at", at, "--format", "json"]
        return json.loads(run("prices", *arguments).output)

    assert price("my-r1", "2026-11-05")["per_million_tokens"]["output_answer"] == "0.4"
    assert price("DeepSeek-V4-Pro-0813", "2026-11-05")["price_id"] == "my-r1-usd"
    assert price("DeepSeek-V4-Pro-0813", "2026-10-31T23:59:59Z")["price_id"] == "deepseek-v4-pro-0813-usd-2026-08-16"
    assert price("DeepSeek-V4.1-Flash-1017", "2027-03-03T02:00:00Z")["band"] == "off_peak"
    assert price("DeepSeek-V4.1-Flash-1017", "2027-03-04T02:00:00Z")["band"] == "peak"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (OWN.replace('"0.2"', "0.2"), "own.toml: price 1 (my-r1-usd): Expected `str`"),
        (OWN.replace("[[price]]", "[[prise]]"), "own.toml: prise: unknown table"),
        (OWN + "2028 = [2027-01-01]\n", "own.toml: holidays: a day of another year stands under 2028"),
        (OWN.replace('"my-r1", ', '"nobody", '), "own.toml: price 1 (my-r1-usd): there is no version nobody"),
        ("[[", "own.toml: not TOML"),
    ],
)
def test_a_broken_catalog_is_one_line_with_its_place(tmp_path, text, reason):
    """File, row and reason; exit code 2 as for every wrong setting."""
    (tmp_path / "own.toml").write_text(text)
    (tmp_path / "meter.toml").write_text(f'[pricing]\ncatalog_file = "{tmp_path / "own.toml"}"\n')
    result = run("check", "--config", str(tmp_path / "meter.toml"))

    assert result.exit_code != 0
    assert reason in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prices"], "give --model or --version"),
        (["prices", "--model", "x", "--at", "noon"], "expected an instant such as"),
        (["prices", "--model", "x", "--api", "foo"], "'chat', 'fim', 'anthropic', 'responses'"),
        (["verify", "--wait", "-1"], "--wait"),
        (["serve", "--workers", "many"], "not a valid integer"),
        (["serve", "--config", "/nowhere.toml"], "--config /nowhere.toml: cannot be read"),
        (["simulate", "--listen", "nonsense"], "--listen: expected HOST:PORT"),
        (["simulate", "--scenario", "/nowhere.toml"], "--scenario /nowhere.toml: cannot be read"),
        (["serve", "--workers", "0"], "[gateway] workers"),
        (["serve", "--upstream", "ftp://x"], "[upstream] url"),
        (["serve", "--console", "0.0.0.0:1"], "[console] token_file"),
    ],
)
def test_wrong_usage_is_exit_2_with_one_line_that_helps(arguments, said):
    """Never a traceback for the user's mistake."""
    result = run(*arguments)

    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


def test_check_says_what_is_valid_and_what_is_not(tmp_path):
    """A good file is fine; a misspelt variable is found; a bad time zone is wrong usage."""
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text("[gateway]\nworkers = 2\n")
    bad.write_text('[console]\ntime_zone = "Middle/Earth"\n')

    assert run("check", "--config", str(bad)).exit_code == 2
    found = run("check", "--config", str(good), METER_GATEWAY_WORKRES="3")
    assert found.exit_code == 1
    assert "METER_GATEWAY_WORKRES is no setting" in found.output


def test_version_and_help():
    """The first things anybody tries."""
    assert run("--version").exit_code == 0
    assert "serve" in run("--help").output


def test_prices_says_what_a_name_means_on_another_dialect():
    """Claude's names mean something on Anthropic's, and on no other."""
    plain = json.loads(run("prices", "--model", "claude-opus-4", "--format", "json").output)
    there = run("prices", "--model", "claude-opus-4", "--api", "anthropic", "--format", "json")

    assert "give --api anthropic" in plain["why"]
    assert there.exit_code == 0
    assert json.loads(there.output)["version"] == "DeepSeek-V4-Pro-0813"


def test_prices_of_an_upstream_that_is_none_is_wrong_usage():
    """With those there are."""
    result = run("prices", "--model", "deepseek-flash", "--upstream", "azure")

    assert result.exit_code == 2
    assert "expected default" in result.output


LOOK_AT = """
[gateway]
mode = "managed"
[pricing]
catalog_file = "{catalog}"
[versions."DeepSeek-V4-Pro-813"]
spend_limit_usd_per_hour = 1
"""


def test_check_names_what_cannot_do_what_it_is_there_for(tmp_path):
    """A limit of a misspelt version, prices of an upstream nobody has, a key that is missing."""
    (tmp_path / "own.toml").write_text(OWN.replace("[[price]]", '[[price]]\nupstreams = ["azurr"]'))
    (tmp_path / "meter.toml").write_text(LOOK_AT.format(catalog=tmp_path / "own.toml"))
    found = run("check", "--config", str(tmp_path / "meter.toml"), "--data-dir", str(tmp_path / "data"))

    assert found.exit_code == 1
    for word in ("DeepSeek-V4-Pro-813", "azurr", "DEEPSEEK_API_KEY", "keys add --app NAME"):
        assert word in found.output


def test_check_says_that_two_ports_are_one(tmp_path):
    """`serve` would end with it; what is no address at all is wrong usage."""

    def checked(console):
        (tmp_path / "meter.toml").write_text(f'[gateway]\nlisten = "0.0.0.0:8400"\n[console]\nlisten = "{console}"\n')
        return run("check", "--config", str(tmp_path / "meter.toml"), "--data-dir", str(tmp_path / "data"))

    assert checked("127.0.0.1:8400").exit_code == 1
    assert "both want one port" in checked("127.0.0.1:8400").output
    assert "both want one port" not in checked("127.0.0.1:8401").output
    assert checked("nowhere").exit_code == 2


def test_deepseeks_key_in_the_environment_is_for_deepseek_alone():
    """Not for a simulator, nor for another host: it lies about in many environments."""
    environment = {"DEEPSEEK_API_KEY": "sk-not-a-key"}

    assert keys_of(Settings(), environment).balance == "sk-not-a-key"
    elsewhere = load_settings(flags={("upstream", "url"): "http://127.0.0.1:8500"})
    assert keys_of(elsewhere, environment).balance == ""
    assert upstream_keys(elsewhere, environment) == {}


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ('version = "DeepSeek-V4-Por*"', "the catalog has none of this name"),
        ("for_keys = true", "for_keys has no effect"),
        ('app = "team-a"\naction = "refuse"', "goes by the key"),
        ('app = "key-0123456789"\naction = "refuse"', None),
        ('app = "team-a"', None),
        ('action = "refuse"', None),
        ('purpose = "validation"\naction = "refuse"', "X-Meter-Purpose"),
        ('purpose = "*"\naction = "refuse"', None),
        ('purpose = "validation"', None),
    ],
)
def test_check_names_a_budget_that_holds_nothing(tmp_path, said, word):
    """A limit in which no exchange can count would be silent for ever."""
    (tmp_path / "meter.toml").write_text(f'[[budgets]]\nname = "one"\nlimit = 5\n{said}\n')
    options = ["--config", str(tmp_path / "meter.toml"), "--data-dir", str(tmp_path / "data")]
    told = CliRunner().invoke(main, ["check", *options])

    assert ("[[budgets]] one" in told.output) == (word is not None)
    assert word is None or word in told.output


def test_a_purpose_that_nobody_has_is_refused(tmp_path):
    """There are three; a slip of the pen would be a budget that holds nothing."""
    (tmp_path / "meter.toml").write_text('[[budgets]]\nname = "one"\nlimit = 5\npurpose = "validaton"\n')
    told = CliRunner().invoke(main, ["check", "--config", str(tmp_path / "meter.toml")])

    assert told.exit_code == 2, told.output
    assert "[[budgets]] one: purpose: expected a pattern for production, validation, shadow" in told.output
