"""The command line as its users meet it: what is printed, and the exit codes."""

import json

import pytest
from click.testing import CliRunner

from proxy.cli import main


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prices"], "give --model or --version"),
        (["prices", "--model", "x", "--at", "noon"], "expected an instant such as"),
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
