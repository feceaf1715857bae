"""The simulation of experiments, small enough for every run."""

import numpy as np

from benchmarks.experiments import WORLDS, World, play


def ended(world: World, times: int = 8) -> list[tuple[bool, bool]]:
    """Whether an interval was wrong, and whether a difference was found."""
    played = [play(world, np.random.default_rng([7, number])) for number in range(times)]
    return [(one.wrong, one.found is not None) for one in played]


def test_equal_arms_are_left_alone() -> None:
    equal = next(world for world in WORLDS if world.equal and world.units == 60)
    assert sum(wrong for wrong, _ in ended(equal)) <= 1


def test_a_slower_arm_is_found() -> None:
    slower = next(world for world in WORLDS if world.difference == 1.2)
    assert all(found for _, found in ended(slower))


def test_the_same_seed_gives_the_same_experiment() -> None:
    assert ended(WORLDS[0], 2) == ended(WORLDS[0], 2)
