"""Which arms use a version of a model, what the routing document says when there is one more, and when it is gone."""

from dataclasses import dataclass

from msgspec.structs import replace

from control_plane.arms import CHAT, DEFAULT_ARM, arm_of, ensemble_of, route_of, with_arm
from control_plane.errors import NotPossible
from gateway.core.snapshot import DEFAULT_GROUP, Arm, ModelRoute, RoutingSnapshot


@dataclass(frozen=True)
class Place:
    """A version on the backends of a group. `default`: it is what `chat` serves there to those who name no version."""

    version: str
    default: bool = False
    group: str = DEFAULT_GROUP

    def holds(self, arm: Arm) -> bool:
        if arm.group != self.group:
            return False
        if arm.triton_model == CHAT:
            return self.default if arm.version is None else arm.version == self.version
        return arm.triton_model == ensemble_of(self.version)


def new_arm(place: Place) -> Arm:
    """Without weight: nobody gets it who does not ask for it."""
    return Arm(
        name=f"v{place.version}",
        group=place.group,
        triton_model=ensemble_of(place.version),
        version=place.version,
        weight=0,
    )


def with_version(document: RoutingSnapshot, model: str, arm: Arm) -> RoutingSnapshot:
    """The same document when it has the arm. Raises NotPossible when another one has its name."""
    known = arm_of(document, model, arm.name)
    if known is not None and replace(known, weight=0) == replace(arm, weight=0):
        return document
    return with_arm(document, model, arm)


def without_version(document: RoutingSnapshot, model: str, place: Place) -> RoutingSnapshot:
    """Without the arms there. Raises NotPossible when somebody is given to one of them."""
    if needed := users(document, model, place):
        raise NotPossible(f"version {place.version} is still used, by {', '.join(needed)}")
    models = tuple(
        replace(route, arms=tuple(arm for arm in route.arms if not place.holds(arm))) for route in document.models
    )
    return document if models == document.models else replace(document, models=models)


def users(document: RoutingSnapshot, model: str, place: Place) -> list[str]:
    """Who is given to the version, in words. `model`: served by its default arm where the document does not name it."""
    found = []
    default = () if route_of(document, model) else (ModelRoute(name=model, arms=(Arm(name=DEFAULT_ARM),)),)
    for route in (*document.models, *default):
        total = sum(arm.weight for arm in route.arms)
        found += [
            f"arm {arm.name} of {route.name} with {100 * arm.weight / total:.0f} % of the calls"
            for arm in route.arms
            if arm.weight and place.holds(arm)
        ]
        if route.mirror is not None and place.holds(route.mirror.arm):
            found.append(f"the mirror of {route.name}")
    return found
