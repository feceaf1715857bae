"""Texts that are longer than an encoder takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from python_backends.messages import Truncation
from python_backends.preprocessing.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Frame:
    """The special tokens that a tokenizer puts before and behind every text."""

    before: tuple[int, ...] = ()
    behind: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: TextTokenizer) -> "Frame":
        bare, whole = (tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return cls(tuple(whole[:start]), tuple(whole[start + len(bare) :]))
        return cls()


def truncated(ids: Sequence[int], most: int, truncate: Truncation, frame: Frame) -> list[int]:
    """At most `most` ids, without some of the text's end or its start; its frame, where it has one, stays whole."""
    if len(ids) <= most or truncate == "none":
        return [*ids]
    before, behind = list(frame.before), list(frame.behind)
    framed = list(ids[: len(before)]) == before and list(ids[len(ids) - len(behind) :]) == behind
    if not framed or len(before) + len(behind) >= most:
        before, behind = [], []
    text = ids[len(before) : len(ids) - len(behind)]
    room = most - len(before) - len(behind)
    return [*before, *(text[:room] if truncate == "end" else text[len(text) - room :]), *behind]
