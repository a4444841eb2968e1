"""A simulated API on a loopback port, quick and without mishaps, and small ways to talk to it."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import aiohttp

from proxy.simulator.scenario import parse_scenario
from proxy.simulator.server import create_app, listening

BEARER = {"Authorization": "Bearer anything"}

QUICK = """
seed = 7
retired = ["deepseek-chat", "deepseek-reasoner"]
balance = { granted = "0.50", topped_up = "100.00" }

[peak]
windows = ["01:00-04:00", "06:00-10:00"]
holidays = [2026-10-01]

[[models]]
names = ["deepseek-flash", "deepseek-v4-flash"]
served = "deepseek-flash"
fingerprint = "0123456789abcdef0123456789abcdef"
prices = { hit = "0.006", miss = "0.30", output = "1.20" }
off_peak = "0.5"
reasoning_tokens = { min = 3, max = 30 }
answer_tokens = { min = 2, max = 30 }

[[models]]
names = ["odd-price"]
served = "odd-price"
thinking = false
prices = { hit = "0.0028", miss = "0.1405", output = "0.2815" }

[[models]]
names = ["own-r1"]
served = "own-r1"
unpriced = true
listed = false
"""

MONDAY_PEAK_S = 1795399200.0  # 2026-11-23T02:00:00Z
MONDAY_OFF_PEAK_S = 1795435200.0  # 2026-11-23T12:00:00Z


def quick(extra=""):
    """The quick scenario, with tables put behind it."""
    return parse_scenario(QUICK + extra, "quick.toml")


class Client:
    """Talks to one simulated API."""

    def __init__(self, session, url):
        self.session = session
        self.url = url

    async def post(self, body, *, path="/chat/completions", **headers):
        """Status, headers and body of a POST; header names are written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(self.url + path, json=body, headers=named) as response:
            return response.status, response.headers, await response.read()

    async def get(self, path):
        """Status, headers and body of a GET."""
        async with self.session.get(self.url + path) as response:
            return response.status, response.headers, await response.read()

    async def ledger(self, query="?exchanges=1"):
        """The ledger, decoded."""
        return json.loads((await self.get("/_simulator/ledger" + query))[2])


@asynccontextmanager
async def running(scenario=None, **options):
    """A client of a simulated API that runs while the context is open."""
    app = create_app(scenario or quick(), **options)
    async with listening(app, "127.0.0.1", 0) as url, aiohttp.ClientSession(headers=BEARER) as session:
        yield Client(session, url)


def chat(model="deepseek-flash", **fields):
    """The body of a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": "a word"}], **fields}


def streamed(model="deepseek-flash", *, include_usage=True, **fields):
    """The body of a streamed chat request."""
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    return chat(model, stream=True, **options, **fields)


def chunks(body):
    """The JSON objects of an event stream, and whether it ended with `[DONE]`."""
    events = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line.startswith(b"data: ")]
    return [json.loads(event) for event in events if event != b"[DONE]"], events[-1:] == [b"[DONE]"]
