"""Where the questions that are near to one are found: here, or on a server that searches."""

from dataclasses import dataclass
from typing import Final, Protocol

from gateway.cache.semantic.question import Question
from gateway.core.job import Vectors

# Of one question, so many that are near are looked at.
NEAREST: Final = 32


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """`name`: of the answer, among those of `owner`. `until`: Unix seconds, when it goes."""

    owner: str
    name: str
    question: Question
    until: float


@dataclass(frozen=True, slots=True)
class Near:
    similarity: float
    entry: Entry


class Unsearchable(Exception):  # noqa: N818 - for what is the case, like ValkeyAway
    """Nobody can say now what is near. Never leaves the cache: the request is computed."""


class Nearest(Protocol):
    async def prepare(self, owner: str) -> None:
        """Before an embedding is asked for. Raises ValkeyAway and Unsearchable where it would be of no use."""
        ...

    async def search(self, owner: str, question: Question, vector: Vectors, floor: float) -> list[Near]:
        """At most NEAREST of its owner and partition that are as near as `floor`, the nearest first.

        `vector`: of length 1. Raises ValkeyAway and Unsearchable.
        """
        ...

    def used(self, entry: Entry) -> None:
        """Its answer was given."""

    def gone(self, entry: Entry) -> None:
        """Its answer is not there any more."""

    async def run(self) -> None:
        """Until cancelled: what nobody waits for."""
