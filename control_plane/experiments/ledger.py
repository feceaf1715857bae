"""What the ledger's stream says of experiments and mirrorings."""

import logging
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from control_plane.experiments.evidence import Copied, Observed, Run, Scored
from control_plane.rollouts.ledger import BATCH, STREAM

log = logging.getLogger(__name__)

Seen = Observed | Scored | Copied
# A refusal is the client's doing, and so is leaving.
_COUNTED: Final = frozenset({"ok", "failed"})
_SEVERAL: Final = 2


class _Mirrored(msgspec.Struct, frozen=True):
    mirror: str
    of: str
    original: Run
    copy: Run
    same: bool | None = None


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    """The members of an entry that matter here."""

    outcome: str
    kind: str = "request"
    ms: float = 0.0
    arm: str | None = None
    experiment: str | None = None
    unit: str | None = None
    retries: int = 0
    completion_tokens: int = 0
    price: int = 0
    ttft_ms: float | None = None
    stages_ms: dict[str, float] = {}
    mirrored: _Mirrored | None = None


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    arm: str | None = None
    experiment: str | None = None
    unit: str | None = None


class _Score(msgspec.Struct, frozen=True):
    score: float


_LINE = msgspec.json.Decoder(_Line)
_REQUEST = msgspec.json.Decoder(_Request)
_SCORE = msgspec.json.Decoder(_Score)


class TrialLedger:
    """Raises RedisError, OSError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def read(self, position: str) -> tuple[str, list[Seen], int]:
        """The new position, what the next events say, and how many those were, at most `BATCH`."""
        found: Any = await self._redis.xread({STREAM: position}, count=BATCH)
        if not found:
            return position, [], 0
        events: list[tuple[bytes, dict[bytes, bytes]]] = found[0][1]
        seen = [one for _, fields in events if (one := read_event(fields)) is not None]
        return events[-1][0].decode(), seen, len(events)


def read_event(fields: dict[bytes, bytes]) -> Seen | None:
    """None for what belongs to no experiment and no mirroring."""
    try:
        if b"feedback" in fields:
            return _scored(fields)
        line = _LINE.decode(fields.get(b"entry", b""))
    except (msgspec.DecodeError, ValueError, KeyError) as error:
        log.warning("an event of the ledger cannot be read and is left out: %s", error)
        return None
    if line.outcome == "cancelled":
        return None
    return _copied(line) if line.kind == "mirror" else _observed(line)


def _observed(line: _Line) -> Observed | None:
    if line.experiment is None or line.arm is None or line.outcome not in _COUNTED:
        return None
    failed = line.outcome == "failed" or line.retries > 0
    return Observed(
        experiment=line.experiment,
        arm=line.arm,
        unit=line.unit or "",
        failed=failed,
        first_token_ms=_first_token(line),
        per_token_ms=None if failed else _per_token(line),
        tokens=line.completion_tokens,
        price=line.price,
    )


def _scored(fields: dict[bytes, bytes]) -> Scored | None:
    request, before = _REQUEST.decode(fields[b"request"]), fields[b"before"]
    if request.experiment is None or request.arm is None:
        return None
    return Scored(
        experiment=request.experiment,
        arm=request.arm,
        unit=request.unit or "",
        score=_SCORE.decode(fields[b"feedback"]).score,
        before=float(before) if before else None,
    )


def _copied(line: _Line) -> Copied | None:
    mirrored = line.mirrored
    if mirrored is None:
        return None
    return Copied(
        mirror=mirrored.mirror,
        of=mirrored.of,
        original=mirrored.original,
        copy=mirrored.copy,
        same=mirrored.same,
        price=line.price,
    )


def _first_token(line: _Line) -> float | None:
    """Arrival to first token, without the wait for admission."""
    return None if line.ttft_ms is None else max(0.0, line.ttft_ms - line.stages_ms.get("admission", 0.0))


def _per_token(line: _Line) -> float | None:
    if line.ttft_ms is None or line.completion_tokens < _SEVERAL:
        return None
    return max(0.0, line.ms - line.ttft_ms) / (line.completion_tokens - 1)
