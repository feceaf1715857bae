"""Lines for the auditor: who was turned away, and who changed what. Never a secret, and never its digest."""

import logging

from gateway.telemetry.logs import FIELDS

log = logging.getLogger("trireme.audit")


def refused(reason: str, address: str | None, key_id: str | None) -> None:
    """A failed authentication. `key_id`: when it is known which key it was."""
    fields: dict[str, object] = {
        "event": "authentication.failed",
        "reason": reason,
        "address": address,
        "key_id": key_id,
    }
    log.warning("authentication failed", extra={FIELDS: _given(fields)})


def changed(event: str, target: str, *, actor: str, address: str | None, request_id: str, **details: object) -> None:
    """An administrator's change. `actor`: the id of the key that was used; `target`: of what was changed."""
    fields: dict[str, object] = {"event": event, "target": target, "actor": actor, "address": address}
    log.info("change", extra={FIELDS: _given(fields | {"request_id": request_id} | details)})


def _given(fields: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}
