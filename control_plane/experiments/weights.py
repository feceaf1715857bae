"""What the routing document must say for an experiment or a mirroring."""

from msgspec.structs import replace

from control_plane.arms import route_of, route_or_default, with_route
from control_plane.errors import NotPossible
from control_plane.experiments.state import Experiment, Mirroring, Trial
from gateway.core.snapshot import Division, RoutingSnapshot


def followed(document: RoutingSnapshot, trial: Trial) -> RoutingSnapshot:
    """The same document when it says so already. Raises NotPossible."""
    if isinstance(trial, Experiment):
        return _divided(document, trial) if trial.under_way else _restored(document, trial)
    return _mirrored(document, trial) if trial.under_way else _unmirrored(document, trial)


def weights_of(document: RoutingSnapshot, model: str, arms: dict[str, int]) -> dict[str, int]:
    """Those of all arms now. Raises NotPossible when one of `arms` does not exist, or another experiment has them."""
    route = route_of(document, model)
    known = {} if route is None else {arm.name: arm.weight for arm in route.arms}
    missing = [name for name in arms if name not in known]
    if missing:
        raise NotPossible(
            f"there is no arm {missing[0]!r} of {model}; there are: {', '.join(known) or 'none but its own'}; "
            "trireme arms add makes one"
        )
    if route is not None and route.division is not None:
        raise NotPossible(f"experiment {route.division.experiment} divides {model} already")
    return known


def _divided(document: RoutingSnapshot, experiment: Experiment) -> RoutingSnapshot:
    route = route_of(document, experiment.model)
    if route is None or not set(experiment.arms) <= {arm.name for arm in route.arms}:
        raise NotPossible(f"an arm of experiment {experiment.id} is gone from {experiment.model}")
    arms = tuple(replace(arm, weight=experiment.arms.get(arm.name, 0)) for arm in route.arms)
    return with_route(
        document, replace(route, arms=arms, division=Division(experiment=experiment.id, by=experiment.by))
    )


def _restored(document: RoutingSnapshot, experiment: Experiment) -> RoutingSnapshot:
    """Only what is still as the experiment left it."""
    route = route_of(document, experiment.model)
    if route is None or route.division is None or route.division.experiment != experiment.id:
        return document
    arms = tuple(replace(arm, weight=experiment.before.get(arm.name, 0)) for arm in route.arms)
    if not any(arm.weight for arm in arms):
        raise NotPossible(f"none of the arms that served {experiment.model} before is there any more")
    return with_route(document, replace(route, arms=arms, division=None))


def _mirrored(document: RoutingSnapshot, mirroring: Mirroring) -> RoutingSnapshot:
    route = route_or_default(document, mirroring.model, mirroring.mirror.arm)
    return with_route(document, replace(route, mirror=mirroring.mirror))


def _unmirrored(document: RoutingSnapshot, mirroring: Mirroring) -> RoutingSnapshot:
    route = route_of(document, mirroring.model)
    if route is None or route.mirror is None or route.mirror.id != mirroring.id:
        return document
    return with_route(document, replace(route, mirror=None))
