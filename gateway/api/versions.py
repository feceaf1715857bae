"""GET /admin/v1/versions: which versions of the models answer, where, and how much of it."""

from collections.abc import Iterator
from typing import Literal

import msgspec
from aiohttp import web

from gateway.api.keys import CALL, MODELS, ROUTER
from gateway.api.responses import json_response


class ArmShare(msgspec.Struct):
    """`share`: of the model's calls, from 0 to 1."""

    name: str
    group: str
    weight: int
    share: float


class VersionObject(msgspec.Struct, kw_only=True):
    """As this gateway sees it. `backends`: those that have it ready."""

    model: str
    version: str
    object: Literal["model.version"] = "model.version"
    arms: list[ArmShare]
    backends: list[str]
    in_flight_requests: int


class VersionList(msgspec.Struct):
    object: Literal["list"]
    data: list[VersionObject]


async def index(request: web.Request) -> web.StreamResponse:
    return json_response(request[CALL], VersionList("list", list(_versions(request.app))))


def _versions(app: web.Application) -> Iterator[VersionObject]:
    router = app[ROUTER]
    for model in app[MODELS]:
        route = router.route_of(model.name)
        total = sum(arm.weight for arm in route.arms) if route is not None else 0
        for version in router.versions_of(model.name):
            having = router.having(model.name, version)
            yield VersionObject(
                model=model.name,
                version=version,
                arms=[
                    ArmShare(arm.name, arm.group, arm.weight, arm.weight / total if total else 0.0) for arm in having
                ],
                backends=sorted({name for names in having.values() for name in names}),
                in_flight_requests=router.running(model.name, version),
            )
