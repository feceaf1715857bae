"""Around every request: its Call, its line in the log, and the one place that turns exceptions into answers."""

import asyncio
import logging
import re
import secrets

from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.accounting.outcome import Outcome, outcome_of
from gateway.api.keys import CALL, GATE, HTTP, LEDGER, METRICS, TRACES
from gateway.api.responses import error_response, standard_headers
from gateway.core.call import Call
from gateway.core.limit import TimeLimit
from gateway.core.trace import read_traceparent
from gateway.errors import (
    ClientGone,
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    PayloadTooLarge,
    UnknownUrl,
)
from gateway.telemetry.metrics import UNKNOWN

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Asked every few seconds by machines: written down only when somebody wants to see everything.
_ROUTINE = frozenset({"/health/live", "/health/ready", "/metrics"})


@web.middleware
async def access(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every request ends in exactly one line, whichever way it goes."""
    call = _new_call(request)
    request[CALL] = call
    if (traces := request.app.get(TRACES)) is not None:
        traces.begin(call)
    ledger, in_flight = request.app[LEDGER], request.app[METRICS].in_flight
    in_flight.inc()
    try:
        response, outcome = await _answer(request, handler, call)
        level = logging.DEBUG if call.route in _ROUTINE else logging.INFO
        ledger.close(call, outcome, level)
    except asyncio.CancelledError as error:
        ledger.close(call, outcome_of(error))
        raise
    finally:
        in_flight.dec()
    if request.app[GATE].closed:
        response.force_close()
    return response


async def _answer(request: web.Request, handler: Handler, call: Call) -> tuple[web.StreamResponse, Outcome]:
    try:
        response = await handler(request)
    except Exception as error:  # noqa: BLE001 - boundary: nothing that a handler raises reaches a client unrendered
        failure = as_gateway_error(error, call)
        return error_response(call, failure), outcome_of(failure)
    if not response.prepared:
        for name, value in standard_headers(call).items():
            response.headers.setdefault(name, value)
    return response, Outcome(response.status)


def as_gateway_error(error: Exception, call: Call) -> GatewayError:
    """aiohttp's refusals in our words; a bug is logged with its traceback and told with the request's id only."""
    refusal = error if isinstance(error, GatewayError) else _refusal(error)
    if refusal is None:
        log.error("request %s failed", call.id, exc_info=error)
        return GatewayError(f"the server failed; its log has the reason under request id {call.id}")
    return refusal


def _refusal(error: Exception) -> GatewayError | None:
    match error:
        case web.HTTPNotFound():
            return UnknownUrl("there is nothing at this address: see /openapi.json")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return MethodNotAllowed(f"{error.method} does nothing here: use {allowed}", headers={"allow": allowed})
        case web.HTTPRequestEntityTooLarge():
            return PayloadTooLarge("the request body is larger than this server accepts")
        case web.RequestPayloadError():
            return InvalidRequest("the request body cannot be read", code="invalid_body")
        case ConnectionError():
            return ClientGone("the client closed the connection")
    return None


def _new_call(request: web.Request) -> Call:
    uid = secrets.token_hex(16)
    asked = request.headers.get("x-request-id", "")
    traceparent = request.headers.get("traceparent", "")
    session = request.headers.get("x-session-id", "")
    return Call(
        id=asked if _REQUEST_ID.fullmatch(asked) else f"req-{uid}",
        uid=uid,
        route=_route(request),
        limit=TimeLimit(request.app[HTTP].default_deadline_s),
        traceparent=traceparent if read_traceparent(traceparent) else None,
        session=session if _REQUEST_ID.fullmatch(session) else None,
    )


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return UNKNOWN if resource is None else resource.canonical
