"""Steady, mixed traffic for the demo: several apps ask several models, streamed or not, and some leave in the middle.

Requests come at random moments of a fixed mean rate, whether or not earlier ones are answered, as those of real
clients do. Nothing here looks at an answer beyond reading it. Prompts are a few harmless words made here.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from random import Random
from typing import Annotated, Any

import aiohttp
import msgspec
from msgspec import Meta

from proxy.usage import Purpose

Share = Annotated[float, Meta(ge=0, le=1)]

MAX_OPEN = 512
"""Most requests open at once; above it none is sent, so that a stalled API does not eat the machine's sockets."""

GRACE_SECONDS = 10.0
"""How long open requests may go on once `stop` is set."""

_HEADERS = {"Authorization": "Bearer demo"}
_TIMEOUT = aiohttp.ClientTimeout(total=120.0)
_TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]


class App(msgspec.Struct, frozen=True):
    """A kind of client. The shares are of its own requests, `weight` is its part in all of them."""

    name: str
    weight: float = 1.0
    purpose: Purpose = Purpose.PRODUCTION
    streamed_share: Share = 0.7
    leaves_share: Share = 0.0
    tools_share: Share = 0.0
    plain_share: Share = 0.0  # asks the model not to think


DEMO_APPS = (
    App("support-bot", weight=5, streamed_share=0.95, leaves_share=0.05, plain_share=0.6),
    App("code-review", weight=3, streamed_share=0.6, leaves_share=0.02, tools_share=0.5),
    App("nightly-eval", weight=2, purpose=Purpose.VALIDATION, streamed_share=0.1),
)
"""The apps of the demo."""

DEMO_MODELS = {
    "deepseek-flash": 6.0,
    "deepseek-v4-pro": 2.5,
    "deepseek-v4-flash": 0.7,
    "deepseek-ai/DeepSeek-R1-0528": 0.7,
    "deepseek-chat": 0.1,
}
"""Models of the demo and their weights: an old name and a retired one are among them, as in real life."""


class Traffic(msgspec.Struct):
    """What came of the requests: read to the end, left by the client, answered with an error, or broken by the server."""

    answered: int = 0
    left: int = 0
    refused: int = 0
    failed: int = 0

    @property
    def sent(self) -> int:
        """All requests that have ended."""
        return self.answered + self.left + self.refused + self.failed


async def run_traffic(
    base_url: str,
    *,
    rate_per_second: float,
    apps: Sequence[App] = DEMO_APPS,
    models: Mapping[str, float] = DEMO_MODELS,
    seed: int = 1,
    stop: asyncio.Event,
) -> Traffic:
    """Sends traffic to `base_url` until `stop` is set, then waits for open requests. Returns what came of them.

    `models` maps a name to its weight. A server that is away or breaks off counts as failed and is no error.
    """
    traffic, rng = Traffic(), Random(seed)  # noqa: S311  # reproducible on purpose
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=_HEADERS, timeout=_TIMEOUT) as session:
        tasks: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while not stop.is_set():
            if len(tasks) < MAX_OPEN:
                task = asyncio.create_task(_ask(session, base_url, _request(rng, apps, models), traffic))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            due += rng.expovariate(rate_per_second)
            await _until(due, stop)
        await _wind_down(tasks)
    return traffic


class _Request(msgspec.Struct, frozen=True):
    """One request before it is sent. `leaves_after` is the number of network reads after which the client goes."""

    headers: dict[str, str]
    body: dict[str, Any]
    leaves_after: int | None


def _request(rng: Random, apps: Sequence[App], models: Mapping[str, float]) -> _Request:
    """The next request: who asks, which model, and how."""
    app = rng.choices(apps, [app.weight for app in apps])[0]
    model = rng.choices(list(models), list(models.values()))[0]
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": f"Note number {rng.randrange(1000)}"}],
    }
    if rng.random() < app.streamed_share:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if rng.random() < app.tools_share:
        body["tools"] = _TOOLS
    if rng.random() < app.plain_share:
        body["thinking"] = {"type": "disabled"}
    leaves_after = rng.randint(1, 30) if rng.random() < app.leaves_share and "stream" in body else None
    headers = {"X-Meter-App": app.name, "X-Meter-Purpose": app.purpose.value}
    return _Request(headers, body, leaves_after)


async def _ask(session: aiohttp.ClientSession, base_url: str, request: _Request, traffic: Traffic) -> None:
    """Sends one request, reads its answer or leaves, and counts what came of it."""
    url = f"{base_url.rstrip('/')}/chat/completions"
    try:
        async with session.post(url, json=request.body, headers=request.headers) as response:
            if await _read(response, request.leaves_after):
                traffic.left += 1
            elif response.status < 400:
                traffic.answered += 1
            else:
                traffic.refused += 1
    except (aiohttp.ClientError, TimeoutError, OSError):
        traffic.failed += 1
    except asyncio.CancelledError:
        traffic.left += 1
        raise


async def _read(response: aiohttp.ClientResponse, leaves_after: int | None) -> bool:
    """Reads a body to its end. True if the client left before, which closes the connection."""
    reads = 0
    async for _ in response.content.iter_any():
        reads += 1
        if reads == leaves_after:
            response.close()
            return True
    return False


async def _until(due: float, stop: asyncio.Event) -> None:
    """Waits for a moment of the monotonic clock, or for the stop."""
    try:
        await asyncio.wait_for(stop.wait(), max(0.0, due - time.monotonic()))
    except TimeoutError:
        return


async def _wind_down(tasks: set[asyncio.Task[None]]) -> None:
    """Lets open requests end, and cancels those that take too long."""
    if not tasks:
        return
    _, slow = await asyncio.wait(set(tasks), timeout=GRACE_SECONDS)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
