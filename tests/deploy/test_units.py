"""The systemd unit, the nginx example and Alertmanager's configuration: they agree with the code, and their own tools accept them.

Not here: a start under systemd or behind nginx. Where a tool is missing, what it would say is skipped with the reason.
"""

import configparser
import re
import shlex
import subprocess

import pytest
import yaml
from click.testing import CliRunner
from programs import program_path

from proxy.cli import main
from proxy.ledger.embedded import STOP_SECONDS
from proxy.settings import GatewaySettings, UpstreamSettings
from proxy.supervisor import KILL_AFTER_S


@pytest.fixture(scope="module")
def unit(repo):
    """The unit's sections; a key that stands twice (SystemCallFilter) keeps its last value."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(repo / "deploy/systemd/deepseek-meter.service")
    return parser


@pytest.fixture(scope="module")
def nginx(repo):
    return re.sub(r"#.*", "", (repo / "deploy/nginx/deepseek-meter.conf").read_text())


@pytest.fixture(scope="module")
def alertmanager(repo):
    return yaml.safe_load((repo / "deploy/alertmanager/alertmanager.yml").read_text())


def tool(name):
    path = program_path(name)
    if path is None:
        pytest.skip(f"{name} is missing: install it to have this checked")
    return path


def seconds(text):
    return int(text.removesuffix("s"))


def test_the_unit_starts_a_command_with_options_that_exist(unit):
    """`serve` as the command line knows it, on the state directory that systemd makes."""
    _, command, *arguments = shlex.split(unit["Service"]["ExecStart"])
    usage = CliRunner().invoke(main, [command, "--help"]).output

    assert command == "serve"
    assert all(option in usage for option in arguments if option.startswith("--"))
    assert arguments[arguments.index("--data-dir") + 1] == f"/var/lib/{unit['Service']['StateDirectory']}"


def test_a_stop_leaves_time_for_open_exchanges(unit):
    """The supervisor alone is asked, and has longer than exchanges, its own patience and its Redis may take together."""
    assert unit["Service"]["KillMode"] == "mixed"
    longest_s = GatewaySettings().shutdown_grace_seconds + KILL_AFTER_S + STOP_SECONDS
    assert int(unit["Service"]["TimeoutStopSec"]) > longest_s


def test_systemd_finds_the_unit_valid_and_hardened(repo):
    """Nothing unknown in it, and an exposure of at most 2 of 10."""
    systemd = tool("systemd-analyze")
    path = repo / "deploy/systemd/deepseek-meter.service"
    verified = subprocess.run([systemd, "verify", path], capture_output=True, text=True, check=False)
    rated = subprocess.run([systemd, "security", "--offline=true", path], capture_output=True, text=True, check=False)
    complaints = [line for line in verified.stderr.splitlines() if "is not executable" not in line]

    assert complaints == []
    assert float(re.search(r"exposure level for \S+: ([\d.]+)", rated.stdout)[1]) <= 2.0


def test_nginx_holds_no_stream_up_and_sends_nothing_twice(nginx):
    """Buffering is off both ways, and what was sent is never sent again."""
    for line in ("proxy_buffering off;", "proxy_request_buffering off;", "gzip off;", "proxy_next_upstream off;"):
        assert line in nginx
    assert "server 127.0.0.1:8400;" in nginx
    assert GatewaySettings().listen == "127.0.0.1:8400"


def test_nginx_waits_longer_and_takes_as_much_as_the_meter(nginx):
    """Its own limits never come first: the meter's say what happened."""
    assert seconds(re.search(r"proxy_read_timeout (\S+);", nginx)[1]) > UpstreamSettings().idle_timeout_seconds
    size = re.search(r"client_max_body_size (\d+)m;", nginx)[1]
    assert int(size) * 1024 * 1024 == GatewaySettings().max_request_bytes


def test_nginx_accepts_the_example(repo, tmp_path):
    """With a certificate of the moment in the place of the one that is named."""
    nginx, openssl = tool("nginx"), tool("openssl")
    request = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=meter.example", "-days", "1"]
    request += ["-keyout", str(tmp_path / "meter.key"), "-out", str(tmp_path / "meter.crt")]
    subprocess.run(request, check=True, capture_output=True)
    example = (repo / "deploy/nginx/deepseek-meter.conf").read_text().replace("/etc/nginx/tls", str(tmp_path))
    version = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
    if tuple(map(int, re.search(r"/(\d+)\.(\d+)\.(\d+)", version).groups())) < (1, 25, 1):
        example = re.sub(r"http2 on;.*", "", example)
    (tmp_path / "meter.conf").write_text(example)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = " ".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
    http = f"http {{ access_log off; {places} include {tmp_path}/meter.conf; }}"
    whole = f"pid {tmp_path}/pid; error_log stderr; events {{}} {http}"
    (tmp_path / "nginx.conf").write_text(whole)
    outcome = subprocess.run([nginx, "-t", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True, check=False)

    assert outcome.returncode == 0, outcome.stderr


def test_alerts_are_routed_by_labels_that_they_have(alertmanager, alerts):
    """Every receiver exists, every alert that inhibits is one, and severities and categories are those of the rules."""
    receivers = {receiver["name"] for receiver in alertmanager["receivers"]}
    routes = [alertmanager["route"], *alertmanager["route"]["routes"]]
    assert {route["receiver"] for route in routes} <= receivers
    matchers = [one for route in routes for one in route.get("matchers", [])]
    for rule in alertmanager["inhibit_rules"]:
        matchers += rule["source_matchers"] + rule["target_matchers"]
    known = {
        "alertname": set(alerts),
        "severity": {alert["labels"]["severity"] for alert in alerts.values()},
        "category": {alert["labels"]["category"] for alert in alerts.values()},
    }
    for matcher in matchers:
        name, values = re.fullmatch(r'(\w+)=~?"([^"]+)"', matcher).groups()
        assert set(values.split("|")) <= known[name], matcher


def test_an_alert_of_one_budget_silences_none_of_another(alertmanager):
    """What tells alerts on spend apart has to be equal for one to silence the other; it is in the grouping, too."""
    (spend,) = [rule for rule in alertmanager["inhibit_rules"] if 'category="spend"' in rule["source_matchers"]]
    assert set(spend["equal"]) == {"job", "version", "budget"}
    assert set(spend["equal"]) <= set(alertmanager["route"]["group_by"])


def test_alertmanager_accepts_its_configuration(repo):
    """As amtool reads it."""
    command = [tool("amtool"), "check-config", repo / "deploy/alertmanager/alertmanager.yml"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)

    assert outcome.returncode == 0, outcome.stderr + outcome.stdout


def test_prometheus_finds_the_alertmanager_of_the_compose_stack(repo):
    """By the name and the port of its service."""
    (entry,) = yaml.safe_load((repo / "deploy/prometheus/alertmanagers/compose.yml").read_text())
    services = yaml.safe_load((repo / "docker-compose.yml").read_text())["services"]
    (target,) = entry["targets"]
    host, _, port = target.partition(":")

    assert any(published.endswith(f":{port}") for published in services[host]["ports"])
