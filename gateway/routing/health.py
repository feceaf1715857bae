"""Is a backend able to generate? A pure state machine: facts in, verdict out."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from gateway.core.settings import Setting

Verdict = Literal["starting", "healthy", "unhealthy"]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True, kw_only=True)
class HealthSettings:
    probe_interval_s: Annotated[
        Seconds, Setting("Between questions for readiness.", env="PROBE_INTERVAL_S", unit="s")
    ] = 2.0
    fast_probe_interval_s: Annotated[
        Seconds,
        Setting(
            "The same while the backend is not healthy, or just failed to answer.",
            env="FAST_PROBE_INTERVAL_S",
            unit="s",
        ),
    ] = 0.5
    probe_timeout_s: Annotated[
        Seconds, Setting("Longest wait for an answer to them.", env="PROBE_TIMEOUT_S", unit="s")
    ] = 2.0
    generation_interval_s: Annotated[
        Seconds,
        Setting(
            "After this long without a token for anybody, one token is generated as a test.",
            env="PROBE_GENERATION_INTERVAL_S",
            unit="s",
        ),
    ] = 30.0
    generation_timeout_s: Annotated[
        Seconds, Setting("Longest wait for that token.", env="PROBE_GENERATION_TIMEOUT_S", unit="s")
    ] = 30.0
    failures: Annotated[
        int,
        msgspec.Meta(ge=1),
        Setting("Failed questions in a row that make a backend unhealthy.", env="PROBE_FAILURES"),
    ] = 2


class Health:
    """starting ──generated──▶ healthy ──failures in a row, or one lost connection──▶ unhealthy ──generated──▶ healthy

    Readiness alone never makes a backend healthy: a dead engine can look ready. `clock`: monotonic seconds.
    """

    def __init__(self, settings: HealthSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._failures = 0
        self._generated_at: float | None = None
        self.verdict: Verdict = "starting"
        self.reason = "no token was generated yet"

    @property
    def healthy(self) -> bool:
        return self.verdict == "healthy"

    @property
    def interval(self) -> float:
        """Seconds until the next probe."""
        calm = self.healthy and self._failures == 0
        return self._settings.probe_interval_s if calm else self._settings.fast_probe_interval_s

    def generation_due(self, served_at: float | None = None) -> bool:
        """Whether the next probe must generate. `served_at`: when real traffic last got a token."""
        last = max((at for at in (served_at, self._generated_at) if at is not None), default=None)
        return not self.healthy or last is None or self._clock() - last >= self._settings.generation_interval_s

    def ready(self) -> None:
        """The backend said that it is ready; that counts only for one that has been healthy since it last failed."""
        if self.healthy:
            self._failures = 0

    def generated(self) -> None:
        """A test token came."""
        self._generated_at = self._clock()
        self._failures = 0
        self.verdict = "healthy"
        self.reason = "ok"

    def failed(self, reason: str) -> None:
        """A probe failed."""
        self._failures += 1
        if not self.healthy:
            self.reason = reason
        elif self._failures >= self._settings.failures:
            self._fall(reason)

    def lost(self, reason: str) -> None:
        """A connection that carried a request failed."""
        if self.healthy:
            self._fall(reason)

    def _fall(self, reason: str) -> None:
        self.verdict = "unhealthy"
        self.reason = reason
