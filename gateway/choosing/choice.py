"""Which of some candidates answers. Pure: the same candidates give the same choice."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.choosing.spec import RouterSpec

Reason = Literal["rule", "only", "default", "target", "best", "share", "held"]


@dataclass(frozen=True, slots=True)
class Option:
    """A candidate, for one request.

    `problem`: why it cannot serve it at all, or "". `cost`: per million tokens. `predicted`: the chance that its answer
    is good, None while nobody knows how hard the request is. `ms`: what its answer is expected to take, None if nothing
    was measured lately. `saturation`: 0 to 1, None when no backend can take calls.
    """

    model: str
    cost: float
    predicted: float | None = None
    ms: float | None = None
    problem: str = ""
    saturation: float | None = 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """`verdicts`: of the others, why not. `option` is None when none can serve the request."""

    option: Option | None
    reason: Reason
    verdicts: dict[str, str]


def decide(
    router: RouterSpec,
    options: Sequence[Option],
    *,
    ruled: str | None = None,
    held: str | None = None,
    hard: bool = False,
) -> Choice:
    """`ruled`: the model that a rule wants. `held`: the one that the conversation has. `hard`: whether the request is
    among the share that goes to the best model.

    What a candidate cannot do, and the cost ceiling, are never given way to. Load and the latency budget are, when
    nobody would be left; a rule goes before them.
    """
    verdicts = {option.model: option.problem or too_dear(router, option.cost) for option in options}
    able = [option for option in options if not verdicts[option.model]]
    if not able:
        return Choice(None, "only", verdicts)
    wanted = _named(able, ruled)
    if wanted is not None:
        return _chosen(wanted, "rule", options, verdicts, f"rule wants {wanted.model}")
    free = _keep(able, lambda one: _crowding(router, one), verdicts)
    left = _in_time(router, free, verdicts)
    if len(left) == 1:
        return _chosen(left[0], "only", options, verdicts, "")
    if any(option.predicted is None for option in left):
        default = _named(left, held) or _named(left, router.default or router.models[0]) or min(left, key=_cheapness)
        return _chosen(default, "default", options, verdicts, "no score")
    pick, reason, verdict = _by_policy(router, left, hard=hard)
    kept = _named(left, held)
    if kept is not None and kept is not pick and _chance(kept) + router.sticky_slack >= _needed(router, pick):
        return _chosen(kept, "held", options, verdicts, "conversation is held")
    return _chosen(pick, reason, options, verdicts, verdict)


def too_dear(router: RouterSpec, cost: float) -> str:
    """What is said of a candidate above the ceiling, or ""."""
    if router.max_cost is None or cost <= router.max_cost:
        return ""
    return f"costs {cost:g}, more than {router.max_cost:g}"


def predicted(points: Sequence[tuple[float, float]], score: float) -> float:
    """The chance at `score`: straight lines between the points, level beyond them."""
    place = bisect_right(points, score, key=lambda point: point[0])
    if place == 0:
        return points[0][1]
    if place == len(points):
        return points[-1][1]
    (left, low), (right, high) = points[place - 1], points[place]
    return low + (high - low) * (score - left) / (right - left)


def _crowding(router: RouterSpec, option: Option) -> str:
    if option.saturation is None:
        return "no backend"
    return f"full ({option.saturation:.2f})" if option.saturation >= router.full else ""


def _keep(options: Sequence[Option], problem: Callable[[Option], str], verdicts: dict[str, str]) -> Sequence[Option]:
    """Those without the problem; all of them where everybody has it, but rather those that are not down."""
    found = {option.model: problem(option) for option in options}
    kept = [option for option in options if not found[option.model]]
    kept = kept or [option for option in options if option.saturation is not None] or list(options)
    verdicts |= {option.model: found[option.model] for option in options if option not in kept}
    return kept


def _in_time(router: RouterSpec, options: Sequence[Option], verdicts: dict[str, str]) -> Sequence[Option]:
    """Those within the latency budget, or the fastest alone."""
    budget = router.max_ms
    if budget is None:
        return options
    quick = [option for option in options if option.ms is None or option.ms <= budget]
    quick = quick or [min(options, key=lambda option: (option.ms or 0.0, *_cheapness(option)))]
    verdicts |= {
        one.model: f"takes {one.ms:.0f} ms, more than {budget:g}" for one in options if one.ms and one not in quick
    }
    return quick


def _by_policy(router: RouterSpec, options: Sequence[Option], *, hard: bool) -> tuple[Option, Reason, str]:
    """With what is said of the others."""
    best = min(options, key=lambda option: (-_chance(option), *_cheapness(option)))
    if router.policy == "quality":
        reaching = [option for option in options if _chance(option) >= router.target]
        if reaching:
            return min(reaching, key=_cheapness), "target", f"target {router.target:g}"
        return best, "best", f"none reaches {router.target:g}"
    if router.policy == "share":
        return (best, "share", "hard") if hard else (min(options, key=_cheapness), "share", "not hard")
    return best, "best", "worse, or dearer"


def _needed(router: RouterSpec, pick: Option) -> float:
    """The chance that a conversation's model must have to keep it: that of the pick, but no more than is asked for."""
    return min(router.target, _chance(pick)) if router.policy == "quality" else _chance(pick)


def _chosen(
    option: Option, reason: Reason, options: Iterable[Option], verdicts: dict[str, str], verdict: str
) -> Choice:
    others = {
        one.model: verdicts[one.model] or (f"{verdict} ({_chance(one):.3f})" if one.predicted is not None else verdict)
        for one in options
        if one is not option
    }
    return Choice(option, reason, others)


def _named(options: Iterable[Option], model: str | None) -> Option | None:
    return next((option for option in options if option.model == model), None)


def _chance(option: Option) -> float:
    return option.predicted if option.predicted is not None else 0.0


def _cheapness(option: Option) -> tuple[float, float, str]:
    """The cheapest first; among equals the better one."""
    return option.cost, -_chance(option), option.model
