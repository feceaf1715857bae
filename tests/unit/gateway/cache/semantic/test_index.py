"""The nearest question, within bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.semantic.index import Index, top_rows
from gateway.cache.semantic.nearest import NEAREST, Near
from gateway.cache.semantic.question import Question, unit
from gateway.core.job import Vectors

FLOOR = 0.9
LATE = 1e12


def vector(seed: int, dimensions: int = 16) -> Vectors:
    return unit(np.random.default_rng(seed).standard_normal(dimensions).astype(np.float32))


def nearest(index: Index, owner: str, partition: str, wanted: Vectors, floor: float = FLOOR) -> list[Near]:
    matrix = index.matrix(owner, partition)
    rows = [] if matrix is None else top_rows(matrix, wanted, floor)
    return list(index.near(owner, Question("?", partition), wanted, rows, floor))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("pq"), st.integers(0, 9)), max_size=60), st.data())
def test_it_finds_what_a_list_would(puts: list[tuple[str, str, int]], data: st.DataObject) -> None:
    index, kept = Index(1000, 1000), dict[tuple[str, str], tuple[str, int]]()
    for owner, partition, seed in puts:
        name = f"n{seed}"
        if data.draw(st.booleans()):
            index.put(owner, name, Question("?", partition), vector(seed), LATE)
            kept[owner, name] = (partition, seed)
        else:
            index.drop(owner, name)
            kept.pop((owner, name), None)
    assert index.size == len(kept)
    for owner in "ab":
        for partition in "pq":
            for seed in range(10):
                found = {near.entry.name for near in nearest(index, owner, partition, vector(seed))}
                assert found == ({f"n{seed}"} if kept.get((owner, f"n{seed}")) == (partition, seed) else set())


def test_the_nearest_comes_first_and_only_some_of_many() -> None:
    index, wanted = Index(100, 100), vector(1)
    for number in range(2 * NEAREST):
        index.put("a", f"n{number}", Question("?", "p"), unit(wanted + 0.002 * number * vector(2)), LATE)
    found = nearest(index, "a", "p", wanted)
    assert [near.entry.name for near in found] == [f"n{number}" for number in range(NEAREST)]
    assert found[0].similarity == pytest.approx(1)


def test_what_was_of_no_use_for_longest_goes_first() -> None:
    index = Index(100, 3)
    for number in range(3):
        index.put("a", f"n{number}", Question("?", "p"), vector(number), LATE)
    (first,) = nearest(index, "a", "p", vector(0))
    index.touch(first.entry)
    index.put("a", "n3", Question("?", "p"), vector(3), LATE)
    assert [bool(nearest(index, "a", "p", vector(number))) for number in range(4)] == [True, False, True, True]


def test_a_tenant_with_many_gives_way_to_one_with_few() -> None:
    index = Index(10, 10)
    for number in range(9):
        index.put("many", f"n{number}", Question("?", f"p{number % 2}"), vector(number), LATE)
    for number in range(4):
        index.put("few", f"n{number}", Question("?", "p"), vector(number), LATE)
    assert index.size == 10
    assert all(nearest(index, "few", "p", vector(number)) for number in range(4))
    assert not nearest(index, "many", "p0", vector(0))


def test_a_row_that_was_taken_again_is_not_mistaken_for_the_old_one() -> None:
    index = Index(10, 10)
    index.put("a", "old", Question("?", "p"), vector(1), LATE)
    matrix = index.matrix("a", "p")
    assert matrix is not None
    rows = top_rows(matrix, vector(1), FLOOR)
    index.put("a", "keeps the partition", Question("?", "p"), vector(3), LATE)
    index.drop("a", "old")
    index.put("a", "new", Question("?", "p"), vector(2), LATE)
    assert not list(index.near("a", Question("?", "p"), vector(1), rows, FLOOR))


def test_vectors_of_other_dimensions_are_never_compared() -> None:
    index = Index(10, 10)
    index.put("a", "n", Question("?", "p"), vector(1), LATE)
    index.put("a", "m", Question("?", "p"), vector(1, dimensions=8), LATE)
    assert index.size == 1
    assert nearest(index, "a", "p", vector(1, dimensions=8)) == []
