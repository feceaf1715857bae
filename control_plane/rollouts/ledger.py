"""The ledger's stream, read from where the last reading ended."""

import logging
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from control_plane.rollouts.evidence import Sample

log = logging.getLogger(__name__)

STREAM: Final = "trireme:{ledger}:entries"
BATCH: Final = 1000
# Outcomes that say something about the version. A refusal is the client's doing, and so is leaving.
_COUNTED = frozenset({"ok", "failed"})


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


_DECODER = msgspec.json.Decoder(Line)


class Ledger:
    """Raises RedisError, OSError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def read(self, position: str) -> tuple[str, list[Sample], int]:
        """The new position, what the next entries say, and how many those were, at most `BATCH`."""
        found: Any = await self._redis.xread({STREAM: position}, count=BATCH)
        if not found:
            return position, [], 0
        entries: list[tuple[bytes, dict[bytes, bytes]]] = found[0][1]
        texts = (fields[b"entry"] for _, fields in entries if b"entry" in fields)  # feedback has no such field
        samples = [sample for text in texts if (sample := read_entry(text)) is not None]
        return entries[-1][0].decode(), samples, len(entries)


def position_at(seconds: float) -> str:
    """Before everything that Valkey stored from then on (Unix seconds, by its clock)."""
    return f"{max(0, int(seconds * 1000) - 1)}-0"


def read_entry(text: bytes) -> Sample | None:
    """None for what says nothing of any arm."""
    try:
        line = _DECODER.decode(text)
    except msgspec.DecodeError as error:
        log.warning("an entry of the ledger cannot be read and is left out: %s", error)
        return None
    if (
        line.model is None
        or line.arm is None
        or line.replayed
        or line.kind != "request"
        or line.outcome not in _COUNTED
    ):
        return None
    # A failure that another backend made good is one all the same: at 100 % there may be no other.
    failed = line.outcome == "failed" or line.retries > 0
    return Sample(
        model=line.model,
        arm=line.arm,
        began=(line.at - line.ms) / 1000,
        failed=failed,
        first_token_ms=_first_token(line),
        per_token_ms=None if failed else _per_token(line),
    )


def _first_token(line: Line) -> float | None:
    """Arrival to first token, without the wait for admission."""
    return None if line.ttft_ms is None else max(0.0, round(line.ttft_ms - line.stages_ms.get("admission", 0.0), 3))


def _per_token(line: Line) -> float | None:
    """Mean milliseconds between the tokens of an answer of several."""
    if line.ttft_ms is None or line.completion_tokens < 2:  # noqa: PLR2004
        return None
    return round(max(0.0, line.ms - line.ttft_ms) / (line.completion_tokens - 1), 3)
