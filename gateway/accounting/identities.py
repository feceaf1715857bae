"""Metrics of tenants and of keys, with a bounded number of labels: the busiest have their own, all others share one."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from gateway.accounting.entries import ROUTES
from gateway.accounting.outcome import Outcome
from gateway.core.call import Call

OTHER: Final = "other"
# Family and second label.
Series = tuple[str, str]


class Tallies:
    """Counts by name; at most `most` names beside `other`.

    Space-saving (Metwally, Agrawal, El Abbadi 2005): a new name takes the place of the least busy one and inherits
    its weight, so that a name with more than one in `most` of all requests is always there. What the one that left
    had counted moves to `other`: no sum ever falls, and the total is exact.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._weights: dict[str, int] = {}
        self._counts: dict[str, Counter[Series]] = {OTHER: Counter()}

    def add(self, name: str, amounts: dict[Series, int]) -> None:
        if name != OTHER:
            self._weigh(name)
        self._counts.setdefault(name, Counter()).update(amounts)

    def items(self) -> Iterator[tuple[str, Series, int]]:
        for name, counts in self._counts.items():
            for series, count in counts.items():
                yield name, series, count

    def _weigh(self, name: str) -> None:
        weights = self._weights
        inherited = 0
        if name not in weights and len(weights) >= self._most:
            least = min(weights, key=weights.__getitem__)
            inherited = weights.pop(least)
            self._counts[OTHER].update(self._counts.pop(least))
        weights[name] = weights.get(name, inherited) + 1


class Identities(Collector):
    """What /metrics says of tenants and keys. Whoever stays under the label `other` can be found in the ledger."""

    def __init__(self, most: int) -> None:
        self._tenants = Tallies(most)
        self._keys = Tallies(most)

    def record(self, call: Call, outcome: Outcome, seconds: float) -> None:
        del seconds
        if call.caller is None or call.route not in ROUTES:
            return
        usage = call.usage
        amounts: dict[Series, int] = {
            ("requests", outcome.name): 1,
            ("tokens", "prompt"): usage.prompt,
            ("tokens", "cached"): usage.cached,
            ("tokens", "completion"): usage.completion,
        }
        self._keys.add(call.caller.key_id, amounts)
        self._tenants.add(call.caller.tenant, amounts | {("price", ""): call.price})

    def collect(self) -> Iterator[CounterMetricFamily]:
        for whose, tallies in (("tenant", self._tenants), ("key", self._keys)):
            requests = CounterMetricFamily(
                f"trireme_{whose}_requests", f"Requests that ended, by {whose}.", labels=[whose, "outcome"]
            )
            tokens = CounterMetricFamily(f"trireme_{whose}_tokens", f"Tokens used, by {whose}.", labels=[whose, "kind"])
            price = CounterMetricFamily(
                f"trireme_{whose}_price", f"Price of what was used, by {whose}, in the currency.", labels=[whose]
            )
            for name, (family, label), count in tallies.items():
                match family:
                    case "requests":
                        requests.add_metric([name, label], count)
                    case "tokens":
                        tokens.add_metric([name, label], count)
                    case _:
                        price.add_metric([name], count / 1e9)
            yield from (requests, tokens, price) if whose == "tenant" else (requests, tokens)
