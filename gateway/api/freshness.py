"""`Cache-Control` and `x-cache-ttl`: what a client says of answers from the cache."""

from typing import Final

from aiohttp import web

from gateway.core.freshness import ANY_AGE, Freshness
from gateway.errors import InvalidRequest

CONTROL_HEADER: Final = "Cache-Control"
TTL_HEADER: Final = "x-cache-ttl"
_MOST_DIGITS: Final = 9


def read_freshness(request: web.Request) -> Freshness:
    """Directives that mean nothing here are left alone, as HTTP wants it. Raises InvalidRequest."""
    headers = request.headers
    if CONTROL_HEADER not in headers and TTL_HEADER not in headers:
        return ANY_AGE
    said = dict(_directives(",".join(headers.getall(CONTROL_HEADER, []))))
    max_age = _seconds(f"{CONTROL_HEADER}: max-age", CONTROL_HEADER, said["max-age"]) if "max-age" in said else None
    ttl = _seconds(TTL_HEADER, TTL_HEADER, headers[TTL_HEADER]) if TTL_HEADER in headers else None
    return Freshness(
        read="no-cache" not in said and max_age != 0,
        keep="no-store" not in said and ttl != 0,
        max_age_s=max_age,
        ttl_s=ttl,
    )


def _directives(text: str) -> list[tuple[str, str]]:
    parts = [part.strip().partition("=") for part in text.split(",")]
    return [(name.strip().lower(), value.strip().strip('"')) for name, _, value in parts]


def _seconds(what: str, param: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise InvalidRequest(f"{what} must be a whole number of seconds, not {text[:40]!r}", param=param)
    return int(text)
