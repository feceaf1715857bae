"""Copies of requests for an arm that is being tried out: shadow traffic.

A copy is sent when its original has ended, so that it can neither delay nor change it, and nobody gets its answer. What
there is no room for is not copied. A copy is never tried again, asks no limits, and its tokens are nobody's.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from msgspec.structs import replace
from prometheus_client import Counter

from gateway.core.call import Call
from gateway.core.job import Backend, Chunk, GenerationJob
from gateway.core.limit import TimeLimit
from gateway.core.mirrored import Mirrored, Pace
from gateway.core.ports import Reply
from gateway.core.snapshot import Arm, Mirror
from gateway.errors import BackendFailed, BackendTimeout, GatewayError
from gateway.mirroring.answers import same
from gateway.mirroring.settings import MirrorSettings
from gateway.telemetry.metrics import UNKNOWN
from gateway.telemetry.tasks import Tasks

# Failures of an original that a copy can be compared with; all others are the client's doing.
_FAILURES: Final = (BackendFailed, BackendTimeout)
# When the engine has finished, the client has yet to get the end of its answer.
AFTER_S: Final = 0.02
Room = Literal["busy", "unavailable"]


class Engine(Protocol):
    async def run(self, call: Call, job: GenerationJob, backend: Backend, reply: Reply[Chunk]) -> None: ...


class Shadowing(Protocol):
    def mirror_of(self, call: Call) -> Mirror | None:
        """Where copies of such calls go, if anywhere."""

    def room_for(self, call: Call, arm: Arm, most: float) -> Room | None:
        """Why none of its backends can take a copy now: without one that is less full than `most` it is busy."""

    def lease_copy(self, call: Call, arm: Arm) -> AbstractAsyncContextManager[Backend]:
        """Raises GatewayError. How it ends is not held against the backend."""


class Writing(Protocol):
    def entry(self, call: Call) -> AbstractContextManager[None]: ...


class Threads(Protocol):
    def run(self, size: int, work: Callable[..., bool], *arguments: Any) -> Awaitable[bool]:
        """In a thread, if there is much to do."""


@dataclass(slots=True)
class _Kept:
    """A reply that remembers what it sent on, and an end for answers that nobody gets."""

    reply: Reply[Chunk] | None
    pieces: list[bytes] | None

    async def send(self, piece: Chunk) -> None:
        if self.reply is not None:
            await self.reply.send(piece)
        if self.pieces is not None:
            self.pieces.append(piece.choice)

    async def finish(self) -> None:
        """Whoever began it finishes it."""


class Mirroring:
    """An engine that has some of its work done twice. `closing`: nothing is begun any more.

    `random_share`: in [0, 1[.
    """

    def __init__(
        self,
        engine: Engine,
        shadows: Shadowing,
        ledger: Writing,
        settings: MirrorSettings,
        *,
        threads: Threads,
        outcomes: Counter,
        closing: Callable[[], bool],
        random_share: Callable[[], float] = random.random,
    ) -> None:
        self._engine = engine
        self._shadows = shadows
        self._ledger = ledger
        self._settings = settings
        self._threads = threads
        self._outcomes = outcomes
        self._closing = closing
        self._random_share = random_share
        self._excluded = frozenset(settings.exclude_tenants or ())
        self._tasks = Tasks()
        self._running = 0

    async def run(self, call: Call, job: GenerationJob, backend: Backend, reply: Reply[Chunk]) -> None:
        """Raises GatewayError: the original's."""
        mirror = self._shadows.mirror_of(call)
        if mirror is None or call.retries or not self._wanted(call, mirror):
            await self._engine.run(call, job, backend, reply)
            return
        began = time.monotonic()
        kept = _Kept(reply, [] if _greedy(job) else None)
        try:
            await self._engine.run(call, job, backend, kept if kept.pieces is not None else reply)
        except _FAILURES:
            self._begin(call, job, mirror, pace_of(call, began, failed=True), None)
            raise
        self._begin(call, job, mirror, pace_of(call, began), kept.pieces)

    async def close(self) -> None:
        """End all copies at once."""
        await self._tasks.close(0.0)

    def _wanted(self, call: Call, mirror: Mirror) -> bool:
        tenant = call.caller.tenant if call.caller is not None else ""
        return (
            tenant not in self._excluded
            and tenant not in mirror.exclude
            and self._random_share() < mirror.fraction
            and not self._closing()
        )

    def _begin(
        self, call: Call, job: GenerationJob, mirror: Mirror, original: Pace, pieces: list[bytes] | None
    ) -> None:
        """Never waits, never raises."""
        full = self._running >= self._settings.concurrent
        dropped = "full" if full else self._shadows.room_for(call, mirror.arm, self._settings.max_saturation)
        if dropped is not None:
            self._count(call, dropped)
            return
        copy = copy_of(call, mirror, original, self._settings.deadline_s)
        self._running += 1
        self._tasks.spawn(f"mirror {call.id}", self._mirror(copy, job, mirror.arm, pieces))

    async def _mirror(self, copy: Call, job: GenerationJob, arm: Arm, pieces: list[bytes] | None) -> None:
        outcome = "cancelled"
        try:
            with self._ledger.entry(copy):
                await self._play(copy, job, arm, pieces)
            outcome = "ok"
        except GatewayError:
            outcome = "failed"
        finally:
            self._running -= 1
            self._count(copy, outcome)

    async def _play(self, copy: Call, job: GenerationJob, arm: Arm, pieces: list[bytes] | None) -> None:
        """Raises GatewayError."""
        mirrored, began = copy.mirrored, time.monotonic()
        if mirrored is None:
            return
        kept = _Kept(None, None if pieces is None else [])
        await asyncio.sleep(AFTER_S)
        async with copy.limit, self._shadows.lease_copy(copy, arm) as backend:
            began = time.monotonic()
            try:
                await self._engine.run(copy, job, backend, kept)
            finally:
                copy.mirrored = replace(mirrored, copy=pace_of(copy, began, failed=True))
        equal = None
        if pieces is not None and kept.pieces is not None:
            equal = await self._threads.run(sum(map(len, pieces)), same, pieces, kept.pieces)
        copy.mirrored = replace(mirrored, copy=pace_of(copy, began), same=equal)

    def _count(self, call: Call, outcome: str) -> None:
        self._outcomes.labels(call.model.name if call.model else UNKNOWN, outcome).inc()


def copy_of(call: Call, mirror: Mirror, original: Pace, deadline_s: float) -> Call:
    """Of the same caller, for the ledger's sake; in the least urgent class, whatever the original's was."""
    return Call(
        id=call.id,
        uid=secrets.token_hex(16),
        route=call.route,
        limit=TimeLimit(deadline_s),
        priority_class="batch",
        size=call.size,
        stream=call.stream,
        caller=call.caller,
        model=call.model,
        cost=call.cost,
        prompt_cost=call.prompt_cost,
        answers=call.answers,
        prompt_ids=call.prompt_ids,
        mirrored=Mirrored(mirror.id, call.uid, call.arm, original, Pace(failed=True)),
    )


def pace_of(call: Call, began: float, *, failed: bool = False) -> Pace:
    """`began`: when its backend got it, monotonic seconds."""
    first, last, tokens = call.first_token_at, call.last_token_at, call.usage.completion
    if first is None or last is None:
        return Pace(failed=failed)
    between = round((last - first) * 1000 / (call.tokens_seen - 1), 3) if call.tokens_seen > 1 else None
    return Pace(failed, round((first - began) * 1000, 3), between, tokens)


def _greedy(job: GenerationJob) -> bool:
    """Its answer is the likeliest one, whoever computes it."""
    return job.body.temperature == 0
