"""vLLM's scheduler and KV cache manager, stepped as the engine core steps them, on a model made of arithmetic.

The model remembers what was written into each KV block, and refuses to compute on KV that is not the prefix's own. A
token follows from everything before it, so that a lost, repeated or misplaced one changes all that come after.
"""

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from python_backends.llm.preemption import PREEMPTION_CARRIER

BLOCK = 16
_MODULUS = 2**31 - 1
_VOCABULARY = 1000


def prefixes(tokens: list[int]) -> list[int]:
    """A number for each position that says all tokens up to it."""
    numbers, number = [], 7
    for token in tokens:
        number = (number * 31 + token + 1) % _MODULUS
        numbers.append(number)
    return numbers


def expected(prompt: list[int], count: int) -> list[int]:
    """What the model answers when nobody disturbs it."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(prefixes(tokens)[-1] % _VOCABULARY)
    return tokens[len(prompt) :]


@dataclass
class ArithmeticModel:
    """What a model runner keeps: tokens and block numbers of each request, and the contents of all blocks."""

    tokens: dict[str, list[int]] = field(default_factory=dict)
    blocks: dict[str, list[int]] = field(default_factory=dict)
    kv: dict[tuple[int, int], int] = field(default_factory=dict)

    def run(self, output: Any) -> ModelRunnerOutput:
        for one in output.finished_req_ids:
            self.tokens.pop(one, None)
            self.blocks.pop(one, None)
        computed = self._update(output)
        ids = list(output.num_scheduled_tokens)
        sampled = [self._compute(one, computed[one], output.num_scheduled_tokens[one]) for one in ids]
        return ModelRunnerOutput(ids, {one: index for index, one in enumerate(ids)}, sampled)

    def _update(self, output: Any) -> dict[str, int]:
        computed = {}
        for new in output.scheduled_new_reqs:
            self.tokens[new.req_id], self.blocks[new.req_id] = list(new.prompt_token_ids), list(new.block_ids[0])
            computed[new.req_id] = new.num_computed_tokens
        cached = output.scheduled_cached_reqs
        for index, one in enumerate(cached.req_ids):
            computed[one] = cached.num_computed_tokens[index]
            added = cached.new_block_ids[index]
            if one in cached.resumed_req_ids:
                assert cached.all_token_ids[one] == self.tokens[one], "a resumed request has all that was sampled"
                self.blocks[one] = []
            self.blocks[one] += added[0] if added else []
        return computed

    def _compute(self, one: str, computed: int, count: int) -> list[int]:
        numbers = prefixes(self.tokens[one])
        end = computed + count
        for position, number in enumerate(numbers[:end]):
            place = (self.blocks[one][position // BLOCK], position % BLOCK)
            if position >= computed:
                self.kv[place] = number
            assert self.kv[place] == number, f"{one} reads KV of another prefix at {position}"
        if end < len(numbers):
            return []
        assert end == len(numbers)
        self.tokens[one].append(numbers[-1] % _VOCABULARY)
        return self.tokens[one][-1:]


class Steps:
    """An engine core with up to `depth` steps in flight. `answers`: the tokens that came out, in their order.

    `slots`, `blocks` and `budget`: requests, KV blocks (one of which vLLM keeps for itself) and tokens a step.
    """

    def __init__(
        self, scheduler_class: type, model: Path, depth: int, *, slots: int, blocks: int, budget: int = 256
    ) -> None:
        arguments: dict[str, Any] = {
            "model": str(model),
            "dtype": "float32",
            "enforce_eager": True,
            "max_model_len": 256,
            "max_num_seqs": slots,
            "max_num_batched_tokens": budget,
            "scheduling_policy": "priority",
            "block_size": BLOCK,
        }
        config = AsyncEngineArgs(**arguments).create_engine_config()
        config.scheduler_config.async_scheduling = issubclass(scheduler_class, AsyncScheduler)
        config.cache_config.num_gpu_blocks = blocks
        layers = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
        self.scheduler: Any = scheduler_class(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], layers)]),
            structured_output_manager=StructuredOutputManager(config),
            block_size=BLOCK,
            log_stats=True,
        )
        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(BLOCK, sha256)
        self._model = ArithmeticModel()
        self._in_flight: deque[tuple[Any, ModelRunnerOutput]] = deque()
        self._requests: dict[str, Request] = {}
        self.answers: dict[str, list[int]] = {}
        self.stats: dict[str, int] = {}
        self._depth = depth

    def add(self, name: str, prompt: list[int], tokens: int, priority: int) -> None:
        sampling = SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=0)
        arrival = float(len(self._requests))
        request = Request(name, prompt, sampling, None, 0, arrival, priority=priority, block_hasher=self._hasher)
        self._requests[name], self.answers[name] = request, []
        self.scheduler.add_request(request)

    def abort(self, name: str) -> None:
        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)

    def step(self) -> None:
        output = self.scheduler.schedule()
        if output.total_num_scheduled_tokens:
            self._in_flight.append((output, self._model.run(output)))
        if len(self._in_flight) < self._depth and output.total_num_scheduled_tokens:
            return
        for scheduled, computed in [self._in_flight.popleft()] if self._in_flight else []:
            outputs = self.scheduler.update_from_output(scheduled, computed)
            for of_client in outputs.values():
                self._take(of_client)

    def _take(self, outputs: Any) -> None:
        for one in outputs.outputs:
            self.answers[one.request_id] += one.new_token_ids
        for name, value in getattr(outputs.scheduler_stats, PREEMPTION_CARRIER).items():
            self.stats[name] = self.stats.get(name, 0) + value

    def run(self, limit: int = 5000) -> None:
        """Until everything has ended."""
        for _ in range(limit):
            if not self.scheduler.has_unfinished_requests() and not self._in_flight:
                return
            self.step()
        raise AssertionError(f"not finished after {limit} steps: {self.scheduler.waiting}, {self.scheduler.running}")

    def running(self) -> set[str]:
        return {one.request_id for one in self.scheduler.running}

    def preemptions(self, name: str) -> int:
        return self._requests[name].num_preemptions
