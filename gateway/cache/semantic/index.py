"""The nearest among the questions that were asked of the same thing. Pure, and bounded."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from gateway.cache.semantic.nearest import NEAREST, Entry, Near
from gateway.cache.semantic.question import Question
from gateway.core.job import Vectors

FIRST_ROWS: Final = 1


@dataclass(frozen=True, slots=True)
class _Placed:
    entry: Entry
    row: int


class _Partition:
    """FP32[rows, dimensions]: one row for each entry, which stays where it is; rows of zeros are free.

    `used`: beyond that, none ever was taken.
    """

    def __init__(self, dimensions: int) -> None:
        self.matrix = np.zeros((FIRST_ROWS, dimensions), dtype=np.float32)
        self.entries: list[Entry | None] = [None] * FIRST_ROWS
        self.free = list(reversed(range(FIRST_ROWS)))
        self.used = 0

    def take_row(self) -> int:
        if not self.free:
            rows = len(self.entries)
            self.matrix = np.vstack([self.matrix, np.zeros_like(self.matrix)])
            self.entries.extend([None] * rows)
            self.free.extend(reversed(range(rows, 2 * rows)))
        row = self.free.pop()
        self.used = max(self.used, row + 1)
        return row


class Index:
    """`most`: entries in all, `most_of_owner`: of one owner; what was of no use for longest goes first, from the owner
    itself or from whoever has most.
    """

    def __init__(self, most: int, most_of_owner: int) -> None:
        self._most = most
        self._most_of_owner = most_of_owner
        self._partitions: dict[tuple[str, str], _Partition] = {}
        self._owners: dict[str, OrderedDict[str, _Placed]] = {}
        self.size = 0

    def put(self, owner: str, name: str, question: Question, vector: Vectors, until: float) -> None:
        """`vector`: of length 1. One of other dimensions than its neighbours is left out."""
        self.drop(owner, name)
        partition = self._partitions.setdefault((owner, question.partition), _Partition(len(vector)))
        if partition.matrix.shape[1] != len(vector):
            return
        row = partition.take_row()
        partition.matrix[row] = vector
        partition.entries[row] = entry = Entry(owner, name, question, until)
        self._owners.setdefault(owner, OrderedDict())[name] = _Placed(entry, row)
        self.size += 1
        while self.size > self._most or len(self._owners[owner]) > self._most_of_owner:
            self._evict(owner)

    def drop(self, owner: str, name: str) -> None:
        """Nothing if it is not there."""
        entries = self._owners.get(owner)
        placed = entries.pop(name, None) if entries is not None else None
        if entries is None or placed is None:
            return
        place = (owner, placed.entry.question.partition)
        partition = self._partitions[place]
        partition.matrix[placed.row] = 0
        partition.entries[placed.row] = None
        partition.free.append(placed.row)
        self.size -= 1
        if len(partition.free) == len(partition.entries):
            del self._partitions[place]
        if not entries:
            del self._owners[owner]

    def touch(self, entry: Entry) -> None:
        """It was of use."""
        entries = self._owners.get(entry.owner)
        if entries is not None and entry.name in entries:
            entries.move_to_end(entry.name)

    def matrix(self, owner: str, partition: str) -> Vectors | None:
        """To search with `top_rows`, in a thread too: rows that change meanwhile are checked by `near`."""
        found = self._partitions.get((owner, partition))
        return None if found is None else found.matrix[: found.used]

    def near(self, owner: str, question: Question, vector: Vectors, rows: list[int], floor: float) -> Iterator[Near]:
        """What stands in these rows now, if it still is as near as `floor`."""
        partition = self._partitions.get((owner, question.partition))
        for row in rows if partition is not None else ():
            entry = partition.entries[row] if partition is not None else None
            if partition is None or entry is None or partition.matrix.shape[1] != len(vector):
                continue
            similarity = float(partition.matrix[row] @ vector)
            if similarity >= floor:
                yield Near(similarity, entry)

    def _evict(self, owner: str) -> None:
        full = len(self._owners[owner]) > self._most_of_owner
        loser = owner if full else max(self._owners, key=lambda one: len(self._owners[one]))
        self.drop(loser, next(iter(self._owners[loser])))


def top_rows(matrix: Vectors, vector: Vectors, floor: float) -> list[int]:
    """The nearest rows that are as near as `floor`, the nearest first."""
    if matrix.shape[1] != len(vector):
        return []
    similarities = matrix @ vector
    (rows,) = np.nonzero(similarities >= floor)
    return [int(row) for row in rows[np.argsort(-similarities[rows], kind="stable")][:NEAREST]]
