"""Fair shares of tenants: virtual token counters.

Each tenant has a counter of the tokens it was served, weighted by kind and divided by the tenant's own weight; whoever
has the smallest goes next. A tenant that comes back after a pause is lifted to the smallest counter among those who
wait, so that nobody saves up a claim by being idle. What is charged at the start is a prediction, corrected at the end.

Source: Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024), VTC with length prediction and weights.
Between tenants that always have requests waiting, what they were served differs by at most
2 · max(prompt_weight · longest prompt, output_weight · tokens that run), however long it goes on.
"""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

MOST_ACCOUNTS = 4096
_SLACK = 64


@dataclass(slots=True, eq=False)
class Account:
    """One tenant in one class. `counter` and `served` in weighted tokens over `weight`.

    `served` counts what this gateway served since its start, and goes to the other gateways; `counter` is lifted, and
    knows of what the others served too. `since`: orders tenants whose counters are equal.
    """

    tenant: str
    weight: float = 1.0
    counter: float = 0.0
    served: float = 0.0
    waiting: int = 0
    running: int = 0
    since: int = 0


class VirtualCounters:
    """Every operation is O(log n) amortized in the tenants that wait.

    `most`: accounts that are kept. Beyond that the idle ones with the smallest counters are forgotten, which changes
    nothing for those whose counter is at or below that of every tenant waiting: they would be lifted to it anyway.
    """

    def __init__(self, most: int = MOST_ACCOUNTS) -> None:
        self._most = most
        self._accounts: dict[str, Account] = {}
        self._order: list[tuple[float, int, Account]] = []
        self._last: Account | None = None
        self._entered = 0
        self.active = 0
        self.active_weight = 0.0

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def find(self, tenant: str) -> Account | None:
        return self._accounts.get(tenant)

    def enter(self, tenant: str, weight: float) -> Account:
        """One more request of this tenant waits; the first of them lifts its counter."""
        account = self._account(tenant)
        if account.waiting == 0:
            account.weight = weight
            self.lift(account)
            self._entered += 1
            account.since = self._entered
            self.active += 1
            self.active_weight += weight
            account.waiting = 1
            self._place(account)
        else:
            account.waiting += 1
        return account

    def exit(self, account: Account) -> None:
        """One request fewer of this tenant waits."""
        account.waiting -= 1
        if account.waiting == 0:
            self.active -= 1
            self.active_weight -= account.weight
            self._last = account
            if not self.active:
                self.active_weight = 0.0
                self._order.clear()

    def pass_by(self, tenant: str, weight: float) -> Account:
        """A request that need not wait, since nobody does: enters and exits."""
        account = self._account(tenant)
        account.weight = weight
        self.lift(account)
        self._last = account
        return account

    def charge(self, account: Account, tokens: float) -> None:
        """`tokens`: weighted by kind; negative to give back what was charged too much."""
        virtual = tokens / account.weight
        account.served += virtual
        account.counter += virtual
        if account.waiting:
            self._place(account)

    def least(self) -> Account | None:
        """Whose turn it is among those who wait."""
        order = self._order
        while order:
            counter, since, account = order[0]
            if account.waiting and account.counter == counter and account.since == since:
                return account
            heapq.heappop(order)
        return None

    def lift(self, account: Account) -> None:
        least = self.least() or self._last
        if least is not None and least.counter > account.counter:
            account.counter = least.counter

    def absorb(self, remote: Mapping[str, float]) -> None:
        """`remote`: what other gateways served of each tenant since the last time, over its weight."""
        for tenant in sorted(remote):
            account = self._account(tenant)
            account.counter += remote[tenant]
            if account.waiting:
                self._place(account)

    def _account(self, tenant: str) -> Account:
        account = self._accounts.get(tenant)
        if account is None:
            if len(self._accounts) >= self._most:
                self._forget()
            account = self._accounts[tenant] = Account(tenant)
        return account

    def _place(self, account: Account) -> None:
        if len(self._order) > 2 * self.active + _SLACK:
            self._order = [(one.counter, one.since, one) for one in self if one.waiting and one is not account]
            heapq.heapify(self._order)
        heapq.heappush(self._order, (account.counter, account.since, account))

    def _forget(self) -> None:
        """Half of the idle ones at once, so that the sorting is paid for by as many newcomers."""
        idle = [one for one in self if not one.waiting and not one.running]
        idle.sort(key=lambda one: (one.counter, one.tenant))
        for one in idle[: (len(idle) + 1) // 2]:
            del self._accounts[one.tenant]
