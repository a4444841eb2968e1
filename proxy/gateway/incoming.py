"""A client's request as the HTTP library hands it over: what is read of it, and what is done to its connection.

Nothing is decided here. The other side of the relay, the answer on its way to the client, is in `responding`.
"""

from aiohttp import hdrs, web
from aiohttp.streams import StreamReader

from proxy.errors import RequestTooLargeError
from proxy.gateway.client_keys import Presented
from proxy.gateway.framing import objection
from proxy.gateway.keys import CREDENTIAL_HEADERS


async def whole_body(content: StreamReader, limit: int) -> bytes:
    """The body, read to its end. Raises RequestTooLargeError beyond a limit, and what the HTTP library raises."""
    chunks: list[bytes] = []
    size = 0
    while chunk := await content.readany():
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise RequestTooLargeError.beyond(limit)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def objection_to(request: web.BaseRequest) -> str:
    """What speaks against relaying a request, in a sentence; empty where nothing does."""
    version = request.version[0], request.version[1]
    return objection(version, request.method, request.raw_path, request.headers.get(hdrs.TRANSFER_ENCODING))


def presented_by(request: web.BaseRequest) -> Presented:
    """What a request shows of who asks and for what."""
    headers = request.headers
    shown = tuple(value for name in CREDENTIAL_HEADERS for value in headers.getall(name, ()) if value)
    return Presented(
        request.method, path_of(request), shown, headers.get("X-Meter-App"), headers.get("X-Meter-Purpose")
    )


def is_behind(request: web.BaseRequest) -> bool:
    """True while the client has not read what was sent to it."""
    return request.transport is not None and request.transport.get_write_buffer_size() > 0


def give_up_on(request: web.BaseRequest) -> None:
    """Drop a client that does not read any more: what is still to be sent to it will never be."""
    if request.transport is not None:
        request.transport.abort()


def break_off(request: web.BaseRequest) -> None:
    """Close the client's connection behind what was sent, without a proper end: it sees the same break."""
    if request.transport is not None:
        request.transport.close()


def path_of(request: web.BaseRequest) -> str:
    """What decides the dialect and what is open: all before the query. A target with a fragment is refused (`objection`)."""
    return request.raw_path.partition("?")[0]
