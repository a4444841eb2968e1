"""What the proxy is compared with: the least that relays, on the same HTTP library and event loop, without metering.

Run as `python -m benchmarks.bare_relay http://127.0.0.1:PORT`; prints its port.
"""

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web

HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "host"})


async def relay(request: web.BaseRequest, session: aiohttp.ClientSession, upstream: str) -> web.StreamResponse:
    """Send the request on and pass the answer back, chunk by chunk."""
    headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
    body = await request.read()
    async with session.request(
        request.method, upstream + request.path_qs, headers=headers, data=body, allow_redirects=False
    ) as answer:
        passed = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP]
        response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=passed)
        await response.prepare(request)
        while chunk := await answer.content.readany():
            await response.write(chunk)
        await response.write_eof()
        return response


async def serve(upstream: str) -> None:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
    )
    async with session:
        runner = web.ServerRunner(web.Server(lambda request: relay(request, session, upstream), access_log=None))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
