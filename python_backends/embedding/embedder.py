"""The embedder port, how inputs are batched, and a stand-in without a model."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class Embedder(Protocol):
    """`embed` is called from one thread at a time."""

    max_tokens: int
    dimensions: int

    def embed(self, inputs: Sequence[Sequence[int]]) -> Vectors:
        """Token ids of n inputs → [n, dimensions], in the same order."""
        ...


def batches(lengths: Sequence[int], max_batch_tokens: int) -> Iterator[list[int]]:
    """Indices of the inputs, grouped so that padded batches hold at most `max_batch_tokens` (one input always fits).

    Longest first: neighbours have like lengths, so that little is padded.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batch: list[int] = []
    for index in order:
        if batch and lengths[batch[0]] * (len(batch) + 1) > max_batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def truncated(ids: Sequence[int], most: int) -> list[int]:
    """Its beginning, and the special token that ends it."""
    return [*ids] if len(ids) <= most else [*ids[: most - 1], ids[-1]]


class ScriptedEmbedder:
    """The same unit vector for the same ids, and another one for others: for tests that need no meaning."""

    def __init__(self, dimensions: int = 384, max_tokens: int = 256) -> None:
        self.dimensions = dimensions
        self.max_tokens = max_tokens

    def embed(self, inputs: Sequence[Sequence[int]]) -> Vectors:
        return np.stack([self._vector(ids) for ids in inputs])

    def _vector(self, ids: Sequence[int]) -> Vectors:
        vector = np.random.default_rng(list(ids)).standard_normal(self.dimensions)
        return (vector / np.linalg.norm(vector)).astype(np.float32)
