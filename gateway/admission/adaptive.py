"""How many tokens may run, found out by how fast they come. Off unless `limit` is `adaptive`.

Two times are watched, neither of which grows with the length of the request: to the first token, for each prompt token
that was computed, and between the tokens of an answer. While both are as short as they used to be the limit may grow;
when one gets longer the limit shrinks in proportion.

Source: the limiter Gradient2 of Netflix's concurrency-limits: a long average against a short one, with a tolerance.
"""

import math
from dataclasses import dataclass

from gateway.core.call import Call

TOLERANCE = 1.5
SMOOTHING = 0.2
SHORT = 20
LONG = 600
LEAST_GRADIENT = 0.5
# Below this share of the limit in use, speed says nothing about the limit.
BUSY = 0.5


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one answer, in seconds: None where it had none."""

    per_prompt_token: float | None
    per_output_token: float | None

    @classmethod
    def of(cls, call: Call, started: float) -> "Speed":
        """`started`: when its turn began, monotonic seconds."""
        first, last = call.first_token_at, call.last_token_at
        if first is None or last is None:
            return cls(None, None)
        prompt = call.usage.prompt - call.usage.cached
        per_prompt = (first - started) / prompt if prompt > 0 else None
        per_output = (last - first) / (call.tokens_seen - 1) if call.tokens_seen > 1 else None
        return cls(per_prompt, per_output)


class _Trend:
    """A time now against what it used to be: both are exponential averages, over about so many samples."""

    __slots__ = ("_long", "_samples", "_short")

    def __init__(self) -> None:
        self._short = self._long = 0.0
        self._samples = 0

    def add(self, seconds: float) -> None:
        self._samples += 1
        self._short += (seconds - self._short) / min(self._samples, SHORT)
        self._long += (seconds - self._long) / min(self._samples, LONG)
        if self._long > 2 * self._short:  # times became much shorter: what used to be is no measure any more
            self._long *= 0.95

    @property
    def gradient(self) -> float:
        """1: as fast as ever; less: slower by more than is tolerated."""
        if self._samples < SHORT or self._short <= 0:
            return 1.0
        return max(LEAST_GRADIENT, min(1.0, TOLERANCE * self._long / self._short))


class AdaptiveLimit:
    """`limit`: tokens, from `least` to `most`, beginning at `most`. Pure: the same samples give the same limit."""

    def __init__(self, least: int, most: int) -> None:
        self._least = float(min(least, most))
        self._most = float(most)
        self._limit = float(most)
        self._prompt = _Trend()
        self._output = _Trend()

    @property
    def limit(self) -> int:
        return int(self._limit)

    def observe(self, speed: Speed, running_tokens: int) -> None:
        """An answer came at this speed. `running_tokens`: held while it ended, itself included."""
        if speed.per_prompt_token is not None:
            self._prompt.add(speed.per_prompt_token)
        if speed.per_output_token is not None:
            self._output.add(speed.per_output_token)
        if running_tokens < BUSY * self._limit:
            return
        gradient = min(self._prompt.gradient, self._output.gradient)
        wanted = self._limit * gradient + math.sqrt(self._limit)
        self._limit += SMOOTHING * (wanted - self._limit)
        self._limit = min(self._most, max(self._least, self._limit))
