"""Whole answers and the headers that every answer has."""

import math
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec
from aiohttp import web

from gateway.core.call import Call
from gateway.errors import GatewayError

JSON_TYPE = "application/json"
_ENCODER = msgspec.json.Encoder()


def standard_headers(call: Call) -> dict[str, str]:
    headers = {"x-request-id": call.id, "server": "trireme"}
    if call.stages:
        headers["server-timing"] = ", ".join(_timings(call))
    if call.model_version is not None:
        headers["x-model-version"] = call.model_version
    if call.cache is not None:
        headers["x-cache"] = call.cache
    return headers | call.headers


def _timings(call: Call) -> Iterator[str]:
    for stage, ms in call.stages.items():
        place = f';desc="place {call.queue_position}"' if stage == "admission" and call.queue_position else ""
        yield f"{stage}{place};dur={ms:.3f}"


def json_response(call: Call, body: Any, status: int = 200) -> web.Response:
    """`body`: anything that msgspec encodes."""
    return json_bytes(call, _ENCODER.encode(body), status)


def json_bytes(call: Call, body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type=JSON_TYPE, headers=standard_headers(call))


class Named(Protocol):
    """A checked request body."""

    @property
    def model(self) -> str | None: ...


def answering(call: Call, body: Named) -> str:
    """The model as the client calls it, or the one that a router chose."""
    return call.routed.model if call.routed is not None else body.model or ""


def error_response(call: Call, error: GatewayError) -> web.Response:
    response = json_bytes(call, error_body(error), error.status)
    response.headers.update(error.headers)
    if error.retry_after is not None:
        response.headers["retry-after"] = str(math.ceil(error.retry_after))
        response.headers["retry-after-ms"] = str(round(error.retry_after * 1000))
    if not error.retryable:
        response.headers["x-should-retry"] = "false"
    return response


def error_body(error: GatewayError) -> bytes:
    """OpenAI's error object, all four members."""
    return _ENCODER.encode(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    )
