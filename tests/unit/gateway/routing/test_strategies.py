"""Which of several backends is chosen."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.member import seed_of
from gateway.routing.prefix import PrefixIndex
from gateway.routing.scoring import Ask, Candidate, Field, crowded, load, prefix, session
from gateway.routing.settings import RoutingSettings
from gateway.routing.strategies import DEFAULT_WEIGHTS, RoundRobin, Scored, Strategy, build_strategy

BOUND, FREE = 1.25, 1000


def candidates(*tokens: int, unit: float = 1e-4) -> list[Candidate]:
    return [Candidate(f"b{number}", seed_of(f"b{number}"), unit, held) for number, held in enumerate(tokens)]


def scored(weights: dict[str, float] | None = None) -> Scored:
    return Scored(weights or DEFAULT_WEIGHTS, BOUND, FREE, PrefixIndex(1000))


def test_an_unknown_strategy_or_score_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match="'best'; known: round_robin, least_tokens, prefix"):
        build_strategy(RoutingSettings(strategy="best"))
    assert RoutingSettings(strategy="best").problems() == [
        "strategy: there is no strategy 'best'; known: round_robin, least_tokens, prefix"
    ]
    assert RoutingSettings(weights={"luck": 1.0}).problems() == [
        "weights: there is no score 'luck'; known: load, prefix, session, adapter"
    ]


@pytest.mark.parametrize("name", ["round_robin", "least_tokens", "prefix"])
def test_an_idle_pool_is_used_evenly(name: str) -> None:
    strategy, pool = build_strategy(RoutingSettings(strategy=name)), candidates(0, 0, 0, 0)
    assert Counter(strategy.pick(Ask(10), pool).id for _ in range(40)) == {one.id: 10 for one in pool}


def test_a_backend_that_came_back_gets_a_smaller_share() -> None:
    pool = candidates(0, 0)
    pool[1].ramp = 0.25
    turns = RoundRobin()
    assert Counter(turns.pick(Ask(10), pool).id for _ in range(50)) == {"b0": 40, "b1": 10}
    assert scored().pick(Ask(10), pool).id == "b0"


def test_the_fewest_tokens_win_relative_to_the_capacity() -> None:
    strategy = build_strategy(RoutingSettings(strategy="least_tokens"))
    pool = candidates(500, 300, 400)
    assert strategy.pick(Ask(10), pool).id == "b1"
    pool[0].unit /= 10
    assert strategy.pick(Ask(10), pool).id == "b0"


def test_the_next_turn_of_a_conversation_goes_where_the_last_one_went() -> None:
    strategy, pool = scored(), candidates(0, 0, 0, 0)
    first = strategy.pick(Ask(10, chain=[1, 2, 3], prompt=3), pool)
    first.tokens += 500
    for turn in range(4, 8):
        chain = list(range(1, turn))
        assert strategy.pick(Ask(10, chain=chain, prompt=len(chain)), pool) is first


def test_a_restarted_backend_is_no_longer_preferred() -> None:
    strategy, pool = scored(), candidates(0, 0)
    first = strategy.pick(Ask(10, chain=[1, 2], prompt=2), pool)
    strategy.forget(first.id)
    assert strategy.pick(Ask(10, chain=[1, 2], prompt=2), pool) is not first


def test_affinity_gives_way_on_a_crowded_backend() -> None:
    strategy, pool = scored(), candidates(0, 0, 0, 0)
    first = strategy.pick(Ask(10, chain=[1, 2], prompt=2), pool)
    first.tokens = 4 * FREE
    assert strategy.pick(Ask(10, chain=[1, 2], prompt=2), pool) is not first


Loads = st.lists(st.integers(0, 50_000), min_size=2, max_size=12)


@given(Loads, st.integers(0, 11), st.integers(1, 500), st.integers(0, 2**32 - 1))
def test_affinity_never_chooses_a_backend_above_the_bound(tokens: list[int], wanted: int, cost: int, user: int) -> None:
    pool = candidates(*tokens)
    strategy = Scored({"prefix": 5.0, "session": 5.0, "load": 1.0}, BOUND, FREE, index := PrefixIndex(10))
    index.add(pool[wanted % len(pool)].id, [1, 2])
    chosen = strategy.pick(Ask(cost, user, [1, 2], 2), pool)
    mean = sum(one.tokens + cost + FREE for one in pool) / len(pool)
    least = min(one.tokens for one in pool)
    assert chosen.tokens + cost + FREE <= BOUND * mean + 1e-6 or chosen.tokens <= FREE or chosen.tokens == least


@given(Loads, st.integers(1, 500), st.sampled_from(["round_robin", "least_tokens", "prefix"]))
def test_the_same_calls_in_the_same_state_go_the_same_way(tokens: list[int], cost: int, name: str) -> None:
    def run(strategy: Strategy) -> list[str]:
        pool = candidates(*tokens)
        return [strategy.pick(Ask(cost, 7 * one, [one % 3, one], 2), pool).id for one in range(20)]

    settings = RoutingSettings(strategy=name)
    assert run(build_strategy(settings)) == run(build_strategy(settings))


def test_who_takes_part_may_change_between_two_decisions() -> None:
    strategy, pool = scored(), candidates(0, 0, 0, 0)
    chain = [1, 2, 3]
    first = strategy.pick(Ask(10, chain=chain, prompt=3), pool)
    others = [one for one in pool if one is not first]
    second = strategy.pick(Ask(10, chain=chain, prompt=3), others)
    assert second is not first
    assert strategy.pick(Ask(10, chain=chain, prompt=3), [Candidate("new", 5, 1e-4), second]) is second


@given(Loads, st.integers(0, 500), st.one_of(st.none(), st.integers(0, 2**32 - 1)))
def test_scores_are_between_0_and_1(tokens: list[int], cost: int, user: int | None) -> None:
    pool = Field(candidates(*tokens))
    ask = Ask(cost, user, [1, 2, 3], 3, held={"b0": 3, "b1": 1})
    ask.loads = [(one.tokens + cost + 1) * one.unit for one in pool]
    found = load(ask, pool)
    assert len(found) == len(pool)
    assert all(0 <= one <= 1 for one in found)
    assert max(found) == 1
    assert prefix(ask, pool) == {0: 1.0, 1: 1 / 3}
    assert list(session(ask, pool).values()) == ([] if user is None else [1.0])
    assert not all(map(crowded(ask, pool, BOUND, 0), range(len(pool))))


def test_only_the_sessions_of_a_backend_that_goes_move_and_all_have_about_as_many() -> None:
    pool = candidates(*[0] * 8)
    users = [seed_of(f"user {number}") for number in range(4000)]

    def homes(pool: list[Candidate]) -> list[str]:
        found = []
        for user in users:
            (place,) = session(Ask(1, user), Field(pool))
            found.append(pool[place].id)
        return found

    before = homes(pool)
    assert all(350 < number < 650 for number in Counter(before).values())
    after = homes([one for one in pool if one.id != "b3"])
    assert all(old == new for old, new in zip(before, after, strict=True) if old != "b3")


def test_an_adapter_goes_where_it_is_loaded_or_else_always_to_the_same_backend() -> None:
    strategy, pool = scored(), candidates(0, 0, 0, 0)
    homes = {f"sha256:{number}": strategy.pick(Ask(10, adapter=f"sha256:{number}"), pool) for number in range(40)}
    assert {one.id for one in homes.values()} == {one.id for one in pool}
    for checksum, home in homes.items():
        assert strategy.pick(Ask(10, adapter=checksum), pool) is home
        other = next(one for one in pool if one is not home)
        other.adapters = frozenset({checksum})
        assert strategy.pick(Ask(10, adapter=checksum), pool) is other
        other.adapters = frozenset()
