"""What ends an `async with` that lasts too long, with one lazy timer."""

import asyncio
from types import TracebackType
from typing import Self


class Alarm:
    """`async with alarm:` raises TimeoutError as soon as `_left` says that nothing is left. For subclasses."""

    __slots__ = ("_loop", "_timeout", "_timer")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    def _left(self, now: float) -> float:
        """Seconds until somebody must look again. `now`: of the loop's clock."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._timer = self._loop.call_later(self._left(self._loop.time()), self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _look(self) -> None:
        now = self._loop.time()
        left = self._left(now)
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._timeout.reschedule(now)
