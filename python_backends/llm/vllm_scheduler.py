"""vLLM's scheduler, made preemptive: imported by vLLM itself, in the process of its engine core.

vLLM's `priority` policy sorts the waiting requests, and preempts only when a *running* request finds no KV block. Here
a waiting request takes the slot or the blocks of less urgent running ones, before each step, by vLLM's own
`_preempt_request`: what the victim generated stays, its grammar stays where it was, and output that is still in
flight is delivered before it may resume.

- **At most `MAX_PREEMPTIONS` a request**, vLLM's own counted in. After the last one a request resumes only when it fits
  beside the others that must not be paused either, each at its greatest length, and not in the last slot while others
  wait; from then on it is the last that vLLM would choose.
- **Saved KV.** The full blocks of a paused request stay in the prefix cache, and are moved behind all others in the
  order of eviction whenever somebody else's blocks were freed. With `kv_offloading_size` (GiB of host memory, with
  `kv_offloading_backend`) among the engine's arguments they also survive eviction on GPUs: vLLM's connector loads them.
  Without `enable_prefix_caching` all is computed again.
- **Several steps in flight**, by asynchronous scheduling (`AsyncPreemptiveScheduler`, chosen when vLLM's configuration
  says so; vLLM has none on CPUs) or pipeline parallelism: nothing has to be switched off.
- **Speculative decoding** is vLLM's own affair: a pause drops the drafts, as its own preemption does.
- **Chunked prefill.** Running requests get their share of `max_num_batched_tokens` first: where prompts are longer
  than that, set `long_prefill_token_threshold`, or an urgent request waits for their chunks.
- **LoRA.** A request whose adapter finds no room (`max_loras`) waits for it, as in vLLM; nobody is paused for that.
"""

import time
from collections.abc import Collection, Iterator
from itertools import chain
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

from python_backends.llm.preemption import (
    MAX_PREEMPTIONS,
    PREEMPTION_CARRIER,
    Candidate,
    PauseLedger,
    Running,
    choose_victims,
)
from python_backends.llm.vllm_insides import (
    KEEPS_STALE_OUTPUT,
    Release,
    blocks_to_allocate,
    computed_blocks,
)

# While it runs, a request that must not be paused again is more urgent than any client can ask for.
PROTECTED = -(2**31)
# How often saved blocks are moved to the safe end of the eviction order (seconds), and how many at a time.
REFRESH_INTERVAL = 0.2
REFRESH_BLOCKS = 4096


class PreemptiveScheduler(Release, Scheduler):  # type: ignore[misc]
    """For `scheduling_policy=priority`. What differs between vLLM's releases is in vllm_insides.py."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ledger = PauseLedger()
        self._own_priorities: dict[str, int] = {}
        self._blocks_were_freed = False
        self._refreshed_at = 0.0

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        self._refresh_saved_blocks()
        self._make_room()
        held_back = self._hold_back()
        output = super().schedule(*args, **kwargs)
        for queue, request in held_back:
            queue.add_request(request)
        self._note_scheduled(output)
        self._note_resumed(output)
        return output

    # Who must make room

    def _make_room(self) -> None:
        """Pause running requests for as many waiting ones as outrank them."""
        if not self.running or self._pause_state != PauseState.UNPAUSED:
            return
        first = next(self._waiting_in_order(), None)
        if first is None or first.priority >= max(one.priority for one in self.running):
            return
        slots = self._spare_slots()
        blocks = self._spare_blocks()
        for request in self._startable():
            needed = self._blocks_to_start(request)
            if slots < 1 or blocks < needed:
                victims = self._victims(Candidate(request.priority, slots=1 - slots, blocks=needed - blocks))
                if not victims:
                    return
                for victim in victims:
                    self._pause(victim.id)
                slots += len(victims)
                blocks += sum(victim.blocks for victim in victims)
            slots -= 1
            blocks -= needed

    def _startable(self) -> Iterator[Any]:
        """Waiting requests that this step could start, in the order in which it will try."""
        return (request for request in self._waiting_in_order() if self._is_startable(request))

    def _is_startable(self, request: Any) -> bool:
        if request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR:
            grammar = request.structured_output_request.grammar
            if grammar is None or isinstance(grammar, Exception):
                return False
        elif request.status not in (RequestStatus.WAITING, RequestStatus.PREEMPTED):
            return False
        return not self._is_in_flight(request) and self._may_stay(request) and self._has_adapter_room(request)

    def _has_adapter_room(self, request: Any) -> bool:
        if not self.lora_config or request.lora_request is None:
            return True
        loaded = {one.lora_request.lora_int_id for one in self.running if one.lora_request is not None}
        return request.lora_request.lora_int_id in loaded or len(loaded) < int(self.lora_config.max_loras)

    def _spare_slots(self) -> int:
        """Requests that hold KV blocks and can go on are started before all others."""
        ready = (RequestStatus.WAITING, RequestStatus.PREEMPTED)
        returning = sum(one.status in ready for one in self._returning())
        return int(self._most_running - len(self.running) - self.num_waiting_for_streaming_input - returning)

    def _spare_blocks(self) -> int:
        """KV blocks for waiting requests: free or about to be, less what the running ones need to go on."""
        manager = self.kv_cache_manager
        free = manager.block_pool.get_num_free_blocks() + sum(len(blocks) for _, blocks in self.deferred_frees)
        needed = sum(self._request_remaining_blocks(one) for one in self.running)
        return int(free - needed - manager.watermark_blocks)

    def _blocks_to_start(self, request: Any) -> int:
        """For all its tokens so far, less the cached blocks that others hold at this moment."""
        manager = self.kv_cache_manager
        cached, hits = computed_blocks(manager, request)
        tokens = min(request.num_tokens, self.max_model_len)
        return blocks_to_allocate(
            manager,
            request_id=request.request_id,
            num_tokens=min(tokens + self.num_lookahead_tokens, self.max_model_len),
            new_computed_blocks=cached.blocks,
            num_encoder_tokens=0,
            total_computed_tokens=hits,
            num_local_computed_tokens=hits,
            num_tokens_main_model=tokens,
            apply_admission_cap=True,
            prefill_end=max(request.num_prompt_tokens, request.num_tokens - 1),
        )

    def _victims(self, candidate: Candidate) -> list[Running]:
        running = [
            Running(one.request_id, one.priority, one.arrival_time, one.num_preemptions, self._own_blocks(one))
            for one in self.running
        ]
        return choose_victims(running, candidate)

    def _own_blocks(self, request: Any) -> int:
        groups = self.kv_cache_manager.get_blocks(request.request_id).blocks
        return sum(block.ref_cnt == 1 and not block.is_null for group in groups for block in group)

    # Pausing and resuming

    def _pause(self, request_id: str) -> None:
        request = self.requests[request_id]
        self.running.remove(request)
        how = {"drop_stale_output": self.requires_kv_delivery} if KEEPS_STALE_OUTPUT else {}
        self._preempt_request(request, time.monotonic(), **how)
        # Should it resume in this very step, the model runner must be told all its tokens again.
        self.prev_step_scheduled_req_ids.discard(request_id)

    def _preempt_request(self, request: Any, timestamp: float, *args: Any, **kwargs: Any) -> None:
        """Also what vLLM itself calls when a running request finds no block."""
        self._restore_priority(request)
        computed = request.num_computed_tokens - request.num_output_placeholders
        super()._preempt_request(request, timestamp, *args, **kwargs)
        self._ledger.pause(request.request_id, timestamp, computed)

    def _note_resumed(self, output: Any) -> None:
        now = time.monotonic()
        for request_id in self._ledger.paused:
            request = self.requests[request_id]
            if request.status == RequestStatus.RUNNING:
                cached = request.num_computed_tokens - output.num_scheduled_tokens.get(request_id, 0)
                self._ledger.resume(request_id, now, cached)
                self._protect(request)

    def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        self._ledger.end(request.request_id, time.monotonic())
        self._restore_priority(request)
        return super()._free_request(request, *args, **kwargs)

    # Who must not be paused again

    def _protect(self, request: Any) -> None:
        if request.num_preemptions >= MAX_PREEMPTIONS:
            self._own_priorities[request.request_id] = request.priority
            request.priority = PROTECTED

    def _restore_priority(self, request: Any) -> None:
        request.priority = self._own_priorities.pop(request.request_id, request.priority)

    def _may_stay(self, request: Any, also: Collection[Any] = ()) -> bool:
        """Whether a request that must not be paused again may run now: it fits beside its like, and leaves them a slot.

        The slot is for requests that may be paused, so that the next urgent one finds a victim; it goes to this one
        when only less urgent ones wait beside it.
        """
        if request.num_preemptions < MAX_PREEMPTIONS:
            return True
        protected = [one for one in chain(self.running, also) if one.num_preemptions >= MAX_PREEMPTIONS]
        if not protected:
            return True
        if sum(self._most_blocks(one) for one in (*protected, request)) >= self.kv_cache_config.num_blocks:
            return False
        if len(protected) + 1 < self._most_running:
            return True
        return not any(
            one.num_preemptions < MAX_PREEMPTIONS and one.priority <= request.priority
            for one in self._waiting_in_order()
        )

    def _most_blocks(self, request: Any) -> int:
        """At its greatest length, in all groups of layers."""
        tokens = min(request.num_prompt_tokens + request.max_tokens, self.max_model_len) + self.num_lookahead_tokens
        return int(len(self.kv_cache_config.kv_cache_groups) * -(-tokens // self.block_size))

    # Saved KV

    def _free_request_blocks(self, request: Any) -> None:
        self._blocks_were_freed = True
        super()._free_request_blocks(request)

    def _refresh_saved_blocks(self) -> None:
        """Move the cached blocks of paused requests behind all free ones; those of the most urgent go last."""
        now = time.monotonic()
        if not self._ledger.paused or not self._blocks_were_freed or now < self._refreshed_at + REFRESH_INTERVAL:
            return
        self._refreshed_at, self._blocks_were_freed = now, False
        pool = self.kv_cache_manager.block_pool
        for blocks in reversed(self._saved_blocks()):
            pool.touch(blocks)
            pool.free_blocks(reversed(blocks))

    def _saved_blocks(self) -> list[list[Any]]:
        """What is still cached of the paused requests, the most urgent first, `REFRESH_BLOCKS` altogether or so."""
        saved: list[list[Any]] = []
        for request in sorted(self.requests[request_id] for request_id in self._ledger.paused):
            if sum(map(len, saved)) >= REFRESH_BLOCKS:
                break
            cached, _ = computed_blocks(self.kv_cache_manager, request)
            saved.append([block for group in cached.blocks for block in group if not block.is_null])
        return saved

    # What it cost

    def make_stats(self, *args: Any, **kwargs: Any) -> Any:
        """The counts ride in a dictionary of vLLM's statistics; the engine's front end takes them out again."""
        stats = super().make_stats(*args, **kwargs)
        if stats is not None:
            getattr(stats, PREEMPTION_CARRIER).update(self._ledger.take().to_wire())
        return stats


class AsyncPreemptiveScheduler(PreemptiveScheduler, AsyncScheduler):  # type: ignore[misc]
    """The same with asynchronous scheduling."""
