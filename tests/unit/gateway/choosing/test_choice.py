"""Which candidate answers: tables, and what holds for all candidates whatsoever."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.choosing.choice import Option, decide, predicted
from gateway.choosing.spec import CandidateSpec, RouterSpec

NAMES = ("small", "medium", "large")
CHEAP = Option("small", cost=1, predicted=0.5)
MIDDLE = Option("medium", cost=4, predicted=0.7)
DEAR = Option("large", cost=20, predicted=0.9)
ALL = (CHEAP, MIDDLE, DEAR)


def router(**fields: Any) -> RouterSpec:
    candidates = tuple(CandidateSpec(model=name, quality=((0.0, 1.0),)) for name in NAMES)
    return RouterSpec(name="auto", candidates=candidates, **fields)


def but(option: Option, **changes: Any) -> Option:
    fields = {name: getattr(option, name) for name in ("model", "cost", "predicted", "ms", "problem", "saturation")}
    return Option(**(fields | changes))


def chosen(options: tuple[Option, ...] = ALL, spec: RouterSpec | None = None, **known: Any) -> tuple[str | None, str]:
    choice = decide(spec or router(), options, **known)
    return choice.option.model if choice.option else None, choice.reason


@pytest.mark.parametrize(
    ("target", "model", "reason"),
    [
        (0.0, "small", "target"),
        (0.5, "small", "target"),
        (0.6, "medium", "target"),
        (0.9, "large", "target"),
        (0.95, "large", "best"),
    ],
)
def test_quality_takes_the_cheapest_that_reaches_the_target(target: float, model: str, reason: str) -> None:
    assert chosen(spec=router(target=target)) == (model, reason)


@pytest.mark.parametrize(("ceiling", "model"), [(1, "small"), (5, "medium"), (100, "large"), (0.5, None)])
def test_cost_takes_the_best_below_the_ceiling(ceiling: float, model: str | None) -> None:
    assert chosen(spec=router(policy="cost", max_cost=ceiling))[0] == model


def test_latency_takes_the_best_in_time_or_the_fastest() -> None:
    timed = (but(CHEAP, ms=300), but(MIDDLE, ms=800), but(DEAR, ms=4000))
    assert chosen(timed, router(policy="latency", max_ms=1000)) == ("medium", "best")
    assert chosen(timed, router(policy="latency", max_ms=100)) == ("small", "only")


def test_what_was_never_measured_may_show_what_it_takes() -> None:
    timed = (but(CHEAP, ms=300), but(MIDDLE, ms=800), DEAR)
    assert chosen(timed, router(policy="latency", max_ms=500))[0] == "large"


@pytest.mark.parametrize(("hard", "model"), [(True, "large"), (False, "small")])
def test_a_share_sends_what_is_hard_to_the_best(hard: bool, model: str) -> None:
    assert chosen(spec=router(policy="share"), hard=hard) == (model, "share")


def test_without_a_score_the_default_answers() -> None:
    unknown = tuple(but(option, predicted=None) for option in ALL)
    assert chosen(unknown, router(default="medium")) == ("medium", "default")
    assert chosen(unknown) == ("small", "default")
    assert chosen((but(unknown[0], problem="too short a context"), *unknown[1:])) == ("medium", "default")


def test_without_a_score_a_conversation_stays_where_it_is() -> None:
    unknown = tuple(but(option, predicted=None) for option in ALL)
    assert chosen(unknown, router(default="medium"), held="large") == ("large", "default")


def test_a_rule_goes_before_everything_but_what_its_model_cannot_do() -> None:
    assert chosen(ruled="large") == ("large", "rule")
    assert chosen((CHEAP, MIDDLE, but(DEAR, saturation=1.0)), ruled="large") == ("large", "rule")
    assert chosen((CHEAP, MIDDLE, but(DEAR, problem="has no tools")), ruled="large")[0] != "large"
    assert chosen(spec=router(max_cost=5), ruled="large")[0] != "large"


def test_what_is_full_is_avoided_while_there_is_another() -> None:
    assert chosen((but(CHEAP, saturation=0.95), MIDDLE, DEAR), router(target=0.4)) == ("medium", "target")
    full = tuple(but(option, saturation=1.0) for option in ALL)
    assert chosen(full, router(target=0.4)) == ("small", "target")


def test_what_is_down_is_avoided_even_where_all_others_are_full() -> None:
    options = (but(CHEAP, saturation=None), but(MIDDLE, saturation=1.0), but(DEAR, saturation=1.0))
    assert chosen(options, router(target=0.4)) == ("medium", "target")
    assert chosen(tuple(but(option, saturation=None) for option in ALL), router(target=0.4))[0] == "small"


@pytest.mark.parametrize(
    ("held", "slack", "target", "model"),
    [
        ("large", 0.1, 0.4, "large"),
        ("small", 0.1, 0.65, "medium"),
        ("small", 0.1, 0.6, "small"),
        ("small", 0.3, 0.8, "small"),
        ("medium", 0.1, 0.6, "medium"),
    ],
)
def test_a_conversation_keeps_its_model_unless_that_falls_short_by_more_than_the_slack(
    held: str, slack: float, target: float, model: str
) -> None:
    assert chosen(spec=router(target=target, sticky_slack=slack), held=held)[0] == model


def test_every_other_candidate_is_told_why_not() -> None:
    options = (
        but(CHEAP, problem="too short a context"),
        but(MIDDLE, saturation=0.97),
        DEAR,
        but(DEAR, model="huge", cost=99),
    )
    choice = decide(router(max_cost=50), options)
    assert choice.option is DEAR
    assert choice.verdicts == {
        "small": "too short a context",
        "medium": "full (0.97)",
        "huge": "costs 99, more than 50",
    }


def test_where_nobody_can_each_says_why() -> None:
    choice = decide(router(max_cost=0.5), (but(CHEAP, problem="has no tools"), MIDDLE))
    assert choice.option is None
    assert choice.verdicts == {"small": "has no tools", "medium": "costs 4, more than 0.5"}


def test_a_conversation_is_not_taken_to_a_better_model_that_nobody_asked_for() -> None:
    dearer = (but(CHEAP, predicted=0.68), DEAR)
    assert chosen(dearer, router(target=0.7), held="small") == ("small", "held")
    assert chosen(dearer, router(target=0.7))[0] == "large"
    assert chosen(dearer, router(policy="cost", max_cost=50), held="small")[0] == "large"


@pytest.mark.parametrize(("score", "chance"), [(0.0, 0.9), (0.2, 0.9), (0.3, 0.75), (0.4, 0.6), (0.7, 0.4), (1.0, 0.2)])
def test_chances_lie_on_straight_lines_between_the_points(score: float, chance: float) -> None:
    assert predicted(((0.2, 0.9), (0.4, 0.6), (1.0, 0.2)), score) == pytest.approx(chance)


CHANCES = st.floats(0, 1)
OPTIONS = st.lists(
    st.builds(
        Option,
        st.sampled_from(["a", "b", "c", "d", "e"]),
        cost=st.floats(0, 100),
        predicted=CHANCES,
        ms=st.none() | st.floats(0, 10_000),
        problem=st.sampled_from(["", "", "has no tools"]),
        saturation=st.none() | CHANCES,
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda option: option.model,
).map(tuple)
ROUTERS = st.builds(
    router,
    policy=st.sampled_from(["quality", "cost", "latency", "share"]),
    target=CHANCES,
    max_cost=st.none() | st.floats(0.1, 100),
    max_ms=st.none() | st.floats(1, 10_000),
)


@given(OPTIONS, ROUTERS, CHANCES, CHANCES)
def test_a_higher_target_never_gets_a_worse_chance(
    options: tuple[Option, ...], spec: RouterSpec, one: float, other: float
) -> None:
    fields = {"max_cost": spec.max_cost, "max_ms": spec.max_ms}
    low = decide(router(target=min(one, other), **fields), options).option
    high = decide(router(target=max(one, other), **fields), options).option
    assert (low is None) == (high is None)
    if low is not None and high is not None:
        assert (high.predicted or 0) >= (low.predicted or 0)


@given(OPTIONS, ROUTERS, st.sampled_from(["a", "b", None]), st.sampled_from(["a", "b", None]), st.booleans())
def test_what_cannot_or_costs_too_much_is_never_chosen_and_nobody_only_where_all_are_so(
    options: tuple[Option, ...], spec: RouterSpec, ruled: str | None, held: str | None, hard: bool
) -> None:
    able = [one for one in options if not one.problem and (spec.max_cost is None or one.cost <= spec.max_cost)]
    choice = decide(spec, options, ruled=ruled, held=held, hard=hard)
    assert (choice.option in able) if able else choice.option is None
    assert set(choice.verdicts) == {one.model for one in options} - ({choice.option.model} if choice.option else set())


@given(OPTIONS, ROUTERS, st.randoms())
def test_the_order_of_the_candidates_changes_nothing(
    options: tuple[Option, ...], spec: RouterSpec, chance: Any
) -> None:
    shuffled = list(options)
    chance.shuffle(shuffled)
    first, second = decide(spec, options), decide(spec, shuffled)
    assert (first.option, first.reason, first.verdicts) == (second.option, second.reason, second.verdicts)


@given(OPTIONS, st.floats(1, 10_000))
def test_the_budget_is_kept_by_whoever_can(options: tuple[Option, ...], budget: float) -> None:
    usable = [one for one in options if not one.problem]
    alive = [one for one in usable if one.saturation is not None and one.saturation < 0.95]
    choice = decide(router(policy="latency", max_ms=budget), options)
    if any(one.ms is None or one.ms <= budget for one in alive) and choice.option is not None:
        assert choice.option.ms is None or choice.option.ms <= budget
