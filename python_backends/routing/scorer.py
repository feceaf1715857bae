"""The trained scorer: a linear function of a text's embedding and features, made a probability."""

import json
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from python_backends.messages import Judgement
from python_backends.preprocessing.errors import RequestError
from python_backends.routing.features import NAMES

WEIGHTS: Final = "scorer.npz"
EVALUATION: Final = "scorer.json"
_MOST_PARTS = 3
# Beyond it a probability is 0 or 1 to the last digit.
_MOST_LOGITS = 30.0


@dataclass(frozen=True, eq=False)
class Scorer:
    """`weights`, `average`: FP32[dimensions + len(NAMES)], the embedding's first. An average text moves nothing."""

    name: str
    weights: NDArray[np.float32]
    average: NDArray[np.float32]
    bias: float

    @classmethod
    def load(cls, directory: Path) -> "Scorer":
        """Raises OSError, ValueError, KeyError for files that hold no scorer."""
        name = json.loads((directory / EVALUATION).read_text("utf-8"))["scorer"]
        with np.load(directory / WEIGHTS, allow_pickle=False) as file:
            scorer = cls(name, file["weights"], file["average"], float(file["bias"]))
        if scorer.weights.shape != scorer.average.shape or scorer.weights.size <= len(NAMES):
            raise ValueError(f"{directory / WEIGHTS} was not trained for these {len(NAMES)} features")
        return scorer

    def save(self, directory: Path) -> None:
        """The weights; their evaluation is written beside them."""
        np.savez(directory / WEIGHTS, weights=self.weights, average=self.average, bias=np.float64(self.bias))

    @property
    def dimensions(self) -> int:
        """Of the embeddings that it was trained with."""
        return self.weights.size - len(NAMES)

    def judge(self, embedding: NDArray[Any] | None, features: NDArray[Any] | None) -> Judgement:
        """Raises RequestError for what is not one embedding and its features."""
        given = _size(embedding), _size(features)
        if embedding is None or features is None or given != (self.dimensions, len(NAMES)):
            raise RequestError(
                f"the scorer {self.name} takes one embedding of {self.dimensions} numbers and {len(NAMES)} features; "
                f"{given[0]} and {given[1]} came: train it with this embedding model",
                param="embedding",
            )
        text = np.concatenate((embedding.ravel(), features.ravel()))
        moved = self.weights * (text - self.average)
        logits = float(moved.sum(dtype=np.float64)) + self.bias
        return Judgement(scorer=self.name, score=probability(logits), parts=self._parts(moved))

    def _parts(self, moved: NDArray[Any]) -> dict[str, float]:
        """The largest ones, in their order."""
        named = {"meaning": float(moved[: self.dimensions].sum(dtype=np.float64))}
        named |= dict(zip(NAMES, moved[self.dimensions :].tolist(), strict=True))
        largest = sorted(named, key=lambda name: -abs(named[name]))[:_MOST_PARTS]
        return {name: round(named[name], 3) for name in largest}


def probability(logits: float) -> float:
    return 1 / (1 + exp(-max(-_MOST_LOGITS, min(_MOST_LOGITS, logits))))


def _size(array: NDArray[Any] | None) -> int:
    return 0 if array is None else array.size
