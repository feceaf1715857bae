"""Who may compute where: the engine's threads are alone on their cores when enough others are left."""

import os
import subprocess
import sys

import pytest

from trireme.cores import keep_off_the_engine, rest_of


@pytest.mark.parametrize(
    ("cores", "bound", "rest"),
    [
        (2, [{0}], {1}),
        (4, [{0}, {1}, {2}], {3}),
        (8, [{core} for core in range(7)], set()),
        (2, [{0, 1}], set()),
        (2, [], set()),
        (1, [{0}], set()),
    ],
    ids=["two", "four", "too few left", "not bound", "no engine", "one"],
)
def test_the_others_get_the_rest_when_it_is_a_quarter_of_the_machine(
    cores: int, bound: list[set[int]], rest: set[int]
) -> None:
    assert rest_of(frozenset(range(cores)), [frozenset(one) for one in bound]) == rest


def test_without_an_engine_nobody_is_moved() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        before = os.sched_getaffinity(process.pid)
        keep_off_the_engine([process.pid])
        assert os.sched_getaffinity(process.pid) == before
        process.kill()


def test_a_pid_that_has_gone_is_passed_over() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    keep_off_the_engine([process.pid])
    assert os.sched_getaffinity(0)
