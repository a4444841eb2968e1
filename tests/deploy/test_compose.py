"""The compose stack: names, paths and ports that must agree with one another and with the code, and commands that start.

Not here: the image (test_image.py), and a start of containers. No engine runs in the tests: what can be read from the
files is read, and what the containers would run is run beside them.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from deploy.outside import Meter, Started, answers, mapped, needs, redis
from e2e.stack import free_address, stopping

from proxy.settings import ENVIRONMENT_PREFIX, GatewaySettings, load_settings, setting_rows, unknown_variables
from proxy.supervisor import KILL_AFTER_S

SECRETS = Path("/run/secrets")


@pytest.fixture(scope="module")
def compose(repo):
    return yaml.safe_load((repo / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def services(compose):
    return compose["services"]


def mounts(service):
    return dict(entry.split(":")[:2] for entry in service["volumes"])


def test_every_variable_of_ours_is_a_setting(services, dockerfile):
    """The proxy accepts the environment that compose and the image give it, and reports no name as unknown."""
    given = services["proxy"]["environment"]
    baked = dict(re.findall(rf"({ENVIRONMENT_PREFIX}\w+)=(\S+)", dict(dockerfile)["ENV"]))
    assert baked
    environment = baked | given
    assert unknown_variables(environment) == []
    assert set(environment) <= {row.variable for row in setting_rows()}
    settings = load_settings(environment=environment)
    assert settings.store.data_dir == "/data"
    assert settings.console.token_file


def test_every_path_that_is_mounted_is_in_the_repo(services, compose, repo):
    """Docker makes an empty directory of a path that is missing, and nobody notices."""
    for name, service in services.items():
        for source in mounts(service):
            exists = (repo / source).is_dir() if source.startswith(".") else source in compose["volumes"]
            assert exists, f"{name}: {source}"


def test_ports_are_published_on_loopback_only(services):
    """Nothing of the stack is reachable from the network unless somebody decides so; Redis not even from the host."""
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert sorted(port.split(":")[1] for port in published) == ["3000", "8400", "8401", "9090", "9093"]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert "ports" not in services["redis"]


def test_images_have_a_version(services):
    """`latest` is another program tomorrow."""
    for name, service in services.items():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+(-alpine)?", service["image"]), name


def test_every_service_reports_its_health(services):
    """Each has a check without a shell in between, and nobody waits for the health of a service that has none."""
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert set(service.get("depends_on", {})) <= set(services)


def test_no_secret_is_in_the_repo(compose, services, repo):
    """Secrets are files in a directory that git ignores; every use of one is declared, and none stands in a variable."""
    for name, secret in compose["secrets"].items():
        assert secret["file"] == f"./deploy/secrets/{name}"
    assert (repo / "deploy/secrets/.gitignore").read_text().split("\n")[1:3] == ["*", "!.gitignore"]
    for service in services.values():
        declared = {str(SECRETS / name) for name in service.get("secrets", [])}
        used = {value for value in service.get("environment", {}).values() if value.startswith(str(SECRETS))}
        assert used <= declared
        assert {Path(path).name for path in declared} <= set(compose["secrets"])


def test_the_head_of_the_file_makes_every_secret(compose, repo, tmp_path):
    """The documented one-liner, run as it stands, makes each file: not empty, readable for the containers' users."""
    (line,) = re.findall(r"^#   (chmod .+)$", (repo / "docker-compose.yml").read_text(), re.MULTILINE)
    folder = tmp_path / "deploy/secrets"
    folder.mkdir(parents=True)
    subprocess.run(["sh", "-euc", line.replace("openssl rand -hex 32", "echo 0123")], cwd=tmp_path, check=True)
    assert {path.name for path in folder.iterdir()} == set(compose["secrets"])
    assert all(path.stat().st_mode & 0o777 == 0o644 and path.stat().st_size for path in folder.iterdir())
    assert folder.stat().st_mode & 0o777 == 0o700


def test_redis_keeps_what_it_was_given(services):
    """Counters are money: they are persisted, and never evicted."""
    command = " ".join(services["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert mounts(services["redis"]) == {"redis-data": "/data"}


def test_prometheus_finds_the_console(services, repo):
    """Target, token, allowed host and console port are the same thing on both sides."""
    config = yaml.safe_load((repo / "deploy/prometheus/prometheus.yml").read_text())
    (scrape,) = config["scrape_configs"]
    (target,) = scrape["static_configs"][0]["targets"]
    host, port = target.split(":")
    environment = services[host]["environment"]
    assert environment["METER_CONSOLE_LISTEN"].endswith(f":{port}")
    assert host in environment["METER_CONSOLE_ALLOWED_HOSTS"].split(",")
    assert environment["METER_CONSOLE_TOKEN_FILE"] == scrape["authorization"]["credentials_file"]
    assert "console_token" in services["prometheus"]["secrets"]
    assert mounts(services["prometheus"])["./deploy/prometheus"] == "/etc/prometheus"


def test_redis_is_where_the_proxy_looks_for_it(services):
    """The host in the URL is a service, and the proxy waits until it answers."""
    host = re.fullmatch(r"redis://(\w+):6379/0", services["proxy"]["environment"]["METER_STORE_REDIS_URL"])[1]
    assert services["proxy"]["depends_on"][host] == {"condition": "service_healthy"}


def test_grafana_is_provisioned_with_data_source_and_dashboard(services, repo):
    """It asks the Prometheus of the stack, at its scrape interval, and loads the directory that is mounted."""
    folder = repo / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards/deepseek-meter.yaml").read_text())["providers"]
    config = yaml.safe_load((repo / "deploy/prometheus/prometheus.yml").read_text())
    assert source["url"].split("//")[1].split(":")[0] in services
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    assert source["editable"] is False
    mounted = mounts(services["grafana"])
    assert mounted["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    assert provider["options"]["path"] == mounted["./dashboards"]
    assert provider["allowUiUpdates"] is False


def test_grafana_opens_on_a_dashboard_that_exists(services, repo):
    """The first page is a file of the mounted directory."""
    home = Path(services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == mounts(services["grafana"])["./dashboards"]
    assert (repo / "dashboards" / home.name).exists()


def test_it_is_a_compose_file_by_the_schema_of_the_specification(compose):
    """Every key exists and has a value of its kind; the schema is the one that check-jsonschema ships."""
    schemas = pytest.importorskip(
        "check_jsonschema.builtin_schemas", reason="check-jsonschema has the schema; it is not installed"
    )
    jsonschema = pytest.importorskip("jsonschema")
    schema = schemas.get_builtin_schema("vendor.compose-spec")
    problems = [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft7Validator(schema).iter_errors(compose)
    ]
    assert problems == []


def test_every_container_is_confined(services):
    """Its own user, a root it cannot write to, no capability, no way to more; bounds on memory, processes and logs."""
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert int(service["user"].split(":")[0]) > 0, name
        assert service["restart"] == "unless-stopped", name
        assert size(service["mem_limit"]) > 0, name
        assert service["pids_limit"], name
        assert {"max-size", "max-file"} <= set(service["logging"]["options"]), name
        assert not {"privileged", "network_mode", "pid", "ipc"} & set(service), name


def size(text):
    return int(text[:-1]) * {"m": 1, "g": 1024}[text[-1]]


def test_what_has_to_last_is_on_a_volume_and_the_rest_is_memory(services, compose):
    """Each service has exactly one volume that can be written to, each volume one service."""
    owners = {}
    for name, service in services.items():
        writable = [entry for entry in service["volumes"] if not entry.endswith(":ro")]
        assert len(writable) == 1, name
        owners[writable[0].split(":")[0]] = name
        assert all(entry.startswith("/tmp:size=") for entry in service.get("tmpfs", [])), name
    assert set(owners) == set(compose["volumes"])


def test_redis_refuses_before_it_is_killed(services):
    """Its own bound is well below the container's: a rewrite of the file may copy as much again."""
    command = services["redis"]["command"]
    assert 2 * size(command[command.index("--maxmemory") + 1].removesuffix("b")) <= size(services["redis"]["mem_limit"])


def test_only_the_proxy_reaches_redis(services, compose):
    """It has no password: its network is its and the proxy's, and leads nowhere."""
    assert compose["networks"]["store"] == {"internal": True}
    assert services["redis"]["networks"] == ["store"]
    assert [name for name, service in services.items() if "store" in service.get("networks", [])] == ["proxy", "redis"]
    assert "default" in services["proxy"]["networks"]


def test_a_stop_leaves_time_for_open_exchanges(services):
    """Longer than their grace and the supervisor's own patience."""
    grace_s = GatewaySettings().shutdown_grace_seconds
    assert int(services["proxy"]["stop_grace_period"].removesuffix("s")) > grace_s + KILL_AFTER_S


def test_the_proxy_runs_as_the_user_of_its_image(services, dockerfile):
    """The volume is that user's."""
    assert [services["proxy"]["user"]] == [rest for word, rest in dockerfile if word == "USER"]


def test_redis_and_proxy_start_and_their_health_checks_tell(services, dockerfile, simulator, tmp_path):
    """With the words, variables and checks of the files, on a root that cannot be written to: healthy, and then not."""
    needs("redis-server", "redis-cli")
    api, console, store = (free_address() for _ in range(3))
    port = store.split(":")[1]
    folders = {"/data": tmp_path / "data", str(SECRETS): tmp_path / "secrets"}
    (tmp_path / "data").mkdir()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/console_token").write_text("not-a-token\n")
    variables = {name: mapped(value, folders) for name, value in services["proxy"]["environment"].items()}
    variables["METER_STORE_REDIS_URL"] = variables["METER_STORE_REDIS_URL"].replace("redis:6379", store)
    started = redis(services["redis"]["command"], tmp_path / "redis", port)
    meter = Meter(
        json.loads(dict(dockerfile)["CMD"]),
        variables,
        upstream=simulator.url,
        addresses=(api, console),
        log=tmp_path / "proxy.log",
        writable=[tmp_path / "data"],
    )
    asking = [part.replace("127.0.0.1:8401", console) for part in services["proxy"]["healthcheck"]["test"][1:]]
    pinging = ["redis-cli", "-p", port, *services["redis"]["healthcheck"]["test"][2:]]
    with stopping(meter, started):
        meter.wait_ready()
        assert answers([sys.executable, *asking[1:]])
        assert answers(pinging)
        target = f"proxy:{services['proxy']['environment']['METER_CONSOLE_LISTEN'].split(':')[1]}"
        assert meter.asked("/metrics", Host=target, Authorization="Bearer not-a-token")[0] == 200
        assert meter.asked("/metrics", Host=target)[0] == 401
    assert not answers([sys.executable, *asking[1:]])
    assert not answers(pinging)


def test_prometheus_starts_and_its_health_check_tells(services, repo, tmp_path):
    """With its words, on the configuration of the repo; its health check is asked with the machine's wget."""
    prometheus, _ = needs("prometheus", "wget")
    address = free_address()
    folders = {"/etc/prometheus": repo / "deploy/prometheus", "/prometheus": tmp_path / "data"}
    words = [mapped(word, folders) for word in services["prometheus"]["command"]]
    command = [prometheus, *words, f"--web.listen-address={address}"]
    asking = [part.replace("127.0.0.1:9090", address) for part in services["prometheus"]["healthcheck"]["test"][1:]]
    started = Started(command, tmp_path / "prometheus.log")
    with stopping(started):
        started.wait_for(lambda: answers(asking))
    assert not answers(asking)
