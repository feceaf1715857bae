"""/admin/v1/tenants: list, create, show, change, delete."""

from typing import Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from gateway.api.admin import answers_of_valkey, flag_of, given, note
from gateway.api.body import parser_of, read_body
from gateway.api.keys import CALL, TENANT_STORE
from gateway.api.responses import json_response
from gateway.auth.records import TenantId, TenantName, TenantRecord, Weight
from gateway.core.identity import NO_LIMITS, NO_QUOTAS, SERVERS_CACHE, CachePolicy, Limits, Quotas


class TenantCreate(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`POST /admin/v1/tenants`."""

    id: TenantId
    name: TenantName = ""
    limits: Limits = NO_LIMITS
    quotas: Quotas = NO_QUOTAS
    cache: CachePolicy = SERVERS_CACHE
    weight: Weight = 1.0


class TenantChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`PATCH /admin/v1/tenants/{id}`: a member that is sent replaces the whole of it; null: no limits, no
    quotas, the server's cache."""

    name: TenantName | UnsetType = UNSET
    limits: Limits | UnsetType | None = UNSET
    quotas: Quotas | UnsetType | None = UNSET
    cache: CachePolicy | UnsetType | None = UNSET
    weight: Weight | UnsetType = UNSET


class TenantObject(msgspec.Struct, kw_only=True):
    """Times are Unix seconds."""

    id: str
    object: Literal["tenant"] = "tenant"
    name: str
    limits: Limits
    quotas: Quotas
    cache: CachePolicy
    weight: float
    created_at: int
    deleted_at: int | None

    @classmethod
    def of(cls, record: TenantRecord) -> "TenantObject":
        return cls(
            id=record.id,
            name=record.name,
            limits=record.limits,
            quotas=record.quotas,
            cache=record.cache,
            weight=record.weight,
            created_at=record.created_at,
            deleted_at=record.deleted_at,
        )


class TenantList(msgspec.Struct):
    object: Literal["list"]
    data: list[TenantObject]


_create = parser_of(TenantCreate)
_change = parser_of(TenantChange)


async def index(request: web.Request) -> web.StreamResponse:
    async with answers_of_valkey():
        records = await request.app[TENANT_STORE].list()
    return json_response(request[CALL], TenantList("list", [TenantObject.of(record) for record in records]))


async def create(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, _create)
    async with answers_of_valkey():
        record = await request.app[TENANT_STORE].create(
            body.id, name=body.name, limits=body.limits, quotas=body.quotas, weight=body.weight, cache=body.cache
        )
    note(request, "tenant.created", record.id)
    return json_response(request[CALL], TenantObject.of(record), 201)


async def show(request: web.Request) -> web.StreamResponse:
    async with answers_of_valkey():
        record = await request.app[TENANT_STORE].get(request.match_info["tenant"])
    return json_response(request[CALL], TenantObject.of(record))


async def change(request: web.Request) -> web.StreamResponse:
    fields = given(await read_body(request, _change))
    async with answers_of_valkey():
        record = await request.app[TENANT_STORE].change(request.match_info["tenant"], **fields)
    note(request, "tenant.changed", record.id, members=sorted(fields))
    return json_response(request[CALL], TenantObject.of(record))


async def delete(request: web.Request) -> web.StreamResponse:
    force = flag_of(request, "force")
    async with answers_of_valkey():
        record = await request.app[TENANT_STORE].delete(request.match_info["tenant"], force=force)
    note(request, "tenant.deleted", record.id, force=force)
    return json_response(request[CALL], TenantObject.of(record))
