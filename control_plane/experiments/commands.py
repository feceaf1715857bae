"""What people do with experiments and mirrorings. Routing changes at once; the control plane sees to it afterwards."""

import secrets

from control_plane.experiments import state
from control_plane.experiments.state import Experiment, Mirroring, Planned, Trial
from control_plane.experiments.store import TrialStore
from control_plane.experiments.weights import followed, weights_of
from control_plane.routing import RoutingDocument
from gateway.core.snapshot import Arm, Mirror, Unit


class TrialCommands:
    """`by`: who gives them. Raises ControlError; RedisError, OSError."""

    def __init__(self, store: TrialStore, routing: RoutingDocument, by: str) -> None:
        self._store = store
        self._routing = routing
        self._by = by

    async def experiment(
        self, model: str, arms: dict[str, int], unit: Unit, now: float, *, planned: Planned, confidence: float
    ) -> Experiment:
        """Divide the model's calls from now on."""
        before = weights_of(await self._routing.read(), model, arms)
        experiment = Experiment(
            id=f"ex_{secrets.token_hex(6)}",
            model=model,
            started_at=now,
            started_by=self._by,
            planned=planned,
            confidence=confidence,
            arms=arms,
            by=unit,
            before=before,
        )
        await self._begin(state.checked(experiment))
        return experiment

    async def mirror(
        self, model: str, arm: Arm, fraction: float, now: float, *, exclude: tuple[str, ...] = ()
    ) -> Mirroring:
        """Copy so much of the model's calls from now on."""
        identifier = f"mi_{secrets.token_hex(6)}"
        mirror = Mirror(id=identifier, arm=arm, fraction=fraction, exclude=exclude)
        mirroring = Mirroring(id=identifier, model=model, started_at=now, started_by=self._by, mirror=mirror)
        await self._begin(mirroring)
        return mirroring

    async def stop(self, identifier: str, now: float) -> Trial:
        """Everything as before, also with no control plane."""
        held = await self._store.get(identifier)
        stopped = state.stop(held, self._by, now)
        await self._store.replace(held, stopped)
        return await enforce(self._store, self._routing, stopped)

    async def _begin(self, trial: Trial) -> None:
        """The record comes first: whatever happens then, the control plane finishes it."""
        await self._store.create(trial)
        await enforce(self._store, self._routing, trial)


async def enforce(store: TrialStore, routing: RoutingDocument, trial: Trial, owner: str = "") -> Trial:
    """Routing as the record says; one that is over lets go of it then. Doing it again changes nothing.

    Raises ControlError; RedisError, OSError.
    """
    if trial.settled:
        return trial
    await routing.change(lambda document: followed(document, trial))
    if trial.under_way:
        return trial
    settled = state.settle(trial)
    await store.replace(trial, settled, owner)
    return settled
