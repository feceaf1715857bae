"""A TCP proxy that is slow, silent or rude when told to; it runs in a thread of its own."""

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK = 1 << 16
START_S = 10.0


class FaultyProxy:
    """Before `host`:`port`, on a free port of 127.0.0.1. The faults may be set at any time, from any thread.

    `delay_s`: before each piece goes on, in both directions. `black_hole`: what comes is swallowed, connections stay.
    `reset()`: every open connection is reset. `refusing`: new connections are reset, too.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="faulty-proxy", daemon=True)
        self._up = threading.Event()
        self._end = asyncio.Event()
        self._clients: set[asyncio.StreamWriter] = set()
        self.delay_s = 0.0
        self.black_hole = False
        self.refusing = False
        self.connections = 0
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._up.wait(START_S):
            raise TimeoutError("the proxy did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(START_S)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def reset(self) -> None:
        self._loop.call_soon_threadsafe(self._reset_all)

    def heal(self) -> None:
        """No fault any more; connections that are open stay."""
        self.delay_s, self.black_hole, self.refusing = 0.0, False, False

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._up.set()
        await self._end.wait()
        server.close()
        self._reset_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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

    def _reset_all(self) -> None:
        for writer in list(self._clients):
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
