"""Which backend takes a call: today the one there is, when it is healthy."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from prometheus_client import Gauge

from gateway.core.call import Call, served_by
from gateway.core.job import Backend
from gateway.errors import BackendLost, BackendTimeout, BackendUnavailable, GatewayError
from gateway.routing.health import Health


class Probe(Protocol):
    """Questions to a backend; both raise GatewayError."""

    async def ready(self, backend: Backend) -> None: ...

    async def generate(self, backend: Backend) -> None: ...


class Router:
    """Leases on the backend. `watch` keeps asking how it is."""

    def __init__(self, backend: Backend, health: Health, probe: Probe, up: Gauge) -> None:
        self._backend = backend
        self._probe = probe
        self._up = up
        self._leases: dict[Call, asyncio.Timeout] = {}
        self._served_at: float | None = None
        self._hurry = asyncio.Event()
        self.health = health

    @asynccontextmanager
    async def lease(self, call: Call) -> AsyncIterator[Backend]:
        """Raises BackendUnavailable while no backend can take the call, BackendLost when it dies in the meantime."""
        if not self.health.healthy:
            raise BackendUnavailable(f"no backend can take this request: {self.health.reason}", retry_after=1.0)
        until_given_up = asyncio.timeout(None)
        self._leases[call] = until_given_up
        try:
            async with until_given_up:
                yield self._backend
        except TimeoutError as error:
            raise BackendLost(f"backend {self._backend.name} died: {self.health.reason}") from error
        except BackendLost as error:
            self._lost(error)
            raise
        finally:
            del self._leases[call]
            if call.last_token_at is not None:
                self._served_at = max(call.last_token_at, self._served_at or 0.0)

    async def watch(self) -> None:
        """One probe, then the wait until the next: run it again and again."""
        self._hurry.clear()
        await self.examine()
        self._up.set(self.health.healthy)
        with suppress(TimeoutError):
            async with asyncio.timeout(self.health.interval):
                await self._hurry.wait()

    async def examine(self) -> None:
        """Ask for readiness, and for a token when nobody got one lately.

        A backend that becomes unhealthy by its own answers will never finish what it has: Triton leaves requests open
        whose model process died. One that is merely silent may still be busy with them.
        """
        was_healthy = self.health.healthy
        try:
            await self._probe.ready(self._backend)
            self.health.ready()
            if self.health.generation_due(self._last_served()):
                await self._probe.generate(self._backend)
                self.health.generated()
        except GatewayError as error:
            self.health.failed(error.message)
            if was_healthy and not self.health.healthy and not isinstance(error, BackendTimeout):
                self._give_up_leases()

    def _give_up_leases(self) -> None:
        now = asyncio.get_running_loop().time()
        for lease in self._leases.values():
            if not lease.expired():
                lease.reschedule(now)

    def _last_served(self) -> float | None:
        times = (self._served_at, served_by(self._leases))
        return max((at for at in times if at is not None), default=None)

    def _lost(self, error: BackendLost) -> None:
        self.health.lost(error.message)
        self._up.set(self.health.healthy)
        self._hurry.set()
