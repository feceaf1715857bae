"""Engine events → deltas, with the state of every stream between its first and last event."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from python_backends.messages import Delta, ErrorBody, Event, Postprocessing, TokenLogprob, Tokens
from python_backends.postprocessing.choices import Choice
from python_backends.postprocessing.errors import StreamError
from python_backends.postprocessing.grammar import Grammars

IDLE_SECONDS = 3600.0
SWEEP_EVERY = 10_000


@dataclass(slots=True)
class _Stream:
    post: Postprocessing
    choices: dict[int, Choice]
    touched: float
    prompt_logprobs: list[TokenLogprob | None] | None = None
    failure: ErrorBody | None = None


class DeltaWriter:
    """Turns events of any number of interleaved streams into deltas.

    A stream whose last event never came (its engine died) is forgotten after an hour without events. One whose answer
    was not what was asked for fails with that event and all that follow: the engine does not know of it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._streams: dict[int, _Stream] = {}
        self._decoder = msgspec.json.Decoder(Event)
        self._encoder = msgspec.json.Encoder()
        self._grammars = Grammars()
        self._events = 0

    def __len__(self) -> int:
        return len(self._streams)

    def write(self, token_count: int, text: bytes, event_json: bytes) -> bytes:
        """One engine response as one Delta (JSON). Raises StreamError where the stream ends with an error."""
        event = self._decoder.decode(event_json)
        if event.error is not None:
            self._streams.pop(event.stream, None)
            raise StreamError(event.error)
        now = self._clock()
        self._sweep(now)
        stream = self._stream(event, now)
        try:
            choice, element = self._fed(stream, event, token_count, text)
        finally:
            if event.usage is not None:
                self._streams.pop(event.stream, None)
        return self._encoder.encode(
            Delta(
                choice=msgspec.Raw(self._encoder.encode(element)),
                tokens=token_count,
                usage=_billed(event.usage, stream.post),
                timings=event.timings,
                grammar=choice.outcome if element["finish_reason"] else None,
            )
        )

    def _fed(self, stream: _Stream, event: Event, token_count: int, text: bytes) -> tuple[Choice, dict[str, Any]]:
        """The event's choice, and what it says now. Raises StreamError."""
        if stream.failure is not None:
            raise StreamError(stream.failure)
        try:
            choice = stream.choices.get(event.index)
            if choice is None:
                verifier = self._grammars.verifier(stream.post.grammar, close=stream.post.close)
                choice = stream.choices[event.index] = Choice(event.index, stream.post, verifier)
                choice.begin(stream.prompt_logprobs)
            return choice, choice.feed(token_count, text, event)
        except StreamError as error:
            stream.failure = error.body
            raise

    def _stream(self, event: Event, now: float) -> _Stream:
        stream = self._streams.get(event.stream)
        if stream is None or event.post is not None:
            stream = self._streams[event.stream] = _Stream(event.post or Postprocessing(), {}, now)
        stream.prompt_logprobs = event.prompt_logprobs or stream.prompt_logprobs
        stream.touched = now
        return stream

    def _sweep(self, now: float) -> None:
        self._events += 1
        if self._events % SWEEP_EVERY == 0:
            self._streams = {n: s for n, s in self._streams.items() if now - s.touched < IDLE_SECONDS}


def _billed(usage: Tokens | None, post: Postprocessing) -> Tokens | None:
    """The engine must generate a token to score a prompt; nobody asked for it."""
    if usage is None or not post.echo_only:
        return usage
    return Tokens(prompt=usage.prompt, completion=0, cached=usage.cached)
