"""Back-off and liveness: decisions on given times."""

from hypothesis import given
from hypothesis import strategies as st

from trireme.restart import Backoff, Liveness, RestartState

BACKOFF = Backoff(first=0.5, factor=2.0, longest=30.0, stable=60.0)


def test_waiting_doubles_up_to_its_limit() -> None:
    assert [BACKOFF.delay(failures) for failures in (1, 2, 3, 7, 8)] == [0.5, 1.0, 2.0, 30.0, 30.0]


@given(st.integers(min_value=1, max_value=10**9))
def test_waiting_never_shrinks_and_never_overflows(failures: int) -> None:
    assert 0.5 <= BACKOFF.delay(failures) <= BACKOFF.delay(failures + 1) <= 30.0


def test_a_child_that_keeps_ending_waits_longer_each_time() -> None:
    state, now, waits = RestartState(), 100.0, []
    for _ in range(3):
        state = state.started(now).ended(now + 1.0, BACKOFF)
        assert state.start_at is not None
        waits.append(state.start_at - (now + 1.0))
        now = state.start_at
    assert waits == [0.5, 1.0, 2.0]


def test_a_child_that_ran_long_enough_starts_from_the_shortest_wait_again() -> None:
    state = RestartState(failures=6).started(100.0)
    assert state.ended(159.9, BACKOFF).failures == 7
    assert state.ended(160.0, BACKOFF).failures == 1


def test_a_restart_is_due_at_its_time_and_not_while_the_child_runs() -> None:
    state = RestartState().started(0.0).ended(1.0, BACKOFF)
    assert not state.is_due(1.4)
    assert state.is_due(1.5)
    assert not state.started(1.5).is_due(100.0)


def test_two_failed_probes_in_a_row_mean_dead() -> None:
    once = Liveness(allowed=2).probed(works=False)
    assert not once.is_dead
    assert once.probed(works=False).is_dead


def test_an_answer_forgives_an_earlier_failure() -> None:
    state = Liveness(allowed=2).probed(works=False).probed(works=True).probed(works=False)
    assert not state.is_dead
