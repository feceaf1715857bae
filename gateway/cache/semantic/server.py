"""The nearest questions on a server that searches, and the choice between it and this process."""

import logging
import math
import time
from collections.abc import Callable
from typing import Final

from prometheus_client import Gauge
from redis.exceptions import RedisError

from gateway.cache.semantic.local import LocalSearch
from gateway.cache.semantic.nearest import Entry, Near, Nearest, Unsearchable
from gateway.cache.semantic.queries import OFFERED, create_command, is_offered, nearest_in, search_command
from gateway.cache.semantic.question import Question
from gateway.core.job import Vectors
from gateway.valkey.connection import ValkeyAway
from gateway.valkey.sideline import SideLine

log = logging.getLogger(__name__)

# A server that offers a search and refuses ours is asked again after that.
PATIENCE_S: Final = 60.0


class ServerSearch:
    """Searches go over a line of their own: whatever they take, nothing else waits behind them.

    `cluster`: a search must be one of all nodes. `clock`: monotonic seconds.
    """

    def __init__(self, line: SideLine, *, cluster: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._line = line
        self._cluster = cluster
        self._clock = clock
        self._indexed: set[int] = set()
        self._offered: bool | None = None
        self._again = 0.0
        self._looking = False

    @property
    def offered(self) -> bool:
        """As far as is known."""
        return bool(self._offered)

    async def look(self) -> bool:
        """Whether the server offers a search. Asked once for each connection, and some time after a refusal.

        Raises ValkeyAway.
        """
        known = self._line.connected and (self.offered or self._clock() < self._again)
        if known or self._looking:
            return self.offered
        self._looking = True
        try:
            (answer,) = await self._line.ask([OFFERED])
        finally:
            self._looking = False
        self._learn(is_offered(answer, cluster=self._cluster))
        return self.offered

    async def search(self, owner: str, question: Question, vector: Vectors, floor: float) -> list[Near]:
        """With the first search of so many dimensions goes the order to index them: the server knows, or learns.

        Raises ValkeyAway and Unsearchable.
        """
        search = search_command(owner, question, vector, self._line.timeout_ms)
        create = [] if len(vector) in self._indexed else [create_command(len(vector))]
        *created, found = await self._line.ask([*create, search])
        if isinstance(found, RedisError):
            self._failed(len(vector), created, found)
            raise Unsearchable from found
        self._indexed.add(len(vector))
        return nearest_in(found, owner, question, floor)

    def _learn(self, offered: bool) -> None:
        """A new connection may be to another server, or to one that has lost its indexes."""
        self._indexed.clear()
        self._again = math.inf
        if offered != self._offered:
            log.info("the nearest questions are %s", "found by the server" if offered else "not found by the server")
        self._offered = offered

    def _failed(self, dimensions: int, created: list[object], error: RedisError) -> None:
        """An index that was there before may be lost: the next search makes it again."""
        if not created:
            self._indexed.discard(dimensions)
            return
        self._offered, self._again = False, self._clock() + PATIENCE_S
        log.warning("the server refuses to search for questions: %s (to FT.CREATE it said %s)", error, created[0])


class OfferedSearch:
    """On the server if it offers a search, else `local`; without that, nowhere. `by_server`: 1 while it is there."""

    def __init__(self, server: ServerSearch, local: LocalSearch | None, by_server: Gauge) -> None:
        self._server = server
        self._local = local
        by_server.set_function(lambda: float(server.offered))

    async def prepare(self, owner: str) -> None:
        if not await self._server.look():
            await self._fallback.prepare(owner)
        elif self._local is not None and self._local.size:
            self._local.forget_all()

    async def search(self, owner: str, question: Question, vector: Vectors, floor: float) -> list[Near]:
        place = self._server if self._server.offered else self._fallback
        return await place.search(owner, question, vector, floor)

    def used(self, entry: Entry) -> None:
        if self._local is not None:
            self._local.used(entry)

    def gone(self, entry: Entry) -> None:
        """On the server a question goes with its answer."""
        if self._local is not None:
            self._local.gone(entry)

    async def run(self) -> None:
        """Look before anybody asks."""
        try:
            if not await self._server.look() and self._local is None:
                log.error("questions are not compared: they are to be searched by the server, which does not offer it")
        except ValkeyAway:
            log.info("whether the server searches is not known yet: Valkey does not answer")
        if self._local is not None:
            await self._local.run()

    @property
    def _fallback(self) -> Nearest:
        """Raises Unsearchable."""
        if self._local is None:
            raise Unsearchable
        return self._local
