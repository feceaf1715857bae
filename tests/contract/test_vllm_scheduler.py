"""The preemptive scheduler on vLLM's real one: whom it pauses, that nothing is lost, and what it relies on.

No model is loaded: the tokens come from `tests/support/vllm_steps.py`, with one step in flight or two.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from python_backends.llm.preemption import MAX_PREEMPTIONS, PreemptionStats
from tests.contract.scheduling import BATCH, INTERACTIVE, STANDARD, Build, prompt


def exact(steps: Any, name: str, given_prompt: list[int], tokens: int) -> bool:
    from tests.support.vllm_steps import expected

    return bool(steps.answers[name] == expected(given_prompt, tokens))


def two_of_batch(build: Build, blocks: int = 100, priority: int = BATCH) -> Any:
    steps = build(slots=2, blocks=blocks)
    steps.add("old", prompt(1), 60, priority)
    steps.add("new", prompt(2), 60, priority)
    for _ in range(20):
        steps.step()
    return steps


def test_an_urgent_request_starts_in_the_next_step_and_the_last_that_came_pauses(build: Build) -> None:
    steps = two_of_batch(build)
    steps.add("urgent", prompt(3), 5, INTERACTIVE)
    steps.step()
    assert steps.running() == {"old", "urgent"}
    steps.run()
    assert exact(steps, "urgent", prompt(3), 5)
    assert exact(steps, "old", prompt(1), 60) and exact(steps, "new", prompt(2), 60)
    assert (steps.preemptions("old"), steps.preemptions("new")) == (0, 1)


def test_nobody_is_paused_for_one_of_the_same_class(build: Build) -> None:
    steps = two_of_batch(build)
    steps.add("third", prompt(3), 5, BATCH)
    steps.run()
    assert [steps.preemptions(name) for name in ("old", "new", "third")] == [0, 0, 0]
    assert exact(steps, "third", prompt(3), 5)


def test_the_least_urgent_class_pauses_first(build: Build) -> None:
    steps = build(slots=2, blocks=100)
    steps.add("batch", prompt(1), 60, BATCH)
    steps.add("standard", prompt(2), 60, STANDARD)
    for _ in range(10):
        steps.step()
    steps.add("urgent", prompt(3), 5, INTERACTIVE)
    steps.step()
    assert steps.running() == {"standard", "urgent"}
    steps.run()
    assert exact(steps, "batch", prompt(1), 60)


def test_several_urgent_requests_take_several_slots_at_once(build: Build) -> None:
    steps = two_of_batch(build)
    steps.add("urgent", prompt(3), 5, INTERACTIVE)
    steps.add("also urgent", prompt(4), 5, INTERACTIVE)
    steps.step()
    assert steps.running() == {"urgent", "also urgent"}
    steps.run()
    assert exact(steps, "old", prompt(1), 60) and exact(steps, "new", prompt(2), 60)


def test_sixteen_slots_change_hands_and_every_answer_is_its_own(build: Build) -> None:
    slots = 16
    steps = build(slots=slots, blocks=400, budget=2048)
    for number in range(slots):
        steps.add(f"batch {number}", prompt(number), 60, BATCH)
    for _ in range(10):
        steps.step()
    for number in range(slots):
        steps.add(f"urgent {number}", prompt(100 + number), 5, INTERACTIVE)
    steps.step()
    assert steps.running() == {f"urgent {number}" for number in range(slots)}
    steps.run()
    for number in range(slots):
        assert steps.preemptions(f"batch {number}") == 1
        assert exact(steps, f"batch {number}", prompt(number), 60)
        assert exact(steps, f"urgent {number}", prompt(100 + number), 5)


def test_a_request_is_paused_twice_and_then_left_in_peace(build: Build) -> None:
    steps = two_of_batch(build)
    for number in range(12):
        steps.add(f"urgent {number}", prompt(10 + number), 2, INTERACTIVE)
        for _ in range(6):
            steps.step()
    steps.run()
    assert (steps.preemptions("old"), steps.preemptions("new")) == (MAX_PREEMPTIONS, MAX_PREEMPTIONS)
    assert exact(steps, "old", prompt(1), 60) and exact(steps, "new", prompt(2), 60)


def test_an_urgent_request_takes_the_blocks_of_a_running_one(build: Build) -> None:
    steps = build(slots=8, blocks=17)
    steps.add("old", prompt(1, 100), 20, BATCH)
    steps.add("new", prompt(2, 100), 20, BATCH)
    for _ in range(5):
        steps.step()
    steps.add("urgent", prompt(3, 80), 5, INTERACTIVE)
    steps.step()
    assert steps.running() == {"old", "urgent"}, "there are slots, and too few blocks for all three"
    steps.run()
    assert exact(steps, "urgent", prompt(3, 80), 5)
    assert exact(steps, "old", prompt(1, 100), 20) and exact(steps, "new", prompt(2, 100), 20)


def pause_all_twice(steps: Any, slots: int) -> None:
    for number in range(MAX_PREEMPTIONS * slots):
        steps.add(f"urgent {number}", prompt(10 + number), 2, INTERACTIVE)
        if number % slots == slots - 1:
            for _ in range(8):
                steps.step()


def test_requests_that_must_not_pause_again_wait_until_they_fit_beside_each_other(build: Build) -> None:
    steps = two_of_batch(build, blocks=17)
    steps.add("long", prompt(5), 180, BATCH)
    steps.add("longer", prompt(6), 190, BATCH)
    steps.abort("old")
    steps.abort("new")
    steps.step()
    pause_all_twice(steps, slots=2)
    assert (steps.preemptions("long"), steps.preemptions("longer")) == (2, 2)
    assert len(steps.running()) == 1, "together they would grow beyond the cache"
    steps.run()
    assert (steps.preemptions("long"), steps.preemptions("longer")) == (2, 2)
    assert exact(steps, "long", prompt(5), 180) and exact(steps, "longer", prompt(6), 190)


def test_the_last_slot_goes_to_one_that_can_still_pause_so_that_urgent_requests_find_it(build: Build) -> None:
    steps = two_of_batch(build)
    steps.add("fresh", prompt(5), 60, BATCH)
    pause_all_twice(steps, slots=2)
    assert (steps.preemptions("old"), steps.preemptions("new"), steps.preemptions("fresh")) == (2, 2, 0)
    assert steps.running() == {"old", "fresh"}
    steps.add("urgent", prompt(6), 2, INTERACTIVE)
    steps.step()
    assert steps.running() == {"old", "urgent"}
    steps.run()
    for name, number in (("old", 1), ("new", 2), ("fresh", 5)):
        assert exact(steps, name, prompt(number), 60)
        assert steps.preemptions(name) <= MAX_PREEMPTIONS


def test_the_last_slot_is_not_kept_for_less_urgent_ones(build: Build) -> None:
    steps = two_of_batch(build, priority=STANDARD)
    steps.add("fresh", prompt(5), 60, BATCH)
    pause_all_twice(steps, slots=2)
    assert steps.running() == {"old", "new"}


def test_a_request_that_must_not_pause_again_is_the_last_to_lose_its_blocks(build: Build) -> None:
    steps = build(slots=2, blocks=17)
    steps.add("batch", prompt(5), 180, BATCH)
    steps.step()
    pause_all_twice(steps, slots=2)
    assert steps.running() == {"batch"} and steps.preemptions("batch") == 2
    steps.add("standard", prompt(6), 180, STANDARD)
    steps.run()
    assert steps.preemptions("batch") == 2
    assert steps.preemptions("standard") == 1, "one of them had to go when the cache was full"
    assert exact(steps, "batch", prompt(5), 180) and exact(steps, "standard", prompt(6), 180)


def test_a_victim_goes_on_at_once_when_the_urgent_request_cannot_start_after_all(build: Build) -> None:
    steps = two_of_batch(build)
    scheduler, hold_back = steps.scheduler, steps.scheduler._hold_back

    def hold_back_urgent_too() -> list[Any]:
        held = [(scheduler.waiting, one) for one in scheduler.waiting if one.request_id == "urgent"]
        scheduler.waiting.remove_requests({one for _, one in held})
        return [*hold_back(), *held]

    scheduler._hold_back = hold_back_urgent_too
    steps.add("urgent", prompt(3), 5, INTERACTIVE)
    steps.step()
    steps.step()
    del scheduler._hold_back
    steps.run()
    assert exact(steps, "urgent", prompt(3), 5) and steps.preemptions("new") > 0
    assert exact(steps, "old", prompt(1), 60) and exact(steps, "new", prompt(2), 60)


def test_nobody_is_paused_where_slots_and_blocks_suffice(build: Build) -> None:
    steps = build(slots=8, blocks=40)
    steps.add("batch", prompt(1, 100), 20, BATCH)
    for _ in range(5):
        steps.step()
    steps.add("urgent", prompt(3, 80), 5, INTERACTIVE)
    steps.step()
    assert steps.running() == {"batch", "urgent"}
    steps.run()
    assert steps.preemptions("batch") == 0


def test_saved_blocks_outlive_those_of_requests_that_ended_later(
    build: Build, schedulers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedulers, "REFRESH_INTERVAL", 0.0)
    steps = build(slots=1, blocks=24)
    steps.add("batch", prompt(1, 96), 40, BATCH)
    for _ in range(10):
        steps.step()
    for number in range(6):
        steps.add(f"urgent {number}", prompt(10 + number, 80), 3, INTERACTIVE)
        steps.step()
        steps.step()
    steps.run()
    assert steps.preemptions("batch") == 1
    assert steps.stats["trireme_reused_tokens"] >= 96
    assert steps.stats.get("trireme_recomputed_tokens", 0) < 16
    assert exact(steps, "batch", prompt(1, 96), 40)


def test_a_paused_request_can_be_aborted(build: Build) -> None:
    steps = two_of_batch(build)
    steps.add("urgent", prompt(3), 30, INTERACTIVE)
    steps.step()
    steps.abort("new")
    steps.run()
    assert exact(steps, "urgent", prompt(3), 30) and exact(steps, "old", prompt(1), 60)
    assert steps.stats["trireme_preemptions"] == 1
    assert "trireme_reused_tokens" not in steps.stats


def test_what_pauses_cost_is_counted_to_the_token(build: Build) -> None:
    steps = two_of_batch(build)
    had = next(one for one in steps.scheduler.running if one.request_id == "new")
    computed = had.num_computed_tokens - had.num_output_placeholders
    steps.add("urgent", prompt(3), 5, INTERACTIVE)
    steps.run()
    counted = PreemptionStats.take_from_wire(steps.stats)
    assert counted.preemptions == 1
    assert counted.paused_us > 0
    assert counted.reused_tokens + counted.recomputed_tokens == computed
    assert counted.reused_tokens == computed // 16 * 16


ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 12),  # steps until it comes
        st.integers(0, 2),  # priority
        st.integers(1, 90),  # prompt
        st.integers(1, 50),  # answer
    ),
    min_size=2,
    max_size=14,
)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ARRIVALS, st.integers(1, 4), st.sampled_from([18, 22, 30, 60]), st.sampled_from([32, 64, 256]))
def test_whatever_comes_all_end_with_their_own_tokens_after_two_pauses_at_most(
    build: Build, arrivals: list[tuple[int, int, int, int]], slots: int, blocks: int, budget: int
) -> None:
    steps = build(slots=slots, blocks=blocks, budget=budget)
    for number, (delay, priority, length, tokens) in enumerate(arrivals):
        for _ in range(delay):
            steps.step()
        steps.add(str(number), prompt(number, length), tokens, priority)
    steps.run()
    for number, (_, _, length, tokens) in enumerate(arrivals):
        assert exact(steps, str(number), prompt(number, length), tokens)
        assert steps.preemptions(str(number)) <= MAX_PREEMPTIONS
    total = sum(steps.preemptions(str(number)) for number in range(len(arrivals)))
    assert steps.stats.get("trireme_preemptions", 0) == total
