"""vLLM behind the engine port: the only module that knows vLLM's API, and which versions of it.

Imports of vllm and torch happen in `start`, once the process is prepared for them (locale, start method).
"""

import json
import locale
import logging
import multiprocessing
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from python_backends.llm.engine import (
    AdapterUnavailableError,
    EngineError,
    EngineOutput,
    EngineRequest,
    EngineState,
    EngineUnavailableError,
    LoadedAdapter,
)
from python_backends.llm.preemption import PREEMPTION_CARRIER, PreemptionStats
from python_backends.messages import Constraint, FinishReason, Plan, Timings, TokenLogprob, TopLogprob

log = logging.getLogger(__name__)

SUPPORTED = SpecifierSet(">=0.24,<0.33", prereleases=True)
# The preemptive scheduler builds on the insides of vLLM's, which are no public interface: they are looked at first.
SCHEDULERS = "python_backends.llm.vllm_scheduler"
INSIDES = "python_backends.llm.vllm_insides"
# vLLM's kernels for LoRA on CPUs mix adapters up: see vllm_lora.py.
CPU_WORKER = "vllm.v1.worker.cpu_worker.CPUWorker"
LORA_CPU_WORKER = "python_backends.llm.vllm_lora.LoraCPUWorker"
_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort", "repetition": "stop"}


def prepare_process(*, eager: bool) -> None:
    """Make an embedded interpreter fit for vLLM. Must run before torch is imported.

    Triton's Python stub starts with the C locale, on which torch's inductor fails to read its own sources, and its
    `sys.executable` is not a Python that child processes could be started with. `eager`: compile nothing at all;
    vLLM's `enforce_eager` leaves some samplers to torch.compile, which wants a C++ compiler and half a minute at the
    first request.
    """
    if eager:
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    python = Path(sys.prefix) / "bin" / "python3"
    if python.exists():
        multiprocessing.set_executable(str(python))


def check_version(version: str) -> None:
    """Raises RuntimeError where this module was not written for `version`."""
    if version not in SUPPORTED:
        raise RuntimeError(f"vLLM {version} is not supported: install one of {SUPPORTED}, or adapt vllm_engine.py")


class VllmEngine:
    """Generation by vLLM's AsyncLLM. `arguments`: any AsyncEngineArgs, `model` among them.

    `preemption`: whether waiting requests may pause less urgent running ones (see vllm_scheduler.py); it takes
    `scheduling_policy=priority`, and leaves a `scheduler_cls` among the arguments alone.
    """

    def __init__(self, arguments: Mapping[str, Any], *, preemption: bool = True) -> None:
        self._arguments = dict(arguments)
        self._preemption = preemption
        self._engine: Any = None
        self._version = ""
        self._steps = StepCounter()

    async def start(self) -> None:
        prepare_process(eager=bool(self._arguments.get("enforce_eager")))
        vllm = import_module("vllm")
        self._version = vllm.__version__
        check_version(self._version)
        async_llm = import_module("vllm.v1.engine.async_llm").AsyncLLM
        arguments = import_module("vllm.engine.arg_utils").AsyncEngineArgs(**self._arguments)
        config = arguments.create_engine_config(import_module("vllm.usage.usage_lib").UsageContext.ENGINE_CONTEXT)
        if self.preempts:
            # Only now is it known whether vLLM schedules asynchronously.
            prefix = "Async" if config.scheduler_config.async_scheduling else ""
            config.scheduler_config.scheduler_cls = f"{SCHEDULERS}.{prefix}PreemptiveScheduler"
        if config.lora_config is not None and config.parallel_config.worker_cls == CPU_WORKER:
            config.parallel_config.worker_cls = LORA_CPU_WORKER
        self._engine = async_llm.from_vllm_config(
            config,
            stat_loggers=[self._steps.logger],
            enable_log_requests=arguments.enable_log_requests,
            disable_log_stats=arguments.disable_log_stats,
        )

    async def stop(self) -> None:
        if self._engine is not None:
            self._engine.shutdown()

    async def generate(self, request: EngineRequest) -> AsyncIterator[EngineOutput]:
        """Stream one request. Raises EngineUnavailableError when the engine is dead, EngineError when it refuses."""
        plan = request.plan
        errors = import_module("vllm.v1.engine.exceptions")
        try:
            stream = self._engine.generate(
                {"prompt_token_ids": list(request.input_ids)},
                sampling_params(plan),
                request.id,
                lora_request=lora_request(request.adapter),
                trace_headers={"traceparent": plan.traceparent} if plan.traceparent else None,
                priority=plan.priority if self._by_priority else 0,
            )
            copies = greedy_copies(plan)
            async for output in stream:
                for converted in convert(output):
                    for copied in repeat(converted, copies):
                        yield copied
        except errors.EngineDeadError as error:
            raise EngineUnavailableError("the engine has died and is being restarted") from error
        except errors.EngineGenerateError as error:
            raise EngineError("the engine failed to generate") from error
        except (ValueError, _client_error()) as error:
            raise refused(error) from error

    async def load_adapter(self, adapter: LoadedAdapter) -> None:
        """Before any request names it: an adapter that fails to load within a step would take the engine with it."""
        errors = import_module("vllm.v1.engine.exceptions")
        try:
            await self._engine.add_lora(lora_request(adapter))
        except errors.EngineDeadError as error:
            raise EngineUnavailableError("the engine has died and is being restarted") from error
        except Exception as error:  # the boundary to vLLM, which hands on whatever reading the files ran into
            await self.unload_adapter(adapter)
            raise AdapterUnavailableError(f"the engine refuses this adapter: {error}") from error

    async def unload_adapter(self, adapter: LoadedAdapter) -> None:
        errors = import_module("vllm.v1.engine.exceptions")
        try:
            await self._engine.remove_lora(adapter.number)
        except errors.EngineDeadError as error:
            raise EngineUnavailableError("the engine has died and is being restarted") from error

    def state(self) -> EngineState:
        config = self._engine.vllm_config
        if self._engine.errored:
            raise EngineUnavailableError("the engine has died")
        blocks = config.cache_config.num_gpu_blocks or 0
        return EngineState(
            engine="vllm",
            version=self._version,
            model=str(config.model_config.model),
            max_model_len=config.model_config.max_model_len,
            running=self._steps.running,
            waiting=self._steps.waiting,
            kv_usage=self._steps.kv_usage,
            kv_tokens=blocks * config.cache_config.block_size,
            steps=self._steps.steps,
            tokens=self._steps.tokens,
            preemptions=self._steps.preemption.preemptions,
            paused_s=self._steps.preemption.paused_us / 1e6,
            recomputed_tokens=self._steps.preemption.recomputed_tokens,
            reused_tokens=self._steps.preemption.reused_tokens,
        )

    @property
    def preempts(self) -> bool:
        """Whether the scheduler is ours: it is wanted, and this vLLM is made as it expects; the log says where not."""
        if not self._preemption or not self._by_priority or self._arguments.get("scheduler_cls"):
            return False
        missing = import_module(INSIDES).problems()
        if missing:
            log.error("no preemption: vLLM %s has no %s as its scheduler needs it", self._version, ", ".join(missing))
        return not missing

    @property
    def _by_priority(self) -> bool:
        """Other policies refuse requests that have a priority."""
        return str(self._arguments.get("scheduling_policy", "fcfs")) == "priority"


class StepCounter:
    """What the engine's steps did, as seen by a vLLM stat logger: a few additions and assignments a step."""

    def __init__(self) -> None:
        self.steps = self.tokens = self.running = self.waiting = 0
        self.kv_usage = 0.0
        self.preemption = PreemptionStats()

    def logger(self, vllm_config: Any, engine_index: int = 0) -> Any:
        """A vLLM StatLoggerFactory; the class is made here, since its base needs vllm imported."""
        counter = self
        base: Any = import_module("vllm.v1.metrics.loggers").StatLoggerBase

        class _Logger(base):  # type: ignore[misc]
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                """Nothing of the configuration is needed."""

            def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any) -> None:
                counter.record(scheduler_stats, iteration_stats)

            def log_engine_initialized(self) -> None:
                """vLLM logs it itself."""

        return _Logger(vllm_config, engine_index)

    def record(self, scheduler: Any, iteration: Any) -> None:
        if scheduler is not None:
            self.running = scheduler.num_running_reqs
            self.waiting = scheduler.num_waiting_reqs
            self.kv_usage = scheduler.kv_cache_usage
            # Taken out of what it travelled in, before vLLM's own loggers print that.
            self.preemption += PreemptionStats.take_from_wire(getattr(scheduler, PREEMPTION_CARRIER, {}))
        if iteration is not None:
            self.steps += 1
            self.tokens += iteration.num_generation_tokens


def sampling_params(plan: Plan) -> Any:
    """A plan as vLLM's SamplingParams.

    The engine ends at stop strings and leaves them in the text: `postprocess` cuts them. Not where special tokens
    show: the one that ends the answer would be left in the text, too. Raises EngineError (400) for values that vLLM
    refuses.
    """
    module = import_module("vllm.sampling_params")
    sampling = plan.sampling
    try:
        return module.SamplingParams(
            n=sampling.n // greedy_copies(plan),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            seed=sampling.seed,
            max_tokens=sampling.max_tokens,
            min_tokens=sampling.min_tokens,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            logit_bias=sampling.logit_bias,
            ignore_eos=sampling.ignore_eos,
            stop=sampling.stop or None,
            include_stop_str_in_output=sampling.skip_special_tokens,
            skip_special_tokens=sampling.skip_special_tokens,
            logprobs=sampling.logprobs,
            prompt_logprobs=sampling.prompt_logprobs,
            structured_outputs=_structured(module, plan.constraint),
            output_kind=module.RequestOutputKind.DELTA,
        )
    except (ValueError, _client_error()) as error:
        raise refused(error) from error


def greedy_copies(plan: Plan) -> int:
    """How many choices one generation stands for: greedy ones are all the same, and vLLM refuses to compute two."""
    return plan.sampling.n if plan.sampling.temperature == 0 else 1


def repeat(output: EngineOutput, copies: int) -> list[EngineOutput]:
    """The output of choice 0 for each of `copies` choices; only the last copy can be the last of the request."""
    if copies == 1:
        return [output]
    return [replace(output, index=index, last=output.last and index == copies - 1) for index in range(copies)]


def refused(error: Exception) -> EngineError:
    """What vLLM did not like of a request; its newer errors name the parameter."""
    return EngineError(str(error), code="invalid_value", status=400, param=getattr(error, "parameter", None))


def _client_error() -> type[Exception]:
    """vLLM's class for refused requests; versions that lack it raise ValueError."""
    error: type[Exception] = getattr(import_module("vllm.exceptions"), "VLLMClientError", ValueError)
    return error


def _structured(module: Any, constraint: Constraint | None) -> Any:
    if constraint is None:
        return None
    return module.StructuredOutputsParams(
        json=None if constraint.json_schema is None else json.loads(constraint.json_schema),
        json_object=constraint.json_object or None,
        regex=constraint.regex,
        grammar=constraint.grammar,
        choice=constraint.choice,
    )


def lora_request(adapter: LoadedAdapter | None) -> Any:
    """vLLM tells adapters apart by number, their cached prefixes by name and directory."""
    if adapter is None:
        return None
    return import_module("vllm.lora.request").LoRARequest(adapter.name, adapter.number, adapter.directory)


def convert(output: Any) -> list[EngineOutput]:
    """One vLLM RequestOutput (kind DELTA) as outputs of the port, one a choice."""
    converted = [
        EngineOutput(
            index=one.index,
            token_ids=list(one.token_ids),
            text=one.text,
            logprobs=None if one.logprobs is None else _all_chosen(one.token_ids, one.logprobs),
            finish=_finish_reason(one.finish_reason),
        )
        for one in output.outputs
    ]
    if output.prompt_logprobs and converted:
        pairs = zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
        converted[0].prompt_logprobs = [None if table is None else _chosen(token, table) for token, table in pairs]
    if output.finished and converted:
        converted[-1].last = True
        converted[-1].cached_tokens = output.num_cached_tokens or 0
        converted[-1].timings = _timings(output.metrics)
    return converted


def _finish_reason(reason: str | None) -> FinishReason | None:
    return None if reason is None else _FINISH.get(reason, "error")


def _all_chosen(token_ids: Sequence[int], tables: Sequence[Mapping[int, Any]]) -> list[TokenLogprob]:
    return [_chosen(token, table) for token, table in zip(token_ids, tables, strict=True)]


def _chosen(token: int, table: Mapping[int, Any]) -> TokenLogprob:
    """vLLM's table holds the likeliest tokens, and the chosen one wherever it ranks."""
    likeliest = sorted(table.values(), key=lambda entry: entry.rank or 0)
    top = [TopLogprob(token=_text(one), logprob=_floor(one.logprob), bytes=_bytes(one)) for one in likeliest]
    chosen = table[token]
    return TokenLogprob(token=_text(chosen), logprob=_floor(chosen.logprob), bytes=_bytes(chosen), top=top)


def _text(entry: Any) -> str:
    return entry.decoded_token or ""


def _bytes(entry: Any) -> list[int]:
    return list(_text(entry).encode("utf-8", "replace"))


def _floor(logprob: float) -> float:
    """JSON has no infinity; OpenAI writes -9999 for what cannot be."""
    return max(logprob, -9999.0)


def _timings(metrics: Any) -> Timings | None:
    """RequestStateStats → milliseconds. Absent for requests of several choices; preemptions are counted since 0.30."""
    if metrics is None:
        return None
    return Timings(
        queued=_ms(metrics.queued_ts, metrics.scheduled_ts),
        prefill=_ms(metrics.scheduled_ts, metrics.first_token_ts),
        decode=_ms(metrics.first_token_ts, metrics.last_token_ts),
        preemptions=getattr(metrics, "num_preemptions", 0),
    )


def _ms(start: float, end: float) -> float:
    return round(1000 * max(0.0, end - start), 3)
