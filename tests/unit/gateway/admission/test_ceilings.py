"""The last places are kept for more urgent requests, whom the engine can prefer only once they are there."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.identity import PRIORITY_CLASSES, PriorityClass
from tests.unit.gateway.admission.making import arrived, new_scheduler, ticket

NEVER = 1e9
CEILINGS = {"interactive": 1.0, "standard": 0.95, "batch": 0.8}


def test_a_flood_of_batch_work_leaves_places_for_urgent_requests() -> None:
    scheduler = new_scheduler(max_running=10)
    flood = arrived(scheduler, *(ticket(of="batch") for _ in range(20)))
    scheduler.dispatch(0)
    assert sum(one.state == "running" for one in flood) == 8
    (standard, *_) = arrived(scheduler, ticket(of="standard"), ticket(of="interactive"))
    scheduler.dispatch(0)
    assert standard.state == "running"
    assert (scheduler.running, scheduler.queued) == (10, 12)


def test_a_class_at_its_ceiling_holds_up_nobody_else() -> None:
    """Not even when it is its turn, and its next request is a large one."""
    scheduler = new_scheduler(max_running=10, max_running_tokens=1000, overtake_tokens=100)
    first, *_ = arrived(scheduler, *(ticket(100, of="batch") for _ in range(7)))
    (large,) = arrived(scheduler, ticket(900, of="batch"))
    (passing,) = arrived(scheduler, ticket(100, of="batch", tenant="other"))
    assert scheduler.dispatch(0) == [passing]
    assert scheduler.reserved is large
    urgent = arrived(scheduler, *(ticket(100, of="interactive") for _ in range(3)))
    assert scheduler.dispatch(0) == urgent[:2]
    scheduler.finish(first, 1)
    assert scheduler.reserved is large


def test_what_urgent_requests_hold_does_not_count_against_the_others() -> None:
    """Or a permanent flood of urgent ones would starve them."""
    scheduler = new_scheduler(max_running=10)
    urgent = arrived(scheduler, *(ticket(of="interactive") for _ in range(10)))
    (batch,) = arrived(scheduler, ticket(of="batch"))
    scheduler.finish(urgent[0], 0)
    assert scheduler.dispatch(0) == [batch]


def test_a_single_place_is_for_every_class() -> None:
    for name in PRIORITY_CLASSES:
        (only,) = arrived(new_scheduler(max_running=1), ticket(of=name))
        assert only.state == "running"


@given(
    st.lists(
        st.tuples(st.sampled_from(PRIORITY_CLASSES), st.integers(1, 400), st.integers(0, 3)), min_size=1, max_size=120
    )
)
def test_no_class_starts_beyond_its_ceiling_and_room_below_it_is_used(
    arrivals: list[tuple[PriorityClass, int, int]],
) -> None:
    scheduler = new_scheduler(max_running=10, max_running_tokens=1000, max_queued=1000, overtake_tokens=10**9)
    running = []
    for now, (name, cost, ends) in enumerate(arrivals):
        (one,) = arrived(scheduler, ticket(cost, of=name, deadline=NEVER), now=now)
        running += [one] if one.state == "running" else []
        running += scheduler.dispatch(now)
        assert len(running) == scheduler.running
        for done in running[:ends]:
            scheduler.finish(done, now)
        del running[:ends]
        running += scheduler.dispatch(now)
        for position, limited in enumerate(PRIORITY_CLASSES):
            held = [one for one in running if one.priority_class in PRIORITY_CLASSES[position:]]
            assert len(held) <= max(1, -(-CEILINGS[limited] * 10 // 1))
    for now in range(len(arrivals), 3 * len(arrivals)):
        for done in running[:1]:
            scheduler.finish(done, now)
        running = [*running[1:], *scheduler.dispatch(now)]
    assert scheduler.queued == 0
