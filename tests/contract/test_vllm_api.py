"""What `vllm_engine.py` uses of vLLM is there, in the installed version, as it expects it."""

import dataclasses
import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.version import Version

from python_backends.llm.engine import EngineError, EngineOutput
from python_backends.llm.vllm_engine import (
    SUPPORTED,
    check_version,
    convert,
    greedy_copies,
    prepare_process,
    repeat,
    sampling_params,
)
from python_backends.messages import Constraint, Plan, Sampling, Timings


@pytest.fixture(scope="module")
def vllm() -> Any:
    prepare_process(eager=True)
    import vllm

    return vllm


def test_the_installed_version_is_supported_and_others_are_refused(vllm: Any) -> None:
    check_version(vllm.__version__)
    with pytest.raises(RuntimeError, match="not supported"):
        check_version("0.33.0")
    assert "0.24.0" in SUPPORTED


def test_generate_takes_what_we_pass(vllm: Any) -> None:
    from vllm.v1.engine.async_llm import AsyncLLM

    parameters = inspect.signature(AsyncLLM.generate).parameters
    assert {"prompt", "sampling_params", "request_id", "lora_request", "trace_headers", "priority"} <= set(parameters)
    construction = set(inspect.signature(AsyncLLM.from_vllm_config).parameters)
    assert {"vllm_config", "stat_loggers", "enable_log_requests", "disable_log_stats"} <= construction


def test_request_metrics_have_the_times_we_report(vllm: Any) -> None:
    from vllm.v1.metrics.stats import RequestStateStats, SchedulerStats

    times = {field.name for field in dataclasses.fields(RequestStateStats)}
    assert {"queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts"} <= times
    assert "num_preemptions" in times or Version(vllm.__version__) < Version("0.30")
    gauges = {field.name for field in dataclasses.fields(SchedulerStats)}
    assert {"num_running_reqs", "num_waiting_reqs", "kv_cache_usage"} <= gauges


def test_every_sampling_field_reaches_vllm(vllm: Any) -> None:
    wanted = Sampling(
        max_tokens=7,
        n=2,
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        min_p=0.1,
        seed=3,
        min_tokens=1,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        repetition_penalty=1.1,
        logit_bias={5: 2.0},
        ignore_eos=True,
        stop=["END"],
        logprobs=2,
        prompt_logprobs=1,
    )
    given = sampling_params(Plan(sampling=wanted))
    for field in wanted.__struct_fields__:
        assert getattr(given, field) == getattr(wanted, field), field
    assert given.include_stop_str_in_output, "postprocess cuts the stop string, and must see it to know where"


def test_special_tokens_show_on_demand_but_for_the_one_that_ends_the_answer(vllm: Any) -> None:
    given = sampling_params(Plan(sampling=Sampling(max_tokens=1, skip_special_tokens=False)))
    assert not given.skip_special_tokens
    assert not given.include_stop_str_in_output, "vLLM would take the end-of-text token for a stop string"


def test_greedy_choices_are_computed_once_and_given_to_each(vllm: Any) -> None:
    plan = Plan(sampling=Sampling(max_tokens=3, n=3, temperature=0))
    assert sampling_params(plan).n == 1
    given = repeat(EngineOutput(0, [7], "x", finish="stop", last=True), greedy_copies(plan))
    assert [(one.index, one.text, one.last) for one in given] == [(0, "x", False), (1, "x", False), (2, "x", True)]


@pytest.mark.parametrize(
    ("constraint", "member", "value"),
    [
        (Constraint(json_schema='{"type": "object"}'), "json", {"type": "object"}),
        (Constraint(json_object=True), "json_object", True),
        (Constraint(regex="a+"), "regex", "a+"),
        (Constraint(grammar='root ::= "a"'), "grammar", 'root ::= "a"'),
        (Constraint(choice=["a", "b"]), "choice", ["a", "b"]),
    ],
)
def test_a_constraint_reaches_vllm(vllm: Any, constraint: Constraint, member: str, value: Any) -> None:
    plan = Plan(sampling=Sampling(max_tokens=1), constraint=constraint)
    assert getattr(sampling_params(plan).structured_outputs, member) == value


def test_values_that_vllm_refuses_are_the_clients_fault(vllm: Any) -> None:
    with pytest.raises(EngineError) as caught:
        sampling_params(Plan(sampling=Sampling(max_tokens=1, min_tokens=5)))
    assert caught.value.status == 400


def test_logprobs_are_converted_by_rank_and_the_chosen_token_kept(vllm: Any) -> None:
    from vllm.logprobs import Logprob

    table = {
        1: Logprob(-0.5, rank=1, decoded_token="a"),
        2: Logprob(-1.5, rank=2, decoded_token="é"),
        9: Logprob(float("-inf"), rank=40, decoded_token="z"),
    }
    choice = SimpleNamespace(index=0, text="z", token_ids=[9], logprobs=[table], finish_reason="stop")
    output = SimpleNamespace(
        outputs=[choice],
        prompt_logprobs=None,
        prompt_token_ids=[1],
        finished=True,
        num_cached_tokens=3,
        metrics=None,
    )
    (converted,) = convert(output)
    assert converted.logprobs is not None
    (entry,) = converted.logprobs
    assert (entry.token, entry.logprob) == ("z", -9999.0)
    assert [one.token for one in entry.top] == ["a", "é", "z"]
    assert entry.top[1].bytes == [0xC3, 0xA9]
    assert (converted.finish, converted.last, converted.cached_tokens) == ("stop", True, 3)


@pytest.mark.parametrize(("told", "preemptions"), [({"num_preemptions": 2}, 2), ({}, 0)], ids=["told", "before 0.30"])
def test_times_are_milliseconds_and_preemptions_are_counted_where_vllm_does(
    told: dict[str, int], preemptions: int
) -> None:
    metrics = SimpleNamespace(queued_ts=1.0, scheduled_ts=1.5, first_token_ts=1.75, last_token_ts=2.75, **told)
    choice = SimpleNamespace(index=0, text="z", token_ids=[9], logprobs=None, finish_reason="stop")
    output = SimpleNamespace(
        outputs=[choice],
        prompt_logprobs=None,
        prompt_token_ids=[1],
        finished=True,
        num_cached_tokens=0,
        metrics=metrics,
    )
    (converted,) = convert(output)
    assert converted.timings == Timings(queued=500.0, prefill=250.0, decode=1000.0, preemptions=preemptions)
