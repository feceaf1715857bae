"""What tenants and classes get over minutes, by simulation, beside what first come first served gives them."""

from collections.abc import Sequence
from statistics import mean, quantiles

import pytest

from benchmarks.simulation import Arrival, Fifo, Run, Simulation, largest_gap, merge, poisson
from gateway.admission.scheduler import Scheduler
from gateway.admission.settings import AdmissionSettings
from gateway.core.identity import PriorityClass

UNBOUNDED = {"max_queued": 10**6, "max_queued_tokens": 10**9}
PATIENT = {"interactive_timeout_s": 1e6, "standard_timeout_s": 1e6, "batch_timeout_s": 1e6}
# Eight places of about 4 s: two requests of the usual size a second.
SETTINGS = AdmissionSettings(max_running=8, max_running_tokens=8000, **UNBOUNDED, **PATIENT)  # type: ignore[arg-type]
LONGEST_PROMPT = 1500
BOUND = 2 * max(SETTINGS.prompt_weight * LONGEST_PROMPT, SETTINGS.output_weight * SETTINGS.max_running_tokens)
MINUTES = 600.0


def two(first: float, second: float) -> list[Arrival]:
    return merge(poisson("a", first, MINUTES, seed=1), poisson("b", second, MINUTES, seed=2))


def short_and_long() -> list[Arrival]:
    return merge(
        poisson("short", 20, MINUTES, seed=1, prompt=50, answer=20),
        poisson("long", 3, MINUTES, seed=2, prompt=1000, answer=400),
    )


def badly_predicted() -> list[Arrival]:
    """Both are expected to take 512 tokens; one takes 20 and the other 600."""
    return merge(
        poisson("brief", 6, MINUTES, seed=1, answer=20, expected=512),
        poisson("wordy", 3, MINUTES, seed=2, answer=600, expected=512),
    )


def on_and_off() -> list[Arrival]:
    """One is always there, the other comes for a minute every other minute, and asks for more than its half then."""
    pieces = [
        poisson("b", 2.2, since + 60, seed=int(since), since=since, answer=100)
        for since in (float(60 * number) for number in range(0, 10, 2))
    ]
    return merge(poisson("a", 6, MINUTES, seed=1), *pieces)


def eight() -> list[Arrival]:
    return merge(*(poisson(f"t{number}", 0.5 * (number + 1), MINUTES, seed=number) for number in range(8)))


@pytest.mark.parametrize(
    ("arrivals", "tenants", "since"),
    [
        (two(1.5, 3), ["a", "b"], 60),
        (short_and_long(), ["short", "long"], 10),
        (badly_predicted(), ["brief", "wordy"], 30),
        (eight(), [f"t{number}" for number in range(8)], 60),
    ],
    ids=["1.5 and 3 a second", "short and long", "badly predicted", "eight tenants"],
)
def test_backlogged_tenants_are_served_alike_within_the_bound_where_fifo_drifts_apart(
    arrivals: Sequence[Arrival], tenants: Sequence[str], since: float
) -> None:
    ours = Simulation(Scheduler(SETTINGS)).play(arrivals)
    fifo = Simulation(Fifo(SETTINGS)).play(arrivals)
    half, whole = (largest_gap(fifo, tenants, since, until) for until in (MINUTES / 2, MINUTES))
    assert largest_gap(ours, tenants, since, MINUTES) <= BOUND
    assert whole > BOUND
    assert whole > 1.5 * half


def test_a_tenant_that_comes_and_goes_gets_its_half_while_it_is_there_where_fifo_drifts_apart() -> None:
    arrivals = on_and_off()
    ours, fifo = (Simulation(policy).play(arrivals) for policy in (Scheduler(SETTINGS), Fifo(SETTINGS)))
    for since in (60.0 * minute for minute in range(0, 10, 2)):
        assert largest_gap(ours, ["a", "b"], since + 10, since + 60) <= BOUND
        assert largest_gap(fifo, ["a", "b"], since + 10, since + 60) > BOUND
        here = [run for run in ours if run.arrival.tenant == "b" and since <= run.arrival.at < since + 60]
        assert since + 60 < max(run.ended or 0.0 for run in here) < since + 120, "it had to wait, and is gone then"
    half, whole = (largest_gap(fifo, ["a", "b"], 10, until) for until in (MINUTES / 2, MINUTES))
    assert whole > BOUND
    assert whole > 1.5 * half


def test_no_place_is_idle_while_somebody_waits() -> None:
    """Everything is done as soon as by first come, first served."""
    arrivals = short_and_long()
    ends = [
        max(run.ended or 0.0 for run in Simulation(policy).play(arrivals))
        for policy in (Scheduler(SETTINGS), Fifo(SETTINGS))
    ]
    assert ends[0] == pytest.approx(ends[1], rel=0.02)


def latencies(runs: Sequence[Run], tenant: str) -> tuple[float, ...]:
    """Mean, median, p90 and p99 of arrival to end, in seconds."""
    seconds = [(run.ended or 0.0) - run.arrival.at for run in runs if run.arrival.tenant == tenant]
    percentiles = quantiles(seconds, n=100)
    return mean(seconds), percentiles[49], percentiles[89], percentiles[98]


def test_a_flood_of_one_tenant_leaves_the_latency_of_another_as_it_was() -> None:
    settings = AdmissionSettings(max_running=32, **UNBOUNDED, **PATIENT)  # type: ignore[arg-type]
    calm = list(poisson("calm", 1, MINUTES, seed=1))
    flooded = merge(iter(calm), poisson("flood", 30, MINUTES, seed=2))
    alone = latencies(Simulation(Scheduler(settings)).play(calm), "calm")
    beside = latencies(Simulation(Scheduler(settings)).play(flooded), "calm")
    assert all(now <= 1.2 * before for now, before in zip(beside, alone, strict=True))
    fifo = latencies(Simulation(Fifo(settings)).play(flooded), "calm")
    assert all(now > 10 * before for now, before in zip(fifo, alone, strict=True))


def tokens(runs: Sequence[Run], name: PriorityClass, until: float) -> float:
    return sum(run.served(until) for run in runs if run.arrival.priority_class == name)


def test_under_a_permanent_interactive_overload_batch_gets_its_share() -> None:
    arrivals = merge(
        poisson("people", 10, MINUTES, seed=1, priority_class="interactive"),
        poisson("nightly", 2, MINUTES, seed=2, priority_class="batch"),
    )
    runs = Simulation(Scheduler(SETTINGS)).play(arrivals)
    urgent, batch = tokens(runs, "interactive", MINUTES), tokens(runs, "batch", MINUTES)
    assert batch / (batch + urgent) == pytest.approx(1 / 9, rel=0.05)


def test_everybody_is_answered_within_the_patience_of_its_class() -> None:
    settings = AdmissionSettings(max_running=8, max_running_tokens=8000)
    arrivals = merge(
        poisson("people", 5, MINUTES, seed=1, priority_class="interactive"),
        poisson("programs", 5, MINUTES, seed=2),
        poisson("nightly", 5, MINUTES, seed=3, priority_class="batch"),
        poisson("large", 0.2, MINUTES, seed=4, prompt=3000, answer=400, priority_class="batch"),
    )
    runs = Simulation(Scheduler(settings)).play(arrivals)
    terms = settings.terms()
    waits: dict[PriorityClass, float] = {}
    for run in runs:
        answered = run.ended if run.refused else run.started
        assert answered is not None
        name = run.arrival.priority_class
        waits[name] = max(waits.get(name, 0.0), answered - run.arrival.at)
    assert all(waits[name] <= terms[name].timeout_s + 1e-6 for name in waits)
    assert {run.refused for run in runs} == {"", "overloaded", "queue_timeout", "shed"}
    large = [run for run in runs if run.arrival.tenant == "large"]
    assert sum(1 for run in large if not run.refused) > 0
