"""Request bodies: read with bounds, parsed by whoever knows their shape."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec
from aiohttp import web

from gateway.api.keys import CALL, HTTP, OFFLOAD
from gateway.api.responses import JSON_TYPE
from gateway.core.requests import request_faults
from gateway.errors import PayloadTooLarge, UnsupportedMediaType
from python_backends.preprocessing.parsing import decode_body

Body = TypeVar("Body")
Shape = TypeVar("Shape", bound=msgspec.Struct)


async def read_body(request: web.Request, parse: Callable[[bytes], Body]) -> Body:
    """Raises InvalidRequest, UnsupportedMediaType, PayloadTooLarge."""
    raw = await read_raw(request)
    call = request[CALL]
    with request_faults():
        body = await request.app[OFFLOAD].run(len(raw), parse, raw)
    call.mark("parse")
    return body


async def read_raw(request: web.Request) -> bytes:
    """Also a second time. Raises UnsupportedMediaType, PayloadTooLarge."""
    sent = request.headers.get("content-type")
    if sent not in (None, JSON_TYPE) and request.content_type != JSON_TYPE:
        raise UnsupportedMediaType(f"content-type {sent} is not understood: send {JSON_TYPE}")
    most = request.app[HTTP].max_body_bytes
    if (request.content_length or 0) > most:
        raise PayloadTooLarge(f"the request body has {request.content_length} bytes; at most {most} are accepted")
    raw = await request.read()
    request[CALL].size = len(raw)
    return raw


def parser_of(kind: type[Shape]) -> Callable[[bytes], Shape]:
    """Parses bodies that no Triton model shares, with the same words for what is wrong."""
    return partial(decode_body, msgspec.json.Decoder(kind), kind=kind)
