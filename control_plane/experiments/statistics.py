"""Means, shares and differences with intervals that may be looked at as often as one likes.

**Units.** Requests of one tenant, user or session have much to do with each other; units have not. So nothing here
counts requests as if each were new evidence: units are thrown into buckets by a hash, and the buckets' sums are what
varies. A mean is a ratio of two sums; its variance follows by the delta method (A. Deng, U. Knoblich & J. Lu, Applying
the Delta Method in Metric Analytics, KDD 2018), and costs the same memory whether there are ten units or a million.

**Looking often.** An interval that is right with 95 % at one look is wrong far more often at some look of many. Those
here are right at all looks together: the normal mixture of H. Robbins (Annals of Mathematical Statistics 41, 1970), for
estimates that are only asymptotically normal (I. Waudby-Smith, D. Arbour, R. Sinha, E. Kennedy & A. Ramdas,
Time-uniform central limit theory and asymptotic confidence sequences, Annals of Statistics 52, 2024); the p-value that
belongs to them is that of the mixture sequential probability ratio test (R. Johari, P. Koomen, L. Pekelis & D. Walsh,
Always valid inference, Operations Research 70, 2022). They are about
1.5 times as wide as one for a single look, and narrowest, compared with that, at the planned number of observations.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

BUCKETS: Final = 128


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """`count`: observations; `buckets`: how many of them have any. `variance`: of the value."""

    value: float
    variance: float
    count: float
    buckets: int


@dataclass(frozen=True, slots=True)
class Looks:
    """How sure to be over all looks. `planned`: observations at which to be narrowest. `confidence`: in ]0, 1[."""

    planned: float
    confidence: float

    def widening(self, count: float) -> float:
        """Standard errors on either side, after `count` observations."""
        mixture = self._mixture(count)
        if mixture <= 0:
            return math.inf
        return math.sqrt((1 + mixture) / mixture * (math.log1p(mixture) - 2 * math.log(self._alpha)))

    def p_value(self, count: float, standard_errors: float) -> float:
        """Of "there is no difference", where one of so many standard errors was found. At most `alpha` just when the
        interval has left 0.
        """
        mixture = self._mixture(count)
        exponent = standard_errors**2 / 2 * mixture / (1 + mixture)
        return min(1.0, math.exp(math.log1p(mixture) / 2 - exponent))

    @property
    def _alpha(self) -> float:
        return 1 - self.confidence

    def _mixture(self, count: float) -> float:
        """Variance of the mixture, in variances of the estimate."""
        twice = -2 * math.log(self._alpha)
        return (twice + math.log1p(twice)) * count / self.planned


def estimate(counts: Mapping[int, float], sums: Mapping[int, float]) -> Estimate | None:
    """The mean of what was summed up, from the buckets' counts and sums. None where there is nothing."""
    total = sum(counts.values())
    if total <= 0:
        return None
    value, number = sum(sums.values()) / total, len(counts)
    if number == 1:
        return Estimate(value, math.inf, total, number)
    squares = sum((sums.get(bucket, 0.0) - value * count) ** 2 for bucket, count in counts.items())
    return Estimate(value, number / (number - 1) * squares / total**2, total, number)


def around(value: float, variance: float, widening: float) -> Interval:
    reach = widening * math.sqrt(variance)
    return Interval(value - reach, value + reach)


def share_interval(share: Estimate, widening: float) -> Interval:
    """E. B. Wilson's (Journal of the American Statistical Association 22, 1927), good for rare events and for none."""
    number, square = effective(share), widening**2
    middle = (share.value + square / (2 * number)) / (1 + square / number)
    spread = share.value * (1 - share.value) / number + square / (4 * number**2)
    reach = widening * math.sqrt(spread) / (1 + square / number)
    return Interval(max(0.0, middle - reach), min(1.0, middle + reach))


def smoothed(share: Estimate) -> Estimate:
    """For differences: with one event and one that did not happen added, so that none has a variance (A. Agresti &
    B. Caffo, The American Statistician 54, 2000).
    """
    number = effective(share)
    value = (share.value * number + 1) / (number + 2)
    return Estimate(value, value * (1 - value) / (number + 2), share.count, share.buckets)


def effective(share: Estimate) -> float:
    """Observations that would tell as much if none had to do with another; never more than there are."""
    if not 0 < share.value < 1 or math.isinf(share.variance):
        return share.count
    return min(share.count, share.value * (1 - share.value) / max(share.variance, 1e-12))
