"""docs/deploying.md: what it tells a reader to type, to copy or to look into is there."""

import re
import shlex

import pytest
import yaml
from click.testing import CliRunner
from deploy.rendered import secret_keys

from proxy.cli import main


@pytest.fixture(scope="module")
def text(repo):
    return (repo / "docs/deploying.md").read_text("utf-8")


def test_every_path_it_names_is_in_the_repo(text, repo):
    """Directories of deploy/ with a kustomization are complete: none is left out, none is invented."""
    named = {path.rstrip("/") for path in re.findall(r"\bdeploy/[\w./-]+\w/?", text)}
    assert not [path for path in named if not (repo / path).exists()]
    kustomizations = {str(path.parent.relative_to(repo)) for path in (repo / "deploy").rglob("kustomization.yaml")}
    assert kustomizations <= named


def test_every_command_of_ours_exists(text):
    """With the options it is given."""
    lines = re.findall(r"-- deepseek-meter (.+)", text)
    assert lines
    for line in lines:
        command, *options = shlex.split(line)
        usage = CliRunner().invoke(main, [command, "--help"])
        assert usage.exit_code == 0
        assert all(option in usage.output for option in options if option.startswith("--"))


def test_the_docs_make_the_secret_that_is_asked_for(targets, text):
    """The command in docs/deploying.md gives every key; the one that is optional is said to be."""
    (command,) = re.findall(r"kubectl create secret generic deepseek-meter (?:.*\\\n)*.*", text)
    made = set(re.findall(r"--from-literal=(\w+)=", command))
    wanted = {key for _, key in secret_keys(targets["example"])}
    assert wanted - made == {"deepseek_api_key"}
    assert made < wanted
    assert "`deepseek_api_key`" in text


def test_a_prometheus_without_the_operator_finds_the_replicas(text, repo, promtool, tmp_path):
    """promtool accepts the example; name, namespace and port are those of the Service, the interval that of compose."""
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (job,) = yaml.safe_load(example)["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    services = yaml.safe_load_all((repo / "deploy/kubernetes/base/services.yaml").read_text())
    (console,) = [one for one in services if one["spec"].get("clusterIP") == "None"]
    namespace = yaml.safe_load((repo / "deploy/kubernetes/overlays/example/kustomization.yaml").read_text())[
        "namespace"
    ]
    assert found["names"] == [f"{console['metadata']['name']}.{namespace}.svc"]
    assert found["port"] == console["spec"]["ports"][0]["port"]
    compose = yaml.safe_load((repo / "deploy/prometheus/prometheus.yml").read_text())
    assert job["scrape_interval"] == compose["global"]["scrape_interval"]
    (tmp_path / "prometheus.yml").write_text(example)
    checked = promtool("check", "config", "--syntax-only", tmp_path / "prometheus.yml")
    assert checked.returncode == 0, checked.stderr
