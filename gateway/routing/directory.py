"""The backends that there are: put together from all sources, refused as a whole when it makes no sense."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from msgspec.structs import replace

from gateway.core.snapshot import BackendSpec, RoutingSnapshot, decode_snapshot
from gateway.errors import Conflict, InvalidRequest, NotFound, Unavailable
from gateway.routing.document import Document
from gateway.routing.meters import Meters
from gateway.routing.settings import RoutingSettings
from gateway.routing.sources import Resolver, discovered, merge

log = logging.getLogger(__name__)

_RACES = 10
Change = Callable[[RoutingSnapshot], RoutingSnapshot]


class Applying(Protocol):
    @property
    def snapshot(self) -> RoutingSnapshot: ...

    def apply(self, snapshot: RoutingSnapshot) -> None: ...


class Directory:
    """`follow` and `discover` bring what changes elsewhere; the rest changes it here, for all gateways.

    `base`: what the settings say.
    """

    def __init__(
        self,
        base: RoutingSnapshot,
        applying: Applying,
        document: Document,
        *,
        resolver: Resolver,
        settings: RoutingSettings,
        meters: Meters,
    ) -> None:
        self._base = base
        self._applying = applying
        self._document = document
        self._resolver = resolver
        self._settings = settings
        self._meters = meters
        self._found: Sequence[BackendSpec] = ()
        self._changes = RoutingSnapshot()

    async def follow(self) -> None:
        """Until Valkey is away: then the last valid document goes on. Raises Unavailable."""
        async with self._document.changes() as changes:
            while True:
                await self._refresh()
                await changes.wait(self._settings.document_refresh_s)

    async def discover(self) -> None:
        """One look-up, then the wait until the next. A failed one changes nothing. Raises Unavailable."""
        name = self._settings.dns_name
        if name is None:
            return
        try:
            addresses = await self._resolver.addresses(name)
        except OSError as error:
            self._meters.refused.labels("dns").inc()
            raise Unavailable(f"{name} cannot be looked up: {error}") from error
        self._put_together(discovered(addresses, self._settings.dns_port), self._changes, "dns")
        await asyncio.sleep(self._settings.dns_refresh_s)

    async def add(self, spec: BackendSpec) -> None:
        """Raises InvalidRequest, Conflict for an id that exists."""

        def change(document: RoutingSnapshot) -> RoutingSnapshot:
            if spec.id in self._elsewhere() or any(one.id == spec.id for one in document.backends):
                raise Conflict(f"there is a backend {spec.id!r} already", param="id")
            return replace(document, backends=(*document.backends, spec))

        await self._change(change)

    async def remove(self, identifier: str) -> None:
        """Raises NotFound, Conflict for one that comes from elsewhere."""

        def change(document: RoutingSnapshot) -> RoutingSnapshot:
            self._must_exist(identifier, document)
            left = tuple(one for one in document.backends if one.id != identifier)
            if len(left) == len(document.backends):
                raise Conflict(f"backend {identifier!r} comes from the settings or from discovery: drain it instead")
            drained = tuple(one for one in document.drained if one != identifier)
            return replace(document, backends=left, drained=drained)

        await self._change(change)

    async def drain(self, identifier: str, *, draining: bool) -> None:
        """No new calls for it, or calls again. Raises NotFound."""

        def change(document: RoutingSnapshot) -> RoutingSnapshot:
            self._must_exist(identifier, document)
            rest = tuple(one for one in document.drained if one != identifier)
            backends = tuple(replace(one, draining=False) if one.id == identifier else one for one in document.backends)
            return replace(document, backends=backends, drained=(*rest, identifier) if draining else rest)

        await self._change(change)

    async def _change(self, change: Change) -> None:
        """By compare-and-set, again when somebody else was faster. Raises GatewayError."""
        for _ in range(_RACES):
            await self._refresh()
            held = self._changes
            wanted = replace(change(held), version=held.version + 1)
            if problems := merge(self._base, self._found, wanted).validate():
                raise InvalidRequest("; ".join(problems))
            if await self._document.replace(held.version, wanted):
                self._put_together(self._found, wanted, "document")
                return
        raise Unavailable("too many others are changing the backends: try again", retry_after=1.0)

    async def _refresh(self) -> None:
        """Take what Valkey holds, when it is new; write ours back where Valkey lost it. Versions only grow."""
        data = await self._document.read()
        try:
            document = RoutingSnapshot() if data is None else decode_snapshot(data)
        except (msgspec.DecodeError, ValueError) as error:
            self._refuse("document", str(error))
            return
        if document.version < self._changes.version:
            log.warning("Valkey lost version %d of the routing document: written back", self._changes.version)
            await self._document.replace(document.version, self._changes)
        elif document != self._changes:
            self._put_together(self._found, document, "document")

    def _put_together(self, found: Sequence[BackendSpec], document: RoutingSnapshot, source: str) -> None:
        merged = merge(self._base, found, document)
        if problems := merged.validate():
            self._refuse(source, "; ".join(problems))
            return
        self._found, self._changes = found, document
        if merged != self._applying.snapshot:
            self._applying.apply(merged)
            log.info("routing document %d: %d backends", merged.version, len(merged.backends))

    def _refuse(self, source: str, problem: str) -> None:
        self._meters.refused.labels(source).inc()
        log.error("the routing %s is refused, the last good one goes on: %s", source, problem)

    def _elsewhere(self) -> set[str]:
        return {one.id for one in (*self._base.backends, *self._found)}

    def _must_exist(self, identifier: str, document: RoutingSnapshot) -> None:
        if identifier not in self._elsewhere() | {one.id for one in document.backends}:
            raise NotFound(f"there is no backend {identifier!r}", param="id")
