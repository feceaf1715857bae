"""GET /v1/models and /v1/models/{model}."""

from aiohttp import web

from gateway.api.keys import CALL, MODELS
from gateway.api.responses import json_response
from gateway.api.schema import ModelList, ModelObject
from gateway.core.call import Model


async def index(request: web.Request) -> web.StreamResponse:
    return json_response(request[CALL], ModelList("list", [_object(model) for model in request.app[MODELS]]))


async def show(request: web.Request) -> web.StreamResponse:
    return json_response(request[CALL], _object(request.app[MODELS].find(request.match_info["model"])))


def _object(model: Model) -> ModelObject:
    return ModelObject(model.name, "model", model.created, "trireme", model.max_model_len)
