"""When is a child started again, and when is a running one given up? Decisions only: no clock, no process."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Backoff:
    """Waiting times between restarts, in seconds: first, first·factor, … up to `longest`.

    A child that ran for `stable` seconds has proved itself: its next end counts as the first one again.
    """

    first: float = 0.5
    factor: float = 2.0
    longest: float = 30.0
    stable: float = 60.0

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many ends in a row (at least 1)."""
        # The exponent is bounded because a float is not: 2.0**2000 raises.
        return min(self.longest, self.first * self.factor ** min(failures - 1, 64))


@dataclass(frozen=True)
class RestartState:
    """How often in a row a child has ended, and when it may start again (None: it runs)."""

    failures: int = 0
    started_at: float = 0.0
    start_at: float | None = None

    def started(self, now: float) -> RestartState:
        """The child was started."""
        return replace(self, started_at=now, start_at=None)

    def ended(self, now: float, backoff: Backoff) -> RestartState:
        """The child ended, or was ended because it no longer worked."""
        failures = 1 if now - self.started_at >= backoff.stable else self.failures + 1
        return replace(self, failures=failures, start_at=now + backoff.delay(failures))

    def is_due(self, now: float) -> bool:
        """Whether it is time to start the child again."""
        return self.start_at is not None and now >= self.start_at


@dataclass(frozen=True)
class Liveness:
    """Failed probes in a row of a child that looks alive."""

    allowed: int = 2
    failures: int = 0

    def probed(self, works: bool) -> Liveness:
        """Take in the result of one probe."""
        return replace(self, failures=0 if works else self.failures + 1)

    @property
    def is_dead(self) -> bool:
        """Whether the child is to be restarted."""
        return self.failures >= self.allowed
