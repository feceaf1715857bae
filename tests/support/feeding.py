"""Arrivals for a real gateway, in the order and the measure in which it serves: its own work is the clock.

An arrival of second 7 comes once the engine has served what it is said to serve in 7 seconds. So every machine gives
the same load, and tenants that ask for more than their share have somebody waiting all the time.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from benchmarks.simulation import Arrival

# Sends one request and returns its usage.
Ask = Callable[[Arrival], Awaitable[dict[str, Any]]]
PROMPT_WEIGHT, OUTPUT_WEIGHT = 1, 2


@dataclass(frozen=True)
class Service:
    """What one answer used, in weighted tokens. `backlogged`: who had requests waiting when it ended."""

    tenant: str
    tokens: int
    prompt: int
    backlogged: frozenset[str]


@dataclass
class Feed:
    """`speed`: weighted tokens that the engine is said to serve in a second. `places`: requests that run at a time."""

    ask: Ask
    speed: float
    places: int
    services: list[Service] = field(default_factory=list)
    _outstanding: Counter[str] = field(default_factory=Counter)

    async def play(self, arrivals: Sequence[Arrival], since: float, until: float) -> list[Service]:
        """Answers in the order in which they were complete. All that comes before `since` is there at once."""
        coming, asking = deque(arrivals), set[asyncio.Future[None]]()
        now = since
        while now < until:
            while coming and coming[0].at <= now:
                asking.add(asyncio.ensure_future(self._serve(coming.popleft())))
            done, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
            now = since + sum(one.tokens for one in self.services) / self.speed
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        return self.services

    async def _serve(self, arrival: Arrival) -> None:
        self._outstanding[arrival.tenant] += 1
        usage = await self.ask(arrival)
        self._outstanding[arrival.tenant] -= 1
        computed = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        tokens = PROMPT_WEIGHT * computed + OUTPUT_WEIGHT * usage["completion_tokens"]
        waiting = frozenset(tenant for tenant, number in self._outstanding.items() if number > self.places)
        self.services.append(Service(arrival.tenant, tokens, usage["prompt_tokens"], waiting))


def largest_gap(services: Sequence[Service], tenants: Sequence[str]) -> int:
    """Largest difference of what two of these were served, in weighted tokens, over any time in which both waited."""
    return max(_gap(services, pair) for pair in combinations(tenants, 2))


def _gap(services: Sequence[Service], pair: tuple[str, str]) -> int:
    largest = apart = least = most = 0
    for one in services:
        if one.backlogged.issuperset(pair):
            apart += one.tokens * ((one.tenant == pair[0]) - (one.tenant == pair[1]))
            least, most = min(least, apart), max(most, apart)
            largest = max(largest, most - least)
        else:
            apart = least = most = 0
    return largest
