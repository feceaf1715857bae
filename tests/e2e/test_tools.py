"""Tools through the `openai` client, on a model that was never trained for them: the grammar makes its calls.

What it calls with is its own affair, so schemas are bounded: every call ends by itself, whatever the model says.
"""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jsonschema
import openai
import pytest

from tests.e2e.conftest import MAX_NUM_SEQS
from tests.support.triton import DirectTriton

pytestmark = pytest.mark.e2e
ASK: list[Any] = [{"role": "user", "content": "What is the weather in Paris? Use the tools."}]
SHORT = {"type": "string", "maxLength": 12}
CITY = {"type": "string", "pattern": "^[A-Z][a-z]{1,11}$"}
# As many as a call of WEATHER has characters, at most.
CALL_TOKENS = 110


def tool(name: str, properties: dict[str, Any], *required: str, **more: Any) -> Any:
    parameters = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return {
        "type": "function",
        "function": {"name": name, "description": f"Does {name}.", "parameters": parameters | more},
    }


WEATHER = tool("weather", {"city": CITY, "unit": {"enum": ["celsius", "fahrenheit"]}}, "city", "unit")
TIME = tool("time", {"zone": {"enum": ["UTC", "CET"]}}, "zone")
BOUNDED = {"type": "integer", "minimum": 0, "maximum": 9}
POINT = {"type": "object", "properties": {"x": BOUNDED, "y": {**BOUNDED, "minimum": -99}}, "required": ["x", "y"]}
VARIED = [
    WEATHER,
    TIME,
    {"type": "function", "function": {"name": "ping"}},
    tool("flag", {"on": {"type": "boolean"}}, "on"),
    tool("nothing", {"value": {"type": "null"}}, "value"),
    tool("bounded", {"n": {"type": "integer", "minimum": 3, "maximum": 77}}, "n"),
    tool("real", {"n": {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.001}}, "n"),
    tool("listed", {"of": {"type": "array", "items": BOUNDED, "minItems": 2, "maxItems": 4}}, "of"),
    tool("pair", {"of": {"type": "array", "prefixItems": [SHORT, BOUNDED], "items": False, "minItems": 2}}, "of"),
    tool("nested", {"a": {"type": "object", "properties": {"b": POINT}, "required": ["b"]}}, "a"),
    tool("chosen", {"value": {"anyOf": [BOUNDED, {"enum": ["few", "many"]}]}}, "value"),
    tool("constant", {"version": {"const": "v1"}, "n": BOUNDED}, "version", "n"),
    tool("dated", {"on": {"type": "string", "format": "date"}}, "on"),
    tool("pattern", {"code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{2}$"}}, "code"),
    tool("referred", {"p": {"$ref": "#/$defs/P"}}, "p", **{"$defs": {"P": POINT}}),
    tool("maybe", {"text": {"type": ["string", "null"], "maxLength": 8}}, "text"),
    tool("optional", {"a": BOUNDED, "b": BOUNDED, "c": BOUNDED}),
    tool("unicode", {"größe": {"enum": ["groß", "klein", "🛶"]}}, "größe"),
    tool("identified", {"id": {"type": "string", "format": "uuid"}}, "id"),
    tool("mapped", {}, patternProperties={"^[a-z]{1,6}$": BOUNDED}, minProperties=1, maxProperties=2),
    tool("many-of_them", dict.fromkeys("abcdefgh", BOUNDED), *"abcdefgh"),
]  # fmt: skip
SOME = VARIED[::4]


def check(call: Any, tools: list[Any]) -> dict[str, Any]:
    """The arguments, which match the schema of a tool that was offered."""
    by_name = {one["function"]["name"]: one["function"].get("parameters") or {"maxProperties": 0} for one in tools}
    arguments: dict[str, Any] = json.loads(call.function.arguments)
    jsonschema.validate(
        arguments, by_name[call.function.name], format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    return arguments


Answers = dict[str, Future[Any]]


@pytest.fixture(scope="module")
def named_calls(client: openai.OpenAI, model: str) -> Iterator[Answers]:
    """Each of VARIED asked for by its name, as many at a time as the engine takes."""

    def ask(one: Any) -> Any:
        chosen: Any = {"type": "function", "function": {"name": one["function"]["name"]}}
        offered = [TIME, one][one is TIME :]
        answer = client.chat.completions.create(
            model=model, messages=ASK, tools=offered, tool_choice=chosen, seed=3, max_tokens=200
        )
        return answer.choices[0]

    with ThreadPoolExecutor(MAX_NUM_SEQS) as pool:
        yield {one["function"]["name"]: pool.submit(ask, one) for one in VARIED}


@pytest.mark.parametrize("one", VARIED, ids=lambda one: one["function"]["name"])
def test_the_arguments_of_a_named_function_match_its_schema(named_calls: Answers, one: Any) -> None:
    choice = named_calls[one["function"]["name"]].result()
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls or ()
    assert call.id.startswith("call_")
    check(call, [one])


def test_a_required_call_is_of_one_of_the_tools(client: openai.OpenAI, model: str) -> None:
    for seed in range(2):
        answer = client.chat.completions.create(
            model=model,
            messages=ASK,
            tools=SOME,
            tool_choice="required",
            parallel_tool_calls=False,
            seed=seed,
            max_tokens=200,
        )
        (call,) = answer.choices[0].message.tool_calls or ()
        check(call, SOME)


def streamed(client: openai.OpenAI, **fields: Any) -> tuple[list[Any], dict[int, list[Any]]]:
    """The chunks of choice 0, and its deltas of calls by their index."""
    chunks = [one for one in client.chat.completions.create(stream=True, **fields) if one.choices]
    deltas: dict[int, list[Any]] = {}
    for chunk in chunks:
        for one in chunk.choices[0].delta.tool_calls or ():
            deltas.setdefault(one.index, []).append(one)
    return chunks, deltas


def test_a_stream_has_the_calls_of_the_whole_answer_as_they_are_written(client: openai.OpenAI, model: str) -> None:
    fields: dict[str, Any] = {
        "model": model,
        "messages": ASK,
        "tools": [WEATHER, TIME],
        "tool_choice": "required",
        "temperature": 0,
        "max_tokens": 40,
    }
    read(client, fields)
    whole = client.chat.completions.create(**fields).choices[0]
    chunks, deltas = streamed(client, **fields)
    assert whole.message.tool_calls and len(whole.message.tool_calls) == len(deltas)
    for number, call in enumerate(whole.message.tool_calls):
        first, *rest = deltas[number]
        assert (first.function.name, first.type) == (call.function.name, "function")
        assert first.id and all(one.id is None for one in rest)
        assert "".join(one.function.arguments for one in deltas[number]) == call.function.arguments
    assert len(deltas[0]) > 3, "arguments come piece by piece"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason


def read(client: openai.OpenAI, fields: dict[str, Any]) -> None:
    """The engine has this prompt in its cache from now on: all who ask next have it from there, and greedy answers
    are computed alike, to the last bit.
    """
    client.chat.completions.create(**{**fields, "max_tokens": 1})


def test_several_calls_may_come_and_each_is_whole(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=ASK, tools=[TIME], tool_choice="required", seed=1, max_tokens=CALL_TOKENS
    )
    calls, finish = answer.choices[0].message.tool_calls or [], answer.choices[0].finish_reason
    assert len({call.id for call in calls}) == len(calls)
    assert finish in ("tool_calls", "length"), "it may go on up to the greatest number of calls"
    whole = calls if finish == "tool_calls" else calls[:-1]
    assert whole
    for call in whole:
        check(call, [TIME])


def test_a_whole_loop_from_call_to_result_to_answer(client: openai.OpenAI, model: str) -> None:
    messages = list(ASK)
    first = client.chat.completions.create(
        model=model,
        messages=messages,
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=CALL_TOKENS,
    )
    said = first.choices[0].message
    messages.append(said)
    results = [{"role": "tool", "tool_call_id": call.id, "content": "Sunny."} for call in said.tool_calls or ()]
    messages += results
    last = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER], temperature=0, max_tokens=24)
    assert last.choices[0].finish_reason in ("stop", "length", "tool_calls")
    assert last.usage is not None and 1 <= last.usage.completion_tokens <= 24
    silent = client.chat.completions.create(
        model=model,
        messages=messages,
        tools=[WEATHER],
        tool_choice="none",
        max_tokens=16,
        extra_body={"min_tokens": 16},
    )
    assert silent.choices[0].message.content
    assert silent.choices[0].message.tool_calls is None


def test_a_model_that_is_free_to_answer_answers_as_it_likes(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Say hello."}], tools=[WEATHER], temperature=0, max_tokens=24
    )
    choice = answer.choices[0]
    assert choice.finish_reason in ("stop", "length", "tool_calls")
    assert choice.message.content or choice.message.tool_calls


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_has_seen_calls_makes_one_of_its_own_accord(
    client: openai.OpenAI, model: str, stream: bool
) -> None:
    """Nothing forces it: a conversation full of calls does. From its first sign on, the grammar holds."""
    messages: list[Any] = []
    for number, city in enumerate(("Rome", "Oslo", "Bern", "Kyiv")):
        arguments = json.dumps({"city": city, "unit": "celsius"})
        call = {"id": f"call_{number}", "type": "function", "function": {"name": "weather", "arguments": arguments}}
        messages += [
            {"role": "user", "content": f"What is the weather in {city}?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "Sunny."},
            {"role": "assistant", "content": f"It is sunny in {city}."},
        ]
    messages.append({"role": "user", "content": "What is the weather in Paris?"})
    fields: dict[str, Any] = {"model": model, "messages": messages, "tools": [WEATHER], "tool_choice": "auto"}
    fields |= {"temperature": 0, "max_tokens": CALL_TOKENS, "parallel_tool_calls": False}
    if stream:
        chunks, deltas = streamed(client, **fields)
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        assert deltas[0][0].function.name == "weather"
        jsonschema.validate(
            json.loads("".join(one.function.arguments for one in deltas[0])), WEATHER["function"]["parameters"]
        )
    else:
        choice = client.chat.completions.create(**fields).choices[0]
        assert choice.finish_reason == "tool_calls"
        check((choice.message.tool_calls or [None])[0], [WEATHER])


def test_choices_have_calls_of_their_own_and_tokens_are_counted(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model,
        messages=ASK,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        n=2,
        seed=5,
        logprobs=True,
        max_tokens=CALL_TOKENS,
    )
    calls = [(one.message.tool_calls or [])[0] for one in answer.choices]
    assert len({call.id for call in calls}) == 2
    for call in calls:
        check(call, [WEATHER])
    entries = sum(len((one.logprobs and one.logprobs.content) or []) for one in answer.choices)
    assert answer.usage is not None and answer.usage.completion_tokens == entries


def test_an_answer_that_was_cut_within_a_call_says_so(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=ASK, tools=[WEATHER], tool_choice="required", temperature=0, max_tokens=12
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 12


def test_a_strict_tool_whose_schema_no_grammar_can_keep_is_refused_and_another_is_served(
    client: openai.OpenAI, model: str
) -> None:
    odd = tool("odd", {"of": {"type": "array", "items": BOUNDED, "uniqueItems": True, "maxItems": 3}}, "of")
    fields: dict[str, Any] = {"model": model, "messages": ASK, "tool_choice": "required", "max_tokens": 60}
    served = client.chat.completions.create(tools=[odd], parallel_tool_calls=False, **fields)
    assert served.choices[0].message.tool_calls
    strict = {**odd, "function": {**odd["function"], "strict": True}}
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        client.chat.completions.create(tools=[strict], **fields)


def test_a_direct_client_of_triton_gets_the_same_call(client: openai.OpenAI, model: str, direct: DirectTriton) -> None:
    body = {
        "messages": ASK,
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "temperature": 0,
        "max_tokens": CALL_TOKENS,
    }
    read(client, {"model": model, **body})
    deltas = [one["choice"]["delta"] for one in direct.deltas(body)]
    pieces = [call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", ())]
    answer = client.chat.completions.create(model=model, **body)  # type: ignore[call-overload]
    assert "".join(pieces) == answer.choices[0].message.tool_calls[0].function.arguments
