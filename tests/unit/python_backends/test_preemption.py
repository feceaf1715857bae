"""Whom to pause, and how pauses are counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from python_backends.llm.preemption import (
    MAX_PREEMPTIONS,
    Candidate,
    PauseLedger,
    PreemptionStats,
    Running,
    choose_victims,
)

INTERACTIVE, STANDARD, BATCH = 0, 1, 2


def running(name: str, priority: int, arrival: float = 0.0, preemptions: int = 0, blocks: int = 1) -> Running:
    return Running(name, priority, arrival, preemptions, blocks)


def victims(candidate: Candidate, *all_running: Running) -> list[str]:
    return [one.id for one in choose_victims(all_running, candidate)]


NEEDS_SLOT = Candidate(INTERACTIVE, slots=1, blocks=0)


def test_the_least_urgent_pauses() -> None:
    assert victims(NEEDS_SLOT, running("b", BATCH), running("s", STANDARD), running("i", INTERACTIVE)) == ["b"]


def test_of_one_class_the_last_that_came_pauses() -> None:
    assert victims(
        NEEDS_SLOT, running("first", BATCH, 1.0), running("last", BATCH, 3.0), running("mid", BATCH, 2.0)
    ) == ["last"]


@pytest.mark.parametrize("priority", [INTERACTIVE, STANDARD])
def test_nobody_pauses_for_one_that_is_not_more_urgent(priority: int) -> None:
    candidate = Candidate(STANDARD, slots=1, blocks=0)
    assert victims(candidate, running("one", priority), running("other", priority)) == []


def test_who_paused_often_enough_is_passed_over() -> None:
    tired, fresh = running("tired", BATCH, preemptions=MAX_PREEMPTIONS), running("fresh", STANDARD)
    assert victims(NEEDS_SLOT, tired, fresh) == ["fresh"]
    assert victims(NEEDS_SLOT, tired) == []


def test_nobody_pauses_for_one_that_lacks_nothing() -> None:
    assert victims(Candidate(INTERACTIVE, slots=0, blocks=-3), running("b", BATCH)) == []


def test_as_many_pause_as_the_blocks_take() -> None:
    candidate = Candidate(INTERACTIVE, slots=0, blocks=7)
    three = [running(str(number), BATCH, float(number), blocks=4) for number in range(3)]
    assert victims(candidate, *three) == ["2", "1"]


def test_nobody_pauses_where_all_of_them_would_not_suffice() -> None:
    candidate = Candidate(INTERACTIVE, slots=0, blocks=9)
    assert victims(candidate, running("a", BATCH, blocks=4), running("b", BATCH, blocks=4)) == []


def test_a_victim_whose_blocks_turn_out_not_to_be_needed_is_spared() -> None:
    candidate = Candidate(INTERACTIVE, slots=1, blocks=10)
    small, large = running("small", BATCH, 2.0, blocks=1), running("large", BATCH, 1.0, blocks=10)
    assert victims(candidate, small, large) == ["large"]


RUNNING = st.builds(
    Running,
    st.uuids().map(str),
    st.integers(0, 3),
    st.floats(0, 100),
    st.integers(0, MAX_PREEMPTIONS + 1),
    st.integers(0, 9),
)


@given(st.lists(RUNNING, max_size=9), st.integers(0, 3), st.integers(-2, 4), st.integers(-5, 30))
def test_victims_are_less_urgent_suffice_and_none_is_in_vain(
    all_running: list[Running], priority: int, slots: int, blocks: int
) -> None:
    chosen = choose_victims(all_running, Candidate(priority, slots, blocks))
    freed = sum(one.blocks for one in chosen)
    assert len({one.id for one in chosen}) == len(chosen)
    assert all(one.priority > priority and one.preemptions < MAX_PREEMPTIONS for one in chosen)
    if chosen:
        assert len(chosen) >= slots and freed >= blocks
        assert all(len(chosen) - 1 < slots or freed - one.blocks < blocks for one in chosen)
    elif slots > 0 or blocks > 0:
        could = [one for one in all_running if one.priority > priority and one.preemptions < MAX_PREEMPTIONS]
        assert len(could) < slots or sum(one.blocks for one in could) < blocks


def test_a_pause_counts_its_time_and_its_tokens_when_it_ends() -> None:
    ledger = PauseLedger()
    ledger.pause("a", 10.0, computed_tokens=100)
    assert ledger.take() == PreemptionStats(preemptions=1)
    assert ledger.paused == ["a"]
    ledger.resume("a", 10.25, cached_tokens=96)
    assert ledger.take() == PreemptionStats(paused_us=250_000, reused_tokens=96, recomputed_tokens=4)
    assert ledger.take() == PreemptionStats()
    assert ledger.paused == []


def test_tokens_that_were_never_computed_are_not_reused() -> None:
    ledger = PauseLedger()
    ledger.pause("a", 0.0, computed_tokens=10)
    ledger.resume("a", 0.0, cached_tokens=64)
    assert ledger.take() == PreemptionStats(preemptions=1, reused_tokens=10)


def test_an_end_in_a_pause_counts_the_time_only_and_any_other_nothing() -> None:
    ledger = PauseLedger()
    ledger.pause("a", 1.0, computed_tokens=10)
    ledger.end("a", 3.0)
    ledger.end("never paused", 3.0)
    assert ledger.take() == PreemptionStats(preemptions=1, paused_us=2_000_000)


def test_ledgers_do_not_share_their_requests() -> None:
    PauseLedger().pause("a", 1.0, computed_tokens=1)
    assert PauseLedger().paused == []


def test_stats_travel_among_the_members_of_others_and_leave_them_alone() -> None:
    wire = {"loading": 3, **PreemptionStats(1, 0, 0, 7).to_wire()}
    assert len(wire) == 3, "what is 0 does not travel"
    assert PreemptionStats.take_from_wire(wire) + PreemptionStats(preemptions=1) == PreemptionStats(2, 0, 0, 7)
    assert wire == {"loading": 3}
