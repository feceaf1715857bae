"""Every decision of the scheduler, with time as an argument."""

import os
import re
import subprocess
import sys

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission.line import Ticket
from gateway.admission.scheduler import Scheduler
from gateway.admission.state import describe
from gateway.core.identity import PRIORITY_CLASSES, PriorityClass
from tests.unit.gateway.admission.history import ACTS, PAUSES, History, Step, replayed
from tests.unit.gateway.admission.making import arrived, new_scheduler, order_of, ticket

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


steps = st.lists(
    st.builds(
        Step,
        after=st.sampled_from(PAUSES),
        act=st.sampled_from(ACTS),
        cost=st.integers(0, 60),
        tenant=st.sampled_from("abc"),
        of=st.sampled_from(PRIORITY_CLASSES),
        which=st.integers(0, 1000),
    ),
    max_size=120,
)


def below_ceiling(scheduler: Scheduler, name: PriorityClass) -> bool:
    """Whether the class, and those less urgent, may start something; of 4 places and 100 tokens."""
    lines = [scheduler.lines[one] for one in PRIORITY_CLASSES[PRIORITY_CLASSES.index(name) :]]
    requests, tokens = sum(line.running for line in lines), sum(line.running_tokens for line in lines)
    return requests < 4 * lines[0].terms.ceiling and tokens < 100 * lines[0].terms.ceiling


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
        fitting = [
            one
            for one in waiting
            if scheduler.running_tokens + one.cost <= 100 and below_ceiling(scheduler, one.priority_class)
        ]
        if fitting and scheduler.running < 4:
            assert scheduler.reserved is not None
            assert scheduler.reserved not in fitting
    assert all(one.state == "ended" for one in history.answered)


@given(steps)
@settings(max_examples=100, deadline=None)
def test_the_same_history_gives_the_same_decisions_byte_for_byte(trace: list[Step]) -> None:
    assert replayed(trace) == replayed(trace)


def test_another_process_decides_the_same_byte_for_byte_whatever_its_hashes_are() -> None:
    """Sets of strings have another order in every process; with these three seeds, those of the classes differ."""
    command = [sys.executable, "-m", "tests.unit.gateway.admission.history"]
    told = [
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "3", "4")
    ]
    assert told[0] == told[1] == told[2]
    decisions = told[0].decode()
    assert {"running", "waiting", "start", "expired", "overloaded", "shed", "deadline_unmeetable"} <= set(
        re.findall(r'\["(\w+)"', decisions)
    )


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
