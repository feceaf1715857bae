"""A TCP proxy that is slow, silent or rude when told to; it runs in a thread of its own."""

import asyncio
import socket
import struct
from contextlib import suppress

from tests.support.threaded import ThreadedServer

CHUNK = 1 << 16


class FaultyProxy(ThreadedServer):
    """Before `host`:`port`, on a free port of 127.0.0.1. The faults may be set at any time, from any thread.

    `delay_s`: before each piece goes on, in both directions. `black_hole`: what comes is swallowed, connections stay.
    `reset()`: every open connection is reset. `refusing`: new connections are reset, too.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._target = (host, port)
        self.delay_s = 0.0
        self.black_hole = False
        self.refusing = False
        self.connections = 0

    def reset(self) -> None:
        self._loop.call_soon_threadsafe(self.leave)

    def heal(self) -> None:
        """No fault any more; connections that are open stay."""
        self.delay_s, self.black_hole, self.refusing = 0.0, False, False

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            _reset(writer)
            return
        self._clients.add(writer)
        with suppress(OSError):
            upstream_reader, upstream = await asyncio.open_connection(*self._target)
            try:
                both = [self._relay(reader, upstream), self._relay(upstream_reader, writer)]
                done, left = await asyncio.wait(map(asyncio.ensure_future, both), return_when="FIRST_COMPLETED")
                for task in left:
                    task.cancel()
                await asyncio.gather(*done, *left, return_exceptions=True)
            finally:
                upstream.close()
        self._clients.discard(writer)
        writer.close()

    async def _relay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while piece := await source.read(CHUNK):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.black_hole:
                continue
            sink.write(piece)
            await sink.drain()

    def leave(self) -> None:
        for writer in list(self._clients):
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
