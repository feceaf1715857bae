"""Every decision of the scheduler, with time as an argument."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission.line import Ticket
from gateway.admission.scheduler import Scheduler
from gateway.admission.settings import AdmissionSettings
from gateway.admission.state import describe
from gateway.core.identity import PRIORITY_CLASSES, PriorityClass
from gateway.errors import DeadlineUnmeetable, GatewayError, InvalidRequest, Overloaded, Shed


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


# --- who goes next


def test_an_idle_scheduler_lets_everybody_run_who_fits() -> None:
    scheduler = new_scheduler(max_running=2)
    a, b, c = arrived(scheduler, ticket(), ticket(), ticket())
    assert [one.state for one in (a, b, c)] == ["running", "running", "waiting"]
    assert (a.position, c.position) == (0, 1)
    assert (scheduler.running, scheduler.running_tokens, scheduler.queued) == (2, 20, 1)


def test_within_a_tenant_the_earliest_deadline_goes_first_then_who_came_first() -> None:
    scheduler = new_scheduler(max_running=1)
    running, late, soon, first, second = arrived(
        scheduler, ticket(), ticket(deadline=25), ticket(deadline=20), ticket(deadline=22), ticket(deadline=22)
    )
    assert order_of(scheduler, running) == [soon, first, second, late]


def test_nobody_is_passed_by_requests_that_came_after_it_had_aged() -> None:
    scheduler = new_scheduler(max_running=1, standard_ageing_s=30)
    running, patient = arrived(scheduler, ticket(), ticket(deadline=10_000))
    (hasty,) = arrived(scheduler, ticket(deadline=25), now=20)
    (later,) = arrived(scheduler, ticket(deadline=32), now=31)
    assert order_of(scheduler, running, now=31) == [hasty, patient, later]


def test_tenants_take_turns_however_many_requests_one_of_them_has() -> None:
    scheduler = new_scheduler(max_running=1)
    running, *flood = arrived(scheduler, *(ticket(tenant="flood") for _ in range(5)))
    calm = arrived(scheduler, ticket(tenant="calm"), ticket(tenant="calm"))
    assert order_of(scheduler, running)[:4] == [flood[0], calm[0], flood[1], calm[1]]


def test_a_tenant_of_double_weight_gets_two_turns_for_one() -> None:
    scheduler = new_scheduler(max_running=1)
    (running,) = arrived(scheduler, ticket(tenant="other"))
    arrived(scheduler, *(ticket(tenant="light") for _ in range(10)))
    arrived(scheduler, *(ticket(tenant="heavy", weight=2.0) for _ in range(10)))
    turns = [one.tenant for one in order_of(scheduler, running)[:9]]
    assert (turns.count("heavy"), turns.count("light")) == (6, 3)


def test_classes_share_by_weight_and_the_most_urgent_begins() -> None:
    scheduler = new_scheduler(max_running=1, quantum_tokens=10)
    running, *_ = arrived(scheduler, ticket(), *(ticket(of=name) for name in PRIORITY_CLASSES for _ in range(40)))
    order = [one.priority_class for one in order_of(scheduler, running)[:26]]
    assert order[:8] == ["interactive"] * 8
    assert {name: order.count(name) for name in PRIORITY_CLASSES} == {"interactive": 16, "standard": 8, "batch": 2}


def test_a_tenant_is_charged_for_what_was_really_used() -> None:
    scheduler = new_scheduler(max_running=1)
    running, *_ = arrived(scheduler, Ticket("standard", "a", 10, 500, 600))
    a, b = arrived(scheduler, Ticket("standard", "a", 10, 500, 600), Ticket("standard", "b", 10, 500, 600))
    scheduler.finish(running, 1.0, prompt=10, answer=3)
    assert scheduler.dispatch(1.0) == [a]
    scheduler.finish(a, 2.0, prompt=10, answer=500)
    assert scheduler.dispatch(2.0) == [b]
    account = scheduler.lines["standard"].counters.find("a")
    assert account is not None
    assert account.served == (10 + 2 * 3) + (10 + 2 * 500)


# --- what does not fit yet


def test_small_ones_may_pass_a_large_one_until_their_tokens_are_spent() -> None:
    scheduler = new_scheduler(max_running_tokens=100, overtake_tokens=30)
    running, large = arrived(scheduler, ticket(60), ticket(50))
    smalls = arrived(scheduler, *(ticket(10) for _ in range(5)))
    assert scheduler.dispatch(0) == smalls[:3]
    assert scheduler.reserved is large
    scheduler.finish(smalls[0], 1)
    assert scheduler.dispatch(1) == []
    scheduler.finish(running, 2)
    assert scheduler.dispatch(2) == [large, *smalls[3:]]


def test_a_large_one_does_not_starve_however_many_small_ones_come() -> None:
    scheduler = new_scheduler(max_running_tokens=100, overtake_tokens=200, max_queued=1000)
    running = arrived(scheduler, *(ticket(10, f"t{number}") for number in range(10)))
    (large,) = arrived(scheduler, ticket(100))
    passed = 0
    for second in range(200):
        arrived(scheduler, ticket(10, f"u{second}"), now=second)
        scheduler.finish(running.pop(0), second)
        started = scheduler.dispatch(second)
        running += started
        passed += len(started)
        if large in started:
            break
    assert large.state == "running"
    assert passed <= 1 + 200 / 10


def test_another_tenant_does_not_get_ahead_of_the_reserved_one_by_passing_it() -> None:
    """Answers count double, so their tenant is ahead as far as it may be after half of the tokens."""
    scheduler = new_scheduler(max_running_tokens=100, overtake_tokens=40)
    _, large = arrived(scheduler, ticket(80, "a"), ticket(50, "a"))
    smalls = arrived(scheduler, *(Ticket("standard", "b", 0, 10, 600) for _ in range(10)))
    assert scheduler.dispatch(0) == smalls[:2]
    scheduler.finish(smalls[0], 1, answer=10)
    assert scheduler.dispatch(1) == []
    scheduler.cancel(large, 2)
    assert scheduler.dispatch(2) == smalls[2:3]


def test_one_larger_than_an_adaptive_limit_runs_alone() -> None:
    scheduler = new_scheduler(max_running_tokens=100)
    scheduler.token_limit = 30
    (large,) = arrived(scheduler, ticket(90))
    (small,) = arrived(scheduler, ticket(10))
    assert (large.state, small.state) == ("running", "waiting")


# --- refusals


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


# --- leaving


def test_who_waited_as_long_as_its_class_may_is_taken_out() -> None:
    scheduler = new_scheduler(max_running=1)
    arrived(scheduler, ticket())
    waiting = arrived(scheduler, *(ticket(of=name) for name in PRIORITY_CLASSES))
    expired = {}
    while scheduler.next_expiry is not None:
        now = scheduler.next_expiry
        assert scheduler.expire(now - 0.001) == []
        for one in scheduler.expire(now):
            expired[one.priority_class] = now
    assert expired == {"interactive": 30, "standard": 60, "batch": 300}
    assert [one.state for one in waiting] == ["ended"] * 3
    assert scheduler.queued == 0


def test_who_leaves_makes_room_also_when_it_was_reserved_or_running() -> None:
    scheduler = new_scheduler(max_running_tokens=100, overtake_tokens=0)
    running, large, small = arrived(scheduler, ticket(60), ticket(50), ticket(10))
    assert scheduler.dispatch(0) == []
    scheduler.cancel(large, 1)
    assert scheduler.dispatch(1) == [small]
    scheduler.cancel(running, 2)
    scheduler.cancel(running, 2)
    assert (scheduler.running, scheduler.running_tokens, scheduler.queued) == (1, 10, 0)


def test_the_state_tells_who_waits_and_who_was_served() -> None:
    scheduler = new_scheduler(max_running=1)
    arrived(scheduler, ticket(5, "a"), *(ticket(7, f"t{number}", of="batch") for number in range(60)))
    state = describe(scheduler, {("batch", "shed"): 3}, now=12.5)
    assert (state.running, state.running_tokens, state.saturation, state.throughput) == (1, 5, 1.0, None)
    batch = state.classes["batch"]
    assert (batch.queued, batch.queued_tokens, batch.tenants_waiting, batch.oldest_wait_s) == (60, 420, 60, 12.5)
    assert batch.refused == {"shed": 3}
    assert state.classes["standard"].queued == 0
    assert len(state.tenants) == 50
    assert msgspec.json.decode(msgspec.json.encode(state))["classes"]["batch"]["weight"] == 1.0


# --- any history


@dataclass(frozen=True)
class Step:
    after: float
    act: str
    cost: int
    tenant: str
    of: PriorityClass
    which: int


steps = st.lists(
    st.builds(
        Step,
        after=st.sampled_from([0.0, 0.5, 7.0, 40.0]),
        act=st.sampled_from(["arrive", "arrive", "arrive", "finish", "finish", "cancel", "expire"]),
        cost=st.integers(0, 60),
        tenant=st.sampled_from("abc"),
        of=st.sampled_from(PRIORITY_CLASSES),
        which=st.integers(0, 1000),
    ),
    max_size=120,
)


@dataclass
class History:
    """Plays steps and writes every decision down."""

    scheduler: Scheduler = field(
        default_factory=lambda: new_scheduler(
            max_running=4, max_running_tokens=100, max_queued=9, max_queued_tokens=300, overtake_tokens=50
        )
    )
    now: float = 0.0
    inside: list[Ticket] = field(default_factory=list)
    answered: list[Ticket] = field(default_factory=list)
    decisions: list[tuple[Any, ...]] = field(default_factory=list)

    def play(self, step: Step) -> None:
        self.now += step.after
        getattr(self, step.act)(step)
        for one in self.scheduler.dispatch(self.now):
            self.decisions.append(("start", one.number))

    def arrive(self, step: Step) -> None:
        new = Ticket(step.of, step.tenant, step.cost, step.cost % 7, self.now + step.which)
        try:
            self.scheduler.arrive(new, self.now)
            self.inside.append(new)
            self.decisions.append((new.state, new.number, new.position))
        except GatewayError as error:
            self.decisions.append((error.code, error.message, error.retry_after))

    def finish(self, step: Step) -> None:
        running = [one for one in self.inside if one.state == "running"]
        if running:
            one = running[step.which % len(running)]
            self.scheduler.finish(one, self.now, step.cost, step.cost)
            self._gone(one)

    def cancel(self, step: Step) -> None:
        if self.inside:
            one = self.inside[step.which % len(self.inside)]
            self.scheduler.cancel(one, self.now)
            self._gone(one)

    def expire(self, step: Step) -> None:
        for one in self.scheduler.expire(self.now):
            self.decisions.append(("expired", one.number))
            self._gone(one)

    def _gone(self, one: Ticket) -> None:
        self.inside.remove(one)
        self.answered.append(one)


@given(steps)
@settings(max_examples=300, deadline=None)
def test_the_books_always_agree_with_who_is_inside_and_room_is_idle_only_when_it_is_kept(trace: list[Step]) -> None:
    history = History()
    scheduler = history.scheduler
    for step in trace:
        history.play(step)
        running = [one for one in history.inside if one.state == "running"]
        waiting = [one for one in history.inside if one.state == "waiting"]
        assert (scheduler.running, scheduler.queued) == (len(running), len(waiting))
        assert scheduler.running_tokens == sum(one.cost for one in running)
        assert scheduler.running <= 4
        assert scheduler.running_tokens <= 100
        assert {name: line.tokens for name, line in scheduler.lines.items()} == {
            name: sum(one.cost for one in waiting if one.priority_class == name) for name in PRIORITY_CLASSES
        }
        fitting = [one for one in waiting if scheduler.running_tokens + one.cost <= 100]
        if fitting and scheduler.running < 4:
            assert scheduler.reserved is not None
            assert scheduler.reserved not in fitting
    assert all(one.state == "ended" for one in history.answered)


@given(steps)
@settings(max_examples=100, deadline=None)
def test_the_same_history_gives_the_same_decisions_byte_for_byte(trace: list[Step]) -> None:
    histories = [History(), History()]
    for history in histories:
        for step in trace:
            history.play(step)
    first, second = (msgspec.json.encode((one.decisions, describe(one.scheduler, {}, one.now))) for one in histories)
    assert first == second


@given(steps)
@settings(max_examples=100, deadline=None)
def test_everybody_is_served_once_the_others_have_finished(trace: list[Step]) -> None:
    """No deadlock and no starvation: whoever waits starts while nobody else comes."""
    history = History()
    for step in trace:
        history.play(step)
    for _ in range(len(history.inside)):
        history.play(Step(0.0, "finish", 1, "a", "standard", 0))
    assert history.inside == []
    assert (history.scheduler.running, history.scheduler.running_tokens, history.scheduler.queued) == (0, 0, 0)
