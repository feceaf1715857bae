"""The nearest questions in this process: an index, and what is read into it from Valkey."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from gateway.cache.semantic.index import Index, top_rows
from gateway.cache.semantic.nearest import Entry, Near
from gateway.cache.semantic.question import Question, decode_question
from gateway.cache.settings import CacheSettings
from gateway.cache.shelf import FROM_THE_START, Asked, Shelf
from gateway.core.job import Vectors
from gateway.valkey.connection import ValkeyAway

log = logging.getLogger(__name__)


class Threads(Protocol):
    def run(self, size: int, work: Callable[..., list[int]], *arguments: Any) -> Awaitable[list[int]]:
        """In a thread, if there is much to do."""


class LocalSearch:
    """Each look reads what is new. `threads`: for indexes of many rows. `clock`: Unix seconds."""

    def __init__(self, shelf: Shelf, threads: Threads, settings: CacheSettings, clock: Callable[[], float]) -> None:
        self._shelf = shelf
        self._threads = threads
        self._settings = settings
        self._clock = clock
        self._behind: set[str] = set()
        self._news = asyncio.Event()
        self.forget_all()

    @property
    def size(self) -> int:
        return self._index.size

    def forget_all(self) -> None:
        """It is read again when it is needed again."""
        self._index = Index(self._settings.semantic_entries, self._settings.semantic_tenant_entries)
        self._known: dict[str, bytes] = {}
        self._behind.clear()

    async def prepare(self, owner: str) -> None:
        """One page of what is new, the rest by `run`. Raises ValkeyAway."""
        news = await self._shelf.asked(owner, self._known.get(owner, FROM_THE_START))
        self._take(owner, news)
        if news.more:
            self._behind.add(owner)
            self._news.set()

    async def search(self, owner: str, question: Question, vector: Vectors, floor: float) -> list[Near]:
        matrix = self._index.matrix(owner, question.partition)
        if matrix is None:
            return []
        rows = await self._threads.run(len(matrix), top_rows, matrix, vector, floor)
        return list(self._index.near(owner, question, vector, rows, floor))

    def used(self, entry: Entry) -> None:
        self._index.touch(entry)

    def gone(self, entry: Entry) -> None:
        self._index.drop(entry.owner, entry.name)

    async def run(self) -> None:
        """Until cancelled: read what was asked at other gateways, or before this one began, where there is much."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._behind:
                owner = self._behind.pop()
                try:
                    await self.prepare(owner)
                except ValkeyAway:
                    log.info("the questions of %s cannot be read now: Valkey does not answer", owner)

    def _take(self, owner: str, news: Asked) -> None:
        self._known[owner] = max(self._known.get(owner, FROM_THE_START), news.until, key=int)
        for name, stored in news.questions:
            try:
                question, vector, until = decode_question(stored)
            except ValueError as error:
                log.warning("a stored question makes no sense and is left out: %s", error)
                continue
            if until > self._clock():
                self._index.put(owner, name, question, vector, until)
