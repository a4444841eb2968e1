"""The servers around the meter, as processes: Prometheus and Alertmanager with the files of deploy/, and somebody who is told.

What stands in their configuration files here is what a test has to say: addresses, and how often it scrapes.
"""

import json
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from e2e.stack import free_address, get, wait_until
from programs import program_path

REPO = Path(__file__).parents[2]
JOB = "deepseek-meter"


def program(*names: str) -> str:
    """The path of a program under one of its names; the test is skipped, and says why, where there is none."""
    found = program_path(*names)
    if found:
        return found
    pytest.skip(
        f"{names[0]} is missing: `make e2e` fetches it where apt can, else install Debian's prometheus packages"
    )


class Server:
    """A server of others: started with its log in a file, asked by HTTP, ended by its pid."""

    def __init__(self, folder: Path, command: list[str], address: str, ready: str) -> None:
        self.address = address
        self.url = f"http://{address}"
        self._log = folder / f"{Path(command[0]).name}.log"
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            wait_until(lambda: self._is_ready(ready), what=self._log.name)
        except AssertionError:
            self.stop()
            raise AssertionError(self._log.read_text("utf-8", "replace")[-3000:]) from None

    def _is_ready(self, path: str) -> bool:
        assert self._child.poll() is None, self._log.read_text("utf-8", "replace")[-3000:]
        return get(self.url + path)[0] == 200

    def stop(self) -> None:
        """End it and wait for that."""
        if self._child.poll() is None:
            self._child.terminate()
        self._child.wait(30)


class Prometheus(Server):
    """A Prometheus over the consoles of `targets`, with the rules in `rules`, in a folder of its own."""

    def __init__(
        self, folder: Path, targets: list[str], rules: Mapping[str, Any], *, every: str, alertmanager: str = ""
    ) -> None:
        self.folder = folder
        (folder / "rules").mkdir()
        for name, document in rules.items():
            (folder / "rules" / name).write_text(yaml.safe_dump(document, sort_keys=False))
        self.scrape(targets)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(_configured(every, alertmanager)))
        address = free_address()
        command = [program("prometheus"), f"--config.file={folder / 'prometheus.yml'}", "--log.level=warn"]
        command += [f"--storage.tsdb.path={folder / 'data'}", "--storage.tsdb.retention.time=90d"]
        super().__init__(folder, [*command, f"--web.listen-address={address}"], address, "/-/ready")

    def scrape(self, targets: list[str]) -> None:
        """Scrape these from now on; Prometheus sees the file change."""
        staged = self.folder / "targets.staged"
        staged.write_text(json.dumps([{"targets": targets}]))
        staged.replace(self.folder / "targets.json")

    def ask(self, path: str, **parameters: str | float) -> Any:
        """The data of an answer of the HTTP API. An AssertionError carries what it says against the question."""
        status, body = get(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        assert status == 200, f"{parameters}: {body.decode()}"
        return json.loads(body)["data"]

    def values(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """What an expression is now: labels (without the job) to value."""
        return {
            tuple(
                sorted((key, value) for key, value in row["metric"].items() if key not in {"job", "__name__"})
            ): float(row["value"][1])
            for row in self.ask("query", query=expression)["result"]
        }

    def total(self, expression: str) -> float:
        """The sum of an expression's series now."""
        return sum(self.values(expression).values())

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        return {row["labels"]["alertname"] for row in self.ask("alerts")["alerts"] if row["state"] == "firing"}


def _configured(every: str, alertmanager: str) -> dict[str, Any]:
    files = {"file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "1s"}]}
    return {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": ["rules/*.yml"],
        "scrape_configs": [{"job_name": JOB, **files}],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}] if alertmanager else []},
    }


class Alertmanager(Server):
    """An Alertmanager with this configuration, alone."""

    def __init__(self, folder: Path, document: Mapping[str, Any]) -> None:
        path = folder / "alertmanager.yml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        address = free_address()
        command = [program("alertmanager", "prometheus-alertmanager"), f"--config.file={path}", "--log.level=warn"]
        command += [f"--storage.path={folder / 'data'}", "--cluster.listen-address="]
        super().__init__(folder, [*command, f"--web.listen-address={address}"], address, "/-/ready")


class Receiver:
    """Who is told: keeps what arrives, in the order it does, as (alert, status, labels)."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, dict[str, str]]] = []
        self.texts: dict[str, dict[str, str]] = {}

    def has(self, alert: str, status: str) -> bool:
        """True once an alert has arrived in a state: `firing` or `resolved`."""
        return any(told[:2] == (alert, status) for told in list(self.heard))

    def names(self, status: str) -> set[str]:
        """The alerts that have arrived in a state."""
        return {name for name, told, _ in list(self.heard) if told == status}

    def hear(self, message: dict[str, Any]) -> None:
        """Take in a message of Alertmanager's webhook; keys it does not know are passed over."""
        for alert in message["alerts"]:
            labels = alert["labels"]
            self.heard.append((labels["alertname"], alert["status"], labels))
            self.texts[labels["alertname"]] = alert["annotations"]


@contextmanager
def listening(receiver: Receiver) -> Iterator[str]:
    """The URL under which a receiver is told, for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.hear(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
