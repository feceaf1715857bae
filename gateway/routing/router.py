"""Which backend takes a call: today the one there is, when it is healthy."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from prometheus_client import Gauge

from gateway.core.call import Call, served_by
from gateway.core.job import Backend
from gateway.errors import BackendLost, BackendUnavailable, GatewayError
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
        self._leases: set[Call] = set()
        self._served_at: float | None = None
        self._hurry = asyncio.Event()
        self.health = health

    @asynccontextmanager
    async def lease(self, call: Call) -> AsyncIterator[Backend]:
        """Raises BackendUnavailable while no backend can take the call."""
        if not self.health.healthy:
            raise BackendUnavailable(f"no backend can take this request: {self.health.reason}", retry_after=1.0)
        self._leases.add(call)
        try:
            yield self._backend
        except BackendLost as error:
            self._lost(error)
            raise
        finally:
            self._leases.discard(call)
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
        """Ask for readiness, and for a token when nobody got one lately."""
        try:
            await self._probe.ready(self._backend)
            self.health.ready()
            if self.health.generation_due(self._last_served()):
                await self._probe.generate(self._backend)
                self.health.generated()
        except GatewayError as error:
            self.health.failed(error.message)

    def _last_served(self) -> float | None:
        times = (self._served_at, served_by(self._leases))
        return max((at for at in times if at is not None), default=None)

    def _lost(self, error: BackendLost) -> None:
        self.health.lost(error.message)
        self._up.set(self.health.healthy)
        self._hurry.set()
