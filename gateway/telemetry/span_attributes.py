"""What spans say of a request: names of OpenTelemetry's GenAI and HTTP conventions where there are some. Never a
prompt, an answer or a key.
"""

from typing import Protocol

from opentelemetry.util.types import AttributeValue

from gateway.core.call import Call
from python_backends.messages import Timings

PROVIDER = "trireme"


class Ending(Protocol):
    """How a request ended (gateway.accounting.outcome)."""

    @property
    def status(self) -> int: ...

    @property
    def code(self) -> str | None: ...

    @property
    def name(self) -> str: ...


def request_attributes(call: Call, outcome: Ending, operation: str) -> dict[str, AttributeValue]:
    """What is not known is left out."""
    known: dict[str, AttributeValue | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": call.model.name if call.model else None,
        "gen_ai.request.stream": call.stream,
        "http.request.method": "POST",
        "http.route": call.route,
        "http.response.status_code": outcome.status,
        "error.type": outcome.code,
        "trireme.outcome": outcome.name,
        "trireme.request_id": call.id,
        "trireme.tenant": call.caller.tenant if call.caller else None,
        "trireme.priority": call.priority_class,
        "trireme.backend": call.backend,
        "trireme.arm": call.arm,
        "trireme.model_version": call.model_version,
        "trireme.retries": call.retries or None,
        "trireme.replayed": call.replayed or None,
    }
    found = {name: value for name, value in known.items() if value is not None}
    return found | queue_attributes(call) | _usage_attributes(call)


def queue_attributes(call: Call) -> dict[str, AttributeValue]:
    """Nothing for a call that admission never saw."""
    waited = call.stages.get("admission")
    if waited is None:
        return {}
    return {"trireme.queue.position": call.queue_position, "trireme.queue.seconds": round(waited / 1000, 6)}


def engine_attributes(timings: Timings) -> dict[str, AttributeValue]:
    return {"trireme.preemptions": timings.preemptions} if timings.preemptions else {}


def _usage_attributes(call: Call) -> dict[str, AttributeValue]:
    usage = call.usage
    found: dict[str, AttributeValue] = {}
    if usage.prompt:
        found["gen_ai.usage.input_tokens"] = usage.prompt
        found["gen_ai.usage.output_tokens"] = usage.completion
    if usage.cached:
        found["gen_ai.usage.cache_read.input_tokens"] = usage.cached
    if call.first_token_at is not None:
        found["gen_ai.response.time_to_first_chunk"] = round(call.first_token_at - call.started, 6)
    return found
