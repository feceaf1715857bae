"""Bounded tables about strangers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.memory import Failures, Recent
from gateway.errors import TooManyFailures


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def attempts_until_refused(failures: Failures, address: str, most: int = 1000) -> int:
    for number in range(most):
        try:
            failures.check(address)
        except TooManyFailures:
            return number
        failures.count(address)
    return most


@given(st.integers(min_value=1, max_value=300))
def test_exactly_so_many_failures_are_allowed_at_once(per_minute: int) -> None:
    failures = Failures(per_minute, Clock())
    assert attempts_until_refused(failures, "192.0.2.1") == per_minute


def test_the_time_until_the_next_attempt_is_exact() -> None:
    clock = Clock()
    failures = Failures(6, clock)
    attempts_until_refused(failures, "192.0.2.1")
    clock.now = 3.0
    with pytest.raises(TooManyFailures) as raised:
        failures.check("192.0.2.1")
    assert raised.value.retry_after == pytest.approx(7.0)
    clock.now = 9.99
    with pytest.raises(TooManyFailures):
        failures.check("192.0.2.1")
    clock.now = 10.0
    assert attempts_until_refused(failures, "192.0.2.1") == 1


def test_others_are_not_concerned_and_zero_means_no_limit() -> None:
    failures = Failures(1, Clock())
    assert attempts_until_refused(failures, "192.0.2.1") == 1
    assert attempts_until_refused(failures, "192.0.2.2") == 1
    assert attempts_until_refused(Failures(0, Clock()), "192.0.2.1", most=50) == 50


def test_addresses_of_one_ipv6_site_count_as_one() -> None:
    failures = Failures(2, Clock())
    failures.count("2001:db8::1")
    failures.count("2001:db8::2")
    with pytest.raises(TooManyFailures):
        failures.check("2001:db8::3")
    failures.check("2001:db8:0:1::1")


def test_the_table_of_addresses_is_bounded() -> None:
    failures = Failures(1, Clock(), addresses=3)
    for number in range(4):
        failures.count(f"192.0.2.{number}")
    failures.check("192.0.2.0")
    with pytest.raises(TooManyFailures):
        failures.check("192.0.2.3")


def test_what_is_remembered_is_forgotten_in_time_and_bounded() -> None:
    clock = Clock()
    recent: Recent[int] = Recent(2, clock)
    for number in range(3):
        recent.put(str(number), number, until=number + 1.0)
    assert (recent.get("0"), recent.get("1"), recent.get("2"), len(recent)) == (None, 1, 2, 2)
    clock.now = 2.0
    assert (recent.get("1"), recent.get("2")) == (None, 2)
    recent.clear()
    assert len(recent) == 0
