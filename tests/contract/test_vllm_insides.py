"""What the preemptive scheduler relies on in vLLM, and what it replaces there."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from python_backends.llm.preemption import PREEMPTION_CARRIER, PreemptionStats
from python_backends.llm.vllm_engine import StepCounter, VllmEngine
from tests.contract.scheduling import BATCH, INTERACTIVE, STANDARD, Build, prompt

OVERRIDDEN = {
    *("__init__", "make_stats", "schedule", "_preempt_request", "_free_request", "_free_request_blocks"),
    # Of some releases only: vllm_insides.py.
    *("_handle_blocked_waiting_request", "update_from_output"),
}


def test_the_insides_that_the_scheduler_relies_on_are_there_by_name_and_signature(schedulers: Any) -> None:
    from python_backends.llm import vllm_insides

    assert vllm_insides.problems() == []


def test_what_is_missing_or_different_is_told(schedulers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.metrics.stats import SchedulerStats

    from python_backends.llm import vllm_insides

    monkeypatch.delattr(Scheduler, "_request_remaining_blocks")
    monkeypatch.setattr(KVCacheManager, "get_computed_blocks", lambda self, request, and_another: None)
    monkeypatch.setitem(vllm_insides.ATTRIBUTES, SchedulerStats, "no_such_number")
    assert vllm_insides.problems() == [
        "Scheduler._request_remaining_blocks(request)",
        "KVCacheManager.get_computed_blocks(request)",
        "SchedulerStats.no_such_number",
    ]


def test_an_engine_whose_insides_are_different_says_so_and_does_not_preempt(
    schedulers: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    engine = VllmEngine({"scheduling_policy": "priority"})
    assert engine.preempts
    monkeypatch.delattr(Scheduler, "_free_request_blocks")
    assert not engine.preempts
    assert "has no Scheduler._free_request_blocks(request)" in caplog.text
    assert not VllmEngine({"scheduling_policy": "fcfs"}).preempts
    assert not VllmEngine({"scheduling_policy": "priority"}, preemption=False).preempts


def test_nothing_of_vllms_scheduler_is_replaced_but_what_is_meant_to_be(build: Build, schedulers: Any) -> None:
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    kinds = [kind for kind in schedulers.PreemptiveScheduler.__mro__ if kind.__module__.startswith("python_backends")]
    ours = {name for kind in kinds for name, value in vars(kind).items() if inspect.isfunction(value)}
    assert {name for name in ours if hasattr(Scheduler, name)} <= OVERRIDDEN
    assert ours.isdisjoint(set(vars(AsyncScheduler)) - {"__init__"})
    theirs = build(slots=2, blocks=20).scheduler
    assert set(vars(theirs)).isdisjoint(ours), "attributes of vLLM's instances hide no method of ours"


def test_blocks_are_counted_as_the_scheduler_expects(build: Build) -> None:
    steps = build(slots=2, blocks=20)
    steps.add("one", prompt(1, 40), 4, BATCH)
    (request,) = steps.scheduler.waiting
    steps.step()
    manager = steps.scheduler.kv_cache_manager
    assert manager.watermark_blocks == 0
    (blocks,) = manager.get_blocks("one").blocks
    assert [(block.ref_cnt, block.is_null) for block in blocks] == [(1, False)] * 3
    assert manager.block_pool.get_num_free_blocks() == 20 - 1 - 3
    assert steps.scheduler._request_remaining_blocks(request) == 0


def test_a_request_runs_in_the_order_of_its_priority_and_then_of_its_arrival(build: Build) -> None:
    steps = build(slots=1, blocks=20)
    for number, priority in enumerate((BATCH, STANDARD, BATCH, INTERACTIVE)):
        steps.add(str(number), prompt(number), 2, priority)
    assert [one.request_id for one in steps.scheduler.waiting] == ["3", "1", "0", "2"]
    assert steps.scheduler.waiting.peek_request().request_id == "3"


def test_the_counts_travel_in_a_dictionary_that_vllm_only_looks_into_by_name() -> None:
    from vllm.v1.metrics.stats import SchedulerStats

    assert getattr(SchedulerStats(), PREEMPTION_CARRIER) == {}
    stats = SchedulerStats()
    getattr(stats, PREEMPTION_CARRIER).update(PreemptionStats(2, 3_000, 4, 5).to_wire(), in_progress=1)
    counter = StepCounter()
    for one in (stats, SchedulerStats()):
        counter.record(one, None)
    assert counter.preemption == PreemptionStats(2, 3_000, 4, 5)
    assert getattr(stats, PREEMPTION_CARRIER) == {"in_progress": 1}, "vLLM's own loggers do not see ours"


def test_kv_in_host_memory_is_an_engine_argument(schedulers: Any, generation_model: Path) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs

    arguments = AsyncEngineArgs(
        model=str(generation_model), dtype="float32", enforce_eager=True, kv_offloading_size=2.0
    )
    config = arguments.create_engine_config()
    assert config.kv_transfer_config is not None
    assert config.kv_transfer_config.kv_connector == "OffloadingConnector"
