"""W3C trace context (https://www.w3.org/TR/trace-context/): which trace a call belongs to."""

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED: Final = 0x01
_SPAN_IDS: Final = 1 << 64


class Parent(NamedTuple):
    """The client's span, and whether it is recorded."""

    trace: int
    span: int
    sampled: bool


def read_traceparent(text: str) -> Parent | None:
    """None for what is no valid context: it is ignored, as the standard wants it."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    trace, span, flags = (int(one, 16) for one in found.groups())
    return Parent(trace, span, bool(flags & _SAMPLED))


@dataclass(frozen=True, slots=True)
class Trace:
    """A call whose spans are recorded. `span`: of the whole call; `parent`: None where the trace begins here.

    The ids of the attempts at backends follow that of the call: a backend must know its parent before anything is
    recorded.
    """

    id: int
    span: int
    parent: int | None = None

    def attempt(self, number: int) -> int:
        """The id of its span; never 0, which means none."""
        return (self.span + 1 + number) % _SPAN_IDS or 1

    def traceparent(self, number: int) -> str:
        """What the backend of that attempt is told."""
        return f"00-{self.id:032x}-{self.attempt(number):016x}-{_SAMPLED:02x}"
