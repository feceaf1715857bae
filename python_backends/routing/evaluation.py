"""How good a score is at sending questions to the stronger of two models: its cost-quality curve."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from python_backends.routing.fitting import Array

_HALF, _MOST = 0.5, 0.8


@dataclass(frozen=True)
class Quality:
    """`apgr`: the average share of the quality gap that is recovered, over all shares of calls to the stronger model;
    0.5 for random choices. `half`, `most`: the least share of calls there that recovers 50 % and 80 % of the gap.
    `auc`: how well it tells what the weaker model gets wrong, 0.5 for random choices.
    """

    apgr: float
    half: float
    most: float
    auc: float


def evaluate(scores: Array, weak: Array, strong: Array) -> Quality:
    """`weak`, `strong`: 1 where that model is right. The highest scores go to the stronger model first; questions of
    the same score go in random order.
    """
    shuffled = np.random.default_rng(0).permutation(len(scores))
    order = shuffled[np.argsort(-scores[shuffled], kind="stable")]
    recovered = np.concatenate([[0.0], np.cumsum((strong - weak)[order])]) / float((strong - weak).sum())
    shares = np.linspace(0, 1, len(recovered))
    area = sum((right + left) / 2 for left, right in pairwise(recovered.tolist())) / len(scores)
    return Quality(
        apgr=round(area, 4),
        half=round(float(shares[np.argmax(recovered >= _HALF)]), 4),
        most=round(float(shares[np.argmax(recovered >= _MOST)]), 4),
        auc=round(area_under_roc(scores, 1 - weak), 4),
    )


def area_under_roc(scores: Array, positive: Array) -> float:
    """The chance that a positive one scores above a negative one; of the same score, half."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positives = float(positive.sum())
    negatives = len(positive) - positives
    return float(ranks[positive == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives)


def within_groups(scores: Array, weak: Array, groups: list[str]) -> float:
    """`auc` inside each group, averaged by size: what is left when a group's own difficulty is no help."""
    names, total, weight = np.array(groups), 0.0, 0
    for name in np.unique(names):
        rows = names == name
        if 0 < weak[rows].sum() < rows.sum():
            total += area_under_roc(scores[rows], 1 - weak[rows]) * int(rows.sum())
            weight += int(rows.sum())
    return round(total / weight, 4) if weight else 0.5
