"""Answers that this gateway keeps by itself for a moment: what is asked again and again needs no round trip."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.cache.answers import Answer
from gateway.cache.keys import Place

# What an entry takes beside its pieces; and each piece beside its bytes.
ENTRY_BYTES: Final = 600
CHUNK_BYTES: Final = 130


@dataclass(frozen=True, slots=True)
class _Kept:
    answer: Answer
    until: float
    size: int


class Memory:
    """Bounded in bytes and in seconds. Nobody tells it of purges, so its seconds are how late it is.

    `clock`: monotonic seconds.
    """

    def __init__(self, max_bytes: int, seconds: float, clock: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._clock = clock
        self._kept: OrderedDict[Place, _Kept] = OrderedDict()
        self.size = 0

    def find(self, place: Place) -> Answer | None:
        kept = self._kept.get(place)
        if kept is None:
            return None
        if self._clock() >= kept.until:
            self._drop(place)
            return None
        self._kept.move_to_end(place)
        return kept.answer

    def keep(self, place: Place, answer: Answer) -> None:
        size = ENTRY_BYTES + sum(CHUNK_BYTES + len(choice) for choice, _ in answer.chunks)
        if place in self._kept:
            self._drop(place)
        if not self._seconds or size > self._max_bytes:
            return
        self._kept[place] = _Kept(answer, self._clock() + self._seconds, size)
        self.size += size
        while self.size > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def forget(self, owner: str, prefix: str) -> None:
        """Everything of `owner` whose name begins so."""
        for place in [one for one in self._kept if one.owner == owner and one.name.startswith(prefix)]:
            self._drop(place)

    def _drop(self, place: Place) -> None:
        self.size -= self._kept.pop(place).size
