"""The same question in other words: found by its embedding, given only if the words agree.

The embedding is asked of the ensemble `plan`, within a bounded time; without one the request is computed as ever. Where
the nearest questions are found is no matter here (`nearest`); the answer lies in one place, under its exact key, and
what is not there any more is not given: a purge, an end of its time and an eviction hold for other words too.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.cache.answers import Answer
from gateway.cache.keys import Place
from gateway.cache.policy import Terms
from gateway.cache.semantic.guards import objection
from gateway.cache.semantic.nearest import Near, Nearest, Unsearchable
from gateway.cache.semantic.question import Question, Stored, Unfit, encode_question, question_in, unit
from gateway.cache.settings import CacheSettings
from gateway.cache.shelf import NO_QUESTION, Shelf
from gateway.core.call import Call
from gateway.core.job import GenerationJob, Planned, Vectors
from gateway.errors import GatewayError
from gateway.telemetry.metrics import Metrics
from gateway.valkey.connection import ValkeyAway

SIMILARITY: Final = "x-cache-similarity"
# So many answers are fetched for one request; mostly the first is there.
FETCHES: Final = 2


class Planning(Protocol):
    async def plan(self, call: Call, text: str, timeout_s: float | None = None) -> Planned:
        """Raises GatewayError within a bounded time."""
        ...


@dataclass(frozen=True, slots=True)
class Other:
    """The answer to a question in other words."""

    answer: Answer
    similarity: float


class Semantic:
    """`encoder`: name of the model whose embeddings `plans` gives; without a threshold of its own nothing is compared.

    `today`: the date, as templates of prompts may write it. `clock`: Unix seconds.
    """

    def __init__(
        self,
        shelf: Shelf,
        plans: Planning,
        nearest: Nearest,
        settings: CacheSettings,
        metrics: Metrics,
        *,
        encoder: str | None,
        today: Callable[[], str] = lambda: time.strftime("%Y-%m-%d"),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._shelf = shelf
        self._plans = plans
        self._nearest = nearest
        self._settings = settings
        self._encoder = encoder or ""
        self._floor = settings.threshold(self._encoder)
        self._today = today
        self._clock = clock
        self._outcomes = metrics.cache_semantic.labels
        self._seconds = metrics.cache_semantic_seconds.observe

    def question(self, call: Call, job: GenerationJob, identity: str, terms: Terms) -> Question | None:
        """What `call` asks, if the answer to other words may be given to it."""
        found = self._question(call, job, identity, terms)
        if isinstance(found, Question):
            return found
        self._outcomes("bypass", found).inc()
        return None

    async def find(
        self, call: Call, place: Place, question: Question, welcomes: Callable[[Answer], bool]
    ) -> Other | None:
        """Leaves the embedding in `call.planned`. None if there is nothing, and where anything fails."""
        try:
            await self._nearest.prepare(place.owner)
            planned = await self._plans.plan(call, question.text, self._settings.semantic_timeout_s)
            nearest = await self._search(place.owner, question, unit(planned.embedding))
        except (ValkeyAway, Unsearchable, GatewayError, ValueError) as error:
            self._outcomes("skipped", _why(error)).inc()
            return None
        return await self._first(question, nearest, welcomes)

    def stored_form(self, owner: str, question: Question, call: Call, ttl_s: float) -> Stored:
        """For the shelf: nothing unless there is an embedding."""
        if call.planned is None:
            return NO_QUESTION
        return encode_question(owner, question, call.planned.embedding, self._clock() + ttl_s)

    def _question(self, call: Call, job: GenerationJob, identity: str, terms: Terms) -> Question | Unfit | str:
        if self._floor is None or self._settings.scope == "shared":
            return "encoder" if self._floor is None else "shared"
        if call.caller is None or call.model is None:
            return "form"
        return question_in(
            job,
            call.caller,
            call.model,
            identity,
            settings=self._settings,
            terms=terms,
            encoder=self._encoder,
            day=self._today(),
        )

    async def _search(self, owner: str, question: Question, vector: Vectors) -> list[Near]:
        """Raises ValkeyAway and Unsearchable."""
        if self._floor is None:
            return []
        began = time.perf_counter()
        nearest = await self._nearest.search(owner, question, vector, self._floor)
        self._seconds(time.perf_counter() - began)
        return nearest

    async def _first(self, question: Question, nearest: list[Near], welcomes: Callable[[Answer], bool]) -> Other | None:
        """The nearest that asks the same, and whose answer there still is."""
        fetched, problem = 0, ""
        for near in nearest:
            entry = near.entry
            if entry.until <= self._clock():
                self._nearest.gone(entry)
                continue
            against = objection(question.text, entry.question.text)
            if against is not None:
                problem = problem or against
                continue
            answer = (await self._shelf.find(Place(entry.owner, entry.name), make=False)).answer
            if answer is None:
                self._nearest.gone(entry)
            elif welcomes(answer):
                self._nearest.used(entry)
                self._outcomes("hit", "").inc()
                return Other(answer, near.similarity)
            fetched += 1
            if fetched == FETCHES:
                break
        outcome = "gone" if fetched else "guarded" if problem else "far"
        self._outcomes(outcome, problem if outcome == "guarded" else "").inc()
        return None


def _why(error: ValkeyAway | Unsearchable | GatewayError | ValueError) -> str:
    """`vector`: the embedding has no direction."""
    if isinstance(error, GatewayError):
        return error.code
    return "valkey" if isinstance(error, ValkeyAway) else "search" if isinstance(error, Unsearchable) else "vector"
