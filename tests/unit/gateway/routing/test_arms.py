"""Which arm of a model serves whom."""

from collections import Counter

import pytest

from gateway.core.snapshot import Arm, Division, ModelRoute, Unit
from gateway.routing.arms import arms_for, arms_of, note_experiment
from tests.unit.gateway.routing.fakes import new_call

STABLE, CANARY, OFF = Arm(name="stable", weight=90), Arm(name="canary", weight=10), Arm(name="off", weight=0)


def test_weights_are_kept() -> None:
    chosen = Counter(arms_for("m", (STABLE, CANARY, OFF), f"tenant {number}")[0].name for number in range(5000))
    assert 400 < chosen["canary"] < 600
    assert chosen["off"] == 0


def test_the_same_caller_gets_the_same_arm_and_others_stand_in() -> None:
    arms = (CANARY, STABLE, OFF)
    assert len({arms_for("m", arms, "acme")[0].name for _ in range(20)}) == 1
    assert [arm.name for arm in arms_for("m", arms, "acme")][1:] in (["canary"], ["stable"])


def test_models_divide_their_callers_differently() -> None:
    def canaries(model: str) -> set[int]:
        return {n for n in range(2000) if arms_for(model, (STABLE, CANARY), f"t{n}")[0] is CANARY}

    assert canaries("a") != canaries("b")


def test_who_moves_when_a_weight_grows_moves_to_that_arm() -> None:
    before = [arms_for("m", (CANARY, STABLE), f"t{n}")[0].name for n in range(1000)]
    larger = (Arm(name="canary", weight=30), Arm(name="stable", weight=70))
    after = [arms_for("m", larger, f"t{n}")[0].name for n in range(1000)]
    assert {(old, new) for old, new in zip(before, after, strict=True) if old != new} == {("stable", "canary")}


def test_a_single_arm_serves_everybody() -> None:
    assert arms_for("m", (OFF,), "acme") == (OFF,)


def test_nobody_moves_between_arms_whose_weights_keep_their_proportion() -> None:
    arms = {name: Arm(name=name, weight=20) for name in "abc"}
    before = [arms_for("m", list(arms.values()), f"t{n}")[0].name for n in range(1000)]
    larger = [arms["a"], arms["b"], Arm(name="c", weight=60)]
    after = [arms_for("m", larger, f"t{n}")[0].name for n in range(1000)]
    assert {(old, new) for old, new in zip(before, after, strict=True) if old != new} == {("a", "c"), ("b", "c")}


def test_those_who_stand_in_share_the_calls_of_a_lost_arm_by_their_weights() -> None:
    arms = (Arm(name="a", weight=50), Arm(name="b", weight=40), Arm(name="c", weight=10))
    second = Counter(found[1].name for n in range(4000) if (found := arms_for("m", arms, f"t{n}"))[0].name == "a")
    assert 0.75 < second["b"] / second.total() < 0.85


def divided(by: Unit, experiment: str = "ex_1") -> ModelRoute:
    arms = (Arm(name="a", weight=50), Arm(name="b", weight=50))
    return ModelRoute(name="tiny", arms=arms, division=Division(experiment=experiment, by=by))


@pytest.mark.parametrize(
    ("by", "field"), [("tenant", None), ("user", "user"), ("session", "session")], ids=["tenant", "user", "session"]
)
def test_a_unit_of_an_experiment_keeps_its_arm_and_is_counted_as_one(by: Unit, field: str | None) -> None:
    seen = set()
    for number in range(20):
        call = new_call("acme")
        call.uid = f"u{number}"
        if field is not None:
            setattr(call, field, "ann")
        seen.add(arms_of(call, divided(by))[0].name)
        note_experiment(call, Division(experiment="ex_1", by=by))
        seen.add(call.unit or "")
    assert len(seen) == 2


def test_units_of_tenants_of_the_same_names_are_not_the_same() -> None:
    calls = [new_call(tenant, session="1") for tenant in ("acme", "ajax")]
    for call in calls:
        note_experiment(call, Division(experiment="ex_1", by="session"))
    assert calls[0].unit != calls[1].unit


def test_another_experiment_divides_anew() -> None:
    def first(experiment: str) -> list[str]:
        calls = (new_call(f"t{number}") for number in range(400))
        return [arms_of(call, divided("tenant", experiment))[0].name for call in calls]

    same = sum(one == other for one, other in zip(first("ex_1"), first("ex_2"), strict=True))
    assert 150 < same < 250
