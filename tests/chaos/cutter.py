"""A TCP relay in front of Redis that can cut connections at the worst moment: the script has run, the answer is lost."""

import asyncio
import contextlib
from typing import Self

SCRIPT = b"EVALSHA"


class Cutter:
    """Listens on a loopback port and passes everything on to another, until told to cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._cuts_left = 0
        self.cuts = 0
        self.address = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def cut_next(self, count: int) -> None:
        """Cut the next so many connections that send a script, behind the script and before its answer."""
        self._cuts_left = count

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        cutting = asyncio.Event()
        down = asyncio.create_task(self._pass(up_reader, writer, cutting))
        try:
            await self._pass_requests(reader, up_writer, cutting)
        finally:
            if cutting.is_set():
                await asyncio.sleep(0.05)  # Redis has run it by then; nobody hears of it
            down.cancel()
            for end in (writer, up_writer):
                with contextlib.suppress(OSError):
                    end.close()

    async def _pass_requests(
        self, reader: asyncio.StreamReader, up_writer: asyncio.StreamWriter, cutting: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self._cuts_left and SCRIPT in data:
                    self._cuts_left -= 1
                    self.cuts += 1
                    cutting.set()
                up_writer.write(data)
                await up_writer.drain()
                if cutting.is_set():
                    return

    async def _pass(
        self, up_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cutting: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await up_reader.read(65536):
                if cutting.is_set():
                    return
                writer.write(data)
                await writer.drain()
        writer.close()
