"""Fitting the scorer: ridge-penalised logistic regression, folds by group, calibration. NumPy only.

Shapes: `inputs` [n, d], everything else [n].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_STEPS = 25
_CLOSE = 1e-7
_LEAST_SPREAD = 0.1


class Linear(NamedTuple):
    """`inputs @ weights + bias` are logits. `average`: of the inputs it was fitted to."""

    weights: Array
    average: Array
    bias: float

    def logits(self, inputs: Array) -> Array:
        result: Array = (inputs - self.average) @ self.weights + self.bias
        return result


def fit_logistic(inputs: Array, wrong: Array, penalties: Array) -> Linear:
    """Newton's method. `penalties` [d]: of each standardised input's squared weight; the bias has none."""
    average, spread = inputs.mean(axis=0), inputs.std(axis=0)
    # What hardly ever differs tells nothing, and must not count as much as the rest where it does.
    spread = np.maximum(spread, max(float(np.median(spread)) * _LEAST_SPREAD, 1e-9))
    design = np.hstack([(inputs - average) / spread, np.ones((len(inputs), 1))])
    ridge = np.append(penalties, 0.0)
    weights = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(-design @ weights))
        certainty = np.maximum(chances * (1 - chances), 1e-6)
        curvature = (design * certainty[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(curvature, design.T @ (chances - wrong) + ridge * weights)
        weights = weights - step
        if np.abs(step).max() < _CLOSE:
            break
    return Linear(weights[:-1] / spread, average, float(weights[-1]))


def folds_by_group(groups: Sequence[str], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each row. A group is in one fold as a whole; folds are about equally large."""
    names, sizes = np.unique(np.array(groups), return_counts=True)
    filled, fold_of = np.zeros(folds), {}
    for index in np.random.default_rng(seed).permutation(len(names)):
        smallest = int(filled.argmin())
        fold_of[names[index]] = smallest
        filled[smallest] += sizes[index]
    return np.array([fold_of[group] for group in groups], dtype=np.int64)


def held_out_logits(inputs: Array, wrong: Array, penalties: Array, fold: NDArray[np.int64]) -> Array:
    """For each row, by a model that saw nothing of its group."""
    logits = np.zeros(len(inputs))
    for number in np.unique(fold):
        held = fold == number
        logits[held] = fit_logistic(inputs[~held], wrong[~held], penalties).logits(inputs[held])
    return logits


def calibration(logits: Array, wrong: Array) -> tuple[float, float]:
    """`slope` and `offset` that make held-out logits probabilities (Platt)."""
    line = fit_logistic(logits[:, None], wrong, np.zeros(1))
    slope = float(line.weights[0])
    return slope, line.bias - slope * float(line.average[0])


def falling_curve(scores: Array, correct: Array, points: int) -> list[tuple[float, float]]:
    """The share of correct answers by score, never rising: means of equally large bins, pooled where they do rise."""
    order = np.argsort(scores, kind="stable")
    bins = [(float(scores[part].mean()), float(correct[part].mean()), 1.0) for part in np.array_split(order, points)]
    pooled: list[tuple[float, float, float]] = []
    for one in bins:
        pooled.append(one)
        while len(pooled) > 1 and pooled[-2][1] < pooled[-1][1]:
            later, earlier = pooled.pop(), pooled.pop()
            size = earlier[2] + later[2]
            pooled.append((_mean(earlier, later, 0), _mean(earlier, later, 1), size))
    return [(round(score, 4), round(share, 4)) for score, share, _ in pooled]


def _mean(one: tuple[Any, ...], other: tuple[Any, ...], member: int) -> float:
    return float((one[member] * one[2] + other[member] * other[2]) / (one[2] + other[2]))
