"""Limits of this process alone, while Valkey is away."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from gateway.limits.buckets import Buckets
from gateway.limits.terms import KNOWN_CALLERS, Ask, Scope, Settlement, Verdict

# Nothing outlives this process, so that no lease has to end by itself.
NEVER_MS = 10**12


class Local:
    """The same algorithm at limit ÷ replicas. `clock`: Unix seconds."""

    def __init__(self, replicas: int, clock: Callable[[], float] = time.time) -> None:
        self._replicas = replicas
        self._clock = clock
        self._buckets = Buckets()
        self._shares = lru_cache(KNOWN_CALLERS)(lambda scope: scope.share(replicas))

    def reserve(self, ask: Ask) -> Verdict:
        return self._buckets.reserve(self._share(ask), self._now(), NEVER_MS)

    def settle(self, done: Settlement) -> None:
        self._buckets.settle(replace(done, ask=self._share(done.ask)), self._now())

    def _share(self, ask: Ask) -> Ask:
        """What fits the whole limit is not refused for ever by its part: it takes all of that, the rest is debt."""
        scopes = tuple(map(self._shares, ask.scopes))
        tokens, cost = ask.tokens, ask.cost
        if all(_fits(ask, scope) for scope in ask.scopes):
            tokens = min([tokens, *(bound for one in scopes for bound in _token_bounds(one) if bound)])
            cost = min([cost, *(bound for one in scopes for bound in _cost_bounds(one) if bound)])
        return Ask(ask.uid, ask.tenant, scopes, tokens, cost)

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _fits(ask: Ask, scope: Scope) -> bool:
    return all(not bound or ask.tokens <= bound for bound in _token_bounds(scope)) and all(
        not bound or ask.cost <= bound for bound in _cost_bounds(scope)
    )


def _token_bounds(scope: Scope) -> tuple[int, ...]:
    return scope.token_burst, scope.tokens_per_day, scope.tokens_per_month


def _cost_bounds(scope: Scope) -> tuple[int, ...]:
    return scope.cost_per_day, scope.cost_per_month
