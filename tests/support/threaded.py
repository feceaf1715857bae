"""A TCP server of the tests, which runs in a thread of its own."""

import asyncio
import threading
from types import TracebackType
from typing import Final, Self

START_S: Final = 10.0


class ThreadedServer:
    """On a free port of 127.0.0.1 while inside; `accept` handles one connection. For subclasses."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
        self._up = threading.Event()
        self._end = asyncio.Event()
        self._clients: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    def leave(self) -> None:
        """In its loop, before what still runs is cancelled."""

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._up.wait(START_S):
            raise TimeoutError("the server did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(START_S)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._up.set()
        await self._end.wait()
        server.close()
        self.leave()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
