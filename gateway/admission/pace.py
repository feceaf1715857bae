"""How fast turns end, in tokens a second: what every estimate of a wait rests on."""

import math

SAMPLE_S = 1.0
MEMORY_S = 10.0


class Pace:
    """Measured only while somebody waits: otherwise it would tell how much is asked, not how much could be done.

    Samples of at least `SAMPLE_S`, averaged exponentially with a time constant of `MEMORY_S`. `rate` is None until
    the first one.
    """

    __slots__ = ("_busy_s", "_ended", "_since", "rate")

    def __init__(self) -> None:
        self.rate: float | None = None
        self._since: float | None = None
        self._busy_s = 0.0
        self._ended = 0

    def waited_for(self, now: float, *, waiting: bool) -> None:
        """Somebody waits from now on, or nobody does any more."""
        if waiting and self._since is None:
            self._since = now
        elif not waiting and self._since is not None:
            self._busy_s += now - self._since
            self._since = None

    def ended(self, tokens: int, now: float) -> None:
        """A turn that held so many tokens ended."""
        if self._since is None:
            return
        self._busy_s += now - self._since
        self._since = now
        self._ended += tokens
        if self._busy_s >= SAMPLE_S:
            sample = self._ended / self._busy_s
            fresh = 1 - math.exp(-self._busy_s / MEMORY_S)
            self.rate = sample if self.rate is None else self.rate + fresh * (sample - self.rate)
            self._busy_s, self._ended = 0.0, 0
