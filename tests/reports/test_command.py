"""`report` as its users meet it: what it prints, what it says beside it, and its exit code."""

import json
import time

import pytest
from click.testing import CliRunner
from ledger.given import encoded, record
from reports.given import keep

from proxy.child import journals_dir
from proxy.cli import main
from proxy.ledger.journal import JournalWriter
from proxy.settings import load_settings


def run(*arguments, **environment):
    return CliRunner().invoke(main, ["report", *arguments], env=environment)


def data_dir(folder, *numbers):
    """A data dir in whose journal these records are."""
    journals = journals_dir(load_settings(flags={("store", "data_dir"): str(folder)}))
    journals.mkdir(parents=True)
    if numbers:
        writer = JournalWriter(journals, "a", 4096)
        for number in numbers:
            writer.append(encoded(record(number, pricing_instant_s=time.time())))
        writer.close()
    return str(folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--since", "yesterday"], "--since: expected 24h, 7d, today, month"),
        (["--until", "2020-01-01"], "before --until (2020-01-01)"),
        (["--by", "version,team"], "--by: expected some of version, app, model, purpose, kind, day, hour; got 'team'"),
        (["--currency", "EUR"], "--currency: expected some of USD, CNY; got 'EUR'"),
        (["--decimals", "1"], "--decimals"),
        (["--wait", "-1"], "--wait"),
        (["--format", "focus"], "--format"),
    ],
)
def test_wrong_usage_is_exit_2_with_one_line_that_helps(arguments, said):
    """Never a traceback for the user's mistake."""
    result = run(*arguments)

    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


def test_a_store_that_is_down_is_exit_1(tmp_path):
    """One line that says so, and no numbers."""
    result = run("--redis", f"unix://{tmp_path}/nobody.sock", "--data-dir", str(tmp_path))

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("deepseek-meter: Redis: ")


def test_a_data_dir_that_is_none_is_exit_1(tmp_path):
    """Nothing is made there."""
    result = run("--data-dir", str(tmp_path / "other"))

    assert result.exit_code == 1
    assert "there are no journals; is it the right one?" in result.stderr
    assert not (tmp_path / "other").exists()


def test_an_empty_ledger_is_exit_0(tmp_path):
    """An installation that has not met anybody yet, and does not run: its Redis is started for the question."""
    result = run("--data-dir", data_dir(tmp_path / "data"))

    assert (result.exit_code, result.stderr) == (0, "")
    assert "nothing was recorded in this interval" in result.stdout


@pytest.mark.parametrize("output", ["table", "json", "csv"])
def test_records_that_are_not_counted_yet_are_said_with_exit_1(tmp_path, output):
    """The report is there, for who needs it now; that it is not complete stands beside it, and in the document."""
    folder = data_dir(tmp_path / "data", 1, 2, 3)
    result = run("--data-dir", folder, "--wait", "0", "--format", output)

    assert result.exit_code == 1
    assert "the report is not complete: 3 records are in the journals and not in the counters yet" in result.stderr
    assert result.stdout
    if output == "json":
        assert json.loads(result.stdout)["pending_records"] == 3


def test_a_redis_elsewhere_is_asked_without_journals(shelf, tmp_path):
    """From a host that has none of them: the same numbers."""
    keep(shelf, [record(5, pricing_instant_s=time.time())])
    result = run(
        "--redis",
        shelf.url,
        "--data-dir",
        str(tmp_path / "none"),
        "--format",
        "json",
        METER_STORE_NAMESPACE=shelf.namespace,
    )

    assert result.exit_code == 0
    assert json.loads(result.stdout)["total"]["requests"] == 1


def test_the_currency_is_the_one_that_is_billed_and_the_zone_the_consoles(shelf, tmp_path):
    """Unless said otherwise."""
    keep(shelf, [record(5, pricing_instant_s=time.time())])
    settings = tmp_path / "meter.toml"
    settings.write_text('[pricing]\nbilling_currency = "CNY"\n[console]\ntime_zone = "Asia/Kathmandu"\n')
    common = ["--config", str(settings), "--redis", shelf.url, "--data-dir", str(tmp_path / "none"), "--format", "json"]
    billed = json.loads(run(*common, METER_STORE_NAMESPACE=shelf.namespace).stdout)
    both = json.loads(
        run(*common, "--currency", "usd,CNY", "--since", "today", METER_STORE_NAMESPACE=shelf.namespace).stdout
    )

    assert billed["total"]["cost"] == {"CNY": {**dict.fromkeys(billed["total"]["tokens"], "0"), **_CNY}}
    assert both["currencies"] == ["USD", "CNY"]
    assert both["since"][14:] == "15:00Z"
    assert both["time_zone"] == "Asia/Kathmandu"


_CNY = {"input_cache_hit": "0.000000007", "output_answer": "0.000000001", "total": "0.000000008"}


def test_what_csv_cannot_say_is_said_beside_it(shelf, tmp_path):
    """An edge that was moved."""
    keep(shelf, [record(5, pricing_instant_s=time.time())])
    common = ["--redis", shelf.url, "--data-dir", str(tmp_path / "none"), "--since", "2026-01-01T00:10Z"]
    told = [run(*common, "--format", name, METER_STORE_NAMESPACE=shelf.namespace) for name in ("csv", "table", "json")]

    assert [result.exit_code for result in told] == [0, 0, 0]
    assert ["begins at 2026-01-01T00:00:00Z, not at" in result.stderr for result in told] == [True, False, False]
    assert ["begins at 2026-01-01T00:00:00Z, not at" in result.stdout for result in told] == [False, True, True]
