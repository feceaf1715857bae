"""Shares of classes: weighted deficit round robin.

In each round every class that waits gets its quantum, tokens in proportion to its weight, and starts what it can pay
for. What is left is kept for the next round; a class that stops waiting loses it, but keeps its debts. Every class that
waits gets its share whatever the others do.

Source: Shreedhar and Varghese, "Efficient Fair Queueing Using Deficit Round Robin" (SIGCOMM 1995).
"""

import math
from collections.abc import Mapping
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=str)


class DeficitRoundRobin(Generic[Name]):
    """`weights`: in the order in which the classes are visited. `quantum`: tokens a round and unit of weight."""

    def __init__(self, weights: Mapping[Name, float], quantum: int) -> None:
        self._names = list(weights)
        self._quanta = {name: quantum * weight for name, weight in weights.items()}
        self._at = 0
        self._paid = False
        self.deficits: dict[Name, float] = dict.fromkeys(self._names, 0.0)

    def pick(self, costs: Mapping[Name, int]) -> Name:
        """The class whose turn it is. `costs`: tokens of the next request of each class that waits, at least one."""
        while True:
            for _ in self._names:
                name = self._names[self._at]
                if name in costs and self._affords(name, costs[name]):
                    return name
                self._at = (self._at + 1) % len(self._names)
                self._paid = False
            self._skip_rounds(costs)

    def spend(self, name: Name, cost: float) -> None:
        self.deficits[name] -= cost

    def stopped(self, name: Name) -> None:
        """Nobody of this class waits any more."""
        self.deficits[name] = min(0.0, self.deficits[name])

    def _affords(self, name: Name, cost: int) -> bool:
        """The quantum is paid once a visit, and a class may start several requests in one visit."""
        if not self._paid:
            self.deficits[name] += self._quanta[name]
            self._paid = True
        return self.deficits[name] >= cost

    def _skip_rounds(self, costs: Mapping[Name, int]) -> None:
        """All rounds at once in which nobody could afford anything."""
        rounds = min(math.ceil((cost - self.deficits[name]) / self._quanta[name]) - 1 for name, cost in costs.items())
        for name in costs:
            self.deficits[name] += max(0, rounds) * self._quanta[name]
