"""The simulation of the strategies, small enough for every run."""

from benchmarks.routing import HITS_GOAL, IMBALANCE_GOAL, Servers, Traffic, simulate

SMALL = Traffic(conversations=150, systems=100)
TIGHT = Servers(cache_tokens=30_000)


def test_prefixes_are_found_twice_as_often_as_in_turns_and_the_work_stays_even() -> None:
    turns, ours = simulate("round_robin", SMALL, TIGHT), simulate("prefix", SMALL, TIGHT)
    assert ours.prompt_tokens == turns.prompt_tokens
    assert ours.hits >= HITS_GOAL * turns.hits
    assert ours.imbalance <= IMBALANCE_GOAL
    assert ours.percentile(0.5) < turns.percentile(0.5)


def test_the_same_seed_gives_the_same_result() -> None:
    assert simulate("prefix", SMALL, TIGHT) == simulate("prefix", SMALL, TIGHT)
