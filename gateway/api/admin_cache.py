"""/admin/v1/cache: what is kept for each tenant, and away with it."""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from aiohttp import web

from gateway.api.admin import answers_of_valkey, note
from gateway.api.keys import CACHE, CALL, TENANT_STORE
from gateway.api.responses import json_response
from gateway.auth.tenants import check_id
from gateway.cache.keys import EVERYBODY
from gateway.errors import InvalidRequest

SHOWING: Final = ("tenant",)
PURGING: Final = ("tenant", "model", "prefix")


class CacheObject(msgspec.Struct, kw_only=True):
    """`tenant`: `*` for what all share. `bytes`: of answers that have expired as well, until the next one comes."""

    object: Literal["cache"] = "cache"
    tenant: str
    answers: int
    bytes: int


class CacheList(msgspec.Struct):
    object: Literal["list"]
    data: list[CacheObject]


class CachePurged(msgspec.Struct, kw_only=True):
    """`answers`: how many went."""

    object: Literal["cache.purged"] = "cache.purged"
    answers: int


async def index(request: web.Request) -> web.StreamResponse:
    owners = await _owners(request, SHOWING)
    amounts = [(owner, await request.app[CACHE].amount(owner)) for owner in owners]
    rows = [CacheObject(tenant=owner, answers=held.answers, bytes=held.bytes) for owner, held in amounts]
    return json_response(request[CALL], CacheList("list", rows))


async def purge(request: web.Request) -> web.StreamResponse:
    """Raises InvalidRequest, Unavailable."""
    owners, query = await _owners(request, PURGING), request.query
    if "model" in query and "prefix" in query:
        raise InvalidRequest("model and prefix exclude each other: a prefix begins with the model", param="prefix")
    prefix = f"{query['model']}@" if "model" in query else query.get("prefix", "")
    gone = [await request.app[CACHE].purge(owner, prefix) for owner in owners]
    note(request, "cache.purged", query.get("tenant", "all tenants"), prefix=prefix, answers=sum(gone))
    return json_response(request[CALL], CachePurged(answers=sum(gone)))


async def _owners(request: web.Request, known: Sequence[str]) -> list[str]:
    """The one that the query names, or all. Raises InvalidRequest."""
    for name in request.query:
        if name not in known:
            raise InvalidRequest(
                f"unknown query parameter {name}: there are {', '.join(known)}", param=name, code="unknown_parameter"
            )
    asked = request.query.get("tenant")
    if asked is not None:
        if asked != EVERYBODY:
            check_id(asked, param="tenant")
        return [asked]
    async with answers_of_valkey():
        return [EVERYBODY, *(record.id for record in await request.app[TENANT_STORE].list())]
