"""Go on, go back or wait."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from benchmarks.rollouts import World, play
from control_plane.rollouts.decision import decide, harm_below
from control_plane.rollouts.evidence import ArmEvidence
from control_plane.rollouts.state import Rollout, Rules, decided, pause
from tests.unit.control_plane.making import arm, evidence, rollout

RULES = Rules(min_samples=1000, min_step_s=600.0)
LATER = 1000.0 + 600.0


def action(one: Rollout, canary: ArmEvidence, stable: ArmEvidence, now: float = LATER) -> str | None:
    decision = decide(one, evidence(canary, stable), now)
    return None if decision is None else decision.action


def test_an_equal_version_advances_once_samples_and_time_suffice() -> None:
    assert action(rollout(RULES), arm(1000, 10), arm(4000, 40)) == "advance"


def test_the_last_step_before_everything_promotes() -> None:
    assert action(changed(rollout(RULES), step=3), arm(1000, 10), arm(1000, 10)) == "promote"


@pytest.mark.parametrize(
    ("canary", "measure"),
    [
        (arm(1000, 60), "errors 6.00% against 1.00%"),
        (arm(1000, 10, first=130), "time to first token 130.0 ms against"),
        (arm(1000, 10, per_token=13), "time per output token 13.0 ms against"),
    ],
)
def test_a_worse_version_goes_back_and_the_reason_says_in_what(canary: ArmEvidence, measure: str) -> None:
    decision = decide(rollout(RULES), evidence(canary, arm(4000, 40)), 1001.0)
    assert decision is not None
    assert (decision.action, decision.share, decision.by) == ("roll_back", 1, "control plane")
    assert measure in decision.reason
    assert [one.metric for one in decision.comparisons] == ["errors", "time_to_first_token", "time_per_output_token"]


def test_a_better_version_is_not_held_against_it() -> None:
    assert action(rollout(RULES), arm(1000, 0, first=50, per_token=5), arm(4000, 400)) == "advance"


def test_nothing_is_decided_between_looks_or_while_paused() -> None:
    one = rollout(RULES)
    assert action(one, arm(124), arm(4000, 40)) is None
    assert action(one, arm(125, 100), arm(124)) is None  # too few to compare with
    assert action(pause(one, "ann", 1001.0), arm(1000, 500), arm(4000, 40)) is None


def test_what_is_missing_is_said() -> None:
    few = decide(rollout(RULES), evidence(arm(500, 5), arm(4000, 40)), 1060.0)
    assert few is not None
    assert few.action == "hold"
    assert few.reason.startswith("500 of 1000 requests; 60 of 600 s")
    unsure = decide(rollout(RULES), evidence(arm(1000, 100), arm(4000, 350)), LATER)
    assert unsure is not None
    assert (unsure.action, unsure.reason) == ("hold", "not yet sure of errors")


def test_a_latency_that_only_the_stable_arm_has_is_awaited_and_one_that_nobody_has_is_not() -> None:
    silent = ArmEvidence(requests=1000, errors=10)
    assert action(rollout(RULES), silent, arm(4000, 40)) == "hold"
    assert action(rollout(RULES), silent, ArmEvidence(requests=4000, errors=40)) == "advance"


def test_looks_come_when_samples_have_doubled_and_when_the_time_is_over() -> None:
    one, looks = rollout(RULES), []
    for requests in range(100, 2600, 5):
        now = 1000.0 + requests * 0.5  # 600 s are over at 1200 requests
        decision = decide(one, evidence(arm(requests, requests // 10), arm(4000, 350)), now)
        if decision is not None:
            assert decision.action == "hold"
            looks.append(requests)
            one = decided(one, decision, requests)
    assert looks == [125, 250, 500, 1000, 1250, 1565, 1960, 2450]


@given(st.integers(2, 8), st.integers(1, 40))
def test_all_looks_together_never_spend_more_than_the_false_alarms_that_are_allowed(steps: int, looks: int) -> None:
    rules = replace_rules(steps)
    spent = sum(
        3 * harm_below(changed(rollout(rules), step=step, looks=look)) for step in range(steps) for look in range(looks)
    )
    assert 0.4 * rules.false_alarms < spent < rules.false_alarms


def replace_rules(steps: int) -> Rules:
    return Rules(steps=(*range(1, steps + 1), 100))


def outcomes(world: World, rollouts: int) -> list[Rollout]:
    return [play(world, np.random.default_rng([7, number])) for number in range(rollouts)]


@pytest.mark.parametrize(
    "worse", [{"error_points": 0.02}, {"first_token": 1.2}, {"per_token": 1.2}], ids=lambda worse: next(iter(worse))
)
def test_a_worse_version_is_found_before_it_has_a_tenth_of_the_traffic(worse: dict[str, float]) -> None:
    """`python -m benchmarks rollouts` does it a thousand times."""
    ended = outcomes(replace(World("worse"), **worse), 60)
    early = [one for one in ended if one.status == "rolled_back" and one.history[-1].share < 10]
    assert len(early) >= 57


def test_an_equal_version_is_left_alone() -> None:
    ended = outcomes(World("equal"), 40)
    assert sum(one.status == "promoted" for one in ended) >= 39
    shares = [decision.share for decision in ended[0].history if decision.action in ("advance", "promote")]
    assert shares == [1, 5, 25, 50]
