"""An answer as it is kept: the pieces in which it came, so that it can come so again."""

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.core.call import Call, Usage
from gateway.core.job import Chunk

# What an answer may end with to be complete; whatever else it ends with is a failure of some kind.
ENDS: Final = frozenset({"stop", "length", "tool_calls", "function_call"})
Counts = tuple[int, int, int]


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """`at`: Unix seconds of its end. `counts`: tokens of the prompt, of the answer, and of the prompt's those that were
    not computed. `chunks`: JSON of a choice, and its tokens.
    """

    at: float
    model_version: str | None
    counts: Counts
    chunks: list[tuple[bytes, int]]

    @property
    def usage(self) -> Usage:
        return Usage(*self.counts)

    def of_prompt(self, tokens: int) -> "Answer":
        """The same answer to another prompt of so many tokens."""
        _, completion, cached = self.counts
        return msgspec.structs.replace(self, counts=(tokens, completion, min(cached, tokens)))

    def age(self, now: float) -> float:
        """Seconds; another gateway's clock may be ahead."""
        return max(0.0, now - self.at)


class _Choice(msgspec.Struct):
    index: int
    finish_reason: str | None = None


_CHOICE: Final = msgspec.json.Decoder(_Choice)
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Answer)


def answer_of(call: Call, chunks: Sequence[Chunk], choices: int, at: float) -> Answer | None:
    """None for one that is not complete: each of the `choices` must have ended as it should."""
    ended = {choice.index for choice in map(_choice, chunks) if choice.finish_reason in ENDS}
    if len(ended) != choices:
        return None
    usage = call.usage
    counts = (usage.prompt, usage.completion, usage.cached)
    return Answer(at, call.model_version, counts, [(chunk.choice, chunk.tokens) for chunk in chunks])


def encode_answer(answer: Answer) -> bytes:
    return _ENCODER.encode(answer)


def decode_answer(stored: bytes) -> Answer:
    """Raises msgspec.DecodeError."""
    return _DECODER.decode(stored)


def _choice(chunk: Chunk) -> _Choice:
    return _CHOICE.decode(chunk.choice)
