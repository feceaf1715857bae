"""What routers remember: the models of conversations, how hard requests were lately, how fast models are."""

import time
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.core.call import Call

_WEIGHT = 0.1
_FORGOTTEN_S = 600.0


class Conversations:
    """Which model a conversation has, for as long as it goes on. `most`: the longest unused go first.

    `clock`: monotonic seconds.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._held: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def model_of(self, key: bytes, seconds: float) -> str | None:
        """Unless it was silent for so long."""
        model, at = self._held.get(key, (None, 0.0))
        return model if self._clock() - at < seconds else None

    def keep(self, key: bytes, model: str) -> None:
        self._held[key] = (model, self._clock())
        self._held.move_to_end(key)
        while len(self._held) > self._most:
            self._held.popitem(last=False)


class Hardest:
    """Whether a request is among the hardest `share`, by the scores of those before it. `most`: that are remembered."""

    def __init__(self, share: float, most: int = 1000) -> None:
        self._share = share
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self._most = most

    def includes(self, score: float) -> bool:
        """Counts it too."""
        rank = bisect_left(self._sorted, score) / len(self._sorted) if self._sorted else 0.5
        self._recent.append(score)
        insort(self._sorted, score)
        if len(self._recent) > self._most:
            oldest = self._recent.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
        return rank >= 1 - self._share


@dataclass(slots=True)
class _Pace:
    """Seconds and tokens, averaged; `at`: when it was measured last."""

    first_token: float
    per_token: float
    tokens: float
    at: float


class Ended(Protocol):
    @property
    def name(self) -> str: ...


class Paces:
    """How long models take: a moving average of the requests that succeeded. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paces: dict[str, _Pace] = {}

    def record(self, call: Call, outcome: Ended, seconds: float) -> None:
        """Of a call that got its answer. One token has no pace."""
        first, last = call.first_token_at, call.last_token_at
        if outcome.name != "ok" or call.model is None or first is None or last is None or call.tokens_seen <= 1:
            return
        values = (
            call.stages.get("first_token", 0.0) / 1000,
            (last - first) / (call.tokens_seen - 1),
            float(call.tokens_seen),
        )
        held = self._paces.get(call.model.name)
        if held is None or self._clock() - held.at > _FORGOTTEN_S:
            self._paces[call.model.name] = _Pace(*values, at=self._clock())
            return
        held.first_token += _WEIGHT * (values[0] - held.first_token)
        held.per_token += _WEIGHT * (values[1] - held.per_token)
        held.tokens += _WEIGHT * (values[2] - held.tokens)
        held.at = self._clock()

    def expected_ms(self, model: str, most_tokens: int | None) -> float | None:
        """Of a whole answer of the usual length, or of the most that is allowed. None: nothing was measured lately."""
        held = self._paces.get(model)
        if held is None or self._clock() - held.at > _FORGOTTEN_S:
            return None
        tokens = held.tokens if most_tokens is None else min(held.tokens, most_tokens)
        return 1000 * (held.first_token + held.per_token * tokens)
