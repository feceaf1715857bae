"""The line in the log that every request ends in."""

import logging
from typing import Any

import msgspec

from gateway.accounting.outcome import Outcome
from gateway.core.call import Call
from gateway.telemetry.logs import FIELDS

log = logging.getLogger("trireme.access")


def write_line(call: Call, outcome: Outcome, seconds: float, level: int) -> None:
    if log.isEnabledFor(level):
        log.log(level, "request", extra={FIELDS: _line(call, outcome, seconds)})


def _line(call: Call, outcome: Outcome, seconds: float) -> dict[str, Any]:
    line: dict[str, Any] = {
        "request_id": call.id,
        "route": call.route,
        "status": outcome.status,
        "outcome": outcome.name,
        "ms": round(seconds * 1000, 3),
    }
    if outcome.code:
        line["code"] = outcome.code
    if call.caller:
        line |= {"tenant": call.caller.tenant, "key_id": call.caller.key_id}
    if call.model:
        line |= {"model": call.model.name, "model_version": call.model_version, "stream": call.stream}
        usage = call.usage
        line["tokens"] = {"prompt": usage.prompt, "cached": usage.cached, "completion": usage.completion}
        line["price"] = call.price / 1e9
    line |= _adapter(call)
    if call.priority_class:
        line |= {"priority": call.priority_class, "queue_position": call.queue_position}
    if call.answers_checked:
        line["answers_checked"] = call.answers_checked
    if call.routed:
        line["routed"] = msgspec.to_builtins(call.routed)
    if call.cache is not None:
        line["cache"] = call.cache
    if call.replayed:
        line["replayed"] = True
    if call.mirrored:
        line["mirror"] = call.mirrored.mirror
    line["stages_ms"] = {stage: round(milliseconds, 3) for stage, milliseconds in call.stages.items()}
    return line


def _adapter(call: Call) -> dict[str, str]:
    adapter = call.model.adapter if call.model else None
    return {} if adapter is None else {"adapter_revision": adapter.revision}
