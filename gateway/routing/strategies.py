"""How one of several candidates is chosen. Each strategy answers the same call in the same state in the same way."""

from collections.abc import Callable, Mapping, Sequence
from operator import mul
from typing import Final, Protocol

from gateway.routing.prefix import PrefixIndex
from gateway.routing.scoring import AFFINITIES, SCORES, Ask, Candidate, Field, crowded


class Strategy(Protocol):
    @property
    def compares_prompts(self) -> bool:
        """Whether an ask needs its chain."""
        ...

    def pick(self, ask: Ask, candidates: Sequence[Candidate]) -> Candidate:
        """One of the candidates, of which there is at least one."""
        ...

    def forget(self, backend: str) -> None:
        """What it had in its cache is lost."""
        ...


class RoundRobin:
    """In turns, by their ramps: smooth weighted round robin."""

    compares_prompts = False

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}

    def pick(self, ask: Ask, candidates: Sequence[Candidate]) -> Candidate:
        credit = self._credit
        for one in candidates:
            credit[one.id] = credit.get(one.id, 0.0) + one.ramp
        chosen = max(candidates, key=lambda one: credit[one.id])
        credit[chosen.id] -= sum(one.ramp for one in candidates)
        return chosen

    def forget(self, backend: str) -> None:
        self._credit.pop(backend, None)


class Scored:
    """The highest sum of weighted scores; among equals the one with the fewest tokens, then who waited longest.

    A backend with more than `bound` times the mean load, and more than `free` tokens, has no affinities. Every load
    counts with `free` tokens on top, so that a little work more does not tell much. `index`: None when nothing is
    weighted that needs it.
    """

    def __init__(self, weights: Mapping[str, float], bound: float, free: int, index: PrefixIndex | None) -> None:
        self._scores = [(SCORES[name], weight) for name, weight in weights.items() if name in SCORES]
        self._affinities = [(AFFINITIES[name], weight) for name, weight in weights.items() if name in AFFINITIES]
        self._bound = bound
        self._free = free
        self._index = index
        self._field = Field()
        self._decisions = 0

    @property
    def compares_prompts(self) -> bool:
        return self._index is not None

    def pick(self, ask: Ask, candidates: Sequence[Candidate]) -> Candidate:
        if self._index is not None and ask.chain:
            ask.held = self._index.match(ask.chain)
        chosen = self._best(ask, candidates)
        self._decisions += 1
        chosen.last = self._decisions
        if self._index is not None and ask.chain:
            self._index.add(chosen.id, ask.chain)
        return chosen

    def forget(self, backend: str) -> None:
        if self._index is not None:
            self._index.forget(backend)

    def _best(self, ask: Ask, candidates: Sequence[Candidate]) -> Candidate:
        if len(candidates) == 1:
            return candidates[0]
        if self._field != candidates:
            self._field = Field(candidates)
        totals = self._totals(ask, self._field)
        best = max(totals)
        if totals.count(best) == 1:
            return candidates[totals.index(best)]
        equals = [one for one, total in zip(candidates, totals, strict=True) if total == best]
        return min(equals, key=lambda one: (one.tokens, one.last, one.id))

    def _totals(self, ask: Ask, field: Field) -> list[float]:
        more = max(1, ask.cost + self._free)
        ask.loads = [(one.tokens + more) * one.unit for one in field]
        totals = self._sum_of_scores(ask, field)
        gives_way = crowded(ask, field, self._bound, self._free)
        for affinity, weight in self._affinities:
            for place, value in affinity(ask, field).items():
                if not gives_way(place):
                    totals[place] += weight * value
        ramps = [one.ramp for one in field]
        return totals if min(ramps) >= 1 else list(map(mul, totals, ramps))

    def _sum_of_scores(self, ask: Ask, field: Field) -> list[float]:
        weighted = [[weight * one for one in score(ask, field)] for score, weight in self._scores]
        if len(weighted) == 1:
            return weighted[0]
        return list(map(sum, zip(*weighted, strict=True))) if weighted else [0.0] * len(field)


class StrategySettings(Protocol):
    @property
    def strategy(self) -> str: ...
    @property
    def weights(self) -> Mapping[str, float] | None: ...
    @property
    def load_bound(self) -> float: ...
    @property
    def free_load_tokens(self) -> int: ...
    @property
    def prefix_blocks(self) -> int: ...


DEFAULT_WEIGHTS: Final = {"load": 1.0, "prefix": 1.0, "session": 0.25, "adapter": 1.0}


def _least_tokens(settings: StrategySettings) -> Strategy:
    return Scored({"load": 1.0}, settings.load_bound, settings.free_load_tokens, None)


def _prefix(settings: StrategySettings) -> Strategy:
    weights = DEFAULT_WEIGHTS if settings.weights is None else settings.weights
    index = PrefixIndex(settings.prefix_blocks)
    return Scored(weights, settings.load_bound, settings.free_load_tokens, index)


STRATEGIES: Final[Mapping[str, Callable[[StrategySettings], Strategy]]] = {
    "round_robin": lambda settings: RoundRobin(),
    "least_tokens": _least_tokens,
    "prefix": _prefix,
}


def build_strategy(settings: StrategySettings) -> Strategy:
    """Raises ValueError, which lists the names that exist."""
    make = STRATEGIES.get(settings.strategy)
    if make is None:
        raise ValueError(f"there is no strategy {settings.strategy!r}; known: {', '.join(STRATEGIES)}")
    return make(settings)
