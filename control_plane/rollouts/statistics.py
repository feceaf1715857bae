"""Is one sample worse than another? Three one-sided tests; each gives a p-value, in [0, 1], and knows no threshold."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Values = Sequence[float] | NDArray[np.float64]

# Of a sum that is known to about 9 digits.
_NEGLIGIBLE: Final = 1e-12


def more_often(hits: int, total: int, other_hits: int, other_total: int) -> float:
    """p-value of "the first proportion is not above the second": small where it is above.

    The two-proportion test in its exact form, conditional on all hits (R. A. Fisher, The Design of Experiments, 1935,
    chapter II). The normal form of it alarms ten times too often where few hits are expected, as with errors.
    """
    if not total or not other_total:
        return 1.0
    mean = total * (hits + other_hits) / (total + other_total)
    if hits > mean:
        return min(1.0, _tail(hits, total, other_hits, other_total))
    # From below the mean upwards the first terms would be too small to begin with: so the other tail, from above.
    return 1.0 - min(1.0, _tail(other_hits + 1, other_total, hits - 1, total)) if hits else 1.0


def _tail(hits: int, total: int, other_hits: int, other_total: int) -> float:
    """How probable so many hits or more are in the first sample, if all hits fell at random."""
    all_hits = hits + other_hits
    log_term = _log_choose(total, hits) + _log_choose(other_total, other_hits)
    term = math.exp(log_term - _log_choose(total + other_total, all_hits))
    tail = 0.0
    for number in range(hits, min(total, all_hits) + 1):
        tail += term
        if term <= tail * _NEGLIGIBLE:
            break
        term *= (total - number) * (all_hits - number) / ((number + 1) * (other_total - all_hits + number + 1))
    return tail


def excess_reaches(margin: float, hits: int, total: int, other_hits: int, other_total: int) -> float:
    """p-value of "the first proportion is above the second by `margin` or more": small where it surely is not.

    Normal, with one hit and one miss added to each sample, so that none has no variance (Agresti & Caffo,
    The American Statistician 54, 2000).
    """
    rate, other_rate = (hits + 1) / (total + 2), (other_hits + 1) / (other_total + 2)
    variance = rate * (1 - rate) / (total + 2) + other_rate * (1 - other_rate) / (other_total + 2)
    return normal_below((rate - other_rate - margin) / math.sqrt(variance))


def larger(values: Values, others: Values) -> float:
    """p-value of "`values` are not larger than `others`": small where they tend to be.

    Mann and Whitney's U, normal with correction for ties and continuity (H. B. Mann & D. R. Whitney, Annals of
    Mathematical Statistics 18, 1947; ties: E. L. Lehmann, Nonparametrics, 1975, 1.4), which is good from about
    20 values each.
    """
    first, second = np.asarray(values, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if not len(first) or not len(second):
        return 1.0
    ranks, ties = _ranks(np.concatenate([first, second]))
    n, m = len(first), len(second)
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    spread = n * m / 12 * (n + m + 1 - ties / ((n + m) * (n + m - 1)))
    if spread <= 0:  # all values are the same
        return 1.0
    return normal_below(-(u - n * m / 2 - 0.5) / math.sqrt(spread))


def normal_below(z: float) -> float:
    """Share of the standard normal distribution below `z`."""
    return math.erfc(-z / math.sqrt(2)) / 2


def _ranks(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Ranks from 1, the same for equal values; and the sum of t³ - t over every t equal ones."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle = last - (counts - 1) / 2
    sizes = counts.astype(np.float64)
    return middle[place], float((sizes**3 - sizes).sum())


def _log_choose(whole: int, part: int) -> float:
    if not 0 <= part <= whole:
        return -math.inf
    return math.lgamma(whole + 1) - math.lgamma(part + 1) - math.lgamma(whole - part + 1)
