"""Adaptive chunking: how many tokens one response carries.

Each Triton response costs the same however many tokens it holds, and an ensemble passes a few thousand a second. The
first token goes out at once; after that each stream waits `active streams ÷ responses_per_second` between responses,
and never longer than `max_delay`. With few streams every token goes out alone.
"""

from dataclasses import dataclass

from python_backends.llm.engine import EngineOutput
from python_backends.messages import TokenLogprob


@dataclass(frozen=True)
class Chunking:
    """`responses_per_second`: of all streams together. `max_delay`: seconds that text may wait."""

    responses_per_second: float = 1500.0
    max_delay: float = 0.1

    def interval(self, active_streams: int) -> float:
        """Seconds between two responses of one stream."""
        return min(active_streams / self.responses_per_second, self.max_delay)


class Folder:
    """Outputs of one request that have not gone out yet, at most one for each choice."""

    def __init__(self) -> None:
        self._pending: dict[int, EngineOutput] = {}
        self._next_at = 0.0

    def add(self, output: EngineOutput) -> None:
        earlier = self._pending.get(output.index)
        self._pending[output.index] = output if earlier is None else _fold(earlier, output)

    def wait(self, now: float) -> float:
        """Seconds until the next response may go out; a finished choice waits for nothing."""
        if any(output.finish for output in self._pending.values()):
            return 0.0
        return max(0.0, self._next_at - now)

    def take(self, now: float, interval: float) -> list[EngineOutput]:
        """Everything pending, the last output of the request at the end; the next may go out `interval` later."""
        taken = sorted(self._pending.values(), key=lambda output: output.last)
        self._pending = {}
        self._next_at = now + interval
        return taken


def _fold(first: EngineOutput, second: EngineOutput) -> EngineOutput:
    return EngineOutput(
        index=first.index,
        token_ids=first.token_ids + second.token_ids,
        text=first.text + second.text,
        logprobs=_joined(first.logprobs, second.logprobs),
        prompt_logprobs=first.prompt_logprobs,
        finish=second.finish,
        last=second.last,
        cached_tokens=second.cached_tokens,
        timings=second.timings,
    )


def _joined(first: list[TokenLogprob] | None, second: list[TokenLogprob] | None) -> list[TokenLogprob] | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second
