"""A heap that things may leave from the middle."""

import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

_SLACK = 64


class Heap(Generic[Item]):
    """Smallest key first. What `gone` says has left is skipped when it comes to the top, and swept out when it is the
    larger part: leaving costs nothing, and everything else O(log n) amortized. Keys must differ.
    """

    __slots__ = ("_entries", "_gone")

    def __init__(self, gone: Callable[[Item], bool]) -> None:
        self._gone = gone
        self._entries: list[tuple[tuple[float, ...], Item]] = []

    def push(self, key: tuple[float, ...], item: Item, live: int) -> None:
        """`live`: how many are inside that have not left, this one included."""
        entries = self._entries
        if len(entries) > 2 * live + _SLACK:
            entries[:] = [entry for entry in entries if not self._gone(entry[1])]
            heapq.heapify(entries)
        heapq.heappush(entries, (key, item))

    def first(self) -> Item | None:
        entries = self._entries
        while entries:
            item = entries[0][1]
            if not self._gone(item):
                return item
            heapq.heappop(entries)
        return None

    def clear(self) -> None:
        self._entries.clear()
