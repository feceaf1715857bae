"""Spans of requests: which requests have some, and how they are made of the times that every call notes anyway.

Nothing is done for them before a request has ended, but for one decision and two ids; what is not sampled costs the
decision alone. Triton's models are told the id of the attempt's span, for spans of their own.
"""

import random
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Final, Protocol

import msgspec
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from gateway.core.call import Call
from gateway.core.settings import Setting
from gateway.core.trace import Parent, Trace, read_traceparent
from gateway.telemetry.span_attributes import Ending, engine_attributes, queue_attributes, request_attributes

# Requests that use the engine; by what OpenTelemetry calls what they do.
OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "embeddings",
}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_RATIO_BITS: Final = 64
_SERVER_ERROR: Final = 500
_UNSET, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
Attributes = dict[str, AttributeValue]


@dataclass(frozen=True, kw_only=True)
class TraceSettings:
    endpoint: Annotated[
        str | None,
        Setting(
            "Where spans go: an OTLP collector's HTTP address, such as `http://collector:4318`; none: no tracing.",
            env="OTLP_ENDPOINT",
        ),
    ] = None
    sample_ratio: Annotated[
        float,
        msgspec.Meta(ge=0, le=1),
        Setting("Part of the requests that are traced, of those whose client did not decide.", env="TRACE_RATIO"),
    ] = 1.0
    service_name: Annotated[str, Setting("The service that spans name.", env="TRACE_SERVICE")] = "trireme-gateway"
    queue_requests: Annotated[
        int,
        msgspec.Meta(ge=1),
        Setting(
            "Requests whose spans wait to be sent; what comes beyond is dropped.", env="TRACE_QUEUE", unit="requests"
        ),
    ] = 2048


class Spans(Protocol):
    """Where finished spans go."""

    def add(self, spans: list[ReadableSpan]) -> None:
        """All of one request. Never raises, never waits."""
        ...


class Traces:
    """A sink of the ledger. Sampling is the client's decision, else by the trace's id, as OpenTelemetry's
    `ParentBased(TraceIdRatioBased(…))` decides.
    """

    def __init__(self, settings: TraceSettings, spans: Spans, instance: str) -> None:
        self._bound = round(settings.sample_ratio * (1 << _RATIO_BITS))
        self._spans = spans
        self._resource = Resource.create(
            {
                "service.name": settings.service_name,
                "service.version": version("trireme"),
                "service.instance.id": instance,
            }
        )

    def begin(self, call: Call) -> None:
        """Decide, and write the decision down for the backends too."""
        if call.route not in OPERATIONS:
            return
        parent = None if call.traceparent is None else read_traceparent(call.traceparent)
        if parent is None:
            self._begin_here(call)
        elif parent.sampled:
            call.trace = _trace(parent.trace, parent)

    def _begin_here(self, call: Call) -> None:
        """The trace has the call's own id."""
        trace = int(call.uid, 16)
        if trace % (1 << _RATIO_BITS) < self._bound:
            call.trace = _trace(trace, None)
        else:
            call.traceparent = f"00-{call.uid}-{call.uid[:16]}-00"

    def record(self, call: Call, outcome: Ending, seconds: float) -> None:
        if call.trace is not None:
            self._spans.add(_Recorder(call, call.trace, outcome, self._resource).spans(seconds))


def _trace(number: int, parent: Parent | None) -> Trace:
    return Trace(number, random.getrandbits(64) or 1, None if parent is None else parent.span)


class _Recorder:
    """One call's spans. Times are the call's monotonic seconds until they are written down."""

    def __init__(self, call: Call, trace: Trace, outcome: Ending, resource: Resource) -> None:
        self._call = call
        self._trace = trace
        self._outcome = outcome
        self._resource = resource
        self._zero = time.time_ns() - round(time.monotonic() * 1e9)
        self._found: list[ReadableSpan] = []

    def spans(self, seconds: float) -> list[ReadableSpan]:
        call, trace, outcome = self._call, self._trace, self._outcome
        end = call.started + seconds
        operation = OPERATIONS[call.route]
        self._add(
            operation if call.model is None else f"{operation} {call.model.name}",
            (call.started, end),
            trace.parent,
            request_attributes(call, outcome, operation),
            span=trace.span,
            kind=SpanKind.SERVER,
            failed=outcome.status >= _SERVER_ERROR,
        )
        self._stages(end)
        return self._found

    def _stages(self, end: float) -> None:
        """Each from the end of the one before; those after `routing` belong to the attempt that began there."""
        call, trace = self._call, self._trace
        parent, attempt, began, start = trace.span, 0, None, call.started
        for stage, at in call.marks:
            if stage == "failed_attempt" and began is not None:
                self._attempt(attempt, began, at)
                parent, attempt, began = trace.span, attempt + 1, None
            else:
                self._add(stage, (start, at), parent, queue_attributes(call) if stage == "admission" else {})
            if stage == "routing":
                parent, began = trace.attempt(attempt), at
            start = at
        if began is not None:
            self._attempt(attempt, began, end)
            self._engine(parent, began)

    def _attempt(self, number: int, start: float, end: float) -> None:
        call = self._call
        if number < len(call.failed):
            (backend, error), failed = call.failed[number], True
        else:
            backend, error = call.backend or "", self._outcome.code or ""
            failed = self._outcome.status >= _SERVER_ERROR
        attributes: Attributes = {"trireme.backend": backend}
        if error:
            attributes["error.type"] = error
        span = self._trace.attempt(number)
        self._add("triton", (start, end), self._trace.span, attributes, span=span, kind=SpanKind.CLIENT, failed=failed)

    def _engine(self, parent: int, began: float) -> None:
        """The tokens, as they came here; and what the engine says of itself, up to the last of them."""
        call = self._call
        if call.first_token_at is None or call.last_token_at is None:
            return
        self._add("decode", (call.first_token_at, call.last_token_at), parent, {})
        if call.engine is None:
            return
        parts = {"queued": call.engine.queued, "prefill": call.engine.prefill, "decode": call.engine.decode}
        start = call.last_token_at - sum(parts.values()) / 1000
        for name, milliseconds in parts.items():
            end = start + milliseconds / 1000
            self._add(f"engine.{name}", (max(start, began), max(end, began)), parent, engine_attributes(call.engine))
            start = end

    def _add(
        self,
        name: str,
        times: tuple[float, float],
        parent: int | None,
        attributes: Attributes,
        *,
        span: int | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        failed: bool = False,
    ) -> None:
        start, end = (self._zero + round(one * 1e9) for one in times)
        self._found.append(
            ReadableSpan(
                name,
                context=self._context(random.getrandbits(64) or 1 if span is None else span),
                parent=None if parent is None else self._context(parent, remote=parent == self._trace.parent),
                resource=self._resource,
                attributes=attributes,
                kind=kind,
                status=_ERROR if failed else _UNSET,
                start_time=start,
                end_time=end,
                instrumentation_scope=_SCOPE,
            )
        )

    def _context(self, span: int, *, remote: bool = False) -> SpanContext:
        return SpanContext(self._trace.id, span, is_remote=remote, trace_flags=_SAMPLED)


_SCOPE = InstrumentationScope("trireme.gateway", version("trireme"))
