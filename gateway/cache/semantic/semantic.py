"""The same question in other words: found by its embedding, given only if the words agree.

The embedding is asked of the ensemble `plan`, within a bounded time; without one the request is computed as ever. The
index of this process holds vectors and texts; the answer lies in one place, under its exact key, and what is not there
any more is not given: a purge, an end of its time and an eviction hold for other words too.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from gateway.cache.answers import Answer
from gateway.cache.keys import Place
from gateway.cache.semantic.guards import objection
from gateway.cache.semantic.index import Index, Near, top_rows
from gateway.cache.semantic.question import Question, Unfit, decode_question, encode_question, question_in, unit
from gateway.cache.settings import CacheSettings
from gateway.cache.shelf import FROM_THE_START, NO_QUESTION, Asked, Shelf
from gateway.core.call import Call
from gateway.core.job import GenerationJob, Planned
from gateway.errors import GatewayError
from gateway.telemetry.metrics import Metrics
from gateway.valkey.connection import ValkeyAway

log = logging.getLogger(__name__)

SIMILARITY: Final = "x-cache-similarity"
# So many answers are fetched for one request; mostly the first is there.
FETCHES: Final = 2


class Planning(Protocol):
    async def plan(self, call: Call, text: str, timeout_s: float | None = None) -> Planned:
        """Raises GatewayError within a bounded time."""
        ...


class Threads(Protocol):
    def run(self, size: int, work: Callable[..., list[int]], *arguments: Any) -> Awaitable[list[int]]:
        """In a thread, if there is much to do."""


@dataclass(frozen=True, slots=True)
class Other:
    """The answer to a question in other words."""

    answer: Answer
    similarity: float


class Semantic:
    """`encoder`: name of the model whose embeddings `plans` gives; without a threshold of its own nothing is compared.

    `threads`: for indexes of many rows. `today`: the date, as templates of prompts may write it. `clock`: Unix seconds.
    """

    def __init__(
        self,
        shelf: Shelf,
        plans: Planning,
        threads: Threads,
        settings: CacheSettings,
        metrics: Metrics,
        *,
        encoder: str | None,
        today: Callable[[], str] = lambda: time.strftime("%Y-%m-%d"),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._shelf = shelf
        self._plans = plans
        self._threads = threads
        self._settings = settings
        self._encoder = encoder or ""
        self._floor = settings.threshold(self._encoder)
        self._today = today
        self._clock = clock
        self._index = Index(settings.semantic_entries, settings.semantic_tenant_entries)
        self._known: dict[str, bytes] = {}
        self._behind: set[str] = set()
        self._news = asyncio.Event()
        self._outcomes = metrics.cache_semantic.labels
        self._seconds = metrics.cache_semantic_seconds.observe
        metrics.cache_semantic_entries.set_function(lambda: self._index.size)

    def question(self, call: Call, job: GenerationJob, identity: str, *, certain: bool) -> Question | None:
        """What `call` asks, if the answer to other words may be given to it."""
        found = self._question(call, job, identity) if certain else "sampled"
        if isinstance(found, Question):
            return found
        self._outcomes("bypass", found).inc()
        return None

    async def find(
        self, call: Call, place: Place, question: Question, welcomes: Callable[[Answer], bool]
    ) -> Other | None:
        """Leaves the embedding in `call.planned`. None if there is nothing, and where anything fails."""
        try:
            await self._catch_up(place.owner)
            planned = await self._plans.plan(call, question.text, self._settings.semantic_timeout_s)
        except ValkeyAway:
            self._outcomes("skipped", "valkey").inc()
            return None
        except GatewayError as error:
            self._outcomes("skipped", error.code).inc()
            return None
        return await self._search(place.owner, question, planned, welcomes)

    def stored_form(self, question: Question, call: Call, ttl_s: float) -> bytes:
        """For the shelf: nothing unless there is an embedding."""
        if call.planned is None:
            return NO_QUESTION
        return encode_question(question, call.planned.embedding, self._clock() + ttl_s)

    async def rebuild(self) -> None:
        """Until cancelled: read what was asked at other gateways, or before this one began, where there is much."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._behind:
                owner = self._behind.pop()
                try:
                    await self._catch_up(owner)
                except ValkeyAway:
                    log.info("the questions of %s cannot be read now: Valkey does not answer", owner)

    def _question(self, call: Call, job: GenerationJob, identity: str) -> Question | Unfit | str:
        if self._floor is None or self._settings.scope == "shared":
            return "encoder" if self._floor is None else "shared"
        if call.caller is None or call.model is None:
            return "form"
        return question_in(
            job, call.caller, call.model, identity, self._settings, encoder=self._encoder, day=self._today()
        )

    async def _catch_up(self, owner: str) -> None:
        """One page of what is new, the rest by `rebuild`. Raises ValkeyAway."""
        news = await self._shelf.asked(owner, self._known.get(owner, FROM_THE_START))
        self._take(owner, news)
        if news.more:
            self._behind.add(owner)
            self._news.set()

    def _take(self, owner: str, news: Asked) -> None:
        self._known[owner] = max(self._known.get(owner, FROM_THE_START), news.until, key=int)
        for name, stored in news.questions:
            try:
                question, vector, until = decode_question(stored)
            except (msgspec.DecodeError, ValueError) as error:
                log.warning("a stored question makes no sense and is left out: %s", error)
                continue
            if until > self._clock():
                self._index.put(owner, name, question, vector, until)

    async def _search(
        self, owner: str, question: Question, planned: Planned, welcomes: Callable[[Answer], bool]
    ) -> Other | None:
        began = time.perf_counter()
        matrix, floor = self._index.matrix(owner, question.partition), self._floor
        if matrix is None or floor is None:
            self._outcomes("far", "").inc()
            return None
        try:
            vector = unit(planned.embedding)
        except ValueError:
            self._outcomes("skipped", "vector").inc()
            return None
        rows = await self._threads.run(len(matrix), top_rows, matrix, vector, floor)
        nearest = list(self._index.near(owner, question, vector, rows, floor))
        self._seconds(time.perf_counter() - began)
        return await self._first(question, nearest, welcomes)

    async def _first(self, question: Question, nearest: list[Near], welcomes: Callable[[Answer], bool]) -> Other | None:
        """The nearest that asks the same, and whose answer there still is."""
        fetched, problem = 0, ""
        for near in nearest:
            entry = near.entry
            if entry.until <= self._clock():
                self._index.drop(entry.owner, entry.name)
                continue
            against = objection(question.text, entry.question.text)
            if against is not None:
                problem = problem or against
                continue
            answer = (await self._shelf.find(Place(entry.owner, entry.name), make=False)).answer
            if answer is None:
                self._index.drop(entry.owner, entry.name)
            elif welcomes(answer):
                self._index.touch(entry)
                self._outcomes("hit", "").inc()
                return Other(answer, near.similarity)
            fetched += 1
            if fetched == FETCHES:
                break
        outcome = "gone" if fetched else "guarded" if problem else "far"
        self._outcomes(outcome, problem if outcome == "guarded" else "").inc()
        return None
