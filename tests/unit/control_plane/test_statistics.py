"""The tests against what can be counted out, and against published tables."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.rollouts.statistics import excess_reaches, larger, more_often, normal_below

VALUES = st.lists(st.integers(0, 4).map(float), min_size=2, max_size=5)


def test_fishers_lady_tasting_tea() -> None:
    """Three of four cups right: 17 of 70; all four: 1 of 70 (The Design of Experiments, 1935)."""
    assert more_often(3, 4, 1, 4) == pytest.approx(17 / 70)
    assert more_often(4, 4, 0, 4) == pytest.approx(1 / 70)


@given(st.integers(0, 40), st.integers(1, 40), st.integers(0, 60), st.integers(1, 60))
def test_proportions_are_compared_as_counted_out(hits: int, total: int, other_hits: int, other_total: int) -> None:
    hits, other_hits = min(hits, total), min(other_hits, other_total)
    every = math.comb(total + other_total, hits + other_hits)
    ways = sum(
        math.comb(total, number) * math.comb(other_total, hits + other_hits - number)
        for number in range(hits, min(total, hits + other_hits) + 1)
    )
    assert more_often(hits, total, other_hits, other_total) == pytest.approx(float(Fraction(ways, every)), abs=1e-9)


def test_large_samples_are_compared_without_loss() -> None:
    """As counted out with whole numbers of any size; and the ends of the range are exact."""
    ways = sum(math.comb(3_000, number) * math.comb(97_000, 1000 - number) for number in range(45, 201))
    exact = float(Fraction(ways, math.comb(100_000, 1000)))
    assert more_often(45, 3_000, 955, 97_000) == pytest.approx(exact, rel=1e-6)
    assert more_often(0, 1000, 50_000, 100_000) == 1.0
    assert more_often(1000, 1000, 0, 100_000) < 1e-300
    assert more_often(1, 1000, 50_000, 100_000) == pytest.approx(1.0)
    assert more_often(0, 0, 3, 10) == 1.0


def test_an_excess_is_excluded_only_by_enough_samples() -> None:
    assert excess_reaches(0.02, 0, 20, 0, 1000) > 0.05
    assert excess_reaches(0.02, 10, 1000, 1000, 100_000) < 0.001
    assert excess_reaches(0.02, 30, 1000, 1000, 100_000) == pytest.approx(0.5, abs=0.1)
    assert excess_reaches(0.02, 60, 1000, 1000, 100_000) > 0.99


def test_an_excess_by_hand() -> None:
    """(11/102 - 6/202 - 0.05) / sqrt(11·91/102³ + 6·196/202³) = 0.8539, which Φ takes to 0.8034."""
    assert excess_reaches(0.05, 10, 100, 5, 200) == pytest.approx(0.8034, abs=1e-4)


def test_the_normal_distribution_by_its_table() -> None:
    for z, below in ((0.0, 0.5), (1.0, 0.841345), (1.96, 0.975002), (-2.3263, 0.01)):
        assert normal_below(z) == pytest.approx(below, abs=1e-5)


def test_three_values_above_three_others_by_hand() -> None:
    """U = 9 of 9, 4.5 expected, variance 9·7/12."""
    spread = math.sqrt(9 * 7 / 12)
    assert larger([4, 5, 6], [1, 2, 3]) == pytest.approx(normal_below(-(9 - 4.5 - 0.5) / spread))
    assert larger([1, 2, 3], [4, 5, 6]) == pytest.approx(normal_below(-(0 - 4.5 - 0.5) / spread))


@settings(max_examples=60)
@given(VALUES, VALUES)
def test_ties_are_corrected_as_all_ways_to_divide_the_values_say(values: list[float], others: list[float]) -> None:
    def wins(first: tuple[float, ...], second: tuple[float, ...]) -> float:
        return sum((a > b) + (a == b) / 2 for a in first for b in second)

    pool = values + others
    every = []
    for chosen in combinations(range(len(pool)), len(values)):
        rest = tuple(pool[place] for place in range(len(pool)) if place not in chosen)
        every.append(wins(tuple(pool[place] for place in chosen), rest))
    mean, variance = float(np.mean(every)), float(np.var(every))
    p = larger(values, others)
    if variance < 1e-12:
        assert p == 1.0
        return
    z = (wins(tuple(values), tuple(others)) - mean - 0.5) / math.sqrt(variance)
    assert p == pytest.approx(normal_below(-z), abs=1e-9)


@given(VALUES, VALUES, st.floats(0.5, 3.0))
def test_only_the_order_of_values_counts(values: list[float], others: list[float], factor: float) -> None:
    grown = [[math.exp(factor * value) for value in sample] for sample in (values, others)]
    assert larger(*grown) == pytest.approx(larger(values, others))


def test_nothing_is_not_larger() -> None:
    assert larger([], [1.0]) == larger([1.0], []) == larger([2.0, 2.0], [2.0]) == 1.0


def test_under_equality_alarms_are_as_frequent_as_they_should_be() -> None:
    dice = np.random.default_rng(1)
    alarms = sum(larger(dice.lognormal(size=200), dice.lognormal(size=500)) < 0.05 for _ in range(2000))
    assert 70 <= alarms <= 130  # 100 expected, standard deviation 9.7
