"""What the benchmark of other words makes of labelled pairs."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from benchmarks.semantic import FLOOR, Pairs, chosen, judged, looked, rows_of, score


def pairs(*rows: tuple[float, str | None, bool]) -> Pairs:
    """Of each: similarity, what the guards say, label."""
    similarity, guarded, same = zip(*rows, strict=True)
    texts = [(f"a{number}", f"b{number}") for number in range(len(rows))]
    return Pairs(texts, np.array(similarity, dtype=np.float32), list(guarded), np.array(same))


def test_hits_that_are_labelled_otherwise_are_wrong() -> None:
    found = pairs((0.99, None, True), (0.99, None, False), (0.99, "words", False), (0.5, None, True))
    plain, guarded = score(found, 0.92, guards=False), score(found, 0.92, guards=True)
    assert (plain.hits, plain.wrong, plain.recall) == (3, 2, 0.5)
    assert (guarded.hits, guarded.wrong, guarded.recall) == (2, 1, 0.5)


def test_the_lowest_threshold_without_wrong_hits_is_chosen() -> None:
    found = pairs((0.99, None, True), (0.95, None, True), (0.93, None, False))
    assert chosen(found) == 0.94
    assert judged(pairs((0.99, None, True), (0.95, None, True)))[1]


def test_the_report_names_the_wrong_hits_and_what_guards_cost() -> None:
    text, met = judged(pairs(*[(0.99, None, True)] * 5, (0.97, None, False), (0.96, "numbers", True)))
    assert not met
    assert f"threshold ({FLOOR}), with the guards, **1 of 6** hits (16.7%)" in text
    assert "| numbers | 0 | 1 |" in text
    assert "| 0.970 | a5 | b5 |" in text


def test_the_index_is_measured_as_it_is() -> None:
    mib, *_ = looked(100)
    assert mib == "0"


@pytest.mark.parametrize("packed", [False, True])
def test_pairs_are_read_packed_or_not(tmp_path: Path, packed: bool) -> None:
    file = tmp_path / ("pairs.csv.gz" if packed else "pairs.csv")
    raw = b'question_a,question_b,same_answer\n"Who, then?",Who?,1\n'
    file.write_bytes(gzip.compress(raw) if packed else raw)
    assert rows_of(file) == [{"question_a": "Who, then?", "question_b": "Who?", "same_answer": "1"}]
