"""All adapters: one immutable document with a version. A change is a pure function from one document to the next."""

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec.structs import replace

from gateway.core.call import AdapterRef, Model
from gateway.core.identity import NO_LIMITS, Limits
from gateway.core.versioned import Versioned
from gateway.errors import Conflict, NotFound

MAX_ADAPTERS: Final = 1000
MAX_REVISIONS: Final = 100
# `$` alone would take a line's end after the name too.
NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,62}$(?!\n)"
REVISION: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$(?!\n)"

Name = Annotated[str, msgspec.Meta(pattern=NAME)]
RevisionName = Annotated[str, msgspec.Meta(pattern=REVISION)]


class Revision(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One set of files. `path`: below the adapters' root. `bytes`: of the weights. `created_at`: Unix seconds."""

    revision: RevisionName
    path: str
    checksum: str
    rank: int
    bytes: int
    created_at: int


class AdapterRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An adapter of the model `base`. Its name means the revision `current`; `limits` hold for each tenant.

    `pinned`: the engines keep the current revision in memory.
    """

    name: Name
    base: str
    current: str
    revisions: tuple[Revision, ...]
    pinned: bool = False
    limits: Limits = NO_LIMITS

    def get(self, revision: str) -> Revision:
        """Raises NotFound."""
        for one in self.revisions:
            if one.revision == revision:
                return one
        known = ", ".join(one.revision for one in self.revisions)
        raise NotFound(f"adapter {self.name} has no revision {revision!r}; it has: {known}", param="revision")


class Registry(Versioned, frozen=True, omit_defaults=True, kw_only=True):
    """All adapters that were added and not removed."""

    adapters: tuple[AdapterRecord, ...] = ()

    def get(self, name: str) -> AdapterRecord:
        """Raises NotFound."""
        for one in self.adapters:
            if one.name == name:
                return one
        raise NotFound(f"there is no adapter {name!r}", param="name")

    def has(self, name: str) -> bool:
        return any(one.name == name for one in self.adapters)

    def put(self, record: AdapterRecord) -> "Registry":
        rest = tuple(one for one in self.adapters if one.name != record.name)
        return replace(self, adapters=(*rest, record))

    def checksums(self) -> set[str]:
        """Of the revisions that names mean."""
        return {record.get(record.current).checksum for record in self.adapters}


_DECODER = msgspec.json.Decoder(Registry)


def decode_registry(data: bytes) -> Registry:
    """Raises ValueError for what cannot be used."""
    registry = _DECODER.decode(data)
    for record in registry.adapters:
        if not any(one.revision == record.current for one in record.revisions):
            raise ValueError(f"adapter {record.name} has no revision {record.current}, which should be its current one")
    return registry


def added(registry: Registry, name: str, base: str, revision: Revision, *, promote: bool, limits: Limits) -> Registry:
    """The first revision of an adapter is its current one at once. Raises Conflict."""
    if not registry.has(name):
        if len(registry.adapters) >= MAX_ADAPTERS:
            raise Conflict(f"there are {MAX_ADAPTERS} adapters, which is the most: remove one first", param="name")
        record = AdapterRecord(name=name, base=base, current=revision.revision, revisions=(revision,), limits=limits)
        return registry.put(record)
    record = registry.get(name)
    if record.base != base:
        raise Conflict(f"adapter {name!r} is one of {record.base}: choose another name", param="base")
    if any(one.revision == revision.revision for one in record.revisions):
        raise Conflict(
            f"adapter {name!r} has a revision {revision.revision!r} already: choose another one, or remove that",
            param="revision",
        )
    if len(record.revisions) >= MAX_REVISIONS:
        raise Conflict(f"adapter {name!r} has {MAX_REVISIONS} revisions: remove one first", param="revision")
    current = revision.revision if promote else record.current
    changed = replace(record, revisions=(*record.revisions, revision), current=current)
    return registry.put(changed if limits == NO_LIMITS else replace(changed, limits=limits))


def promoted(registry: Registry, name: str, revision: str) -> Registry:
    """Raises NotFound."""
    record = registry.get(name)
    return registry.put(replace(record, current=record.get(revision).revision))


def removed(registry: Registry, name: str, revision: str | None) -> Registry:
    """All of it, or one revision. Raises NotFound, Conflict for the current one of several."""
    record = registry.get(name)
    rest = tuple(one for one in record.revisions if revision is not None and one != record.get(revision))
    if not rest:
        return replace(registry, adapters=tuple(one for one in registry.adapters if one.name != name))
    if record.current == revision:
        raise Conflict(f"{name} means revision {revision}: promote another one first", param="revision")
    return registry.put(replace(record, revisions=rest))


def models_of(registry: Registry, bases: Mapping[str, Model]) -> dict[str, Model]:
    """By what clients may write: each name, and `name@revision` for every revision; none without its base."""
    found = {}
    for record in registry.adapters:
        base = bases.get(record.base)
        if base is None:
            continue
        for one in record.revisions:
            model = _model(record, one, base)
            found[f"{record.name}@{one.revision}"] = model
            if one.revision == record.current:
                found[record.name] = model
    return found


def _model(record: AdapterRecord, revision: Revision, base: Model) -> Model:
    return Model(
        name=record.name,
        task=base.task,
        max_model_len=base.max_model_len,
        created=revision.created_at,
        adapter=AdapterRef(record.name, revision.revision, record.base, revision.path, revision.checksum),
        limits=record.limits,
    )
