"""Inputs are batched by their padded size, and requests that wait share a run."""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backends.embedding.embedder import ScriptedEmbedder, Terms, Vectors, batches, finished
from python_backends.embedding.worker import EmbeddingWorker, Job
from python_backends.messages import EmbeddingOptions, Pooling
from python_backends.preprocessing.errors import RequestError

LONG = 20.0


@given(lengths=st.lists(st.integers(1, 512), max_size=60), bound=st.integers(1, 2048))
def test_every_input_is_in_one_batch_and_no_batch_exceeds_the_bound(lengths: list[int], bound: int) -> None:
    found = list(batches(lengths, bound))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= bound


def test_the_scripted_embedder_gives_vectors_by_content_and_pooling() -> None:
    embedder = ScriptedEmbedder(dimensions=8)
    vectors = embedder.embed([[1, 2], [3], [1, 2]], "mean")
    assert vectors.shape == (3, 8)
    assert np.array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors, embedder.embed([[1, 2], [3], [1, 2]], "cls"))


@given(cut=st.integers(1, 8), normalize=st.booleans())
def test_vectors_are_cut_before_they_are_brought_to_length_1(cut: int, normalize: bool) -> None:
    raw = np.arange(16, dtype=np.float32).reshape(2, 8)
    found = finished(raw, Terms(10, 8), EmbeddingOptions(dimensions=cut, normalize=normalize))
    assert found.shape == (2, cut)
    lengths = np.linalg.norm(raw[:, :cut], axis=1)
    expected = raw[:, :cut] / np.where(lengths > 0, lengths, 1)[:, None] if normalize else raw[:, :cut]
    assert np.allclose(found, expected)


@pytest.mark.parametrize(
    ("terms", "options", "words"),
    [
        (Terms(10, 8), EmbeddingOptions(dimensions=4), "was not trained for fewer"),
        (Terms(10, 8, shorter=(2, 4)), EmbeddingOptions(dimensions=3), "can be cut to 2, 4"),
        (Terms(10, 8, shorter=True), EmbeddingOptions(dimensions=9), "any smaller number"),
        (Terms(10, 8), EmbeddingOptions(pooling="cls"), "made for pooling mean, not cls"),
    ],
)
def test_what_a_model_cannot_do_is_refused_with_what_it_can(
    terms: Terms, options: EmbeddingOptions, words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        terms.check(options)


def test_what_a_model_can_do_is_let_through() -> None:
    Terms(10, 8).check(EmbeddingOptions(dimensions=8, pooling="mean", normalize=False))
    Terms(10, 8, poolings=("mean", "cls"), shorter=(4,)).check(EmbeddingOptions(dimensions=4, pooling="cls"))


class SlowFirst:
    """Blocks on its first run until told to go on; records how many inputs each run had."""

    terms = Terms(10, 1)

    def __init__(self) -> None:
        self.runs: list[tuple[str, int]] = []
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def embed(self, inputs: Sequence[Sequence[int]], pooling: Pooling) -> Vectors:
        self.runs.append((pooling, len(inputs)))
        self.entered.set()
        assert self.go_on.wait(LONG)
        if any(ids == [13] for ids in inputs):
            raise RuntimeError("unlucky")
        return np.array([[ids[0]] for ids in inputs], dtype=np.float32)


@contextmanager
def working(embedder: SlowFirst, **changes: int) -> Iterator[EmbeddingWorker]:
    worker = EmbeddingWorker(embedder, **changes)
    worker.start()
    yield worker
    worker.stop()


Results = queue.Queue[Vectors | Exception]


def test_requests_that_wait_share_one_run_and_get_their_own_rows() -> None:
    embedder, results = SlowFirst(), Results()
    with working(embedder) as worker:
        worker.submit(Job([[1]], "mean", results.put))
        assert embedder.entered.wait(LONG)
        worker.submit(Job([[2], [3]], "mean", results.put))
        worker.submit(Job([[4]], "mean", results.put))
        embedder.go_on.set()
        rows = [results.get(timeout=LONG) for _ in range(3)]
    assert embedder.runs == [("mean", 1), ("mean", 3)]
    assert sorted(np.asarray(one).ravel().tolist() for one in rows) == [[1.0], [2.0, 3.0], [4.0]]


def test_poolings_do_not_mix() -> None:
    embedder, results = SlowFirst(), Results()
    with working(embedder) as worker:
        worker.submit(Job([[1]], "mean", results.put))
        assert embedder.entered.wait(LONG)
        for number, pooling in enumerate(("cls", "mean", "cls")):
            worker.submit(Job([[number]], pooling, results.put))
        embedder.go_on.set()
        for _ in range(4):
            results.get(timeout=LONG)
    assert sorted(embedder.runs[1:]) == [("cls", 2), ("mean", 1)]


def test_a_small_request_does_not_wait_for_all_of_a_large_one() -> None:
    embedder, order = SlowFirst(), queue.Queue[str]()
    with working(embedder, run_tokens=10) as worker:
        worker.submit(Job([[0, 1]], "mean", lambda _: order.put("first")))
        assert embedder.entered.wait(LONG)
        worker.submit(Job([[one, one] for one in range(100)], "mean", lambda _: order.put("large")))
        worker.submit(Job([[7, 7]], "mean", lambda _: order.put("small")))
        embedder.go_on.set()
        assert [order.get(timeout=LONG) for _ in range(3)] == ["first", "small", "large"]
    assert max(number for _, number in embedder.runs) == 5


@given(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=9), min_size=1, max_size=6), st.integers(1, 30))
def test_every_job_gets_the_vectors_of_its_inputs_in_their_order(jobs: list[list[int]], run_tokens: int) -> None:
    embedder, results = SlowFirst(), queue.Queue[tuple[int, Vectors | Exception]]()
    embedder.go_on.set()
    with working(embedder, run_tokens=run_tokens) as worker:
        for number, lengths in enumerate(jobs):
            inputs = [[100 * number + place + 14] * length for place, length in enumerate(lengths)]
            worker.submit(Job(inputs, "mean", lambda found, number=number: results.put((number, found))))
        for _ in jobs:
            number, found = results.get(timeout=LONG)
            assert np.asarray(found).ravel().tolist() == [
                100 * number + place + 14 for place in range(len(jobs[number]))
            ]


def test_a_failing_run_fails_its_requests_and_the_worker_goes_on() -> None:
    embedder, results = SlowFirst(), Results()
    embedder.go_on.set()
    with working(embedder) as worker:
        worker.submit(Job([[13]], "mean", results.put))
        assert isinstance(results.get(timeout=LONG), RuntimeError)
        worker.submit(Job([[5]], "mean", results.put))
        assert np.asarray(results.get(timeout=LONG)).tolist() == [[5.0]]


def test_a_request_that_cannot_be_answered_costs_nobody_else_anything() -> None:
    embedder, results = SlowFirst(), Results()

    def gone(_: Vectors | Exception) -> None:
        raise RuntimeError("nobody there")

    with working(embedder) as worker:
        worker.submit(Job([[1]], "mean", results.put))
        assert embedder.entered.wait(LONG)
        worker.submit(Job([[2]], "mean", gone))
        worker.submit(Job([[3]], "mean", results.put))
        embedder.go_on.set()
        rows = [np.asarray(results.get(timeout=LONG)).tolist() for _ in range(2)]
    assert rows == [[[1.0]], [[3.0]]]
