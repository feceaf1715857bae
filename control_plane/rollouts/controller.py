"""One round of work after the other: read the ledger, decide, make routing follow. All that lasts is in Valkey."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Protocol

from redis.exceptions import RedisError

from control_plane.errors import NotPossible, Raced
from control_plane.lease import Lease
from control_plane.ledger import Ledger, position_at
from control_plane.metrics import Meters
from control_plane.rollouts.commands import enforce
from control_plane.rollouts.decision import decide
from control_plane.rollouts.evidence import Evidence, Sample
from control_plane.rollouts.state import OPEN, Rollout, decided
from control_plane.rollouts.store import Checkpoint, Store
from control_plane.routing import RoutingDocument

log = logging.getLogger(__name__)

# What was read since is read again after a crash.
SAVE_EVERY_S = 5.0


class Other(Protocol):
    async def round(self, *, leading: bool) -> None:
        """What else is done in each round."""


class Controller:
    """`clock`: Unix seconds; those of the gateways should agree with it within a second or so."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger[Sample],
        routing: RoutingDocument,
        *,
        lease: Lease,
        meters: Meters,
        clock: Callable[[], float] = time.time,
        dice: Random | None = None,
        others: Sequence[Other] = (),
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._routing = routing
        self._lease = lease
        self._meters = meters
        self._clock = clock
        self._dice = dice or Random()
        self._others = others
        self._checkpoint: Checkpoint | None = None
        self._saved_at = 0.0
        self.leading = False
        self.rollouts: Sequence[Rollout] = ()
        self.worked_at: float | None = None

    async def run(self, every_s: float, most_s: float) -> None:
        """Until cancelled. `most_s`: for one round, less than the lease lasts."""
        try:
            while True:
                await self._try(most_s)
                await asyncio.sleep(every_s)
        finally:
            await self._let_go(most_s)

    async def round(self) -> None:
        """Raises RedisError, OSError, TimeoutError: then nothing is lost, and the next round does it."""
        self.leading = await self._lease.hold()
        self._meters.leader.set(self.leading)
        rollouts = await self._store.all()
        if self.leading:
            await self._read([rollout for rollout in rollouts if rollout.status in OPEN])
            rollouts = [await self._work_on(rollout) for rollout in rollouts]
        else:
            self._checkpoint = None
        self.rollouts = rollouts
        self._meters.show(rollouts)
        for other in self._others:
            await other.round(leading=self.leading)
        self.worked_at = self._clock()

    def fresh(self, within_s: float) -> bool:
        """Whether a round has succeeded within that time."""
        return self.worked_at is not None and self._clock() - self.worked_at <= within_s

    async def _try(self, most_s: float) -> None:
        try:
            async with asyncio.timeout(most_s):
                await self.round()
        except (RedisError, OSError, TimeoutError, Raced) as error:
            self._meters.ticks.labels("failed").inc()
            log.warning("this round failed: %s", error or type(error).__name__)
        else:
            self._meters.ticks.labels("done").inc()

    async def _let_go(self, most_s: float) -> None:
        try:
            async with asyncio.timeout(most_s):
                await self._lease.release()
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("the lease was not given back and ends by itself: %s", error)

    async def _read(self, rollouts: Sequence[Rollout]) -> None:
        """What the ledger has to say of these. A round that fails in here leaves nothing half counted behind."""
        checkpoint, self._checkpoint = self._checkpoint, None
        if not rollouts:
            return
        if checkpoint is None:
            checkpoint = await self._stored(rollouts)
        checkpoint.evidence = {one.id: _evidence(one, checkpoint.evidence.get(one.id)) for one in rollouts}
        async for reached, samples, number in self._ledger.batches(checkpoint.position):
            checkpoint.position = reached
            self._meters.entries.inc(number)
            self._count(rollouts, checkpoint, samples)
        if self._clock() - self._saved_at >= SAVE_EVERY_S:
            await self._store.save(checkpoint, self._lease.owner)
            self._saved_at = self._clock()
        self._checkpoint = checkpoint

    async def _stored(self, rollouts: Sequence[Rollout]) -> Checkpoint:
        """Where it was left off; or where the oldest step began, when the ledger was not read for any of these."""
        stored = await self._store.checkpoint()
        if stored is not None and any(one.id in stored.evidence for one in rollouts):
            return stored
        return Checkpoint(position=position_at(min(one.since for one in rollouts)))

    def _count(self, rollouts: Iterable[Rollout], checkpoint: Checkpoint, samples: Sequence[Sample]) -> None:
        for rollout in rollouts:
            definition, evidence = rollout.definition, checkpoint.evidence[rollout.id]
            for sample in samples:
                if sample.model == definition.model:
                    evidence.add(sample, definition.canary.name, definition.stable.name, self._dice)

    async def _work_on(self, rollout: Rollout) -> Rollout:
        """A rollout that cannot go on does not hold up the others."""
        try:
            rollout = await self._decide(rollout)
            return await enforce(self._store, self._routing, rollout, self._lease.owner)
        except (NotPossible, Raced) as error:
            log.warning("rollout %s waits: %s", rollout.id, error)
            return rollout

    async def _decide(self, rollout: Rollout) -> Rollout:
        evidence = self._checkpoint.evidence.get(rollout.id) if self._checkpoint is not None else None
        decision = None if evidence is None else decide(rollout, evidence, self._clock())
        if decision is None or evidence is None:
            return rollout
        changed = decided(rollout, decision, evidence.canary.requests)
        await self._store.replace(rollout, changed, self._lease.owner)
        model = rollout.definition.model
        self._meters.decisions.labels(model, decision.action).inc()
        log.info(
            "rollout %s of %s at %d %%: %s: %s", rollout.id, model, rollout.share, decision.action, decision.reason
        )
        return changed


def _evidence(rollout: Rollout, known: Evidence | None) -> Evidence:
    """A step begins with none."""
    if known is not None and (known.step, known.since) == (rollout.step, rollout.since):
        return known
    return Evidence(step=rollout.step, since=rollout.since)
