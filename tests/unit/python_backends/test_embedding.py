"""Inputs are batched by their padded size, and requests that wait share a run."""

import queue
import threading
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from python_backends.embedding.embedder import ScriptedEmbedder, Vectors, batches
from python_backends.embedding.worker import EmbeddingWorker, Job

LONG = 20.0


@given(lengths=st.lists(st.integers(1, 512), max_size=60), bound=st.integers(1, 2048))
def test_every_input_is_in_one_batch_and_no_batch_exceeds_the_bound(lengths: list[int], bound: int) -> None:
    found = list(batches(lengths, bound))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= bound


def test_the_scripted_embedder_gives_unit_vectors_by_content() -> None:
    vectors = ScriptedEmbedder(dimensions=8).embed([[1, 2], [3], [1, 2]])
    assert vectors.shape == (3, 8)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])


class SlowFirst:
    """Blocks on its first run until told to go on; records how many inputs each run had."""

    max_tokens = 10
    dimensions = 1

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def embed(self, inputs: Sequence[Sequence[int]]) -> Vectors:
        self.runs.append(len(inputs))
        self.entered.set()
        assert self.go_on.wait(LONG)
        if any(ids == [13] for ids in inputs):
            raise RuntimeError("unlucky")
        return np.array([[ids[0]] for ids in inputs], dtype=np.float32)


def test_requests_that_wait_share_one_run_and_get_their_own_rows() -> None:
    embedder = SlowFirst()
    worker = EmbeddingWorker(embedder)
    worker.start()
    results: queue.Queue[Vectors | Exception] = queue.Queue()
    worker.submit(Job([[1]], results.put))
    assert embedder.entered.wait(LONG)
    worker.submit(Job([[2], [3]], results.put))
    worker.submit(Job([[4]], results.put))
    embedder.go_on.set()
    rows = [results.get(timeout=LONG) for _ in range(3)]
    worker.stop()
    assert embedder.runs == [1, 3]
    assert [np.asarray(one).ravel().tolist() for one in rows] == [[1.0], [2.0, 3.0], [4.0]]


def test_a_failing_run_fails_its_requests_and_the_worker_goes_on() -> None:
    embedder = SlowFirst()
    embedder.go_on.set()
    worker = EmbeddingWorker(embedder)
    worker.start()
    results: queue.Queue[Vectors | Exception] = queue.Queue()
    worker.submit(Job([[13]], results.put))
    assert isinstance(results.get(timeout=LONG), RuntimeError)
    worker.submit(Job([[5]], results.put))
    assert np.asarray(results.get(timeout=LONG)).tolist() == [[5.0]]
    worker.stop()
