"""Who waits in one class, and who of them is next."""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from gateway.admission.heap import Heap
from gateway.admission.settings import ClassTerms
from gateway.admission.vtc import Account, VirtualCounters
from gateway.core.identity import PriorityClass

TicketState = Literal["new", "waiting", "running", "ended"]
# A tenant may hold so many times the places that are left: alone it gets 8/9 of the queue, and room always remains.
REACH = 8
# Places are counted so far, for those who ask again and again.
MOST_COUNTED = 1000


@dataclass(slots=True, eq=False)
class Ticket:
    """A request in admission: first a place in the queue, then a turn, a lease with an owner, a cost and an end.

    `prompt`, `answer`: tokens, the answer's expected ones. Times are seconds of the clock that the scheduler is told.
    `number` is the order of arrival, `position` the place in the queue of its class then, 0 if it did not wait.
    """

    priority_class: PriorityClass
    tenant: str
    prompt: int
    answer: int
    deadline: float
    weight: float = 1.0
    state: TicketState = "new"
    number: int = 0
    position: int = 0
    arrived: float = 0.0
    started: float = 0.0
    charged: float = 0.0
    account: Account | None = None

    @property
    def cost(self) -> int:
        """Tokens that it holds while it runs."""
        return self.prompt + self.answer


@dataclass(slots=True, eq=False)
class _Tenant:
    """`due`: tokens by the second in which their turn is due, which is what orders them."""

    account: Account
    tickets: Heap[Ticket]
    queued: int = 0
    tokens: int = 0
    due: Counter[int] = field(default_factory=Counter)


class Line:
    """The waiting requests of one class; and how many of its requests, and their tokens, run (the scheduler counts).

    Tenants take turns by their virtual token counters. Within a tenant the earliest deadline goes first, then who came
    first; but nobody is passed by requests that came more than `ageing_s` later: the key is the earlier of the deadline
    and the moment at which the request has aged. Every operation is O(log n) amortized.
    """

    def __init__(self, terms: ClassTerms, counters: VirtualCounters) -> None:
        self.terms = terms
        self.counters = counters
        self.tokens = 0
        self.running = 0
        self.running_tokens = 0
        self._tickets: OrderedDict[Ticket, None] = OrderedDict()
        self._tenants: dict[str, _Tenant] = {}
        self._by_size: Heap[Ticket] = Heap(_has_left)

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        """In the order of arrival."""
        return iter(self._tickets)

    @property
    def oldest(self) -> Ticket | None:
        return next(iter(self._tickets), None)

    def add(self, ticket: Ticket) -> None:
        account = ticket.account = self.counters.enter(ticket.tenant, ticket.weight)
        tenant = self._tenants.get(ticket.tenant)
        if tenant is None:
            tenant = self._tenants[ticket.tenant] = _Tenant(account, Heap(_has_left))
        ticket.state = "waiting"
        self._tickets[ticket] = None
        ticket.position = len(self._tickets)
        tenant.queued += 1
        tenant.tokens += ticket.cost
        tenant.due[int(self._due(ticket))] += ticket.cost
        self.tokens += ticket.cost
        tenant.tickets.push((self._due(ticket), ticket.number), ticket, tenant.queued)
        self._by_size.push((ticket.cost, ticket.number), ticket, len(self._tickets))

    def remove(self, ticket: Ticket) -> None:
        """It starts, or goes: the caller sets its new state."""
        ticket.state = "ended"
        del self._tickets[ticket]
        self.tokens -= ticket.cost
        tenant = self._tenants[ticket.tenant]
        tenant.queued -= 1
        tenant.tokens -= ticket.cost
        second = int(self._due(ticket))
        tenant.due[second] -= ticket.cost
        if not tenant.due[second]:
            del tenant.due[second]
        if not tenant.queued:
            del self._tenants[ticket.tenant]
        if not self._tickets:
            self._by_size.clear()
        self.counters.exit(tenant.account)

    def place(self, ticket: Ticket) -> int:
        """Among those who wait, in the order of arrival, from 1 to `MOST_COUNTED`."""
        first = islice(self._tickets, MOST_COUNTED - 1)
        return next((number for number, one in enumerate(first, 1) if one is ticket), MOST_COUNTED)

    def head(self) -> Ticket | None:
        """Whose turn it is."""
        account = self.counters.least()
        return None if account is None else self._tenants[account.tenant].tickets.first()

    def smallest(self) -> Ticket | None:
        """Of equal ones the earlier."""
        return self._by_size.first()

    def tenants(self) -> Iterator[tuple[str, int]]:
        """Those who wait, each with how many requests."""
        return ((name, one.queued) for name, one in self._tenants.items())

    def load(self, tenant: str) -> tuple[int, int]:
        """Requests and tokens of this tenant that wait."""
        found = self._tenants.get(tenant)
        return (found.queued, found.tokens) if found else (0, 0)

    def ahead(self, ticket: Ticket) -> int:
        """Tokens of its own tenant that would go before this newcomer, to a second.

        There are no more seconds to look at than a request may wait and age, however many requests wait.
        """
        found = self._tenants.get(ticket.tenant)
        if found is None:
            return 0
        due = int(self._due(ticket))
        return sum(tokens for second, tokens in found.due.items() if second <= due)

    def share(self, ticket: Ticket) -> float:
        """The part of this class's tokens that the ticket's tenant gets, once it waits."""
        counters = self.counters
        account = counters.find(ticket.tenant)
        others = counters.active_weight - (account.weight if account and account.waiting else 0.0)
        return ticket.weight / (ticket.weight + max(0.0, others))

    def has_room(self, ticket: Ticket, requests: int, tokens: int) -> bool:
        """Within the class's bounds, and within the tenant's reach of what is left of them."""
        left, left_tokens = requests - len(self), tokens - self.tokens
        own, own_tokens = self.load(ticket.tenant)
        if left < 1 or left_tokens < ticket.cost:
            return False
        return own < REACH * left and own_tokens <= REACH * left_tokens

    def _due(self, ticket: Ticket) -> float:
        return min(ticket.deadline, ticket.arrived + self.terms.ageing_s)


def _has_left(ticket: Ticket) -> bool:
    return ticket.state != "waiting"
