"""The adapters as this gateway knows them: followed in Valkey, changed for all gateways, found for each request."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from msgspec.structs import replace

from gateway.adapters.registry import (
    AdapterRecord,
    Registry,
    Revision,
    added,
    models_of,
    promoted,
    removed,
)
from gateway.adapters.settings import AdapterSettings
from gateway.core.call import Model
from gateway.core.identity import NO_LIMITS, Limits
from gateway.errors import Conflict, InvalidRequest
from gateway.telemetry.metrics import Metrics
from gateway.valkey.document import Document, Followed
from python_backends.adapters.directory import AdapterError, relative_path
from python_backends.adapters.inspection import Base, Bounds, Found, inspect

log = logging.getLogger(__name__)

_RETIRED: Final = 1000


class Models(Protocol):
    """Those that are no adapters."""

    def __iter__(self) -> Iterator[Model]: ...

    def taken(self, name: str) -> bool: ...


class Adapters:
    """`models`: those that can have adapters; adapters cannot have their names. `directories`: theirs, by name.

    `clock`: Unix seconds.
    """

    def __init__(
        self,
        document: Document[Registry],
        settings: AdapterSettings,
        models: Models,
        directories: Mapping[str, Path],
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._document = Followed(document, Registry(), take=self._apply, refuse=self._refuse)
        self._settings = settings
        self._bases = {one.name: one for one in models if one.task == "generate" and one.name in directories}
        self._taken = models.taken
        self._directories = directories
        self._registered = metrics.adapters
        self._refused = metrics.adapters_refused
        self._clock = clock
        self._models: dict[str, Model] = {}
        self._retired: OrderedDict[str, None] = OrderedDict()
        self.changed = asyncio.Event()

    def __iter__(self) -> Iterator[Model]:
        """What each name means now."""
        return (self._models[record.name] for record in self.registry.adapters if record.name in self._models)

    def find(self, name: str) -> Model | None:
        """By its name, or `name@revision`."""
        return self._models.get(name)

    @property
    def registry(self) -> Registry:
        return self._document.held

    @property
    def retired(self) -> frozenset[str]:
        """Checksums of what no name means any more: engines need not keep it."""
        return frozenset(self._retired)

    async def follow(self) -> None:
        """Until Valkey is away: then the last valid registry goes on. Raises AdaptersUnavailable."""
        await self._document.follow(self._settings.refresh_s)

    async def add(
        self,
        name: str,
        revision: str,
        *,
        path: str | None = None,
        base: str | None = None,
        checksum: str | None = None,
        promote: bool = False,
        limits: Limits = NO_LIMITS,
    ) -> AdapterRecord:
        """`path`: `name/revision` when left out. `checksum`: what the files must have, if the caller knows.

        Raises InvalidRequest for files that cannot be served, Conflict for names that are taken.
        """
        if self._taken(name):
            raise Conflict(f"{name!r} is the name of a model: choose another one", param="name")
        base_name = self._base(base)
        place, found = await asyncio.to_thread(self._inspect, path or f"{name}/{revision}", base_name)
        if checksum not in (None, found.checksum):
            raise InvalidRequest(f"the files have the checksum {found.checksum}, not {checksum}", param="checksum")
        new = Revision(
            revision=revision,
            path=place,
            checksum=found.checksum,
            rank=found.rank,
            bytes=found.bytes,
            created_at=int(self._clock()),
        )

        def change(held: Registry) -> Registry:
            return added(held, name, base_name, new, promote=promote, limits=limits)

        return (await self._document.change(change)).get(name)

    async def promote(self, name: str, revision: str) -> AdapterRecord:
        """New requests get this revision; those that run keep theirs. Raises NotFound."""
        return (await self._document.change(lambda held: promoted(held, name, revision))).get(name)

    async def change(self, name: str, *, pinned: bool | None = None, limits: Limits | None = None) -> AdapterRecord:
        """Raises NotFound."""

        def changed(held: Registry) -> Registry:
            record = held.get(name)
            pin, bounds = record.pinned if pinned is None else pinned, record.limits if limits is None else limits
            return held.put(replace(record, pinned=pin, limits=bounds))

        return (await self._document.change(changed)).get(name)

    async def remove(self, name: str, revision: str | None = None) -> AdapterRecord:
        """As it was. Raises NotFound, Conflict for the current revision of several."""
        await self._document.refresh()
        record = self.registry.get(name)
        await self._document.change(lambda held: removed(held, name, revision))
        return record

    def _base(self, name: str | None) -> str:
        """Raises InvalidRequest."""
        chosen = name or next(iter(self._bases))
        if chosen not in self._bases:
            raise InvalidRequest(f"there is no model {name!r} that generates: {', '.join(self._bases)}", param="base")
        return chosen

    def _inspect(self, path: str, base: str) -> tuple[str, Found]:
        """Runs in a thread. Raises InvalidRequest."""
        root = self._settings.adapters_dir
        if root is None:
            raise InvalidRequest("this gateway has no directory for adapters: set TRIREME_ADAPTERS_DIR", param="path")
        try:
            place = relative_path(root, path)
            bounds = Bounds(self._settings.max_rank, self._settings.max_bytes)
            return place, inspect(root, place, Base.from_dir(self._directories[base]), bounds)
        except AdapterError as error:
            raise InvalidRequest(str(error), param="path", code="invalid_adapter") from error

    def _refuse(self, problem: str) -> None:
        self._refused.inc()
        log.warning("the registry of adapters is refused, the last good one goes on: %s", problem)

    def _apply(self, registry: Registry) -> bool:
        """Swap everything at once. Requests that run keep the model that they were given."""
        current = registry.checksums()
        for checksum in self.registry.checksums() - current:
            self._retired[checksum] = None
        for checksum in current & self._retired.keys():
            del self._retired[checksum]
        while len(self._retired) > _RETIRED:
            self._retired.popitem(last=False)
        self._models = models_of(registry, self._bases)
        self._registered.set(len(registry.adapters))
        self.changed.set()
        return True
