"""How long a call may take."""

import asyncio
import time
from types import TracebackType

from gateway.errors import DeadlineExceeded, GatewayError


class TimeLimit:
    """`async with limit:` ends what runs inside when the deadline passes, or earlier by `end(error)`.

    Ended work sees a cancellation; whoever waits for it gets DeadlineExceeded, or the error given to `end`.
    One limit belongs to one task and is entered once.
    """

    __slots__ = ("_at", "_error", "_seconds", "_timeout")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._at = time.monotonic() + seconds
        self._error: GatewayError | None = None
        self._timeout: asyncio.Timeout | None = None

    @property
    def remaining(self) -> float:
        """Seconds, never negative."""
        return max(0.0, self._at - time.monotonic())

    def end(self, error: GatewayError) -> None:
        """Stop the work now, or at once when it begins; the first error given wins."""
        self._error = self._error or error
        self._at = time.monotonic()
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time())

    async def __aenter__(self) -> "TimeLimit":
        self._timeout = asyncio.timeout(self.remaining)
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        timeout, self._timeout = self._timeout, None
        if timeout is None:
            return
        try:
            await timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise self._error or DeadlineExceeded(
                f"the request did not finish within its deadline of {self._seconds * 1000:.0f} ms"
            ) from None
