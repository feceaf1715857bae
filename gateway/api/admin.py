"""What the administration of tenants and keys has in common: bodies of both, waits, and the audit line."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

import msgspec
from aiohttp import web

from gateway.api.address import client_address
from gateway.api.keys import CALL
from gateway.auth.storage import valkey_faults
from gateway.core.identity import NO_LIMITS, NO_QUOTAS, SERVERS_CACHE
from gateway.errors import InvalidRequest
from gateway.telemetry import audit

# Nobody waits in a queue behind an administrator, and deleting a tenant with many keys takes some time.
PATIENCE_S = 5.0

Instant = int | Annotated[datetime, msgspec.Meta(tz=True)]
_CLEARED: Mapping[str, Any] = {"limits": NO_LIMITS, "quotas": NO_QUOTAS, "cache": SERVERS_CACHE}
_TRUTH = {"true": True, "false": False}


@asynccontextmanager
async def answers_of_valkey() -> AsyncIterator[None]:
    """Raises KeysUnavailable when they do not come."""
    with valkey_faults():
        async with asyncio.timeout(PATIENCE_S):
            yield


def given(body: msgspec.Struct) -> dict[str, Any]:
    """The members that were sent; null stands for what a record has from the beginning."""
    sent = {name: getattr(body, name) for name in body.__struct_fields__}
    return {
        name: _CLEARED.get(name) if value is None else value
        for name, value in sent.items()
        if value is not msgspec.UNSET
    }


def unix_seconds(instant: Instant | None) -> int | None:
    return int(instant.timestamp()) if isinstance(instant, datetime) else instant


def query_of(request: web.Request, known: str) -> str | None:
    """The one query parameter that there is. Raises InvalidRequest for others."""
    for name in request.query:
        if name != known:
            raise InvalidRequest(
                f"unknown query parameter {name}: there is only {known}", param=name, code="unknown_parameter"
            )
    return request.query.get(known)


def flag_of(request: web.Request, known: str) -> bool:
    """Raises InvalidRequest."""
    text = query_of(request, known) or "false"
    if text not in _TRUTH:
        raise InvalidRequest(f"{known} must be true or false", param=known)
    return _TRUTH[text]


def note(request: web.Request, event: str, target: str, **details: object) -> None:
    """Into the audit log."""
    call = request[CALL]
    actor = "" if call.caller is None else call.caller.key_id
    audit.changed(event, target, actor=actor, address=client_address(request), request_id=call.id, **details)
