"""/admin/v1/adapters: list, add, show, change, promote, remove. Changes hold for all gateways that share the Valkey."""

from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from gateway.adapters.registry import AdapterRecord, Name, RevisionName
from gateway.api.admin import note, query_of
from gateway.api.body import parser_of, read_body
from gateway.api.keys import ADAPTERS, CALL, ROUTER
from gateway.api.responses import json_response
from gateway.core.identity import NO_LIMITS, Limits

Path = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class AdapterAdd(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`POST /admin/v1/adapters`: one revision of an adapter. `path`: `name/revision` when left out.

    `base`: the model it adapts. `checksum`: what the files must have. `promote`: the name means this revision from now
    on; that of a new adapter it means anyway. `limits`: for each tenant.
    """

    name: Name
    revision: RevisionName
    path: Path | None = None
    base: str | None = None
    checksum: str | None = None
    promote: bool = False
    limits: Limits = NO_LIMITS


class AdapterChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`PATCH /admin/v1/adapters/{adapter}`: a member that is sent replaces the whole of it; null: no limits."""

    pinned: bool | UnsetType = UNSET
    limits: Limits | UnsetType | None = UNSET


class AdapterPromote(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/adapters/{adapter}/promote`."""

    revision: RevisionName


class RevisionObject(msgspec.Struct, kw_only=True):
    """`loaded`, `pinned`: backends whose engines have it in memory, as this gateway heard last. Times: Unix seconds."""

    revision: str
    current: bool
    path: str
    checksum: str
    rank: int
    bytes: int
    created_at: int
    loaded: list[str]
    pinned: list[str]


class AdapterObject(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["adapter"] = "adapter"
    base: str
    pinned: bool
    limits: Limits
    revisions: list[RevisionObject]


class AdapterList(msgspec.Struct):
    object: Literal["list"]
    data: list[AdapterObject]


class AdapterRemoved(msgspec.Struct, kw_only=True):
    """`revision`: null, if it was all of it."""

    id: str
    revision: str | None
    deleted: Literal[True] = True


_add = parser_of(AdapterAdd)
_change = parser_of(AdapterChange)
_promote = parser_of(AdapterPromote)


async def index(request: web.Request) -> web.StreamResponse:
    records = sorted(request.app[ADAPTERS].registry.adapters, key=lambda record: record.name)
    return json_response(request[CALL], AdapterList("list", [_object(request, record) for record in records]))


async def add(request: web.Request) -> web.StreamResponse:
    """Raises InvalidRequest, Conflict, AdaptersUnavailable without Valkey: so do the others."""
    body = await read_body(request, _add)
    record = await request.app[ADAPTERS].add(
        body.name,
        body.revision,
        path=body.path,
        base=body.base,
        checksum=body.checksum,
        promote=body.promote,
        limits=body.limits,
    )
    note(request, "adapter.added", body.name, revision=body.revision, checksum=record.get(body.revision).checksum)
    return json_response(request[CALL], _object(request, record), 201)


async def show(request: web.Request) -> web.StreamResponse:
    record = request.app[ADAPTERS].registry.get(request.match_info["adapter"])
    return json_response(request[CALL], _object(request, record))


async def change(request: web.Request) -> web.StreamResponse:
    body, name = await read_body(request, _change), request.match_info["adapter"]
    pinned = None if body.pinned is UNSET else body.pinned
    limits = None if body.limits is UNSET else body.limits or NO_LIMITS
    record = await request.app[ADAPTERS].change(name, pinned=pinned, limits=limits)
    note(request, "adapter.changed", name, pinned=record.pinned)
    return json_response(request[CALL], _object(request, record))


async def promote(request: web.Request) -> web.StreamResponse:
    """Requests that run keep the revision that they have."""
    body, name = await read_body(request, _promote), request.match_info["adapter"]
    record = await request.app[ADAPTERS].promote(name, body.revision)
    note(request, "adapter.promoted", name, revision=body.revision)
    return json_response(request[CALL], _object(request, record))


async def remove(request: web.Request) -> web.StreamResponse:
    """New requests are refused at once; those that run may finish. The files stay."""
    name, revision = request.match_info["adapter"], query_of(request, "revision")
    await request.app[ADAPTERS].remove(name, revision)
    note(request, "adapter.removed", name, revision=revision)
    return json_response(request[CALL], AdapterRemoved(id=name, revision=revision))


def _object(request: web.Request, record: AdapterRecord) -> AdapterObject:
    shelves = [(member.spec.id, member.load.shelf) for member in request.app[ROUTER] if member.load is not None]
    return AdapterObject(
        id=record.name,
        base=record.base,
        pinned=record.pinned,
        limits=record.limits,
        revisions=[
            RevisionObject(
                revision=one.revision,
                current=one.revision == record.current,
                path=one.path,
                checksum=one.checksum,
                rank=one.rank,
                bytes=one.bytes,
                created_at=one.created_at,
                loaded=[backend for backend, shelf in shelves if one.checksum in shelf.loaded],
                pinned=[backend for backend, shelf in shelves if one.checksum in shelf.pinned],
            )
            for one in record.revisions
        ],
    )
