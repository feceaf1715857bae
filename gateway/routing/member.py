"""One backend: its health, what it was given, and what is known of its load."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from typing import Final, Literal, Protocol

from gateway.core.call import Call, served_by
from gateway.core.job import Backend, Condition, EngineLoad
from gateway.core.snapshot import BackendSpec
from gateway.errors import (
    AdapterUnavailable,
    BackendFailed,
    BackendLost,
    BackendTimeout,
    BackendUnavailable,
    GatewayError,
    InvalidRequest,
)
from gateway.routing.ejection import Ejection
from gateway.routing.health import Health
from gateway.routing.meters import Meters
from gateway.routing.scoring import Candidate
from gateway.routing.settings import RoutingSettings
from gateway.routing.versions import Served, default_version

Outcome = Literal["ok", "refused", "cancelled", "failed"]
# What a request can end with when its backend is to blame.
FAULTS: Final = (BackendFailed, BackendTimeout, BackendUnavailable)
_LEAST_RAMP = 0.1
_MISSED_PROBES = 2


class Probe(Protocol):
    """Questions to a backend; both raise GatewayError."""

    async def ready(self, backend: Backend) -> Condition: ...

    async def generate(self, backend: Backend) -> None: ...


class Member:
    """Leases on one backend; `watch` keeps asking how it is. `on_lost`: told when what was in its cache is gone."""

    def __init__(
        self,
        spec: BackendSpec,
        settings: RoutingSettings,
        probe: Probe,
        meters: Meters,
        *,
        on_lost: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.health = Health(settings, clock)
        self.ejection = Ejection(settings.ejection_failures, settings.ejection_s, settings.max_ejection_s, clock)
        self.candidate = Candidate(spec.id, seed_of(spec.id), 0.0)
        self.load: EngineLoad | None = None
        self.served: Served = {}
        self.retired = False
        self._settings = settings
        self._probe = probe
        self._meters = meters
        self._on_lost = on_lost
        self._clock = clock
        self._backend = Backend(spec.id, spec.url.rstrip("/"), metrics_url=spec.metrics_url)
        self._leases: dict[Call, asyncio.Timeout] = {}
        self._served_at: float | None = None
        self._answered_at = clock()
        self._heard_at = clock()
        self._recovered_at: float | None = None
        self._hurry = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._weigh()
        meters.show(self)

    @property
    def alive(self) -> bool:
        """Probes are content, and it may get new calls."""
        return self.health.healthy and not self.spec.draining

    @property
    def serves_adapters(self) -> bool:
        return self.load is not None and self.load.shelf.places > 0

    @property
    def backend(self) -> Backend:
        """Its server, for requests that are no client's."""
        return self._backend

    @property
    def in_flight(self) -> int:
        """Requests."""
        return len(self._leases)

    @property
    def capacity(self) -> int:
        """Tokens that run at the same time."""
        engine = self.load.kv_tokens if self.load is not None else 0
        return self.spec.capacity_tokens or engine or self._settings.capacity_tokens

    @property
    def saturation(self) -> float:
        """0: idle, 1: full; the worst of what we gave it and what its engine says. Nothing heard counts as full."""
        shares = [self.candidate.tokens / self.capacity, self.strain]
        if self.spec.slots is not None:
            shares.append(self.in_flight / self.spec.slots)
        return min(1.0, max(shares))

    @property
    def strain(self) -> float:
        """What its engine says of itself, 0 to 1; 0 for one that never does, 1 when it is too long ago."""
        if self.load is None:
            return 0.0
        settings = self._settings
        patience = _MISSED_PROBES * (settings.probe_interval_s + settings.probe_timeout_s)
        return 1.0 if self._clock() - self._heard_at > patience else self.load.saturation

    def ramp(self) -> float:
        """Its share of what it would get, growing to 1 after a recovery."""
        if self._recovered_at is None:
            return 1.0
        grown = (self._clock() - self._recovered_at) / (self._settings.slow_start_s or 1e-9)
        if grown >= 1:
            self._recovered_at = None
        return max(_LEAST_RAMP, min(1.0, grown))

    @property
    def recovering(self) -> bool:
        return self._recovered_at is not None

    def change(self, spec: BackendSpec) -> None:
        """Same server, other terms."""
        self.spec = spec
        self._backend = replace(self._backend, metrics_url=spec.metrics_url)
        self._weigh()

    def _weigh(self) -> None:
        self.candidate.unit = 1 / self.capacity

    async def drained(self) -> None:
        """Returns when nothing runs there any more."""
        await self._idle.wait()

    @asynccontextmanager
    async def hold(self, call: Call) -> AsyncIterator[None]:
        """A lease of `call.cost` tokens. Raises BackendLost when the backend dies in the meantime."""
        cost, began = call.cost, self._clock()
        self._enter(call, cost)
        self.ejection.tried()
        outcome: Outcome = "cancelled"
        try:
            async with self._leases[call]:
                yield
            outcome = "ok"
        except TimeoutError as error:
            outcome = "failed"
            raise BackendLost(f"backend {self.spec.id} died: {self.health.reason}") from error
        except FAULTS as error:
            outcome = "failed"
            self._blame(error)
            raise
        except (InvalidRequest, AdapterUnavailable):
            outcome = "refused"
            raise
        finally:
            self._learn(call, outcome, began)
            self._leave(call, cost)

    @asynccontextmanager
    async def hold_copy(self, call: Call) -> AsyncIterator[None]:
        """As `hold`, for what nobody waits for: however it ends, that is no evidence against this backend."""
        cost = call.cost
        self._enter(call, cost)
        try:
            async with self._leases[call]:
                yield
        except TimeoutError as error:
            raise BackendLost(f"backend {self.spec.id} died: {self.health.reason}") from error
        finally:
            self._leave(call, cost)

    def _enter(self, call: Call, cost: int) -> None:
        self._leases[call] = asyncio.timeout(None)
        self.candidate.tokens += cost
        self._idle.clear()

    def _leave(self, call: Call, cost: int) -> None:
        del self._leases[call]
        self.candidate.tokens -= cost
        if not self._leases:
            self._idle.set()

    def _learn(self, call: Call, outcome: Outcome, began: float) -> None:
        """What the end of a request tells of this backend."""
        if call.last_token_at is not None:
            self._served_at = max(call.last_token_at, self._served_at or 0.0)
        if outcome in ("ok", "refused"):
            if self.ejection.succeeded():
                self._recovered_at = self._clock()
        elif outcome == "cancelled":
            self.ejection.abandoned()
        if not self.retired:
            self._meters.ended(self.spec.id, outcome, _first_token(call, began))

    def _blame(self, error: GatewayError) -> None:
        """A failure of a backend that is known to be down tells nothing new."""
        if not self.health.healthy:
            self.ejection.abandoned()
            return
        self.ejection.failed()
        if isinstance(error, BackendLost):
            self.health.lost(error.message)
            self._on_lost(self.spec.id)
        self._hurry.set()

    async def watch(self) -> None:
        """One probe, then the wait until the next: run it again and again."""
        self._hurry.clear()
        await self.examine()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.health.interval):
                await self._hurry.wait()

    async def examine(self) -> None:
        """Ask for readiness, and for a token when nobody got one lately. Until that came, readiness is no sign of life.

        A backend that becomes unhealthy by its own answers will never finish what it has: Triton leaves requests open
        whose model process died. One that is merely silent may still be busy with them, but not for ever.
        """
        before = self.health.verdict
        try:
            self._heard(await self._probe.ready(self._backend))
            if self.health.generation_due(self._last_served()):
                await self._generate()
            else:
                self.health.ready()
            self._answered_at = self._clock()
        except GatewayError as error:
            self._failed(error, was_healthy=before == "healthy")
        if before == "unhealthy" and self.health.healthy:
            self._recovered_at = self._clock()
            self.ejection.reset()

    async def _generate(self) -> None:
        """A token for somebody else meanwhile is as good: a long queue is not a dead engine."""
        began = self._clock()
        try:
            await self._probe.generate(self._backend)
        except BackendTimeout:
            if (self._last_served() or 0.0) < began:
                raise
        self.health.generated()

    def _heard(self, condition: Condition) -> None:
        self._heard_at = self._clock()
        self.load, self.served = condition.load, condition.versions
        self._backend = replace(self._backend, engine_version=default_version(self.served))
        self.candidate.adapters = frozenset() if condition.load is None else condition.load.shelf.loaded
        self._weigh()

    def _failed(self, error: GatewayError, *, was_healthy: bool) -> None:
        self.health.failed(error.message)
        silent = isinstance(error, BackendTimeout)
        if not silent:
            self._answered_at = self._clock()
        if self.health.healthy:
            return
        if was_healthy:
            self._on_lost(self.spec.id)
        quiet_s = self._clock() - max(self._answered_at, self._last_served() or 0.0)
        if not silent or quiet_s >= self._settings.hung_s:
            self._give_up_leases()

    def _give_up_leases(self) -> None:
        now = asyncio.get_running_loop().time()
        for lease in self._leases.values():
            if not lease.expired():
                lease.reschedule(now)

    def _last_served(self) -> float | None:
        times = (self._served_at, served_by(self._leases))
        return max((at for at in times if at is not None), default=None)


def _first_token(call: Call, began: float) -> float | None:
    """Seconds."""
    return None if call.first_token_at is None else call.first_token_at - began


def seed_of(identifier: str) -> int:
    """32 bits for an id, the same in all gateways."""
    return int.from_bytes(sha256(identifier.encode()).digest()[:4], "big")
