"""GET /v1/models and /v1/models/{model}."""

from aiohttp import web

from gateway.api.keys import CALL, MODELS
from gateway.api.responses import json_response
from gateway.api.schema import ModelList, ModelObject
from gateway.core.call import Model
from gateway.routing.models import Models


async def index(request: web.Request) -> web.StreamResponse:
    call = request[CALL]
    models = request.app[MODELS]
    return json_response(call, ModelList("list", [_object(models, model) for model in models.allowed(call)]))


async def show(request: web.Request) -> web.StreamResponse:
    call = request[CALL]
    models = request.app[MODELS]
    return json_response(call, _object(models, models.find(call, request.match_info["model"])))


def _object(models: Models, model: Model) -> ModelObject:
    versions = list(models.versions(model))
    return ModelObject(model.name, "model", model.created, "trireme", model.max_model_len, versions)
