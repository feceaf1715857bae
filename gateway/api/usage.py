"""GET /admin/v1/usage."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, Literal

import msgspec
from aiohttp import web

from gateway.accounting.prices import NANO
from gateway.accounting.usage import BYS, MOST_DAYS, By, UsageRow, as_csv, today
from gateway.api.keys import CALL, CURRENCY, USAGE
from gateway.api.responses import json_response, standard_headers
from gateway.errors import InvalidRequest

PARAMETERS: Final = ("by", "since", "until", "tenant", "format")
_USUAL_DAYS = 30


class UsageObject(msgspec.Struct):
    """`name`: of the tenant, key or model, or the day (UTC). Cached tokens are part of the prompt's.

    `cache_hits`: requests that the cache answered; what was spared would have been used without it.
    """

    object: Literal["usage"]
    name: str
    requests: int
    succeeded: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    price: float
    currency: str
    cache_hits: int
    spared_tokens: int
    spared_price: float


class UsageList(msgspec.Struct):
    object: Literal["list"]
    data: list[UsageObject]


@dataclass(frozen=True)
class _Query:
    by: By
    since: date
    until: date
    tenant: str | None
    as_csv: bool


async def index(request: web.Request) -> web.StreamResponse:
    """Raises InvalidRequest, Unavailable."""
    asked = _query(request)
    rows = await request.app[USAGE].read(asked.by, asked.since, asked.until, asked.tenant)
    call, currency = request[CALL], request.app[CURRENCY]
    if asked.as_csv:
        text = as_csv(asked.by, rows, currency)
        return web.Response(text=text, content_type="text/csv", charset="utf-8", headers=standard_headers(call))
    return json_response(call, UsageList("list", [_object(row, currency) for row in rows]))


def _object(row: UsageRow, currency: str) -> UsageObject:
    return UsageObject(
        object="usage",
        name=row.name,
        requests=row.requests,
        succeeded=row.succeeded,
        prompt_tokens=row.prompt,
        cached_tokens=row.cached,
        completion_tokens=row.completion,
        price=row.price / NANO,
        currency=currency,
        cache_hits=row.hits,
        spared_tokens=row.spared,
        spared_price=row.spared_price / NANO,
    )


def _query(request: web.Request) -> _Query:
    query = request.query
    for name in query:
        if name not in PARAMETERS:
            raise InvalidRequest(
                f"unknown parameter {name}: there are {', '.join(PARAMETERS)}", param=name, code="unknown_parameter"
            )
    until = _day("until", query.get("until")) or today()
    since = _day("since", query.get("since")) or until - timedelta(days=_USUAL_DAYS - 1)
    if not 0 <= (until - since).days < MOST_DAYS:
        raise InvalidRequest(f"since must be at most {MOST_DAYS - 1} days before until", param="since")
    by = next((one for one in BYS if one == query.get("by", "tenant")), None)
    if by is None:
        raise InvalidRequest(f"by must be one of {', '.join(BYS)}", param="by")
    form = _one_of(query.get("format", "json"), ("json", "csv"))
    return _Query(by, since, until, query.get("tenant"), form == "csv")


def _one_of(given: str, known: Iterable[str]) -> str:
    if given not in known:
        raise InvalidRequest(f"format must be one of {', '.join(known)}", param="format")
    return given


def _day(name: str, text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequest(f"{name} must be a day like 2026-05-31, in UTC", param=name) from error
