"""The manifests of deploy/kubernetes as they are rendered: valid, of one piece, and with nothing secret in them.

Not here: a start (test_kubernetes_start.py), and a cluster (nowhere).
"""

import ipaddress
import re
import subprocess

import pytest
import yaml
from deploy.rendered import matches, mounted, secret_keys

from proxy.settings import GatewaySettings, load_settings, setting_rows, split_address, unknown_variables
from proxy.supervisor import KILL_AFTER_S

VERSIONS = ("1.27", "1.32", "1.37")
"""The oldest that has all the fields, one between, and the newest whose schemas there are."""

CUSTOM = {"PodMonitor"}
"""Kinds that are no part of Kubernetes: their schemas ship elsewhere."""

METER = {"app.kubernetes.io/name": "deepseek-meter"}


@pytest.fixture(scope="module")
def base(targets):
    return targets["base"]


@pytest.fixture(scope="module")
def everything(targets):
    return [one for objects in targets.values() for one in objects]


@pytest.fixture(scope="module")
def pods(everything):
    return [one["spec"]["template"] for one in everything if one["kind"] == "StatefulSet"]


def labels_of(pod):
    return pod["metadata"]["labels"]


def port_numbers(pod):
    return {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}


def probes_of(container):
    return [container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_one_by_the_schemas_of_kubernetes(version, everything):
    """Strictly: a field that does not exist is an error, as it would be for `kubectl apply --validate=strict`."""
    validator = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate has the schemas; it is not installed"
    )
    for one in everything:
        if one["kind"] not in CUSTOM:
            assert validator.validate(one, version, strict=True) == version


def test_the_pod_monitor_is_one_by_the_operators_api(targets):
    """The few fields of monitoring.coreos.com/v1 that are used, and no other; it reads the console's port with the token."""
    found = [one for objects in targets.values() for one in objects.of("PodMonitor")]
    assert len(found) == 2
    for monitor in found:
        assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
        assert set(monitor["spec"]) == {"selector", "podMetricsEndpoints"}
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["authorization"]["credentials"] == {"name": "deepseek-meter", "key": "console_token"}
        assert set(endpoint) == {"port", "path", "interval", "authorization"}
        assert (endpoint["port"], endpoint["path"]) == ("console", "/metrics")
        assert endpoint["authorization"]["type"] == "Bearer"


def test_prometheus_sees_the_zero_of_a_new_series(targets):
    """It asks more often than the console holds a new series at zero."""
    hold_s = load_settings(toml_text=targets["example"].settings_text).console.new_series_hold_seconds
    (endpoint,) = targets["example"].one("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert int(endpoint["interval"].removesuffix("s")) < hold_s


def test_what_selects_finds_what_it_is_for(targets):
    """Services, the budget, policies, the monitor and the spreading select the pods of their name, and nobody else's."""
    for objects in targets.values():
        pods = {one["metadata"]["name"]: one["spec"]["template"] for one in objects.of("StatefulSet")}
        for one in objects.of("StatefulSet"):
            assert matches(one["spec"]["selector"], labels_of(pods[one["metadata"]["name"]]))
            assert one["spec"]["serviceName"] in {service["metadata"]["name"] for service in objects.of("Service")}
        selectors = [(one, {"matchLabels": one["spec"]["selector"]}) for one in objects.of("Service")]
        selectors += [
            (one, one["spec"]["selector"]) for one in objects.of("PodDisruptionBudget") + objects.of("PodMonitor")
        ]
        selectors += [(one, one["spec"]["podSelector"]) for one in objects.of("NetworkPolicy")]
        for one, selector in selectors:
            wanted = one["metadata"]["name"].removesuffix("-console")
            assert [name for name, pod in pods.items() if matches(selector, labels_of(pod))] == [wanted], one
        for spread in objects.pod["spec"]["topologySpreadConstraints"]:
            assert matches(spread["labelSelector"], labels_of(objects.pod))


def test_ports_are_the_meters_and_are_called_by_names_that_exist(targets):
    """8400 and 8401, the defaults of the settings, in pod, services, probes, policy, monitor and the settings document."""
    defaults = {row.section: split_address(row.default, "")[1] for row in setting_rows() if row.key == "listen"}
    for objects in targets.values():
        ports = port_numbers(objects.pod)
        settings = load_settings(toml_text=objects.settings_text)
        assert ports == {"api": defaults["gateway"], "console": defaults["console"]}
        assert split_address(settings.gateway.listen, "") == ("0.0.0.0", ports["api"])
        assert split_address(settings.console.listen, "") == ("0.0.0.0", ports["console"])
        for name, port in (("deepseek-meter", "api"), ("deepseek-meter-console", "console")):
            (service,) = objects.one("Service", name)["spec"]["ports"]
            assert (service["port"], service["targetPort"]) == (ports[port], port)
        asked = [probe.get("httpGet", probe.get("tcpSocket"))["port"] for probe in probes_of(objects.proxy)]
        allowed = [port["port"] for rule in objects.one("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]]
        assert set(asked) | set(allowed) == set(ports)


def test_the_settings_document_and_the_variables_are_settings(targets):
    """Loaded as the pod loads them; every path in them is on a volume, and none of them is unknown."""
    for objects in targets.values():
        given = {one["name"]: one.get("value", "secret") for one in objects.proxy["env"]}
        assert unknown_variables(given) == []
        settings = load_settings(
            toml_text=objects.settings_text, environment={**given, "METER_STORE_REDIS_URL": "redis://r"}
        )
        volumes = mounted(objects.pod)
        folder, _, name = settings.console.token_file.rpartition("/")
        (secret,) = [one["secret"] for one in objects.pod["spec"]["volumes"] if one["name"] == volumes[folder]]
        assert secret["items"] == [{"key": "console_token", "path": name}]
        assert volumes[settings.store.data_dir] == "data"


def test_changed_settings_roll_out(targets):
    """The config map's name is made from its content, and the pod asks for it by that name."""
    names = set()
    for objects in targets.values():
        (config,) = objects.of("ConfigMap")
        (volume,) = [one["configMap"]["name"] for one in objects.pod["spec"]["volumes"] if "configMap" in one]
        assert volume == config["metadata"]["name"]
        names.add(volume)
    assert len(names) == 2, "the base's document and the example's"


def test_nothing_secret_is_in_the_manifests(targets, everything, repo):
    """No Secret, no value beside a name that wants one, no credential in an URL; what is asked for has one name."""
    assert not [one for one in everything if one["kind"] == "Secret"]
    for objects in targets.values():
        inline = {one["name"] for one in objects.proxy["env"] if "value" in one}
        assert inline == {"METER_CONSOLE_ALLOWED_HOSTS"}
        settings = load_settings(toml_text=objects.settings_text)
        assert (settings.gateway.key_hash_secret, settings.store.redis_url) == ("", "")
        assert {name for name, _ in secret_keys(objects)} == {"deepseek-meter"}
    for path in (repo / "deploy/kubernetes").rglob("*"):
        if path.is_file():
            assert not re.search(r"\bsk-\w|://[^/\s\"]*:[^/\s\"]*@", path.read_text()), path


def test_pods_keep_to_the_restricted_profile_and_to_a_root_they_cannot_write(pods):
    """Not root, no capability, no way up, the runtime's own filter of system calls, no token of the cluster."""
    for pod in pods:
        spec = pod["spec"]
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not [volume for volume in spec.get("volumes", []) if "hostPath" in volume]


def test_pods_say_what_they_need_and_how_they_are(pods):
    """Requests, a bound on memory and none on CPU, three probes."""
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert set(container["resources"]["limits"]) == {"memory"}
        assert all(probes_of(container))


def test_a_pod_that_goes_has_time_for_its_exchanges(targets):
    """Longer than the pause before the stop, the grace of open exchanges and the supervisor's own patience together."""
    for objects in targets.values():
        _, pause_s = objects.proxy["lifecycle"]["preStop"]["exec"]["command"]
        grace_s = load_settings(toml_text=objects.settings_text).gateway.shutdown_grace_seconds
        assert grace_s > GatewaySettings().shutdown_grace_seconds
        assert objects.pod["spec"]["terminationGracePeriodSeconds"] > float(pause_s) + grace_s + KILL_AFTER_S


def test_nodes_that_are_emptied_leave_a_replica(targets):
    """Of the replicas of base and example at least one; a single one blocks nobody."""
    for name in ("base", "example", "trial"):
        replicas = targets[name].one("StatefulSet")["spec"]["replicas"]
        away = targets[name].one("PodDisruptionBudget")["spec"]["maxUnavailable"]
        assert away == 1
        assert replicas - away >= (0 if name == "trial" else 1)


def test_readiness_does_not_hang_on_redis_unless_it_was_asked_for(targets):
    """Started is who has a store; ready is who relays; alive is whose console answers. The component makes ready strict."""
    start, ready, alive = probes_of(targets["base"].proxy)
    assert start["httpGet"]["path"] == "/readyz"
    assert ready["tcpSocket"] == {"port": "api"}
    assert alive["httpGet"]["path"] == "/healthz"
    _, strict, _ = probes_of(targets["component-strict-readiness"].proxy)
    assert strict["httpGet"]["path"] == "/readyz"
    assert "tcpSocket" not in strict


def test_journals_are_on_a_volume_that_stays_unless_it_was_asked_for(targets):
    """A claim for each replica, kept when the replica goes; the component takes an emptyDir instead, of the same size."""
    kept = targets["base"].one("StatefulSet")["spec"]
    (claim,) = kept["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == mounted(kept["template"])["/data"]
    assert set(kept["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    passing = targets["component-ephemeral-journals"].one("StatefulSet")["spec"]
    (volume,) = [one for one in passing["template"]["spec"]["volumes"] if one["name"] == "data"]
    assert volume["emptyDir"]["sizeLimit"] == claim["spec"]["resources"]["requests"]["storage"]
    assert "volumeClaimTemplates" not in passing


def test_the_example_varies_what_an_operator_varies(targets):
    """Image, number, settings, disk, Redis' address and the monitor's label are the overlay's; the rest is the base's."""
    example = targets["example"]
    assert targets["base"].proxy["image"] == "deepseek-meter", "a placeholder"
    assert example.proxy["image"] == "registry.example/platform/deepseek-meter:0.1.0"
    assert targets["trial"].proxy["image"] == "deepseek-meter:0.1.0"
    assert example.one("StatefulSet")["spec"]["replicas"] == 3
    assert {one["metadata"].get("namespace") for one in example if one["kind"] != "Namespace"} == {"deepseek-meter"}
    assert load_settings(toml_text=example.settings_text).versions
    (claim,) = example.one("StatefulSet")["spec"]["volumeClaimTemplates"]
    assert (claim["spec"]["storageClassName"], claim["spec"]["resources"]["requests"]["storage"]) == ("ssd", "20Gi")
    assert example.one("PodMonitor")["metadata"]["labels"]["release"] == "kube-prometheus-stack"


def allowed(policy, port, address):
    """True if the policy lets a packet out to this address and port."""
    target = ipaddress.ip_address(address)
    for rule in policy["spec"]["egress"]:
        blocks = [to["ipBlock"] for to in rule["to"] if "ipBlock" in to]
        inside = [block for block in blocks if target in ipaddress.ip_network(block["cidr"])]
        kept_out = [
            hole for block in inside for hole in block.get("except", []) if target in ipaddress.ip_network(hole)
        ]
        if inside and not kept_out and port in [one["port"] for one in rule["ports"]]:
            return True
    return False


@pytest.mark.parametrize(
    ("address", "port", "may"),
    [
        ("8.8.8.8", 443, True),
        ("2001:4860::8888", 443, True),
        ("8.8.8.8", 80, False),
        ("8.8.8.8", 53, False),
        ("169.254.20.10", 53, True),
        ("169.254.169.254", 443, False),
        ("169.254.169.254", 80, False),
        ("10.96.0.1", 443, False),
        ("172.20.0.1", 443, False),
        ("192.168.1.1", 443, False),
        ("fd00::1", 443, False),
        ("10.20.0.5", 6379, False),
    ],
)
def test_the_pod_may_go_to_the_upstream_and_not_into_the_cluster(address, port, may, base):
    """HTTPS to the world, names from the node's cache; neither the cluster's API, nor private networks, nor metadata."""
    assert allowed(base.one("NetworkPolicy"), port, address) is may


def test_the_example_opens_its_managed_redis_and_no_more(targets):
    """By address, on Redis' port."""
    policy = targets["example"].one("NetworkPolicy")
    assert allowed(policy, 6379, "10.20.0.5")
    assert not allowed(policy, 443, "10.20.0.5")
    assert not allowed(policy, 6379, "10.21.0.5")
    assert allowed(policy, 443, "8.8.8.8")
    assert not [to for rule in policy["spec"]["egress"] for to in rule["to"] if "podSelector" in to and len(to) == 1]


def test_the_pod_is_asked_by_clients_and_by_prometheus_alone(base):
    """The API by namespaces that carry the label, the console by Prometheus of one namespace."""
    rules = base.one("NetworkPolicy")["spec"]["ingress"]
    api, console = sorted(rules, key=lambda rule: rule["ports"][0]["port"])
    assert api["from"] == [{"namespaceSelector": {"matchLabels": {"deepseek-meter/client": "true"}}}]
    (prometheus,) = console["from"]
    assert set(prometheus) == {"namespaceSelector", "podSelector"}, "both at once, not either"


def test_redis_is_reached_by_the_meter_alone_and_is_the_one_of_compose(targets, repo):
    """Its policy names the meter's pods, the meter's names it; image and words are those of docker-compose.yml."""
    trial = targets["trial"]
    policy = trial.one("NetworkPolicy", "deepseek-meter-redis")["spec"]
    redis = trial.one("StatefulSet", "deepseek-meter-redis")["spec"]["template"]
    (rule,) = policy["ingress"]
    assert [matches(source["podSelector"], labels_of(trial.pod)) for source in rule["from"]] == [True]
    assert policy.get("egress", []) == []
    ways = [
        to["podSelector"]
        for way in trial.one("NetworkPolicy")["spec"]["egress"]
        for to in way["to"]
        if "podSelector" in to
    ]
    assert [matches(way, labels_of(redis)) for way in ways] == [True]
    (container,) = redis["spec"]["containers"]
    service = yaml.safe_load((repo / "docker-compose.yml").read_text())["services"]["redis"]
    assert (container["image"], container["args"]) == (service["image"], service["command"])
    assert (
        service["user"]
        == f"{redis['spec']['securityContext']['runAsUser']}:{redis['spec']['securityContext']['runAsGroup']}"
    )
    assert container["startupProbe"]["exec"]["command"] == service["healthcheck"]["test"][1:]


def test_the_user_is_the_images(base, dockerfile):
    """The number that owns /data there is the one that runs here."""
    context = base.pod["spec"]["securityContext"]
    user, group = [rest for word, rest in dockerfile if word == "USER"][-1].split(":")
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (int(user), int(group), int(group))


@pytest.mark.parametrize(("arguments", "labels"), [([], METER), (["release=kps"], {**METER, "release": "kps"})])
def test_the_rules_are_printed_for_the_operator(arguments, labels, repo):
    """Each file as one PrometheusRule with the same groups, and the label that was asked for."""
    script = repo / "deploy/kubernetes/prometheus-rules.sh"
    printed = subprocess.run([script, *arguments], capture_output=True, text=True, check=True).stdout
    files = {path.stem: yaml.safe_load(path.read_text()) for path in (repo / "deploy/prometheus/rules").glob("*.yml")}
    found = {one["metadata"]["name"]: one for one in yaml.safe_load_all(printed)}
    assert {f"deepseek-meter-{stem}": rules for stem, rules in files.items()} == {
        n: one["spec"] for n, one in found.items()
    }
    for one in found.values():
        assert (one["apiVersion"], one["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
        assert one["metadata"]["labels"] == labels


def test_a_label_that_is_none_is_refused(repo):
    """With what was expected, and nothing printed that somebody might pipe on."""
    script = repo / "deploy/kubernetes/prometheus-rules.sh"
    run = subprocess.run([script, "release"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert "NAME=VALUE" in run.stderr
