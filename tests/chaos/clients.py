"""The clients: many at once, each one exchange after the other, streamed or not, some leaving in the middle.

Every exchange has a tag. The simulator's ledger keeps it (`X-Simulator-Tag`), and so does the proxy's record, as the
version the client says it expects: so the two can be laid side by side, one by one.
"""

import asyncio
import time
from collections.abc import Callable
from random import Random

import aiohttp
import msgspec

MODELS = ("deepseek-flash", "deepseek-v4-flash", "deepseek-v4-pro", "deepseek-ai/DeepSeek-R1-0528", "deepseek-chat")
WEIGHTS = (5, 1, 3, 1, 0.2)
TIMEOUT = aiohttp.ClientTimeout(total=60)
PAUSE_AFTER_A_FAILURE_S = 0.1


class Seen(msgspec.Struct):
    """One exchange as its client saw it. `ended`: the whole answer came; `left`: the client went before that."""

    tag: str
    begun_s: float
    status: int = 0
    ended: bool = False
    left: bool = False


class Clients:
    """So many clients against one address, until told to stop."""

    def __init__(self, base_url: str, seed: int, wall_s: Callable[[], float] = time.time) -> None:
        self._url = f"{base_url}/chat/completions"
        self._seed = seed
        self._wall_s = wall_s
        self._stopping = False
        self.seen: list[Seen] = []

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping = True

    async def run(self, count: int) -> None:
        """Returns when every client has finished its last exchange."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as session:
            await asyncio.gather(*(self._client(session, number) for number in range(count)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        rng = Random(f"{self._seed}:{number}")
        asked = 0
        while not self._stopping:
            asked += 1
            seen = Seen(f"t{self._seed}-{number}-{asked}", self._wall_s())
            self.seen.append(seen)
            try:
                await self._ask(session, rng, seen)
            except (aiohttp.ClientError, TimeoutError, OSError):
                await asyncio.sleep(PAUSE_AFTER_A_FAILURE_S)

    async def _ask(self, session: aiohttp.ClientSession, rng: Random, seen: Seen) -> None:
        streamed, leaves = rng.random() < 0.7, rng.random() < 0.1
        body = {"model": rng.choices(MODELS, WEIGHTS)[0], "messages": [{"role": "user", "content": "Boats?"}]}
        if streamed:
            body |= {"stream": True}
        headers = {
            "Authorization": "Bearer chaos",
            "X-Simulator-Tag": seen.tag,
            "X-Meter-Expect-Version": seen.tag,
            "X-Meter-App": f"app-{rng.randrange(5)}",
        }
        leaves_after_s = rng.random() * 0.3 if leaves else None
        try:
            async with asyncio.timeout(leaves_after_s), session.post(self._url, json=body, headers=headers) as response:
                seen.status = response.status
                data = await response.read()
        except TimeoutError:
            seen.left = True
            return
        seen.ended = data.endswith(b"data: [DONE]\n\n") if streamed and response.status == 200 else True
