"""POST /v1/chat/completions, whole."""

import json
from typing import Any

from tests.fakes.triton import FakeTriton, Script
from tests.unit.gateway.conftest import Gateway

PATH = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


async def stream(gateway: Gateway, body: dict[str, Any]) -> list[Any]:
    """The decoded events; `[DONE]` as a string."""
    async with gateway.client.post(PATH, json=body | {"stream": True}) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        text = await response.text()
    assert text.endswith("\n\n")
    payloads = [event.removeprefix("data: ") for event in text.removesuffix("\n\n").split("\n\n")]
    return [one if one == "[DONE]" else json.loads(one) for one in payloads]


async def test_answers_with_the_joined_text_and_exact_usage(gateway: Gateway, triton: FakeTriton) -> None:
    status, answer = await gateway.ask(PATH, BODY)
    prompt = len("<user>Hi<assistant>")
    assert status == 200
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "tiny"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello, world", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": 3,
        "total_tokens": prompt + 3,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


async def test_streams_openai_chunks_and_ends_with_done(gateway: Gateway) -> None:
    *chunks, end = await stream(gateway, BODY)
    assert end == "[DONE]"
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}
    assert chunks[0]["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": "Hello"}, "logprobs": None, "finish_reason": None}
    ]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == "Hello, world"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert all(chunk.keys() == {"id", "object", "created", "model", "choices"} for chunk in chunks)
    assert chunks[0]["object"] == "chat.completion.chunk"


async def test_a_stream_tells_its_usage_in_a_last_chunk_when_asked(gateway: Gateway) -> None:
    *chunks, usage, end = await stream(gateway, BODY | {"stream_options": {"include_usage": True}})
    assert end == "[DONE]"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3


async def test_several_choices_are_kept_apart(gateway: Gateway) -> None:
    _, answer = await gateway.ask(PATH, BODY | {"n": 3})
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in answer["choices"]} == {"Hello, world"}
    assert answer["usage"]["completion_tokens"] == 9


async def test_log_probabilities_are_joined(gateway: Gateway) -> None:
    _, answer = await gateway.ask(PATH, BODY | {"logprobs": True})
    entries = answer["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in entries] == ["Hello", ",", " world"]


async def test_triton_gets_token_ids_a_resolved_limit_and_no_text(gateway: Gateway, triton: FakeTriton) -> None:
    await gateway.ask(PATH, BODY | {"temperature": 0, "stop": ["x"]}, x_request_id="mine")
    (sent,) = triton.requests
    prompt = len("<user>Hi<assistant>")
    assert len(sent["input_ids"]) == prompt
    assert json.loads(sent["request"]) == {"kind": "chat", "temperature": 0, "stop": ["x"], "max_tokens": 256 - prompt}
    assert sent["id"].startswith("mine.")
    assert 599_000 < sent["deadline_ms"] <= 600_500


async def test_the_limit_of_either_name_is_forwarded(gateway: Gateway, triton: FakeTriton) -> None:
    await gateway.ask(PATH, BODY | {"max_completion_tokens": 7})
    await gateway.ask(PATH, BODY | {"max_tokens": 9})
    assert [json.loads(one["request"])["max_tokens"] for one in triton.requests] == [7, 9]


async def test_two_requests_with_the_same_id_are_two_in_the_engine(gateway: Gateway, triton: FakeTriton) -> None:
    await gateway.ask(PATH, BODY, x_request_id="same")
    await gateway.ask(PATH, BODY, x_request_id="same")
    first, second = (one["id"] for one in triton.requests)
    assert first != second


async def test_headers_name_request_model_version_and_stages(gateway: Gateway) -> None:
    async with gateway.client.post(PATH, json=BODY, headers={"x-request-id": "r.1"}) as response:
        assert response.headers["x-request-id"] == "r.1"
        assert response.headers["x-model-version"] == "1"
        stages = [entry.split(";")[0] for entry in response.headers["server-timing"].split(", ")]
    assert stages == ["auth", "parse", "tokens", "limits", "admission", "routing", "first_token"]


async def test_an_error_before_the_first_token_has_its_own_status(gateway: Gateway, triton: FakeTriton) -> None:
    refusal = '{"message": "no", "type": "invalid_request_error", "param": "stop", "code": "invalid_value"}'
    triton.script = Script(fail_at=0, error=f"in ensemble 'chat', {refusal}")
    for extra in ({}, {"stream": True}):
        status, answer = await gateway.ask(PATH, BODY | extra)
        assert status == 400
        assert answer == {"error": json.loads(refusal)}


async def test_an_error_in_the_stream_becomes_an_event_and_no_done(gateway: Gateway, triton: FakeTriton) -> None:
    triton.script = Script(fail_at=1, error="in ensemble 'chat', Segmentation fault in /secret/path.py")
    first, error = await stream(gateway, BODY)
    assert first["choices"][0]["delta"]["content"] == "Hello"
    assert error["error"] == {
        "message": "backend triton failed",
        "type": "server_error",
        "param": None,
        "code": "backend_failed",
    }


async def test_a_broken_connection_becomes_an_event_or_a_502(gateway: Gateway, triton: FakeTriton) -> None:
    triton.script = Script(cut_at=1)
    *_, error = await stream(gateway, BODY)
    assert error["error"]["code"] == "backend_lost"


async def test_an_answer_without_its_end_is_an_error(gateway: Gateway, triton: FakeTriton) -> None:
    triton.script = Script(words=["one"], raw=b'data: {"delta":"{\\"choice\\":{\\"index\\":0,\\"delta\\":{}}}"}\n\n')
    status, answer = await gateway.ask(PATH, BODY)
    assert (status, answer["error"]["code"]) == (502, "answer_truncated")


async def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(gateway: Gateway, triton: FakeTriton) -> None:
    status, answer = await gateway.ask(PATH, BODY | {"max_tokens": 250})
    assert status == 400
    assert answer["error"]["code"] == "context_length_exceeded"
    assert "256" in answer["error"]["message"]
    assert "250" in answer["error"]["message"]
    assert triton.requests == []
