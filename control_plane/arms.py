"""The arms of a model in the routing document: found, added and taken away."""

from typing import Final

from msgspec.structs import replace

from control_plane.errors import NotFound, NotPossible
from gateway.core.snapshot import Arm, ModelRoute, RoutingSnapshot

# What a gateway has for a model that the document does not name.
DEFAULT_ARM: Final = "stable"
CHAT: Final = "chat"
_EMBED: Final = "embed"


def ensemble_of(version: str) -> str:
    """The Triton model of just this version; that of the version which is shipped is `CHAT` itself."""
    return f"{CHAT}_{version}"


def route_of(document: RoutingSnapshot, model: str) -> ModelRoute | None:
    return next((route for route in document.models if route.name == model), None)


def route_or_default(document: RoutingSnapshot, model: str, other: Arm) -> ModelRoute:
    """A model that the document does not name has one arm of its own, as gateways make it; `other` tells its task."""
    default = Arm(name=DEFAULT_ARM, triton_model=_EMBED if other.triton_model == _EMBED else CHAT)
    return route_of(document, model) or ModelRoute(name=model, arms=(default,))


def arm_of(document: RoutingSnapshot, model: str, name: str) -> Arm | None:
    route = route_of(document, model)
    return next((arm for arm in route.arms if arm.name == name), None) if route is not None else None


def with_route(document: RoutingSnapshot, route: ModelRoute) -> RoutingSnapshot:
    """The same document when it has the route."""
    if route_of(document, route.name) == route:
        return document
    others = tuple(one for one in document.models if one.name != route.name)
    return replace(document, models=(*others, route))


def with_arm(document: RoutingSnapshot, model: str, arm: Arm) -> RoutingSnapshot:
    """One more arm, which gets nobody yet. Raises NotPossible."""
    route = route_or_default(document, model, arm)
    if any(one.name == arm.name for one in route.arms):
        raise NotPossible(f"there is an arm {arm.name!r} of {model} already")
    return with_route(document, replace(route, arms=(*route.arms, replace(arm, weight=0))))


def without_arm(document: RoutingSnapshot, model: str, name: str) -> RoutingSnapshot:
    """Raises NotFound, NotPossible for one that calls may go to."""
    route, arm = route_of(document, model), arm_of(document, model, name)
    if route is None or arm is None:
        raise NotFound(f"there is no arm {name!r} of {model}")
    if arm.weight:
        raise NotPossible(f"arm {name!r} of {model} has the weight {arm.weight}: it serves calls")
    return with_route(document, replace(route, arms=tuple(one for one in route.arms if one is not arm)))
