"""The backends that there are: put together from all sources, refused as a whole when it makes no sense."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from msgspec.structs import replace

from gateway.core.snapshot import BackendSpec, RoutingSnapshot
from gateway.errors import Conflict, InvalidRequest, NotFound, Unavailable
from gateway.routing.meters import Meters
from gateway.routing.settings import RoutingSettings
from gateway.routing.sources import Resolver, discovered, merge
from gateway.valkey.document import Document, Followed

log = logging.getLogger(__name__)

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
        document: Document[RoutingSnapshot],
        *,
        resolver: Resolver,
        settings: RoutingSettings,
        meters: Meters,
    ) -> None:
        self._base = base
        self._applying = applying
        refuse = partial(self._refuse, "document")
        self._document = Followed(document, RoutingSnapshot(), take=self._take, refuse=refuse)
        self._resolver = resolver
        self._settings = settings
        self._meters = meters
        self._found: Sequence[BackendSpec] = ()

    async def follow(self) -> None:
        """Until Valkey is away: then the last valid document goes on. Raises Unavailable."""
        await self._document.follow(self._settings.document_refresh_s)

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
        found = discovered(addresses, self._settings.dns_port, self._settings.dns_metrics_port)
        self._put_together(found, self._document.held, "dns")
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
        """Raises GatewayError: InvalidRequest for what makes no sense together with the other sources."""

        def checked(document: RoutingSnapshot) -> RoutingSnapshot:
            wanted = change(document)
            if problems := merge(self._base, self._found, wanted).validate():
                raise InvalidRequest("; ".join(problems))
            return wanted

        await self._document.change(checked)

    def _take(self, document: RoutingSnapshot) -> bool:
        return self._put_together(self._found, document, "document")

    def _put_together(self, found: Sequence[BackendSpec], document: RoutingSnapshot, source: str) -> bool:
        """Whether it makes sense; then it is used."""
        merged = merge(self._base, found, document)
        if problems := merged.validate():
            self._refuse(source, "; ".join(problems))
            return False
        self._found = found
        if merged != self._applying.snapshot:
            self._applying.apply(merged)
            log.info("routing document %d: %d backends", merged.version, len(merged.backends))
        return True

    def _refuse(self, source: str, problem: str) -> None:
        self._meters.refused.labels(source).inc()
        log.error("the routing %s is refused, the last good one goes on: %s", source, problem)

    def _elsewhere(self) -> set[str]:
        return {one.id for one in (*self._base.backends, *self._found)}

    def _must_exist(self, identifier: str, document: RoutingSnapshot) -> None:
        if identifier not in self._elsewhere() | {one.id for one in document.backends}:
            raise NotFound(f"there is no backend {identifier!r}", param="id")
