"""GET /v1/models and /v1/models/{model}."""

from aiohttp import web

from gateway.api.keys import CALL, MODELS
from gateway.api.responses import json_response
from gateway.api.schema import ModelList, ModelObject
from gateway.core.call import Model


async def index(request: web.Request) -> web.StreamResponse:
    call = request[CALL]
    return json_response(call, ModelList("list", [_object(model) for model in request.app[MODELS].allowed(call)]))


async def show(request: web.Request) -> web.StreamResponse:
    call = request[CALL]
    return json_response(call, _object(request.app[MODELS].find(call, request.match_info["model"])))


def _object(model: Model) -> ModelObject:
    return ModelObject(model.name, "model", model.created, "trireme", model.max_model_len)
