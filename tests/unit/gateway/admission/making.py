"""Schedulers, and requests for them."""

from collections.abc import Callable
from typing import Any

from gateway.admission.line import Ticket
from gateway.admission.scheduler import Scheduler
from gateway.admission.settings import AdmissionSettings
from gateway.core.identity import PriorityClass


def new_scheduler(strain: Callable[[], float] = lambda: 0.0, **changed: Any) -> Scheduler:
    return Scheduler(AdmissionSettings(**changed), strain)


def ticket(
    cost: int = 10, tenant: str = "t", of: PriorityClass = "standard", deadline: float = 600, weight: float = 1.0
) -> Ticket:
    return Ticket(of, tenant, cost, 0, deadline, weight)


def arrived(scheduler: Scheduler, *tickets: Ticket, now: float = 0.0) -> list[Ticket]:
    for one in tickets:
        scheduler.arrive(one, now)
    return list(tickets)


def order_of(scheduler: Scheduler, running: Ticket, now: float = 0.0) -> list[Ticket]:
    """Who starts, one after the other, on a single place."""
    order: list[Ticket] = []
    while True:
        scheduler.finish(running, now, prompt=running.prompt)
        started = scheduler.dispatch(now)
        if not started:
            return order
        (running,) = started
        order.append(running)
