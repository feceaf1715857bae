"""Weighted deficit round robin over classes."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.drr import DeficitRoundRobin

WEIGHTS = {"interactive": 8.0, "standard": 4.0, "batch": 1.0}


def served(drr: DeficitRoundRobin[str], costs: dict[str, int], tokens: int) -> Counter[str]:
    """What each class gets of so many tokens, when all of them always wait."""
    got: Counter[str] = Counter()
    while got.total() < tokens:
        name = drr.pick(costs)
        drr.spend(name, costs[name])
        got[name] += costs[name]
    return got


@pytest.mark.parametrize("costs", [(100, 100, 100), (10, 3000, 50_000), (50_000, 7, 7)])
def test_classes_get_tokens_by_their_weights_whatever_the_size_of_their_requests(costs: tuple[int, int, int]) -> None:
    total = 13_000_000
    got = served(DeficitRoundRobin(WEIGHTS, 512), dict(zip(WEIGHTS, costs, strict=True)), total)
    for name, weight in WEIGHTS.items():
        assert got[name] == pytest.approx(total * weight / 13, rel=0.02)


def test_a_class_that_waits_alone_gets_everything() -> None:
    assert served(DeficitRoundRobin(WEIGHTS, 512), {"batch": 900}, 9000) == {"batch": 9000}


def test_what_is_left_is_lost_by_not_waiting_and_debts_are_kept() -> None:
    drr = DeficitRoundRobin(WEIGHTS, 512)
    assert drr.pick({"batch": 10}) == "batch"
    drr.stopped("batch")
    assert drr.deficits["batch"] == 0
    drr.spend("batch", 700)
    drr.stopped("batch")
    assert drr.deficits["batch"] == -700


@given(st.lists(st.dictionaries(st.sampled_from(list(WEIGHTS)), st.integers(1, 10**6), min_size=1), max_size=60))
def test_the_pick_always_waits_and_can_always_pay(rounds: list[dict[str, int]]) -> None:
    drr = DeficitRoundRobin(WEIGHTS, 512)
    for costs in rounds:
        name = drr.pick(costs)
        assert drr.deficits[name] >= costs[name]
        drr.spend(name, costs[name])
