"""/admin/v1/backends: list, add, remove, drain. Changes hold for all gateways that share the Valkey."""

from typing import Annotated, Literal

import msgspec
from aiohttp import web

from gateway.api.admin import note
from gateway.api.body import parser_of, read_body
from gateway.api.keys import CALL, DIRECTORY, ROUTER
from gateway.api.responses import json_response
from gateway.core.snapshot import DEFAULT_GROUP, BackendSpec
from gateway.errors import NotFound
from gateway.routing.ejection import CircuitState
from gateway.routing.member import Member

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class BackendCreate(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`POST /admin/v1/backends`. `models`: those of clients that it serves, null for all."""

    id: str
    url: str
    group: str = DEFAULT_GROUP
    models: list[str] | None = None
    draining: bool = False
    slots: AtLeastOne | None = None
    capacity_tokens: AtLeastOne | None = None
    metrics_url: str | None = None


class BackendObject(msgspec.Struct, kw_only=True):
    """As this gateway sees it. `saturation`: from 0 to 1; `ejections`: in a row."""

    id: str
    object: Literal["backend"] = "backend"
    url: str
    group: str
    models: list[str] | None
    healthy: bool
    reason: str
    circuit: CircuitState
    draining: bool
    in_flight_requests: int
    in_flight_tokens: int
    capacity_tokens: int
    saturation: float
    ejections: int

    @classmethod
    def of(cls, member: Member) -> "BackendObject":
        spec = member.spec
        return cls(
            id=spec.id,
            url=spec.url,
            group=spec.group,
            models=None if spec.models is None else list(spec.models),
            healthy=member.health.healthy,
            reason=member.health.reason,
            circuit=member.ejection.state,
            draining=spec.draining,
            in_flight_requests=member.in_flight,
            in_flight_tokens=member.candidate.tokens,
            capacity_tokens=member.capacity,
            saturation=member.saturation,
            ejections=member.ejection.count,
        )


class BackendList(msgspec.Struct):
    object: Literal["list"]
    data: list[BackendObject]


class BackendRemoved(msgspec.Struct):
    id: str
    deleted: Literal[True] = True


_create = parser_of(BackendCreate)


async def index(request: web.Request) -> web.StreamResponse:
    backends = [BackendObject.of(member) for member in request.app[ROUTER]]
    return json_response(request[CALL], BackendList("list", backends))


async def create(request: web.Request) -> web.StreamResponse:
    """Raises InvalidRequest, Conflict, Unavailable without Valkey: so do the others."""
    body = await read_body(request, _create)
    spec = msgspec.convert(msgspec.to_builtins(body), BackendSpec)
    await request.app[DIRECTORY].add(spec)
    note(request, "backend.added", spec.id, url=spec.url)
    return json_response(request[CALL], _found(request, spec.id), 201)


async def remove(request: web.Request) -> web.StreamResponse:
    """No new requests go there; those that run may finish."""
    identifier = request.match_info["backend"]
    await request.app[DIRECTORY].remove(identifier)
    note(request, "backend.removed", identifier)
    return json_response(request[CALL], BackendRemoved(identifier))


async def drain(request: web.Request) -> web.StreamResponse:
    """It is drained when `in_flight_requests` is 0."""
    return await _drain(request, draining=True)


async def undrain(request: web.Request) -> web.StreamResponse:
    return await _drain(request, draining=False)


async def _drain(request: web.Request, *, draining: bool) -> web.StreamResponse:
    identifier = request.match_info["backend"]
    await request.app[DIRECTORY].drain(identifier, draining=draining)
    note(request, "backend.drained" if draining else "backend.undrained", identifier)
    return json_response(request[CALL], _found(request, identifier))


def _found(request: web.Request, identifier: str) -> BackendObject:
    for member in request.app[ROUTER]:
        if member.spec.id == identifier:
            return BackendObject.of(member)
    raise NotFound(f"there is no backend {identifier!r} any more", param="id")
