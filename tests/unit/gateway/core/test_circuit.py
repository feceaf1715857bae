"""Failing at once instead of waiting again and again."""

from gateway.core.circuit import Circuit


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def open_circuit(clock: Clock) -> Circuit:
    circuit = Circuit(3, 1.0, clock)
    for _ in range(3):
        circuit.failed()
    return circuit


def test_single_failures_do_not_open_it() -> None:
    circuit = Circuit(3, 1.0, Clock())
    for _ in range(10):
        circuit.failed()
        circuit.failed()
        circuit.succeeded()
    assert circuit.closed
    assert circuit.allows()


def test_failures_in_a_row_open_it() -> None:
    circuit = open_circuit(Clock())
    assert not circuit.closed
    assert not circuit.allows()


def test_while_open_one_attempt_is_allowed_in_each_interval() -> None:
    clock = Clock()
    circuit = open_circuit(clock)
    for second in range(1, 4):
        clock.now = second + 0.001
        assert circuit.allows()
        assert not circuit.allows()


def test_a_failed_attempt_waits_the_whole_interval_again() -> None:
    clock = Clock()
    circuit = open_circuit(clock)
    clock.now = 1.5
    assert circuit.allows()
    clock.now = 1.9
    circuit.failed()
    clock.now = 2.8
    assert not circuit.allows()
    clock.now = 2.9
    assert circuit.allows()


def test_a_successful_attempt_closes_it() -> None:
    clock = Clock()
    circuit = open_circuit(clock)
    clock.now = 1.0
    assert circuit.allows()
    circuit.succeeded()
    assert circuit.closed
    assert circuit.allows()
    assert circuit.allows()
