"""Server-sent events, whatever the boundaries of the pieces."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BackendFailed
from gateway.triton.events import EventSplitter

LIMIT = 1 << 20
# JSON on the wire never holds a line break; everything else may come.
payloads = st.lists(st.binary(max_size=50).map(lambda data: data.replace(b"\n", b"")), max_size=20)


@given(payloads, st.lists(st.integers(0, 1000), max_size=30))
def test_any_boundaries_give_the_same_events(events: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(b"data:" + event + b"\n\n" for event in events)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    splitter = EventSplitter(LIMIT)
    found = [event for start, end in pairwise(edges) for event in splitter.feed(stream[start:end])]
    assert found == events


def test_byte_by_byte() -> None:
    splitter = EventSplitter(LIMIT)
    stream = b'data: {"a":1}\n\ndata: {"b":2}\n\n'
    assert [event for byte in stream for event in splitter.feed(bytes([byte]))] == [b' {"a":1}', b' {"b":2}']


def test_what_is_no_data_is_passed_over() -> None:
    assert EventSplitter(LIMIT).feed(b": comment\n\nevent: x\n\ndata: 1\n\n") == [b" 1"]


def test_an_event_without_end_is_refused_before_it_fills_the_memory() -> None:
    splitter = EventSplitter(100)
    splitter.feed(b"data: " + b"x" * 90)
    with pytest.raises(BackendFailed):
        splitter.feed(b"x" * 10)
