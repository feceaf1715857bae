"""Which arm of a model serves whom."""

from collections import Counter

from gateway.core.snapshot import Arm
from gateway.routing.arms import arms_for

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
