"""Who is at the other end of a connection."""

import ipaddress
from collections.abc import Iterator
from functools import lru_cache

from aiohttp import web

from gateway.api.keys import HTTP

FORWARDED_HEADER = "x-forwarded-for"
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def client_address(request: web.Request) -> str | None:
    """Of the socket; if that is a trusted proxy's, the last address in `x-forwarded-for` that is not one as well."""
    trusted = _networks(request.app[HTTP].trusted_proxies)
    address = request.remote
    if not trusted or not _within(address, trusted):
        return address
    for hop in _hops(request):
        address = hop
        if not _within(hop, trusted):
            break
    return address


def _hops(request: web.Request) -> Iterator[str]:
    """The nearest first; what is not an address ends the list, since nobody who is trusted wrote it."""
    for line in reversed(request.headers.getall(FORWARDED_HEADER, [])):
        for hop in reversed(line.split(",")):
            try:
                yield str(ipaddress.ip_address(hop.strip()))
            except ValueError:
                return


def _within(address: str | None, networks: tuple[Network, ...]) -> bool:
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    return any(parsed in network for network in networks)


@lru_cache(maxsize=4)
def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(one.strip()) for one in text.split(",") if one.strip())
