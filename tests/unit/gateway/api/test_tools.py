"""Tool calls and thoughts through the gateway: whole answers, streams, repeats."""

import json
from typing import Any

import pytest

from tests.fakes.triton import FakeTriton, Script
from tests.unit.gateway.conftest import Gateway, StartGateway

PATH = "/v1/chat/completions"
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it.", "parameters": {"type": "object"}},
}
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}


def begin(index: int) -> dict[str, Any]:
    function = {"name": "weather", "arguments": ""}
    return {"tool_calls": [{"index": index, "id": f"call_{index}", "type": "function", "function": function}]}


def more(index: int, arguments: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}


CALLS = [{"reasoning_content": "Hm"}, begin(0), more(0, '{"a"'), more(0, ": 1}"), begin(1), more(1, "{}"), {}]


@pytest.fixture
def calling(triton: FakeTriton) -> FakeTriton:
    triton.script = Script(words=list(CALLS), finish="tool_calls")
    return triton


async def test_a_whole_answer_has_the_calls_put_together_and_no_content(gateway: Gateway, calling: FakeTriton) -> None:
    status, answer = await gateway.ask(PATH, BODY)
    assert status == 200
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": '{"a": 1}'}},
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
        ],
        "reasoning_content": "Hm",
    }
    assert answer["usage"]["completion_tokens"] == len(CALLS)


async def test_each_choice_has_its_own_calls(gateway: Gateway, calling: FakeTriton) -> None:
    _, answer = await gateway.ask(PATH, BODY | {"n": 2})
    assert [len(one["message"]["tool_calls"]) for one in answer["choices"]] == [2, 2]


async def test_words_beside_calls_stay_and_thoughts_alone_leave_empty_content(
    gateway: Gateway, triton: FakeTriton
) -> None:
    triton.script = Script(words=["Wait.", begin(0), more(0, "{}")])
    _, answer = await gateway.ask(PATH, BODY)
    assert answer["choices"][0]["message"]["content"] == "Wait."
    triton.script = Script(words=[{"reasoning_content": "a"}, {"reasoning_content": "b"}])
    _, answer = await gateway.ask(PATH, BODY)
    assert answer["choices"][0]["message"]["content"] == ""
    assert answer["choices"][0]["message"]["reasoning_content"] == "ab"


def deltas_of(text: str) -> list[tuple[dict[str, Any], str | None]]:
    """Of a stream's only choice, each with the reason for its end."""
    chunks = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line.startswith("data: {")]
    return [(one["choices"][0]["delta"], one["choices"][0]["finish_reason"]) for one in chunks]


async def test_a_stream_passes_the_deltas_on(gateway: Gateway, calling: FakeTriton) -> None:
    async with gateway.client.post(PATH, json=BODY | {"stream": True}) as response:
        text = await response.text()
    assert [delta for delta, _ in deltas_of(text)] == [{"role": "assistant", **CALLS[0]}, *CALLS[1:]]
    assert deltas_of(text)[-1][1] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_with_calls_is_repeated_with_the_same_ids(
    gateway: Gateway, calling: FakeTriton, stream: bool
) -> None:
    answers = []
    for _ in range(2):
        headers = {"Idempotency-Key": "k"}
        async with gateway.client.post(PATH, json=BODY | {"stream": stream}, headers=headers) as response:
            answers.append((response.headers.get("idempotent-replayed"), await response.read()))
    assert answers[0][1] == answers[1][1]
    assert answers[1][0] == "true"
    assert len(calling.requests) == 1


@pytest.mark.parametrize("first", [False, True], ids=["kept whole", "kept as a stream"])
async def test_calls_come_from_the_cache_as_they_were_made(
    start: StartGateway, calling: FakeTriton, first: bool
) -> None:
    body = BODY | {"temperature": 0, "tools": [TOOL]}
    async with start(TRIREME_CACHE="exact", TRIREME_MAX_MODEL_LEN="4096") as gateway:
        await gateway.client.post(PATH, json=body | {"stream": first})
        _, whole = await gateway.ask(PATH, body)
        async with gateway.client.post(PATH, json=body | {"stream": True}) as response:
            text = await response.text()
    assert response.headers["x-cache"] == "hit-exact"
    assert len(calling.requests) == 1
    (choice,) = whole["choices"]
    assert [one["function"]["arguments"] for one in choice["message"]["tool_calls"]] == ['{"a": 1}', "{}"]
    assert [one["id"] for one in choice["message"]["tool_calls"]] == ["call_0", "call_1"]
    assert [delta for delta, _ in deltas_of(text)] == [{"role": "assistant", **CALLS[0]}, *CALLS[1:]]
    assert deltas_of(text)[-1][1] == choice["finish_reason"] == "tool_calls"


async def test_tools_reach_triton_without_their_descriptions_and_are_counted_in_the_prompt(
    start: StartGateway, triton: FakeTriton
) -> None:
    async with start(TRIREME_MAX_MODEL_LEN="4096") as gateway:
        await gateway.ask(PATH, BODY)
        status, _ = await gateway.ask(PATH, BODY | {"tools": [TOOL], "tool_choice": "required"})
    assert status == 200
    plain, tooled = triton.requests
    assert len(tooled["input_ids"]) > len(plain["input_ids"]) + 100
    sent = json.loads(tooled["request"])
    assert sent["tools"] == [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    assert sent["tool_choice"] == "required"


async def test_a_schema_that_cannot_be_kept_is_refused_with_its_place_before_triton_hears_of_it(
    start: StartGateway, triton: FakeTriton
) -> None:
    odd = {"type": "object", "properties": {"a": {"uniqueItems": True}}}
    tools = [TOOL, {"type": "function", "function": {"name": "odd", "parameters": odd, "strict": True}}]
    async with start(TRIREME_MAX_MODEL_LEN="4096") as gateway:
        status, answer = await gateway.ask(PATH, BODY | {"tools": tools})
    assert (status, answer["error"]["param"]) == (400, "tools[1].function.parameters")
    assert answer["error"]["code"] == "unsupported_schema"
    assert "/properties/a/uniqueItems" in answer["error"]["message"]
    assert triton.requests == []


async def test_the_openapi_document_describes_tools(gateway: Gateway) -> None:
    async with gateway.client.get("/openapi.json") as response:
        document = await response.json()
    schemas = document["components"]["schemas"]
    assert {"tools", "tool_choice", "parallel_tool_calls"} <= schemas["ChatRequest"]["properties"].keys()
    assert "pattern" in json.dumps(schemas["Function"]["properties"]["name"])
    assert "reasoning_content" in schemas["ChatMessage"]["properties"]
