"""Which backend is thought to have which beginnings of prompts."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.prefix import PrefixIndex, chain_of

Prompts = st.lists(st.integers(0, 3), max_size=40)


def test_blocks_are_whole_and_bounded() -> None:
    ids = list(range(100))
    assert len(chain_of(ids, 16, 64)) == 6
    assert len(chain_of(ids, 16, 4)) == 4
    assert chain_of(ids[:15], 16, 64) == []


def test_another_model_has_other_blocks() -> None:
    assert not set(chain_of([1] * 64, 16, 64, seed=1)) & set(chain_of([1] * 64, 16, 64, seed=2))


@given(Prompts, Prompts)
def test_chains_agree_exactly_as_far_as_the_prompts_do(one: list[int], other: list[int]) -> None:
    ours, theirs = chain_of(one, 4, 99), chain_of(other, 4, 99)
    common = 0
    while common < min(len(ours), len(theirs)) and one[: 4 * common + 4] == other[: 4 * common + 4]:
        common += 1
    assert ours[:common] == theirs[:common]
    assert not set(ours[common:]) & set(theirs[common:])


def test_the_longest_beginning_counts_for_each_backend() -> None:
    index = PrefixIndex(100)
    index.add("a", [1, 2, 3])
    index.add("b", [1, 2])
    index.add("c", [9, 2, 3])
    assert index.match([1, 2, 3, 4]) == {"a": 3, "b": 2}
    assert index.match([9]) == {"c": 1}
    assert index.match([7]) == {}
    assert index.match([]) == {}


def test_a_backend_that_was_restarted_has_nothing() -> None:
    index = PrefixIndex(100)
    index.add("a", [1, 2])
    index.add("b", [1])
    index.forget("a")
    index.forget("nobody")
    assert index.match([1, 2]) == {"b": 1}
    assert len(index) == 1
    index.add("c", [5])
    assert index.match([5]) == {"c": 1}


def test_the_end_of_what_was_not_used_is_forgotten_first() -> None:
    index = PrefixIndex(4)
    index.add("a", [1, 2, 3])
    index.add("a", [5])
    index.add("a", [1])
    index.add("a", [6])
    assert index.match([1, 2, 3]) == {"a": 2}
    assert index.match([5]) == {"a": 1}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True))))
def test_no_backend_ever_has_more_than_the_bound_and_nothing_is_left_over(adds: list[tuple[str, list[int]]]) -> None:
    index = PrefixIndex(7)
    for backend, chain in adds:
        index.add(backend, chain)
        assert index.held(backend) <= 7
        assert index.match(chain[:7])[backend] == len(chain)
    for backend in "abc":
        index.forget(backend)
    assert len(index) == 0
