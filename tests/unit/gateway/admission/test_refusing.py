"""Whom the scheduler refuses, and with which words."""

import pytest

from gateway.admission.line import Ticket
from gateway.admission.scheduler import Scheduler
from gateway.core.identity import PRIORITY_CLASSES, PriorityClass
from gateway.errors import DeadlineUnmeetable, GatewayError, InvalidRequest, Overloaded, Shed
from tests.unit.gateway.admission.making import arrived, new_scheduler, ticket


def test_what_can_never_fit_is_refused_at_once() -> None:
    with pytest.raises(InvalidRequest, match="101") as refused:
        arrived(new_scheduler(max_running_tokens=100), ticket(101))
    assert refused.value.code == "request_too_large"


def test_each_class_has_its_own_queue_bounded_by_requests_and_tokens() -> None:
    scheduler = new_scheduler(max_running=1, max_queued=2, max_queued_tokens=50)
    arrived(scheduler, ticket(), ticket(10))
    with pytest.raises(Overloaded):
        arrived(scheduler, ticket(41))
    arrived(scheduler, ticket(40))
    with pytest.raises(Overloaded):
        arrived(scheduler, ticket(0))
    arrived(scheduler, ticket(40, of="interactive"))


def test_one_tenant_cannot_fill_the_queue_so_that_others_find_no_place() -> None:
    scheduler = new_scheduler(max_running=1, max_queued=90)
    arrived(scheduler, ticket())
    for _ in range(80):
        arrived(scheduler, ticket(tenant="flood"))
    with pytest.raises(Overloaded):
        arrived(scheduler, ticket(tenant="flood"))
    arrived(scheduler, ticket(tenant="calm"))


def measured(scheduler: Scheduler, tokens_a_second: int) -> float:
    """Keep one place busy for a while; returns the time."""
    (running,) = arrived(scheduler, ticket(tokens_a_second, "m"))
    for second in range(1, 20):
        arrived(scheduler, ticket(tokens_a_second, "m"), now=second - 1)
        scheduler.finish(running, second)
        (running,) = scheduler.dispatch(second)
    return 19.0


def test_a_deadline_before_the_expected_turn_is_refused_at_once_with_the_estimate() -> None:
    scheduler = new_scheduler(max_running=1)
    now = measured(scheduler, 100)
    assert scheduler.throughput == pytest.approx(100)
    arrived(scheduler, *(ticket(100, deadline=now + 12) for _ in range(12)), now=now)
    with pytest.raises(DeadlineUnmeetable, match=r"expected in 13\.0 s, and the deadline is in 12\.0 s") as refused:
        scheduler.arrive(ticket(100, deadline=now + 12), now)
    assert (refused.value.status, refused.value.code) == (429, "deadline_unmeetable")


def test_a_deadline_is_held_against_those_only_who_go_first() -> None:
    """The earliest deadline passes its own tenant's others, so their number does not matter."""
    scheduler = new_scheduler(max_running=1)
    now = measured(scheduler, 100)
    arrived(scheduler, *(ticket(100, deadline=now + 600) for _ in range(20)), now=now)
    arrived(scheduler, ticket(100, deadline=now + 8), now=now)


def test_without_a_measured_throughput_no_deadline_is_refused() -> None:
    scheduler = new_scheduler(max_running=1)
    assert arrived(scheduler, ticket(), ticket(deadline=0.001))[1].state == "waiting"


def test_retry_after_is_what_the_queue_needs_to_drain_within_bounds() -> None:
    scheduler = new_scheduler(max_running=1, max_queued=20, max_queued_tokens=10**6)
    assert refusal_of(new_scheduler(max_running=1, max_queued=0), ticket(), ticket()).retry_after == 1.0
    now = measured(scheduler, 100)
    tickets = [ticket(50, f"t{number}") for number in range(21)]
    error = refusal_of(scheduler, *tickets, now=now)
    assert error.retry_after == pytest.approx(20 * 50 / 100)
    scheduler = new_scheduler(max_running=1, max_queued=2)
    now = measured(scheduler, 100)
    error = refusal_of(scheduler, ticket(200_000, deadline=1e6), *(ticket(10, deadline=1e6) for _ in range(2)), now=now)
    assert error.retry_after == 60.0


def refusal_of(scheduler: Scheduler, *tickets: Ticket, now: float = 0.0) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        arrived(scheduler, *tickets, now=now)
    return refused.value


@pytest.mark.parametrize(
    ("strain", "shed"),
    [
        (0.79, []),
        (0.8, ["batch"]),
        (0.94, ["batch"]),
        (0.95, ["standard", "batch"]),
        (0.99, ["standard", "batch"]),
        (1.0, ["interactive", "standard", "batch"]),
    ],
)
def test_strained_backends_shed_the_least_urgent_first(strain: float, shed: list[PriorityClass]) -> None:
    scheduler = new_scheduler(lambda: strain)
    refused = []
    for name in PRIORITY_CLASSES:
        try:
            scheduler.arrive(ticket(of=name), 0)
        except Shed as error:
            assert (error.status, error.code, error.retry_after) == (503, "shed", 1.0)
            refused.append(name)
    assert refused == shed


def test_a_full_engine_sheds_nobody_and_batch_waits_patiently() -> None:
    scheduler = new_scheduler(max_running=1)
    arrived(scheduler, ticket(of="interactive"))
    assert scheduler.saturation == 1
    assert arrived(scheduler, ticket(of="batch"))[0].state == "waiting"


def test_only_the_queues_of_more_urgent_classes_shed() -> None:
    scheduler = new_scheduler(max_running=1, max_queued=10)
    arrived(scheduler, ticket(of="interactive"))
    arrived(scheduler, *(ticket(of="batch", tenant=f"t{number}") for number in range(9)))
    arrived(scheduler, *(ticket(tenant=f"t{number}") for number in range(7)))
    arrived(scheduler, ticket(of="batch"))
    arrived(scheduler, ticket(tenant="more"))
    with pytest.raises(Shed):
        arrived(scheduler, ticket(of="batch"))
    assert scheduler.pressure == 1.0
    arrived(scheduler, ticket(of="interactive"))
