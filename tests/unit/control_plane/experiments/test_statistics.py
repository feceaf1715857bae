"""Intervals are as sure as they say, by simulation with fixed seeds."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.experiments.statistics import (
    BUCKETS,
    Estimate,
    Looks,
    around,
    effective,
    estimate,
    share_interval,
    smoothed,
)

RUNS = 200
LOOKS = (200, 400, 800, 1200, 1600, 2000)


def played(dice: np.random.Generator, units: int, sameness: float, requests: int) -> Iterator[Estimate]:
    """Estimates of a mean of 0 at each look, where requests of a unit have `sameness` of their variance in common."""
    of = dice.integers(0, units, requests)
    values = dice.normal(0, math.sqrt(sameness), units)[of] + dice.normal(0, math.sqrt(1 - sameness), requests)
    bucket = dice.integers(0, BUCKETS, units)[of]
    for look in LOOKS:
        counts = np.bincount(bucket[:look], minlength=BUCKETS)
        sums = np.bincount(bucket[:look], weights=values[:look], minlength=BUCKETS)
        filled = np.flatnonzero(counts)
        one = estimate(dict(zip(filled, counts[filled], strict=True)), dict(zip(filled, sums[filled], strict=True)))
        assert one is not None
        yield one


@pytest.mark.parametrize(("units", "sameness"), [(40, 0.6), (100, 0.6), (2000, 0.0)])
def test_a_true_value_is_in_every_interval_of_nineteen_experiments_in_twenty(units: int, sameness: float) -> None:
    looks, missed = Looks(1000, 0.95), 0
    for run in range(RUNS):
        found = played(np.random.default_rng([run, units]), units, sameness, LOOKS[-1])
        missed += any(abs(one.value) > looks.widening(one.count) * math.sqrt(one.variance) for one in found)
    assert missed / RUNS <= 0.05


def test_looking_often_with_an_interval_for_one_look_is_wrong_too_often() -> None:
    """Which is why the others are there."""
    missed = 0
    for run in range(RUNS):
        found = played(np.random.default_rng([run, 1]), 2000, 0.0, LOOKS[-1])
        missed += any(abs(one.value) > 1.96 * math.sqrt(one.variance) for one in found)
    assert missed / RUNS > 0.1


def test_requests_of_one_unit_are_not_taken_for_news() -> None:
    """40 tenants with 50 requests each tell about as much as 40 requests, if each always does the same."""
    *_, last = played(np.random.default_rng(3), 40, 0.99, 2000)
    assert 1 / 80 < last.variance < 1 / 15
    *_, alone = played(np.random.default_rng(3), 2000, 0.0, 2000)
    assert 1 / 3000 < alone.variance < 1 / 1400


@given(st.floats(0.01, 100), st.floats(0, 8), st.floats(0.6, 0.999))
def test_the_p_value_and_the_interval_say_the_same(part: float, errors: float, confidence: float) -> None:
    looks = Looks(1000, confidence)
    count, outside = 1000 * part, errors > looks.widening(1000 * part)
    p_value = looks.p_value(count, errors)
    if abs(errors - looks.widening(count)) > 1e-6:
        assert (p_value < 1 - confidence) is outside


def test_an_interval_is_narrowest_against_that_of_one_look_where_it_was_planned() -> None:
    looks = Looks(1000, 0.95)
    widths = {count: looks.widening(count) for count in (10, 100, 500, 1000, 2000, 10_000, 100_000)}
    assert min(widths, key=widths.__getitem__) in (1000, 2000)
    assert 2.9 < widths[1000] < 3.1
    assert looks.widening(0) == math.inf


@given(st.integers(0, 500), st.integers(1, 500))
def test_a_share_lies_in_its_interval(events: int, more: int) -> None:
    count = events + more
    share = Estimate(events / count, events / count * (1 - events / count) / count, count, 50)
    low, high = share_interval(share, 1.96)
    assert 0 <= low <= events / count <= high <= 1


def test_wilsons_interval_is_the_published_one() -> None:
    """R. G. Newcombe, Statistics in Medicine 17, 1998, table I: 15 of 148 and 0 of 20, at 95 %."""
    low, high = share_interval(Estimate(15 / 148, 15 / 148 * 133 / 148 / 148, 148, 50), 1.959964)
    assert (round(low, 4), round(high, 4)) == (0.0624, 0.1605)
    low, high = share_interval(Estimate(0.0, 0.0, 20, 20), 1.959964)
    assert (round(low, 4), round(high, 4)) == (0.0, 0.1611)


def test_events_that_come_together_tell_less() -> None:
    alone, together = Estimate(0.1, 0.09 / 1000, 1000, 128), Estimate(0.1, 0.09 / 50, 1000, 128)
    assert (round(effective(alone)), round(effective(together))) == (1000, 50)
    assert smoothed(Estimate(0.0, 0.0, 98, 50)).variance == pytest.approx(0.01 * 0.99 / 100)


def test_nothing_and_a_single_bucket_say_so() -> None:
    assert estimate({}, {}) is None
    one = estimate({3: 5.0}, {3: 10.0})
    assert one is not None
    assert (one.value, one.variance) == (2.0, math.inf)
    assert around(1.0, 4.0, 2.0) == (-3.0, 5.0)
