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
    adapter = model.adapter
    return ModelObject(
        id=model.name,
        object="model",
        created=model.created,
        owned_by="trireme",
        max_model_len=model.max_model_len,
        root=model.name if adapter is None else adapter.path,
        parent=None if adapter is None else adapter.base,
        versions=list(models.versions(model)),
    )
