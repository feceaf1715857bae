"""Backends that answer their probes and fail their requests."""

from gateway.routing.ejection import Ejection


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def new_ejection() -> tuple[Ejection, Clock]:
    clock = Clock()
    return Ejection(failures=3, seconds=30, longest=80, clock=clock), clock


def fail(ejection: Ejection, times: int = 1) -> None:
    for _ in range(times):
        ejection.tried()
        ejection.failed()


def test_failures_in_a_row_are_due_and_a_success_in_between_begins_anew() -> None:
    ejection, _ = new_ejection()
    fail(ejection, 2)
    assert not ejection.succeeded()
    fail(ejection, 2)
    assert not ejection.due
    fail(ejection)
    assert ejection.due
    assert ejection.state == "closed"


def test_an_open_circuit_lets_one_request_through_when_its_time_is_over() -> None:
    ejection, clock = new_ejection()
    fail(ejection, 3)
    ejection.eject()
    assert (ejection.state, ejection.allows()) == ("open", False)
    clock.now = 30
    assert (ejection.state, ejection.allows()) == ("half_open", True)
    ejection.tried()
    assert not ejection.allows()
    ejection.abandoned()
    assert ejection.allows()
    ejection.tried()
    assert ejection.succeeded()
    assert (ejection.state, ejection.allows()) == ("closed", True)


def test_one_failure_while_half_open_is_enough_and_the_time_grows_to_its_bound() -> None:
    ejection, clock = new_ejection()
    fail(ejection, 3)
    ejection.eject()
    for seconds in (60, 80, 80):
        clock.now += 90
        fail(ejection)
        assert ejection.due
        ejection.eject()
        clock.now += seconds - 1
        assert ejection.state == "open"
        clock.now += 1
        assert ejection.state == "half_open"


def test_failures_while_open_are_not_held_against_a_later_attempt() -> None:
    ejection, clock = new_ejection()
    fail(ejection, 3)
    ejection.eject()
    fail(ejection, 5)
    clock.now = 30
    ejection.tried()
    ejection.abandoned()
    assert not ejection.due


def test_long_after_an_ejection_the_count_begins_anew() -> None:
    ejection, clock = new_ejection()
    ejection.eject()
    ejection.eject()
    assert ejection.count == 2
    clock.now = 10_000
    ejection.succeeded()
    ejection.eject()
    assert ejection.count == 1
    clock.now += 30
    assert ejection.state == "half_open"
