"""How fast turns end, measured while somebody waits."""

import pytest

from gateway.admission.pace import Pace


def test_the_rate_is_unknown_until_turns_ended_while_somebody_waited_for_a_second() -> None:
    pace = Pace()
    pace.ended(1000, 5.0)
    assert pace.rate is None
    pace.waited_for(10.0, waiting=True)
    pace.ended(300, 10.5)
    assert pace.rate is None
    pace.ended(300, 12.0)
    assert pace.rate == 300.0


def test_idle_time_does_not_make_it_slower() -> None:
    pace = Pace()
    for begin in (0.0, 100.0, 200.0):
        pace.waited_for(begin, waiting=True)
        pace.ended(50, begin + 0.5)
        pace.waited_for(begin + 0.5, waiting=False)
    assert pace.rate == 100.0


def test_it_follows_a_change_within_some_ten_seconds() -> None:
    pace = Pace()
    pace.waited_for(0.0, waiting=True)
    for second in range(1, 31):
        pace.ended(100, second)
    assert pace.rate == pytest.approx(100)
    for second in range(31, 61):
        pace.ended(500, second)
    assert pace.rate == pytest.approx(500, rel=0.06)
