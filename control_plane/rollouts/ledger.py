"""What the ledger says to a rollout."""

import logging

import msgspec

from control_plane.ledger import Event, Line
from control_plane.rollouts.evidence import Sample

log = logging.getLogger(__name__)

_LINE = msgspec.json.Decoder(Line)


def read_event(event: Event) -> Sample | None:
    """Feedback, which is no entry, says nothing."""
    return read_entry(event[b"entry"]) if b"entry" in event else None


def read_entry(text: bytes) -> Sample | None:
    """None for what says nothing of any arm."""
    try:
        line = _LINE.decode(text)
    except msgspec.DecodeError as error:
        log.warning("an entry of the ledger cannot be read and is left out: %s", error)
        return None
    if line.model is None or line.arm is None or not line.counts:
        return None
    return Sample(
        model=line.model,
        arm=line.arm,
        began=(line.at - line.ms) / 1000,
        failed=line.failed,
        first_token_ms=line.first_token_ms,
        per_token_ms=line.per_token_ms,
    )
