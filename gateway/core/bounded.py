"""A time-out for answers that come from outside, which does not blame others for our own delays."""

import asyncio
from types import TracebackType

# A timer that is late by this share of its time tells that the event loop was busy: the answer may be here, unread.
_LATE = 0.1
_EXTENSIONS = 3


class Bounded:
    """`async with Bounded(seconds):` raises TimeoutError when what is inside takes longer.

    A busy event loop runs timers before it wakes whoever got an answer in the meantime. So a timer that comes late
    grants the time once more, at most three times.
    """

    __slots__ = ("_due", "_extensions", "_loop", "_seconds", "_timeout", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + seconds
        self._extensions = 0
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> "Bounded":
        await self._timeout.__aenter__()
        self._timer = self._loop.call_at(self._due, self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _look(self) -> None:
        now = self._loop.time()
        if now - self._due > _LATE * self._seconds and self._extensions < _EXTENSIONS:
            self._extensions += 1
            self._due = now + self._seconds
            self._timer = self._loop.call_at(self._due, self._look)
        else:
            self._timeout.reschedule(now)
