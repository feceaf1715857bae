"""POST /v1/completions, whole."""

import json
from typing import Any

from tests.fakes.triton import FakeTriton, Script
from tests.unit.gateway.conftest import Gateway, StartGateway

PATH = "/v1/completions"


async def test_a_text_is_continued(gateway: Gateway, triton: FakeTriton) -> None:
    status, answer = await gateway.ask(PATH, {"model": "tiny", "prompt": "abc", "logprobs": 1})
    assert status == 200
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    (choice,) = answer["choices"]
    assert choice["text"] == "Hello, world"
    assert choice["logprobs"]["tokens"] == ["Hello", ",", " world"]
    assert choice["logprobs"]["token_logprobs"] == [-0.5] * 3
    assert json.loads(triton.requests[0]["request"])["kind"] == "completion"


async def test_each_prompt_is_a_request_and_choices_are_numbered_through(gateway: Gateway, triton: FakeTriton) -> None:
    _, answer = await gateway.ask(PATH, {"model": "tiny", "prompt": ["a", "bb", "ccc"], "n": 2})
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3, 4, 5]
    assert answer["usage"]["prompt_tokens"] == 1 + 2 + 3
    assert answer["usage"]["completion_tokens"] == 3 * 2 * 3
    assert sorted(len(one["input_ids"]) for one in triton.requests) == [1, 2, 3]
    assert len({one["id"] for one in triton.requests}) == 3
    limits = {len(one["input_ids"]): json.loads(one["request"])["max_tokens"] for one in triton.requests}
    assert limits == {1: 255, 2: 254, 3: 253}


async def test_a_stream_carries_the_choices_of_all_prompts(gateway: Gateway) -> None:
    body: dict[str, Any] = {"model": "tiny", "prompt": ["a", "b"], "stream": True}
    async with gateway.client.post(PATH, json=body) as response:
        text = await response.text()
    *events, end = text.removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    texts = {0: "", 1: ""}
    for event in events:
        chunk = json.loads(event.removeprefix("data: "))
        assert chunk["object"] == "text_completion"
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == {0: "Hello, world", 1: "Hello, world"}


async def test_only_so_many_prompts_run_at_once(start: StartGateway, triton: FakeTriton) -> None:
    async with start(TRIREME_PROMPTS_AT_ONCE="2") as gateway:
        status, _ = await gateway.ask(PATH, {"model": "tiny", "prompt": ["a"] * 9})
    assert status == 200
    assert len(triton.requests) == 9
    assert triton.most_running <= 2


async def test_one_prompt_that_fails_fails_the_request(gateway: Gateway, triton: FakeTriton) -> None:
    triton.script = Script(fail_at=1, error="x")
    status, answer = await gateway.ask(PATH, {"model": "tiny", "prompt": ["a", "b"]})
    assert (status, answer["error"]["code"]) == (502, "backend_failed")


async def test_token_ids_are_prompts_too(gateway: Gateway, triton: FakeTriton) -> None:
    await gateway.ask(PATH, {"model": "tiny", "prompt": [5, 6, 7]})
    await gateway.ask(PATH, {"model": "tiny", "prompt": [[8, 9], [10]]})
    assert sorted(one["input_ids"] for one in triton.requests) == [[5, 6, 7], [8, 9], [10]]


async def test_echo_without_an_answer_is_passed_on(gateway: Gateway, triton: FakeTriton) -> None:
    body = {"model": "tiny", "prompt": "abc", "echo": True, "max_tokens": 0, "logprobs": 0}
    status, _ = await gateway.ask(PATH, body)
    assert status == 200
    assert json.loads(triton.requests[0]["request"]) == {
        "kind": "completion",
        "echo": True,
        "max_tokens": 0,
        "logprobs": 0,
    }
