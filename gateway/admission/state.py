"""What admission does at the moment: `GET /admin/v1/admission`."""

import heapq
from collections.abc import Mapping

import msgspec

from gateway.admission.scheduler import Scheduler
from gateway.core.identity import PriorityClass

MOST_TENANTS = 50


class ClassState(msgspec.Struct):
    """`deficit`: tokens that it may start before its next quantum; negative: a debt. Waits in seconds.

    `refused`: how many since the start, by reason.
    """

    weight: float
    queued: int
    queued_tokens: int
    tenants_waiting: int
    oldest_wait_s: float
    deficit: float
    refused: dict[str, int]


class TenantState(msgspec.Struct):
    """`counter`: virtual tokens, the smallest goes next; `served`: by this gateway since its start, over the weight."""

    tenant: str
    priority_class: PriorityClass
    weight: float
    counter: float
    served: float
    queued: int
    running: int


class AdmissionState(msgspec.Struct):
    """`throughput`: tokens of turns that end, a second; null until somebody had to wait for a second.

    `reserved_tokens`: of the request for which freed room is kept. `tenants`: at most 50, the busiest first.
    """

    running: int
    running_tokens: int
    token_limit: int
    saturation: float
    pressure: float
    throughput: float | None
    reserved_tokens: int
    classes: dict[PriorityClass, ClassState]
    tenants: list[TenantState]


def describe(scheduler: Scheduler, refused: Mapping[tuple[PriorityClass, str], int], now: float) -> AdmissionState:
    """`refused`: how many by class and reason. `now`: by the scheduler's clock."""
    return AdmissionState(
        running=scheduler.running,
        running_tokens=scheduler.running_tokens,
        token_limit=scheduler.token_limit,
        saturation=scheduler.saturation,
        pressure=scheduler.pressure,
        throughput=scheduler.throughput,
        reserved_tokens=scheduler.reserved.cost if scheduler.reserved else 0,
        classes={
            name: ClassState(
                weight=line.terms.weight,
                queued=len(line),
                queued_tokens=line.tokens,
                tenants_waiting=line.counters.active,
                oldest_wait_s=now - line.oldest.arrived if line.oldest else 0.0,
                deficit=scheduler.deficits[name],
                refused={reason: number for (of, reason), number in sorted(refused.items()) if of == name},
            )
            for name, line in scheduler.lines.items()
        },
        tenants=_busiest(scheduler),
    )


def _busiest(scheduler: Scheduler) -> list[TenantState]:
    found = (
        TenantState(one.tenant, name, one.weight, one.counter, one.served, one.waiting, one.running)
        for name, line in scheduler.lines.items()
        for one in line.counters
    )
    return heapq.nlargest(MOST_TENANTS, found, key=lambda one: (one.queued, one.running, one.served, one.tenant))
