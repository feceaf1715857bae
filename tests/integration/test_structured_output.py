"""Answers of a form through real servers: the scripted engine says what no constrained engine would."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import GatewayClient, events
from tests.support.triton import DirectTriton, finish_of, text_of
from trireme.process import session_members
from trireme.stack import EmbeddedStack

pytestmark = pytest.mark.integration
COMPILER = "python_backends.grammar.worker"
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
CITY = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "people": {"type": "integer", "minimum": 1}},
    "required": ["name", "people"],
}
FORM = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
ANSWER = '{"name": "Zürich 🛶", "people": 443037}'
BROKEN = '{"name": "Zürich", "people": many}'
UNSUPPORTED = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}, "strict": True}}


@pytest.fixture(scope="module")
def client(stack: EmbeddedStack) -> GatewayClient:
    return GatewayClient(stack)


@pytest.fixture(scope="module")
def direct(triton: EmbeddedStack) -> Iterator[DirectTriton]:
    one = DirectTriton(triton.triton_url)
    yield one
    one.close()


def counted(client: GatewayClient) -> dict[str, float]:
    lines = [one for one in client.get("/metrics").text.splitlines() if "structured_answers_total{" in one]
    return {line.partition('outcome="')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


def script(text: str, **orders: Any) -> dict[str, Any]:
    return {"text": text, **orders}


def test_a_good_answer_passes_with_and_without_a_stream(client: GatewayClient) -> None:
    before = counted(client).get("valid", 0)
    whole = client.chat(response_format=FORM, script=script(ANSWER), max_tokens=100).json()["choices"][0]
    assert whole["message"]["content"] == ANSWER
    streamed = events(client.chat(response_format=FORM, script=script(ANSWER), max_tokens=100, stream=True))
    assert streamed[-1] == {"done": True}
    contents = [one["choices"][0]["delta"].get("content", "") for one in streamed[:-1]]
    assert "".join(contents) == ANSWER
    assert counted(client)["valid"] == before + 2


def test_a_bad_answer_never_gets_out(client: GatewayClient) -> None:
    before = counted(client).get("violated", 0)
    refused = client.chat(response_format=FORM, script=script(BROKEN), max_tokens=100)
    assert (refused.status_code, refused.json()["error"]["code"]) == (502, "grammar_violation")
    streamed = events(client.chat(response_format=FORM, script=script(BROKEN), max_tokens=100, stream=True))
    sent = "".join(one["choices"][0]["delta"].get("content", "") for one in streamed[:-1])
    assert BROKEN.startswith(sent)
    assert "many" not in sent
    assert streamed[-1]["error"]["code"] == "grammar_violation"
    assert counted(client)["violated"] == before + 2


def test_the_engine_is_told_when_its_answer_is_given_up(client: GatewayClient, stack: EmbeddedStack) -> None:
    slow = script(BROKEN + " " * 4000, delay_ms=5)
    assert client.chat(response_format=FORM, script=slow, max_tokens=1500).status_code == 502
    triton = DirectTriton(stack.triton_url)
    try:
        assert client.chat(script=script("next"), max_tokens=5).status_code == 200
        assert triton.control(control="stats")["in_flight"] == 0
    finally:
        triton.close()


@pytest.mark.parametrize(("on_length", "outcome"), [("cut", "truncated"), ("close", "closed")])
def test_an_answer_that_is_cut(client: GatewayClient, on_length: str, outcome: str) -> None:
    before = counted(client).get(outcome, 0)
    asked = {"response_format": FORM, "max_tokens": 3, "on_length": on_length}
    choice = client.chat(script=script(ANSWER), **asked).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    if on_length == "cut":
        assert choice["message"]["content"] == ANSWER[:12]
    else:
        assert json.loads(choice["message"]["content"]).keys() == CITY["properties"].keys()
    assert counted(client)[outcome] == before + 1


def test_every_choice_is_checked(client: GatewayClient) -> None:
    fields = {"structured_outputs": {"choice": ["yes", "no"]}, "n": 3, "max_tokens": 10}
    answer = client.chat(script=script("yes"), **fields).json()
    assert [one["message"]["content"] for one in answer["choices"]] == ["yes"] * 3
    assert client.chat(script=script("maybe"), **fields).status_code == 502


def test_text_completions_have_forms_too(client: GatewayClient, stack: EmbeddedStack) -> None:
    body = {
        "model": stack.settings.model.name,
        "prompt": "Call",
        "echo": True,
        "max_tokens": 20,
        "structured_outputs": {"regex": r"\d{3}-\d{4}"},
        "metadata": {"script_text": "555-1234"},
    }
    answer = client.post("/v1/completions", body).json()
    assert answer["choices"][0]["text"] == "Call555-1234"


def test_how_long_the_check_took_is_told(client: GatewayClient) -> None:
    line = client.chat(response_format=FORM, script=script(ANSWER), max_tokens=100)
    assert "grammar;dur=" in line.headers["server-timing"]


def test_a_direct_client_is_refused_in_the_same_words(client: GatewayClient, direct: DirectTriton) -> None:
    (refused,) = direct.deltas({**CHAT, "response_format": UNSUPPORTED})
    assert refused["error"] == client.chat(response_format=UNSUPPORTED).json()["error"]


def test_a_direct_client_gets_outcomes_and_errors(direct: DirectTriton) -> None:
    deltas = direct.deltas({**CHAT, "response_format": FORM, "max_tokens": 100}, script_text=ANSWER)
    assert (text_of(deltas), finish_of(deltas), deltas[-1]["grammar"]) == (ANSWER, ["stop"], "valid")
    deltas = direct.deltas({**CHAT, "response_format": FORM, "max_tokens": 100}, script_text=BROKEN)
    assert deltas[-1]["error"]["code"] == "grammar_violation"
    assert "many" not in text_of(deltas[:-1])


def test_a_form_that_compiles_too_long_leaves_preprocess_at_work(direct: DirectTriton) -> None:
    slow = {"type": "integer", "multipleOf": 1_000_003, "minimum": 0, "maximum": 10**15}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": slow}}
    (refused,) = direct.deltas({**CHAT, "response_format": form})
    assert refused["error"]["code"] == "grammar_too_complex"
    deltas = direct.deltas({**CHAT, "response_format": FORM, "max_tokens": 100}, script_text=ANSWER)
    assert deltas[-1]["grammar"] == "valid"


def test_a_compiler_that_does_not_answer_is_told_from_a_bad_form_and_replaced(
    direct: DirectTriton, triton: EmbeddedStack
) -> None:
    def form(regex: str) -> dict[str, Any]:
        return {**CHAT, "structured_outputs": {"regex": regex}, "max_tokens": 100}

    server = triton.child("triton").pid
    assert server is not None
    assert direct.deltas(form("b"), script_text="b")[-1]["grammar"] == "valid", "it runs"
    (compiler,) = [one for one in session_members(server) if COMPILER in one.cmdline()]
    compiler.suspend()
    (refused,) = direct.deltas(form("a{3}"))
    assert (refused["error"]["code"], refused["error"]["type"]) == ("grammar_unavailable", "server_error")
    assert direct.deltas(form("a{3}"), script_text="aaa")[-1]["grammar"] == "valid"
