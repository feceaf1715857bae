"""What counts, and what is kept of it."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.rollouts import evidence as module
from control_plane.rollouts.evidence import PROPAGATION_S, Evidence, Reservoir, Sample


def sample(arm: str, began: float, *, failed: bool = False, first: float | None = 5.0) -> Sample:
    return Sample(model="boats", arm=arm, began=began, failed=failed, first_token_ms=first)


def test_only_the_two_arms_count_and_only_requests_of_this_step() -> None:
    step = Evidence(step=1, since=1000.0)
    for one in (
        sample("new", 1000.0 + PROPAGATION_S),
        sample("new", 999.0 + PROPAGATION_S),
        sample("old", 2000.0, failed=True, first=None),
        sample("third", 2000.0),
    ):
        step.add(one, "new", "old", Random(1))
    assert (step.canary.requests, step.canary.errors, step.canary.first_token_ms.values) == (1, 0, [5.0])
    assert (step.stable.requests, step.stable.errors, step.stable.first_token_ms.values) == (1, 1, [])


@given(st.lists(st.floats(0, 1e6), max_size=80), st.integers(0, 99))
def test_a_reservoir_keeps_only_what_came_and_never_more_than_it_may(values: list[float], seed: int) -> None:
    reservoir, dice = Reservoir(), Random(seed)
    for value in values:
        reservoir.add(value, dice)
    assert reservoir.came == len(values)
    assert sorted(reservoir.values) == sorted(values)


def test_every_value_is_kept_with_the_same_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 10)
    dice, kept = Random(1), [0] * 40
    for _ in range(4000):
        reservoir = Reservoir()
        for value in range(40):
            reservoir.add(value, dice)
        assert len(reservoir.values) == 10
        for value in reservoir.values:
            kept[int(value)] += 1
    assert all(900 < times < 1100 for times in kept)  # 1000 each, standard deviation 27
