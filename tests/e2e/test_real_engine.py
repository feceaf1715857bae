"""What only the real engine can show: cancelled work ends, both ways in agree, its metrics are on Triton's page."""

import json
import time
from typing import Any

import httpx
import openai
import pytest

from tests.support.gateway import LONG, Asker, plain_http, wait_until
from tests.support.triton import DirectTriton, text_of
from trireme.stack import EmbeddedStack

pytestmark = pytest.mark.e2e
FILL = 4
# TRIREME_METRICS_INTERVAL_MS, where nobody says otherwise.
COPIES_APART_S = 2.0
STORY: list[Any] = [{"role": "user", "content": "Tell me a very long story about a ship."}]


def steps(direct: DirectTriton) -> int:
    """Engine steps since its start."""
    return int(direct.control(control="stats")["steps"])


def steps_during(direct: DirectTriton, seconds: float) -> int:
    before, until = steps(direct), time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until, "time goes on")
    return steps(direct) - before


def asker(stack: EmbeddedStack, body: dict[str, Any]) -> Asker:
    return Asker(stack.gateway_url, body, {"Authorization": f"Bearer {stack.dev_key}"})


def story(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": STORY, "max_tokens": 1500, "ignore_eos": True, **fields}


def in_prefill(direct: DirectTriton, before: dict[str, Any]) -> bool:
    now = direct.control(control="stats")
    assert now["tokens"] == before["tokens"], "the prompt is long enough to be caught in its prefill"
    return bool(now["in_flight"] == 1)


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])
def test_a_client_that_leaves_while_decoding_stops_the_engine_within_two_steps(
    stack: EmbeddedStack, direct: DirectTriton, model: str, stream: bool
) -> None:
    before = steps(direct)
    client = asker(stack, story(model, stream=stream))
    wait_until(lambda: steps(direct) > before + 3, "the engine decodes")
    client.leave()
    assert steps_during(direct, 1.5) <= 2


def test_a_client_that_leaves_while_prefilling_stops_the_engine_within_two_steps(
    stack: EmbeddedStack, direct: DirectTriton, model: str
) -> None:
    before = direct.control(control="stats")
    messages = [{"role": "user", "content": "sails and oars " * 850}]
    client = asker(stack, story(model, messages=messages, max_tokens=500))
    wait_until(lambda: in_prefill(direct, before), "the engine has the request and not prefilled it")
    client.leave()
    wait_until(lambda: steps_during(direct, 1.0) == 0, "the engine is idle")
    after = direct.control(control="stats")
    assert after["steps"] - before["steps"] <= 2


def test_a_client_that_leaves_while_queued_never_runs(stack: EmbeddedStack, direct: DirectTriton, model: str) -> None:
    running = [asker(stack, story(model, stream=True)) for _ in range(FILL)]
    wait_until(lambda: direct.control(control="stats")["running"] == FILL, "the engine is full")
    queued = asker(stack, story(model))
    wait_until(lambda: direct.control(control="stats")["waiting"] == 1, "one request waits in the engine")
    queued.leave()
    wait_until(lambda: direct.control(control="stats")["waiting"] == 0, "it is gone from the engine's queue")
    assert direct.control(control="stats")["running"] == FILL
    for one in running:
        one.leave()
    assert steps_during(direct, 1.5) <= 2


def test_a_deadline_stops_the_engine_and_answers(stack: EmbeddedStack, direct: DirectTriton, model: str) -> None:
    headers = {"Authorization": f"Bearer {stack.dev_key}", "x-deadline-ms": "700"}
    url = f"{stack.gateway_url}/v1/chat/completions"
    response = httpx.post(url, json=story(model), headers=headers, timeout=LONG)
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert steps_during(direct, 1.0) <= 2


def test_the_same_request_has_the_same_words_directly_and_through_the_gateway(
    client: openai.OpenAI, direct: DirectTriton, model: str
) -> None:
    fields: dict[str, Any] = {"messages": STORY, "max_tokens": 24, "temperature": 0}
    deltas = direct.deltas(fields)
    answer = client.chat.completions.create(model=model, **fields)
    assert text_of(deltas) == answer.choices[0].message.content
    assert answer.usage is not None
    assert deltas[-1]["usage"]["prompt"] == answer.usage.prompt_tokens
    assert deltas[-1]["usage"]["completion"] == answer.usage.completion_tokens
    assert deltas[-1]["timings"]["prefill"] > 0


def test_the_gateways_token_counts_are_the_engines_own(client: openai.OpenAI, model: str, stack: EmbeddedStack) -> None:
    before = settled_counter(stack, "vllm:prompt_tokens_total")
    texts = ["a", "naïve 🛶 text " * 7, "x\n\n\ty " * 30, "<|im_start|>user"]
    counted = 0
    for text in texts:
        answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], max_tokens=1)
        assert answer.usage is not None
        counted += answer.usage.prompt_tokens
    wait_until(lambda: engine_counter(stack, "vllm:prompt_tokens_total") >= before + counted, "metrics are copied")
    assert engine_counter(stack, "vllm:prompt_tokens_total") == before + counted


def settled_counter(stack: EmbeddedStack, name: str) -> float:
    """With all that was done before: when it has not changed for longer than its copies are apart."""
    seen = [(engine_counter(stack, name), time.monotonic())]

    def stands_still() -> bool:
        now = engine_counter(stack, name)
        if now != seen[-1][0]:
            seen.append((now, time.monotonic()))
        return time.monotonic() - seen[-1][1] > 2 * COPIES_APART_S

    wait_until(stands_still, "the engine's counters are copied")
    return seen[-1][0]


def engine_counter(stack: EmbeddedStack, name: str) -> float:
    lines = plain_http().get(stack.metrics_url).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))


@pytest.mark.parametrize(
    "name",
    [
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:prefix_cache_hits_total",
        "vllm:num_preemptions_total",
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:inter_token_latency_seconds_count",
        "trireme_engine_preemptions_total",
        "trireme_engine_paused_seconds_total",
    ],
)
def test_the_engines_metrics_are_on_tritons_page(stack: EmbeddedStack, name: str) -> None:
    wait_until(
        lambda: any(
            line.startswith(name + "{") and "model=" in line
            for line in plain_http().get(stack.metrics_url).text.splitlines()
        ),
        f"{name} is exported",
    )


def test_a_constraint_in_the_plan_binds_the_engine(direct: DirectTriton) -> None:
    plan = {"sampling": {"max_tokens": 8, "temperature": 0}, "constraint": {"choice": ["aye", "nay"]}}
    response = direct.post("/v2/models/vllm/generate_stream", {"plan": json.dumps(plan), "input_ids": [1, 4093, 198]})
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
    assert "".join(event["text"] for event in events) in ("aye", "nay")
