"""A rolling deploy and a restart of Redis under one-second scrapes: what Prometheus adds up is what was billed.

Two replicas; the second is killed and replaced by one on other ports with an empty data directory, and Redis is stopped and
started while requests go on. `make e2e ARGS="--rolling-minutes 20"` watches for longer.
"""

import signal
import sys
import time
from types import SimpleNamespace

import pytest
from e2e.stack import wait_until
from live.installation import Installation, Traffic, ending
from live.servers import Prometheus, program
from live.test_watched import settled, shipped, subfolder

from proxy.ledger.families import NANO
from proxy.usage import KINDS

pytestmark = pytest.mark.live

SCENARIO = """
seed = 5

[[models]]
names = ["deepseek-flash"]
served = "deepseek-flash"
fingerprint = "5e1f0a7c93d84b26a1f7c0de41171017"
prices = { hit = "0.006", miss = "0.30", output = "1.20" }
off_peak = "0.5"
prompt_tokens = { min = 90, max = 900 }
cache_hit_share = { min = 0.0, max = 0.9 }
reasoning_tokens = { min = 5, max = 40 }
answer_tokens = { min = 5, max = 40 }

[peak]
windows = ["01:00-04:00", "06:00-10:00"]
"""
PER_SECOND = 8.0
SHARE = 0.005
EDGE_S = 1.2  # `increase()` takes the growth of a scrape more for granted; from four minutes on that is below the share
QUIET_S = 20.0  # longer than a new series is held at zero, so that its growth is inside the window


@pytest.fixture
def rolled(tmp_path, request):
    """What was there after the deploy: the installation, its Prometheus, and how long it took."""
    program("prometheus")
    (tmp_path / "scenario.toml").write_text(SCENARIO)
    installation = Installation(tmp_path, tmp_path / "scenario.toml")
    with ending(installation):
        prometheus = Prometheus(subfolder(tmp_path, "prometheus"), installation.consoles, shipped(), every="1s")
        with ending(prometheus):
            begun_s = time.time()
            time.sleep(3)
            deploy(installation, prometheus, request.config.getoption("--rolling-minutes") * 60)
            yield SimpleNamespace(installation=installation, prometheus=prometheus, seconds=time.time() - begun_s)


def deploy(installation, prometheus, seconds):
    """Traffic for so long; on the way a replica is killed and replaced, and Redis goes and comes back."""
    stays, goes = installation.replicas
    steady = Traffic(stays.url, PER_SECOND, {"deepseek-flash": 1.0}, seed=1)
    with ending(steady):
        first = Traffic(goes.url, PER_SECOND, {"deepseek-flash": 1.0}, seed=2)
        with ending(first):
            time.sleep(seconds / 4)
        wait_until(
            lambda: settled(installation), 30
        )  # a deploy drains before it ends; a crash is the chaos run's subject
        goes.stop(signal.SIGKILL)
        fresh = installation.add_replica().wait_ready()
        prometheus.scrape(installation.consoles)
        second = Traffic(fresh.url, PER_SECOND, {"deepseek-flash": 1.0}, seed=3)
        with ending(second):
            time.sleep(seconds / 4)
            installation.redis.stop()
            time.sleep(5)
            installation.redis.start()
            time.sleep(seconds / 2)
    installation.replicas.remove(goes)
    wait_until(lambda: settled(installation), 60)
    time.sleep(QUIET_S)


def test_what_prometheus_adds_up_is_what_was_billed(rolled):
    """`increase()` over the recorded series within half a percent, the ledger's gauge exactly."""
    window = f"{int(rolled.seconds) + 5}s"
    (row,) = rolled.installation.billed()
    billed = {kind: row["tokens"][kind] for kind in KINDS}
    grown = rolled.prometheus.values(
        f'sum by (kind) (increase(global:deepseek_meter_tokens_total:max{{source="reported", model="deepseek-flash"}}[{window}]))'
    )
    off = {kind: grown[(("kind", kind),)] / tokens - 1 for kind, tokens in billed.items()}
    requests = rolled.prometheus.total(
        f'sum(increase(global:deepseek_meter_requests_total:max{{model="deepseek-flash", outcome="complete"}}[{window}]))'
    )
    spend = rolled.prometheus.total('global:deepseek_meter_cost_usd_total:max{source="reported"}')
    everything = rolled.prometheus.total("global:deepseek_meter_cost_usd_total:max")
    gauge = rolled.prometheus.total('global:deepseek_meter_spend_usd:max{window="month"}')
    sys.stdout.write(
        f"\n{row['requests']} exchanges in {rolled.seconds:.0f} s; increase() by kind off by "
        + ", ".join(f"{k} {v:+.3%}" for k, v in off.items())
        + f"; requests {requests:.1f} by increase()\n"
    )

    share = max(SHARE, EDGE_S / rolled.seconds)
    assert all(abs(one) <= share for one in off.values())
    assert requests == pytest.approx(row["requests"], rel=share)
    assert spend == pytest.approx(sum(row["cost_nano_usd"].values()) / NANO, abs=1e-9 * row["requests"])
    assert gauge == pytest.approx(everything, abs=1e-9)
