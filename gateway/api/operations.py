"""GET /health/live, /health/ready, /metrics, /openapi.json."""

from aiohttp import web

from gateway.api.keys import AUTHENTICATOR, CALL, ENTRIES, GATE, LIMITER, METRICS, OPENAPI, ROUTER
from gateway.api.responses import json_bytes, json_response, standard_headers
from gateway.api.schema import Liveness, Readiness

_OK = "ok"
# Begins the verdict on what works in a lesser way: ready all the same.
_DEGRADED = "degraded: "
_UNAVAILABLE = 503


async def live(request: web.Request) -> web.StreamResponse:
    """The process runs; nothing is said of what it depends on."""
    return json_response(request[CALL], Liveness("live"))


async def ready(request: web.Request) -> web.StreamResponse:
    """Requests can be served now, if need be with something degraded.

    A key store that has gone away does not change that: known keys still work.
    """
    app = request.app
    checks = {
        "gateway": "shutting down" if app[GATE].closed else _OK,
        "backend": app[ROUTER].problem or _OK,
        "keys": _OK if app[AUTHENTICATOR].loaded.is_set() else "not yet read from the key store",
        "limits": app[LIMITER].state,
        "ledger": app[ENTRIES].state,
    }
    good = all(verdict == _OK or verdict.startswith(_DEGRADED) for verdict in checks.values())
    body = Readiness("ready" if good else "unready", checks)
    return json_response(request[CALL], body, 200 if good else _UNAVAILABLE)


async def metrics(request: web.Request) -> web.StreamResponse:
    found = request.app[METRICS]
    headers = {**standard_headers(request[CALL]), "content-type": found.content_type}
    return web.Response(body=found.render(), headers=headers)


async def openapi(request: web.Request) -> web.StreamResponse:
    return json_bytes(request[CALL], request.app[OPENAPI])
