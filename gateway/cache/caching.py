"""Do we know already? Answers that were given before, and those that are being made for somebody else."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Final

from gateway.cache.answers import Answer, answer_of
from gateway.cache.flight import Flight, FlightFailed
from gateway.cache.keys import Place, place_of
from gateway.cache.memory import Memory
from gateway.cache.policy import Bypass, Terms, terms_of
from gateway.cache.semantic.question import Question
from gateway.cache.semantic.semantic import SIMILARITY, Other, Semantic
from gateway.cache.settings import CacheSettings
from gateway.cache.shelf import NO_QUESTION, Amount, Found, Shelf
from gateway.core.call import Call, Serving, Usage
from gateway.core.freshness import Freshness
from gateway.core.job import Chunk, GenerationJob
from gateway.core.ports import Reply
from gateway.errors import InvalidRequest
from gateway.telemetry.metrics import Metrics

Compute = Callable[[Call, Reply[Chunk]], Awaitable[None]]
# None if nobody knows.
ServingOf = Callable[[Call], Serving | None]
# Who may wait for one answer: those who would take the same ones in other words wait by themselves.
Aboard = tuple[Place, Freshness | None]
AGE: Final = "age"
# So many pieces of a stored answer are sent before others get their turn.
PIECES_A_TURN: Final = 32


@dataclass(frozen=True, slots=True)
class _Case:
    """One request that may be answered from the cache."""

    call: Call
    job: GenerationJob
    reply: Reply[Chunk]
    compute: Compute
    place: Place
    terms: Terms
    arm: str
    identity: str

    def welcomes(self, answer: Answer, now: float) -> bool:
        return self.terms.freshness.welcomes(answer.age(now))

    @property
    def aboard(self) -> Aboard:
        return self.place, self.terms.freshness if self.terms.semantic else None

    @property
    def choices(self) -> int:
        return len(self.job.prompts) * self.job.body.choices


class Cache:
    """`serving_of` must tell apart whatever answers differently under one name. `limited`: whether limits ask Valkey of
    a call. `clock`: Unix seconds; `random_share`: in [0, 1[.
    """

    def __init__(
        self,
        shelf: Shelf,
        memory: Memory,
        settings: CacheSettings,
        metrics: Metrics,
        serving_of: ServingOf,
        *,
        semantic: Semantic,
        limited: Callable[[Call], bool],
        clock: Callable[[], float] = time.time,
        random_share: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._shelf = shelf
        self._memory = memory
        self._settings = settings
        self._serving_of = serving_of
        self._semantic = semantic
        self._limited = limited
        self._clock = clock
        self._random_share = random_share
        self._sleep = sleep
        self._flights: dict[Aboard, Flight] = {}
        self._outcomes = cache(metrics.cache_requests.labels)
        self._stores = cache(metrics.cache_stores.labels)
        self._lookup_seconds = metrics.cache_lookup_seconds.observe
        metrics.cache_local_bytes.set_function(lambda: memory.size)

    @contextmanager
    def answering(
        self, call: Call, job: GenerationJob, reply: Reply[Chunk], compute: Compute
    ) -> Iterator[Callable[[], Awaitable[None]]]:
        """What answers from the cache, from a flight, or by `compute`, which gets this call or one in its place.

        Where limits ask Valkey, it is asked here first, so that both are one round trip.
        """
        case = self._case(call, job, reply, compute)
        if isinstance(case, str):
            yield partial(self._bypass, call, case, reply, compute)
            return
        early = self._limited(call) and self._here(case) is None and self._flight(case) is None
        asking = asyncio.get_running_loop().create_task(self._ask(case)) if early else None
        try:
            yield partial(self._answer, case, asking)
        except BaseException:  # cancellations too
            self._abandon(case, asking)
            raise

    async def purge(self, owner: str, prefix: str) -> int:
        """How many answers of `owner` went whose names begin so; other gateways may give them for `local_s` more.

        Raises Unavailable.
        """
        gone = await self._shelf.purge(owner, prefix)
        self._memory.forget(owner, prefix)
        return gone

    async def amount(self, owner: str) -> Amount:
        """What is kept for `owner`. Raises Unavailable."""
        return await self._shelf.amount(owner)

    async def _bypass(self, call: Call, why: Bypass, reply: Reply[Chunk], compute: Compute) -> None:
        call.cache = "bypass"
        self._outcomes("bypass", why).inc()
        await compute(call, reply)

    async def _answer(self, case: _Case, asking: asyncio.Task[Found] | None) -> None:
        found = await self._look(case, asking)
        case.call.mark("cache")
        if found.answer is not None:
            await self._replay(case, found.answer)
        else:
            await self._board(case, self._flight(case) or self._begin(case, found))

    async def _look(self, case: _Case, asking: asyncio.Task[Found] | None) -> Found:
        """In this process, in Valkey, and once more in this process, where the answer may have come meanwhile."""
        here = self._here(case)
        if here is not None or (asking is None and self._flight(case) is not None):
            return Found(here)
        found = await (self._ask(case) if asking is None else asking)
        here = None if found.answer is not None else self._here(case)
        return found if here is None else replace(found, answer=here)

    def _abandon(self, case: _Case, asking: asyncio.Task[Found] | None) -> None:
        """Nobody is to wait for what may never be made. One that is still asking gives back by itself what it gets."""
        if asking is None or asking.cancel() or asking.cancelled() or case.aboard in self._flights:
            return
        found = asking.result()
        if found.answer is None and found.purges is not None:
            self._give_up(case)

    def _case(self, call: Call, job: GenerationJob, reply: Reply[Chunk], compute: Compute) -> _Case | Bypass:
        caller, model, settings = call.caller, call.model, self._settings
        if caller is None or model is None:
            return "off"
        terms = terms_of(settings, caller, call.freshness, job.body, self._random_share)
        if not isinstance(terms, Terms):
            return terms
        serving = self._serving_of(call)
        if serving is None:
            return "version"
        place = place_of(job, caller, model, serving.identity, scope=settings.scope, epoch=settings.epoch)
        return _Case(call, job, reply, compute, place, terms, serving.arm, serving.identity)

    def _here(self, case: _Case) -> Answer | None:
        answer = self._memory.find(case.place)
        return answer if answer is not None and case.welcomes(answer, self._clock()) else None

    def _flight(self, case: _Case) -> Flight | None:
        flight = self._flights.get(case.aboard) if case.terms.shared else None
        return flight if flight is not None and flight.takes(case.call) else None

    async def _ask(self, case: _Case) -> Found:
        started = time.perf_counter()
        found = await self._shelf.find(case.place, make=case.terms.shared)
        if found.purges is not None:
            self._lookup_seconds(time.perf_counter() - started)
        if found.answer is None:
            return found
        if not case.welcomes(found.answer, self._clock()):
            return Found(purges=found.purges)
        self._memory.keep(case.place, found.answer)
        return found

    async def _replay(self, case: _Case, answer: Answer) -> None:
        call = case.call
        call.cache, call.model_version = "hit-exact", answer.model_version
        call.headers[AGE] = str(int(answer.age(self._clock())))
        self._outcomes("hit-exact", "").inc()
        self._spare(call, answer.usage)
        for number, (choice, tokens) in enumerate(answer.chunks, 1):
            await case.reply.send(Chunk(choice, tokens))
            if number % PIECES_A_TURN == 0:
                await asyncio.sleep(0)

    def _begin(self, case: _Case, found: Found) -> Flight:
        flight = Flight(case.call)
        if case.terms.shared:
            self._flights[case.aboard] = flight
        flight.begin(partial(self._make, case, found))
        return flight

    async def _make(self, case: _Case, found: Found, flight: Flight) -> None:
        """In the flight's task."""
        try:
            if not found.mine:
                found = await self._shelf.await_other(case.place, self._sleep)
            if found.answer is not None:
                flight.replay(found.answer)
                self._memory.keep(case.place, found.answer)
                return
            question = self._question(case, found)
            other = await self._in_other_words(case, question, flight)
            if other is not None:
                self._give(case, other, flight)
                return
            await case.compute(flight.carrier, flight)
            self._keep(case, found, flight, question)
        except BaseException:  # cancellations too: whoever waits elsewhere is told, however it ends
            self._give_up(case)
            raise
        finally:
            if self._flights.get(case.aboard) is flight:
                del self._flights[case.aboard]

    def _question(self, case: _Case, found: Found) -> Question | None:
        """None where other words are of no use: without Valkey there are no answers to them either."""
        if not case.terms.semantic or found.purges is None:
            return None
        return self._semantic.question(case.call, case.job, case.identity, case.terms)

    async def _in_other_words(self, case: _Case, question: Question | None, flight: Flight) -> Other | None:
        if question is None or not case.terms.freshness.read:
            return None
        return await self._semantic.find(
            flight.carrier, case.place, question, lambda answer: case.welcomes(answer, self._clock())
        )

    def _give(self, case: _Case, other: Other, flight: Flight) -> None:
        """To all who wait: they ask the same, word for word. Its prompt is their own."""
        told = {AGE: str(int(other.answer.age(self._clock()))), SIMILARITY: f"{other.similarity:.3f}"}
        flight.replay(other.answer.of_prompt(sum(len(prompt.ids) for prompt in case.job.prompts)), "hit-semantic", told)
        self._give_up(case)

    def _keep(self, case: _Case, found: Found, flight: Flight, question: Question | None) -> None:
        """Not what another arm answered than that in the key: after a second attempt nobody knows which it was."""
        carrier = flight.carrier
        answer = answer_of(carrier, flight.chunks, case.choices, self._clock())
        if answer is None or carrier.retries or carrier.arm != case.arm:
            self._stores("incomplete" if answer is None else "elsewhere").inc()
            self._give_up(case)
            return
        self._memory.keep(case.place, answer)
        asked = (
            NO_QUESTION
            if question is None
            else self._semantic.stored_form(case.place.owner, question, carrier, case.terms.ttl_s)
        )
        self._shelf.keep(case.place, answer, found.purges, case.terms.ttl_s, asked)

    def _give_up(self, case: _Case) -> None:
        if case.terms.shared:
            self._shelf.release(case.place)

    async def _board(self, case: _Case, flight: Flight) -> None:
        call = case.call
        try:
            await flight.board(call, case.reply)
        except FlightFailed as failed:
            if failed.begun or flight.leads(call) or isinstance(failed.cause, InvalidRequest):
                raise failed.cause from failed.cause.__cause__
            call.cache = "miss"
            self._outcomes("miss", "leader_failed").inc()
            await case.compute(call, case.reply)
            return
        self._outcomes(call.cache or "miss", "").inc()
        if flight.spares(call):
            self._spare(call, flight.usage)

    def _spare(self, call: Call, usage: Usage) -> None:
        call.spared = usage
        if self._settings.count_tokens:
            call.usage.add(usage.prompt, usage.completion, usage.cached)
