"""The pod of deploy/kubernetes started outside a cluster: its arguments, its variables, its settings document, its probes.

Volumes are folders, the secret is made up, addresses are free ones of this machine. Everything else is what the manifests say.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from deploy.outside import Meter, Started, answers, can_confine, confined, mapped, needs, redis
from deploy.rendered import environment, mounted
from e2e.stack import KEY, free_address, stopping, wait_until

POD_IP = "192.0.2.7"
TOKEN = "not-a-token"


@pytest.fixture
def store(targets, tmp_path):
    """Starts the Redis of the component, on the same files each time, and stops it."""
    needs("redis-server", "redis-cli")
    (container,) = targets["trial"].one("StatefulSet", "deepseek-meter-redis")["spec"]["template"]["spec"]["containers"]
    started = Store(container["args"], tmp_path / "redis", free_address())
    started.start()
    yield started
    started.stop()


class Store:
    def __init__(self, command, folder, address):
        self._command, self._folder, self._port = command, folder, address.split(":")[1]
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process = None

    def start(self):
        self._process = redis(self._command, self._folder, self._port)

    def stop(self):
        self._process.stop()


class Pod:
    """One replica: its volumes, and its container as often as it is started."""

    def __init__(self, objects, folder, redis_url, upstream):
        self._objects, self._upstream = objects, upstream
        self._addresses = free_address(), free_address()
        self.secret = {"redis_url": redis_url, "key_hash_secret": "shared-by-all", "console_token": TOKEN}
        self.folder = folder
        self.folders = {path: folder / name for path, name in mounted(objects.pod).items()}
        for path in self.folders.values():
            path.mkdir(parents=True)
        self._fill()

    def _fill(self):
        volumes = {volume["name"]: volume for volume in self._objects.pod["spec"]["volumes"]}
        for item in volumes["secret"]["secret"]["items"]:
            (self.folder / "secret" / item["path"]).write_text(self.secret[item["key"]] + "\n")
        text = mapped(self._objects.settings_text, self.folders)
        (self.folder / "config/meter.toml").write_text(text)

    @property
    def arguments(self):
        return [mapped(argument, self.folders) for argument in self._objects.proxy["args"]]

    @property
    def variables(self):
        return environment(self._objects.proxy, self.secret, POD_IP)

    def start(self):
        writable = [self.folders[path] for path in ("/data", "/tmp")]
        # The hold would show 0 for the first 15 s of each series; nothing here is about that.
        variables = {
            **self.variables,
            "TMPDIR": str(self.folders["/tmp"]),
            "METER_CONSOLE_NEW_SERIES_HOLD_SECONDS": "0",
        }
        log = self.folder / "proxy.log"
        return Meter(
            self.arguments, variables, upstream=self._upstream, addresses=self._addresses, log=log, writable=writable
        )

    def says_yes(self, probe, meter):
        """As the kubelet asks: by the pod's address, without a token."""
        if "tcpSocket" in probe:
            return accepts(meter.api)
        return meter.asked(probe["httpGet"]["path"], Host=f"{POD_IP}:8401")[0] in range(200, 400)


def accepts(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def ask(meter):
    """One exchange, to its end; the status."""
    body = json.dumps({"model": "deepseek-flash", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(meter.url + "/chat/completions", body, headers), timeout=30
    ) as response:
        response.read()
        return response.status


def samples(meter, name):
    """The lines of a metric, read as the pod monitor reads it."""
    status, text = meter.asked("/metrics", Host=f"{POD_IP}:8401", Authorization=f"Bearer {TOKEN}")
    assert status == 200
    return [line for line in text.decode().splitlines() if line.startswith(f"deepseek_meter_{name}{{")]


def total(meter, name):
    return sum(float(line.rpartition(" ")[2]) for line in samples(meter, name))


def run(pod, command):
    """A command of ours in the pod, as `kubectl exec` runs it: with the pod's variables and settings document."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("METER_")}
    return subprocess.run(
        [sys.executable, "-m", "proxy", command, *pod.arguments[1:]],
        env={**inherited, **pod.variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("name", ["base", "example"])
def test_the_pod_starts_and_every_probe_and_the_monitor_get_their_answer(name, targets, store, simulator, tmp_path):
    """Started, ready and alive as the kubelet asks; metrics for the token by the pod's address, and for nobody else."""
    objects = targets[name]
    pod = Pod(objects, tmp_path / "pod", store.url, simulator.url)
    meter = pod.start()
    pause = Started(objects.proxy["lifecycle"]["preStop"]["exec"]["command"], tmp_path / "pause.log")
    with stopping(meter, pause):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            meter.wait_for(lambda probe=probe: pod.says_yes(objects.proxy[probe], meter))
        assert ask(meter) == 200
        wait_until(lambda: total(meter, "requests_total") == 1)
        assert meter.asked("/metrics", Host=f"{POD_IP}:8401")[0] == 401
        assert meter.asked("/healthz", Host="198.51.100.1:8401")[0] == 403
        assert sorted(path.name for path in pod.folder.iterdir()) == ["config", "data", "proxy.log", "secret", "tmp"]
        assert pause.child.wait(30) == 0
    assert meter.child.returncode == 0


@pytest.mark.parametrize("name", ["base", "example"])
def test_check_has_nothing_to_say_to_the_settings(name, targets, store, simulator, tmp_path):
    """Valid, and no variable, version, upstream or store in them to look at."""
    said = run(Pod(targets[name], tmp_path / "pod", store.url, simulator.url), "check").stdout
    assert "settings and catalog are valid" in said
    assert not [
        line for line in said.splitlines() if line.startswith(("settings:", "environment:", "store:", "prices:"))
    ]


def test_replicas_are_one_installation(targets, store, simulator, tmp_path):
    """Two pods, one Redis, one hash secret: the same totals on both, and one name for the app of one key."""
    pods = [Pod(targets["base"], tmp_path / f"pod-{number}", store.url, simulator.url) for number in range(2)]
    meters = [pod.start() for pod in pods]
    with stopping(*meters):
        for meter in meters:
            meter.wait_ready()
            assert ask(meter) == 200
        for meter in meters:
            wait_until(lambda meter=meter: total(meter, "requests_total") == 2)
            assert len(samples(meter, "app_requests_total")) == 1


def test_while_redis_is_away_the_relay_goes_on_and_only_strict_readiness_stops_it(targets, store, simulator, tmp_path):
    """Ready and alive stay so, the exchange is relayed and counted afterwards; the component's probe says no meanwhile."""
    objects = targets["base"]
    pod = Pod(objects, tmp_path / "pod", store.url, simulator.url)
    meter = pod.start()
    strict = targets["component-strict-readiness"].proxy["readinessProbe"]
    with stopping(meter):
        meter.wait_ready()
        assert pod.says_yes(strict, meter)
        store.stop()
        wait_until(lambda: not pod.says_yes(strict, meter))
        assert pod.says_yes(objects.proxy["readinessProbe"], meter)
        assert pod.says_yes(objects.proxy["livenessProbe"], meter)
        assert ask(meter) == 200
        store.start()
        wait_until(lambda: pod.says_yes(strict, meter))
        wait_until(lambda: total(meter, "requests_total") == 1)


def test_the_volume_brings_back_what_redis_never_got(targets, store, simulator, tmp_path):
    """Killed while Redis is away, started again on the same volume: the record is counted. This is what the claim is for."""
    pod = Pod(targets["base"], tmp_path / "pod", store.url, simulator.url)
    first = pod.start()
    with stopping(first):
        first.wait_ready()
        store.stop()
        assert ask(first) == 200
        first.stop(signal.SIGKILL)
    wait_until(lambda: not accepts(first.api), what="workers end with their supervisor")
    store.start()
    second = pod.start()
    with stopping(second):
        second.wait_ready()
        wait_until(lambda: total(second, "requests_total") == 1)
        compared = run(pod, "verify")
        assert compared.returncode == 0, compared.stdout


def test_a_replica_that_starts_wants_redis(targets, store, simulator, tmp_path):
    """It ends with a message that names the store: the docs say not to roll out while it is away."""
    pod = Pod(targets["base"], tmp_path / "pod", store.url, simulator.url)
    store.stop()
    meter = pod.start()
    with stopping(meter):
        assert meter.child.wait(60) == 1
    assert store.url.removeprefix("redis://").partition("/")[0] in meter.output


def test_the_root_of_these_tests_cannot_be_written_to(tmp_path):
    """The confinement that the others run in: a file beside the volume is refused, one on it is not."""
    if not can_confine():
        pytest.skip("no mount namespaces for this user: the pod was started on a root that can be written to")
    (tmp_path / "volume").mkdir()
    for place, works in ((tmp_path / "volume/file", True), (tmp_path / "file", False)):
        command, variables = confined(["touch", str(place)], [tmp_path / "volume"])
        assert answers(["env", *(f"{name}={value}" for name, value in variables.items()), *command]) is works
