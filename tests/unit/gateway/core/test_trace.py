"""Which trace contexts are understood, and what backends are told."""

import pytest

from gateway.core.trace import Parent, Trace, read_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("03", True), ("02", False)])
def test_a_context_tells_trace_span_and_decision(flags: str, sampled: bool) -> None:
    assert read_traceparent(f"00-{TRACE}-{SPAN}-{flags}") == Parent(int(TRACE, 16), int(SPAN, 16), sampled)


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
    ],
)
def test_what_the_standard_calls_invalid_is_ignored(text: str) -> None:
    assert read_traceparent(text) is None


def test_each_attempt_has_a_span_of_its_own_in_the_same_trace() -> None:
    trace = Trace(int(TRACE, 16), int(SPAN, 16))
    first, second = (read_traceparent(trace.traceparent(number)) for number in (0, 1))
    assert first == Parent(trace.id, trace.attempt(0), True)
    assert second == Parent(trace.id, trace.attempt(1), True)
    assert len({trace.span, trace.attempt(0), trace.attempt(1)}) == 3


def test_no_attempt_has_the_id_that_means_none() -> None:
    trace = Trace(1, 2**64 - 1)
    assert trace.attempt(0) != 0
    assert read_traceparent(trace.traceparent(0)) is not None
