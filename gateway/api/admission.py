"""GET /admin/v1/admission."""

from aiohttp import web

from gateway.api.keys import CALL, GATE
from gateway.api.responses import json_response


async def show(request: web.Request) -> web.StreamResponse:
    return json_response(request[CALL], request.app[GATE].snapshot())
