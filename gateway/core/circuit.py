"""After failures in a row nobody waits any more: calls fail at once, and one in a while tries."""

from collections.abc import Callable


class Circuit:
    """closed ── `failures` in a row ──▶ open ── `open_s` later, one attempt ──▶ closed, or open again.

    `clock`: monotonic seconds. Pure: whoever calls tells how it went.
    """

    def __init__(self, failures: int, open_s: float, clock: Callable[[], float]) -> None:
        self._most = failures
        self._open_s = open_s
        self._clock = clock
        self._failed = 0
        self._next_attempt = 0.0

    @property
    def closed(self) -> bool:
        return self._failed < self._most

    def allows(self) -> bool:
        """Whether a call may be made now. While open, the one that may is the attempt."""
        if self.closed:
            return True
        now = self._clock()
        if now < self._next_attempt:
            return False
        self._next_attempt = now + self._open_s
        return True

    def succeeded(self) -> None:
        self._failed = 0

    def failed(self) -> None:
        self._failed += 1
        if not self.closed:
            self._next_attempt = self._clock() + self._open_s
