"""How long answers are likely to get."""

import math
from collections import OrderedDict
from dataclasses import dataclass

# Of a normal distribution nine of ten lie below the mean plus so many deviations.
SAFETY = 1.3
# An answer's weight once some have been seen: the last twenty decide.
WEIGHT = 0.1
KNOWN_PAIRS = 10_000


@dataclass(slots=True)
class _Lengths:
    """Exponentially weighted moments; the first guess counts as one answer."""

    mean: float
    variance: float = 0.0
    seen: int = 1

    def add(self, tokens: int) -> None:
        self.seen += 1
        weight = max(WEIGHT, 1 / self.seen)
        difference = tokens - self.mean
        self.mean += weight * difference
        self.variance = (1 - weight) * (self.variance + weight * difference * difference)

    @property
    def likely(self) -> int:
        return max(1, math.ceil(self.mean + SAFETY * math.sqrt(self.variance)))


class Predictor:
    """For each tenant and model: what about nine of ten answers stay below.

    Reserving that much keeps debts rare, and costs less room than the longest answer allowed. `first_guess`: tokens,
    before anything is known. The pairs not asked for longest are forgotten.
    """

    def __init__(self, first_guess: int, most: int = KNOWN_PAIRS) -> None:
        self._first_guess = first_guess
        self._most = most
        self._lengths: OrderedDict[tuple[str, str], _Lengths] = OrderedDict()

    def expect(self, tenant: str, model: str, max_tokens: int) -> int:
        """Tokens of one answer, at most what the client allows."""
        lengths = self._lengths.get((tenant, model))
        return min(max_tokens, self._first_guess if lengths is None else lengths.likely)

    def learn(self, tenant: str, model: str, completion: int) -> None:
        """One answer was completed, with so many tokens."""
        pair = (tenant, model)
        lengths = self._lengths.get(pair)
        if lengths is None:
            lengths = self._lengths[pair] = _Lengths(float(self._first_guess))
            if len(self._lengths) > self._most:
                self._lengths.popitem(last=False)
        self._lengths.move_to_end(pair)
        lengths.add(completion)
