"""/admin/v1/keys: list, create, show, change, rotate, revoke. A secret is in one answer, and never again."""

import time
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from gateway.api.admin import Instant, answers_of_valkey, given, note, query_of, unix_seconds
from gateway.api.body import parser_of, read_body
from gateway.api.keys import CALL, KEY_STORE
from gateway.api.responses import json_response
from gateway.auth.records import KeyRecord, KeyState, ModelName, Name, TenantId
from gateway.auth.store import DEFAULT_OVERLAP_S
from gateway.core.identity import NO_LIMITS, NO_QUOTAS, SERVERS_CACHE, CachePolicy, Limits, PriorityClass, Quotas

Scopes = Annotated[frozenset[Literal["admin", "embeddings", "inference", "metrics"]], msgspec.Meta(min_length=1)]
ModelNames = Annotated[frozenset[ModelName], msgspec.Meta(min_length=1, max_length=1000)]
Overlap = Annotated[int, msgspec.Meta(ge=0, le=30 * 86400)]


class KeyCreate(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`POST /admin/v1/keys`. `models`: null for all. `expires_at`: Unix seconds or RFC 3339; null for never."""

    tenant: TenantId
    name: Name
    scopes: Scopes
    models: ModelNames | None = None
    max_priority: PriorityClass = "interactive"
    limits: Limits = NO_LIMITS
    quotas: Quotas = NO_QUOTAS
    cache: CachePolicy = SERVERS_CACHE
    expires_at: Instant | None = None


class KeyChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`PATCH /admin/v1/keys/{key}`: a member that is sent replaces the whole of it; null: none, for models all, for
    cache as the tenant has it.
    """

    name: Name | UnsetType = UNSET
    scopes: Scopes | UnsetType = UNSET
    models: ModelNames | UnsetType | None = UNSET
    max_priority: PriorityClass | UnsetType = UNSET
    limits: Limits | UnsetType | None = UNSET
    quotas: Quotas | UnsetType | None = UNSET
    cache: CachePolicy | UnsetType | None = UNSET
    expires_at: Instant | UnsetType | None = UNSET


class KeyRotate(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /admin/v1/keys/{key}/rotate`; the body may be left out."""

    overlap_seconds: Overlap = DEFAULT_OVERLAP_S


class KeyObject(msgspec.Struct, kw_only=True):
    """`secret` only when it was just made. Times are Unix seconds."""

    id: str
    object: Literal["api_key"] = "api_key"
    tenant: str
    name: str
    scopes: list[str]
    models: list[str] | None
    max_priority: PriorityClass
    limits: Limits
    quotas: Quotas
    cache: CachePolicy
    status: KeyState
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
    secret: str | UnsetType = UNSET

    @classmethod
    def of(cls, record: KeyRecord, last_used_at: int | None = None, secret: str | UnsetType = UNSET) -> "KeyObject":
        return cls(
            id=record.key_id,
            tenant=record.tenant,
            name=record.name,
            scopes=sorted(record.scopes),
            models=None if record.models is None else sorted(record.models),
            max_priority=record.max_priority,
            limits=record.limits,
            quotas=record.quotas,
            cache=record.cache,
            status=record.state(time.time()),
            created_at=record.created_at,
            expires_at=record.expires_at,
            revoked_at=record.revoked_at,
            last_used_at=last_used_at,
            secret=secret,
        )


class KeyList(msgspec.Struct):
    object: Literal["list"]
    data: list[KeyObject]


_create = parser_of(KeyCreate)
_change = parser_of(KeyChange)
_rotate = parser_of(KeyRotate)


async def index(request: web.Request) -> web.StreamResponse:
    tenant = query_of(request, "tenant")
    async with answers_of_valkey():
        records = await request.app[KEY_STORE].list(tenant)
        used = await request.app[KEY_STORE].last_used()
    return json_response(
        request[CALL], KeyList("list", [KeyObject.of(record, used.get(record.key_id)) for record in records])
    )


async def create(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, _create)
    async with answers_of_valkey():
        record, secret = await request.app[KEY_STORE].create(
            tenant=body.tenant,
            name=body.name,
            scopes=frozenset(body.scopes),
            models=body.models,
            max_priority=body.max_priority,
            limits=body.limits,
            quotas=body.quotas,
            cache=body.cache,
            expires_at=unix_seconds(body.expires_at),
        )
    note(request, "key.created", record.key_id, tenant=record.tenant, scopes=sorted(record.scopes))
    return json_response(request[CALL], KeyObject.of(record, secret=secret), 201)


async def show(request: web.Request) -> web.StreamResponse:
    async with answers_of_valkey():
        record = await request.app[KEY_STORE].get(request.match_info["key"])
        return await _shown(request, record)


async def change(request: web.Request) -> web.StreamResponse:
    fields = _fields(await read_body(request, _change))
    async with answers_of_valkey():
        record = await request.app[KEY_STORE].change(request.match_info["key"], **fields)
        note(request, "key.changed", record.key_id, tenant=record.tenant, members=sorted(fields))
        return await _shown(request, record)


async def rotate(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, _rotate) if request.can_read_body else KeyRotate()
    async with answers_of_valkey():
        record, secret = await request.app[KEY_STORE].rotate(request.match_info["key"], body.overlap_seconds)
    note(request, "key.rotated", record.key_id, tenant=record.tenant, overlap_seconds=body.overlap_seconds)
    return json_response(request[CALL], KeyObject.of(record, secret=secret), 201)


async def revoke(request: web.Request) -> web.StreamResponse:
    async with answers_of_valkey():
        record = await request.app[KEY_STORE].revoke(request.match_info["key"])
        note(request, "key.revoked", record.key_id, tenant=record.tenant)
        return await _shown(request, record)


def _fields(body: KeyChange) -> dict[str, Any]:
    fields = given(body)
    if "expires_at" in fields:
        fields["expires_at"] = unix_seconds(fields["expires_at"])
    return fields


async def _shown(request: web.Request, record: KeyRecord) -> web.StreamResponse:
    used = await request.app[KEY_STORE].last_used_of(record.key_id)
    return json_response(request[CALL], KeyObject.of(record, used))
