"""How many requests of which tenants wait, as metrics with a bounded number of labels."""

from prometheus_client import CollectorRegistry

from gateway.admission.gate import Gate
from gateway.admission.scheduler import Scheduler
from gateway.admission.settings import AdmissionSettings
from gateway.admission.waiting import MOST_LABELS, OTHER, WaitingTenants
from gateway.core.call import Caller
from gateway.telemetry.metrics import Metrics
from tests.unit.gateway.admission.making import arrived, new_scheduler, ticket
from tests.unit.gateway.admission.visiting import Visitor, metric, new_call, settle

NAME = "trireme_admission_tenant_queued"


def series(scheduler: Scheduler, of: str = "standard") -> dict[str, float]:
    """By tenant, of one class."""
    registry = CollectorRegistry()
    registry.register(WaitingTenants(scheduler.lines))
    samples = [sample for family in registry.collect() for sample in family.samples]
    return {one.labels["tenant"]: one.value for one in samples if one.labels["class"] == of}


def many(tenants: int) -> Scheduler:
    """Tenant 0 has one request that waits, tenant 1 two, and so on."""
    scheduler = new_scheduler(max_running=1, max_queued=10_000)
    arrived(scheduler, ticket(of="interactive"))
    arrived(scheduler, *(ticket(tenant=f"t{one}") for one in range(tenants) for _ in range(one + 1)))
    return scheduler


def test_the_tenants_with_most_requests_have_labels_and_the_others_share_one() -> None:
    found = series(many(MOST_LABELS + 5))
    assert found.pop(OTHER) == 1 + 2 + 3 + 4 + 5
    assert found == {f"t{one}": one + 1 for one in range(5, MOST_LABELS + 5)}


def test_the_sum_is_the_length_of_the_queue() -> None:
    scheduler = many(40)
    assert sum(series(scheduler).values()) == len(scheduler.lines["standard"])


def test_each_class_has_series_of_its_own_and_who_does_not_wait_has_none() -> None:
    scheduler = new_scheduler(max_running=1)
    running, second, _ = arrived(scheduler, ticket(tenant="a"), ticket(tenant="b"), ticket(tenant="a", of="batch"))
    assert (series(scheduler), series(scheduler, "batch"), series(scheduler, "interactive")) == ({"b": 1}, {"a": 1}, {})
    scheduler.finish(running, 1.0)
    assert scheduler.dispatch(1.0) == [second]
    assert (series(scheduler), series(scheduler, "batch")) == ({}, {"a": 1})


def test_a_tenant_of_that_name_is_counted_among_the_others() -> None:
    scheduler = new_scheduler(max_running=1)
    arrived(scheduler, ticket(), *(ticket(tenant=OTHER) for _ in range(30)))
    assert series(scheduler) == {OTHER: 30}


async def test_the_gate_puts_them_among_its_metrics() -> None:
    metrics = Metrics()
    gate = Gate(AdmissionSettings(max_running=1), metrics)
    first = Visitor(gate, new_call())
    await settle()
    waiting = new_call()
    waiting.caller = Caller("key", "acme", frozenset())
    second = Visitor(gate, waiting)
    await settle()
    labels = {"class": "standard", "tenant": "acme"}
    assert metric(metrics, NAME, **labels) == 1
    await first.leave()
    await settle()
    assert metrics.registry.get_sample_value(NAME, labels) is None
    await second.leave()
