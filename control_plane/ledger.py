"""The ledger's stream, read from where the last reading ended, and what its entries say of the arm that answered."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec
from redis.asyncio import Redis

STREAM: Final = "trireme:{ledger}:entries"
BATCH: Final = 1000
# In one round; what is more waits for the next one, so that the lease is kept.
BATCHES: Final = 20
# Outcomes that say something about the version. A refusal is the client's doing, and so is leaving.
_COUNTED: Final = frozenset({"ok", "failed"})
_SEVERAL: Final = 2
_DIGITS: Final = 3

Event = Mapping[bytes, bytes]
Said = TypeVar("Said")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """The members of a ledger's entry that matter here.

    `arm`: which got it first, None for what never got as far as a backend. `retries`: attempts that failed before the
    one that the client saw the end of.
    """

    at: int
    outcome: str
    kind: str = "request"
    ms: float = 0.0
    model: str | None = None
    arm: str | None = None
    retries: int = 0
    replayed: bool = False
    completion_tokens: int = 0
    ttft_ms: float | None = None
    stages_ms: dict[str, float] = {}

    @property
    def counts(self) -> bool:
        """A request of a client, and its end was the arm's doing."""
        return self.kind == "request" and not self.replayed and self.outcome in _COUNTED

    @property
    def failed(self) -> bool:
        """A failure that another backend made good is one all the same: at 100 % there may be no other."""
        return self.outcome == "failed" or self.retries > 0

    @property
    def first_token_ms(self) -> float | None:
        """Arrival to first token, without the wait for admission."""
        if self.ttft_ms is None:
            return None
        return max(0.0, round(self.ttft_ms - self.stages_ms.get("admission", 0.0), _DIGITS))

    @property
    def per_token_ms(self) -> float | None:
        """Mean time between the tokens of an answer of several that succeeded."""
        if self.failed or self.ttft_ms is None or self.completion_tokens < _SEVERAL:
            return None
        return round(max(0.0, self.ms - self.ttft_ms) / (self.completion_tokens - 1), _DIGITS)


class Ledger(Generic[Said]):
    """`said`: what an event of the stream says to whoever asks, or None. Raises RedisError, OSError."""

    def __init__(self, redis: Redis, said: Callable[[Event], Said | None]) -> None:
        self._redis = redis
        self._said = said

    async def read(self, position: str) -> tuple[str, list[Said], int]:
        """The new position, what the next events say, and how many those were, at most `BATCH`."""
        found: Any = await self._redis.xread({STREAM: position}, count=BATCH)
        if not found:
            return position, [], 0
        events: list[tuple[bytes, dict[bytes, bytes]]] = found[0][1]
        said = [one for _, event in events if (one := self._said(event)) is not None]
        return events[-1][0].decode(), said, len(events)

    async def batches(self, position: str) -> AsyncIterator[tuple[str, list[Said], int]]:
        """As `read`, to the end of the stream or of what one round takes."""
        for _ in range(BATCHES):
            position, said, number = await self.read(position)
            yield position, said, number
            if number < BATCH:
                return


def position_at(seconds: float) -> str:
    """Before everything that Valkey stored from then on (Unix seconds, by its clock)."""
    return f"{max(0, int(seconds * 1000) - 1)}-0"
