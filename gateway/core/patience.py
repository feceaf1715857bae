"""A bound on each of very many short waits."""

import asyncio
from types import TracebackType


class Patience:
    """`async with patience:` raises TimeoutError when one wait between `wait()` and `done()` lasts `seconds`.

    A timer of its own for each wait (asyncio.timeout) costs as much as the rest of handling a token; here a wait costs
    two assignments, and one lazy timer looks after them all.
    """

    __slots__ = ("_loop", "_seconds", "_since", "_timeout", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    def wait(self) -> None:
        self._since = self._loop.time()

    def done(self) -> None:
        self._since = None

    async def __aenter__(self) -> "Patience":
        await self._timeout.__aenter__()
        self._timer = self._loop.call_later(self._seconds, self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _look(self) -> None:
        now = self._loop.time()
        left = self._seconds if self._since is None else self._since + self._seconds - now
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._timeout.reschedule(now)
