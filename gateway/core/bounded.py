"""A time-out for answers that come from outside, which does not blame others for our own delays."""

from gateway.core.alarm import Alarm

# A timer that is late by this share of its time tells that the event loop was busy: the answer may be here, unread.
_LATE = 0.1
_EXTENSIONS = 3


class Bounded(Alarm):
    """`async with Bounded(seconds):` raises TimeoutError when what is inside takes longer.

    A busy event loop runs timers before it wakes whoever got an answer in the meantime. So a timer that comes late
    grants the time once more, at most three times.
    """

    __slots__ = ("_due", "_extensions", "_seconds")

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._due = self._loop.time() + seconds
        self._extensions = 0

    def _left(self, now: float) -> float:
        if now - self._due > _LATE * self._seconds and self._extensions < _EXTENSIONS:
            self._extensions += 1
            self._due = now + self._seconds
        return self._due - now
