"""The embedder port, what a request may ask of it, how inputs are batched, and a stand-in without a model."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from python_backends.messages import EmbeddingOptions, Pooling
from python_backends.preprocessing.errors import RequestError

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Terms:
    """What an encoder does unless a request says otherwise, and what a request may say.

    `max_tokens`: of one input, special tokens included. `poolings`: those that its vectors mean something with.
    `shorter`: the dimensions that it was trained to be cut to (Matryoshka), or whether any number will do.
    """

    max_tokens: int
    dimensions: int
    pooling: Pooling = "mean"
    poolings: tuple[Pooling, ...] = ("mean",)
    normalize: bool = True
    shorter: Collection[int] | bool = False

    def check(self, options: EmbeddingOptions) -> None:
        """Raises RequestError, which says what there is."""
        if options.pooling is not None and options.pooling not in self.poolings:
            raise RequestError(
                f"this model's vectors are made for pooling {' or '.join(self.poolings)}, not {options.pooling}",
                param="pooling",
                code="unsupported_value",
            )
        wanted = options.dimensions
        if wanted is None or wanted == self.dimensions:
            return
        if not 0 < wanted < self.dimensions or not self._may_be_cut_to(wanted):
            raise RequestError(
                f"this model has {self.dimensions} dimensions, and {self._shorter_words()}; {wanted} were asked for",
                param="dimensions",
                code="unsupported_value",
            )

    def _may_be_cut_to(self, dimensions: int) -> bool:
        return self.shorter if isinstance(self.shorter, bool) else dimensions in self.shorter

    def _shorter_words(self) -> str:
        if isinstance(self.shorter, bool):
            return "any smaller number" if self.shorter else "was not trained for fewer: leave dimensions out"
        return f"can be cut to {', '.join(map(str, sorted(self.shorter)))}"


class Embedder(Protocol):
    """`embed` is called from one thread at a time."""

    @property
    def terms(self) -> Terms: ...

    def embed(self, inputs: Sequence[Sequence[int]], pooling: Pooling) -> Vectors:
        """Token ids of n inputs → [n, dimensions], in the same order, of whatever length they are."""
        ...


def finished(vectors: Vectors, terms: Terms, options: EmbeddingOptions) -> Vectors:
    """[n, dimensions asked for]: their beginning, at length 1 unless that is not wanted."""
    cut = vectors[:, : options.dimensions]
    normalize = terms.normalize if options.normalize is None else options.normalize
    if not normalize:
        return cut
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    return np.divide(cut, lengths, out=np.zeros_like(cut), where=lengths > 0)


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


class ScriptedEmbedder:
    """The same vector for the same ids and pooling, and another one for others: for tests that need no meaning."""

    def __init__(self, dimensions: int = 384, max_tokens: int = 256) -> None:
        self.terms = Terms(max_tokens, dimensions, poolings=("mean", "last", "cls"), shorter=True)

    def embed(self, inputs: Sequence[Sequence[int]], pooling: Pooling) -> Vectors:
        seed = self.terms.poolings.index(pooling)
        return np.stack([self._vector([seed, *ids] if seed else ids) for ids in inputs])

    def _vector(self, ids: Sequence[int]) -> Vectors:
        return np.random.default_rng(list(ids)).standard_normal(self.terms.dimensions).astype(np.float32)
