"""A report on an installation that runs or does not: its numbers are the bill's, and those of the metrics."""

import asyncio
import csv
import io
import json
import subprocess
import sys

from e2e.test_counts import KINDS, ask_many, billed, wait_past_a_band_border


def report(proxy, *arguments):
    """Exit code, standard output and standard error of `report` on this installation."""
    command = [sys.executable, "-m", "proxy", "report", "--data-dir", str(proxy.folder / "data"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def nanos(dollars):
    """Nano-dollars of a decimal text, without passing through a float."""
    whole, _, rest = dollars.partition(".")
    return int(whole) * 10**9 + int(rest.ljust(9, "0"))


def test_a_report_equals_the_bill_to_the_nano_dollar_and_the_gauge_to_the_cent(simulator, start_proxy):
    """400 exchanges on two workers: by model, kind by kind; by version; and again when nothing runs any more."""
    wait_past_a_band_border()
    proxy = start_proxy(simulator.url, workers=2)
    asyncio.run(ask_many(proxy.url, 400, parallel=8))
    proxy.wait_applied(400)
    code, output, said = report(proxy, "--format", "json", "--by", "model")
    document = json.loads(output)
    tokens, cost = billed(simulator)

    assert (code, said) == (0, "")
    rows = document["rows"]
    assert {
        (row["model"], kind): row["tokens"][kind] for row in rows for kind in KINDS if row["tokens"][kind]
    } == tokens
    spent = {(row["model"], kind): row["cost"]["USD"][kind] for row in rows for kind in KINDS}
    assert {key: nanos(dollars) for key, dollars in spent.items() if dollars and nanos(dollars)} == cost
    assert nanos(document["total"]["cost"]["USD"]["total"]) == sum(cost.values())
    assert document["total"]["requests"] == 400
    unpriced = next(row for row in rows if row["model"] == "deepseek-ai/DeepSeek-R1-0528")
    assert unpriced["cost"]["USD"]["total"] is None
    assert unpriced["unpriced_tokens"]["USD"] == unpriced["tokens"]["total"] > 0

    code, output, _ = report(proxy, "--format", "csv", "--since", "month")
    by_version = {row["version"]: row["cost_usd_total"] for row in csv.DictReader(io.StringIO(output))}
    assert code == 0
    for version, dollars in by_version.items():
        gauge = proxy.total("spend_usd", version=version, window="month")
        assert round(float(dollars or 0), 2) == round(gauge, 2)

    proxy.stop()
    code, output, said = report(proxy, "--format", "json", "--by", "model")
    assert (code, said, json.loads(output)["rows"]) == (0, "", rows)
