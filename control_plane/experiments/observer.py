"""Reads the ledger for experiments and mirrorings, and keeps routing as they say."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from control_plane.errors import NotPossible, Raced
from control_plane.experiments.commands import enforce
from control_plane.experiments.evidence import Copied, Evidence, Observed, Pairs
from control_plane.experiments.ledger import Seen
from control_plane.experiments.state import Trial
from control_plane.experiments.store import TrialStore
from control_plane.lease import Lease
from control_plane.ledger import Ledger, position_at
from control_plane.metrics import Meters
from control_plane.routing import RoutingDocument

log = logging.getLogger(__name__)

SAVE_EVERY_S: Final = 2.0
# Requests that began before the end, and feedback for them, still count so long.
LINGER_S: Final = 3600.0


class Observer:
    """`clock`: Unix seconds."""

    def __init__(
        self,
        store: TrialStore,
        ledger: Ledger[Seen],
        routing: RoutingDocument,
        *,
        lease: Lease,
        meters: Meters,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._routing = routing
        self._lease = lease
        self._meters = meters
        self._clock = clock
        self._position: str | None = None
        self._evidence: dict[str, Evidence | Pairs] = {}
        self._saved_at = 0.0
        self.trials: Sequence[Trial] = ()

    async def round(self, *, leading: bool) -> None:
        """Raises RedisError, OSError, TimeoutError: then nothing is lost, and the next round does it."""
        trials = await self._store.all()
        if leading:
            await self._read([trial for trial in trials if self._counts(trial)])
            trials = [await self._enforce(trial) for trial in trials]
        else:
            self._position, self._evidence = None, {}
        self.trials = trials
        self._meters.show_trials(trials)

    def known(self, trial: Trial) -> Evidence | Pairs:
        """What was read here; nothing, where another one acts."""
        return self._evidence.get(trial.id) or Evidence()

    def _counts(self, trial: Trial) -> bool:
        return trial.ended_at is None or self._clock() - trial.ended_at < LINGER_S

    async def _read(self, trials: Sequence[Trial]) -> None:
        """A round that fails in here leaves nothing half counted behind: all is read from the store again."""
        position, self._position = self._position, None
        if not trials:
            return
        if position is None:
            position = await self._stored(trials)
        known = self._evidence
        self._evidence = {one.id: known.get(one.id) or await self._store.evidence(one) for one in trials}
        async for reached, seen, _ in self._ledger.batches(position):
            position = reached
            self._count(seen)
        if self._clock() - self._saved_at >= SAVE_EVERY_S:
            await self._store.save(position, self._evidence, self._lease.owner)
            self._saved_at = self._clock()
        self._position = position

    async def _stored(self, trials: Sequence[Trial]) -> str:
        """Where it was left off, or where the oldest of these began, whatever is later."""
        self._evidence = {}
        began = position_at(min(one.started_at for one in trials))
        stored = await self._store.position()
        return began if stored is None else max(began, stored, key=_order)

    def _count(self, seen: Iterable[Seen]) -> None:
        for one in seen:
            if isinstance(one, Copied):
                pairs = self._evidence.get(one.mirror)
                if isinstance(pairs, Pairs):
                    pairs.add(one)
                continue
            evidence = self._evidence.get(one.experiment)
            if not isinstance(evidence, Evidence):
                continue
            arm = evidence.arm(one.arm)
            if isinstance(one, Observed):
                arm.add(one)
            else:
                arm.rate(one)

    async def _enforce(self, trial: Trial) -> Trial:
        """One that cannot go on does not hold up the others."""
        try:
            return await enforce(self._store, self._routing, trial, self._lease.owner)
        except (NotPossible, Raced) as error:
            log.warning("%s waits: %s", trial.id, error)
            return trial


def _order(position: str) -> tuple[int, int]:
    milliseconds, _, number = position.partition("-")
    return int(milliseconds), int(number)
