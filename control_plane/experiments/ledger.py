"""What the ledger says to experiments and mirrorings."""

import logging

import msgspec

from control_plane.experiments.evidence import Copied, Observed, Run, Scored
from control_plane.ledger import Event, Line

log = logging.getLogger(__name__)

Seen = Observed | Scored | Copied


class _Mirrored(msgspec.Struct, frozen=True):
    mirror: str
    of: str
    original: Run
    copy: Run
    same: bool | None = None


class _Line(Line, frozen=True, kw_only=True):
    experiment: str | None = None
    unit: str | None = None
    price: int = 0
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


def read_event(event: Event) -> Seen | None:
    """None for what belongs to no experiment and no mirroring."""
    try:
        if b"feedback" in event:
            return _scored(event)
        line = _LINE.decode(event.get(b"entry", b""))
    except (msgspec.DecodeError, ValueError, KeyError) as error:
        log.warning("an event of the ledger cannot be read and is left out: %s", error)
        return None
    return _copied(line) if line.kind == "mirror" else _observed(line)


def _observed(line: _Line) -> Observed | None:
    if line.experiment is None or line.arm is None or not line.counts:
        return None
    return Observed(
        experiment=line.experiment,
        arm=line.arm,
        unit=line.unit or "",
        failed=line.failed,
        first_token_ms=line.first_token_ms,
        per_token_ms=line.per_token_ms,
        tokens=line.completion_tokens,
        price=line.price,
    )


def _scored(event: Event) -> Scored | None:
    request, before = _REQUEST.decode(event[b"request"]), event[b"before"]
    if request.experiment is None or request.arm is None:
        return None
    return Scored(
        experiment=request.experiment,
        arm=request.arm,
        unit=request.unit or "",
        score=_SCORE.decode(event[b"feedback"]).score,
        before=float(before) if before else None,
    )


def _copied(line: _Line) -> Copied | None:
    """A copy that was given up says nothing of its arm."""
    mirrored = line.mirrored
    if mirrored is None or line.outcome == "cancelled":
        return None
    return Copied(
        mirror=mirrored.mirror,
        of=mirrored.of,
        original=mirrored.original,
        copy=mirrored.copy,
        same=mirrored.same,
        price=line.price,
    )
