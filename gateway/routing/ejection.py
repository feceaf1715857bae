"""Passive health: what real requests tell of a backend whose probes are content."""

from collections.abc import Callable
from typing import Literal

CircuitState = Literal["closed", "open", "half_open"]
# After so many times the ejection time without a new one, the count begins anew.
_FORGIVE = 10


class Ejection:
    """closed ── `failures` in a row, and `eject` ──▶ open ── time × count ──▶ half open ── a success ──▶ closed
                                                        ▲──────────────── a failure ────────────┘

    Half open lets one request through at a time. Whoever owns the group decides about `eject`, since not too many may
    be out at once. `clock`: monotonic seconds.
    """

    def __init__(self, failures: int, seconds: float, longest: float, clock: Callable[[], float]) -> None:
        self._most = failures
        self._seconds = seconds
        self._longest = longest
        self._clock = clock
        self._failed = 0
        self._trying = False
        self._until = 0.0
        self.closed = True
        self.count = 0

    @property
    def state(self) -> CircuitState:
        if self.closed:
            return "closed"
        return "open" if self._clock() < self._until else "half_open"

    @property
    def due(self) -> bool:
        """Enough failures; while half open, one is enough."""
        return self._failed >= self._most or (self._failed > 0 and self.state == "half_open")

    def allows(self) -> bool:
        """Whether it may get a request."""
        return self.closed or (self.state == "half_open" and not self._trying)

    def tried(self) -> None:
        """A request goes there: while half open, the only one."""
        self._trying = not self.closed

    def succeeded(self) -> bool:
        """A request went well. True when that closed the circuit."""
        self._failed = 0
        self._trying = False
        was_closed, self.closed = self.closed, True
        return not was_closed

    def failed(self) -> None:
        """A request failed. While open, that tells nothing new."""
        self._trying = False
        if self.state != "open":
            self._failed += 1

    def abandoned(self) -> None:
        """A request ended and told nothing."""
        self._trying = False

    def eject(self) -> None:
        now = self._clock()
        if now > self._until + _FORGIVE * self._seconds:
            self.count = 0
        self.count += 1
        self.closed = False
        self._failed = 0
        self._until = now + min(self._longest, self._seconds * self.count)

    def reset(self) -> None:
        """Probes proved it anew: what was before counts no more."""
        self.succeeded()
