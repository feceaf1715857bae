"""Request bodies: read with bounds, parsed by whoever knows their shape."""

from collections.abc import Callable
from typing import TypeVar

import msgspec
from aiohttp import web

from gateway.api.keys import CALL, HTTP, OFFLOAD
from gateway.api.responses import JSON_TYPE
from gateway.core.requests import request_faults
from gateway.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType

Body = TypeVar("Body")


async def read_body(request: web.Request, parse: Callable[[bytes], Body]) -> Body:
    """Raises InvalidRequest, UnsupportedMediaType, PayloadTooLarge."""
    sent = request.headers.get("content-type")
    if sent not in (None, JSON_TYPE) and request.content_type != JSON_TYPE:
        raise UnsupportedMediaType(f"content-type {sent} is not understood: send {JSON_TYPE}")
    most = request.app[HTTP].max_body_bytes
    if (request.content_length or 0) > most:
        raise PayloadTooLarge(f"the request body has {request.content_length} bytes; at most {most} are accepted")
    raw = await request.read()
    call = request[CALL]
    call.size = len(raw)
    with request_faults():
        body = await request.app[OFFLOAD].run(len(raw), parse, raw)
    call.mark("parse")
    return body


def parser_of(kind: type[Body]) -> Callable[[bytes], Body]:
    """Parses bodies that no Triton model shares."""
    decoder = msgspec.json.Decoder(kind)

    def parse(raw: bytes) -> Body:
        try:
            return decoder.decode(raw)
        except msgspec.ValidationError as error:
            sentence, _, path = str(error).partition(" - at `$.")
            raise InvalidRequest(sentence, param=path.rstrip("`") or None) from error
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from error

    return parse
