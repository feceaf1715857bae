"""What people do with rollouts. The control plane acts upon the records; an abort does not wait for it."""

import secrets

from control_plane.rollouts import state
from control_plane.rollouts.state import Rollout, Rules
from control_plane.rollouts.store import Store
from control_plane.rollouts.weights import define, registered, with_weights
from control_plane.routing import RoutingDocument
from gateway.core.snapshot import Arm


class Commands:
    """`by`: who gives them. Raises ControlError; RedisError, OSError."""

    def __init__(self, store: Store, routing: RoutingDocument, by: str) -> None:
        self._store = store
        self._routing = routing
        self._by = by

    async def start(self, model: str, canary: Arm, rules: Rules, now: float) -> Rollout:
        """From the arm that serves the model now."""
        document = await self._routing.read()
        canary = registered(document, model, canary)
        definition = define(document, model, canary, rules)
        rollout = state.start(f"ro_{secrets.token_hex(6)}", definition, self._by, now)
        await self._store.create(rollout)
        return rollout

    async def pause(self, identifier: str, now: float) -> Rollout:
        held = await self._store.get(identifier)
        return await self._replaced(held, state.pause(held, self._by, now))

    async def resume(self, identifier: str, now: float) -> Rollout:
        held = await self._store.get(identifier)
        return await self._replaced(held, state.resume(held, self._by, now))

    async def abort(self, identifier: str, now: float, reason: str = "") -> Rollout:
        """Also with no control plane: routing is changed here."""
        held = await self._store.get(identifier)
        aborted = await self._replaced(held, state.abort(held, self._by, now, reason))
        return await enforce(self._store, self._routing, aborted)

    async def _replaced(self, held: Rollout, changed: Rollout) -> Rollout:
        await self._store.replace(held, changed)
        return changed


async def enforce(store: Store, routing: RoutingDocument, rollout: Rollout, owner: str = "") -> Rollout:
    """Routing as the rollout says; one that has ended lets go of it then. Doing it again changes nothing.

    Raises ControlError; RedisError, OSError.
    """
    if rollout.settled:
        return rollout
    await routing.change(lambda document: with_weights(document, rollout))
    if rollout.status in state.OPEN:
        return rollout
    settled = state.settle(rollout)
    await store.replace(rollout, settled, owner)
    return settled
