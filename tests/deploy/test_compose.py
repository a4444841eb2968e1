"""The image and the compose stack: names, paths and ports that must agree with one another and with the code.

Not here: a build or a start. No container engine runs in the tests; what can be read from the files is read.
"""

import json
import re
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from proxy.settings import ENVIRONMENT_PREFIX, load_settings, setting_rows, unknown_variables

SECRETS = Path("/run/secrets")


@pytest.fixture(scope="module")
def compose(repo):
    return yaml.safe_load((repo / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def services(compose):
    return compose["services"]


@pytest.fixture(scope="module")
def dockerfile(repo):
    """The instructions as (word, rest), with continued lines joined."""
    text = (repo / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


@pytest.fixture(scope="module")
def project(repo):
    return tomllib.loads((repo / "pyproject.toml").read_text())["project"]


def copied(dockerfile):
    return [source for word, rest in dockerfile if word == "COPY" for source in rest.split()[:-1]]


def mounts(service):
    return dict(entry.split(":")[:2] for entry in service["volumes"])


def health_command(dockerfile):
    (rest,) = [rest for word, rest in dockerfile if word == "HEALTHCHECK"]
    return json.loads(rest[rest.index("CMD") + len("CMD") :])


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


def test_the_image_installs_pinned_requirements_with_hashes_and_then_us_alone(dockerfile):
    """No dependency comes in without a hash, neither in the first step nor through the second."""
    runs = [rest for word, rest in dockerfile if word == "RUN" and "pip install" in rest]
    assert runs[0] == "pip install --require-hashes -r requirements.txt"
    assert runs[1].startswith("pip install --no-deps .")
    assert len(runs) == 2


def test_the_requirements_cover_every_dependency_with_a_hash(project, repo):
    """What `--no-deps` leaves out is in the file, pinned and hashed."""
    entries = re.split(r"\n(?=\w)", (repo / "requirements.txt").read_text())
    pinned = {re.split(r"[=\[ ]", entry)[0].lower(): entry for entry in entries if "==" in entry.split("\n")[0]}
    wanted = {re.split(r"[><=; \[]", each)[0].lower() for each in project["dependencies"]}
    assert wanted <= set(pinned)
    assert all("--hash=sha256:" in entry for entry in pinned.values())


def test_the_image_copies_what_exists_and_the_builder_gets_nothing_else(dockerfile, project, repo):
    """Sources are in the repo and let in by .dockerignore. The readme is named by pyproject: without it pip stops."""
    sources = [source.removeprefix("./") for source in copied(dockerfile)]
    assert all((repo / source).exists() for source in sources if source != project["readme"])
    assert project["readme"] in sources
    ignored = [line for line in (repo / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert ignored[0] == "*"
    assert sorted(line[1:] for line in ignored if line[0] == "!") == sorted(sources)


def test_the_image_runs_a_python_we_support_and_not_as_root(dockerfile, project):
    """The last user before the entry point is a number above 0, which Kubernetes can check."""
    instructions = dict(dockerfile)
    assert instructions["FROM"] == f"python:{project['requires-python'].removeprefix('>=')}-slim"
    assert int(instructions["USER"]) > 0
    words = [word for word, _ in dockerfile]
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert json.loads(instructions["ENTRYPOINT"]) == ["deepseek-meter"]


def test_image_and_compose_ask_for_health_in_the_same_way(dockerfile, services):
    """One command in two files: a change of one is a change of both."""
    assert services["proxy"]["healthcheck"]["test"] == ["CMD", *health_command(dockerfile)]


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (404, False)])
def test_the_health_check_fails_when_the_console_says_so(status, healthy, dockerfile):
    """The command of the image, run against a console that answers with this status."""
    asked = []

    class Console(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Console) as server:
        thread = Thread(target=server.handle_request)
        thread.start()
        _, option, code = health_command(dockerfile)
        code = code.replace(":8401", f":{server.server_port}")
        run = subprocess.run([sys.executable, option, code], capture_output=True, check=False)
        thread.join()
    assert (run.returncode == 0) is healthy
    assert asked == ["/healthz"]
