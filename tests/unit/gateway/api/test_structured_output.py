"""Forms of answers at the HTTP face: refused with place and remedy, sent on as they came, counted by how they ended."""

import json
from typing import Any

import pytest

from tests.fakes.triton import FakeTriton
from tests.unit.gateway.conftest import Gateway

CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
ANY_JSON = {"type": "json_object"}


def json_schema(schema: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True, **fields}}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"response_format": json_schema({"not": {}})}, "response_format.json_schema.schema", "unsupported_schema"),
        ({"response_format": json_schema({"type": "a"})}, "response_format.json_schema.schema", "invalid_schema"),
        ({"response_format": json_schema({}, name="a b")}, "response_format.json_schema.name", "invalid_value"),
        ({"response_format": json_schema([])}, "response_format.json_schema.schema", "invalid_type"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex", "invalid_regex"),
        ({"structured_outputs": {"grammar": "start: a"}}, "structured_outputs.grammar", "invalid_grammar"),
        ({"structured_outputs": {"json": "[1"}}, "structured_outputs.json", "invalid_schema"),
        ({"structured_outputs": {"choice": ["x" * 70_000]}}, "structured_outputs.choice", "grammar_too_complex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "invalid_value"),
        ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"regex": "a"}, "response_format": ANY_JSON}, "response_format", "invalid_value"),
        ({"response_format": ANY_JSON, "min_tokens": 2}, "min_tokens", "invalid_value"),
        ({"response_format": ANY_JSON, "ignore_eos": True}, "ignore_eos", "invalid_value"),
        ({"structured_outputs": {"regex": "a"}, "on_length": "close"}, "on_length", "invalid_value"),
        ({"on_length": "close"}, "on_length", "invalid_value"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_any_backend_is_asked(
    gateway: Gateway, triton: FakeTriton, fields: dict[str, Any], param: str, code: str
) -> None:
    status, answer = await gateway.ask(CHAT, GOOD | fields)
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, param, code)
    assert triton.requests == []


async def test_the_form_goes_to_triton_as_it_came(gateway: Gateway, triton: FakeTriton) -> None:
    form = json_schema({"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "null"}}})
    status, _ = await gateway.ask(CHAT, GOOD | {"response_format": form, "on_length": "close"})
    assert status == 200
    sent = json.loads(triton.requests[0]["request"])
    assert sent["response_format"] == form
    assert list(sent["response_format"]["json_schema"]["schema"]["properties"]) == ["b", "a"]
    assert sent["on_length"] == "close"


async def metric(gateway: Gateway, outcome: str) -> float:
    async with gateway.client.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    name = f'trireme_structured_answers_total{{model="tiny",outcome="{outcome}"}} '
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


@pytest.mark.parametrize("outcome", ["valid", "truncated", "closed"])
async def test_answers_are_counted_by_how_they_ended(gateway: Gateway, triton: FakeTriton, outcome: str) -> None:
    triton.script.grammar = outcome
    status, _ = await gateway.ask(CHAT, GOOD | {"response_format": ANY_JSON})
    assert status == 200
    assert await metric(gateway, outcome) == 1


async def test_a_violation_is_an_error_of_the_backend_and_counted(gateway: Gateway, triton: FakeTriton) -> None:
    error = {"message": "the answer was ended", "type": "server_error", "code": "grammar_violation"}
    triton.script.fail_at, triton.script.error = 1, json.dumps(error)
    status, answer = await gateway.ask(CHAT, GOOD | {"response_format": ANY_JSON})
    assert (status, answer["error"]["code"]) == (502, "grammar_violation")
    assert await metric(gateway, "violated") == 1
    assert (await triton.aborts.get()) != []


async def test_a_violation_ends_a_stream_with_an_error_event(gateway: Gateway, triton: FakeTriton) -> None:
    error = {"message": "the answer was ended", "type": "server_error", "code": "grammar_violation"}
    triton.script.fail_at, triton.script.error = 1, json.dumps(error)
    async with gateway.client.post(CHAT, json=GOOD | {"stream": True, "response_format": ANY_JSON}) as response:
        events = [line.removeprefix("data: ") for line in (await response.text()).splitlines() if line]
    assert json.loads(events[-1])["error"]["code"] == "grammar_violation"
    assert len(events) == 2
