"""Several gateways, one fairness: each tells the others what it served of each tenant.

Every `sharing_interval_s` a gateway publishes its totals and reads those of the others; what was added since the last
reading goes into its own virtual counters. No request waits for that. Between two exchanges a gateway knows only of its
own tokens, so a tenant that asks several gateways gets ahead by at most what they serve it in one interval.
"""

import asyncio
import secrets
from collections.abc import Mapping
from typing import Protocol

from gateway.admission.scheduler import Scheduler
from gateway.core.identity import PriorityClass

# By class, then by tenant: weighted tokens over the tenant's weight, since the gateway's start.
Served = Mapping[PriorityClass, Mapping[str, float]]


class Counters(Protocol):
    """Where totals meet. While it is away nothing is published, and nothing new is read."""

    async def publish(self, gateway: str, served: Served) -> None: ...

    async def read(self) -> Mapping[str, Served]:
        """By gateway; of those that published lately."""
        ...


class Sharing:
    """`gateway`: a name that no other process has or had, since totals begin at 0 with each; "" makes one."""

    def __init__(self, scheduler: Scheduler, counters: Counters, interval_s: float, gateway: str = "") -> None:
        self._gateway = gateway or secrets.token_hex(8)
        self._scheduler = scheduler
        self._counters = counters
        self._interval_s = interval_s
        self._known: dict[str, Served] = {}

    async def run(self) -> None:
        """One exchange, then the wait until the next: run it again and again."""
        await self.exchange()
        await asyncio.sleep(self._interval_s)

    async def exchange(self) -> None:
        await self._counters.publish(self._gateway, self._served())
        totals = await self._counters.read()
        for gateway, served in sorted(totals.items()):
            if gateway != self._gateway:
                self._absorb(self._known.get(gateway, served), served)
        self._known = {**totals} or self._known

    def _served(self) -> Served:
        return {
            name: {one.tenant: one.served for one in line.counters if one.served}
            for name, line in self._scheduler.lines.items()
        }

    def _absorb(self, before: Served, after: Served) -> None:
        """Of a gateway that is new to us, what it did before we knew it does not count."""
        for name, line in self._scheduler.lines.items():
            line.counters.absorb(increments(before.get(name, {}), after.get(name, {})))


def increments(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What was added for each tenant; negative where a prediction was corrected. Unknown tenants began at 0."""
    grown = {tenant: total - before.get(tenant, 0.0) for tenant, total in after.items()}
    return {tenant: tokens for tenant, tokens in grown.items() if tokens}
