"""Where? Leases on backends, chosen by the routing document, their health, and the strategy."""

import asyncio
import logging
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from gateway.core.call import Call, Serving
from gateway.core.job import Backend, Shelf
from gateway.core.snapshot import Arm, BackendSpec, Mirror, ModelRoute, RoutingSnapshot
from gateway.errors import BackendUnavailable
from gateway.routing.arms import arms_of, note_experiment, owner_of
from gateway.routing.member import Member, Probe
from gateway.routing.meters import Meters
from gateway.routing.prefix import chain_of
from gateway.routing.scoring import Ask
from gateway.routing.settings import RoutingSettings
from gateway.routing.strategies import build_strategy
from gateway.routing.versions import common_version, in_order, serves, version_at
from gateway.telemetry.tasks import Tasks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Table:
    """What one snapshot makes of the backends: swapped as a whole."""

    snapshot: RoutingSnapshot
    members: dict[str, Member]
    routes: dict[str, ModelRoute]
    pools: dict[tuple[str, str], Sequence[Member]]  # by model and group
    aliases: dict[str, str]


class Router:
    """`lease` chooses; `apply` changes what there is to choose from; `watch` keeps every backend examined.

    `clock`: monotonic seconds.
    """

    def __init__(
        self,
        snapshot: RoutingSnapshot,
        settings: RoutingSettings,
        probe: Probe,
        meters: Meters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._probe = probe
        self._meters = meters
        self._clock = clock
        self._strategy = build_strategy(settings)
        self._watched: dict[Member, asyncio.Task[None]] = {}
        self._tasks: Tasks | None = None
        self._running: Counter[tuple[str, str | None]] = Counter()
        self._table = _Table(RoutingSnapshot(), {}, {}, {}, {})
        self.apply(snapshot)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._table.members.values())

    @property
    def snapshot(self) -> RoutingSnapshot:
        return self._table.snapshot

    @property
    def saturation(self) -> float:
        """Of the least loaded backend that takes calls: what the next call meets. 1 when there is none."""
        return min((member.saturation for member in self if member.alive and member.ejection.allows()), default=1.0)

    @property
    def problem(self) -> str | None:
        """Why no call can be served, or None."""
        members = list(self)
        if not members:
            return "there is no backend"
        if any(member.alive for member in members):
            return None
        healthy = [member for member in members if member.health.healthy]
        return "every backend is draining" if healthy else members[0].health.reason

    def apply(self, snapshot: RoutingSnapshot) -> None:
        """Swap everything at once. Leases on backends that are gone go on until they end."""
        old = self._table.members
        members = {spec.id: self._member(spec, old.get(spec.id)) for spec in snapshot.backends}
        groups = {(route.name, arm.group) for route in snapshot.models for arm in route.all_arms}
        self._table = _Table(
            snapshot,
            members,
            {route.name: route for route in snapshot.models},
            {(model, group): _serving(model, group, members.values()) for model, group in groups},
            snapshot.aliases(),
        )
        self._meters.version.set(snapshot.version)
        for member in old.values():
            if members.get(member.spec.id) is not member:
                self._retire(member)
        self._watch_all()

    @asynccontextmanager
    async def lease(self, call: Call, tried: Collection[str] = ()) -> AsyncIterator[Backend]:
        """On none of the backends in `tried`. Raises BackendUnavailable while no backend can take the call, BackendLost
        when it dies in the meantime.
        """
        member, arm = self._choose(call, tried)
        call.backend = member.spec.id
        if call.asked_version is None:
            call.arm = call.arm or arm.name
        if call.caller is not None and "admin" in call.caller.scopes:
            call.headers["x-backend"] = member.spec.id
        version = call.model_version = version_at(member.served, arm)
        running = (_model_of(call), version)
        self._running[running] += 1
        try:
            async with member.hold(call):
                yield Backend(member.spec.id, member.spec.url.rstrip("/"), arm.triton_model, arm.version, version)
        finally:
            self._running[running] -= 1
            self._judge(member)

    def version_of(self, call: Call) -> str | None:
        """That which will answer this call, if nothing fails meanwhile. None: it cannot be told, as backends differ or
        say nothing, or there is none.
        """
        expected = self._expected(call)
        return None if expected is None else expected[1]

    def serving(self, call: Call) -> Serving | None:
        """As `version_of`, with everything that can make a difference: two arms may have the same version's number."""
        expected = self._expected(call)
        if expected is None:
            return None
        arm, version = expected
        return Serving(arm.name, f"{version}/{arm.triton_model}/{arm.group}")

    def _expected(self, call: Call) -> tuple[Arm, str] | None:
        model = _model_of(call)
        route = self._table.routes.get(model)
        for arm in self._arms_for(call, route) if route is not None else ():
            alive = [member.served for member in self._table.pools[model, arm.group] if member.alive]
            able = [served for served in alive if serves(served, arm)] or alive
            if able:
                version = common_version(able, arm)
                return None if version is None else (arm, version)
        return None

    def versions_of(self, model: str) -> list[str]:
        """Those that a client may ask for by number, the oldest first."""
        route = self._table.routes.get(model)
        arms = () if route is None else route.arms
        return in_order(version for arm in arms for version in self._versions_at(model, arm))

    def having(self, model: str, version: str) -> dict[Arm, list[str]]:
        """The arms that this version answers, each with the backends that have it."""
        route = self._table.routes.get(model)
        found = {}
        for arm in route.arms if route is not None else ():
            pool = self._table.pools[model, arm.group]
            able = [one for one in pool if serves(one.served, arm) and version_at(one.served, arm) == version]
            if able:
                found[arm] = [member.spec.id for member in able]
        return found

    def route_of(self, model: str) -> ModelRoute | None:
        return self._table.routes.get(model)

    def running(self, model: str, version: str) -> int:
        """Requests of this gateway."""
        return self._running[model, version]

    def mirror_of(self, call: Call) -> Mirror | None:
        """Where copies of such calls go, if anywhere. Those that ask for a version are not copied."""
        route = self._table.routes.get(_model_of(call))
        return None if route is None or call.asked_version is not None else route.mirror

    def room_for(self, call: Call, arm: Arm, most: float) -> Literal["busy", "unavailable"] | None:
        """Why none of the arm's backends can take a copy now. Without one that is less full than `most` it is busy."""
        found = self._shadows(call, arm)
        if not found:
            return "unavailable"
        return None if any(member.saturation < most for member in found) else "busy"

    @asynccontextmanager
    async def lease_copy(self, call: Call, arm: Arm) -> AsyncIterator[Backend]:
        """On the least busy of the arm's backends. Raises BackendUnavailable, BackendLost."""
        found = self._shadows(call, arm)
        if not found:
            raise BackendUnavailable("no backend can take this copy", retry_after=1.0)
        member = min(found, key=lambda one: one.saturation)
        call.backend, call.arm, version = member.spec.id, arm.name, version_at(member.served, arm)
        async with member.hold_copy(call):
            yield Backend(member.spec.id, member.spec.url.rstrip("/"), arm.triton_model, arm.version, version)

    def spot(self, name: str) -> tuple[Backend, float] | None:
        """The least loaded backend of the route `name` and how full it is, for a question that takes no lease."""
        route = self._table.routes.get(name)
        found = (
            (member.saturation, member.spec, arm)
            for arm in (() if route is None else route.arms)
            for member in self._table.pools[name, arm.group]
            if arm.weight and member.alive and member.ejection.closed
        )
        best = min(found, key=lambda one: one[0], default=None)
        if best is None:
            return None
        saturation, spec, arm = best
        return Backend(spec.id, spec.url.rstrip("/"), arm.triton_model, arm.version), saturation

    def saturation_of(self, model: str) -> float | None:
        """What a call to this model would meet, 0 to 1; None: no backend takes calls to it."""
        found = self.spot(model)
        return None if found is None else found[1]

    def shelves(self) -> Iterator[tuple[Backend, Shelf]]:
        """Healthy backends that serve adapters, each with what its engine said of them last."""
        for member in self:
            if member.health.healthy and member.load is not None and member.load.shelf.places:
                yield member.backend, member.load.shelf

    def name_of(self, model: str) -> str:
        """Of a model that may be called by an alias."""
        return self._table.aliases.get(model, model)

    @property
    def overload(self) -> float:
        """Of the engine that has least of it, 0 to 1: queues inside engines, which are not in our books."""
        return min((member.load.overload for member in self if member.alive and member.load is not None), default=0.0)

    def watch(self, tasks: Tasks) -> None:
        """From now on, every backend there is or will be."""
        self._tasks = tasks
        self._watch_all()

    async def examine(self) -> None:
        """Every backend once."""
        await asyncio.gather(*(member.examine() for member in self))

    def _choose(self, call: Call, tried: Collection[str]) -> tuple[Member, Arm]:
        model = _model_of(call)
        route = self._table.routes.get(model)
        arms = self._arms_for(call, route) if route is not None else ()
        for arm in arms:
            pool = self._table.pools[model, arm.group]
            found = _able(call, self._available(pool, tried))
            # Rather one that is known to have this version; if none is, what becomes of it tells of the version.
            found = [member for member in found if serves(member.served, arm)] or found
            if found:
                chosen = self._strategy.pick(self._ask(call, model), [member.candidate for member in found])
                division = None if route is None or call.asked_version is not None else route.division
                if division is not None and arm is arms[0] and call.arm is None:
                    note_experiment(call, division)
                return self._table.members[chosen.id], arm
        kind = "adapters of " if _adapter(call) is not None else ""
        reason = self.problem or f"none that serves {kind}{model!r} is healthy"
        raise BackendUnavailable(f"no backend can take this request: {reason}", retry_after=1.0)

    def _arms_for(self, call: Call, route: ModelRoute) -> Sequence[Arm]:
        """By weight, or those of the one version that was asked for: nothing else stands in for it."""
        if call.asked_version is None:
            return arms_of(call, route)
        having = [arm for arm in route.arms if call.asked_version in self._versions_at(route.name, arm)]
        return sorted(having, key=lambda arm: -arm.weight)

    def _versions_at(self, model: str, arm: Arm) -> set[str]:
        """What the arm's backends would answer with."""
        pool = self._table.pools[model, arm.group]
        found = {version_at(member.served, arm) for member in pool if serves(member.served, arm)}
        return {version for version in found if version is not None}

    def _available(self, pool: Sequence[Member], tried: Collection[str]) -> list[Member]:
        """Healthy, not draining, not left out. With too few of them, those left out come back: better than nobody.

        Backends whose probes fail never do: those are known to be dead.
        """
        alive = [member for member in pool if member.alive and member.spec.id not in tried]
        found = [member for member in alive if member.ejection.closed]
        if len(found) < len(alive):
            found = [member for member in alive if member.ejection.allows()]
            whole = sum(not member.spec.draining for member in pool)
            if len(found) < self._settings.panic_below * whole:
                found = alive
        for member in found:
            if member.recovering:
                member.candidate.ramp = member.ramp()
        return found

    def _shadows(self, call: Call, arm: Arm) -> list[Member]:
        """Healthy ones, without asking those that are left out whether they work again."""
        pool = self._table.pools.get((_model_of(call), arm.group), ())
        return _able(call, [member for member in pool if member.alive and member.ejection.closed])

    def _ask(self, call: Call, model: str) -> Ask:
        settings, ids = self._settings, call.prompt_ids
        session = None if call.session is None else zlib.crc32(owner_of(call).encode())
        adapter = _adapter(call)
        if not self._strategy.compares_prompts:
            return Ask(call.cost, session, adapter=adapter)
        block = settings.prefix_block_tokens
        chain = chain_of(ids, block, settings.prefix_prompt_blocks, zlib.crc32((adapter or model).encode()))
        return Ask(call.cost, session, chain, max(1, len(ids) // block), adapter=adapter)

    def _judge(self, member: Member) -> None:
        """Leave it out for a while when it failed too often, unless too many others are out already."""
        if not member.ejection.due:
            return
        group = [one for one in self if one.spec.group == member.spec.group]
        out = sum(not one.ejection.closed for one in group if one is not member)
        if out + 1 <= self._settings.max_ejected * len(group):
            member.ejection.eject()
            self._meters.ejected(member.spec.id)
            log.warning("backend %s is left out: it failed too often", member.spec.id)

    def _member(self, spec: BackendSpec, known: Member | None) -> Member:
        if known is None or known.spec.url != spec.url:
            member = Member(
                spec, self._settings, self._probe, self._meters, on_lost=self._strategy.forget, clock=self._clock
            )
        else:
            member = known
            member.change(spec)
        return member

    def _retire(self, member: Member) -> None:
        """It is watched until its last lease has ended, which it may need to be told."""
        member.retired = True
        self._strategy.forget(member.spec.id)
        if member.spec.id not in self._table.members:
            self._meters.forget(member.spec.id)
        if self._tasks is not None:
            self._tasks.spawn(f"retire backend {member.spec.id}", self._until_drained(member))

    async def _until_drained(self, member: Member) -> None:
        await member.drained()
        task = self._watched.pop(member, None)
        if task is not None:
            task.cancel()

    def _watch_all(self) -> None:
        if self._tasks is None:
            return
        for member in self:
            if member not in self._watched:
                self._watched[member] = self._tasks.keep(f"watch backend {member.spec.id}", member.watch)


def _serving(model: str, group: str, members: Collection[Member]) -> Sequence[Member]:
    return [
        member
        for member in members
        if member.spec.group == group and (member.spec.models is None or model in member.spec.models)
    ]


def _able(call: Call, members: list[Member]) -> list[Member]:
    """Those that serve adapters, where it wants one."""
    return members if _adapter(call) is None else [member for member in members if member.serves_adapters]


def _model_of(call: Call) -> str:
    """The one whose backends serve it."""
    return call.model.base if call.model is not None else ""


def _adapter(call: Call) -> str | None:
    """Checksum of the adapter that it wants."""
    return call.model.adapter.checksum if call.model is not None and call.model.adapter is not None else None
