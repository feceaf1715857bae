"""Tool calls and thoughts through real servers: the scripted engine says what a model might say."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from python_backends.llm.scripted import SPOKEN
from tests.support.gateway import GatewayClient, events
from tests.support.triton import DirectTriton
from trireme.stack import EmbeddedStack, isolated_settings

pytestmark = pytest.mark.integration
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]
PARIS = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ROME = PARIS.replace("Paris", "Rôme 🛶")
SAID = f"<think>\nWhere?\n</think>\n\nLet me look.\n{PARIS}\n{ROME}"
LONG = 400


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """Its template says nothing of thoughts: the setting does."""
    state = tmp_path_factory.mktemp("thinking")
    settings = isolated_settings(state, engine="scripted", reasoning_parser="think", triton_models=("chat",))
    with EmbeddedStack(settings) as running:
        yield running


@pytest.fixture(scope="module")
def client(thinking: EmbeddedStack) -> GatewayClient:
    return GatewayClient(thinking)


@pytest.fixture(scope="module")
def direct(thinking: EmbeddedStack) -> Iterator[DirectTriton]:
    one = DirectTriton(thinking.triton_url)
    yield one
    one.close()


def asked(said: str = SAID, **fields: Any) -> dict[str, Any]:
    """Slowly enough that tokens are not folded together."""
    return {"tools": TOOLS, "max_tokens": LONG, "script": {"text": said, "delay_ms": 3}, **fields}


def whole(client: GatewayClient, said: str = SAID, **fields: Any) -> dict[str, Any]:
    answer = client.chat(**asked(said, **fields))
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def joined(choices: list[dict[str, Any]]) -> dict[str, Any]:
    """A stream's choices, as clients put them together."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "calls": []}
    for delta in (one["delta"] for one in choices):
        for name in ("content", "reasoning_content"):
            message[name] += delta.get(name) or ""
        for piece in delta.get("tool_calls", ()):
            if "id" in piece:
                message["calls"].append([piece["function"]["name"], ""])
            message["calls"][piece["index"]][1] += piece["function"]["arguments"]
    return message


CALLS = [["weather", '{"city": "Paris"}'], ["weather", '{"city": "Rôme 🛶"}']]


def test_a_whole_answer_is_parted_into_thoughts_words_and_calls(client: GatewayClient) -> None:
    answer = whole(client)
    (choice,) = answer["choices"]
    message = choice["message"]
    assert (message["reasoning_content"], message["content"]) == ("Where?", "Let me look.")
    assert [[one["function"]["name"], one["function"]["arguments"]] for one in message["tool_calls"]] == CALLS
    assert choice["finish_reason"] == "tool_calls"
    assert answer["usage"]["completion_tokens"] > len(SAID) / 5


def test_a_stream_and_a_direct_client_of_triton_get_the_same(client: GatewayClient, direct: DirectTriton) -> None:
    chunks = events(client.chat(**asked(stream=True)))
    through_gateway = [one["choices"][0] for one in chunks if one.get("choices")]
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": TOOLS, "max_tokens": LONG}
    straight = [one["choice"] for one in direct.deltas(body, script_text=SAID, script_delay_ms=3)]
    for choices in (through_gateway, straight):
        assert joined(choices) == {"content": "Let me look.", "reasoning_content": "Where?", "calls": CALLS}
        assert choices[-1]["finish_reason"] == "tool_calls"
        assert sum("tool_calls" in one["delta"] for one in choices) > 6, "piece by piece"


def test_every_choice_has_its_own_calls(client: GatewayClient) -> None:
    answer = whole(client, n=3)
    calls = [one["message"]["tool_calls"] for one in answer["choices"]]
    assert [len(one) for one in calls] == [2, 2, 2]
    assert len({call["id"] for one in calls for call in one}) == 6


def test_one_call_is_enough_where_calls_are_not_parallel(client: GatewayClient) -> None:
    (choice,) = whole(client, parallel_tool_calls=False)["choices"]
    assert [one["function"]["arguments"] for one in choice["message"]["tool_calls"]] == ['{"city": "Paris"}']


def test_a_stop_string_within_arguments_cuts_them_and_says_so(client: GatewayClient) -> None:
    (choice,) = whole(client, stop=['is"}'])["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["arguments"], choice["finish_reason"]) == ('{"city": "Par', "stop")


def test_an_answer_whose_length_ends_within_arguments_says_so(client: GatewayClient) -> None:
    tokens = SAID.index("Paris") // SPOKEN + 1
    (choice,) = whole(client, max_tokens=tokens)["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["arguments"] == SAID[SAID.index('{"city"') : tokens * SPOKEN]
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize(
    "said", ['<tool_call>{"name": "nobody"}</tool_call>', "<tool_call>what?", '{"name": "weather"}']
)
def test_what_is_no_call_is_content(client: GatewayClient, said: str) -> None:
    (choice,) = whole(client, said)["choices"]
    assert choice["message"]["content"] == said
    assert choice["finish_reason"] == "stop"
    assert "tool_calls" not in choice["message"]


def test_without_tools_or_with_none_of_them_calls_are_content(client: GatewayClient) -> None:
    for fields in ({"tool_choice": "none"}, {"tools": None}):
        (choice,) = whole(client, PARIS, **fields)["choices"]
        assert choice["message"]["content"] == PARIS


def test_an_engine_that_breaks_the_grammar_of_forced_calls_is_noticed(client: GatewayClient) -> None:
    (choice,) = whole(client, f"{PARIS}\n{ROME}", tool_choice="required")["choices"]
    assert len(choice["message"]["tool_calls"]) == 2
    broken = client.chat(**asked(PARIS.replace("city", "town"), tool_choice="required"))
    assert broken.status_code >= 500
    assert broken.json()["error"]["code"] == "grammar_violation"
    *before, last = events(client.chat(**asked(f"{PARIS}\nHello.", tool_choice="required", stream=True)))
    assert joined([one["choices"][0] for one in before])["calls"] == CALLS[:1]
    assert last["error"]["code"] == "grammar_violation"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_with_calls_is_repeated_byte_by_byte(client: GatewayClient, stream: bool) -> None:
    headers = {"Idempotency-Key": f"tools-{stream}"}
    first, second = (client.chat(headers, **asked(stream=stream, temperature=1)) for _ in range(2))
    assert second.headers["idempotent-replayed"] == "true"
    assert first.content == second.content


def test_results_are_part_of_the_prompt_and_counted_as_tokenize_counts_them(client: GatewayClient) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        {"role": "user", "content": "Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    answer = whole(client, "It is sunny.", messages=messages)
    assert answer["choices"][0]["message"]["content"] == "It is sunny."
    body = {"model": answer["model"], "messages": messages, "tools": TOOLS}
    counted = client.post("/tokenize", body).json()
    assert counted["count"] == answer["usage"]["prompt_tokens"]
    text = client.post("/detokenize", {"model": answer["model"], "tokens": counted["tokens"]}).json()["prompt"]
    assert PARIS in text and "<tool_response>\nsunny\n</tool_response>" in text
    assert json.dumps(CITY) in text
