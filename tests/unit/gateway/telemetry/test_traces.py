"""Which requests have spans, and what these say."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from gateway.accounting.outcome import Outcome
from gateway.core.call import Call, Caller, Model, Usage
from gateway.core.limit import TimeLimit
from gateway.telemetry.export import SpanQueue
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.traces import Traces, TraceSettings
from python_backends.messages import Timings

CLIENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OK = Outcome(200)
Spans = dict[str, ReadableSpan]


class Recording:
    """Traces before an exporter in memory."""

    def __init__(self, **settings: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.metrics = Metrics()
        self.queue = SpanQueue(self.exporter, settings.pop("most", 10), self.metrics.spans_dropped)
        self.traces = Traces(TraceSettings(**settings), self.queue, "here-1")

    async def finished(self) -> Sequence[ReadableSpan]:
        await self.queue.send()
        return self.exporter.get_finished_spans()


def new_call(route: str = "/v1/chat/completions", **fields: Any) -> Call:
    given: dict[str, Any] = {
        "id": "r",
        "uid": secrets.token_hex(16),
        "caller": Caller("key_1", "acme", frozenset({"inference"})),
        "model": Model("tiny", "generate", 256, 0),
        "started": time.monotonic() - 2.0,
    }
    return Call(route=route, limit=TimeLimit(60), **(given | fields))


def serve(call: Call) -> None:
    """What the stages write down of a call that waited a second in place 3 and took 2 s in all."""
    for stage, at in (("auth", 0.01), ("tokens", 0.02), ("limits", 0.03), ("admission", 1.03), ("routing", 1.04)):
        mark(call, stage, at)
    mark(call, "first_token", 1.5)
    call.first_token_at, call.last_token_at = call.started + 1.5, call.started + 1.9
    call.queue_position, call.priority_class, call.backend = 3, "batch", "triton"
    call.usage = Usage(prompt=10, completion=5, cached=4)
    call.engine = Timings(queued=100.0, prefill=200.0, decode=400.0, preemptions=1)


def mark(call: Call, stage: str, at: float) -> None:
    """`at`: seconds after its arrival."""
    before = call.marks[-1][1] if call.marks else call.started
    call.marks.append((stage, call.started + at))
    call.stages[stage] = (call.started + at - before) * 1000


async def spans_of(call: Call, outcome: Outcome = OK, seconds: float = 2.0) -> Spans:
    recording = Recording()
    recording.traces.begin(call)
    recording.traces.record(call, outcome, seconds)
    return {span.name: span for span in await recording.finished()}


def lasted(span: ReadableSpan) -> float:
    assert span.start_time is not None and span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def identity(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


async def test_the_spans_are_a_tree_of_the_stages() -> None:
    call = new_call()
    serve(call)
    spans = await spans_of(call)
    names = {identity(span): name for name, span in spans.items()}
    tree = {name: names.get(span.parent.span_id) if span.parent else None for name, span in spans.items()}
    root = "chat tiny"
    assert tree == {
        root: None,
        **dict.fromkeys(("auth", "tokens", "limits", "admission", "routing", "triton"), root),
        **dict.fromkeys(("first_token", "decode", "engine.queued", "engine.prefill", "engine.decode"), "triton"),
    }
    assert (spans[root].kind, spans["triton"].kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    assert {span.resource.attributes["service.name"] for span in spans.values()} == {"trireme-gateway"}


async def test_a_span_lies_within_its_parent_and_lasts_as_long_as_its_stage() -> None:
    call = new_call()
    serve(call)
    spans = await spans_of(call)
    by_id = {identity(span): span for span in spans.values()}
    for span in spans.values():
        if span.parent is not None:
            parent = by_id[span.parent.span_id]
            assert parent.start_time <= span.start_time <= span.end_time <= parent.end_time, span.name  # type: ignore[operator]
    durations = {"chat tiny": 2.0, "admission": 1.0, "first_token": 0.46, "decode": 0.4, "engine.prefill": 0.2}
    for name, seconds in durations.items():
        assert lasted(spans[name]) == pytest.approx(seconds, abs=1e-6), name
    assert abs(spans["chat tiny"].end_time / 1e9 - time.time()) < 1  # type: ignore[operator]


async def test_an_engine_whose_times_are_longer_than_the_attempt_stays_within_it() -> None:
    call = new_call()
    serve(call)
    call.engine = Timings(queued=60_000.0, prefill=0.0, decode=100.0)
    spans = await spans_of(call)
    assert spans["engine.queued"].start_time == spans["triton"].start_time


async def test_the_request_tells_place_and_time_in_the_queue_and_what_it_used() -> None:
    call = new_call(stream=True)
    serve(call)
    spans = await spans_of(call)
    told = dict(spans["chat tiny"].attributes or {})
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "trireme",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.stream": True,
        "gen_ai.response.time_to_first_chunk": pytest.approx(1.5),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "trireme.backend": "triton",
        "trireme.outcome": "ok",
        "trireme.priority": "batch",
        "trireme.queue.position": 3,
        "trireme.queue.seconds": pytest.approx(1.0),
        "trireme.request_id": "r",
        "trireme.tenant": "acme",
    }
    waited = {"trireme.queue.position": 3, "trireme.queue.seconds": pytest.approx(1.0)}
    assert dict(spans["admission"].attributes or {}) == waited
    assert dict(spans["engine.decode"].attributes or {}) == {"trireme.preemptions": 1}


async def test_each_attempt_at_a_backend_is_a_span_with_the_id_that_the_backend_was_told() -> None:
    recording, call = Recording(), new_call()
    recording.traces.begin(call)
    told = [call.context]
    mark(call, "routing", 0.1)
    mark(call, "failed_attempt", 0.4)
    call.failed.append(("a", "backend_lost"))
    call.retries, call.backend = 1, "b"
    told.append(call.context)
    mark(call, "routing", 0.5)
    recording.traces.record(call, OK, 2.0)
    first, second = (span for span in await recording.finished() if span.name == "triton")
    assert [f"{identity(span):016x}" for span in (first, second)] == [str(one).split("-")[2] for one in told]
    assert dict(first.attributes or {}) == {"trireme.backend": "a", "error.type": "backend_lost"}
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert (lasted(first), lasted(second)) == (pytest.approx(0.3), pytest.approx(1.5))


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome(408, "queue_timeout"), StatusCode.UNSET),
        (Outcome(499, "client_gone"), StatusCode.UNSET),
        (Outcome(502, "backend_failed"), StatusCode.ERROR),
    ],
)
async def test_an_error_is_named_and_only_the_servers_own_make_a_span_fail(
    outcome: Outcome, status: StatusCode
) -> None:
    call = new_call(model=None)
    (span,) = (await spans_of(call, outcome)).values()
    assert (span.name, span.status.status_code) == ("chat", status)
    attributes = span.attributes or {}
    assert (attributes["error.type"], attributes["http.response.status_code"]) == (outcome.code, outcome.status)
    assert "gen_ai.usage.input_tokens" not in attributes


async def test_the_clients_trace_goes_on() -> None:
    call = new_call(traceparent=CLIENT)
    serve(call)
    spans = await spans_of(call)
    contexts = [span.context for span in spans.values()]
    assert {f"{one.trace_id:032x}" for one in contexts if one} == {CLIENT.split("-")[1]}
    parent = spans["chat tiny"].parent
    assert parent is not None
    assert (f"{parent.span_id:016x}", parent.is_remote) == (CLIENT.split("-")[2], True)
    assert call.context == f"00-{CLIENT.split('-')[1]}-{identity(spans['triton']):016x}-01"


async def test_a_client_that_does_not_record_is_not_recorded_here() -> None:
    call = new_call(traceparent=CLIENT[:-1] + "0")
    assert await spans_of(call) == {}
    assert call.context == CLIENT[:-1] + "0"


async def test_a_trace_that_begins_here_has_the_id_of_its_call() -> None:
    call = new_call()
    (span,) = (await spans_of(call)).values()
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == call.uid


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 1.0])
def test_the_decision_is_that_of_opentelemetrys_sampler(ratio: float) -> None:
    traces, theirs = Recording(sample_ratio=ratio).traces, ParentBased(TraceIdRatioBased(ratio))
    for _ in range(200):
        call = new_call()
        traces.begin(call)
        decision = theirs.should_sample(None, int(call.uid, 16), "x").decision
        assert (call.trace is not None) == (decision is Decision.RECORD_AND_SAMPLE)


def test_a_request_that_is_not_sampled_tells_the_backend_so() -> None:
    call = new_call()
    Recording(sample_ratio=0.0).traces.begin(call)
    assert call.context == f"00-{call.uid}-{call.uid[:16]}-00"


def test_addresses_that_use_no_engine_have_no_spans() -> None:
    call = new_call(route="/metrics")
    Recording().traces.begin(call)
    assert call.trace is None and call.context is None
