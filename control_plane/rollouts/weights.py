"""What the routing document must say for a rollout."""

from msgspec.structs import replace

from control_plane.arms import arm_of, ensemble_of, route_of, route_or_default, with_route
from control_plane.errors import NotPossible
from control_plane.rollouts.state import WHOLE, Definition, Rollout, Rules
from gateway.core.snapshot import Arm, ModelRoute, RoutingSnapshot


def define(document: RoutingSnapshot, model: str, canary: Arm, rules: Rules) -> Definition:
    """The stable arm is the one that serves the model now.

    Raises NotPossible when there is more than one arm, or the canary would be the same.
    """
    serving = [arm for arm in route_or_default(document, model, canary).arms if arm.weight]
    if len(serving) != 1:
        raise NotPossible(
            f"{model} is served by {', '.join(arm.name for arm in serving)}: a rollout begins from one arm"
        )
    stable = serving[0]
    if _place(stable) == _place(canary):
        raise NotPossible(f"the canary is where the stable arm is: {_described(stable)}")
    return Definition(model=model, stable=replace(stable, weight=1), canary=replace(canary, weight=1), rules=rules)


def registered(document: RoutingSnapshot, model: str, canary: Arm) -> Arm:
    """An arm of which only the name is given is the one that the document has under this name, if it has one."""
    if canary != Arm(name=canary.name):
        return canary
    return arm_of(document, model, canary.name) or canary


def with_weights(document: RoutingSnapshot, rollout: Rollout) -> RoutingSnapshot:
    """The same document when it says so already; the version is whoever writes it's."""
    definition = rollout.definition
    route = route_of(document, definition.model)
    arms = (*_arms(definition, rollout.share), *_bystanders(definition, route))
    return with_route(document, replace(route or ModelRoute(name=definition.model, arms=arms), arms=arms))


def _arms(definition: Definition, share: int) -> tuple[Arm, ...]:
    """The canary first: whoever was given to it stays with it when its share grows. Who gets nothing is left out, but
    for a version that is loaded: it can be asked for until it is unloaded.
    """
    if share == WHOLE:
        return (definition.canary, *_asked_for(definition.stable))
    if share == 0:
        return (definition.stable, *_asked_for(definition.canary))
    return (replace(definition.canary, weight=share), replace(definition.stable, weight=WHOLE - share))


def _asked_for(arm: Arm) -> tuple[Arm, ...]:
    own = arm.version is not None and arm.triton_model == ensemble_of(arm.version)
    return (replace(arm, weight=0),) if own else ()


def _bystanders(definition: Definition, route: ModelRoute | None) -> tuple[Arm, ...]:
    """Arms that nobody is given to, and that are for those who ask for their version."""
    names = (definition.canary.name, definition.stable.name)
    return () if route is None else tuple(arm for arm in route.arms if not arm.weight and arm.name not in names)


def _place(arm: Arm) -> tuple[str, str, str | None]:
    return arm.group, arm.triton_model, arm.version


def _described(arm: Arm) -> str:
    version = "" if arm.version is None else f", version {arm.version}"
    return f"group {arm.group}, model {arm.triton_model}{version}"
