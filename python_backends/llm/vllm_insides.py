"""The insides of vLLM's scheduler on which the preemptive one builds, and how they differ between vLLM's releases.

| | 0.24 to 0.26 | 0.27 to 0.30 | 0.31 and 0.32 |
|---|---|---|---|
| class here | `Forgetful` | `Sweeping` | `Asking` |
| requests that cannot start yet | in `skipped_waiting` | in `skipped_waiting` | in `waiting` |
| asked before one is started | by its status only | by its status only | `_handle_blocked_waiting_request` |
| a paused one's output in flight | may come twice if it resumes | makes it wait | makes it wait |

None of this is a public interface: `problems` says what of it is missing in the installed release, and
tests/contract/test_vllm_scheduler.py tries out what the rest means.
"""

import inspect
from collections import Counter
from collections.abc import Collection, Iterator
from heapq import merge
from typing import Any

from vllm.v1.core.kv_cache_coordinator import KVCacheCoordinator
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.metrics.stats import SchedulerStats
from vllm.v1.request import Request

from python_backends.llm.preemption import MAX_PREEMPTIONS, PREEMPTION_CARRIER

ASKS_BEFORE_STARTING = hasattr(Scheduler, "_handle_blocked_waiting_request")
KEEPS_STALE_OUTPUT = "drop_stale_output" in inspect.signature(Scheduler._preempt_request).parameters
_BLOCKS_PARAMETERS = frozenset(inspect.signature(KVCacheCoordinator.get_num_blocks_to_allocate).parameters)
# Parameters of methods that are called or overridden, `self` left out, and what releases may leave out in brackets.
METHODS: dict[type, dict[str, str]] = {
    Scheduler: {
        "schedule": "throttle_prefills",
        "update_from_output": "scheduler_output model_runner_output",
        "make_stats": "",
        "_preempt_request": "request timestamp [drop_stale_output]",
        "_free_request": "request delay_free_blocks",
        "_free_request_blocks": "request",
        "_request_remaining_blocks": "request",
    },
    AsyncScheduler: {"_update_after_schedule": "scheduler_output"},
    KVCacheManager: {"get_computed_blocks": "request", "get_blocks": "request_id"},
    KVCacheCoordinator: {
        "get_num_blocks_to_allocate": "request_id num_tokens new_computed_blocks num_encoder_tokens "
        "total_computed_tokens [num_local_computed_tokens] num_tokens_main_model apply_admission_cap [prefill_end]"
    },
}
# Attributes that constructors set.
ATTRIBUTES: dict[type, str] = {
    Scheduler: "waiting running requests num_waiting_for_streaming_input _pause_state max_model_len block_size "
    "num_lookahead_tokens lora_config kv_cache_config kv_cache_manager deferred_frees prev_step_scheduled_req_ids "
    + ("kv_holding_waiting max_num_active_reqs" if ASKS_BEFORE_STARTING else "skipped_waiting max_num_running_reqs"),
    Request: "request_id priority arrival_time status num_preemptions lora_request num_prompt_tokens max_tokens "
    "num_computed_tokens num_output_placeholders structured_output_request",
    KVCacheManager: "coordinator block_pool watermark_blocks",
}


class _Release:
    """Mixed into the scheduler; the attributes are vLLM's. `_may_stay`: whether a request, which was paused as often as
    one may be, can run now beside those that run and `also` these.
    """

    waiting: Any
    running: Any
    num_waiting_for_streaming_input: int

    def _may_stay(self, request: Any, also: Collection[Any] = ()) -> bool:
        raise NotImplementedError

    def _waiting_in_order(self) -> Iterator[Any]:
        """Those that may be started, in the order in which vLLM tries."""
        return iter(self.waiting)

    def _hold_back(self) -> list[tuple[Any, Any]]:
        """Take out of their queues those that must not start in the step that comes: queues and requests."""
        return []

    def _is_in_flight(self, request: Any) -> bool:
        """Whether output is on its way that makes it wait, and vLLM does not know."""
        return False

    def _note_scheduled(self, output: Any) -> None:
        """A step begins."""


class Asking(_Release):
    """vLLM asks for each request, paused or not, before it starts it."""

    kv_holding_waiting: Any
    max_num_active_reqs: int

    @property
    def _most_running(self) -> int:
        return int(self.max_num_active_reqs)

    def _returning(self) -> Iterator[Any]:
        """Those that hold KV blocks and wait: started before all others when they are ready."""
        return iter(self.kv_holding_waiting)

    def _handle_blocked_waiting_request(self, request: Any) -> bool:
        ready: bool = super()._handle_blocked_waiting_request(request)  # type: ignore[misc]
        return ready and self._may_stay(request)


class Sweeping(_Release):
    """vLLM starts what it finds in its queues, so that what must wait is not in there."""

    skipped_waiting: Any
    max_num_running_reqs: int

    @property
    def _most_running(self) -> int:
        return int(self.max_num_running_reqs)

    def _returning(self) -> Iterator[Any]:
        return iter(())

    def _waiting_in_order(self) -> Iterator[Any]:
        return merge(self.waiting, self.skipped_waiting)

    def _hold_back(self) -> list[tuple[Any, Any]]:
        """Of those that were paused as often as one may be, each leaves room for the one before it."""
        held: set[Any] = set()
        staying: list[Any] = []
        for request in self._waiting_in_order():
            if self._is_in_flight(request) or not self._may_stay(request, staying):
                held.add(request)
            elif request.num_preemptions >= MAX_PREEMPTIONS:
                staying.append(request)
        if not held:
            return []
        taken = [(queue, one) for queue in (self.waiting, self.skipped_waiting) for one in queue if one in held]
        for queue in (self.waiting, self.skipped_waiting):
            queue.remove_requests(held)
        return taken


class Forgetful(Sweeping):
    """vLLM resumes a paused request while its tokens are still on their way: they would be sampled again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_flight: Counter[str] = Counter()

    def _is_in_flight(self, request: Any) -> bool:
        return request.request_id in self._in_flight

    def _note_scheduled(self, output: Any) -> None:
        self._in_flight.update(output.num_scheduled_tokens.keys())

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        for request_id in scheduler_output.num_scheduled_tokens:
            self._in_flight[request_id] -= 1
            if not self._in_flight[request_id]:
                del self._in_flight[request_id]
        return super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]


Release: Any = Asking if ASKS_BEFORE_STARTING else Sweeping if KEEPS_STALE_OUTPUT else Forgetful


def computed_blocks(manager: Any, request: Any) -> tuple[Any, int]:
    """Cached blocks of the request, and how many tokens they hold."""
    found = manager.get_computed_blocks(request)
    return found[0], found[1]


def blocks_to_allocate(manager: Any, **given: Any) -> int:
    """Without the parameters that this release does not have."""
    known = {name: value for name, value in given.items() if name in _BLOCKS_PARAMETERS}
    return int(manager.coordinator.get_num_blocks_to_allocate(**known))


def problems() -> list[str]:
    """What the scheduler relies on and does not find, in a few words each."""
    found = [
        f"{kind.__name__}.{name}({wanted})"
        for kind, methods in METHODS.items()
        for name, wanted in methods.items()
        if not _takes(getattr(kind, name, None), wanted)
    ]
    found += [
        f"{kind.__name__}.{name}"
        for kind, names in ATTRIBUTES.items()
        for name in names.split()
        if name not in vars(kind)["__init__"].__code__.co_names
    ]
    return found + _stats_problems()


def _takes(method: Any, wanted: str) -> bool:
    if method is None:
        return False
    names = [name for name in inspect.signature(method).parameters if name != "self"]
    most = [name.strip("[]") for name in wanted.split()]
    least = {name for name in wanted.split() if not name.startswith("[")}
    return wanted == "" or (least <= set(names) and [name for name in most if name in names] == names)


def _stats_problems() -> list[str]:
    carried = getattr(SchedulerStats(), PREEMPTION_CARRIER, None)
    return [] if isinstance(carried, dict) else [f"SchedulerStats.{PREEMPTION_CARRIER}"]
