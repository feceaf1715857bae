"""Tells engines which adapters to keep in memory and which to let go, until what they report is what is wanted."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from typing import Protocol

import msgspec
from prometheus_client import Counter

from gateway.adapters.adapters import Adapters
from gateway.adapters.registry import Registry
from gateway.core.job import Backend, Shelf
from gateway.errors import GatewayError
from gateway.telemetry.tasks import Tasks
from python_backends.messages import Adapter, Control

log = logging.getLogger(__name__)


class Ordering(Protocol):
    async def send(self, backend: Backend, control: Control) -> None:
        """Raises GatewayError."""
        ...


def pins_of(registry: Registry) -> dict[str, Adapter]:
    """What every engine shall keep, by checksum."""
    current = [record.get(record.current) for record in registry.adapters if record.pinned]
    return {one.checksum: Adapter(path=one.path, checksum=one.checksum) for one in current}


def orders_for(shelf: Shelf, pins: Mapping[str, Adapter], known: Set[str], retired: Set[str]) -> Iterator[Control]:
    """What is missing to make it so. Adapters that no registry knows are somebody else's: they are left alone."""
    for checksum in sorted(shelf.loaded & retired):
        yield Control(control="unload", checksum=checksum)
    for checksum in sorted((shelf.pinned & known) - pins.keys() - retired):
        yield Control(control="unpin", checksum=checksum)
    for checksum in sorted(pins.keys() - shelf.pinned):
        yield Control(control="pin", adapter=pins[checksum])


class Keeper:
    """`engines`: gives those that serve adapters, each with what it said of them last.

    `orders`: counts them by action and outcome.
    """

    def __init__(
        self,
        adapters: Adapters,
        engines: Callable[[], Iterable[tuple[Backend, Shelf]]],
        ordering: Ordering,
        orders: Counter,
        pause_s: float,
    ) -> None:
        self._adapters = adapters
        self._engines = engines
        self._ordering = ordering
        self._orders = orders
        self._pause_s = pause_s
        self._failed: Set[tuple[str, bytes]] = frozenset()
        # Backends and checksums. What comes back after that was asked for by its revision: unloading it would not last.
        self._let_go: set[tuple[str, str | None]] = set()

    def watch(self, tasks: Tasks) -> None:
        """Follow the registry and keep engines so, from now on."""
        tasks.keep("follow the adapters", self._adapters.follow)
        tasks.keep("keep adapters in engines", self.run)

    async def run(self) -> None:
        """Once, then the wait for a change, or so long: a task calls it again and again."""
        self._adapters.changed.clear()
        await self.settle()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pause_s):
                await self._adapters.changed.wait()

    async def settle(self) -> None:
        registry, retired = self._adapters.registry, self._adapters.retired
        known = {one.checksum for record in registry.adapters for one in record.revisions}
        pins = pins_of(registry)
        self._let_go = {one for one in self._let_go if one[1] in retired}
        failed = set()
        for backend, shelf in list(self._engines()):
            leaving = {checksum for checksum in retired if (backend.name, checksum) not in self._let_go}
            for control in orders_for(shelf, pins, known, leaving):
                order = (backend.name, msgspec.json.encode(control))
                if not await self._send(backend, control, again=order in self._failed):
                    failed.add(order)
                elif control.control == "unload":
                    self._let_go.add((backend.name, control.checksum))
        self._failed = failed

    async def _send(self, backend: Backend, control: Control, *, again: bool) -> bool:
        """Whether it is done; else the next round tries again. A failure is told once: not where it failed `again`."""
        try:
            await self._ordering.send(backend, control)
        except GatewayError as error:
            self._orders.labels(control.control, "failed").inc()
            if not again:
                log.warning("backend %s: %s: %s", backend.name, control.control, error.message)
            return False
        self._orders.labels(control.control, "done").inc()
        return True
